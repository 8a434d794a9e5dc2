"""Bare ASGI: reading a body within its limit, answering, and knowing when the client has gone or time is up."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Literal, Protocol, Self

from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from avow.errors import AvowError, TooLarge
from avow.nodes.errors import DeadlineExceeded
from avow.nodes.gateway.envelope import error_body
from avow.nodes.gateway.errors import (
    ClientGone,
    MalformedRequest,
    RequestTimeout,
    UnsupportedMediaType,
)
from avow.nodes.gateway.protocol import HeaderList, write_whole

HANG_UP_GRACE_S = 0.05
"""Short answers are not watched for a hang-up: the watch costs more than what it could save."""

DISCARD_FACTOR = 4
DISCARD_TIMEOUT_S = 5.0
BODY_TIMEOUT_S = 60.0
"""How long a body that comes in pieces may take."""

_JSON_TYPES = (b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8")
JSON_HEADER = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")
NO_SNIFF = (b"x-content-type-options", b"nosniff")


async def read_json_body(headers: HeaderList, receive: Receive, limit: int) -> bytes:
    """The request's body, at most `limit` bytes. Raises TooLarge, UnsupportedMediaType, ClientGone.

    The media type must be JSON's: a browser sends that across origins only after asking, and nobody here grants it.
    """
    length, expects = check_body_headers(headers)
    if length > limit:
        if not expects:  # a client that asks first sends nothing when it is refused
            await _discard(receive, limit)
        raise TooLarge("the body is too large", size=length, limit=limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False) and len(message["body"]) <= limit:
        whole: bytes = message["body"]
        return whole
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read_pieces(message, receive, limit)
    except TimeoutError:
        raise RequestTimeout(f"the body was not here within {BODY_TIMEOUT_S:g} s") from None


def check_body_headers(headers: HeaderList) -> tuple[int, bool]:
    """The stated length of a body, and whether the client asks before it sends. Raises UnsupportedMediaType, MalformedRequest."""
    media_type = b""
    length = 0
    expects = False
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 15:
                raise MalformedRequest("content-length is not a number")
            length = int(value)
        elif name == b"content-type":
            media_type = value
        elif name == b"expect":
            expects = True
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("the body must not be compressed", param="content-encoding")
    if media_type not in _JSON_TYPES and media_type.lower() not in _JSON_TYPES:
        raise UnsupportedMediaType("the body must be application/json", param="content-type")
    return length, expects


async def _read_pieces(message: Message, receive: Receive, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            if message.get("more_body", False):
                await _discard(receive, limit)
            raise TooLarge("the body is too large", limit=limit)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)
        message = await receive()


async def _discard(receive: Receive, limit: int) -> None:
    """Read on for a while and keep nothing: a client that is cut off while it sends does not see why."""
    left = DISCARD_FACTOR * limit
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_TIMEOUT_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


async def respond_at_once(send: Send, status: int, body: bytes, headers: HeaderList) -> None:
    """`respond` in one write. `headers` are made here, not by anyone outside: they are not checked again."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not write_whole(cycle, status, headers, body):
        await respond(send, status, body, headers)


async def respond(send: Send, status: int, body: bytes, headers: HeaderList) -> None:
    """A whole answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: AvowError, headers: HeaderList = ()) -> None:
    """An error in its envelope."""
    await respond(send, error.http_status, error_body(error), [*error_headers(error), *headers])


def error_headers(error: AvowError) -> list[tuple[bytes, bytes]]:
    """An error's headers; a body that was not read to its end costs the connection."""
    extra: list[tuple[bytes, bytes]] = [JSON_HEADER, NO_STORE]
    if error.http_status in (429, 503):
        extra.append((b"retry-after", b"1"))
    if error.http_status in (408, 413, 431):
        extra.append((b"connection", b"close"))
    return extra


class Watched(Protocol):
    """What `Watches` looks after: `since` by loop time, and what to do when it is no longer young."""

    since: float

    def start(self, now: float) -> None: ...


class Watches:
    """The watches of one loop. One timer looks after all of them: nearly all answers are gone before it comes round."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._young: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, receive: Receive, deadline_s: float) -> "Watch":
        return Watch(self, self._loop, receive, deadline_s)

    def enter(self, watch: Watched) -> None:
        self._young.add(watch)
        if self._timer is None:
            self._timer = self._loop.call_later(HANG_UP_GRACE_S, self._look)

    def leave(self, watch: Watched) -> None:
        self._young.discard(watch)

    def _look(self) -> None:
        now = self._loop.time()
        for watch in [watch for watch in self._young if now - watch.since >= HANG_UP_GRACE_S]:
            self._young.discard(watch)
            watch.start(now)
        self._timer = self._loop.call_later(HANG_UP_GRACE_S, self._look) if self._young else None


class Watch:
    """Ends the work of the task that enters it when the client hangs up or the deadline passes.

    Leaving raises ClientGone or DeadlineExceeded in place of the cancellation that this caused; a cancellation from elsewhere
    passes through. The client is watched from about HANG_UP_GRACE_S on.
    """

    __slots__ = ("_cause", "_deadline_s", "_loop", "_receive", "_task", "_timer", "_waiter", "_watches", "since")

    def __init__(self, watches: Watches, loop: asyncio.AbstractEventLoop, receive: Receive, deadline_s: float) -> None:
        self._watches = watches
        self._loop = loop
        self._receive = receive
        self._deadline_s = deadline_s
        self._cause: Literal["gone", "late"] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Task[None] | None = None
        self.since = 0.0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a Watch is entered in a task")
        self._task = task
        self.since = self._loop.time()
        self._watches.enter(self)
        return self

    def start(self, now: float) -> None:
        """Watch the client from here on. `now`: loop time."""
        left = self._deadline_s - (now - self.since)
        if left <= 0:
            self._end("late")
            return
        self._waiter = self._loop.create_task(self._wait())
        self._timer = self._loop.call_later(left, self._end, "late")

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end("gone")

    def _end(self, cause: Literal["gone", "late"]) -> None:
        if self._cause is None:
            self._cause = cause
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watches.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None:
            self._waiter.cancel()
        if self._cause is None:
            self._cause = "late"  # nothing may cancel the task from here on
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._task.uncancel()
            if self._cause == "gone":
                raise ClientGone from None
            raise DeadlineExceeded(f"no answer within {self._deadline_s:g} s") from None
