"""Choosing: gumbel, argmax, topk.

Largest means: the larger value, and of equal ones the lower index. A wrong choice among many is shown by one value that beats it, so that
a referee needs no more than that value: `refute`.
"""

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import clamp, requantise
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import Case, Form, Read
from avow.exact.specification.kind import Kind
from avow.exact.specification.philox import noise

MAX_CHOICES = 256


# --- gumbel --------------------------------------------------------------------------------------------------------
# logits [V], table [65536] → [V]


def gumbel(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(logit; temperature) + table[16 bits of noise]), of which the largest is a sample (Gumbel-max).

    clamp(logit) where temperature_m = 0.
    """
    value = cells.get(0, index)
    parameters = step.parameters
    if parameters.temperature_m:
        value = requantise(value, parameters.temperature_m, parameters.temperature_s)
        value += cells.get(1, noise(parameters.seed, step.step, index))
    return clamp(value, operator.low, operator.high)


def form_gumbel(form: Form) -> None:
    logits, table = form.inputs(2, constants=(1,))
    form.attributes()
    form.require(form.mode == "generate", "the program does not generate")
    form.require(len(logits.shape) == 1, "the logits are not one row")
    form.require(table.shape == (1 << 16,), "the table has not 2^16 entries")
    form.shape(logits.shape)


def bound_gumbel(case: Case) -> int:
    low, high = case.extent(1)
    case.accumulator(max(-low, high))
    return case.accumulator(case.operator.inputs[0].magnitude)


def reads_gumbel(operator: Operator, context: int) -> list[Read]:
    del operator, context
    return [Read(0, 1, 1), Read(1, 1, 1)]


# --- argmax and topk -----------------------------------------------------------------------------------------------
# x [..., N] → [..., 1], [..., k]


def choose(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """The place, in its row, of the largest value; for topk, of the one that is largest but for index mod k others."""
    del step
    length, choices = operator.inputs[0].shape[-1], operator.shape[-1]
    row, rank = divmod(index, choices)
    values = cells.row(0, row * length, length)
    if rank == 0:
        return values.index(max(values))
    return sorted(range(length), key=lambda at: (-values[at], at))[rank]


def refute(operator: Operator, cells: Cells, claimed: int, index: int, witness: int, step: Step) -> bool:
    """Whether `claimed` is no place in the row, or chosen before, or beaten by the witness, which was not chosen before.

    `witness` is a place in the row. Each wrong output has a witness; a right one has none.
    """
    del step
    length, choices = operator.inputs[0].shape[-1], operator.shape[-1]
    row, rank = divmod(index, choices)
    if not 0 <= claimed < length:
        return True
    before = [cells.claimed(row * choices + earlier) for earlier in range(rank)]
    if claimed in before:
        return True
    if not 0 <= witness < length or witness in before:
        return False
    best, other = cells.get(0, row * length + claimed), cells.get(0, row * length + witness)
    return (-other, witness) < (-best, claimed)


def form_argmax(form: Form) -> None:
    (x,) = form.inputs(1)
    form.attributes()
    form.shape((*x.shape[:-1], 1))


def form_topk(form: Form) -> None:
    (x,) = form.inputs(1)
    form.attributes(k=(1, min(MAX_CHOICES, x.shape[-1])))
    form.shape((*x.shape[:-1], form.operator.integer("k")))


def bound_choice(case: Case) -> int:
    case.contained(0, case.operator.inputs[0].shape[-1] - 1)
    return 0


def reads_choice(operator: Operator, context: int) -> list[Read]:
    del operator, context
    return [Read(0, 2, 1)]


KINDS = {
    "gumbel": Kind(form_gumbel, bound_gumbel, gumbel, reads_gumbel),
    "argmax": Kind(form_argmax, bound_choice, choose, reads_choice, refute),
    "topk": Kind(form_topk, bound_choice, choose, reads_choice, refute),
}
