"""Operators on whole rows, the last dimension: softmax and norm."""

from collections import Counter
from collections.abc import Sequence
from operator import mul

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import MAX_MULTIPLIER, clamp, divide, scale, square_root
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import FLAG, Case, Form, Read
from avow.exact.specification.kind import Kind
from avow.exact.tensors import shape_at

NORM_MAX = (1 << 15) - 1
"""What a row of a norm is scaled to: |u| ≤ this, so that u² < 2^30."""
MAX_EXPONENT = 15
MIN_EXPONENT = -14


# --- softmax -------------------------------------------------------------------------------------------------------
# x [..., L], table [T] → [..., L]


def softmax(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(divide(e · one, S)) with e = table[min(max(x) − x, T − 1)] and S the row's sum of such e."""
    column = index % shape_at(operator.shape, step.positions)[-1]
    places, total = row_total(operator, cells, index - column, step)
    own = cells.get(1, places[column])
    return clamp(divide(own * operator.integer("one"), total), operator.low, operator.high)


def row_total(operator: Operator, cells: Cells, start: int, step: Step) -> tuple[list[int], int]:
    """Of the row that begins at `start`: min(max(x) − x, T − 1) for each x, and S."""
    last = operator.inputs[1].shape[0] - 1
    row = cells.row(0, start, shape_at(operator.shape, step.positions)[-1])
    largest = max(row)
    places = [min(last, largest - value) for value in row]
    counts = Counter(places)
    return places, sum(map(mul, counts.values(), cells.pick(1, list(counts))))


def form_softmax(form: Form) -> None:
    x, table = form.inputs(2, constants=(1,), symbolic=(0,))
    form.attributes(one=(1, 1 << 15))
    form.shape(x.shape)
    form.require(
        len(table.shape) == 1 and table.shape[0] <= 1 << 15, "the table is not one row of at most 2^15 entries"
    )
    form.require(form.operator.low == 0, "the interval does not begin at 0")


def bound_softmax(case: Case) -> int:
    x = case.operator.inputs[0]
    low, high = case.extent(1)
    case.require(low >= 0, "the table has a negative entry")
    case.require(0 < high == case.constant(1).value(0), "the table does not begin with its largest entry")
    case.accumulator(x.high - x.low)
    case.accumulator(high * case.operator.integer("one"))
    return case.accumulator(high * case.longest(x.shape)[-1])


def reads_softmax(operator: Operator, context: int) -> list[Read]:
    length = shape_at(operator.shape, context)[-1]
    return [Read(0, 1, length, aligned=True), Read(1, length + 1, 1)]


# --- norm ----------------------------------------------------------------------------------------------------------
# x [..., N], gamma [N], beta [N]? → [..., N]


def norm(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """Root mean square norm (mode 0) or layer norm (mode 1) of one row, exact but for the roundings written here."""
    del step
    column = index % operator.shape[-1]
    scaled, root = row_sums(operator, cells, index - column)
    result = divide((scaled[column] * cells.get(1, column)) << operator.integer("shift"), root)
    if operator.integer("beta"):
        result += cells.get(2, column)
    return clamp(scale(result, operator.integer("s")), operator.low, operator.high)


def row_sums(operator: Operator, cells: Cells, start: int) -> tuple[list[int], int]:
    """Of the row that begins at `start`: every u, and D."""
    length = operator.shape[-1]
    row = cells.row(0, start, length)
    if operator.integer("mode") == 1:
        total = sum(row)
        row = [length * value - total for value in row]
    exponent = row_exponent(max(map(abs, row)), operator.integer("exponent"))
    scaled = _scaled(row, exponent)
    epsilon = operator.integer("epsilon") >> (2 * (exponent - operator.integer("exponent")))
    return scaled, square_root(sum(map(mul, scaled, scaled)) + epsilon)


def _scaled(row: Sequence[int], exponent: int) -> list[int]:
    """scale(value, exponent) of each: a row may have 2^15 values, of which each call would cost a referee more than the value."""
    if exponent <= 0:
        return [value << -exponent for value in row]
    half = 1 << (exponent - 1)
    return [(value + half) >> exponent for value in row]


def row_exponent(largest: int, least: int) -> int:
    """The least k ≥ `least` for which scale(largest, k) ≤ 2^15 − 1; `largest` is the row's largest absolute value, < 2^30."""
    exponent = least
    while scale(largest, exponent) > NORM_MAX:
        exponent += 1
    return exponent


def form_norm(form: Form) -> None:
    operator = form.operator
    form.attributes(
        mode=FLAG,
        exponent=(MIN_EXPONENT, MAX_EXPONENT),
        epsilon=(1, (1 << 45) - 1),
        shift=(0, 15),
        beta=FLAG,
        s=(0, 15),
    )
    beta = operator.integer("beta")
    sources = form.inputs(2 + beta, constants=range(1, 2 + beta))
    form.shape(sources[0].shape)
    length = operator.shape[-1]
    form.require(length < 1 << 15, "a row has 2^15 values or more")
    form.channel(1, (length,), "gamma")
    if beta:
        form.channel(2, (length,), "beta")


def bound_norm(case: Case) -> int:
    operator = case.operator
    # Mode 1 works on N·x − Σx, which is at most 2·N·|x|.
    case.accumulator(operator.inputs[0].magnitude * (2 * operator.shape[-1] if operator.integer("mode") else 1))
    low, high = case.extent(1)
    weight = max(-low, high)
    case.require(weight <= MAX_MULTIPLIER, "gamma is wider than a multiplier")
    # |u| ≤ root, so a quotient is at most |gamma| · 2^shift, and rounding adds one at most.
    quotient = (weight << operator.integer("shift")) + 1
    if operator.integer("beta"):
        low, high = case.extent(2)
        quotient += max(-low, high)
    return case.accumulator(quotient)


def reads_norm(operator: Operator, context: int) -> list[Read]:
    del context
    return [
        Read(0, 1, operator.shape[-1], aligned=True),
        *(Read(number, 1, 1) for number in range(1, len(operator.inputs))),
    ]


KINDS = {
    "softmax": Kind(form_softmax, bound_softmax, softmax, reads_softmax),
    "norm": Kind(form_norm, bound_norm, norm, reads_norm),
}
