"""From products to rows: `linear`, `conv` and `matmul`, whose weights are packed for their kernels."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.kernels import packing, products
from avow.exact.kernels.layout import ROOM, Layout, Row, values_of
from avow.exact.kernels.rows import A, B
from avow.exact.kernels.simd import RAW
from avow.exact.program import CONSTANT, Operator, Source
from avow.exact.specification.arithmetic import ACCUMULATOR
from avow.exact.tensors import RANGES, WIDTHS, size_of

Integers = NDArray[Any]

_INT16 = RANGES["int16"]
_CACHE_BYTES = 64 * 1024
"""What a block of a product's input may take, so that it stays near the core."""


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


def linear(layout: Layout, index: int, operator: Operator) -> None:
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


def conv(layout: Layout, index: int, operator: Operator) -> None:
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


def matmul(layout: Layout, index: int, operator: Operator) -> None:
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
