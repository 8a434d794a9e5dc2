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

from avow.exact.kernels import elementwise, movement, packing, products, reductions
from avow.exact.kernels.layout import DTYPES, ROOM, Layout, Row, is_alias, values_of
from avow.exact.kernels.rows import A, B, C
from avow.exact.kernels.simd import RAW
from avow.exact.program import CONSTANT, Operator, Source
from avow.exact.specification.arithmetic import ACCUMULATOR
from avow.exact.tensors import RANGES, WIDTHS, size_of

Lowering = Callable[[Layout, int, Operator], None]
Integers = NDArray[Any]

_INT16 = RANGES["int16"]
_CACHE_BYTES = 64 * 1024
"""What a block of a product's input may take, so that it stays near the core."""


# --- Products ------------------------------------------------------------------------------------------------------


def _fits(low: int, high: int) -> bool:
    return _INT16[0] <= low and high <= _INT16[1]


def _narrow(layout: Layout, source: Source) -> bool:
    """Whether all values fit int16."""
    if source.type != "int32" or _fits(source.low, source.high):
        return True
    if source.origin != CONSTANT:
        return False
    values = values_of(layout.program, source)
    return _fits(int(values.min()), int(values.max()))


def _channels(layout: Layout, row: Row, operator: Operator, groups: int, *, padded: bool) -> None:
    """Bias and scale of each channel, and the mode."""
    outputs = operator.inputs[1].shape[0]
    number = 2
    biases: Integers = np.zeros(1, np.int32)
    if operator.integer("bias"):
        biases = values_of(layout.program, operator.inputs[2])
        number += 1
    scales: Integers = np.ones(1, np.float64)  # the accumulator itself, clamped
    if operator.integer("rescale"):
        multipliers, shifts = (values_of(layout.program, each) for each in operator.inputs[number : number + 2])
        scales = packing.scales(multipliers, shifts)
    spread = packing.per_column if padded else _unpadded
    row.constant(products.BIAS, spread(biases, outputs, groups, np.int32))
    row.constant(products.SCALE, spread(scales, outputs, groups, np.float64))
    row.set(products.COLUMNS, outputs)
    _mode(row, operator, raw=not operator.integer("rescale"))


def _unpadded(values: Integers, columns: int, groups: int, dtype: Any) -> Any:
    del groups
    return np.ascontiguousarray(np.broadcast_to(values, (columns,)), dtype)


def _mode(row: Row, operator: Operator, *, raw: bool) -> None:
    """RAW where the accumulator is what is wanted and no clamp can touch it; else it is rescaled, if need be by one."""
    row.real(products.LOW_REAL, operator.low)
    row.real(products.HIGH_REAL, operator.high)
    free = operator.low <= -ACCUMULATOR and operator.high >= ACCUMULATOR
    row.set(products.MODE, RAW if raw and free else WIDTHS[operator.type])


def _linear(layout: Layout, index: int, operator: Operator) -> None:
    x, w = operator.inputs[:2]
    weights = values_of(layout.program, w)
    rows = size_of(x.shape) // weights.shape[1]
    _product_of_rows(layout, index, operator, weights, rows)


def _product_of_rows(layout: Layout, index: int, operator: Operator, weights: Integers, rows: int) -> None:
    """x[rows, K] · weights[N, K]."""
    x, w = operator.inputs[:2]
    depth = weights.shape[1]
    if not (_narrow(layout, x) and _narrow(layout, w)):
        _wide(layout, index, operator, weights.reshape(len(weights), 1, 1, depth), (rows, 1, depth))
        return
    row = layout.row(index, products.LINEAR)
    row.input(A, x)
    _channels(layout, row, operator, 1, padded=True)
    row.constant(products.PANELS, packing.panels(weights[:, None, :]))
    row.constant(products.OFFSETS, np.zeros(1, np.int64))
    row.set(products.PAIRS, (depth + 1) // 2)
    row.set(products.ROWS, rows)
    block = max(6, _CACHE_BYTES // (2 * depth) // 6 * 6)
    row.set(products.BLOCK, block)
    row.scratch(products.SPARE + 2 * depth * min(block, rows * layout.most) + ROOM)


def _window(row: Row, operator: Operator, shape: tuple[int, ...]) -> None:
    """What a convolution's kernels share. shape: the input's [H, W, C]."""
    top, left, bottom, right = operator.integers("pad")
    for slot, value in (
        (products.HEIGHT, shape[0]), (products.WIDE, shape[1]), (products.CHANNELS, shape[2]), (products.TOP, top),
        (products.LEFT, left), (products.PADDED_HEIGHT, shape[0] + top + bottom), (products.PADDED_WIDTH, shape[1] + left + right),
        (products.OUT_HEIGHT, operator.shape[0]), (products.OUT_WIDTH, operator.shape[1]),
        (products.STRIDE_Y, operator.integers("stride")[0]), (products.STRIDE_X, operator.integers("stride")[1]),
        (products.DILATION_Y, operator.integers("dilation")[0]), (products.DILATION_X, operator.integers("dilation")[1]),
        (products.GROUPS, operator.integer("groups")),
    ):  # fmt: skip
        row.set(slot, value)


def _wide(layout: Layout, index: int, operator: Operator, weights: Integers, shape: tuple[int, ...]) -> None:
    """A convolution, or a linear as one, over values that do not fit int16."""
    row = layout.row(index, products.WIDE_CONV)
    row.input(A, operator.inputs[0])
    _channels(layout, row, operator, 1, padded=False)
    row.constant(products.PANELS, weights.astype(np.int32))
    row.set(products.SEGMENTS, weights.shape[1])
    row.set(products.PAIRS, weights.shape[2])
    if operator.kind == "conv":
        _window(row, operator, shape)
        return
    for slot, value in (
        (products.HEIGHT, shape[0]), (products.WIDE, 1), (products.CHANNELS, shape[2]), (products.OUT_HEIGHT, shape[0]),
        (products.OUT_WIDTH, 1), (products.STRIDE_Y, 1), (products.STRIDE_X, 1), (products.DILATION_Y, 1),
        (products.DILATION_X, 1), (products.GROUPS, 1),
    ):  # fmt: skip
        row.set(slot, value)


def _conv(layout: Layout, index: int, operator: Operator) -> None:
    x, w = operator.inputs[:2]
    shape: tuple[int, ...] = x.shape
    weights = values_of(layout.program, w)
    outputs, taps_y, taps_x, depth = weights.shape
    groups = operator.integer("groups")
    plain = (taps_y, taps_x, groups) == (1, 1, 1) and operator.integers("stride") == (1, 1)
    if plain and not any(operator.integers("pad")):
        _product_of_rows(layout, index, operator, weights.reshape(outputs, depth), shape[0] * shape[1])
        return
    if not (_narrow(layout, x) and _narrow(layout, w)):
        _wide(layout, index, operator, weights, shape)
        return
    separate = depth == 1 and groups == outputs == shape[2] and groups > 1
    row = layout.row(index, products.DEPTHWISE if separate else products.CONV)
    row.input(A, x, batched=False)
    _window(row, operator, shape)
    top, left, bottom, right = operator.integers("pad")
    padded_height, padded_width = shape[0] + top + bottom, shape[1] + left + right
    pixel, line = 2 * shape[2], 2 * shape[2] * padded_width
    dilation_y, dilation_x = operator.integers("dilation")
    taps = [(i * dilation_y * line, j * dilation_x * pixel) for i in range(taps_y) for j in range(taps_x)]
    row.scratch(products.SPARE + padded_height * line + ROOM)
    if separate:
        _channels(layout, row, operator, 1, padded=True)
        offsets = [down + along for down, along in taps]
        row.constant(products.PANELS, packing.depthwise(weights.reshape(outputs, taps_y * taps_x)))
        row.constant(products.OFFSETS, np.array(offsets + offsets[-1:] * (len(offsets) & 1), np.int64))
        row.set(products.PAIRS, (len(offsets) + 1) // 2)
        return
    _channels(layout, row, operator, groups, padded=True)
    if groups == 1 and dilation_x == 1:
        segments, run = taps_y, taps_x * depth
        starts = [i * dilation_y * line for i in range(taps_y)]
    else:
        segments, run = taps_y * taps_x, depth
        starts = [down + along for down, along in taps]
    row.constant(products.PANELS, packing.grouped_panels(weights.reshape(outputs, segments, run), groups))
    row.constant(products.OFFSETS, np.array(starts, np.int64))
    row.set(products.SEGMENTS, segments)
    row.set(products.PAIRS, (run + 1) // 2)
    one_line = operator.shape[0] == 1
    row.set(products.BLOCK_Y, max(1, _CACHE_BYTES // (line * operator.integers("stride")[0])))
    block = max(6, _CACHE_BYTES // (pixel * operator.integers("stride")[1]) // 6 * 6) if one_line else operator.shape[1]
    row.set(products.BLOCK_X, block)


def _matmul(layout: Layout, index: int, operator: Operator) -> None:
    a, b = operator.inputs
    narrow = _narrow(layout, a) and _narrow(layout, b)
    row = layout.row(index, products.MATMUL if narrow else products.WIDE_MATMUL)
    row.input(A, a, batched=False)
    row.input(B, b, batched=False)
    rows, depth = a.shape[-2:]
    columns = operator.shape[-1]
    scale = packing.scales(np.array([operator.integer("m")]), np.array([operator.integer("s")]))
    row.constant(products.BIAS, packing.per_column(np.zeros(1), columns, 1, np.int32))
    row.constant(products.SCALE, packing.per_column(scale, columns, 1, np.float64))
    row.constant(products.OFFSETS, np.zeros(1, np.int64))
    _mode(row, operator, raw=False)
    pairs, panels = (depth + 1) // 2, (columns + 15) // 16
    for slot, value in (
        (products.COLUMNS, columns), (products.PAIRS, pairs), (products.BATCHES, prod(a.shape[:-2])), (products.A_ROWS, rows),
        (products.DEPTH, depth), (products.TRANSPOSED, operator.integer("transpose_b")),
    ):  # fmt: skip
        row.set(slot, value)
    row.scratch(products.SPARE + panels * pairs * 64 + 2 * rows * depth + ROOM)


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
    "linear": _linear, "conv": _conv, "matmul": _matmul,
    "add": _add, "mul": _mul, "divide": _divide, "rescale": _rescale, "clip": _clip, "table": _table, "isqrt": _isqrt,
    "rope": _rope,
    "input": _input, "transpose": _transpose, "concat": _concat, "slice": _slice, "pad": _pad, "expand": _expand,
    "reshape": _reshape, "gather": _gather,
    "pool": _pool, "reduce": _reduce, "softmax": _softmax, "norm": _norm, "argmax": _choose, "topk": _choose, "trees": _trees,
}  # fmt: skip
