"""The connecting side of the wire: questions with one answer, and jobs with many events."""

import asyncio
from collections import deque
from collections.abc import Callable

from avow.errors import AvowError
from avow.nodes import wire
from avow.nodes.errors import ConnectionLost, WireError
from avow.nodes.wire import Connection, Kind

EventHandler = Callable[[Kind, bytes], None]
"""Gets each event of a job, in order; END or FAILED is the last. A lost connection is a FAILED."""

_LAST = (Kind.END, Kind.FAILED, Kind.REPLY)
_PAUSE_BYTES = 1 << 20
_RESUME_BYTES = 1 << 18


class Caller:
    """One connection and the calls that are open on it."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._open: dict[int, EventHandler] = {}
        self._last_call = 0
        self.on_lost: Callable[[], None] | None = None

    @property
    def closed(self) -> bool:
        return self._connection is None or self._connection.is_closed

    async def connect(self, address: str) -> None:
        """Raises ConnectionLost when nobody listens at `address`."""
        self._connection = await wire.connect(address, self._frame)
        self._connection.on_lost = self._lost

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            await self._connection.closed

    async def ask(self, payload: bytes, timeout_s: float | None = 30.0) -> bytes:
        """Put a question and await its reply. Raises what the peer reports, or ConnectionLost."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def event(kind: Kind, reply: bytes) -> None:
            if future.done():
                return
            if kind is Kind.REPLY:
                future.set_result(reply)
            else:
                future.set_exception(wire.decode_failure(reply) if kind is Kind.FAILED else _unexpected(kind))

        call = self.open(Kind.ASK, payload, event)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise ConnectionLost("the other process did not answer in time") from None
        finally:
            self._open.pop(call, None)

    def open(self, kind: Kind, payload: bytes, handler: EventHandler) -> int:
        """Start a call whose events go to `handler`. Raises ConnectionLost at once when there is no connection."""
        connection = self._connection
        if connection is None or connection.is_closed:
            raise ConnectionLost
        call = self._last_call = self._last_call % 0xFFFFFFFF + 1
        self._open[call] = handler
        connection.send(kind, call, payload)
        return call

    def note(self, payload: bytes) -> None:
        """Tell the peer something that has no answer."""
        if self._connection is not None:
            self._connection.send(Kind.NOTE, 0, payload)

    def control(self, call: int, kind: Kind) -> None:
        """CANCEL, PAUSE or RESUME an open call."""
        if call in self._open and self._connection is not None:
            self._connection.send(kind, call)

    def _frame(self, _connection: Connection, kind: Kind, call: int, payload: bytes) -> None:
        handler = self._open.pop(call, None) if kind in _LAST else self._open.get(call)
        if handler is not None:
            handler(kind, payload)

    def _lost(self, _connection: Connection) -> None:
        payload = wire.encode_failure(ConnectionLost("the other process went away"))
        handlers, self._open = self._open, {}
        for handler in handlers.values():
            handler(Kind.FAILED, payload)
        if self.on_lost is not None:
            self.on_lost()


def _unexpected(kind: Kind) -> WireError:
    return WireError("an event that does not belong to the call", kind=int(kind))


class EventQueue:
    """Events of one job between the connection and a reader that may be slow. Beyond 1 MiB the sender is paused."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._events: deque[tuple[Kind, bytes]] = deque()
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.call = 0

    def put(self, kind: Kind, payload: bytes) -> None:
        self._events.append((kind, payload))
        self._size += len(payload)
        if self._size > _PAUSE_BYTES and not self._paused:
            self._paused = True
            self._caller.control(self.call, Kind.PAUSE)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get_all(self) -> list[tuple[Kind, bytes]]:
        """Every event that has arrived, at least one."""
        events = [await self.get(), *self._events]
        self._events.clear()
        self._size = 0
        self._resume()
        return events

    async def get(self) -> tuple[Kind, bytes]:
        """The next event."""
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        kind, payload = self._events.popleft()
        self._size -= len(payload)
        self._resume()
        return kind, payload

    def _resume(self) -> None:
        if self._paused and self._size < _RESUME_BYTES:
            self._paused = False
            self._caller.control(self.call, Kind.RESUME)


def failure(payload: bytes) -> AvowError:
    """The error of a FAILED event."""
    return wire.decode_failure(payload)
