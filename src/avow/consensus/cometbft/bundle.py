"""Several transactions as one item of CometBFT's mempool, so that gossip costs one message for all of them.

Rules:
1. A bundle is the byte 0xA0, then per transaction its length as a varint and its bytes; two transactions or more. No transaction
   begins with 0xA0: a typed one begins below 0x80 (EIP-2718), a legacy one with 0xC0 or above.
2. A bundle is never in a block: proposals are made of the transactions themselves, from the application's own pool, and a block with
   anything that is no transaction is refused.

Pure.
"""

from collections.abc import Iterable, Iterator

from avow.consensus.cometbft.errors import ProtocolFault
from avow.consensus.cometbft.wire import read_varint
from avow.receipt.protobuf import varint

MARK = 0xA0
MAX_BUNDLED = 4_096
MAX_BYTES = 256 * 1024
"""A bundle is closed beyond this size; one transaction may be larger by itself."""


def is_bundle(data: bytes) -> bool:
    return data[:1] == b"\xa0"


def encode_bundles(txs: Iterable[bytes]) -> Iterator[bytes]:
    """The items that carry these transactions, in order: bundles, and single ones as they are."""
    batch: list[bytes] = []
    size = 0
    for tx in txs:
        if batch and (size + len(tx) > MAX_BYTES or len(batch) == MAX_BUNDLED):
            yield _encode(batch)
            batch, size = [], 0
        batch.append(tx)
        size += len(tx)
    if batch:
        yield _encode(batch)


def _encode(txs: list[bytes]) -> bytes:
    if len(txs) == 1:
        return txs[0]
    return bytes((MARK,)) + b"".join([varint(len(tx)) + tx for tx in txs])


def decode_bundle(data: bytes) -> list[bytes]:
    """The transactions of a bundle. Raises ProtocolFault."""
    if not is_bundle(data):
        raise ProtocolFault("not a bundle")
    txs: list[bytes] = []
    at = 1
    while at < len(data):
        length, at = read_varint(data, at)
        if not 0 < length <= len(data) - at or len(txs) == MAX_BUNDLED:
            raise ProtocolFault("a bundle is cut off, holds nothing, or too much")
        txs.append(data[at : at + length])
        at += length
    if len(txs) < 2:
        raise ProtocolFault("a bundle holds fewer than two transactions")
    return txs
