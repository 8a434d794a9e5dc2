"""The inference node without its sockets' addresses: what it serves, to whom, under which key.

Rules:
1. A job is started only when its statement can become a receipt: a key that stands, a price that is published, a payer that
   covers it, an outbox that can be written, and a trust gap below the operator's limit.
2. vanilla and optimistic run here, each under a key of this process; tee runs in the enclave, under the enclave's key. Everything after
   the statement is the same.
3. An optimistic job is taken only while the node's bond covers one more statement (upkeep.py).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from avow.errors import AvowError
from avow.nodes import wire
from avow.nodes.delivery import Delivery, NodeKey
from avow.nodes.enclave import EnclaveProgram
from avow.nodes.enclave_client import EnclaveClient
from avow.nodes.entitlement import Asker
from avow.nodes.errors import (
    MethodNotServed,
    NotReady,
    NotSettled,
    NotTraced,
    OutboxUnwritable,
    TrustGapExceeded,
    UnknownProgram,
)
from avow.nodes.jobs import (
    Hash32,
    Job,
    KeyDescription,
    KeyStatus,
    NodeDescription,
    NodeStatus,
    ProgramDescription,
    Terms,
)
from avow.nodes.loaded import Loaded
from avow.nodes.openings import Openings, encode_shown
from avow.nodes.outbox import Outbox
from avow.nodes.payers import Payers, units_bound
from avow.nodes.receipts import Receipts
from avow.nodes.runner import Runner
from avow.nodes.service import Handle, Port
from avow.nodes.settler import Settler
from avow.nodes.upkeep import Upkeep
from avow.nodes.wire import Kind
from avow.receipt.statement import TERMS_PAYER_OPENS, Method

log = logging.getLogger(__name__)

MAX_WAIT_MS = 3_600_000
ACKNOWLEDGE_S = 0.05


@dataclass(frozen=True, slots=True)
class Served:
    """A program that the node offers. `prices` by method: wei per unit as published, with its version."""

    name: str
    program: bytes
    kind: str
    engine: str
    engine_version: str
    manifest: bytes
    metadata: bytes
    prices: dict[int, Terms] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: Loaded) -> Self:
        """A program that runs in this process."""
        engine = loaded.engine
        return cls(
            loaded.name, loaded.program, loaded.kind, engine.name, engine.version, loaded.manifest, loaded.metadata
        )

    @classmethod
    def in_enclave(cls, item: EnclaveProgram) -> Self:
        return cls(item.name, item.program, item.kind, item.engine, item.engine_version, item.manifest, item.metadata)


class _EnclaveRun:
    """The handle of a job that the enclave runs."""

    __slots__ = ("_call", "_enclave")

    def __init__(self, enclave: EnclaveClient, call: int) -> None:
        self._enclave = enclave
        self._call = call

    def cancel(self, cause: AvowError | None = None) -> None:  # noqa: ARG002 - the enclave says why itself
        self._enclave.control(self._call, Kind.CANCEL)

    def pause(self) -> None:
        self._enclave.control(self._call, Kind.PAUSE)

    def resume(self) -> None:
        self._enclave.control(self._call, Kind.RESUME)


class Node:
    """Rules 1 and 2. `keys` by method, and `enclave`, come and go while it serves."""

    def __init__(
        self, chain_id: str, operator: bytes, outbox: Outbox, settler: Settler, payers: Payers, *, max_trust_gap_ms: int
    ) -> None:
        self.chain_id = chain_id
        self.operator = operator
        self.outbox = outbox
        self.settler = settler
        self.payers = payers
        self.receipts = Receipts(outbox)
        self.programs: dict[bytes, Served] = {}
        self.keys: dict[int, NodeKey] = {}
        self.runners: dict[int, Runner] = {}
        self.withheld: dict[tuple[bytes, int], AvowError] = {}
        """Why a program is not offered by a method, where there is more to say than that it is not."""
        self.starting: set[int] = set()
        """Methods that this node is set up for, until it has a key for them."""
        self.upkeep: Upkeep | None = None
        self.enclave: EnclaveClient | None = None
        self._max_trust_gap_ms = max_trust_gap_ms
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unacknowledged: NodeKey | None = None
        self._loop = asyncio.get_running_loop()
        self.questions = {
            "describe": self._describe,
            "status": self._status,
            "receipt": self._receipt,
            "wait_settled": self._wait_settled,
            "opening": self._opening,
            "demand": self._demand,
        }

    # Jobs.

    def start(self, port: Port, payload: bytes) -> Handle:
        """Begin a job, or raise why not (rule 1)."""
        job = wire.decode(payload, Job)
        program = self.programs.get(job.program)
        if program is None:
            raise UnknownProgram("this node does not serve that program", program=job.program.hex())
        terms = program.prices.get(job.method)
        if terms is None:
            if (job.program, job.method) in self.withheld:
                raise self.withheld[job.program, job.method]
            raise MethodNotServed(f"{program.name} is not offered by that method", method=job.method)
        key = self.keys.get(job.method)
        if key is None or not key.ready:
            raise NotReady("the node's key does not stand on chain", hint="it is starting, or its key was revoked")
        if not self.outbox.writable:
            raise OutboxUnwritable("the node cannot make statements durable", hint="make room on the node's disk")
        if self.settler.trust_gap_ms() > self._max_trust_gap_ms:
            raise TrustGapExceeded("settlement lags too far behind", limit_ms=self._max_trust_gap_ms)
        most = units_bound(program.kind, job.body) * int.from_bytes(terms.per_unit)
        if job.authorisation is not None:
            nonce = self.payers.check_authorisation(job, most)
            covered = partial(self.payers.require_authorised, job.payer, nonce, most)
            return self._launch_later(port, job, payload, terms, key, most, covered)
        if self.payers.reserve(job.payer, most):
            return self._launch(port, job, payload, terms, key, most, self._releaser(job.payer, most))
        covered = partial(self.payers.require_asked, job.payer, most)
        return self._launch_later(port, job, payload, terms, key, most, covered)

    def _releaser(self, payer: bytes, amount: int) -> Callable[[], None]:
        return lambda: self.payers.release(payer, amount)

    def _launch(
        self,
        port: Port,
        job: Job,
        payload: bytes,
        terms: Terms,
        key: NodeKey,
        most: int,
        release: Callable[[], None],
    ) -> Delivery:
        try:
            free = self._lock_bond(job, most)
        except AvowError:
            release()
            raise
        self._running += 1

        def over() -> int:
            self._running -= 1
            release()
            free()
            return self._running

        try:
            delivery = Delivery(port, job, key, self.outbox, self.settler, self._durable, over)
            delivery.attach(self._run(job, payload, terms, delivery))
        except AvowError:
            over()
            raise
        return delivery

    def _lock_bond(self, job: Job, most: int) -> Callable[[], None]:
        """For optimistic: what the statement will lock of the node's bond, at most. Raises BondExhausted."""
        upkeep = self.upkeep
        if job.method != Method.OPTIMISTIC or upkeep is None:
            return lambda: None
        required = upkeep.reserve(most, TERMS_PAYER_OPENS if job.payer_opens else 0)
        return lambda: upkeep.release(required)

    def _run(self, job: Job, payload: bytes, terms: Terms, delivery: Delivery) -> Handle:
        if job.method == Method.TEE:
            if self.enclave is None:
                raise NotReady("the enclave is not connected")
            return _EnclaveRun(self.enclave, self.enclave.run(terms, payload, delivery.event))
        runner = self.runners.get(job.method)
        if runner is None:
            raise NotReady("the node has no key")
        return runner.start(job, terms, delivery)

    def _launch_later(
        self,
        port: Port,
        job: Job,
        payload: bytes,
        terms: Terms,
        key: NodeKey,
        most: int,
        covered: Callable[[], Awaitable[None]],
    ) -> Handle:
        """The payer is not known well enough: ask the chain first. `covered` reserves `most`, or raises."""
        pending = _Pending()

        async def launch() -> None:
            try:
                await covered()
                release = self._releaser(job.payer, most)
                if pending.cancelled:
                    release()
                    port.fail(NotReady("cancelled"))
                    return
                pending.handle = self._launch(port, job, payload, terms, key, most, release)
            except AvowError as error:
                port.fail(error)

        task = self._loop.create_task(launch())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return pending

    def _durable(self, key: NodeKey) -> None:
        """Tell the enclave, once for all that became durable within a moment: it keeps them until then."""
        if key.method == Method.TEE and self._unacknowledged is None:
            self._unacknowledged = key
            self._loop.call_later(ACKNOWLEDGE_S, self._acknowledge)

    def _acknowledge(self) -> None:
        key, self._unacknowledged = self._unacknowledged, None
        if key is not None and self.enclave is not None and self.keys.get(Method.TEE) is key:
            self.enclave.acknowledge(self.settler.durable(key.stored.key_number))

    async def close(self) -> None:
        """Let running jobs end (their callers are gone), within a moment."""
        for task in self._tasks:
            task.cancel()
        until = time.monotonic() + 2.0
        while self._running and time.monotonic() < until:  # noqa: ASYNC110 - at the end of a process
            await asyncio.sleep(0.01)
        for runner in self.runners.values():
            runner.close()

    # Questions.

    async def _opening(self, args: bytes) -> bytes:
        identity, asker = wire.decode(args, tuple[Hash32, bytes | None])
        return encode_shown(self._openings().show(identity, None if asker is None else Asker.from_bytes(asker)))

    async def _demand(self, args: bytes) -> bytes:
        identity, asker, demand = wire.decode(args, tuple[Hash32, bytes | None, bytes])
        who = None if asker is None else Asker.from_bytes(asker)
        return await self._openings().answer(identity, who, demand)

    def _openings(self) -> Openings:
        if self.upkeep is None:
            raise NotTraced("this node gives no optimistic answers")
        return self.upkeep.openings

    async def _describe(self, _args: bytes) -> bytes:
        programs = []
        for served in self.programs.values():
            methods = sorted(served.prices)
            terms = [served.prices[method] for method in methods]
            programs.append(
                ProgramDescription(
                    name=served.name,
                    program=served.program,
                    kind="chat" if served.kind == "chat" else "tensor",
                    methods=methods,
                    prices=[str(int.from_bytes(item.per_unit)) for item in terms],
                    price_versions=[item.price_version for item in terms],
                    engine=served.engine,
                    engine_version=served.engine_version,
                    manifest=served.manifest,
                    metadata=served.metadata,
                )
            )
        keys = [
            KeyDescription(key.method, key.stored.key, key.signing_key, key.transport_key, key.attester)
            for key in self.keys.values()
            if key.ready
        ]
        return wire.encode(NodeDescription(self.chain_id, self.operator, programs, keys, sorted(self.starting)))

    async def _status(self, _args: bytes) -> bytes:
        settler, now = self.settler, time.monotonic()
        keys = [
            KeyStatus(stored.key, stored.method, settler.durable(stored.key_number), settler.settled(stored.key_number))
            for stored in settler.all_keys()
        ]
        ready = [key for key in self.keys.values() if key.ready]
        age_s = max((now - key.standing_at for key in ready), default=0.0)
        upkeep = self.upkeep
        return wire.encode(
            NodeStatus(
                outbox_depth=settler.depth,
                trust_gap_ms=settler.trust_gap_ms(),
                running=self._running,
                methods=sorted(key.method for key in ready),
                chain_ok=settler.reachable,
                outbox_ok=self.outbox.writable,
                standing_age_ms=int(age_s * 1000),
                keys=keys,
                bond="" if upkeep is None else str(upkeep.amount),
                locked="" if upkeep is None else str(upkeep.locked),
                open_statements=0 if upkeep is None else upkeep.open_statements,
            )
        )

    async def _receipt(self, args: bytes) -> bytes:
        identity, secret = wire.decode(args, tuple[Hash32, Hash32 | None])
        return self.receipts.build(identity, secret, await self._finality(identity))

    async def _wait_settled(self, args: bytes) -> bytes:
        identity, timeout_ms = wire.decode(args, tuple[Hash32, int])
        row = self.receipts.find(identity)
        try:
            async with asyncio.timeout(min(max(timeout_ms, 0), MAX_WAIT_MS) / 1000):
                await self.settler.wait(row.key_number, row.number)
        except TimeoutError:
            raise NotSettled("the receipt is not settled yet", id=identity.hex()) from None
        return self.receipts.build(identity, None, await self._finality(identity))

    async def _finality(self, identity: bytes) -> bytes:
        """What the chain shows of an optimistic statement's batch now, for as long as it can be challenged."""
        return b"" if self.upkeep is None else await self.upkeep.finality_now(self.receipts.find(identity))


class _Pending:
    """The handle of a job that waits for what the chain says of its payer."""

    def __init__(self) -> None:
        self.cancelled = False
        self.handle: Handle | None = None

    def cancel(self, cause: AvowError | None = None) -> None:
        self.cancelled = True
        if self.handle is not None:
            self.handle.cancel(cause)

    def pause(self) -> None:
        if self.handle is not None:
            self.handle.pause()

    def resume(self) -> None:
        if self.handle is not None:
            self.handle.resume()
