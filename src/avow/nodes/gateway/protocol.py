"""HTTP/1.1 by uvicorn and httptools, with the limits that a server open to strangers needs.

uvicorn bounds neither the header section nor the time that a head may take to arrive; here both are.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from avow.errors import AvowError
from avow.nodes.gateway.envelope import error_body
from avow.nodes.gateway.errors import HeadersTooLarge, MalformedRequest

HEAD_TIMEOUT_S = 20.0
"""How long a request's head may take, from the connection or its own first byte on."""
MAX_HEADERS = 128


class LimitedProtocol(HttpToolsProtocol):
    """A connection that is closed when its heads are too large, too many or too slow."""

    header_limit = 32 * 1024

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._refusal: AvowError | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._start_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.header_limit or len(self.headers) >= MAX_HEADERS:
            self._refusal = HeadersTooLarge(limit=self.header_limit)
            raise self._refusal

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (ours is more exact)
        """Refuse what is not HTTP, or too much of it, in the envelope, and close."""
        error = self._refusal or MalformedRequest("this is not an HTTP/1.1 request")
        body = error_body(error)
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.http_status] + head + body)
        self.transport.close()
