"""One job from queue to signed statement; `runner` has the rules and owns the threads."""

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import msgspec

from avow.engines.interface import KeepingEngine, Kept
from avow.errors import AvowError, InputError
from avow.exact.hashing import trace_of
from avow.nodes.errors import Cancelled, EngineFailure, NotTraced
from avow.nodes.jobs import Begin, Chunks, Head, Job, Result, Terms
from avow.nodes.keeping import Keeping
from avow.nodes.loaded import Loaded, Traced
from avow.nodes.outcome import Outcome, outcome_of, usage_of
from avow.nodes.prepared import Prepared, prepare
from avow.nodes.remains import Room
from avow.nodes.signer import Charge, Signer
from avow.nodes.splice import PrivateEncoder
from avow.receipt.statement import TERMS_PAYER_OPENS, Method, StreamEnd
from avow.receipt.stream import Assembly, ChunkMAC, stream_next, stream_start

log = logging.getLogger(__name__)

HEAD_INTERVAL_S = 0.1
"""Longest time without a signed head in a stream that carries no MACs (stream.py, rule 3)."""
HEAD_INTERVAL_WITH_MACS_S = 1.0
STOP_GRACE_S = 5.0
"""How long a cancelled stream waits for its engine before it ends without a statement."""

_json = msgspec.json.Encoder().encode


class Sink(Protocol):
    """Where a run's events go; called on the event loop."""

    def begin(self, begin: Begin) -> None: ...
    def chunks(self, chunks: Chunks) -> None: ...
    def head(self, head: Head) -> None: ...
    def end(self, result: Result) -> None: ...
    def failed(self, error: AvowError) -> None: ...


_Ready = tuple[bytes, bytes | None, bytes]
"""A chunk on its way to the loop: its bytes, its tag, and the head that it leads to."""


class Run:
    """One job. `work` is the worker's side; everything that touches the sink runs on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        loaded: Loaded,
        encoder: PrivateEncoder,
        signer: Signer,
        job: Job,
        terms: Terms,
        sink: Sink,
        keeping: Keeping | None = None,
    ) -> None:
        self.job = job
        self._keeping = keeping
        self._room: Room | None = None
        self._loop = loop
        self._loaded = loaded
        self._encoder = encoder
        self._signer = signer
        self._terms = terms
        self._sink = sink
        self._seed = job.seed or os.urandom(32)
        self._cause: AvowError | None = None
        self._paused: threading.Event | None = None
        self._ready: deque[_Ready] = deque()
        self._scheduled = False
        self._mac: ChunkMAC | None = None
        self._made = 0
        self._assembly = Assembly()
        self._head = b""
        self._prepared: Prepared | None = None
        self._sent = 0
        self._sent_head = b""
        self._signed_count = 0
        self._signed_at = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._deadline = loop.time() + job.deadline_ms / 1000
        self._stop_timer: asyncio.TimerHandle | None = None
        self.over = False
        self.handing_over = False
        """Whether the worker signs and hands over the answer itself (runner.py, rule 2)."""

    # The loop's side.

    def overdue(self, now: float) -> bool:
        """Whether the deadline has passed, at loop time `now`."""
        return now >= self._deadline

    def cancel(self, cause: AvowError | None = None) -> None:
        """Stop at the engine's next chunk. An answer in one piece fails at once; a stream ends with what it delivered."""
        if self._cause is not None or self.over:
            return
        self._cause = cause or Cancelled()
        self.resume()
        if self.job.stream:
            self._stop_timer = self._loop.call_later(STOP_GRACE_S, self._fail, self._cause)
        else:
            self._fail(self._cause)

    def abandon(self) -> None:
        """Fail a job that no worker has taken up."""
        self._cause = self._cause or Cancelled("the node is stopping")
        self._fail(self._cause)

    def pause(self) -> None:
        """Hold the engine at its next chunk until `resume`: the reader is slower than the engine."""
        if self._cause is None and self._paused is None:
            self._paused = threading.Event()

    def resume(self) -> None:
        if self._paused is not None:
            self._paused.set()
            self._paused = None

    def _begin(self, begin: Begin) -> None:
        if not self.over:
            self._sink.begin(begin)

    def _flush(self) -> None:
        """Hand over all chunks that are ready, and sign a head when one is due."""
        self._scheduled = False  # before draining: a chunk that comes later schedules the next flush
        ready = self._ready
        data: list[bytes] = []
        macs: list[bytes] = []
        while ready:
            chunk, mac, self._sent_head = ready.popleft()
            data.append(chunk)
            if mac is not None:
                macs.append(mac)
        if not data or self.over:
            return
        self._sent += len(data)
        self._sink.chunks(Chunks(data, macs))
        interval = HEAD_INTERVAL_S if self._mac is None else HEAD_INTERVAL_WITH_MACS_S
        now = self._loop.time()
        if self._signed_count == 0 or now - self._signed_at >= interval:
            self._sign_head()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._signed_at + interval - now, self._sign_late)

    def _sign_late(self) -> None:
        self._head_timer = None
        if not self.over and self._sent > self._signed_count:
            self._sign_head()

    def _sign_head(self) -> None:
        prepared = self._prepared
        assert prepared is not None
        self._signed_at = self._loop.time()
        self._signed_count = self._sent
        signature = self._signer.sign_stream_head(
            prepared.request_commitment, prepared.effective_commitment, self._sent, self._sent_head
        )
        self._sink.head(Head(signature, self._sent))

    def _fail(self, error: AvowError) -> None:
        with self._signer.lock:
            if self.over:
                return
            self._close()
        self._sink.failed(error)
        self._signer.catch_up()

    def _finish(self, outcome: Outcome) -> None:
        """Sign and hand over the result."""
        self._flush()
        signer = self._signer
        if self.handing_over:  # here, or in the thread that is signing just now: no worker waits to sign
            signer.finishing.append(partial(self._end, outcome))
        else:
            with signer.lock:
                self._end(outcome)
        signer.catch_up()

    def _end(self, outcome: Outcome) -> None:
        if not self.over:
            self._close()
            self._sign(outcome)

    def _sign(self, outcome: Outcome) -> None:
        prepared, job = self._prepared, self.job
        assert prepared is not None
        signer = self._signer
        private = self._encoder.encode(
            request=prepared.request_commitment,
            effective=prepared.effective_commitment,
            response=outcome.response_commitment,
            nonce=job.nonce,
            nonce_source=job.nonce_source,
            requester=job.requester,
            authorised=prepared.consent is not None,
            started_ms=prepared.started_ms,
            usage=outcome.usage,
            stream=outcome.stream,
            complete=outcome.complete,
            audience=prepared.audience,
        )
        amount = outcome.units * int.from_bytes(self._terms.per_unit)
        if prepared.consent is not None:  # what is beyond it would not settle, and be this node's fault
            amount = min(amount, prepared.consent.most)
        ended_ms = max(prepared.started_ms, time.time_ns() // 1_000_000)
        charge = Charge(job.program, job.payer, outcome.units, amount, self._terms.price_version, ended_ms)
        if outcome.header:
            terms = TERMS_PAYER_OPENS if job.payer_opens else 0
            charge = replace(charge, trace=trace_of(outcome.header), terms=terms)
        signed = signer.sign(charge, private)
        result = Result(
            signed,
            outcome.body,
            self._seed,
            prepared.effective_json,
            outcome.sealed,
            outcome.complete,
            dict(outcome.usage),
            outcome.header,
        )
        self._sink.end(result)

    def _close(self) -> None:
        self.over = True
        for timer in (self._head_timer, self._stop_timer):
            if timer is not None:
                timer.cancel()

    # The worker's side.

    def work(self) -> "partial[Any]":
        """Run the job. Whatever happens, what is returned schedules exactly one of `_finish` and `_fail`; to be called once."""
        try:
            self._check_cancelled()
            self._prepared = prepared = prepare(self.job, self._loaded, self._signer, self._seed)
            if self._keeping is not None and isinstance(self._loaded.engine, KeepingEngine):
                self._room = self._keeping.admit(self._loaded.engine, prepared.request, prepared.effective)
            outcome = self._stream(prepared) if self.job.stream else self._whole(prepared)
        except AvowError as error:
            return partial(self._loop.call_soon_threadsafe, self._fail, error)
        except Exception as error:  # the thread's outermost frame: reported here and to the caller, never lost
            log.exception("the engine of %s failed", self._loaded.name)
            failure = EngineFailure(f"the engine failed with {type(error).__name__}")
            return partial(self._loop.call_soon_threadsafe, self._fail, failure)
        finally:
            if self._room is not None:
                self._room.give_back()
        if self.handing_over:
            return partial(self._finish, outcome)
        return partial(self._loop.call_soon_threadsafe, self._finish, outcome)

    def _check_cancelled(self) -> None:
        if self._cause is not None:
            raise self._cause

    def _whole(self, prepared: Prepared) -> Outcome:
        """An answer in one piece."""
        answer, header = self._answer(prepared, self._is_cancelled)
        self._check_cancelled()
        usage, units = usage_of(self._loaded.kind, answer)
        return outcome_of(
            self.job, self._seed, prepared, answer, header, usage=usage, units=units, stream=None, complete=True
        )

    def _answer(
        self, prepared: Prepared, emit: Callable[[dict[str, Any]], bool | None]
    ) -> tuple[dict[str, Any], bytes]:
        """The engine's answer, and for optimistic the header of its trace."""
        engine, chat = self._loaded.engine, self._loaded.kind == "chat"
        if self._signer.method is not Method.OPTIMISTIC:
            answer = engine.chat(prepared.request, prepared.effective, emit) if chat else engine.infer(prepared.request)
            return answer, b""
        if not isinstance(engine, Traced):
            raise NotTraced("only exact programs can be checked by running them again", program=self._loaded.name)
        if chat:
            answer, trace = engine.traced_chat(prepared.request, prepared.effective, self._seed, emit)
        else:
            answer, trace = engine.traced_infer(prepared.request, self._seed)
        if self._room is not None and isinstance(trace, Kept):
            self._room.keep(trace.trace, trace.parts)
        return answer, trace.header

    def _is_cancelled(self, _chunk: dict[str, Any]) -> bool:
        return self._cause is not None

    def _stream(self, prepared: Prepared) -> Outcome:
        """An answer in chunks."""
        job, signer = self.job, self._signer
        if self._loaded.kind != "chat":
            raise InputError("only chat programs stream", param="stream")
        commitments = (prepared.request_commitment, prepared.effective_commitment)
        if job.client_key is not None:
            self._mac = ChunkMAC(signer.mac_key(job.client_key, *commitments))
        self._head = stream_start(*commitments)
        begin = Begin(self._seed, prepared.effective_json, signer.signing_key, signer.transport_key)
        self._loop.call_soon_threadsafe(self._begin, begin)
        answer: dict[str, Any] = {}
        header = b""
        complete = True
        try:
            answer, header = self._answer(prepared, self._emitter())
        except Exception as error:
            if not self._made or signer.method is Method.OPTIMISTIC:  # without a trace there is no statement
                raise
            if not isinstance(error, AvowError):
                log.exception("the engine of %s broke off a stream", self._loaded.name)
            complete = False
        complete = complete and self._cause is None
        if not self._made:
            self._check_cancelled()
        usage, units = usage_of(self._loaded.kind, answer)
        end = StreamEnd(self._head, self._made)
        assembled = self._assembly.answer()
        return outcome_of(
            self.job, self._seed, prepared, assembled, header, usage=usage, units=units, stream=end, complete=complete
        )

    def _emitter(self) -> Callable[[dict[str, Any]], bool]:
        """What the engine calls for each chunk, in the worker. True tells it to stop. Names are bound once: this is every chunk's cost."""
        encode, follow, add, ready = _json, stream_next, self._assembly.add, self._ready.append
        tag = None if self._mac is None else self._mac.tag
        schedule, flush = self._loop.call_soon_threadsafe, self._flush

        def emit(chunk: dict[str, Any]) -> bool:
            if self._cause is not None:
                return True
            data = encode(chunk)
            self._head = head = follow(self._head, data)
            self._made += 1
            add(chunk)
            ready((data, None if tag is None else tag(head), head))
            if not self._scheduled:
                self._scheduled = True
                schedule(flush)
            if self._paused is not None:
                self._wait()
            return self._cause is not None

        return emit

    def _wait(self) -> None:
        """Until the reader has caught up."""
        paused = self._paused
        if paused is not None:
            paused.wait()
