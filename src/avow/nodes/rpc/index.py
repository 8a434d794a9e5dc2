"""Where transactions, blocks and logs are found again: records beside the blocks, written in the same transaction.

Rules:
1. A transaction is found by keccak-256 of its bytes, a block by its hash, logs by height.
2. One record holds the logs of one block, and only blocks with logs have one; a search reads those of its range.
3. A batch is found by its key and first number: its place in the history, and the height at which it settled.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from avow.chain.host import Log
from avow.chain.modules import settlement
from avow.chain.proposal import event_log
from avow.chain.state import Store
from avow.chain.transaction import transaction_hash
from avow.consensus.block import Decided
from avow.receipt.encoding import decode, encode_trusted

_TRANSACTION = b"index/transaction/"
_BLOCK = b"index/block/"
_LOGS = b"index/logs/"
_BATCH = b"index/batch/"
_MAX_RECORD = 64 * 1024 * 1024
_SETTLED = settlement.MODULE.interface.events["Settled"]


@dataclass(frozen=True, slots=True)
class FoundLog:
    """A log and its place: `log_index` counts over the block."""

    height: int
    index: int
    log_index: int
    transaction_hash: bytes
    log: Log


@dataclass(frozen=True, slots=True)
class FoundBatch:
    """A settled batch's place in the history (leaf `history_index`) and what its leaf binds."""

    height: int
    first: int
    count: int
    root: bytes
    history_index: int


def block_records(block: Decided) -> Iterable[tuple[bytes, bytes | None]]:
    """What is written with a block."""
    height = block.height.to_bytes(8)
    yield _BLOCK + block.header.hash, height
    logs: list[Any] = []
    for index, (raw, result) in enumerate(zip(block.txs, block.results, strict=True)):
        digest = transaction_hash(raw)
        yield _TRANSACTION + digest, height + index.to_bytes(4)
        for log in map(event_log, result.events):
            if log is None:
                continue
            logs.append([index, digest, log.address, list(log.topics), log.data])
            yield from _batch_record(block.height, log)
    if logs:
        yield _LOGS + height, encode_trusted(logs)


def _batch_record(height: int, log: Log) -> Iterable[tuple[bytes, bytes | None]]:
    if log.address != settlement.ADDRESS or log.topics[0] != _SETTLED.topic:
        return
    first, count, root, _, history_index = _SETTLED.decode_data(log.data)
    record = encode_trusted([height, first, count, root, history_index])
    yield _BATCH + log.topics[1] + first.to_bytes(8), record


class Index:
    """Reading the records back."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def transaction(self, digest: bytes) -> tuple[int, int] | None:
        """Height and place in the block."""
        record = self._store.record(_TRANSACTION + digest)
        return None if record is None else (int.from_bytes(record[:8]), int.from_bytes(record[8:]))

    def block(self, digest: bytes) -> int | None:
        record = self._store.record(_BLOCK + digest)
        return None if record is None else int.from_bytes(record)

    def batch(self, key: bytes, number: int) -> FoundBatch | None:
        """The batch that settled statement `number` of `key`."""
        # Batches of a key follow one another: the one with the greatest first number up to `number`.
        found: FoundBatch | None = None
        low, step = number, 1
        while found is None:
            for name, record in self._store.records(_BATCH + key, start=low.to_bytes(8)):
                if int.from_bytes(name[-8:]) > number:
                    break
                found = FoundBatch(*cast("list[Any]", decode(record)))
            if low == 0:
                break
            low, step = max(0, low - step), step * 2
        return found if found is not None and number < found.first + found.count else None

    def logs(self, first: int, last: int) -> Iterator[FoundLog]:
        """Every log from height `first` to `last`, in order."""
        for name, record in self._store.records(_LOGS, start=first.to_bytes(8)):
            height = int.from_bytes(name[-8:])
            if height > last:
                return
            entries = cast("list[Any]", decode(record, max_bytes=_MAX_RECORD))
            for log_index, (index, digest, address, topics, data) in enumerate(entries):
                yield FoundLog(height, index, log_index, digest, Log(address, tuple(topics), data))
