"""Which values of its inputs some values of an operator need, as boxes: what a proof opens of them follows (cones.py).

Rules:
1. A want is a set of values of one tensor that lies in some box of these extents, holds at most so many values, and, where `runs` is given,
   lies in so many runs of so many consecutive values. Where the box lies is not said: every bound is over all places.
2. What a kind asks of an input contains all that its element function reads for the wanted values, of each value and in every step.
3. A kind without a function of its own asks what its `reads` says for each value, wherever that may be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from avow.exact.hashing import CHUNK, constant_chunk
from avow.exact.program import CONSTANT, INPUT, Operator, Source
from avow.exact.specification.checking import Read
from avow.exact.tensors import WIDTHS, shape_at, size_of

PAGE = 64
"""Positions in a page of a cache."""

Runs = tuple[int, int, bool]
"""How many, of how many values each, and whether each begins at a multiple of its length."""


@dataclass(frozen=True, slots=True)
class Want:
    """Rule 1's set."""

    box: tuple[int, ...]
    count: int
    runs: Runs | None = None


Asked = list[tuple[int, Want]]
"""Of inputs, by their number."""
Ask = Callable[[Operator, Want, int], Asked]
"""(operator, what is wanted of its output, context)"""


def one(shape: Sequence[int]) -> Want:
    """A single value."""
    return Want((1,) * len(shape), 1)


def within(box: Sequence[int], count: int | None = None, runs: Runs | None = None) -> Want:
    """The values of a box, or at most `count` of them."""
    size = prod(box)
    return Want(tuple(box), size if count is None else min(count, size), runs)


def merged(wants: Sequence[Want], shape: Sequence[int]) -> Want:
    """One want that contains all of these, of a tensor of this shape."""
    return within(shape, sum(want.count for want in wants))


# --- Chunks --------------------------------------------------------------------------------------------------------


def chunks_of(source: Source, want: Want, context: int) -> int:
    """In how many chunks of a source's tensor the wanted values lie, at most."""
    width, chunk = WIDTHS[source.type], constant_chunk(source.shape) if source.origin == CONSTANT else CHUNK
    shape = shape_of(source, context)
    box = (1,) * (len(shape) - len(want.box)) + want.box
    size = prod(shape)
    span = 1 + sum((extent - 1) * stride for extent, stride in zip(box, _strides(shape), strict=True))
    bounds = [
        -(-size * width // chunk),
        _touched(_runs_of(box, shape), width, chunk),
        _touched((1, span, False), width, chunk),
        want.count,
    ]
    if want.runs is not None:
        bounds.append(_touched(want.runs, width, chunk))
    return min(bounds)


def shape_of(source: Source, context: int) -> tuple[int, ...]:
    """Of a source's whole tensor at the end of the context."""
    shape = shape_at(source.shape, context)
    return (context, *shape) if source.origin == INPUT else shape


def _touched(runs: Runs, width: int, chunk: int) -> int:
    number, length, aligned = runs
    size = length * width
    if aligned and chunk % size == 0:
        return number
    if aligned and size % chunk == 0:
        return number * (size // chunk)
    return number * -(-(chunk - width + size) // chunk)


def _runs_of(box: Sequence[int], shape: Sequence[int]) -> Runs:
    """A box as runs: dimensions that it fills make a run longer."""
    length = 1
    for at in range(len(box) - 1, -1, -1):
        length *= box[at]
        if box[at] != shape[at]:
            return prod(box[:at]), length, box[at] == 1
    return 1, length, True


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[at + 1 :]) for at in range(len(shape))]


def _range_box(shape: Sequence[int], length: int, unit: int = 1) -> tuple[int, ...]:
    """The box around any `length` consecutive values that begin at a multiple of `unit`."""
    if not shape:
        return ()
    last = shape[-1]
    if unit % last == 0 and length % last == 0:
        return (*_range_box(shape[:-1], length // last, unit // last), last)
    if last % unit == 0 and length <= unit:
        return (*(1 for _ in shape[:-1]), length)
    rows = min((length + last - 2) // last + 1, prod(shape[:-1]))
    return (*_range_box(shape[:-1], rows), last if rows > 1 else min(last, length))


def _reshaped(box: Sequence[int], shape: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """The box in another shape of the same values: dimensions in common at the end stay as they are."""
    tail: list[int] = []
    left, right, inner = list(shape), list(other), list(box)
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
        tail.insert(0, inner.pop())
    span = 1 + sum((extent - 1) * stride for extent, stride in zip(inner, _strides(left), strict=True))
    unit = prod(left[at] for at in range(len(inner)) if all(inner[i] == left[i] for i in range(at, len(inner)))) or 1
    return (*_range_box(right, min(span, prod(left)), unit if span % unit == 0 else 1), *tail)


# --- Kinds ---------------------------------------------------------------------------------------------------------


def asked(operator: Operator, want: Want, context: int, reads: Sequence[Read]) -> Asked:
    """What is needed of the inputs for `want` of the output (rule 3 with the kind's `reads`)."""
    ask = _KINDS.get(operator.kind)
    if ask is not None:
        return ask(operator, want, context)
    found: Asked = []
    for read in reads:
        shape = shape_of(operator.inputs[read.number], context)
        runs = want.count * read.runs, read.length, read.aligned
        found.append((read.number, within(shape, runs[0] * runs[1], runs)))
    return found


def _any(operator: Operator, number: int, count: int) -> tuple[int, Want]:
    """Values anywhere in an input."""
    return number, within(operator.inputs[number].shape, count)


def _each(operator: Operator, want: Want, context: int) -> Asked:
    """One value at the same place; of tables, one anywhere for each."""
    del context
    return [(0, want), *(_any(operator, number, want.count) for number in range(1, len(operator.inputs)))]


def _input(operator: Operator, want: Want, context: int) -> Asked:
    del operator, context
    return [(0, Want((1, *want.box), want.count, want.runs))]


def _broadcast(operator: Operator, want: Want, context: int) -> Asked:
    shape = shape_at(operator.shape, context)
    found: Asked = []
    for number, source in enumerate(operator.inputs):
        own = shape_at(source.shape, context)
        box = [1 if extent == 1 else most for extent, most in zip(own, want.box[len(shape) - len(own) :], strict=True)]
        found.append((number, within(box, want.count, want.runs if own == shape else None)))
    return found


def _reshape(operator: Operator, want: Want, context: int) -> Asked:
    del context
    box = _reshaped(want.box, operator.shape, operator.inputs[0].shape)
    return [(0, within(box, want.count, want.runs))]


def _transpose(operator: Operator, want: Want, context: int) -> Asked:
    del context
    box = [1] * len(want.box)
    for dimension, extent in zip(operator.integers("perm"), want.box, strict=True):
        box[dimension] = extent
    return [(0, within(box, want.count))]


def _slice(operator: Operator, want: Want, context: int) -> Asked:
    del context
    box = [(extent - 1) * abs(step) + 1 for extent, step in zip(want.box, operator.integers("steps"), strict=True)]
    return [(0, within(box, want.count))]


def _concat(operator: Operator, want: Want, context: int) -> Asked:
    del context
    return [
        (number, within([min(extent, most) for extent, most in zip(source.shape, want.box, strict=True)], want.count))
        for number, source in enumerate(operator.inputs)
    ]


def _pad(operator: Operator, want: Want, context: int) -> Asked:
    del context
    box = [min(extent, most) for extent, most in zip(operator.inputs[0].shape, want.box, strict=True)]
    return [(0, within(box, want.count))]


def _gather(operator: Operator, want: Want, context: int) -> Asked:
    del context
    w, ids = operator.inputs[:2]
    rows, columns = _rows_and_columns(operator, want, w.shape[1])
    box = _range_box(ids.shape, rows)
    places = min(rows, want.count)
    # The rows lie anywhere: their box is all of them.
    return [
        (0, within((w.shape[0], columns), want.count, (places, columns, False))),
        (1, within(box, want.count)),
        *(_any(operator, number, places) for number in range(2, len(operator.inputs))),
    ]


def _rows_and_columns(operator: Operator, want: Want, width: int) -> tuple[int, int]:
    """Of an output that is, flat, rows of `width` values: how many rows and columns the want may touch (rows that follow each other)."""
    box = _reshaped(want.box, operator.shape, (size_of(operator.shape) // width, width))
    return box[0], box[1]


def _linear(operator: Operator, want: Want, context: int) -> Asked:
    del context
    x, w = operator.inputs[:2]
    channels, length = w.shape
    rows, columns = _rows_and_columns(operator, want, channels)
    box = _range_box(x.shape, rows * length, length)
    return [
        (0, within(box, want.count * length)),
        (1, within((columns, length), want.count * length)),
        *_per_channel(operator, columns),
    ]


def _per_channel(operator: Operator, channels: int) -> Asked:
    return [
        (number, within((min(channels, operator.inputs[number].shape[0]),)))
        for number in range(2, len(operator.inputs))
    ]


def _conv(operator: Operator, want: Want, context: int) -> Asked:
    del context
    x, w = operator.inputs[:2]
    outputs, height, width, depth = w.shape
    groups = operator.integer("groups")
    each = outputs // groups
    touched = min(groups, (want.box[2] + each - 2) // each + 1)
    space = _window(want.box, (height, width), operator.integers("stride"), operator.integers("dilation"))
    box = [*(min(extent, most) for extent, most in zip(x.shape, space, strict=False)), touched * depth]
    return [
        (0, within(box, want.count * height * width * depth)),
        (1, within((want.box[2], height, width, depth))),
        *_per_channel(operator, want.box[2]),
    ]


def _window(box: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Rows and columns that windows of this size reach over."""
    return [
        (extent - 1) * step + (size - 1) * spread + 1
        for extent, size, step, spread in zip(box, kernel, stride, dilation, strict=False)
    ]


def _pool(operator: Operator, want: Want, context: int) -> Asked:
    del context
    kernel = operator.integers("kernel")
    space = _window(want.box, kernel, operator.integers("stride"), (1, 1))
    shape = operator.inputs[0].shape
    box = [*(min(extent, most) for extent, most in zip(shape, space, strict=False)), want.box[2]]
    return [(0, within(box, want.count * prod(kernel)))]


def _reduce(operator: Operator, want: Want, context: int) -> Asked:
    del context
    axis, shape = operator.integer("axis"), operator.inputs[0].shape
    block = min(operator.integer("block"), shape[axis])
    box = list(want.box)
    box[axis] = min(shape[axis], box[axis] * block)
    return [(0, within(box, want.count * block))]


def _row(operator: Operator, want: Want, context: int) -> Asked:
    """softmax, norm: whole rows; of a norm's other inputs the wanted columns, of a table one entry for each value of a row."""
    shape = shape_at(operator.shape, context)
    box = (*want.box[:-1], shape[-1])
    rows = min(prod(want.box[:-1]), want.count)
    first = (0, within(box, rows * shape[-1]))
    if operator.kind == "norm":
        return [first, *((number, within(want.box[-1:])) for number in range(1, len(operator.inputs)))]
    return [first, _any(operator, 1, rows * shape[-1] + want.count)]


def _matmul(operator: Operator, want: Want, context: int) -> Asked:
    del context
    length = operator.inputs[0].shape[-1]
    rows, columns = want.box[-2:]
    ahead = want.box[:-2]
    right = (columns, length) if operator.integer("transpose_b") else (length, columns)
    return [
        (0, within((*ahead, rows, length), want.count * length)),
        (1, within((*ahead, *right), want.count * length)),
    ]


def _rope(operator: Operator, want: Want, context: int) -> Asked:
    del context
    box = (*want.box[:-1], operator.shape[-1])
    angles = min(want.count, operator.shape[-1] // 2)
    return [
        (0, within(box, 2 * want.count)),
        *((number, within((1, operator.shape[-1] // 2), angles)) for number in (1, 2)),
    ]


_KINDS: Mapping[str, Ask] = {
    "input": _input, "gather": _gather, "concat": _concat, "slice": _slice, "transpose": _transpose, "reshape": _reshape,
    "pad": _pad, "expand": _broadcast,
    "linear": _linear, "matmul": _matmul, "conv": _conv,
    "add": _broadcast, "mul": _broadcast, "divide": _broadcast,
    "rescale": _each, "clip": _each, "isqrt": _each, "table": _each, "gumbel": _each,
    "pool": _pool, "reduce": _reduce, "softmax": _row, "norm": _row, "rope": _rope,
}  # fmt: skip
