"""Operators on single values: add, mul, divide, rescale, clip, table, isqrt."""

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import (
    ACCUMULATOR,
    MAX_MULTIPLIER,
    MAX_SHIFT,
    PRODUCT,
    broadcast,
    clamp,
    divide,
    requantise,
    square_root,
)
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import MULTIPLIER, SHIFT, Case, Form, Read
from avow.exact.specification.kind import Kind

MAX_TABLE = 1 << 16


def _pair(operator: Operator, cells: Cells, index: int) -> tuple[int, int]:
    """What the first two inputs broadcast to `index`."""
    left, right = operator.inputs[:2]
    a = cells.get(0, broadcast(index, operator.shape, left.shape))
    return a, cells.get(1, broadcast(index, operator.shape, right.shape))


def _reads_each(operator: Operator, context: int) -> list[Read]:
    del context
    return [Read(number, 1, 1) for number in range(len(operator.inputs))]


# --- add -----------------------------------------------------------------------------------------------------------
# a, b → broadcast


def add(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(a · ma + b · mb; 1, s)); s = 0: clamp(a · ma + b · mb)"""
    del step
    a, b = _pair(operator, cells, index)
    total = a * operator.integer("ma") + b * operator.integer("mb")
    shift = operator.integer("s")
    return clamp(requantise(total, 1, shift) if shift else total, operator.low, operator.high)


def form_add(form: Form) -> None:
    form.inputs(2)
    multiplier = (-MAX_MULTIPLIER, MAX_MULTIPLIER)
    form.attributes(ma=multiplier, mb=multiplier, s=(0, MAX_SHIFT))
    form.broadcast()


def bound_add(case: Case) -> int:
    """The largest |a · ma| + |b · mb|, which is a product: < 2^45."""
    a, b = case.operator.inputs
    case.accumulator(max(a.magnitude, b.magnitude))
    weights = abs(case.operator.integer("ma")), abs(case.operator.integer("mb"))
    return case.accumulator(a.magnitude * weights[0] + b.magnitude * weights[1], PRODUCT)


# --- mul -----------------------------------------------------------------------------------------------------------
# a, b → broadcast


def multiply(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(a · b; m, s))"""
    del step
    a, b = _pair(operator, cells, index)
    return clamp(requantise(a * b, operator.integer("m"), operator.integer("s")), operator.low, operator.high)


def form_multiply(form: Form) -> None:
    form.inputs(2)
    form.attributes(m=MULTIPLIER, s=SHIFT)
    form.broadcast()


def bound_multiply(case: Case) -> int:
    a, b = case.operator.inputs
    return case.accumulator(a.magnitude * b.magnitude)


# --- divide --------------------------------------------------------------------------------------------------------
# a, b → broadcast; b > 0


def quotient(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(floor((a · c + floor(b / 2)) / b))"""
    del step
    a, b = _pair(operator, cells, index)
    return clamp(divide(a * operator.integer("c"), b), operator.low, operator.high)


def form_quotient(form: Form) -> None:
    _, divisor = form.inputs(2)
    form.attributes(c=(1, ACCUMULATOR - 1))
    form.require(divisor.low > 0, "the divisor's interval is not positive")
    form.broadcast()


def bound_quotient(case: Case) -> int:
    a, b = case.operator.inputs
    case.accumulator(b.high)
    return case.accumulator(a.magnitude * case.operator.integer("c"))


# --- rescale -------------------------------------------------------------------------------------------------------


def rescale(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(x; m, s))"""
    del step
    value = requantise(cells.get(0, index), operator.integer("m"), operator.integer("s"))
    return clamp(value, operator.low, operator.high)


def form_rescale(form: Form) -> None:
    (x,) = form.inputs(1)
    form.attributes(m=MULTIPLIER, s=SHIFT)
    form.shape(x.shape)


def bound_rescale(case: Case) -> int:
    return case.accumulator(case.operator.inputs[0].magnitude)


# --- clip ----------------------------------------------------------------------------------------------------------


def clip(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(x)"""
    del step
    return clamp(cells.get(0, index), operator.low, operator.high)


def form_clip(form: Form) -> None:
    (x,) = form.inputs(1)
    form.attributes()
    form.shape(x.shape)


def bound_clip(case: Case) -> int:
    del case
    return 0


# --- table ---------------------------------------------------------------------------------------------------------
# x, table [high of x − low of x + 1] → as x


def table(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """table[x − low of x]"""
    del step
    return cells.get(1, cells.get(0, index) - operator.inputs[0].low)


def form_table(form: Form) -> None:
    x, entries = form.inputs(2, constants=(1,))
    form.attributes()
    form.shape(x.shape)
    length = x.high - x.low + 1
    form.require(length <= MAX_TABLE, "the table has more than 2^16 entries")
    form.require(entries.shape == (length,), "the table has not one entry for each value of x")


def bound_table(case: Case) -> int:
    case.contained(*case.extent(1))
    return 0


# --- isqrt ---------------------------------------------------------------------------------------------------------


def root(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(floor(√x)), x ≥ 0"""
    del step
    return clamp(square_root(cells.get(0, index)), operator.low, operator.high)


def form_root(form: Form) -> None:
    (x,) = form.inputs(1)
    form.attributes()
    form.shape(x.shape)
    form.require(x.low >= 0, "the interval has negative numbers")


def bound_root(case: Case) -> int:
    return case.accumulator(case.operator.inputs[0].high)


KINDS = {
    "add": Kind(form_add, bound_add, add, _reads_each),
    "mul": Kind(form_multiply, bound_multiply, multiply, _reads_each),
    "divide": Kind(form_quotient, bound_quotient, quotient, _reads_each),
    "rescale": Kind(form_rescale, bound_rescale, rescale, _reads_each),
    "clip": Kind(form_clip, bound_clip, clip, _reads_each),
    "table": Kind(form_table, bound_table, table, _reads_each),
    "isqrt": Kind(form_root, bound_root, root, _reads_each),
}
