"""What there is to know of one kind of operator."""

from collections.abc import Callable
from dataclasses import dataclass

from avow.exact.program import Operator
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import Case, Form, Read

Element = Callable[[Operator, Cells, int, Step], int]
"""One output value at a flat index: the specification itself, and what a referee runs. Raises Undefined, NotOpened."""
Refute = Callable[[Operator, Cells, int, int, int, Step], bool]
"""(operator, cells, claimed, index, witness, step): does the one input at `witness` show that the output at `index` is not `claimed`?"""


@dataclass(frozen=True, slots=True)
class Kind:
    """`form` checks a record, `bound` a record within its program; `bound` gives the largest accumulator (0: there is none).

    `reads` bounds what one element (or, where there is one, one refutation) reads at a given context.
    """

    form: Callable[[Form], None]
    bound: Callable[[Case], int]
    element: Element
    reads: Callable[[Operator, int], list[Read]]
    refute: Refute | None = None
