"""Lines: the values of element functions, a run of them at a time, for a referee that computes an operator inside of another.

Rules:
1. The element functions are the law. For every kind that has a `Line`, `values` gives what the element function gives at each index of
   a run, and raises what it raises; it reads the same values. A test holds them equal for every kind.
2. A run stays within a line of the output: `width` consecutive values that begin at a multiple of it. What all values of a line depend
   on is `shared`, and made once. Of a kind without lines (width WHOLE) any values may be had at once.
3. `asks` says, for each input, how many runs of consecutive values one run asks for at most, and so what it costs (cones.py).
"""

from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any

from avow.exact.program import Operator
from avow.exact.specification import line_products
from avow.exact.specification.arithmetic import broadcast, divide, join, requantise, split, square_root
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.language import ROPE_SHIFT
from avow.exact.specification.line import WHOLE, Line, Values, clamped, last, requantised, whole
from avow.exact.specification.rows import row_sums, row_total
from avow.exact.tensors import size_of

__all__ = ["LINES", "WHOLE", "Line", "width_of"]

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
    return WHOLE if alike else last(operator, positions)


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
    return requantised(operator, pairs)


def _divide(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    c = operator.integer("c")
    pairs = zip(_spread(operator, cells, 0, indices), _spread(operator, cells, 1, indices), strict=True)
    return clamped(operator, [divide(a * c, b) for a, b in pairs])


def _rescale(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: None) -> Values:
    del step, shared
    return requantised(operator, cells.pick(0, indices))


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


# --- Rows and language ---------------------------------------------------------------------------------------------


def _softmax_row(operator: Operator, cells: Cells, line: int, step: Step) -> tuple[Values, int]:
    return row_total(operator, cells, line * last(operator, step.positions), step)


def _softmax(operator: Operator, cells: Cells, indices: Sequence[int], step: Step, shared: Any) -> Values:
    start, count = indices[0], len(indices)
    places, total = shared
    first = start % last(operator, step.positions)
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
    return requantised(operator, [sum(map(mul, row, each)) for each in keys])


LINES: Mapping[str, Line] = {
    **line_products.LINES,
    "input": Line(_input, whole), "reshape": Line(_same, whole),
    "gather": Line(_gather, lambda operator, _: operator.inputs[0].shape[1], _gathered),
    "concat": Line(_concat), "slice": Line(_slice, asks=_asks_slice), "transpose": Line(_transpose, asks=_asks_transpose),
    "pad": Line(_pad), "expand": Line(_expand, _width_broadcast),
    "add": Line(_add, _width_broadcast), "mul": Line(_multiply, _width_broadcast), "divide": Line(_divide, _width_broadcast),
    "rescale": Line(_rescale, whole), "clip": Line(_clip, whole), "table": Line(_table, whole), "isqrt": Line(_root, whole),
    "softmax": Line(_softmax, last, _softmax_row), "norm": Line(_norm, last, _norm_row),
    "rope": Line(_rope, asks=_asks_rope), "scores": Line(_scores, last, _scores_row),
}  # fmt: skip
"""By kind; the values of others are computed one by one."""


def width_of(operator: Operator, positions: int) -> int:
    """How many values the lines of an operator's output have, at so many positions."""
    line = LINES.get(operator.kind)
    return 1 if line is None else line.width(operator, positions)
