"""Settles what the outbox holds: each key's statements in order, in batches, exactly once.

Rules:
1. One batch of a key is under way at a time. It is recorded, signed transaction and all, before it is sent; a restart sends
   the very same bytes again until the chain has said what became of them.
2. A batch goes when the oldest statement has waited `flush_age_s`, or `max_batch` wait.
3. A refused batch is resolved by itself: the statement that is to blame becomes void with the cause that the chain checks
   (`CAUSES`), and the rest is tried again. What no cause covers revokes the key: its operator stops, and says so. What is left of a key
   that the chain revoked, because an answer of its was overturned for one, is void: nobody is charged for it.
4. A chain that is away is tried again, with growing pauses; statements wait, and the trust gap shows it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from avow.chain.errors import WHOLE_BATCH, Code
from avow.chain.modules.batch import leaves
from avow.errors import AvowError
from avow.nodes.batches import batch_of, charge_of, ended_ms
from avow.nodes.chain_client import ChainRejected, ChainUnavailable
from avow.nodes.outbox import UNDELIVERED, Outbox
from avow.nodes.outbox_rows import StoredBatch, StoredKey, StoredStatement
from avow.receipt.standing import KeyState

log = logging.getLogger(__name__)

FLUSH_AGE_S = 0.2
MAX_BATCH = 1_024
MAX_BATCH_BYTES = 256 * 1024
"""What a transaction holds with ease; only many authorisations, which show private parts, come near it."""
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_GAP_GRAIN_S = 0.05

KEY_REVOKED = 1
MEASUREMENT_EXPIRED = 2

CAUSES: dict[int, int] = {
    Code.PROGRAM_NOT_REGISTERED: 3,
    Code.PROGRAM_WITHDRAWN: 3,
    Code.MEASUREMENT_EXPIRED: MEASUREMENT_EXPIRED,
    Code.PAYER_NOT_CONSENTING: 4,
    Code.PAYER_UNCOVERED: 4,
    Code.AUTHORISATION_REFUSED: 4,
    Code.AUTHORISATION_EXPIRED: 4,
    Code.AUTHORISATION_USED: 4,
    Code.AUTHORISATION_EXCEEDED: 4,
    Code.VOID_WITHOUT_CAUSE: 0,
}
"""The chain's refusal of one statement → the cause under which it is void. VOID_WITHOUT_CAUSE: it may settle after all."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the chain would refuse a batch now: code, and the statement's place in the batch (WHOLE_BATCH: the batch itself)."""

    index: int
    code: int


class SettlementChain(Protocol):
    """What settling needs of the chain. Every method may raise ChainUnavailable."""

    def sending(self) -> AbstractAsyncContextManager[None]:
        """The account's line of nonces, to be held from `sign_batch` until after `send`."""
        ...

    async def sign_batch(self, batch: bytes, *, all_void: bool) -> tuple[bytes, bytes]:
        """The transaction that would settle the batch, with the account's next nonce, and its hash."""
        ...

    async def send(self, transaction: bytes) -> None:
        """Give the chain a transaction; sending it again is no error."""
        ...

    async def outcome(self, transaction: bytes, transaction_hash: bytes) -> bool | None:
        """Await what becomes of it: True settled, False refused, None: it can never be included any more."""
        ...

    async def refusal(self, batch: bytes, *, all_void: bool) -> Refusal | None:
        """Why the chain would refuse the batch now; None if it would not."""
        ...

    async def proof(self, transaction_hash: bytes) -> bytes:
        """The batch's settlement proof, CBOR without what is each statement's own."""
        ...

    async def next_number(self, key: bytes) -> int: ...
    async def key_state(self, key: bytes) -> KeyState: ...
    async def revoke(self, key: bytes) -> None: ...


@dataclass(slots=True)
class _Line:
    """One key's statements on their way."""

    key: StoredKey
    settled: int
    durable: int
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: dict[int, list["asyncio.Future[None]"]] = field(default_factory=dict)
    refused: int = 0

    @property
    def depth(self) -> int:
        return self.durable - self.settled


class Settler:
    """Made on the loop; `add_key` starts a key's line. `on_drained` is told when a line has nothing left,
    `on_refused` when the chain settles a key's statements no more.
    """

    def __init__(
        self,
        outbox: Outbox,
        chain: SettlementChain,
        *,
        flush_age_s: float = FLUSH_AGE_S,
        max_batch: int = MAX_BATCH,
    ) -> None:
        self._outbox = outbox
        self._chain = chain
        self._flush_age_s = flush_age_s
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()
        self._lines: dict[int, _Line] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._owed: dict[bytes, int] = {}
        self.on_drained: Callable[[StoredKey], None] | None = None
        self.on_refused: Callable[[StoredKey], None] | None = None
        self.reachable = True

    def add_key(self, key: StoredKey) -> None:
        """Begin to settle a key, from what is on disk on; once is enough."""
        if key.key_number in self._lines:
            return
        line = _Line(key, key.settled, key.settled)
        self._lines[key.key_number] = line
        self._load(line)
        self._tasks.append(self._loop.create_task(self._run(line), name=f"settle {key.key.hex()[:8]}"))

    def _load(self, line: _Line) -> None:
        """Count what waits from before."""
        while rows := self._outbox.statements(line.key.key_number, line.durable, self._max_batch):
            for row in rows:
                self._owe(row.columns, 1)
            line.durable = rows[-1].number + 1
        if line.depth:
            line.waiting.append((line.settled, self._loop.time()))
            line.wake.set()

    def added(self, key_number: int, number: int, columns: bytes) -> None:
        """One more statement is durable; to be called in the order of the numbers."""
        line = self._lines[key_number]
        line.durable = number + 1
        now = self._loop.time()
        waiting = line.waiting
        if not waiting or now - waiting[-1][1] >= _GAP_GRAIN_S:
            waiting.append((number, now))
        if len(waiting) == 1 or line.depth >= self._max_batch:
            line.wake.set()
        self._owe(columns, 1)

    def _owe(self, columns: bytes, sign: int) -> None:
        payer, amount = charge_of(columns)
        owed = self._owed.get(payer, 0) + sign * amount
        if owed:
            self._owed[payer] = owed
        else:
            self._owed.pop(payer, None)

    def owed(self, payer: bytes) -> int:
        """Wei that the payer's unsettled statements come to."""
        return self._owed.get(payer, 0)

    @property
    def depth(self) -> int:
        """Statements that are durable and not settled."""
        return sum(line.depth for line in self._lines.values())

    def all_keys(self) -> list[StoredKey]:
        """The keys that are being settled, or were since the start."""
        return [line.key for line in self._lines.values()]

    def settled(self, key_number: int) -> int:
        return self._lines[key_number].settled

    def durable(self, key_number: int) -> int:
        return self._lines[key_number].durable

    def idle(self, key_number: int) -> bool:
        """Whether a key has nothing left to settle."""
        line = self._lines.get(key_number)
        return line is None or line.depth == 0

    def trust_gap_ms(self) -> int:
        """How long the oldest statement that is not settled has been waiting; 0 if none is."""
        oldest = None
        for line in self._lines.values():
            if line.waiting and (oldest is None or line.waiting[0][1] < oldest):
                oldest = line.waiting[0][1]
        return 0 if oldest is None else int((self._loop.time() - oldest) * 1000)

    async def wait(self, key_number: int, number: int) -> None:
        """Until the statement's settlement is proven."""
        line = self._lines[key_number]
        if number < line.settled:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        line.waiters.setdefault(number, []).append(future)
        await future

    async def close(self) -> None:
        """Stop; what is not settled is settled after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, line: _Line) -> None:
        pause_s = _FIRST_PAUSE_S
        reconciled = False
        while True:
            try:
                if not reconciled:
                    await self._reconcile(line)
                    reconciled = True
                await self._due(line)
                await self._settle(line)
                pause_s = _FIRST_PAUSE_S
                self.reachable = True
            except AvowError as error:
                self.reachable = not isinstance(error, ChainUnavailable)
                reconciled = False
                log.warning("settlement waits: %s", error.detail)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _due(self, line: _Line) -> None:
        """Rule 2."""
        while line.depth < self._max_batch:
            line.wake.clear()
            if not line.waiting:
                if self.on_drained is not None:
                    self.on_drained(line.key)
                await line.wake.wait()
                continue
            left_s = line.waiting[0][1] + self._flush_age_s - self._loop.time()
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(left_s):
                    await line.wake.wait()
            except TimeoutError:
                return

    async def _reconcile(self, line: _Line) -> None:
        """Rule 1: find out what became of a batch that was recorded and not finished."""
        batch = self._outbox.batch_of(line.key.key_number, line.settled)
        if batch is None or batch.first != line.settled or batch.proof is not None:
            return
        with suppress(ChainRejected):
            await self._chain.send(batch.transaction)
        if await self._chain.outcome(batch.transaction, batch.transaction_hash):
            await self._finish(line, batch)

    async def _settle(self, line: _Line) -> None:
        """One batch, to its end."""
        key = line.key
        await self._outbox.fold()
        rows = await asyncio.to_thread(self._outbox.batch_rows, key.key_number, line.settled, self._max_batch)
        if not rows:
            return
        encoded = await asyncio.to_thread(batch_of, key.key, rows)
        while len(encoded) > MAX_BATCH_BYTES and len(rows) > 1:
            rows = rows[: len(rows) // 2]
            encoded = await asyncio.to_thread(batch_of, key.key, rows)
        void = bytes(row.void for row in rows)
        tree = b"".join(leaves([row.id for row in rows], void))
        async with self._chain.sending():
            transaction, transaction_hash = await self._chain.sign_batch(encoded, all_void=all(void))
            batch = StoredBatch(key.key_number, rows[0].number, len(rows), transaction_hash, transaction, tree, None)
            await self._outbox.record_batch(batch)
            await self._chain.send(transaction)
        if await self._chain.outcome(transaction, transaction_hash):
            line.refused = 0
            await self._finish(line, batch)
        else:
            await self._resolve(line, rows, encoded, all_void=all(void))

    async def _finish(self, line: _Line, batch: StoredBatch) -> None:
        """The batch is in a block: keep its proof, and tell who waits."""
        proof = await self._chain.proof(batch.transaction_hash)
        await self._outbox.record_settled(batch.key_number, batch.first, batch.count, proof)
        rows = self._outbox.statements(batch.key_number, batch.first, batch.count)
        for row in rows:
            self._owe(row.columns, -1)
        line.settled = max(line.settled, batch.first + batch.count)
        waiting = line.waiting
        last = None
        while waiting and waiting[0][0] < line.settled:
            last = waiting.popleft()
        if line.depth and last is not None and (not waiting or waiting[0][0] > line.settled):
            waiting.appendleft((line.settled, last[1]))  # a little older than it is: gaps are never understated
        for number in [number for number in line.waiters if number < line.settled]:
            for future in line.waiters.pop(number):
                if not future.done():
                    future.set_result(None)

    async def _resolve(self, line: _Line, rows: list[StoredStatement], encoded: bytes, *, all_void: bool) -> None:
        """Rule 3."""
        line.refused += 1
        refusal = await self._chain.refusal(encoded, all_void=all_void)
        if refusal is None:
            await asyncio.sleep(min(0.05 * line.refused, 1.0))
            return  # the reason is gone: try again
        log.warning("a batch was refused with code %d at %d", refusal.code, refusal.index)
        number = line.key.key_number
        if refusal.code == Code.BOND_INSUFFICIENT:
            await asyncio.sleep(min(0.05 * line.refused, 1.0))  # earlier statements become final, and free their share
        elif refusal.index != WHOLE_BATCH and refusal.index < len(rows):
            row = rows[refusal.index]
            cause = CAUSES.get(refusal.code)
            if cause is None:
                await self._abandon(line, f"code {refusal.code} has no cause to be void")
            elif cause == row.void:
                await self._abandon(line, f"statement {row.number} neither settles nor is void")
            else:
                await self._outbox.set_void(number, [row.number], cause)
        elif refusal.code in (Code.KEY_NOT_SETTLING, Code.KEY_OVERTURNED):
            if self.on_refused is not None:
                self.on_refused(line.key)
            if refusal.code == Code.KEY_OVERTURNED:
                log.critical(
                    "key %s is revoked: an answer of its was overturned; the others are void", line.key.key.hex()
                )
            revoked = await self._chain.key_state(line.key.key) is KeyState.REVOKED
            cause = KEY_REVOKED if revoked else MEASUREMENT_EXPIRED
            await self._outbox.set_void(number, [row.number for row in rows if row.void == 0], cause)
        elif refusal.code == Code.BATCH_NUMBER:
            await self._skip_to(line)
        elif refusal.code == Code.BATCH_TIME and line.refused > 20:
            oldest = min([ended_ms(row.columns) for row in rows if row.void == 0])
            await self._abandon(line, f"statements since {oldest} are outside the settlement window")
        else:
            await asyncio.sleep(min(0.05 * line.refused, 1.0))

    async def _skip_to(self, line: _Line) -> None:
        """The chain is further than we know: the recorded batch must be the one that is in it."""
        following = await self._chain.next_number(line.key.key)
        if following <= line.settled:
            raise AvowError("the chain and the outbox disagree about the next number", next=following)
        await self._reconcile(line)
        if line.settled < following:
            raise AvowError("the chain settled a batch that this node has no record of", next=following)

    async def _abandon(self, line: _Line, why: str) -> None:
        """The last resort of rule 3."""
        log.critical("key %s is revoked: %s", line.key.key.hex(), why)
        await self._chain.revoke(line.key.key)
        rows = self._outbox.statements(line.key.key_number, line.settled, 1 << 31)
        await self._outbox.set_void(
            line.key.key_number, [row.number for row in rows if row.void != UNDELIVERED], KEY_REVOKED
        )
