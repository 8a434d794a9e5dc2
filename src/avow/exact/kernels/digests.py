"""Digests and leaves in bulk, equal to exact/hashing.py's slow ones (rules 1 to 5 there).

A kernel's caller gives scratch memory of `scratch_bytes`: one message, then a hash and a salt for each chunk.
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
    LAST,
    LEAVES,
    LEAVES_OF_STEP,
    OUT,
    OUT_COUNT,
    OUT_SIZE,
    OUT_STRIDE,
    SAMPLES,
    STEP,
)
from avow.exact.kernels.sha256 import (
    digest_message,
    digest_two_chunks,
    digest_two_leaves,
    digest_two_nodes,
    has_instructions,
    pad,
)

DIGEST_BYTES = 32
_NODES = 1_152
"""Room for a chunk's message: 0x00 ‖ salt ‖ 1,024 bytes and padding, 17 blocks."""
_TAG = np.frombuffer(b"\x0davow/tensor/1", np.uint8).copy()


def scratch_bytes(length: int) -> int:
    """Scratch memory to digest a tensor of `length` bytes."""
    return _NODES + 48 * (-(-length // CHUNK) + 3) + 64


@helper
def _put_integer(target: int, value: int) -> None:
    """u64, big-endian; a negative value is its two's complement."""
    out = uint8s(target, 8)
    for byte in range(8):
        out[byte] = (value >> (56 - 8 * byte)) & 255


@helper
def _node(pair: int, target: int, scratch: int) -> None:
    uint8s(scratch, 1)[0] = 1
    copy_bytes(scratch + 1, pair, 64)
    digest_message(scratch, pad(scratch, 65), target)


@helper
def fold(nodes: int, count: int, scratch: int) -> None:
    """Hashes of leaves at `nodes`, count ≥ 1 → the RFC 6962 root at `nodes`."""
    while count > 1:
        pairs = count // 2
        pair = 0
        if has_instructions():
            while pair + 2 <= pairs:
                at, to = nodes + 64 * pair, nodes + 32 * pair
                digest_two_nodes(at, at + 64, to, to + 32)
                pair += 2
        while pair < pairs:
            _node(nodes + 64 * pair, nodes + 32 * pair, scratch)
            pair += 1
        if count & 1:
            # Through the message buffer, as the two places may be the same.
            copy_bytes(scratch, nodes + 32 * (count - 1), 32)
            copy_bytes(nodes + 32 * pairs, scratch, 32)
        count = pairs + (count & 1)


@helper
def _chunk(salt: int, data: int, size: int, target: int, scratch: int) -> None:
    uint8s(scratch, 1)[0] = 0
    copy_bytes(scratch + 1, salt, 16)
    copy_bytes(scratch + 17, data, size)
    digest_message(scratch, pad(scratch, 17 + size), target)


@helper
def _chunk_hashes(data: int, length: int, key: int, slot: int, scratch: int) -> int:
    """Rule 3's leaves of all chunks, behind the message; how many."""
    nodes = scratch + _NODES
    count = (length + CHUNK - 1) // CHUNK
    salts = nodes + 32 * (count + 1)
    copy_bytes(scratch, key, 32)
    _put_integer(scratch + 32, slot)
    for pair in range((count + 1) // 2):
        _put_integer(scratch + 40, pair)
        digest_message(scratch, pad(scratch, 48), salts + 32 * pair)
    at = 0
    if has_instructions():
        while (at + 2) * CHUNK <= length:
            chunk, salt, node = data + at * CHUNK, salts + 16 * at, nodes + 32 * at
            digest_two_chunks(salt, salt + 16, chunk, chunk + CHUNK, node, node + 32)
            at += 2
    while at < count:
        _chunk(salts + 16 * at, data + at * CHUNK, min(CHUNK, length - at * CHUNK), nodes + 32 * at, scratch)
        at += 1
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
    digest_message(scratch, pad(scratch, 54), target)


def _record(row: int, context: int) -> None:
    """Leaves of a row's output, one for each sample of the pass."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    length = p[OUT_COUNT] * p[OUT_SIZE]
    if p[GROWS]:
        length *= c[STEP] + 1
    for sample in range(c[SAMPLES]):
        leaf = (c[STEP] + sample) * c[LEAVES_OF_STEP] + p[LAST] - 1
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
    first, hashes = leaves.ctypes.data, nodes.ctypes.data
    message = hashes + 32 * count
    at = 0
    if has_instructions():
        while at + 2 <= count:
            digest_two_leaves(first + 32 * at, first + 32 * at + 32, hashes + 32 * at, hashes + 32 * at + 32)
            at += 2
    while at < count:
        uint8s(message, 1)[0] = 0
        copy_bytes(message + 1, first + 32 * at, 32)
        digest_message(message, pad(message, 33), hashes + 32 * at)
        at += 1
    fold(hashes, count, message)
