"""Digests of small tensors, some at a time: hashing goes two messages at once (sha256.py, rule 2), and a small tensor is few messages that
wait for each other.

Rules:
1. A stage is memory that tensors of at most SMALL bytes are copied to, chunk by chunk as padded messages: their places may be used again
   before they are hashed.
2. `settle` hashes all of them in waves: salts, chunks, nodes, digests; within a wave no message waits for another. Whoever stages
   settles before the leaves are read. A stage that is full settles by itself.
3. The digests are exact/hashing.py's (rules 1 to 4 there).
"""

import numpy as np

from avow.exact.hashing import CHUNK
from avow.exact.kernels.compilation import helper
from avow.exact.kernels.memory import copy_bytes, int64s, uint8s
from avow.exact.kernels.sha256 import digest_message, digest_two, digest_two_nodes, has_instructions, pad

SMALL = 4 * CHUNK
"""Bytes of a tensor that may be staged, at most: four chunks, two blocks of salts, two levels of nodes."""
PLACES = 16
"""Tensors, and chunks, of a stage."""

# Where a stage has what.
_COUNTS = 0
"""int64: tensors, chunks, salt messages."""
_TENSORS = 64
"""int64[PLACES][8]: first chunk, chunks, first salt message, target."""
_BLOCKS = _TENSORS + 64 * PLACES
"""int64[PLACES]: of each chunk's message."""
_SALTS = _BLOCKS + 8 * PLACES
_SALT_DIGESTS = _SALTS + 64 * PLACES
_NODES = _SALT_DIGESTS + 32 * PLACES
_DIGESTS = _NODES + 32 * PLACES
_MESSAGES = _DIGESTS + 64 * PLACES
_MESSAGE = 64 + 17 * 64 + 64
"""Room before a chunk's message, then 17 blocks of it at most."""
STAGE_BYTES = _MESSAGES + _MESSAGE * PLACES + 128

_TAG = np.frombuffer(b"\x0davow/tensor/1", np.uint8).copy()
_NOTHING = np.zeros(80, np.uint8)


@helper
def put_integer(target: int, value: int) -> None:
    """u64, big-endian; a negative value is its two's complement."""
    out = uint8s(target, 8)
    for byte in range(8):
        out[byte] = (value >> (56 - 8 * byte)) & 255


@helper
def put_tag(target: int) -> None:
    """How the message of a tensor's digest begins: 14 bytes."""
    copy_bytes(target, _TAG.ctypes.data, 14)


@helper
def begin_stage(stage: int) -> None:
    """Nothing is staged."""
    counts = int64s(stage, 3)
    counts[0] = counts[1] = counts[2] = 0


@helper
def _chunk_message(message: int, data: int, size: int) -> int:
    """0x00, room for a salt, a chunk, the padding; the number of blocks."""
    blocks = (size + 17 + 9 + 63) // 64
    end = message + 64 * blocks
    copy_bytes(end - 80, _NOTHING.ctypes.data, 80)
    uint8s(message, 1)[0] = 0
    copy_bytes(message + 17, data, size)
    uint8s(message + 17 + size, 1)[0] = 0x80
    put_integer(end - 8, 8 * (17 + size))
    return blocks


@helper
def _one_block(message: int, length: int) -> None:
    """The padding of a message of one block, whose bytes from 48 on are not yet written."""
    copy_bytes(message + 48, _NOTHING.ctypes.data, 16)
    uint8s(message + length, 1)[0] = 0x80
    put_integer(message + 56, 8 * length)


@helper
def stage_tensor(stage: int, data: int, length: int, key: int, slot: int, target: int) -> None:
    """A tensor of 1 to SMALL bytes, whose digest `settle` puts at `target`."""
    chunks = (length + CHUNK - 1) // CHUNK
    counts = int64s(stage, 3)
    if counts[0] == PLACES or counts[1] + chunks > PLACES:
        settle(stage)
    tensor, first, salt = counts[0], counts[1], counts[2]
    entry = int64s(stage + _TENSORS + 64 * tensor, 4)
    entry[0], entry[1], entry[2], entry[3] = first, chunks, salt, target
    blocks = int64s(stage + _BLOCKS, PLACES)
    for chunk in range(chunks):
        message = stage + _MESSAGES + _MESSAGE * (first + chunk) + 64
        size = min(CHUNK, length - CHUNK * chunk)
        blocks[first + chunk] = _chunk_message(message, data + CHUNK * chunk, size)
    for pair in range((chunks + 1) // 2):
        message = stage + _SALTS + 64 * salt
        copy_bytes(message, key, 32)
        put_integer(message + 32, slot)
        put_integer(message + 40, pair)
        _one_block(message, 48)
        salt += 1
    message = stage + _DIGESTS + 64 * tensor
    put_tag(message)
    put_integer(message + 14, length)
    counts[0], counts[1], counts[2] = tensor + 1, first + chunks, salt


@helper
def _salts(stage: int, tensors: int, salts: int) -> None:
    """The first wave: each chunk's salt into its message."""
    at = 0
    while at + 2 <= salts:
        message, digest = stage + _SALTS + 64 * at, stage + _SALT_DIGESTS + 32 * at
        digest_two(message, message + 64, 1, 1, digest, digest + 32)
        at += 2
    if at < salts:
        digest_message(stage + _SALTS + 64 * at, 1, stage + _SALT_DIGESTS + 32 * at)
    for tensor in range(tensors):
        entry = int64s(stage + _TENSORS + 64 * tensor, 3)
        for chunk in range(entry[1]):
            message = stage + _MESSAGES + _MESSAGE * (entry[0] + chunk) + 64
            copy_bytes(message + 1, stage + _SALT_DIGESTS + 32 * entry[2] + 16 * chunk, 16)


@helper
def _chunks(stage: int, chunks: int) -> None:
    """The second wave: whole chunks by two, and parts of chunks; what is left of both together."""
    blocks = int64s(stage + _BLOCKS, PLACES)
    whole, part = -1, -1
    messages, nodes = stage + _MESSAGES + 64, stage + _NODES
    for chunk in range(chunks + 1):
        if chunk == chunks:
            other, this = whole, part
            if other < 0:
                other, this = part, whole
            if other < 0:
                return
            if this < 0:
                digest_message(messages + _MESSAGE * other, blocks[other], nodes + 32 * other)
                return
        else:
            this = chunk
            other = whole if blocks[chunk] == 17 else part
            if blocks[chunk] == 17:
                whole = chunk if other < 0 else -1
            else:
                part = chunk if other < 0 else -1
        if other >= 0:
            digest_two(
                messages + _MESSAGE * this, messages + _MESSAGE * other, blocks[this], blocks[other], nodes + 32 * this, nodes + 32 * other
            )  # fmt: skip


@helper
def digest_node(pair: int, target: int, scratch: int) -> None:
    """RFC 6962's hash of two hashes that stand one behind the other."""
    uint8s(scratch, 1)[0] = 1
    copy_bytes(scratch + 1, pair, 64)
    digest_message(scratch, pad(scratch, 65), target)


@helper
def _two_nodes(pair: int, other: int, target: int, other_target: int, scratch: int) -> None:
    if has_instructions():
        digest_two_nodes(pair, other, target, other_target)
    else:
        digest_node(pair, target, scratch)
        digest_node(other, other_target, scratch)


@helper
def _nodes(stage: int, tensors: int) -> None:
    """Two waves: the root of a tensor of several chunks is where the hash of its second chunk was."""
    scratch = stage + _MESSAGES + 64  # the chunks are hashed
    for level in range(2):
        held, held_target = 0, 0
        for tensor in range(tensors):
            entry = int64s(stage + _TENSORS + 64 * tensor, 2)
            first = stage + _NODES + 32 * entry[0]
            count = entry[1]
            # Level 0: (0, 1) → 1 and (2, 3) → 2; level 1: (1, 2) → 1.
            jobs = count // 2 if level == 0 else int(count > 2)
            for job in range(jobs):
                pair, target = (first + 64 * job, first + 32 * (job + 1)) if level == 0 else (first + 32, first + 32)
                if held:
                    _two_nodes(held, pair, held_target, target, scratch)
                    held = 0
                else:
                    held, held_target = pair, target
        if held:
            digest_node(held, held_target, scratch)


@helper
def _ends(stage: int, tensors: int) -> None:
    """The last wave: the digests."""
    held, held_target = 0, 0
    for tensor in range(tensors):
        entry = int64s(stage + _TENSORS + 64 * tensor, 4)
        message = stage + _DIGESTS + 64 * tensor
        copy_bytes(message + 22, stage + _NODES + 32 * (entry[0] + int(entry[1] > 1)), 32)
        uint8s(message + 54, 1)[0] = 0x80
        uint8s(message + 55, 1)[0] = 0
        put_integer(message + 56, 8 * 54)
        if held:
            digest_two(held, message, 1, 1, held_target, entry[3])
            held = 0
        else:
            held, held_target = message, entry[3]
    if held:
        digest_message(held, 1, held_target)


@helper
def settle(stage: int) -> None:
    """Rule 2."""
    counts = int64s(stage, 3)
    tensors = counts[0]
    if tensors == 0:
        return
    _salts(stage, tensors, counts[2])
    _chunks(stage, counts[1])
    _nodes(stage, tensors)
    _ends(stage, tensors)
    begin_stage(stage)
