"""Digests and leaves in bulk, equal to exact/hashing.py's slow ones (rules 1 to 5 there).

A kernel's caller gives scratch memory of `scratch_bytes`: two messages of a chunk each, then a hash per chunk.
"""

import numpy as np

from avow.exact.hashing import CHUNK
from avow.exact.kernels.compilation import WIDTH, Kernel, entry, helper
from avow.exact.kernels.memory import Array, copy_bytes, int64s, uint8s
from avow.exact.kernels.rows import (
    CONTEXT,
    GROWS,
    HASH_SCRATCH,
    KEY,
    LEAVES,
    NUMBER,
    OPERATORS,
    OUT,
    OUT_COUNT,
    OUT_SIZE,
    OUT_STRIDE,
    SAMPLES,
    STEP,
)
from avow.exact.kernels.sha256 import digest_one, digest_two, pad

DIGEST_BYTES = 32
_MESSAGE = 1_152
"""Room for a chunk's message: 0x00 ‖ salt ‖ 1,024 bytes and padding, 17 blocks."""
_NODES = 2 * _MESSAGE
_FULL = 1 + 16 + CHUNK
_FULL_BLOCKS = 17
_TAG = np.frombuffer(b"\x0davow/tensor/1", np.uint8).copy()


def scratch_bytes(length: int) -> int:
    """Scratch memory to digest a tensor of `length` bytes."""
    return _NODES + 32 * (-(-length // CHUNK) + 2) + 64


@helper
def _put_integer(target: int, value: int) -> None:
    """u64, big-endian; a negative value is its two's complement."""
    out = uint8s(target, 8)
    for byte in range(8):
        out[byte] = (value >> (56 - 8 * byte)) & 255


@helper
def fold(nodes: int, count: int, scratch: int) -> None:
    """Hashes of leaves at `nodes`, count ≥ 1 → the RFC 6962 root at `nodes`."""
    first, second = scratch, scratch + 128
    uint8s(first, 1)[0] = 1
    uint8s(second, 1)[0] = 1
    blocks = pad(first, 65)
    pad(second, 65)
    while count > 1:
        pairs = count // 2
        pair = 0
        while pair + 2 <= pairs:
            copy_bytes(first + 1, nodes + 64 * pair, 64)
            copy_bytes(second + 1, nodes + 64 * pair + 64, 64)
            digest_two(first, second, blocks, nodes + 32 * pair, nodes + 32 * pair + 32)
            pair += 2
        if pair < pairs:
            copy_bytes(first + 1, nodes + 64 * pair, 64)
            digest_one(first, blocks, nodes + 32 * pair)
        if count & 1:
            # Through the message buffer, as the two places may be the same.
            copy_bytes(first + 1, nodes + 32 * (count - 1), 32)
            copy_bytes(nodes + 32 * pairs, first + 1, 32)
        count = pairs + (count & 1)


@helper
def _chunk_hashes(data: int, length: int, key: int, slot: int, scratch: int) -> int:
    """Rule 3's leaves of all chunks, after the two messages; how many."""
    first, second, nodes = scratch, scratch + _MESSAGE, scratch + _NODES
    count = (length + CHUNK - 1) // CHUNK
    salts = nodes + 32 * count
    for pair in range((count + 1) // 2):
        copy_bytes(first, key, 32)
        _put_integer(first + 32, slot)
        _put_integer(first + 40, pair)
        digest_one(first, pad(first, 48), salts)
        at = 2 * pair
        left = length - at * CHUNK
        uint8s(first, 1)[0] = 0
        copy_bytes(first + 1, salts, 16)
        size = min(CHUNK, left)
        copy_bytes(first + 17, data + at * CHUNK, size)
        blocks = pad(first, 17 + size)
        if left <= CHUNK:
            digest_one(first, blocks, nodes + 32 * at)
            continue
        uint8s(second, 1)[0] = 0
        copy_bytes(second + 1, salts + 16, 16)
        size = min(CHUNK, left - CHUNK)
        copy_bytes(second + 17, data + (at + 1) * CHUNK, size)
        others = pad(second, 17 + size)
        if others == blocks:
            digest_two(first, second, blocks, nodes + 32 * at, nodes + 32 * at + 32)
        else:
            digest_one(first, blocks, nodes + 32 * at)
            digest_one(second, others, nodes + 32 * at + 32)
    return count


@helper
def digest_tensor(data: int, length: int, key: int, slot: int, scratch: int, target: int) -> None:
    """The digest of a run's tensor of length ≥ 1: 32 bytes at `target`."""
    nodes = scratch + _NODES
    fold(nodes, _chunk_hashes(data, length, key, slot, scratch), scratch)
    out = uint8s(scratch, 14)
    for byte in range(14):
        out[byte] = _TAG[byte]
    _put_integer(scratch + 14, length)
    copy_bytes(scratch + 22, nodes, 32)
    digest_one(scratch, pad(scratch, 54), target)


def _record(row: int, context: int) -> None:
    """Leaves of a row's output, one for each sample of the pass."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    length = p[OUT_COUNT] * p[OUT_SIZE]
    if p[GROWS]:
        length *= c[STEP] + 1
    for sample in range(c[SAMPLES]):
        leaf = (c[STEP] + sample) * c[OPERATORS] + p[NUMBER]
        digest_tensor(
            p[OUT] + sample * p[OUT_STRIDE], length, c[KEY], leaf, c[HASH_SCRATCH], c[LEAVES] + DIGEST_BYTES * leaf
        )  # fmt: skip


RECORD_KERNEL = Kernel(_record)


@entry
def digest(data: Array, key: Array, slot: int, scratch: Array, target: Array) -> None:
    """`digest_tensor` for Python: arrays of uint8, of which `data` has at least one byte and `scratch` `scratch_bytes` of it."""
    digest_tensor(data.ctypes.data, len(data), key.ctypes.data, slot, scratch.ctypes.data, target.ctypes.data)


@entry
def leaves_root(leaves: Array, count: int, nodes: Array) -> None:
    """The RFC 6962 root over the first `count` ≥ 1 rows of leaves, uint8[…, 32]: at the begin of `nodes`, uint8[32 · count + 256]."""
    message = nodes.ctypes.data + 32 * count
    for number in range(count):
        uint8s(message, 1)[0] = 0
        copy_bytes(message + 1, leaves.ctypes.data + 32 * number, 32)
        digest_one(message, pad(message, 33), nodes.ctypes.data + 32 * number)
    fold(nodes.ctypes.data, count, message)
