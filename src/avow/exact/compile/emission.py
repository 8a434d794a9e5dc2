"""A program under construction: constants kept once, operators in order."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from avow.exact.program import CACHE, INPUT, OPERATOR, PREVIOUS, Attribute, Constant, Operator, Source

PAGE = 64
"""Positions in a page of a cache."""


class Emission:
    """Operators and constants so far. Each method gives the new tensor as an input for the next."""

    def __init__(self) -> None:
        self.constants: list[Constant] = []
        self.operators: list[Operator] = []
        self._known: dict[bytes, int] = {}

    def constant(self, values: npt.NDArray[Any]) -> Source:
        """A constant; equal ones are kept once. Its source's interval is what it holds."""
        constant = Constant.of(values.dtype.name, values.shape, np.ascontiguousarray(values).tobytes())
        number = self._known.setdefault(constant.encoded(), len(self.constants))
        if number == len(self.constants):
            self.constants.append(constant)
        return self.constants[number].source(number, int(values.min()), int(values.max()))

    def operator(
        self,
        kind: str,
        inputs: Sequence[Source],
        type_: str,
        shape: Sequence[int],
        low: int,
        high: int,
        phase: int = 0,
        **attributes: Attribute,
    ) -> Source:
        """An operator's output at this step."""
        self.operators.append(Operator(kind, tuple(inputs), type_, tuple(shape), low, high, phase, attributes))
        return self.operators[-1].source(OPERATOR, len(self.operators) - 1)

    def token(self, vocabulary: int) -> Source:
        """The operator `token`, to be told by `close` which operator chooses."""
        prompt = Source(INPUT, 0, "int32", (1,), 0, vocabulary - 1)
        return self.operator("token", (prompt, prompt), "int32", (1,), 0, vocabulary - 1)

    def close(self, chosen: Source) -> None:
        """The operator `token` reads what `chosen` gave at the previous step."""
        for index, operator in enumerate(self.operators):
            if operator.kind == "token":
                previous = self.operators[chosen.id].source(PREVIOUS, chosen.id)
                self.operators[index] = replace(operator, inputs=(operator.inputs[0], previous))

    def append(self, row: Source, transposed: int) -> Source:
        """The cache that a row is appended to at each step."""
        width = math.prod(row.shape)
        shape = (width, PAGE) if transposed else (PAGE, width)
        index = len(self.operators)
        itself = Source(PREVIOUS, index, row.type, shape, row.low, row.high)
        self.operator(
            "append", (row, itself), row.type, shape, row.low, row.high, row_phase(self, row), transposed=transposed
        )
        return self.operators[index].source(CACHE, index)


def row_phase(emission: Emission, x: Source) -> int:
    """The phase of the operator that gives x."""
    return emission.operators[x.id].phase
