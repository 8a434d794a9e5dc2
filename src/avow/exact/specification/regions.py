"""Maxima and sums over windows and along an axis: pool, reduce."""

from collections.abc import Sequence
from math import prod

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import clamp, join, requantise, split
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import FLAG, MULTIPLIER, SHIFT, Case, Form, Range, Read
from avow.exact.specification.kind import Kind
from avow.exact.specification.products import EXTENT, window


def _finish(operator: Operator, values: Sequence[int]) -> int:
    """The maximum (mode 0), or the sum (mode 1), requantised if the attribute rescale is 1."""
    if operator.integer("mode") == 0:
        return clamp(max(values), operator.low, operator.high)
    total = sum(values)
    if operator.integer("rescale"):
        total = requantise(total, operator.integer("m"), operator.integer("s"))
    return clamp(total, operator.low, operator.high)


def _attributes(form: Form, **others: Range) -> None:
    if form.operator.attributes.get("rescale") == 1:
        form.attributes(mode=(1, 1), rescale=FLAG, m=MULTIPLIER, s=SHIFT, **others)
    else:
        form.attributes(mode=FLAG, rescale=FLAG, **others)


def _bound(case: Case, count: int) -> int:
    magnitude = case.operator.inputs[0].magnitude
    return case.accumulator(magnitude * count) if case.operator.integer("mode") else 0


# --- pool ----------------------------------------------------------------------------------------------------------
# x [H, W, C] → [Ho, Wo, C]


def pool(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """Mode 0: the window's maximum, outside of x stands the low end of its interval; mode 1: the window's sum, zeros outside."""
    del step
    shape = operator.inputs[0].shape
    top, left, _, _ = operator.integers("pad")
    y, x, channel = split(index, operator.shape)
    outside = 0 if operator.integer("mode") else operator.inputs[0].low
    values = []
    for i in range(operator.integers("kernel")[0]):
        for j in range(operator.integers("kernel")[1]):
            row = y * operator.integers("stride")[0] - top + i
            column = x * operator.integers("stride")[1] - left + j
            inside = 0 <= row < shape[0] and 0 <= column < shape[1]
            values.append(cells.get(0, join((row, column, channel), shape)) if inside else outside)
    return _finish(operator, values)


def form_pool(form: Form) -> None:
    (x,) = form.inputs(1)
    _attributes(form, kernel=(*EXTENT, 2), stride=(*EXTENT, 2), pad=(0, EXTENT[1], 4))
    form.require(len(x.shape) == 3, "the input is not [H, W, C]")
    window(form, form.operator.integers("kernel"), x.shape[2])


def bound_pool(case: Case) -> int:
    return _bound(case, prod(case.operator.integers("kernel")))


def reads_pool(operator: Operator, context: int) -> list[Read]:
    del context
    height, width = operator.integers("kernel")
    if operator.inputs[0].shape[2] == 1:
        return [Read(0, height, width)]
    return [Read(0, height * width, 1)]


# --- reduce --------------------------------------------------------------------------------------------------------
# x → as x, but for the axis: ceil(extent / block)


def reduce(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """The maximum (mode 0) or the sum (mode 1) of one block along an axis; the last block may be shorter."""
    del step
    shape, axis, block = operator.inputs[0].shape, operator.integer("axis"), operator.integer("block")
    at = list(split(index, operator.shape))
    first = at[axis] = at[axis] * block
    begin, stride = join(at, shape), prod(shape[axis + 1 :])
    count = min(block, shape[axis] - first)
    return _finish(operator, cells.pick(0, range(begin, begin + count * stride, stride)))


def form_reduce(form: Form) -> None:
    (x,) = form.inputs(1)
    _attributes(form, axis=(0, len(x.shape) - 1), block=(1, EXTENT[1]))
    axis = form.operator.integer("axis")
    blocks = -(-x.shape[axis] // form.operator.integer("block"))
    form.shape((*x.shape[:axis], blocks, *x.shape[axis + 1 :]))


def bound_reduce(case: Case) -> int:
    extent = case.operator.inputs[0].shape[case.operator.integer("axis")]
    return _bound(case, min(case.operator.integer("block"), extent))


def reads_reduce(operator: Operator, context: int) -> list[Read]:
    del context
    shape, axis = operator.inputs[0].shape, operator.integer("axis")
    count = min(operator.integer("block"), shape[axis])
    if prod(shape[axis + 1 :]) == 1:
        return [Read(0, 1, count)]
    return [Read(0, count, 1)]


KINDS = {
    "pool": Kind(form_pool, bound_pool, pool, reads_pool),
    "reduce": Kind(form_reduce, bound_reduce, reduce, reads_reduce),
}
