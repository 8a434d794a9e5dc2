"""Digests and leaves in bulk, equal to exact/hashing.py's slow ones (rules 1 to 5 there).

A kernel's caller gives scratch memory of `scratch_bytes`: a stage (stage.py), then one message, a hash and a salt for each chunk.
"""

from collections.abc import Iterator

from avow.exact.hashing import CHUNK, INPUT_SLOT, OUTPUT_SLOT
from avow.exact.kernels.blanks import BLOCK, ENTRY, KEY_AT, ROOT_AT, SALTS_AT, Blank
from avow.exact.kernels.compilation import WIDTH, Kernel, entry, helper
from avow.exact.kernels.memory import Array, call_kernel, copy_bytes, int64s, uint8s
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
from avow.exact.kernels.stage import (
    SMALL,
    STAGE_BYTES,
    begin_stage,
    digest_node,
    put_integer,
    put_tag,
    settle,
    stage_tensor,
)

DIGEST_BYTES = 32
_NODES = 1_152
"""Room for a chunk's message: 0x00 ‖ salt ‖ 1,024 bytes and padding, 17 blocks."""


def scratch_bytes(length: int) -> int:
    """Scratch memory to digest tensors of at most `length` bytes: a stage, then what one that is not small needs."""
    return STAGE_BYTES + _NODES + 48 * (-(-length // CHUNK) + 3) + 64


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
            digest_node(nodes + 64 * pair, nodes + 32 * pair, scratch)
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
    put_integer(scratch + 32, slot)
    for pair in range((count + 1) // 2):
        put_integer(scratch + 40, pair)
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
    """The digest of a run's tensor: 32 bytes at `target`."""
    nodes = scratch + _NODES
    if length:
        fold(nodes, _chunk_hashes(data, length, key, slot, scratch), scratch)
    else:
        digest_message(scratch, pad(scratch, 0), nodes)
    put_tag(scratch)
    put_integer(scratch + 14, length)
    copy_bytes(scratch + 22, nodes, 32)
    digest_message(scratch, pad(scratch, 54), target)


@helper
def record_leaf(c: Array, data: int, length: int, leaf: int) -> None:
    """The leaf of a tensor; of a small one when the pass ends."""
    target = c[LEAVES] + DIGEST_BYTES * leaf
    if 0 < length <= SMALL:
        stage_tensor(c[HASH_SCRATCH], data, length, c[KEY], leaf, target)
    else:
        digest_tensor(data, length, c[KEY], leaf, c[HASH_SCRATCH] + STAGE_BYTES, target)


def _record(row: int, context: int) -> None:
    """Leaves of a row's output, one for each sample of the pass. Row 0: the pass ends."""
    c = int64s(context, CONTEXT)
    if row == 0:
        settle(c[HASH_SCRATCH])
        return
    p = int64s(row, WIDTH)
    length = p[OUT_COUNT] * p[OUT_SIZE]
    if p[GROWS]:
        length *= c[STEP] + 1
    for sample in range(c[SAMPLES]):
        leaf = (c[STEP] + sample) * c[LEAVES_OF_STEP] + p[LAST] - 1
        record_leaf(c, p[OUT] + sample * p[OUT_STRIDE], length, leaf)


RECORD_KERNEL = Kernel(_record)


@entry
def digest(data: Array, key: Array, slot: int, scratch: Array, target: Array) -> None:
    """`digest_tensor` for Python: arrays of uint8, of which `scratch` has `scratch_bytes` of `data`'s length."""
    digest_tensor(data.ctypes.data, len(data), key.ctypes.data, slot, scratch.ctypes.data, target.ctypes.data)


@helper
def root_of(leaves: int, count: int, nodes: int) -> None:
    """The RFC 6962 root over `count` ≥ 1 leaves of 32 bytes: at the begin of `nodes`, 32 · count + 256 bytes."""
    message = nodes + 32 * count
    at = 0
    if has_instructions():
        while at + 2 <= count:
            first, target = leaves + 32 * at, nodes + 32 * at
            digest_two_leaves(first, first + 32, target, target + 32)
            at += 2
    while at < count:
        uint8s(message, 1)[0] = 0
        copy_bytes(message + 1, leaves + 32 * at, 32)
        digest_message(message, pad(message, 33), nodes + 32 * at)
        at += 1
    fold(nodes, count, message)


@entry
def leaves_root(leaves: Array, count: int, nodes: Array) -> None:
    """`root_of` for Python: of the first `count` ≥ 1 rows of leaves, uint8[…, 32]; nodes are uint8[32 · count + 256]."""
    root_of(leaves.ctypes.data, count, nodes.ctypes.data)


# --- Blanks (blanks.py) filled in -----------------------------------------------------------------------------------

# Slots of a form, int64: what is filled in with what. Behind them, END slots for each program input and output.
BLANK, BLANK_BYTES, WORK, SEAL_KEY, SEAL_LEAVES, SEAL_COUNT, ENDS, FORM_STEPS, FORM_RECORD, FORM_SEAL = range(10)
"""Addresses of a blank and of `seal_bytes` to copy it into; the key; how many leaves; how many ends; of a run that is sealed
(dispatch.run_sealed) its steps, and the addresses of two kernels."""
FORM = 10
END_DATA, END_BYTES, END_SLOT, END_PLACE = range(4)
"""An end's address and length, its slot, and where in the blank its digest goes."""
END = 4


def seal_bytes(blank: int, count: int, longest: int) -> int:
    """What is worked in, for so many bytes of a blank, leaves, and bytes of the longest input or output."""
    return blank + DIGEST_BYTES + max(scratch_bytes(longest), 32 * count + 256)


def _seal(form: int, context: int) -> None:  # noqa: ARG001 : kernels have two addresses
    """A blank's copy filled in, and behind it the trace's hash."""
    f = int64s(form, FORM)
    base, size = f[WORK], f[BLANK_BYTES]
    scratch = base + size + DIGEST_BYTES
    copy_bytes(base, f[BLANK], size)
    begin_stage(scratch)
    for end in range(f[ENDS]):
        e = int64s(form + 8 * (FORM + END * end), END)
        data, length, target = e[END_DATA], e[END_BYTES], base + e[END_PLACE]
        if 0 < length <= SMALL:
            stage_tensor(scratch, data, length, f[SEAL_KEY], e[END_SLOT], target)
        else:
            digest_tensor(data, length, f[SEAL_KEY], e[END_SLOT], scratch + STAGE_BYTES, target)
    settle(scratch)
    if f[SEAL_COUNT]:
        root_of(f[SEAL_LEAVES], f[SEAL_COUNT], scratch)
        copy_bytes(base + ROOT_AT, scratch, 32)
    copy_bytes(base + KEY_AT, f[SEAL_KEY], 32)
    digest_message(base, 1, base + SALTS_AT)
    digest_message(base + BLOCK, (size - BLOCK) // BLOCK, base + size)


SEAL_KERNEL = Kernel(_seal)


@helper
def begin_form(
    form: int, ends: int, blank: Array, work: Array, key: Array, leaves: Array, count: int, inputs: int, inputs_at: int, outputs_at: int
) -> None:  # fmt: skip
    """All of a form but the ends' addresses and lengths. `ends`: how many, of which the first `inputs` are program inputs."""
    f = int64s(form, FORM)
    f[BLANK], f[BLANK_BYTES], f[WORK] = blank.ctypes.data, len(blank), work.ctypes.data
    f[SEAL_KEY], f[SEAL_LEAVES], f[SEAL_COUNT], f[ENDS] = key.ctypes.data, leaves.ctypes.data, count, ends
    for end in range(ends):
        e = int64s(form + 8 * (FORM + END * end), END)
        if end < inputs:
            e[END_SLOT], e[END_PLACE] = _INPUT + end, inputs_at + ENTRY * end
        else:
            e[END_SLOT], e[END_PLACE] = OUTPUT_SLOT + end - inputs, outputs_at + ENTRY * (end - inputs)


_INPUT = INPUT_SLOT - (1 << 64)


def end_places(inputs: int, outputs: int, blank: Blank) -> Iterator[tuple[int, int]]:
    """END_SLOT and END_PLACE of each end."""
    for end in range(inputs):
        yield _INPUT + end, blank.inputs + ENTRY * end
    for end in range(outputs):
        yield OUTPUT_SLOT + end, blank.outputs + ENTRY * end


@entry
def put_end(form: Array, end: int, data: Array) -> None:
    """Where an input or output is; arrays of int64 and uint8."""
    e = int64s(form.ctypes.data + 8 * (FORM + END * end), END)
    e[END_DATA], e[END_BYTES] = data.ctypes.data, len(data)


@entry
def seal(
    kernel: int, form: Array, blank: Array, work: Array, key: Array, leaves: Array, count: int, inputs: int, inputs_at: int,
    outputs_at: int,
) -> None:  # fmt: skip
    """Fill in a blank: `kernel` is SEAL_KERNEL's address, `form` int64[FORM + END · ends] with every end put."""
    at, ends = form.ctypes.data, (len(form) - FORM) // END
    begin_form(at, ends, blank, work, key, leaves, count, inputs, inputs_at, outputs_at)
    call_kernel(kernel, at, 0)
