"""The ABCI socket: CometBFT's four connections, served on one event loop.

Rules (CometBFT v0.40, abci/client/socket_client.go):
1. Each connection's requests are answered in their order. A flush is answered like any other request, and what was answered
   before it is sent with it.
2. The socket is private to its owner (mode 0600). A stale one is removed before listening: whoever makes this server holds the
   chain's lock.
3. A request that cannot be read, or an answer that fails, ends the connection and is told to `on_fault`: CometBFT would be
   left without a reply, and the application must not go on.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

from avow.consensus.cometbft.messages import Request, Response
from avow.consensus.cometbft.requests import decode_request
from avow.consensus.cometbft.responses import encode_response
from avow.consensus.cometbft.wire import Frames, frame

log = logging.getLogger(__name__)

_HIGH_WATER = 8 * 1024 * 1024


class AbciServer:
    """Serves `answer` on a Unix socket between `start` and `stop`."""

    def __init__(
        self,
        path: Path,
        answer: Callable[[Request], Response],
        *,
        on_fault: Callable[[Exception], None],
        on_connections: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_connections` is told how many connections there are whenever that changes."""
        self._path = path
        self._answer = answer
        self._on_fault = on_fault
        self._on_connections = on_connections
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        return len(self._open)

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), str(self._path))
        self._path.chmod(0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self._open):
                connection.close()
            await self._server.wait_closed()
            self._server = None
        self._path.unlink(missing_ok=True)

    # For connections.

    def opened(self, connection: "_Connection") -> None:
        self._open.add(connection)
        self._on_connections(len(self._open))

    def closed(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self._on_connections(len(self._open))

    def reply(self, data: bytes) -> bytes:
        """The answer to one message. Raises what reading or answering raises."""
        return frame(encode_response(self._answer(decode_request(data))))

    def fault(self, error: Exception) -> None:
        log.error("an ABCI request failed", exc_info=error)
        self._on_fault(error)


class _Connection(asyncio.Protocol):
    """Rule 1. Reading stops while CometBFT does not take its answers."""

    def __init__(self, server: AbciServer) -> None:
        self._server = server
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._server.closed(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        self._frames.feed(data)
        replies: list[bytes] = []
        try:
            while (message := self._frames.next()) is not None:
                replies.append(self._server.reply(message))
        except Exception as error:  # noqa: BLE001  # not hidden: rule 3
            transport.abort()
            self._server.fault(error)
            return
        if replies:
            transport.write(b"".join(replies))
