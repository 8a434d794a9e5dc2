"""HTTP/1.1 by uvicorn and httptools, with the limits that a server open to strangers needs.

uvicorn bounds neither the header section nor the time that a head may take to arrive; here both are. What it does with timers and
separate writes for every answer is done here once: a head that is whole at once needs no timer, and one timer per connection
watches for idleness.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from avow.errors import AvowError
from avow.nodes.gateway.envelope import error_body
from avow.nodes.gateway.errors import HeadersTooLarge, MalformedRequest

log = logging.getLogger("avow.gateway")

HEAD_TIMEOUT_S = 20.0
"""How long a request's head may take, from the connection or its own first byte on."""
MAX_HEADERS = 128
HOLD_S = 1.0
HOLD_BYTES = 256 * 1024
"""How long, and up to what size, a body that comes in pieces is waited for here."""


HeaderList = Sequence[tuple[bytes, bytes]]
DIRECT_URL = b"/v1/chat/completions"


class Exchange(Protocol):
    """A request that is answered without ASGI; it stands where uvicorn has its cycle."""

    response_complete: bool

    def lost(self) -> None:
        """The client has gone."""


class LimitedProtocol(HttpToolsProtocol):
    """A connection that is closed when its heads are too large, too many or too slow, or when it is idle for too long."""

    header_limit = 32 * 1024
    direct: Callable[["LimitedProtocol", bytes], Exchange | None] | None = None
    """Is given a chat completion that is here whole, and its body; None gives it to ASGI after all."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._refusal: AvowError | None = None
        self._in_head = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._held: list[bytes] | None = None
        """The body of a request that may be answered directly, as far as it has come."""
        self._held_bytes = 0
        self._held_timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._release()
        if self._exchange is not None:
            self._exchange.lost()
            self._exchange = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held is not None and self._held_timer is None:  # the rest is still to come
            self._held_timer = self.loop.call_later(HOLD_S, self._to_asgi)
        if self._in_head:
            self._start_timer()

    def on_message_begin(self) -> None:
        """The scope is made when it is needed."""
        self._head_bytes = 0
        self._in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        if self.direct is not None and self.url == DIRECT_URL and self._takes_direct():
            self._held, self._held_bytes = [], 0
        else:
            self._begin_cycle()

    def _takes_direct(self) -> bool:
        """Whether nothing stands before an answer, and nothing unusual is asked of HTTP."""
        parser, limit = self.parser, self.limit_concurrency
        return (
            parser is not None
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (limit is None or len(self.connections) < limit)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    def _begin_cycle(self) -> None:
        """What uvicorn does, for the head that is complete."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the scope holds this very list
        super().on_headers_complete()

    def _release(self) -> list[bytes]:
        """Hold nothing any more; what was held."""
        held, self._held = self._held or [], None
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        return held

    def _to_asgi(self) -> None:
        held = self._release()
        self._begin_cycle()
        for piece in held:
            super().on_body(piece)

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)
            self._held_bytes += len(body)
            if self._held_bytes > HOLD_BYTES:
                self._to_asgi()

    def on_message_complete(self) -> None:
        if self._held is not None and self.direct is not None:
            try:
                exchange = self.direct(self, b"".join(self._held))
            except Exception:  # the parser would make a malformed request of it
                log.exception("a request could not be taken")
                exchange = None
            if exchange is not None:
                self._release()
                if not exchange.response_complete:
                    self._exchange = exchange
                    self.cycle = exchange  # type: ignore[assignment]
                return
            self._to_asgi()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """uvicorn's, but for its timer."""
        self.server_state.total_requests += 1
        self._exchange = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, application = self.pipeline.pop()
            self._start_asgi_task(cycle, application)
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_idle)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _close_idle(self) -> None:
        """Close if nothing has come since the last answer; else come back when that could be so."""
        idle_s = 0.0 if self._idle_since is None else self.loop.time() - self._idle_since
        if idle_s >= self.timeout_keep_alive:
            self.timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive - idle_s, self._close_idle)

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


def whole_answer(
    status: int, default_headers: HeaderList, headers: HeaderList, body: bytes, *, keep_alive: bool
) -> bytes:
    """The bytes of a whole answer. `headers` hold no content-length, and nothing that comes from outside unchecked."""
    content = [STATUS_LINE.get(status) or STATUS_LINE[502]]
    for name, value in default_headers:
        content += (name, b": ", value, b"\r\n")
    for name, value in headers:
        content += (name, b": ", value, b"\r\n")
    if not keep_alive:
        content.append(b"connection: close\r\n")
    content += (b"content-length: %d\r\n\r\n" % len(body), body)
    return b"".join(content)


def write_whole(cycle: RequestResponseCycle, status: int, headers: HeaderList, body: bytes) -> bool:
    """A whole answer in one write; `headers` as `whole_answer` has them.

    False, and nothing done, where uvicorn's own way is needed: the client reads slowly or has gone, or asked without a body.
    """
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or cycle.scope["method"] == "HEAD":
        return False
    content = whole_answer(status, cycle.default_headers, headers, body, keep_alive=cycle.keep_alive)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(content)
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
