"""From operators to rows: for each kind, which kernel runs and with which numbers.

`LOWERINGS` is a table by kind; language kinds are in kernels/language.py. A lowering makes one row or several; the last one completes
the output.
Programs that come here were checked (specification/bounds.py): shapes fit, intervals hold, nothing overflows.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.kernels import elementwise, lowering_products, movement, packing, reductions
from avow.exact.kernels.layout import DTYPES, ROOM, Layout, Row, is_alias, values_of
from avow.exact.kernels.rows import A, B, C
from avow.exact.program import Operator, Source
from avow.exact.tensors import RANGES, WIDTHS, size_of

Lowering = Callable[[Layout, int, Operator], None]
Integers = NDArray[Any]


# --- Single values -------------------------------------------------------------------------------------------------


def _strides(shape: Sequence[int], source: Sequence[int]) -> list[int]:
    """In values, 0 where the source is repeated; shapes are aligned at their last dimension."""
    found: list[int] = []
    stride = 1
    for extent in reversed(source):
        found.append(0 if extent == 1 else stride)
        stride *= extent
    return [0] * (len(shape) - len(source)) + found[::-1]


def merged(shape: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Dimensions (extent, a stride in each tensor), outermost first: those of one value left out, neighbours that are one run made one."""
    found: list[tuple[int, ...]] = []
    for extent, *steps in zip(shape, *strides, strict=True):
        if extent == 1:
            continue
        if found and all(before == step * extent for before, step in zip(found[-1][1:], steps, strict=True)):
            found[-1] = (found[-1][0] * extent, *steps)
        else:
            found.append((extent, *steps))
    return found or [(1, *([1] * len(strides)))]


def _walk(layout: Layout, index: int, operator: Operator, kernel: Any) -> Row:
    """A row whose kernel walks over two inputs that are broadcast."""
    a, b = operator.inputs
    row = layout.row(index, kernel)
    row.input(A, a, batched=False)
    row.input(B, b, batched=False)
    shape = operator.shape
    dimensions = merged(shape, _strides(shape, a.shape), _strides(shape, b.shape))
    run, a_step, b_step = dimensions[-1]
    row.set(elementwise.RUN, run)
    row.set(elementwise.A_STEP, a_step)
    row.set(elementwise.B_STEP, b_step)
    row.set(elementwise.OUTER, len(dimensions) - 1)
    for number, (extent, a_stride, b_stride) in enumerate(dimensions[:-1]):
        row.set(elementwise.EXTENTS + number, extent)
        row.set(elementwise.A_STRIDES + number, a_stride)
        row.set(elementwise.B_STRIDES + number, b_stride)
    row.scratch(elementwise.SCRATCH_BYTES)
    return row


def _add(layout: Layout, index: int, operator: Operator) -> None:
    a, b = operator.inputs
    first, second, shift = (operator.integer(name) for name in ("ma", "mb", "s"))
    row = _walk(layout, index, operator, elementwise.ADD)
    half = 1 << (shift - 1) if shift else 0
    reach = a.magnitude * abs(first) + b.magnitude * abs(second) + half
    row.set(elementwise.FIRST, first)
    row.set(elementwise.SECOND, second)
    row.set(elementwise.SHIFT, shift)
    row.set(elementwise.NARROW, int(reach < 1 << 31))
    row.real(elementwise.HALF_REAL, half if reach < 1 << 31 else 0)
    row.real(elementwise.SCALE_REAL, 2.0**-shift)


def _scale(operator: Operator) -> float:
    return float(operator.integer("m")) * 2.0 ** -operator.integer("s")


def _mul(layout: Layout, index: int, operator: Operator) -> None:
    _walk(layout, index, operator, elementwise.MUL).real(elementwise.SCALE_REAL, _scale(operator))


def _divide(layout: Layout, index: int, operator: Operator) -> None:
    _walk(layout, index, operator, elementwise.DIVIDE).set(elementwise.FIRST, operator.integer("c"))


def _each(layout: Layout, index: int, operator: Operator, kernel: Any) -> Row:
    row = layout.row(index, kernel)
    row.input(A, operator.inputs[0])
    row.scratch(elementwise.SCRATCH_BYTES)
    return row


def _rescale(layout: Layout, index: int, operator: Operator) -> None:
    row = _each(layout, index, operator, elementwise.RESCALE)
    row.real(elementwise.SCALE_REAL, _scale(operator))
    row.real(elementwise.HALF_REAL, 0.5)


def _clip(layout: Layout, index: int, operator: Operator) -> None:
    _each(layout, index, operator, elementwise.CLIP)


def _isqrt(layout: Layout, index: int, operator: Operator) -> None:
    _each(layout, index, operator, elementwise.ISQRT)


def _table(layout: Layout, index: int, operator: Operator) -> None:
    x, table = operator.inputs
    row = _each(layout, index, operator, elementwise.TABLE)
    row.set(elementwise.FIRST, x.low)
    _constant_as(layout, row, B, table, DTYPES[operator.type])


def _rope(layout: Layout, index: int, operator: Operator) -> None:
    row = _each(layout, index, operator, elementwise.ROPE)
    _constant_as(layout, row, B, operator.inputs[1], np.int32)
    _constant_as(layout, row, C, operator.inputs[2], np.int32)
    row.set(elementwise.RUN, operator.shape[-1])
    row.set(elementwise.FIRST, operator.integer("interleaved"))
    row.scratch(4 * operator.shape[-1] + ROOM)


def _constant_as(layout: Layout, row: Row, slot: int, source: Source, dtype: Any) -> None:
    """A constant input in a type that the kernel wants, which its values fit."""
    row.input(slot, source, batched=False)
    row.constant(slot, values_of(layout.program, source).astype(dtype))
    row.set(slot + 1, np.dtype(dtype).itemsize)


# --- Movement ------------------------------------------------------------------------------------------------------


def _input(layout: Layout, index: int, operator: Operator) -> None:
    source = operator.inputs[0]
    row = layout.row(index, movement.INPUT)
    row.set(A + 1, WIDTHS[source.type])
    row.set(movement.FIRST, source.id)
    row.set(movement.WHOLE, int(source.interval == RANGES[source.type]))
    row.set(movement.SOURCE_LOW, source.low)
    row.set(movement.SOURCE_HIGH, source.high)


def _copy(
    layout: Layout, index: int, source: Source, shape: Sequence[int], read: Sequence[int], write: Sequence[int], start: int, to: int
) -> None:  # fmt: skip
    """A row that copies `shape` values: strides read and written, and where both begin, in values."""
    row = layout.row(index, movement.COPY)
    row.input(A, source, batched=False)
    dimensions = merged(shape, read, write)
    row.constant(movement.TABLE, np.array(dimensions, np.int64))
    row.set(movement.DIMENSIONS, len(dimensions))
    row.set(movement.SOURCE_START, start)
    row.set(movement.TARGET_START, to)


def _dense(shape: Sequence[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _transpose(layout: Layout, index: int, operator: Operator) -> None:
    x = operator.inputs[0]
    strides = _dense(x.shape)
    read = [strides[axis] for axis in operator.integers("perm")]
    _copy(layout, index, x, operator.shape, read, _dense(operator.shape), 0, 0)


def _concat(layout: Layout, index: int, operator: Operator) -> None:
    axis, write = operator.integer("axis"), _dense(operator.shape)
    at = 0
    for source in operator.inputs:
        _copy(layout, index, source, source.shape, _dense(source.shape), write, 0, at * write[axis])
        at += source.shape[axis]


def _slice(layout: Layout, index: int, operator: Operator) -> None:
    x = operator.inputs[0]
    strides = _dense(x.shape)
    read = [step * stride for step, stride in zip(operator.integers("steps"), strides, strict=True)]
    start = sum(first * stride for first, stride in zip(operator.integers("starts"), strides, strict=True))
    _copy(layout, index, x, operator.shape, read, _dense(operator.shape), start, 0)


def _pad(layout: Layout, index: int, operator: Operator) -> None:
    x, write = operator.inputs[0], _dense(operator.shape)
    if x.shape != operator.shape:
        layout.row(index, movement.FILL).set(movement.VALUE, operator.integer("value"))
    to = sum(first * stride for first, stride in zip(operator.integers("before"), write, strict=True))
    _copy(layout, index, x, x.shape, _dense(x.shape), write, 0, to)


def _expand(layout: Layout, index: int, operator: Operator) -> None:
    x = operator.inputs[0]
    _copy(layout, index, x, operator.shape, _strides(operator.shape, x.shape), _dense(operator.shape), 0, 0)


def _reshape(layout: Layout, index: int, operator: Operator) -> None:
    if is_alias(operator):
        layout.row(index, None)
        return
    count = size_of(operator.shape)
    _copy(layout, index, operator.inputs[0], (count,), (1,), (1,), 0, 0)


def _gather(layout: Layout, index: int, operator: Operator) -> None:
    w, ids = operator.inputs[:2]
    row = layout.row(index, movement.GATHER)
    row.input(A, w, batched=False)
    row.input(B, ids)
    row.set(movement.WIDTH_OF_ROW, w.shape[1])
    if operator.integer("rescale"):
        multipliers, shifts = (values_of(layout.program, each) for each in operator.inputs[2:4])
        row.constant(movement.SCALES, packing.scales(multipliers, shifts))


# --- Reductions ----------------------------------------------------------------------------------------------------


def _gathered(layout: Layout, index: int, operator: Operator, kernel: Any, *, batched: bool) -> Row:
    row = layout.row(index, kernel)
    row.input(A, operator.inputs[0], batched=batched)
    rescale = operator.integer("mode") and operator.integer("rescale")
    row.set(reductions.MODE, operator.integer("mode"))
    row.set(reductions.RESCALE, rescale)
    if rescale:
        row.real(reductions.SCALE_REAL, _scale(operator))
    return row


def _pool(layout: Layout, index: int, operator: Operator) -> None:
    height, width, channels = operator.inputs[0].shape
    row = _gathered(layout, index, operator, reductions.POOL, batched=False)
    for slot, value in (
        (reductions.HEIGHT, height), (reductions.WIDE, width), (reductions.CHANNELS, channels),
        (reductions.TOP, operator.integers("pad")[0]), (reductions.LEFT, operator.integers("pad")[1]),
        (reductions.OUT_HEIGHT, operator.shape[0]), (reductions.OUT_WIDTH, operator.shape[1]),
        (reductions.KERNEL_Y, operator.integers("kernel")[0]), (reductions.KERNEL_X, operator.integers("kernel")[1]),
        (reductions.STRIDE_Y, operator.integers("stride")[0]), (reductions.STRIDE_X, operator.integers("stride")[1]),
    ):  # fmt: skip
        row.set(slot, value)
    row.scratch(4 * (2 * width + operator.shape[1]) * channels + ROOM)


def _reduce(layout: Layout, index: int, operator: Operator) -> None:
    shape, axis = operator.inputs[0].shape, operator.integer("axis")
    row = _gathered(layout, index, operator, reductions.REDUCE, batched=True)
    row.set(reductions.OUTER, prod(shape[:axis]))
    row.set(reductions.EXTENT, shape[axis])
    row.set(reductions.INNER, prod(shape[axis + 1 :]))
    row.set(reductions.BLOCK, operator.integer("block"))
    row.scratch(4 * 2 * 1_024 + ROOM)


def _softmax(layout: Layout, index: int, operator: Operator) -> None:
    row = layout.row(index, reductions.SOFTMAX)
    row.input(A, operator.inputs[0])
    _constant_as(layout, row, B, operator.inputs[1], np.int32)
    row.set(reductions.LENGTH, operator.shape[-1])
    row.set(reductions.ONE, operator.integer("one"))
    length = operator.shape[-1] if operator.shape[-1] > 0 else layout.program.context
    row.scratch(4 * length + ROOM)


def _norm(layout: Layout, index: int, operator: Operator) -> None:
    row = layout.row(index, reductions.NORM)
    row.input(A, operator.inputs[0])
    _constant_as(layout, row, B, operator.inputs[1], np.int32)
    if operator.integer("beta"):
        _constant_as(layout, row, C, operator.inputs[2], np.int32)
    for slot, value in (
        (reductions.MODE, operator.integer("mode")), (reductions.LENGTH, operator.shape[-1]),
        (reductions.EXPONENT, operator.integer("exponent")), (reductions.EPSILON, operator.integer("epsilon")),
        (reductions.SHIFT, operator.integer("shift")), (reductions.BETA, operator.integer("beta")),
        (reductions.FINAL, operator.integer("s")),
    ):  # fmt: skip
        row.set(slot, value)
    row.scratch(4 * operator.shape[-1] + ROOM)


def _choose(layout: Layout, index: int, operator: Operator) -> None:
    row = layout.row(index, reductions.CHOOSE)
    row.input(A, operator.inputs[0])
    length, choices = operator.inputs[0].shape[-1], operator.shape[-1]
    row.set(reductions.LENGTH, length)
    row.set(reductions.CHOICES, choices)
    row.scratch(4 * (length + choices) + ROOM)


def _trees(layout: Layout, index: int, operator: Operator) -> None:
    x, nodes = operator.inputs
    row = layout.row(index, reductions.TREES_KERNEL)
    row.input(A, x, batched=False)
    _constant_as(layout, row, B, nodes, np.int32)
    row.set(reductions.TREES, nodes.shape[0])
    row.set(reductions.NODES, nodes.shape[1])
    row.set(reductions.DEPTH, operator.integer("depth"))
    row.scratch(ROOM)


LOWERINGS: dict[str, Lowering] = {
    "linear": lowering_products.linear, "conv": lowering_products.conv, "matmul": lowering_products.matmul,
    "add": _add, "mul": _mul, "divide": _divide, "rescale": _rescale, "clip": _clip, "table": _table, "isqrt": _isqrt,
    "rope": _rope,
    "input": _input, "transpose": _transpose, "concat": _concat, "slice": _slice, "pad": _pad, "expand": _expand,
    "reshape": _reshape, "gather": _gather,
    "pool": _pool, "reduce": _reduce, "softmax": _softmax, "norm": _norm, "argmax": _choose, "topk": _choose, "trees": _trees,
}  # fmt: skip
