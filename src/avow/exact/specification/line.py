"""What a line is (lines.py), and what the functions of all kinds need."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from avow.exact.program import Operator
from avow.exact.specification.cells import Cells, Step

Values = Sequence[int]
WHOLE = 1 << 31
"""The width of a kind of which any values may be had at once."""


def _nothing(operator: Operator, cells: Cells, line: int, step: Step) -> Any:
    del operator, cells, line, step


def whole(operator: Operator, positions: int) -> int:
    """The width of a kind that has no lines."""
    del operator, positions
    return WHOLE


def last(operator: Operator, positions: int) -> int:
    """The width of most kinds: the last dimension."""
    return operator.shape[-1] if operator.shape[-1] > 0 else positions


def _once(operator: Operator) -> list[int]:
    return [1] * len(operator.inputs)


@dataclass(frozen=True, slots=True)
class Line:
    """How a kind computes runs. `values` is given the run's indices, at least one, and what is shared by the line that they are in."""

    values: Callable[[Operator, Cells, Sequence[int], Step, Any], Values]
    width: Callable[[Operator, int], int] = last
    """Of an operator's lines, at so many positions (for −1 in a shape)."""
    shared: Callable[[Operator, Cells, int, Step], Any] = _nothing
    """Of one line, by its number. It is no value that may be None, where `values` needs it."""
    asks: Callable[[Operator], list[int]] = _once


def clamped(operator: Operator, values: Sequence[int]) -> Values:
    """The values within the operator's interval."""
    low, high = operator.low, operator.high
    if values and min(values) >= low and max(values) <= high:
        return values
    return [low if value < low else min(value, high) for value in values]


def requantised(operator: Operator, values: Iterable[int]) -> Values:
    """By the attributes m and s, clamped."""
    m, s = operator.integer("m"), operator.integer("s")
    half = 1 << (s - 1)
    return clamped(operator, [(value * m + half) >> s for value in values])
