"""HTTP POST to one server over kept connections: what the engine sends CometBFT several times a block, so it costs little.

Rules:
1. A connection carries one request at a time, and is kept for the next when the server keeps it. Requests at once have a connection each.
2. The answer's body is all that is read, whatever its status; more than `max_answer` bytes end the connection before more is read.
3. Whatever goes wrong is RpcFailed. Nothing is sent twice.
"""

import asyncio
from typing import cast

import httptools

from avow.consensus.cometbft.errors import RpcFailed

KEPT = 4


class Posts:
    """`address`: "unix:///path" or "tcp://host:port"."""

    def __init__(self, address: str, *, timeout_s: float) -> None:
        kind, _, rest = address.partition("://")
        self._path = rest if kind == "unix" else None
        host, _, self._port = rest.rpartition(":")
        self._host = host.strip("[]")
        self._timeout_s = timeout_s
        name = "cometbft" if self._path else rest
        self._head = f"POST / HTTP/1.1\r\nHost: {name}\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        self._idle: list[_Connection] = []

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def post(self, body: bytes, max_answer: int) -> bytes:
        """The answer's body. Raises RpcFailed."""
        connection = None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = self._kept() or await self._open()
                answer = await connection.ask(self._head + b"%d\r\n\r\n" % len(body) + body, max_answer)
        except (OSError, httptools.HttpParserError) as error:  # TimeoutError is an OSError
            raise RpcFailed("CometBFT's RPC does not answer", reason=type(error).__name__) from error
        finally:
            if connection is not None and not self._keep(connection):
                connection.close()
        return answer

    def _kept(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _keep(self, connection: "_Connection") -> bool:
        if not connection.usable or len(self._idle) >= KEPT:
            return False
        self._idle.append(connection)
        return True

    async def _open(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        if self._path is not None:
            _, connection = await loop.create_unix_connection(_Connection, self._path)
        else:
            _, connection = await loop.create_connection(_Connection, self._host, int(self._port))
        return connection


class _Connection(asyncio.Protocol):
    """Rule 1. The parser calls the methods whose names begin with `on_`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[bytes] | None = None
        self._body = bytearray()
        self._max_answer = 0

    @property
    def usable(self) -> bool:
        """Whether it can carry a request now."""
        return self._transport is not None and not self._transport.is_closing() and self._answer is None

    async def ask(self, request: bytes, max_answer: int) -> bytes:
        """Raises OSError, HttpParserError, RpcFailed."""
        if self._transport is None:
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        self._body.clear()
        self._max_answer = max_answer
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(exc or ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)
            self.close()

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self._max_answer:
            self._fail(RpcFailed("CometBFT's answer is too large", limit=self._max_answer))
            self.close()

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(bytes(self._body))
        self._answer = None

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._answer = None
