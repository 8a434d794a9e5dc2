"""What a gateway talks to a node with: one connection, many jobs at once."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial

from avow.errors import AvowError
from avow.nodes import wire
from avow.nodes.calls import Caller, EventQueue
from avow.nodes.jobs import Answer, Begin, Chunks, Head, Job, NodeDescription, NodeStatus
from avow.nodes.service import ask_payload
from avow.nodes.wire import Kind

Event = Begin | Chunks | Head | Answer

_EVENTS: dict[Kind, type[Event]] = {Kind.BEGIN: Begin, Kind.CHUNKS: Chunks, Kind.HEAD: Head, Kind.END: Answer}
_MARGIN_S = 5.0
"""How much longer than the node itself a caller waits for the node's word."""


class NodeClient(Caller):
    """Methods raise what the node reports, with its code and HTTP status, or ConnectionLost."""

    async def describe(self) -> NodeDescription:
        return wire.decode(await self.ask(ask_payload("describe")), NodeDescription)

    async def status(self) -> NodeStatus:
        return wire.decode(await self.ask(ask_payload("status")), NodeStatus)

    async def infer(self, job: Job) -> Answer:
        """An answer in one piece. Being cancelled cancels the job."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(outcome: Answer | AvowError) -> None:
            if future.done():
                return
            if isinstance(outcome, AvowError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        cancel = self.begin(job, done)
        try:
            return await future
        except asyncio.CancelledError:
            cancel()
            raise

    def begin(self, job: Job, done: Callable[[Answer | AvowError], None]) -> Callable[[], None]:
        """The same without a task: `done` is called once with the answer or the error; what is returned cancels the job."""

        def event(kind: Kind, payload: bytes) -> None:
            if kind is Kind.END:
                try:
                    outcome: Answer | AvowError = wire.decode(payload, Answer)
                except AvowError as error:
                    outcome = error
                done(outcome)
            elif kind is Kind.FAILED:
                done(wire.decode_failure(payload))

        call = self.open(Kind.JOB, wire.encode(job), event)
        return partial(self.control, call, Kind.CANCEL)

    async def stream(self, job: Job) -> AsyncGenerator[list[Event], None]:
        """Begin, then Chunks and Heads as they come, then the Answer whose receipt commits to all of it.

        What has arrived together is given together: a reader that passes events on does so with one write. Closing the
        generator early cancels the job; the node then finishes with a statement marked incomplete.
        """
        queue = EventQueue(self)
        queue.call = self.open(Kind.JOB, wire.encode(job), queue.put)
        over = False
        try:
            while not over:
                events: list[Event] = []
                failed = b""
                for kind, payload in await queue.get_all():
                    if kind is Kind.FAILED:
                        over, failed = True, payload
                    else:
                        over = kind is Kind.END
                        events.append(wire.decode(payload, _EVENTS[kind]))
                if events:
                    yield events
                if failed:
                    raise wire.decode_failure(failed)
        finally:
            if not over:
                self.control(queue.call, Kind.CANCEL)

    async def opening(self, id: bytes, asker: bytes | None) -> bytes:  # noqa: A002
        """What it takes to check an optimistic answer (openings.Shown), for who may; `asker`: entitlement.Asker as bytes."""
        return await self.ask(ask_payload("opening", (id, asker)))

    async def demand(self, id: bytes, asker: bytes | None, demand: bytes) -> bytes:  # noqa: A002
        """The answer to a demand about the trace of an optimistic answer (exact/descent.py)."""
        return await self.ask(ask_payload("demand", (id, asker, demand)))

    async def receipt(self, id: bytes, secret: bytes | None) -> bytes:  # noqa: A002
        """The receipt's CBOR, with its settlement once there is one: redacted, or wholly opened for its secret."""
        return await self.ask(ask_payload("receipt", (id, secret)))

    async def wait_settled(self, id: bytes, timeout_ms: int) -> bytes:  # noqa: A002
        """The redacted receipt with its settlement, as soon as there is one. Raises NotSettled's code after the time given."""
        payload = ask_payload("wait_settled", (id, timeout_ms))
        return await self.ask(payload, timeout_s=timeout_ms / 1000 + _MARGIN_S)
