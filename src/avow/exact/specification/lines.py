"""Lines: the values of element functions, a run of them at a time, for a referee that computes an operator inside of another.

Rules:
1. The element functions are the law. For every kind that has a `Line`, `values` gives what the element function gives at each index of
   a run, and raises what it raises; it reads the same values. A test holds them equal for every kind.
2. A run stays within a line of the output: `width` consecutive values that begin at a multiple of it. What all values of a line depend
   on is `shared`, and made once. Of a kind without lines (width WHOLE) any values may be had at once.
3. `asks` says, for each input, how many runs of consecutive values one run asks for at most, and so what it costs (cones.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import broadcast, divide, join, requantise, split, square_root
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.language import ROPE_SHIFT
from avow.exact.specification.rows import row_sums, row_total
from avow.exact.tensors import size_of

Values = Sequence[int]
WHOLE = 1 << 31
"""The width of a kind of which any values may be had at once."""


def _nothing(operator: Operator, cells: Cells, line: int, step: Step) -> Any:
    del operator, cells, line, step


def _whole(operator: Operator, positions: int) -> int:
    del operator, positions
    return WHOLE


def _last(operator: Operator, positions: int) -> int:
    return operator.shape[-1] if operator.shape[-1] > 0 else positions


def _once(operator: Operator) -> list[int]:
    return [1] * len(operator.inputs)


@dataclass(frozen=True, slots=True)
class Line:
    """How a kind computes runs. `values` is given the run's indices, at least one, and what is shared by the line that they are in."""

    values: Callable[[Operator, Cells, Sequence[int], Step, Any], Values]
    width: Callable[[Operator, int], int] = _last
    """Of an operator's lines, at so many positions (for −1 in a shape)."""
    shared: Callable[[Operator, Cells, int, Step], Any] = _nothing
    """Of one line, by its number. It is no value that may be None, where `values` needs it."""
    asks: Callable[[Operator], list[int]] = _once


def clamped(operator: Operator, values: Sequence[int]) -> Values:
    low, high = operator.low, operator.high
    if values and min(values) >= low and max(values) <= high:
        return values
    return [low if value < low else min(value, high) for value in values]


# --- Values that move ----------------------------------------------------------------------------------------------


def _strided(cells: Cells, number: int, first: int, stride: int, count: int) -> Values:
    if stride == 1:
        return cells.row(number, first, count)
    if stride == 0:
        return [cells.get(number, first)] * count
    return cells.pick(number, range(first, first + stride * count, stride))


def _input(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del shared
    first = step.step * size_of(operator.shape)
    return cells.pick(0, [first + index for index in indices])


def _same(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del operator, step, shared
    return cells.pick(0, indices)


def _gather(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, row: int) -> Values:
    del step
    start, count = indices[0], len(indices)
    width = operator.inputs[0].shape[1]
    values = cells.row(0, row * width + start % width, count)
    if not operator.integer("rescale"):
        return values
    m, s = cells.get(2, row), cells.get(3, row)
    return clamped(operator, [requantise(value, m, s) for value in values])


def _gathered(operator: Operator, cells: Cells, line: int, step: Step) -> int:
    del operator, step
    return cells.get(1, line)


def _concat(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    start, count = indices[0], len(indices)
    axis = operator.integer("axis")
    at = list(split(start, operator.shape))
    last = axis == len(at) - 1
    found: list[int] = []
    for number, source in enumerate(operator.inputs):
        extent = source.shape[axis]
        if at[axis] >= extent:
            at[axis] -= extent
            continue
        if not last:
            return cells.row(number, join(at, source.shape), count)
        found += cells.row(number, join(at, source.shape), min(count - len(found), extent - at[axis]))
        at[axis] = 0
        if len(found) == count:
            break
    return found


def _slice(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    start, count = indices[0], len(indices)
    starts, steps = operator.integers("starts"), operator.integers("steps")
    at = [first + each * i for first, each, i in zip(starts, steps, split(start, operator.shape), strict=True)]
    return _strided(cells, 0, join(at, operator.inputs[0].shape), steps[-1], count)


def _transpose(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    start, count = indices[0], len(indices)
    source, order = operator.inputs[0].shape, operator.integers("perm")
    at = [0] * len(source)
    for dimension, coordinate in zip(order, split(start, operator.shape), strict=True):
        at[dimension] = coordinate
    stride = 1
    for extent in source[order[-1] + 1 :]:
        stride *= extent
    return _strided(cells, 0, join(at, source), stride, count)


def _asks_transpose(operator: Operator) -> list[int]:
    kept = operator.integers("perm")[-1] == len(operator.shape) - 1
    return [1 if kept else operator.shape[-1]]


def _asks_slice(operator: Operator) -> list[int]:
    return [1 if operator.integers("steps")[-1] == 1 else operator.shape[-1]]


def _pad(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    start, count = indices[0], len(indices)
    source, value = operator.inputs[0].shape, operator.integer("value")
    at = [i - first for i, first in zip(split(start, operator.shape), operator.integers("before"), strict=True)]
    first, end = max(at[-1], 0), min(at[-1] + count, source[-1])
    if first >= end or not all(0 <= i < extent for i, extent in zip(at[:-1], source, strict=False)):
        return [value] * count
    inside = cells.row(0, join([*at[:-1], first], source), end - first)
    return [*[value] * (first - at[-1]), *inside, *[value] * (at[-1] + count - end)]


def _spread(operator: Operator, cells: Cells, number: int, indices: Sequence[int]) -> Values:
    """Of an input that is broadcast to the output's shape; where it is of another, `indices` are of one line."""
    source = operator.inputs[number].shape
    if source == operator.shape:
        return cells.pick(number, indices)
    start = broadcast(indices[0], operator.shape, source)
    return _strided(cells, number, start, int(source[-1] > 1), len(indices))


def _expand(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    return _spread(operator, cells, 0, indices)


def _width_broadcast(operator: Operator, positions: int) -> int:
    alike = all(source.shape == operator.shape for source in operator.inputs)
    return WHOLE if alike else _last(operator, positions)


# --- Single values -------------------------------------------------------------------------------------------------


def _add(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    ma, mb, s = operator.integer("ma"), operator.integer("mb"), operator.integer("s")
    half = 1 << (s - 1) if s else 0
    pairs = zip(_spread(operator, cells, 0, indices), _spread(operator, cells, 1, indices), strict=True)
    return clamped(operator, [(a * ma + b * mb + half) >> s for a, b in pairs])


def _multiply(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    pairs = map(mul, _spread(operator, cells, 0, indices), _spread(operator, cells, 1, indices))
    return _requantised(operator, pairs)


def _requantised(operator: Operator, values: Any) -> Values:
    """By the attributes m and s, clamped."""
    m, s = operator.integer("m"), operator.integer("s")
    half = 1 << (s - 1)
    return clamped(operator, [(value * m + half) >> s for value in values])


def _divide(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    c = operator.integer("c")
    pairs = zip(_spread(operator, cells, 0, indices), _spread(operator, cells, 1, indices), strict=True)
    return clamped(operator, [divide(a * c, b) for a, b in pairs])


def _rescale(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    return _requantised(operator, cells.pick(0, indices))


def _clip(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    return clamped(operator, cells.pick(0, indices))


def _table(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    low = operator.inputs[0].low
    return cells.pick(1, [value - low for value in cells.pick(0, indices)])


def _root(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    return clamped(operator, [square_root(value) for value in cells.pick(0, indices)])


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
        return _requantised(
            operator, _products(row, cells.row(1, (batch * columns + column) * length, count * length), count)
        )
    first = batch * length * columns + column
    if count == 1:
        return _requantised(operator, _products(row, cells.pick(1, range(first, first + length * columns, columns)), 1))
    rows = [cells.row(1, first + k * columns, count) for k in range(length)]
    return _requantised(operator, [sum(map(mul, row, each)) for each in zip(*rows, strict=True)])


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
    return [
        [
            value
            for i, _, columns in window
            for value in cells.row(1, channel * length + (i * width + columns[0][0]) * depth, len(columns) * depth)
        ]
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
    return _requantised(operator, sums) if operator.integer("rescale") else clamped(operator, sums)


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
        return _requantised(operator, sums) if operator.integer("rescale") else clamped(operator, sums)
    stride = _inner(shape, axis)
    begin = join(at, shape)
    rows = [cells.row(0, begin + offset * stride, count) for offset in range(min(block, shape[axis] - first))]
    return _region(operator, rows)


def _inner(shape: Sequence[int], axis: int) -> int:
    return size_of(shape[axis + 1 :])


def _width_reduce(operator: Operator, positions: int) -> int:
    axis = operator.integer("axis")
    return _last(operator, positions) if axis == len(operator.shape) - 1 else _inner(operator.shape, axis)


def _asks_reduce(operator: Operator) -> list[int]:
    shape, axis = operator.inputs[0].shape, operator.integer("axis")
    return [1 if axis == len(shape) - 1 else min(operator.integer("block"), shape[axis])]


# --- Rows and language ---------------------------------------------------------------------------------------------


def _softmax_row(operator: Operator, cells: Cells, line: int, step: Step) -> tuple[Values, int]:
    return row_total(operator, cells, line * _last(operator, step.positions), step)


def _softmax(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: Any) -> Values:
    start, count = indices[0], len(indices)
    places, total = shared
    first = start % _last(operator, step.positions)
    one = operator.integer("one")
    return clamped(operator, [divide(own * one, total) for own in cells.pick(1, places[first : first + count])])


def _norm_row(operator: Operator, cells: Cells, line: int, step: Step) -> tuple[Values, int]:
    del step
    return row_sums(operator, cells, line * operator.shape[-1])


def _norm(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: Any) -> Values:
    del step
    start, count = indices[0], len(indices)
    scaled, root = shared
    first, shift, s = start % operator.shape[-1], operator.integer("shift"), operator.integer("s")
    weighted = map(mul, scaled[first : first + count], cells.row(1, first, count))
    found = [divide(value << shift, root) for value in weighted]
    if operator.integer("beta"):
        found = [a + b for a, b in zip(found, cells.row(2, first, count), strict=True)]
    half = 1 << (s - 1) if s else 0
    return clamped(operator, [(value + half) >> s for value in found])


def _rope(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del shared
    start, count = indices[0], len(indices)
    width, half = operator.shape[-1], operator.shape[-1] // 2
    row, first = start - start % width, start % width
    columns = range(first, first + count)
    if operator.integer("interleaved"):
        turns = [(column // 2, column & 1, column ^ 1) for column in columns]
    else:
        turns = [(column % half, int(column >= half), (column + half) % width) for column in columns]
    angles = [step.step * half + pair for pair, _, _ in turns]
    cosines, sines = cells.pick(1, angles), cells.pick(2, angles)
    others = cells.pick(0, [row + other for _, _, other in turns])
    turned = [
        x * cosine + other * (sine if second else -sine)
        for x, other, cosine, sine, (_, second, _) in zip(
            cells.row(0, start, count), others, cosines, sines, turns, strict=True
        )
    ]
    return clamped(operator, [requantise(value, 1, ROPE_SHIFT) for value in turned])


def _asks_rope(operator: Operator) -> list[int]:
    return [operator.shape[-1] if operator.integer("interleaved") else 3, 2, 2]


def _scores_row(operator: Operator, cells: Cells, line: int, step: Step) -> Values:
    del step
    width = operator.inputs[0].shape[1]
    return cells.row(0, line * width, width)


def _scores(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, row: Values) -> Values:
    start, count = indices[0], len(indices)
    heads, width = operator.inputs[0].shape
    head, position = divmod(start, step.positions)
    group = head // (heads * width // operator.inputs[1].shape[1])
    keys = [cells.cached(1, at, group * width, width) for at in range(position, position + count)]
    return _requantised(operator, [sum(map(mul, row, each)) for each in keys])


LINES: Mapping[str, Line] = {
    "input": Line(_input, _whole), "reshape": Line(_same, _whole),
    "gather": Line(_gather, lambda operator, _: operator.inputs[0].shape[1], _gathered),
    "concat": Line(_concat), "slice": Line(_slice, asks=_asks_slice), "transpose": Line(_transpose, asks=_asks_transpose),
    "pad": Line(_pad), "expand": Line(_expand, _width_broadcast),
    "linear": Line(_linear, _width_linear, _linear_row), "matmul": Line(_matmul, _last, _matmul_row, _asks_matmul),
    "conv": Line(_conv, _last, _conv_row, _asks_conv),
    "add": Line(_add, _width_broadcast), "mul": Line(_multiply, _width_broadcast), "divide": Line(_divide, _width_broadcast),
    "rescale": Line(_rescale, _whole), "clip": Line(_clip, _whole), "table": Line(_table, _whole), "isqrt": Line(_root, _whole),
    "pool": Line(_pool, asks=_asks_pool), "reduce": Line(_reduce, _width_reduce, asks=_asks_reduce),
    "softmax": Line(_softmax, _last, _softmax_row), "norm": Line(_norm, _last, _norm_row),
    "rope": Line(_rope, asks=_asks_rope), "scores": Line(_scores, _last, _scores_row),
}  # fmt: skip
"""By kind; the values of others are computed one by one."""


def width_of(operator: Operator, positions: int) -> int:
    """How many values the lines of an operator's output have, at so many positions."""
    line = LINES.get(operator.kind)
    return 1 if line is None else line.width(operator, positions)
