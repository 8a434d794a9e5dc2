"""The accepting side of the wire: questions are answered, jobs are started, and what is open on a lost connection is cancelled."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from avow.errors import AvowError, InputError
from avow.nodes import wire
from avow.nodes.errors import Busy, Cancelled
from avow.nodes.wire import Connection, Kind

log = logging.getLogger(__name__)

MAX_OPEN = 4_096
"""Jobs and questions that one connection may have open."""


class Question(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """`args` is MessagePack of what the operation takes."""

    operation: str
    args: bytes = b""


_question = msgspec.msgpack.Decoder(Question).decode


class Handle(Protocol):
    """A job under way."""

    def cancel(self, cause: AvowError | None = None) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Port:
    """Where one job's events go: a call on a connection, as long as both last. Any thread may send."""

    __slots__ = ("_call", "_connection", "_jobs", "over")

    def __init__(self, connection: Connection, call: int, jobs: dict[int, Handle]) -> None:
        self._connection = connection
        self._call = call
        self._jobs = jobs
        self.over = False

    def send(self, kind: Kind, payload: bytes) -> None:
        """An event that is not the last."""
        self._connection.send(kind, self._call, payload)

    def finish(self, payload: bytes) -> None:
        self.over = True
        self._jobs.pop(self._call, None)
        self._connection.send(Kind.END, self._call, payload)

    def fail(self, error: AvowError) -> None:
        self.over = True
        self._jobs.pop(self._call, None)
        self._connection.fail(self._call, error)


Answerer = Callable[[bytes], Awaitable[bytes]]


class Service:
    """Serves one address. `start` begins a job (it may raise at once), `questions` by name, `note` takes notices."""

    def __init__(
        self,
        start: Callable[[Port, bytes], Handle],
        questions: Mapping[str, Answerer],
        note: Callable[[bytes], None] | None = None,
    ) -> None:
        self._start = start
        self._questions = questions
        self._note = note
        self._connections: dict[Connection, dict[int, Handle]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, address: str) -> None:
        self._server = await wire.serve(address, self._make)

    @property
    def open_jobs(self) -> int:
        return sum(len(jobs) for jobs in self._connections.values())

    async def close(self) -> None:
        """Stop accepting, cancel what is open, and end the connections."""
        if self._server is not None:
            self._server.close()
        for connection, jobs in list(self._connections.items()):
            _cancel_all(jobs)
            connection.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _make(self) -> Connection:
        connection = Connection(self._frame, accepting=True)
        jobs: dict[int, Handle] = {}
        self._connections[connection] = jobs
        connection.on_lost = self._lost
        connection.on_pressure = lambda full: _press(jobs, full)
        return connection

    def _lost(self, connection: Connection) -> None:
        _cancel_all(self._connections.pop(connection, {}))

    def _frame(self, connection: Connection, kind: Kind, call: int, payload: bytes) -> None:
        jobs = self._connections.get(connection)
        if jobs is None:
            return
        if kind is Kind.JOB:
            self._job(connection, call, payload, jobs)
        elif kind is Kind.ASK:
            task = asyncio.get_running_loop().create_task(self._answer(connection, call, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind is Kind.NOTE:
            if self._note is not None:
                self._note(payload)
        elif (handle := jobs.get(call)) is not None:
            if kind is Kind.CANCEL:
                handle.cancel()
            elif kind is Kind.PAUSE:
                handle.pause()
            else:
                handle.resume()

    def _job(self, connection: Connection, call: int, payload: bytes, jobs: dict[int, Handle]) -> None:
        if call in jobs or len(jobs) >= MAX_OPEN:
            connection.fail(call, Busy("too many jobs on one connection", limit=MAX_OPEN))
            return
        port = Port(connection, call, jobs)
        try:
            handle = self._start(port, payload)
        except AvowError as error:
            port.fail(error)
        else:
            jobs[call] = handle
            if port.over:  # perhaps since a moment ago, by another thread
                jobs.pop(call, None)

    async def _answer(self, connection: Connection, call: int, payload: bytes) -> None:
        try:
            try:
                question = _question(payload)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError("not a question") from error
            answerer = self._questions.get(question.operation)
            if answerer is None:
                raise InputError("an operation that is not known here", operation=question.operation[:64])
            connection.send(Kind.REPLY, call, await answerer(question.args))
        except AvowError as error:
            connection.fail(call, error)
        except Exception:
            log.exception("a question could not be answered")
            connection.fail(call, AvowError("an internal error"))


def _cancel_all(jobs: dict[int, Handle]) -> None:
    handles = list(jobs.values())
    jobs.clear()
    for handle in handles:
        handle.cancel(Cancelled("the connection was lost"))


def _press(jobs: dict[int, Handle], full: bool) -> None:
    for handle in list(jobs.values()):
        if full:
            handle.pause()
        else:
            handle.resume()


def ask_payload(operation: str, args: object = None) -> bytes:
    """A question as it travels."""
    return wire.encode(Question(operation, b"" if args is None else wire.encode(args)))
