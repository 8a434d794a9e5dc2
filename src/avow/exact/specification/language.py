"""Operators of language models: token, rope, append, scores, mix.

A cache is kept in pages of 64 positions. An `append` gives, at each step, the page that holds the step's own position: what position t
appended is in the output of the `append` at step t, and at all later steps of the same page. `scores` reads pages [64, W], `mix` reads
transposed ones, [W, 64], so that what an element needs of a page lies together.
"""

from collections.abc import Sequence
from operator import mul

from avow.exact.program import OPERATOR, PREVIOUS, Operator
from avow.exact.specification.arithmetic import clamp, requantise
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import FLAG, MULTIPLIER, SHIFT, Case, Form, Read
from avow.exact.specification.kind import Kind
from avow.exact.tensors import size_of

PAGE = 64
"""Positions in a page of a cache."""
ROPE_SHIFT = 14
"""cos and sin are in units of 2^−14."""


# --- token ---------------------------------------------------------------------------------------------------------
# prompt, the chosen token at the previous step → [1]


def token(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """The prompt's token at this step, and after the prompt the token chosen by the step before."""
    del operator, index
    return cells.get(0, step.step) if step.step < step.prompt else cells.get(1, 0)


def form_token(form: Form) -> None:
    _, chosen = form.inputs(2, program=(0,))
    form.attributes()
    form.require(form.mode == "generate", "the program does not generate")
    form.require(
        (chosen.origin, chosen.id) == (PREVIOUS, form.token), "input 1 is not the chosen token of the previous step"
    )
    form.shape((1,))


def bound_token(case: Case) -> int:
    for source in case.operator.inputs:
        case.contained(*source.interval)
    return 0


def reads_token(operator: Operator, context: int) -> list[Read]:
    del operator, context
    return [Read(0, 1, 1), Read(1, 1, 1)]


# --- rope ----------------------------------------------------------------------------------------------------------
# x [H, D], cos [context, D / 2], sin [context, D / 2] → [H, D]


def rope(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """Pairs turned by the position's angles: (x1·cos − x2·sin, x2·cos + x1·sin), requantised by 2^−14, clamped.

    Pair i is (x[i], x[i + D/2]); interleaved: (x[2·i], x[2·i + 1]).
    """
    width = operator.shape[-1]
    start, column = index - index % width, index % width
    if operator.integer("interleaved"):
        pair, second = divmod(column, 2)
        other = column ^ 1
    else:
        second, pair = divmod(column, width // 2)
        other = column + (-width // 2 if second else width // 2)
    angle = step.step * (width // 2) + pair
    cosine, sine = cells.get(1, angle), cells.get(2, angle)
    turned = cells.get(0, start + column) * cosine + cells.get(0, start + other) * (sine if second else -sine)
    return clamp(requantise(turned, 1, ROPE_SHIFT), operator.low, operator.high)


def form_rope(form: Form) -> None:
    x, cosine, sine = form.inputs(3, constants=(1, 2))
    form.attributes(interleaved=FLAG)
    form.require(form.mode != "once", "in a program that runs once, steps are samples and no positions")
    form.shape(x.shape)
    form.require(x.shape[-1] % 2 == 0, "the last dimension is not even")
    for source in (cosine, sine):
        fits = len(source.shape) == 2 and source.shape[0] >= form.context and source.shape[1] * 2 == x.shape[-1]
        form.require(fits, "the angles are not [context, D / 2]")


def bound_rope(case: Case) -> int:
    turns = sum(max(-low, high) for low, high in (case.extent(1), case.extent(2)))
    return case.accumulator(case.operator.inputs[0].magnitude * turns)


def reads_rope(operator: Operator, context: int) -> list[Read]:
    del operator, context
    return [Read(0, 2, 1), Read(1, 1, 1), Read(2, 1, 1)]


# --- append --------------------------------------------------------------------------------------------------------
# row (W values), itself at the previous step → [64, W]; transposed: [W, 64]


def append(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """The page of this step's position: earlier positions' rows as they were, then the new row, then zeros."""
    if operator.integer("transposed"):
        column, slot = divmod(index, PAGE)
    else:
        slot, column = divmod(index, operator.shape[1])
    own = step.step % PAGE
    if slot == own:
        return cells.get(0, column)
    return cells.get(1, index) if slot < own else 0


def form_append(form: Form) -> None:
    row, itself = form.inputs(2)
    form.attributes(transposed=FLAG)
    form.require(form.mode == "generate", "the program does not generate")
    form.require(
        (itself.origin, itself.id) == (PREVIOUS, form.index), "input 1 is not the operator itself at the previous step"
    )
    form.require(row.origin == OPERATOR, "the row is not an operator's output")
    width = size_of(row.shape)
    form.shape((width, PAGE) if form.operator.integer("transposed") else (PAGE, width))


def bound_append(case: Case) -> int:
    case.contained(0, 0)
    case.contained(*case.operator.inputs[0].interval)
    return 0


def reads_append(operator: Operator, context: int) -> list[Read]:
    del operator, context
    return [Read(0, 1, 1), Read(1, 1, 1)]


def _pages(context: int) -> int:
    return -(-context // PAGE)


def _transposed(case: Case, number: int) -> int:
    return case.program.operators[case.operator.inputs[number].id].integer("transposed")


# --- scores --------------------------------------------------------------------------------------------------------
# q [H, D], cache of k, rows [G · D] → [H, positions]


def scores(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(Σ_d q[h, d] · k[t, h // (H / G), d]; m, s))"""
    heads, width = operator.inputs[0].shape
    head, position = divmod(index, step.positions)
    group = head // (heads * width // operator.inputs[1].shape[1])
    keys = cells.cached(1, position, group * width, width)
    accumulator = sum(map(mul, cells.row(0, head * width, width), keys))
    return clamp(requantise(accumulator, operator.integer("m"), operator.integer("s")), operator.low, operator.high)


def _form_groups(form: Form, shape: Sequence[int], row: int) -> None:
    """A cache's row is G groups of D, and G divides H; `shape` is [H, D]."""
    heads, width = shape
    form.require(row % width == 0 and heads % (row // width) == 0, "the cache's rows are not groups of heads")


def form_scores(form: Form) -> None:
    q, cache = form.inputs(2, caches=(1,))
    form.attributes(m=MULTIPLIER, s=SHIFT)
    form.require(
        len(q.shape) == 2 and len(cache.shape) == 2 and cache.shape[0] == PAGE, "the shapes are not [H, D] and [64, W]"
    )
    _form_groups(form, q.shape, cache.shape[1])
    form.shape((q.shape[0], -1))


def bound_scores(case: Case) -> int:
    q, cache = case.operator.inputs
    case.require(_transposed(case, 1) == 0, "the cache is transposed")
    return case.accumulator(q.shape[1] * q.magnitude * cache.magnitude)


def reads_scores(operator: Operator, context: int) -> list[Read]:
    del context
    width = operator.inputs[0].shape[1]
    return [Read(0, 1, width, aligned=True), Read(1, 1, width, aligned=True)]


# --- mix -----------------------------------------------------------------------------------------------------------
# p [H, positions], cache of v, rows [G · D], transposed pages → [H, D]


def mix(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(Σ_t p[h, t] · v[t, h // (H / G), d]; m, s))"""
    heads, width = operator.shape
    head, column = divmod(index, width)
    group = head // (heads * width // operator.inputs[1].shape[0])
    weights = cells.row(0, head * step.positions, step.positions)
    accumulator = sum(map(mul, weights, cells.column(1, group * width + column)))
    return clamp(requantise(accumulator, operator.integer("m"), operator.integer("s")), operator.low, operator.high)


def form_mix(form: Form) -> None:
    p, cache = form.inputs(2, caches=(1,), symbolic=(0,))
    form.attributes(m=MULTIPLIER, s=SHIFT)
    form.static()
    fits = len(p.shape) == 2 and p.shape[1] == -1 and len(cache.shape) == 2 and cache.shape[1] == PAGE
    form.require(fits and len(form.operator.shape) == 2, "the shapes are not [H, positions] and [W, 64]")
    form.require(form.operator.shape[0] == p.shape[0], "the output has another number of heads")
    _form_groups(form, form.operator.shape, cache.shape[0])


def bound_mix(case: Case) -> int:
    case.require(_transposed(case, 1) == 1, "the cache is not transposed")
    return case.accumulator(case.absolute_row_sum(0) * case.operator.inputs[1].magnitude)


def reads_mix(operator: Operator, context: int) -> list[Read]:
    del operator
    pages = _pages(context)
    return [Read(0, 1, context, aligned=True), Read(1, pages, PAGE, aligned=True, leaves=pages)]


KINDS = {
    "token": Kind(form_token, bound_token, token, reads_token),
    "rope": Kind(form_rope, bound_rope, rope, reads_rope),
    "append": Kind(form_append, bound_append, append, reads_append),
    "scores": Kind(form_scores, bound_scores, scores, reads_scores),
    "mix": Kind(form_mix, bound_mix, mix, reads_mix),
}
