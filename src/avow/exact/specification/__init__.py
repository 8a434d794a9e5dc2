"""The meaning of exact programs: what each kind of operator demands and gives (docs/exact.md).

`KINDS` is the whole language. `check_form` is for one record alone, `bounds.check` for a program, `machine.run` runs one, slowly.
Pure: integers only; no clock, randomness, floats, threads, input or output.
"""

from avow.exact.errors import BadProgram
from avow.exact.program import Head, Operator
from avow.exact.specification import choice, language, layout, products, regions, rows, trees, values
from avow.exact.specification.cells import Cells, Parameters, Step
from avow.exact.specification.checking import Form, Read, Statistics
from avow.exact.specification.kind import Kind
from avow.exact.specification.openings import (
    MAX_OPENING_BYTES,
    MAX_RUNS,
    MAX_VALUES,
    chunks_read,
    opening_bytes,
    runs_read,
    values_read,
)

__all__ = [
    "KINDS",
    "Cells",
    "Kind",
    "Parameters",
    "Statistics",
    "Step",
    "check_form",
    "check_record",
    "element",
    "openings",
    "refute",
]

KINDS: dict[str, Kind] = {
    **layout.KINDS,
    **products.KINDS,
    **values.KINDS,
    **regions.KINDS,
    **rows.KINDS,
    **language.KINDS,
    **choice.KINDS,
    **trees.KINDS,
}


def check_form(head: Head, index: int, operator: Operator) -> Kind:
    """The kind of a record that stands at `index` under a head, whose demands on the record alone it meets. Raises BadProgram."""
    kind, reads = _formed(head, index, operator)
    size = opening_bytes(head, operator, reads)
    if size > MAX_OPENING_BYTES:
        raise BadProgram(
            f"{operator.kind}: a wrong element needs {size} bytes of openings, more than {MAX_OPENING_BYTES}",
            operator=index,
        )
    _check_reads(operator, index, reads)
    return kind


def check_record(head: Head, index: int, operator: Operator) -> Kind:
    """As `check_form`, but for what a proof of a wrong element opens: a referee has that proof. Raises BadProgram."""
    kind, reads = _formed(head, index, operator)
    _check_reads(operator, index, reads)
    return kind


def _formed(head: Head, index: int, operator: Operator) -> tuple[Kind, list[Read]]:
    kind = KINDS.get(operator.kind)
    if kind is None:
        raise BadProgram(f"there is no kind of operator {operator.kind!r}", operator=index)
    kind.form(Form.under(head, index, operator))
    return kind, kind.reads(operator, head.context)


def _check_reads(operator: Operator, index: int, reads: list[Read]) -> None:
    count = values_read(reads)
    if count > MAX_VALUES:
        raise BadProgram(f"{operator.kind}: an element reads {count} values, more than {MAX_VALUES}", operator=index)
    runs = runs_read(reads)
    if runs > MAX_RUNS:
        raise BadProgram(
            f"{operator.kind}: an element reads {runs} runs of values, more than {MAX_RUNS}", operator=index
        )


def element(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """One value of the operator's output, at a flat index. `check_form` has passed the record. Raises Undefined, NotOpened."""
    return KINDS[operator.kind].element(operator, cells, index, step)


def refute(operator: Operator, cells: Cells, claimed: int, index: int, witness: int, step: Step) -> bool:
    """Whether the input at `witness` shows that the output at `index` is not `claimed`; false for a kind without refutation."""
    shows = KINDS[operator.kind].refute
    return shows is not None and shows(operator, cells, claimed, index, witness, step)


def openings(head: Head, operator: Operator) -> int:
    """How many chunks one element of the operator opens at most, beside its own."""
    return chunks_read(head, operator, KINDS[operator.kind].reads(operator, head.context))
