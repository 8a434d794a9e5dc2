"""Runs a job on its engine and makes the signed statement: the same code in the node (vanilla) and the enclave (tee).

Rules:
1. Engines block, so each program has worker threads, one per slot, and a bounded queue in front of them.
2. A worker commits to request, effective parameters and response. Signing is one at a time: numbers follow one order. It is the
   event loop that signs and hands over, but for whole answers where the sink takes them from any thread (`handing_over`): there it is
   the worker, and nobody is woken.
3. Chunks are hashed and tagged where they are made, and handed over in batches: one wake-up per batch, not per chunk.
4. Whatever is handed to the sink before `end` or `failed` comes in order; after either nothing comes.
5. A cancelled or broken stream that delivered chunks ends in a statement marked incomplete. What the engine failed to
   finish is not charged; without a chunk there is neither statement nor charge.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Mapping

from avow.nodes.errors import Busy, DeadlineExceeded, EndpointMismatch, MethodNotServed, UnknownProgram
from avow.nodes.jobs import CHAT, Job, Terms
from avow.nodes.keeping import Keeping
from avow.nodes.loaded import Loaded
from avow.nodes.run import Run, Sink
from avow.nodes.signer import Signer
from avow.nodes.splice import PrivateEncoder
from avow.receipt.statement import EngineIdentity

SWEEP_S = 0.1
"""How finely deadlines are kept."""
QUEUE_PER_SLOT = 16
"""Jobs that may wait for each slot."""


class Runner:
    """Runs jobs of one method; `signer` is that method's. To be made, used and closed on one event loop."""

    def __init__(
        self,
        programs: Mapping[bytes, Loaded],
        signer: Signer,
        keeping: Keeping | None = None,
        *,
        handing_over: bool = False,
    ) -> None:
        """`keeping`: of what runs leave behind, for optimistic. `handing_over`: rule 2."""
        self.signer = signer
        self._handing_over = handing_over
        self._keeping = keeping
        self.programs = dict(programs)
        self._loop = asyncio.get_running_loop()
        self._active: list[Run] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._pools = {program: _Pool(loaded) for program, loaded in self.programs.items()}
        self._encoders = {program: self._encoder(loaded) for program, loaded in self.programs.items()}

    def _encoder(self, loaded: Loaded) -> PrivateEncoder:
        engine, signer = loaded.engine, self.signer
        identity = EngineIdentity(engine.name, engine.version, engine.runtime)
        return PrivateEncoder(signer.chain_id, signer.operator, signer.key, identity)

    def start(self, job: Job, terms: Terms, sink: Sink) -> Run:
        """Queue a job. Raises UnknownProgram, MethodNotServed, EndpointMismatch or Busy; later errors go to the sink."""
        loaded = self.programs.get(job.program)
        if loaded is None:
            raise UnknownProgram("this node does not serve that program", program=job.program.hex())
        if job.method != self.signer.method:
            raise MethodNotServed("another method's key signs here", method=job.method)
        if (job.endpoint == CHAT) != (loaded.kind == "chat"):
            raise EndpointMismatch(f"a {loaded.kind} program does not answer at {job.endpoint}", program=loaded.name)
        run = Run(self._loop, loaded, self._encoders[job.program], self.signer, job, terms, sink, self._keeping)
        run.handing_over = self._handing_over and not job.stream
        self._pools[job.program].put(run)
        self._active.append(run)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        return run

    def _sweep(self) -> None:
        """End what is past its deadline: one timer for all runs, since nearly all end long before."""
        now = self._loop.time()
        self._active = [run for run in self._active if not run.over]
        for run in self._active:
            if run.overdue(now):
                run.cancel(DeadlineExceeded())
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep) if self._active else None

    def waiting(self) -> int:
        """Jobs that are queued or running."""
        return sum(pool.load for pool in self._pools.values())

    def close(self) -> None:
        """Queued jobs fail as cancelled, workers end after what they are at. Engines are closed by who loaded them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pool in self._pools.values():
            pool.close()


class _Worker:
    """One thread and what it has been given to do next."""

    __slots__ = ("given", "thread")

    def __init__(self, pool: "_Pool", name: str) -> None:
        self.given: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=pool.work, args=(self,), name=name, daemon=True)


class _Pool:
    """The worker threads of one program and the queue before them.

    The worker that ended last is the first to be given work: with few jobs under way one thread does them all, and finds its
    core's caches as it left them.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._limit = loaded.slots * (1 + QUEUE_PER_SLOT)
        self.load = 0
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: deque[Run] = deque()
        self._workers = [_Worker(self, f"{loaded.name}-{slot}") for slot in range(loaded.slots)]
        self._idle = list(self._workers)
        for worker in self._workers:
            worker.thread.start()

    def put(self, run: Run) -> None:
        with self._lock:
            if self.load >= self._limit:
                raise Busy("all slots are taken and the queue is full", limit=self._limit)
            self.load += 1
            if not self._idle:
                self._waiting.append(run)
                return
            worker = self._idle.pop()
        worker.given.put(run)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
        for run in waiting:
            run.abandon()
        for worker in self._workers:
            worker.given.put(None)

    def work(self, worker: _Worker) -> None:
        """The thread of one worker."""
        run = worker.given.get()
        while run is not None:
            report = run.work()
            run = self._next(worker)  # before the report: whoever it wakes finds this worker free
            report()
            if run is None:
                run = worker.given.get()

    def _next(self, worker: _Worker) -> Run | None:
        """What waits longest; with nothing to do the worker is idle from here on."""
        with self._lock:
            self.load -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(worker)
            return None
