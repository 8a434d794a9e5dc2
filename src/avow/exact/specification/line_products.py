"""Lines of sums of products and of regions (lines.py): linear, matmul, conv, pool, reduce."""

from collections.abc import Sequence
from operator import mul
from typing import Any

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import join, requantise, split
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.line import Line, Values, clamped, last, requantised
from avow.exact.tensors import size_of

SHORT = 16
"""Pieces of a row that are shorter are picked out of it together: to ask for each costs a referee more than its values."""

# --- Sums of products ----------------------------------------------------------------------------------------------


def _finished(operator: Operator, cells: Cells, sums: Sequence[int], channel: int) -> Values:
    """Bias, multipliers and shifts of the channels from `channel` on: inputs 2 to 4, as far as the attributes say that they are there."""
    number, count = 2, len(sums)
    if operator.integer("bias"):
        sums = [a + b for a, b in zip(sums, cells.row(number, channel, count), strict=True)]
        number += 1
    if operator.integer("rescale"):
        multipliers, shifts = (_spread_channels(operator, cells, at, channel, count) for at in (number, number + 1))
        sums = [requantise(total, m, s) for total, m, s in zip(sums, multipliers, shifts, strict=True)]
    return clamped(operator, sums)


def _spread_channels(operator: Operator, cells: Cells, number: int, channel: int, count: int) -> Values:
    if operator.inputs[number].shape[0] == 1:
        return [cells.get(number, 0)] * count
    return cells.row(number, channel, count)


def _products(row: Values, weights: Values, count: int) -> list[int]:
    """The row's products with `count` rows of weights that follow each other."""
    length = len(row)
    if count == 1:
        return [sum(map(mul, row, weights))]
    return [sum(map(mul, row, weights[at : at + length])) for at in range(0, count * length, length)]


def _linear(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, row: Values) -> Values:
    del step
    start, count = indices[0], len(indices)
    channels, length = operator.inputs[1].shape
    channel = start % channels
    weights = cells.row(1, channel * length, count * length)
    return _finished(operator, cells, _products(row, weights, count), channel)


def _linear_row(operator: Operator, cells: Cells, line: int, step: Step) -> Values:
    del step
    length = operator.inputs[1].shape[1]
    return cells.row(0, line * length, length)


def _width_linear(operator: Operator, positions: int) -> int:
    del positions
    return operator.inputs[1].shape[0]


def _matmul(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, row: Values) -> Values:
    del step
    start, count = indices[0], len(indices)
    length, columns = len(row), operator.shape[-1]
    line, column = divmod(start, columns)
    batch = line // operator.shape[-2]
    if operator.integer("transpose_b"):
        return requantised(
            operator, _products(row, cells.row(1, (batch * columns + column) * length, count * length), count)
        )
    first = batch * length * columns + column
    if count == 1:
        return requantised(operator, _products(row, cells.pick(1, range(first, first + length * columns, columns)), 1))
    rows = [cells.row(1, first + k * columns, count) for k in range(length)]
    return requantised(operator, [sum(map(mul, row, each)) for each in zip(*rows, strict=True)])


def _matmul_row(operator: Operator, cells: Cells, line: int, step: Step) -> Values:
    del step
    length = operator.inputs[0].shape[-1]
    return cells.row(0, line * length, length)


def _asks_matmul(operator: Operator) -> list[int]:
    return [1, 1 if operator.integer("transpose_b") else operator.inputs[0].shape[-1]]


def _inside(
    operator: Operator, kernel: Sequence[int], at: Sequence[int]
) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Of the window of an output pixel: (i, row of x, [(j, column of x)]), as far as it is inside of x."""
    height, width, _ = operator.inputs[0].shape
    stride, pad = operator.integers("stride"), operator.integers("pad")
    dilation = operator.integers("dilation") if "dilation" in operator.attributes else (1, 1)
    first = at[1] * stride[1] - pad[1]
    columns = [(j, column) for j in range(kernel[1]) if 0 <= (column := first + j * dilation[1]) < width]
    top = at[0] * stride[0] - pad[0]
    return [(i, row, columns) for i in range(kernel[0]) if columns and 0 <= (row := top + i * dilation[0]) < height]


def _window(operator: Operator, cells: Cells, window: Any, first: int, count: int) -> list[Values]:
    """`count` channels from `first` on of each pixel of x that is inside of a window."""
    _, width, channels = operator.inputs[0].shape
    found: list[Values] = []
    for _, row, columns in window:
        start = row * width + columns[0][1]
        if count == channels and columns[-1][1] - columns[0][1] == len(columns) - 1:
            values = cells.row(0, start * channels, len(columns) * channels)
            found += [values[at : at + channels] for at in range(0, len(values), channels)]
        else:
            found += [cells.row(0, (row * width + column) * channels + first, count) for _, column in columns]
    return found


def _conv(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, row: Values | None) -> Values:
    del step
    start, count = indices[0], len(indices)
    outputs, height, width, depth = operator.inputs[1].shape
    y, x, output = split(start, operator.shape)
    window = _inside(operator, (height, width), (y, x))
    weights = _window_weights(operator, cells, window, output, count)
    if row is not None:
        sums = [sum(map(mul, row, each)) for each in weights]
    else:
        each = outputs // operator.integer("groups")
        groups = [channel // each for channel in range(output, output + count)]
        first = groups[0]
        pixels = _window(operator, cells, window, first * depth, (groups[-1] + 1 - first) * depth)
        rows = [
            [value for pixel in pixels for value in pixel[at * depth : (at + 1) * depth]]
            for at in range(groups[-1] + 1 - first)
        ]
        sums = [sum(map(mul, rows[group - first], each)) for group, each in zip(groups, weights, strict=True)]
    return _finished(operator, cells, sums, output)


def _window_weights(operator: Operator, cells: Cells, window: Any, output: int, count: int) -> list[Values]:
    """Of each output channel the weights of those parts of a window that are inside of x, one after the other."""
    _, height, width, depth = operator.inputs[1].shape
    length = height * width * depth
    if sum(len(columns) for _, _, columns in window) == height * width:
        values = cells.row(1, output * length, count * length)
        return [values[at : at + length] for at in range(0, count * length, length)]
    pieces: list[tuple[int, int]] = []
    for i, _, columns in window:
        start = (i * width + columns[0][0]) * depth
        end = start + len(columns) * depth
        pieces = [*pieces[:-1], (pieces[-1][0], end)] if pieces and pieces[-1][1] == start else [*pieces, (start, end)]
    if sum(end - start for start, end in pieces) < SHORT * len(pieces):
        places = [place for start, end in pieces for place in range(start, end)]
        return [
            cells.pick(1, [channel * length + place for place in places]) for channel in range(output, output + count)
        ]
    return [
        [value for start, end in pieces for value in cells.row(1, channel * length + start, end - start)]
        for channel in range(output, output + count)
    ]


def _conv_row(operator: Operator, cells: Cells, line: int, step: Step) -> Values | None:
    """What all channels of a pixel multiply, where they are of one group."""
    del step
    if operator.integer("groups") != 1:
        return None
    channels = operator.inputs[0].shape[2]
    at = divmod(line, operator.shape[1])
    pixels = _window(operator, cells, _inside(operator, operator.inputs[1].shape[1:3], at), 0, channels)
    return [value for pixel in pixels for value in pixel]


def _asks_conv(operator: Operator) -> list[int]:
    height, width = operator.inputs[1].shape[1:3]
    packed = operator.integer("groups") == 1 and operator.integers("dilation")[1] == 1
    return [height if packed else height * width, height, *[1] * (len(operator.inputs) - 2)]


# --- Regions -------------------------------------------------------------------------------------------------------


def _region(operator: Operator, rows: Sequence[Values]) -> Values:
    """The maxima (mode 0) or sums of what stands at one place in all rows, as the attributes say."""
    if operator.integer("mode") == 0:
        return clamped(operator, list(map(max, *rows)) if len(rows) > 1 else rows[0])
    sums = list(map(sum, zip(*rows, strict=True)))
    return requantised(operator, sums) if operator.integer("rescale") else clamped(operator, sums)


def _pool(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    start, count = indices[0], len(indices)
    y, x, channel = split(start, operator.shape)
    kernel = operator.integers("kernel")
    rows = _window(operator, cells, _inside(operator, kernel, (y, x)), channel, count)
    if len(rows) < kernel[0] * kernel[1]:
        rows.append([0 if operator.integer("mode") else operator.inputs[0].low] * count)
    return _region(operator, rows)


def _asks_pool(operator: Operator) -> list[int]:
    height, width = operator.integers("kernel")
    return [height * width]


def _reduce(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    start, count = indices[0], len(indices)
    shape, axis, block = operator.inputs[0].shape, operator.integer("axis"), operator.integer("block")
    at = list(split(start, operator.shape))
    first = at[axis] = at[axis] * block
    if axis == len(shape) - 1:
        values = cells.row(0, join(at, shape), min(count * block, shape[axis] - first))
        blocks = [values[begin : begin + block] for begin in range(0, len(values), block)]
        if operator.integer("mode") == 0:
            return clamped(operator, list(map(max, blocks)))
        sums = list(map(sum, blocks))
        return requantised(operator, sums) if operator.integer("rescale") else clamped(operator, sums)
    stride = _inner(shape, axis)
    begin = join(at, shape)
    rows = [cells.row(0, begin + offset * stride, count) for offset in range(min(block, shape[axis] - first))]
    return _region(operator, rows)


def _inner(shape: Sequence[int], axis: int) -> int:
    return size_of(shape[axis + 1 :])


def _width_reduce(operator: Operator, positions: int) -> int:
    axis = operator.integer("axis")
    return last(operator, positions) if axis == len(operator.shape) - 1 else _inner(operator.shape, axis)


def _asks_reduce(operator: Operator) -> list[int]:
    shape, axis = operator.inputs[0].shape, operator.integer("axis")
    return [1 if axis == len(shape) - 1 else min(operator.integer("block"), shape[axis])]


LINES = {
    "linear": Line(_linear, _width_linear, _linear_row), "matmul": Line(_matmul, last, _matmul_row, _asks_matmul),
    "conv": Line(_conv, last, _conv_row, _asks_conv),
    "pool": Line(_pool, asks=_asks_pool), "reduce": Line(_reduce, _width_reduce, asks=_asks_reduce),
}  # fmt: skip
