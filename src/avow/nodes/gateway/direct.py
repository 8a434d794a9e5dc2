"""Whole answers without a task: the node's word is written to the client where it arrives.

Rules:
1. A request is answered here when it is small and soon here, asks for one whole answer that need not wait for its settlement, and there
   is nothing wrong with it. Every other takes the way through ASGI, with the same acceptance and the same bytes (inference.py).
2. A client that hangs up, or a deadline that passes, cancels the node's job.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from avow.errors import AvowError
from avow.nodes.errors import DeadlineExceeded
from avow.nodes.gateway.directory import Link
from avow.nodes.gateway.envelope import error_body
from avow.nodes.gateway.errors import ClientGone
from avow.nodes.gateway.http import Watches, error_headers
from avow.nodes.gateway.inference import Accepted, Inference
from avow.nodes.gateway.protocol import HeaderList, LimitedProtocol, whole_answer
from avow.nodes.jobs import Answer

log = logging.getLogger("avow.gateway")


class HostCheck(Protocol):
    """Whether the Host header among these names this gateway."""

    def __call__(self, headers: HeaderList) -> bool: ...


class Direct:
    """Rule 1. What the protocol asks first."""

    def __init__(self, inference: Inference, allowed: HostCheck, deadline_ms: int) -> None:
        self.inference = inference
        self.deadline_s = deadline_ms / 1000
        self.watches = Watches()
        self.loop = asyncio.get_running_loop()
        self._allowed = allowed
        self._tasks: set[asyncio.Task[None]] = set()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what takes its time beside the exchanges."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def __call__(self, protocol: LimitedProtocol, body: bytes) -> "Exchange | None":
        """The answer under way, or None where the request is not for here."""
        headers, parser = protocol.headers, protocol.parser
        if parser is None or not self._allowed(headers):
            return None
        try:
            accepted = self.inference.accept_chat(headers, body)
            if accepted.job.stream or accepted.options.finality == "settled":
                return None
            node = accepted.route.link.__enter__()
        except AvowError:
            return None  # on the other way it fails again, and there it is told
        exchange = Exchange(self, protocol, accepted, keep_alive=parser.should_keep_alive())
        try:
            exchange.cancel = node.begin(accepted.job, exchange.done)
        except AvowError as error:
            exchange.done(error)
        return exchange


def _nothing() -> None:
    """Cancels what has not begun."""


class Exchange:
    """One request and its answer; to uvicorn it looks like one of its cycles."""

    __slots__ = (
        "_accepted",
        "_direct",
        "_link",
        "_protocol",
        "_timer",
        "cancel",
        "disconnected",
        "keep_alive",
        "message_event",
        "response_complete",
        "since",
    )

    def __init__(self, direct: Direct, protocol: LimitedProtocol, accepted: Accepted, *, keep_alive: bool) -> None:
        self._direct = direct
        self._protocol = protocol
        self._accepted = accepted
        self._link: Link = accepted.route.link
        self._timer: asyncio.TimerHandle | None = None
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False
        self.message_event = _EVENT
        self.cancel: Callable[[], object] = _nothing
        self.since = direct.loop.time()
        direct.watches.enter(self)

    def done(self, outcome: Answer | AvowError) -> None:
        """The node's word."""
        if self.response_complete:
            return
        inference = self._direct.inference
        if isinstance(outcome, AvowError) and inference.is_uncovered(self._accepted, outcome):
            self._direct.later(self._again())
            return
        self._told(outcome)

    async def _again(self) -> None:
        """The node refused the gateway as payer: its word once that is looked after."""
        task = asyncio.current_task()
        if task is not None and not self.response_complete:
            self.cancel = task.cancel
            try:
                outcome: Answer | AvowError = await self._direct.inference.ask_again(self._accepted)
            except AvowError as error:
                outcome = error
            if not self.response_complete:
                self._told(outcome)

    def _told(self, outcome: Answer | AvowError) -> None:
        inference = self._direct.inference
        try:
            if isinstance(outcome, AvowError):
                raise outcome
            inference.delivered(outcome)
            headers, body = inference.whole(self._accepted, outcome, outcome.receipt)
        except AvowError as error:
            self._fail(error)
        except Exception:  # the outermost frame of this answer: what calls it carries the others' too
            log.exception("an answer could not be told")
            self._fail(AvowError("an internal error"))
        else:
            self._end(200, headers, body)

    def lost(self) -> None:
        """The client has gone."""
        if not self.response_complete:
            self.cancel()
            self._direct.inference.failed(ClientGone())
            self._over(ClientGone.http_status)

    def start(self, now: float) -> None:
        """The request is no longer young (http.Watches)."""
        left = self._direct.deadline_s - (now - self.since)
        self._timer = self._direct.loop.call_later(max(left, 0.0), self._late)

    def _late(self) -> None:
        self.cancel()
        self._fail(DeadlineExceeded(f"no answer within {self._direct.deadline_s:g} s"))

    def _fail(self, error: AvowError) -> None:
        self._direct.inference.failed(error)
        self._end(error.http_status, error_headers(error), error_body(error))

    def _end(self, status: int, headers: HeaderList, body: bytes) -> None:
        protocol = self._protocol
        self._over(status)
        protocol.transport.write(
            whole_answer(status, protocol.server_state.default_headers, headers, body, keep_alive=self.keep_alive)
        )
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()

    def _over(self, status: int) -> None:
        direct = self._direct
        self.response_complete = True
        direct.watches.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        self._link.__exit__(None, None, None)
        direct.inference.count(self._accepted.call, status)


class _NoEvent:
    """uvicorn wakes its cycles by an event; an exchange sleeps nowhere."""

    def set(self) -> None:
        pass


_EVENT = _NoEvent()
