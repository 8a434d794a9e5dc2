"""What an optimistic node owes the chain besides its statements: a bond, the ends of its batches, and answers to demands.

Rules:
1. The bond is filled up to what the operator set aside, when the node starts. A job is taken only if the bond covers one more open
   statement: what is locked on chain, what is signed and not settled yet, and what is under way all count.
2. A batch whose window is over is finalised: fees are paid, the bond is free, the openings and what its runs left behind are deleted; the
   proof is kept for receipts.
3. Each demand on chain is answered at once, beside the others, within the node's clock (openings.py). Nothing else that the chain is told
   or asked delays that. What goes wrong is said loudly and tried again: silence costs the statement's share of the bond.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from avow.chain.errors import Refused
from avow.errors import AvowError
from avow.exact.descent import Demand
from avow.nodes.batches import charge_of
from avow.nodes.chain_client import OptimisticRules
from avow.nodes.errors import BondExhausted
from avow.nodes.keeping import Keeping
from avow.nodes.loaded import Loaded
from avow.nodes.openings import Openings
from avow.nodes.outbox import Outbox
from avow.nodes.outbox_rows import StoredBatch, StoredKey, StoredStatement
from avow.nodes.receipts import Receipts
from avow.receipt.encoding import encode_trusted
from avow.receipt.finality import BatchState, FinalityProof
from avow.receipt.statement import Columns, Method

log = logging.getLogger(__name__)

POLL_S = 0.5
LONGEST_RETRY_S = 2.0
SWEEP_S = 60.0
FRESH_S = 1.0
_MAX_BACKLOG = 100_000
_KEPT_PROOFS = 64


@dataclass(frozen=True, slots=True)
class Demanded:
    """A demand on chain: its id, the statement's hash, and what is asked (exact/descent.py). `height`: of its block."""

    id: bytes
    statement: bytes
    asked: bytes
    height: int


class DisputesChain(Protocol):
    """What upkeep needs of the chain. Every method may raise ChainUnavailable or Refused."""

    async def optimistic(self) -> OptimisticRules: ...
    async def bond(self) -> tuple[int, int]: ...
    async def deposit(self, amount: int) -> None: ...
    async def finalise(self, key: bytes, first: int) -> None: ...
    async def finality(self, key: bytes, number: int) -> FinalityProof | None: ...
    async def demands(self, key: bytes, from_height: int) -> list[Demanded]: ...
    async def is_posed(self, demand: bytes) -> bool: ...
    async def answer(self, demand: bytes, given: bytes) -> None: ...


class Upkeep:
    """Rules 1 to 3, for the keys of the method optimistic. `amount` and `locked` of the bond, and `open_statements`, as last asked."""

    def __init__(
        self,
        chain: DisputesChain,
        chain_id: str,
        outbox: Outbox,
        receipts: Receipts,
        programs: Mapping[bytes, Loaded],
        *,
        bond: int,
        keeping: Keeping | None = None,
    ) -> None:
        self._chain = chain
        self._keeping = keeping
        self._remains = None if keeping is None else keeping.remains
        self._outbox = outbox
        self._receipts = receipts
        self.openings = Openings(chain_id, outbox, receipts, programs, lambda: self.appointed, self._remains)
        self._bond = bond
        self._rules: OptimisticRules | None = None
        self.amount = 0
        self.locked = 0
        self.open_statements = 0
        self._free = 0
        self._under_way = 0
        self._delivered = 0
        self._heights: dict[bytes, int] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._shown: dict[tuple[int, int], tuple[float, bytes]] = {}
        self._swept = 0.0

    @property
    def appointed(self) -> Collection[bytes]:
        """The network's watchers, as the chain last said."""
        return () if self._rules is None else self._rules.parameters.watchers

    def reserve(self, amount: int, terms: int) -> int:
        """Rule 1: what one more statement locks, taken of what is free until `release`. Raises BondExhausted."""
        if self._rules is None:
            raise BondExhausted("the node's bond is not known yet", hint="it is starting")
        required = self._rules.parameters.required_bond(amount, terms)
        if self._free - self._delivered - self._under_way < required:
            raise BondExhausted(
                "the node's bond is taken by statements that can still be challenged",
                hint="ask again within the window",
            )
        self._under_way += required
        return required

    def release(self, required: int) -> None:
        """The job is over; what it signed counts until the chain is asked again."""
        self._under_way -= required
        self._delivered += required

    async def fill(self) -> None:
        """Rule 1's deposit."""
        amount, _ = await self._chain.bond()
        if amount < self._bond:
            await self._chain.deposit(self._bond - amount)
        await self._refresh()

    async def run(self) -> None:
        """Until cancelled."""
        heeding = asyncio.get_running_loop().create_task(self._over_and_over(self._answer_demands))
        try:
            await self._over_and_over(self._keep)
        finally:
            heeding.cancel()
            for task in self._answering:
                task.cancel()
            self.openings.close()

    async def _over_and_over(self, work: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong once is done again: nobody else does it."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await work()
            except AvowError as error:
                log.warning("upkeep is tried again: %s", error.detail)
            except Exception:  # the task's outermost frame: an end of the upkeep would cost the bond
                log.exception("upkeep is tried again")

    async def _keep(self) -> None:
        rules = await self._refresh()
        await self._finalise(rules)
        if self._remains is not None and time.monotonic() - self._swept >= SWEEP_S:
            self._swept = time.monotonic()
            if self._remains.kept():
                self._remains.sweep(self._outbox.traces())

    async def _refresh(self) -> OptimisticRules:
        delivered = self._delivered
        self._rules = rules = await self._chain.optimistic()
        if self._keeping is not None:
            self._keeping.heed(rules.parameters.move_ms)
        amount, locked = await self._chain.bond()
        unsettled = 0
        waiting = sum(batch.count for batch in self._outbox.open_batches(Method.OPTIMISTIC))
        for key in self._keys():
            for row in self._outbox.statements(key.key_number, key.settled, _MAX_BACKLOG):
                if row.void == 0:
                    waiting += 1
                    terms = Columns.unpack(row.columns).terms
                    unsettled += rules.parameters.required_bond(charge_of(row.columns)[1], terms)
        self.amount, self.locked, self.open_statements = amount, locked, waiting
        self._free = amount - locked - unsettled
        self._delivered -= delivered
        return rules

    def _keys(self) -> list[StoredKey]:
        return [key for key in self._outbox.all_keys() if key.method == Method.OPTIMISTIC]

    async def finality_now(self, row: StoredStatement) -> bytes:
        """CBOR of the proof of a statement's batch as the chain shows it, asked anew after FRESH_S; empty where there is none.

        The outbox has the proof of a batch that is final.
        """
        key = next((key for key in self._keys() if key.key_number == row.key_number), None)
        batch = None if key is None else self._outbox.batch_of(row.key_number, row.number)
        if key is None or batch is None or batch.proof is None or batch.finality is not None:
            return b""
        place, now = (batch.key_number, batch.first), time.monotonic()
        asked, shown = self._shown.get(place, (0.0, b""))
        if not shown or now - asked > FRESH_S:
            try:
                found = await self._chain.finality(key.key, batch.first)
            except AvowError as error:
                log.warning("the finality of a receipt is not shown: %s", error.detail)
                return b""
            shown = b"" if found is None else encode_trusted(found.to_value())
            self._shown[place] = (now, shown)
            while len(self._shown) > _KEPT_PROOFS:
                del self._shown[next(iter(self._shown))]
        return shown

    # --- Rule 2 -----------------------------------------------------------------------------------------------------

    async def _finalise(self, rules: OptimisticRules) -> None:
        keys = {key.key_number: key.key for key in self._keys()}
        for batch in self._outbox.open_batches(Method.OPTIMISTIC):
            if not await self._try_final(keys[batch.key_number], batch, rules.clock):
                return

    async def _try_final(self, key: bytes, batch: StoredBatch, clock: int) -> bool:
        """Whether the batch is final; later ones of the key cannot be before it is due."""
        proof = await self._chain.finality(key, batch.first)
        if proof is None:  # nothing of it settled: all void
            await self._final(batch, b"")
            return True
        record = proof.check_membership(key)
        if record.state is not BatchState.FINAL:
            if clock <= record.deadline_clock:
                return False
            try:
                await self._chain.finalise(key, batch.first)
            except Refused as refused:
                log.info("batch %d is not final yet: code %d", batch.first, refused.reason)
                return True  # a dispute waits for its end; the next batch does not wait for it
            proof = await self._chain.finality(key, batch.first)
            assert proof is not None
            record = proof.check_membership(key)
        if record.overturned:
            log.critical("statements %s of key %s were overturned", list(record.overturned), key.hex())
        await self._final(batch, encode_trusted(proof.to_value()))
        return True

    async def _final(self, batch: StoredBatch, finality: bytes) -> None:
        rows = self._outbox.statements(batch.key_number, batch.first, batch.count) if self._remains else []
        await self._outbox.record_final(batch, finality)
        if self._remains is not None:
            self._remains.drop(Columns.unpack(row.columns).trace for row in rows)

    # --- Rule 3 -----------------------------------------------------------------------------------------------------

    async def _answer_demands(self) -> None:
        for key in self._keys():
            from_height = self._heights.get(key.key, 0)
            for demand in await self._chain.demands(key.key, from_height):
                self._heights[key.key] = demand.height + 1
                task = asyncio.get_running_loop().create_task(self._answer(demand))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _answer(self, demanded: Demanded) -> None:
        pause_s = POLL_S
        while True:
            try:
                if not await self._chain.is_posed(demanded.id):
                    return
                row = self._receipts.find(demanded.statement)
                given = await self.openings.answer_of(row, Demand.parse(demanded.asked))
                await self._chain.answer(demanded.id, given)
            except Exception as error:  # the task's outermost frame: a demand left alone costs a share of the bond
                expected = isinstance(error, AvowError)
                log.critical("a demand on chain is not answered yet: %s", error, exc_info=not expected)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_RETRY_S)
            else:
                log.info("answered a demand about %s", demanded.statement.hex())
                return
