"""Operators that move values and compute nothing: input, gather, concat, slice, transpose, reshape, pad, expand."""

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import broadcast, clamp, join, requantise, split
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import FLAG, MULTIPLIER, SHIFT, Case, Form, Read
from avow.exact.specification.kind import Kind
from avow.exact.tensors import MAX_ELEMENTS, size_of


def _reads_one(operator: Operator, context: int) -> list[Read]:
    del context
    return [Read(number, 1, 1) for number in range(len(operator.inputs))]


def _reads_first(operator: Operator, context: int) -> list[Read]:
    """One value of one of the inputs; a long one costs most."""
    del context
    sources = operator.inputs
    return [Read(max(range(len(sources)), key=lambda number: size_of(sources[number].shape)), 1, 1)]


def _bound_moved(case: Case) -> int:
    """The interval contains those of all inputs."""
    for number in range(len(case.operator.inputs)):
        case.contained(*case.extent(number))
    return 0


# --- input ---------------------------------------------------------------------------------------------------------


def read_input(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """x[step, …]: the step's part of a program input"""
    return cells.get(0, step.step * size_of(operator.shape) + index)


def form_input(form: Form) -> None:
    (x,) = form.inputs(1, program=(0,))
    form.attributes()
    form.shape(x.shape)


# --- gather --------------------------------------------------------------------------------------------------------
# w [V, N], R ids, (m, s) [V]? → any shape of R · N values


def gather(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """w[id, n]; with rescale, clamp(requantise(w[id, n]; m[id], s[id]))"""
    del step
    width = operator.inputs[0].shape[1]
    position, column = divmod(index, width)
    row = cells.get(1, position)
    value = cells.get(0, row * width + column)
    if not operator.integer("rescale"):
        return value
    return clamp(requantise(value, cells.get(2, row), cells.get(3, row)), operator.low, operator.high)


def form_gather(form: Form) -> None:
    form.attributes(rescale=FLAG)
    rescale = form.operator.integer("rescale")
    w, ids = form.inputs(2 + 2 * rescale, constants=(0, 2, 3) if rescale else (0,))[:2]
    form.require(len(w.shape) == 2, "the rows are not [V, N]")
    form.require(ids.low >= 0 and ids.high < w.shape[0], "an id may be of no row")
    if rescale:
        form.rescaling(2, w.shape[0], one=False)
    form.static()
    form.values(size_of(ids.shape) * w.shape[1])


def bound_gather(case: Case) -> int:
    low, high = case.extent(0)
    if not case.operator.integer("rescale"):
        case.contained(low, high)
        return 0
    case.within(2, MULTIPLIER, "a multiplier")
    case.within(3, SHIFT, "a shift")
    return case.accumulator(max(-low, high))


# --- concat --------------------------------------------------------------------------------------------------------


def concat(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """The inputs one after the other along an axis."""
    del step
    axis = operator.integer("axis")
    at = list(split(index, operator.shape))
    for number, source in enumerate(operator.inputs):
        if at[axis] < source.shape[axis]:
            return cells.get(number, join(at, source.shape))
        at[axis] -= source.shape[axis]
    raise AssertionError("the shape is the sum of the inputs' shapes")


def form_concat(form: Form) -> None:
    sources = form.inputs(1, 64)
    form.attributes(axis=(0, len(sources[0].shape) - 1))
    axis = form.operator.integer("axis")
    rest = {(*source.shape[:axis], 0, *source.shape[axis + 1 :]) for source in sources}
    ranks = {len(source.shape) for source in sources}
    form.require(len(rest) == len(ranks) == 1, "the inputs' shapes differ beside the axis")
    total = sum(source.shape[axis] for source in sources)
    form.shape((*sources[0].shape[:axis], total, *sources[0].shape[axis + 1 :]))


# --- slice ---------------------------------------------------------------------------------------------------------


def cut(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """x[starts + steps · i] for each axis; a step may be negative"""
    del step
    starts, steps = operator.integers("starts"), operator.integers("steps")
    at = [first + each * i for first, each, i in zip(starts, steps, split(index, operator.shape), strict=True)]
    return cells.get(0, join(at, operator.inputs[0].shape))


def form_cut(form: Form) -> None:
    (x,) = form.inputs(1)
    form.static()
    rank = len(x.shape)
    form.attributes(starts=(0, MAX_ELEMENTS, rank), steps=(-MAX_ELEMENTS, MAX_ELEMENTS, rank))
    form.require(len(form.operator.shape) == rank, "the output has another rank")
    starts, steps = form.operator.integers("starts"), form.operator.integers("steps")
    for first, each, count, extent in zip(starts, steps, form.operator.shape, x.shape, strict=True):
        last = first + each * (count - 1)
        form.require(each != 0 and first < extent and 0 <= last < extent, "the slice leaves the input")


# --- transpose -----------------------------------------------------------------------------------------------------


def transpose(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """Output dimension d is input dimension perm[d]."""
    del step
    source = operator.inputs[0].shape
    at = [0] * len(source)
    for dimension, coordinate in zip(operator.integers("perm"), split(index, operator.shape), strict=True):
        at[dimension] = coordinate
    return cells.get(0, join(at, source))


def form_transpose(form: Form) -> None:
    (x,) = form.inputs(1)
    rank = len(x.shape)
    form.attributes(perm=(0, rank - 1, rank))
    order = form.operator.integers("perm")
    form.require(sorted(order) == list(range(rank)), "perm is no permutation")
    form.shape([x.shape[dimension] for dimension in order])


# --- reshape -------------------------------------------------------------------------------------------------------


def reshape(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """The same values in the same order."""
    del operator, step
    return cells.get(0, index)


def form_reshape(form: Form) -> None:
    (x,) = form.inputs(1)
    form.static()
    form.attributes()
    form.values(size_of(x.shape))


# --- pad -----------------------------------------------------------------------------------------------------------


def pad(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """x, with `before` values in front along each axis, and as many behind as the shape has left"""
    del step
    source = operator.inputs[0].shape
    at = [i - first for i, first in zip(split(index, operator.shape), operator.integers("before"), strict=True)]
    if all(0 <= i < extent for i, extent in zip(at, source, strict=True)):
        return cells.get(0, join(at, source))
    return operator.integer("value")


def form_pad(form: Form) -> None:
    (x,) = form.inputs(1)
    form.static()
    rank = len(x.shape)
    form.attributes(before=(0, MAX_ELEMENTS, rank), value=(form.operator.low, form.operator.high))
    form.require(len(form.operator.shape) == rank, "the output has another rank")
    before = form.operator.integers("before")
    fits = all(
        first + extent <= whole for first, extent, whole in zip(before, x.shape, form.operator.shape, strict=True)
    )
    form.require(fits, "the input does not fit the output")


# --- expand --------------------------------------------------------------------------------------------------------


def expand(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """x, broadcast to the output's shape"""
    del step
    return cells.get(0, broadcast(index, operator.shape, operator.inputs[0].shape))


def form_expand(form: Form) -> None:
    (x,) = form.inputs(1)
    form.static()
    form.attributes()
    form.require(len(x.shape) <= len(form.operator.shape), "the output has a smaller rank")
    aligned = form.operator.shape[len(form.operator.shape) - len(x.shape) :]
    form.require(all(a in (1, b) for a, b in zip(x.shape, aligned, strict=True)), "the input does not broadcast")


KINDS = {
    "input": Kind(form_input, _bound_moved, read_input, _reads_one),
    "gather": Kind(form_gather, bound_gather, gather, _reads_one),
    "concat": Kind(form_concat, _bound_moved, concat, _reads_first),
    "slice": Kind(form_cut, _bound_moved, cut, _reads_one),
    "transpose": Kind(form_transpose, _bound_moved, transpose, _reads_one),
    "reshape": Kind(form_reshape, _bound_moved, reshape, _reads_one),
    "pad": Kind(form_pad, _bound_moved, pad, _reads_one),
    "expand": Kind(form_expand, _bound_moved, expand, _reads_one),
}
