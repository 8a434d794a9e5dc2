"""Batches whose signature was verified by this process: a batch is met when it is checked, when it is proposed, and in its block.

Rules:
1. An entry follows from the batch's bytes, its key, the chain and the head before it alone; only what held is kept. So it saves
   work and changes no verdict, and what is charged for the work stays the same.
2. At most MAX_STATEMENTS hashes are kept; the oldest batches go first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from avow.chain.modules.batch import Batch
from avow.receipt.standing import KeyRecord
from avow.receipt.statement import statement_payload, verify_signature

MAX_STATEMENTS = 1 << 18


@dataclass(frozen=True, slots=True)
class VerifiedBatch:
    """Statement hashes, the head after the last, and the root that settles them."""

    statements: Sequence[bytes]
    head: bytes
    root: bytes


_Key = tuple[bytes, bytes, str, int, bytes]
_kept: OrderedDict[_Key, VerifiedBatch] = OrderedDict()
_count = 0


def verify_batch(chain_id: str, data: bytes, batch: Batch, record: KeyRecord, head: bytes) -> VerifiedBatch:
    """`batch` is `data`, `head` the one before its first statement. Raises BadSignature."""
    key = (sha256(data).digest(), record.signing_key, chain_id, int(record.method), head)
    found = _kept.get(key)
    if found is None:
        statements, last_head = batch.hash(record.method, head)
        payload = statement_payload(chain_id, batch.key, batch.first + len(batch) - 1, statements[-1], last_head)
        verify_signature(record.signing_key, payload, batch.signature)
        found = VerifiedBatch(statements, last_head, batch.root(statements))
        _keep(key, found)
    return found


def _keep(key: _Key, found: VerifiedBatch) -> None:
    """Rule 2."""
    global _count  # noqa: PLW0603  # one for the process: the entries depend on nothing else of it
    _kept[key] = found
    _count += len(found.statements)
    while _count > MAX_STATEMENTS:
        _, oldest = _kept.popitem(last=False)
        _count -= len(oldest.statements)
