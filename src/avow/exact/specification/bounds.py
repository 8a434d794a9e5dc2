"""The proof that nothing overflows: what whoever loads a program checks, and no compiler is trusted for.

Rules:
1. Every record meets its kind's form, and a wrong element of it can be shown in one transaction.
2. Every accumulator, in every partial sum in any order, is < 2^30; every product with a multiplier is < 2^45. Intervals of inputs
   and true weights prove it.
3. Multipliers are 1 … 2^15 − 1, shifts 1 … 45. What is not clamped is contained in its interval.
4. A constant's values are in the interval of every source that names it.
5. What has no leaf of its own can be computed inside of what has one, within bounds (cones.py).
"""

from avow.exact.errors import BadProgram
from avow.exact.program import CONSTANT, Interval, Program
from avow.exact.specification import KINDS, check_form, cones
from avow.exact.specification.checking import Case, Form, PlainStatistics, Statistics
from avow.exact.tensors import RANGES


def check(program: Program, statistics: Statistics | None = None) -> tuple[int, ...]:
    """The largest accumulator of each operator (for `add`, of the sum of products; 0 where there is none).

    Raises BadProgram, which names the operator.
    """
    extents: dict[int, Interval] = {}
    found = statistics or PlainStatistics()
    largest = []
    for index, operator in enumerate(program.operators):
        kind = check_form(program.head, index, operator)
        form = Form.under(program.head, index, operator)
        case = Case(
            form.operator,
            form.index,
            form.mode,
            form.context,
            form.token,
            program=program,
            statistics=found,
            extents=extents,
        )
        _check_constants(case)
        largest.append(kind.bound(case))
    check_cones(program)
    return tuple(largest)


def check_cones(program: Program) -> None:
    """Rule 5, which needs no constants' values. Every record's form was checked. Raises BadProgram."""
    cones.check(cones_of(program), program.operators, lambda operator: KINDS[operator.kind].refute is not None)


def cones_of(program: Program) -> cones.Cones:
    """The program's cones, by its own leaves."""
    return cones.Cones(
        program.head, program.operators, lambda operator, context: KINDS[operator.kind].reads(operator, context)
    )


def _check_constants(case: Case) -> None:
    for number, source in enumerate(case.operator.inputs):
        if source.origin == CONSTANT and source.interval != RANGES[source.type]:
            low, high = case.extent(number)
            if not source.low <= low <= high <= source.high:
                raise BadProgram(f"constant {source.id} leaves its interval", operator=case.index)
