"""Transactions that wait for a block, in order of arrival.

Rules:
1. A transaction is in the pool once, by the hash of its bytes.
2. It is acknowledged only when it is durable: written to the store's records, or in a committed block.
3. After each block the application checks what is left again, in order; what it refuses is dropped: logged, and told to who asks for
   as long as it is among the last MAX_DROPPED of this process.
4. The pool is bounded in number and bytes; beyond, `PoolFull`.
5. A transaction on which the application fails must not stop the chain for ever. After a failed block of several, blocks
   hold half as many until all of those went through; one that fails alone is set aside: kept on disk for people, waiting
   no more.

Records: "pool/" ‖ u64 (order of arrival) → transaction; "set-aside/" ‖ u64 → transaction; "pool-limit" → u32, how many
transactions a block may hold, ‖ u64, the last suspect's order of arrival (absent: any number).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from avow.chain.abci import CODE_OK, Application, CheckTxRequest, CheckTxType, total_bytes
from avow.chain.state import StateError, Store
from avow.chain.transaction import transaction_hash
from avow.consensus.errors import PoolFull, TransactionTooLarge

log = logging.getLogger(__name__)

_POOL = b"pool/"
_SET_ASIDE = b"set-aside/"
_LIMIT = b"pool-limit"
MAX_TRANSACTIONS = 5_000
MAX_POOL_BYTES = 64 * 1024 * 1024
MAX_DROPPED = 4_096

Writes = list[tuple[bytes, bytes | None]]


@dataclass(slots=True)
class Waiting:
    """One transaction. `stored`: whether its record is written."""

    sequence: int
    tx: bytes
    stored: bool

    @property
    def record_key(self) -> bytes:
        return _POOL + self.sequence.to_bytes(8)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a transaction waits no more: the application's code, and its words. Code 0: the application failed on it (rule 5)."""

    code: int
    detail: str


class Pool:
    """The waiting transactions; what is to be written about them is handed to the caller's transaction."""

    def __init__(self, max_tx_bytes: int) -> None:
        self._max_tx_bytes = max_tx_bytes
        self._waiting: dict[bytes, Waiting] = {}
        self._sequence = 0
        self._size = 0
        self._limit: int | None = None
        self._last_suspect = 0
        self._dropped: dict[bytes, Dropped] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._waiting

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """(digest, transaction) in order of arrival; a copy, so that dropping while iterating is safe."""
        return iter([(digest, item.tx) for digest, item in self._waiting.items()])

    @property
    def size(self) -> int:
        return self._size

    def load(self, store: Store) -> None:
        """Take back what was waiting when the process ended."""
        for key, tx in store.records(_POOL):
            sequence = int.from_bytes(key[len(_POOL) :])
            self._sequence = max(self._sequence, sequence + 1)
            self._waiting[sha256(tx).digest()] = Waiting(sequence, tx, stored=True)
            self._size += len(tx)
        limit = store.record(_LIMIT)
        if limit is not None:
            self._limit, self._last_suspect = int.from_bytes(limit[:4]), int.from_bytes(limit[4:])
        for key, _ in store.records(_SET_ASIDE):
            self._sequence = max(self._sequence, int.from_bytes(key[len(_SET_ASIDE) :]) + 1)

    def check_room(self, tx: bytes) -> None:
        """Raises TransactionTooLarge or PoolFull."""
        size = total_bytes((tx,))
        if size > self._max_tx_bytes:
            raise TransactionTooLarge("the transaction fits into no block", size=size, limit=self._max_tx_bytes)
        if len(self._waiting) >= MAX_TRANSACTIONS or self._size + len(tx) > MAX_POOL_BYTES:
            raise PoolFull("too many transactions are waiting", waiting=len(self._waiting))

    def add(self, digest: bytes, tx: bytes) -> None:
        if self._dropped:
            self._dropped.pop(transaction_hash(tx), None)
        self._waiting[digest] = Waiting(self._sequence, tx, stored=False)
        self._sequence += 1
        self._size += len(tx)

    def propose(self) -> tuple[bytes, ...]:
        """What fits into the next block, in order."""
        chosen: list[bytes] = []
        size = 0
        for item in self._waiting.values():
            size += total_bytes((item.tx,))
            if size > self._max_tx_bytes or len(chosen) == self._limit:
                break
            chosen.append(item.tx)
        return tuple(chosen)

    def get(self, digest: bytes) -> bytes | None:
        """The transaction, if it waits."""
        item = self._waiting.get(digest)
        return None if item is None else item.tx

    def unstored(self, digests: Iterable[bytes] | None = None) -> list[tuple[bytes, Waiting]]:
        """Those without a record; of `digests` alone when they are given."""
        if digests is None:
            return [(digest, item) for digest, item in self._waiting.items() if not item.stored]
        found = [(digest, self._waiting.get(digest)) for digest in digests]
        return [(digest, item) for digest, item in found if item is not None and not item.stored]

    def failed(self, digests: Sequence[bytes]) -> Writes:
        """Rule 5, after a block of these failed; gives the records to write."""
        if len(digests) > 1:
            self._limit = len(digests) // 2
            suspects = [self._waiting[digest].sequence for digest in digests if digest in self._waiting]
            self._last_suspect = max(suspects, default=0)
            return [(_LIMIT, self._limit.to_bytes(4) + self._last_suspect.to_bytes(8))]
        return self.set_aside(digests)

    def set_aside(self, digests: Iterable[bytes]) -> Writes:
        """Rule 5, for transactions that fail alone."""
        writes: Writes = []
        for digest in digests:
            item = self._waiting.get(digest)
            if item is not None:
                writes += self.drop(digest, Dropped(CODE_OK, "set aside: the application failed on it"))
                writes.append((_SET_ASIDE + item.sequence.to_bytes(8), item.tx))
        return writes

    def succeeded(self) -> Writes:
        """After a block: the limit is lifted once no suspect waits any more."""
        if self._limit is None or any(item.sequence <= self._last_suspect for item in self._waiting.values()):
            return []
        self._limit = None
        return [(_LIMIT, None)]

    def drop(self, digest: bytes, why: Dropped) -> Writes:
        """Rule 3's end of a transaction that waits; gives the record to remove."""
        tx = self._waiting[digest].tx
        identity = transaction_hash(tx)
        log.warning("transaction 0x%s is dropped (code %d): %s", identity.hex(), why.code, why.detail)
        self._dropped[identity] = why
        if len(self._dropped) > MAX_DROPPED:
            del self._dropped[next(iter(self._dropped))]
        return self.remove((digest,))

    def dropped(self, identity: bytes) -> Dropped | None:
        """Why the transaction of this hash (Ethereum's) was dropped; None where it was not, or that is long ago."""
        return self._dropped.get(identity)

    def remove(self, digests: Iterable[bytes]) -> Writes:
        """Forget these; gives the records to remove."""
        writes: Writes = []
        for digest in digests:
            item = self._waiting.pop(digest, None)
            if item is not None:
                self._size -= len(item.tx)
                if item.stored:
                    writes.append((item.record_key, None))
        return writes


def reopen(pool: Pool, application: Application) -> Writes:
    """Check again what waited when the last process ended; what the application fails on is set aside (rule 5)."""
    writes: Writes = []
    for digest, tx in pool:
        try:
            response = application.check_tx(CheckTxRequest(tx))
        except Exception as error:
            if not is_suspect(error):
                raise
            writes += pool.set_aside((digest,))
        else:
            if response.code != CODE_OK:
                writes += pool.drop(digest, Dropped(response.code, response.log))
    return writes


def recheck(pool: Pool, application: Application) -> Writes:
    """Rule 3. What is dropped here was acknowledged; it is the chain that made it void, and says so."""
    writes: Writes = []
    for digest, tx in pool:
        response = application.check_tx(CheckTxRequest(tx, CheckTxType.RECHECK))
        if response.code != CODE_OK:
            writes += pool.drop(digest, Dropped(response.code, response.log))
    return writes


def is_suspect(error: Exception) -> bool:
    """Whether a transaction may be why the application failed: not the machine's own store or memory."""
    return not isinstance(error, StateError | MemoryError | OSError)
