"""How large the proof of one wrong element can be.

Rules:
1. An element reads at most what its kind's `reads` says. A run of values lies in a bounded number of chunks (hashing.py, rules 1 and 2).
2. An opened chunk costs itself, its salt and the hashes beside it in its tensor's tree; an opened tensor of the run costs its digest and
   the hashes beside it in the trace's tree; an opened constant costs its record and the hashes beside it.
3. An element reads at most MAX_VALUES values in at most MAX_RUNS runs: that is a referee's time, and zeros before the first step cost a
   proof no bytes.
4. An operator whose sum of these, its output's included, is larger than MAX_OPENING_BYTES is refused: a fault in it could not be
   shown in one transaction.
"""

from avow.exact.hashing import CHUNK, constant_chunk
from avow.exact.program import CONSTANT, INPUT, Head, Operator, Source
from avow.exact.specification.checking import Read
from avow.exact.tensors import WIDTHS, size_of

MAX_OPENING_BYTES = 60 * 1024
"""Of a proof of 64 KiB: what is left are the head, the operator's record, the trace's header, the manifest and the statement."""
MAX_VALUES = 1 << 15
"""Few operators of real programs reach a tenth of it."""
MAX_RUNS = 1 << 13
"""Runs of values: each costs a referee's time of its own, however short it is. What all of it costs is bounded in cones.py."""
ITEM_OVERHEAD = 24
"""Salt, and the encoding's heads, around a chunk or a digest."""
CONSTANT_ITEM = 10
"""The encoding's heads around a chunk of a constant, which has no salt."""
HASH = 34
"""A hash with its encoding's head."""
RECORD = 80
"""A constant's record."""
TENSOR = ITEM_OVERHEAD + HASH
"""An opened tensor's own: its slot, the heads around it, its digest."""


def opening_bytes(head: Head, operator: Operator, reads: list[Read]) -> int:
    """An upper bound on the bytes of openings that one element of `operator` needs (rule 2)."""
    own = Source(0, 0, operator.type, operator.shape, operator.low, operator.high)
    total = _tensor(head, own, Read(0, 1, 1))
    for read in reads:
        total += _tensor(head, operator.inputs[read.number], read)
    return total


def runs_read(reads: list[Read]) -> int:
    """How many runs of values one element reads, at most."""
    return sum(read.runs for read in reads)


def values_read(reads: list[Read]) -> int:
    """How many values one element reads, at most."""
    return sum(read.runs * read.length for read in reads)


def chunks_read(head: Head, operator: Operator, reads: list[Read]) -> int:
    """How many chunks the element opens, at most; the output's own is not counted."""
    return sum(_chunks(operator.inputs[read.number], read, head.context) * read.leaves for read in reads)


def _size(source: Source, context: int) -> int:
    """The bytes of a tensor at the end of the context; a program input's is that of the whole run."""
    steps = context if source.origin == INPUT else 1
    return size_of(source.shape, context) * WIDTHS[source.type] * steps


def _chunks(source: Source, read: Read, context: int) -> int:
    """How many chunks the runs of one read lie in, in each of the leaves that they are spread over."""
    width = WIDTHS[source.type]
    length = read.length * width
    chunk = chunk_of(source)
    if read.aligned and chunk % length == 0:
        each = 1
    elif read.aligned and length % chunk == 0:
        each = length // chunk
    else:
        each = -(-(chunk - width + length) // chunk)
    runs = -(-read.runs // read.leaves)
    return min(runs * each, -(-_size(source, context) // chunk))


def chunk_of(source: Source) -> int:
    """The bytes of a chunk of a source's tensor."""
    return constant_chunk(source.shape) if source.origin == CONSTANT else CHUNK


def _depth(count: int) -> int:
    """The height of a tree over `count` leaves."""
    return (count - 1).bit_length()


def beside(opened: int, count: int) -> int:
    """At most this many hashes lie beside `opened` of `count` leaves: the paths are apart only below where they could meet."""
    if opened >= count:
        return 0
    return opened * (_depth(count) - (opened.bit_length() - 1))


def beside_bytes(opened: int, count: int) -> int:
    """The bytes of these hashes; none for none."""
    return beside(opened, count) * HASH if opened else 0


def chunk_bytes(source: Source, opened: int, size: int) -> int:
    """The bytes of `opened` chunks of a source's tensor of `size` bytes, or of all, with the hashes beside them."""
    chunk, item = chunk_of(source), CONSTANT_ITEM if source.origin == CONSTANT else ITEM_OVERHEAD
    every = -(-size // chunk)
    opened = min(opened, every)
    return opened * (min(chunk, size) + item) + beside_bytes(opened, every)


def records_bytes(sizes: list[int], operators: int) -> int:
    """The bytes of the records of operators without a leaf, and of what shows that they are the program's."""
    return sum(sizes) + ITEM_OVERHEAD * len(sizes) + beside_bytes(len(sizes), operators)


def _tensor(head: Head, source: Source, read: Read) -> int:
    opened = _chunks(source, read, head.context)
    within = read.leaves * chunk_bytes(source, opened, _size(source, head.context))
    if source.origin == CONSTANT:
        return within + RECORD + beside_bytes(1, head.constants)
    if source.origin == INPUT:
        return within
    return within + read.leaves * TENSOR + beside_bytes(read.leaves, head.context * head.leaves)
