"""What a kind of operator demands: of its record alone (Form), and of the program around it (Case).

Rules:
1. Form looks at one record and its program's head only. A referee checks it before it runs an element function, so that a record
   that nobody should have made cannot make it run long or fail otherwise than by a typed error.
2. Case looks at constants' values and at producers too. Whoever loads a program checks it, and trusts no compiler.
3. Every refusal is BadProgram and names the operator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from avow.exact.errors import BadProgram
from avow.exact.program import CACHE, CONSTANT, INPUT, PREVIOUS, Constant, Head, Interval, Operator, Program, Source
from avow.exact.specification.arithmetic import ACCUMULATOR, MAX_MULTIPLIER, MAX_SHIFT
from avow.exact.tensors import WIDTHS, shape_at, size_of

MULTIPLIER = (1, MAX_MULTIPLIER)
SHIFT = (1, MAX_SHIFT)
FLAG = (0, 1)

Range = tuple[int, int] | tuple[int, int, int]
"""Least and most of an attribute; with a third member it is a list of that length."""


@dataclass(frozen=True, slots=True)
class Read:
    """What one element reads, at most: `runs` runs of `length` values of input `number`.

    `aligned`: each run begins at a multiple of its length. `leaves`: the runs lie in that many tensors of a cache.
    """

    number: int
    runs: int
    length: int
    aligned: bool = False
    leaves: int = 1


@dataclass(frozen=True, slots=True)
class Form:
    """One record, its place, and its program's head."""

    operator: Operator
    index: int
    mode: str
    context: int
    token: int

    @classmethod
    def under(cls, head: Head, index: int, operator: Operator) -> "Form":
        return cls(operator, index, head.mode, head.context, head.token)

    def require(self, holds: bool, detail: str) -> None:
        """Refuse the program unless `holds`."""
        if not holds:
            raise BadProgram(f"{self.operator.kind}: {detail}", operator=self.index)

    def inputs(
        self,
        least: int,
        most: int | None = None,
        *,
        constants: Sequence[int] = (),
        caches: Sequence[int] = (),
        program: Sequence[int] = (),
        symbolic: Sequence[int] = (),
    ) -> tuple[Source, ...]:
        """The inputs: `least` to `most` of them, each from where its kind has it.

        `constants`: these are constants. `caches`: these are caches. `program`: these are program inputs. `symbolic`: these may
        have a size that depends on the step.
        """
        sources = self.operator.inputs
        self.require(least <= len(sources) <= (least if most is None else most), "the number of inputs is wrong")
        for number, source in enumerate(sources):
            self.require(source.origin == CONSTANT or number not in constants, f"input {number} is not a constant")
            self.require((source.origin == CACHE) == (number in caches), f"input {number} is, or is not, a cache")
            self.require(
                (source.origin == INPUT) == (number in program), f"input {number} is, or is not, the program's"
            )
            self.require(source.shape[-1] > 0 or number in symbolic, f"the size of input {number} depends on the step")
        return sources

    def static(self) -> None:
        """The output's size does not depend on the step."""
        self.require(self.operator.shape[-1] > 0, "the output's size depends on the step")

    def attributes(self, **ranges: Range) -> None:
        """Exactly these attributes, each an integer, or a list of integers, within its range."""
        found = self.operator.attributes
        self.require(found.keys() == ranges.keys(), f"the attributes are not {', '.join(sorted(ranges)) or 'none'}")
        for name, wanted in ranges.items():
            value = found[name]
            self.require(isinstance(value, tuple) == (len(wanted) == 3), f"attribute {name} is, or is not, a list")
            values = value if isinstance(value, tuple) else (value,)
            self.require(
                len(values) == (wanted[2] if len(wanted) == 3 else 1), f"attribute {name} has the wrong length"
            )
            self.require(all(wanted[0] <= each <= wanted[1] for each in values), f"attribute {name} is out of range")

    def shape(self, expected: Sequence[int]) -> None:
        """The output has this shape."""
        self.require(self.operator.shape == tuple(expected), f"the output's shape is not {list(expected)}")

    def values(self, expected: int) -> None:
        """The output has this many elements, in any shape of static size."""
        self.require(size_of(self.operator.shape) == expected, f"the output has not {expected} elements")

    def longest(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape at the last position of the context."""
        return shape_at(shape, self.context)

    def channel(self, number: int, extents: Sequence[int], what: str) -> None:
        """Input `number` is one value for each channel, or for all: its one dimension is among `extents`."""
        shape = self.operator.inputs[number].shape
        or_one = ", or one for all" if 1 in extents else ""
        self.require(len(shape) == 1 and shape[0] in extents, f"{what} is not one value for each channel{or_one}")

    def rescaling(self, first: int, channels: int, *, one: bool = True) -> None:
        """Inputs `first` and `first` + 1 are multipliers and int8 shifts, per channel (or, with `one`, one for all)."""
        extents = (channels, 1) if one else (channels,)
        self.channel(first, extents, "the multiplier")
        self.channel(first + 1, extents, "the shift")
        self.require(self.operator.inputs[first + 1].type == "int8", "the shifts are not int8")

    def broadcast(self) -> None:
        """The output's shape is the broadcast of the first two inputs' shapes."""
        left, right = (source.shape for source in self.operator.inputs[:2])
        rank = max(len(left), len(right))
        padded = [(1,) * (rank - len(shape)) + shape for shape in (left, right)]
        fits = all(a == b or 1 in (a, b) for a, b in zip(*padded, strict=True))
        self.require(fits, "the inputs' shapes do not broadcast")
        self.shape([max(a, b) for a, b in zip(*padded, strict=True)])


class Statistics(Protocol):
    """What the bounds need of constants' values. A faster one than `PlainStatistics` may be handed in: a node's, by NumPy."""

    def extent(self, constant: Constant) -> Interval:
        """The least and the largest value."""
        ...

    def row_sums(self, constant: Constant, rows: int) -> Sequence[tuple[int, int]]:
        """Of each of `rows` equal rows: the sum of its positive values, and the absolute sum of its negative ones."""
        ...


class PlainStatistics:
    """Statistics by plain Python: about 20 million values a second."""

    def extent(self, constant: Constant) -> Interval:
        values = constant.values()
        return min(values), max(values)

    def row_sums(self, constant: Constant, rows: int) -> Sequence[tuple[int, int]]:
        length = len(constant.data) // WIDTHS[constant.type] // rows
        found = []
        for start in range(0, rows * length, length):
            values = constant.values(start, length)
            positive = sum(value for value in values if value > 0)
            found.append((positive, positive - sum(values)))
        return found


@dataclass(frozen=True, slots=True)
class Case(Form):
    """A record within its whole program."""

    program: Program = field(repr=False)
    statistics: Statistics = field(repr=False)
    extents: dict[int, Interval] = field(repr=False)
    """Of constants, by their number, as far as they were asked for."""

    def constant(self, number: int) -> Constant:
        """The constant that input `number` is."""
        return self.program.constants[self.operator.inputs[number].id]

    def extent(self, number: int) -> Interval:
        """What input `number` can be: a constant's least and largest value, else the source's interval."""
        source = self.operator.inputs[number]
        if source.origin != CONSTANT:
            return source.interval
        if source.id not in self.extents:
            self.extents[source.id] = self.statistics.extent(self.program.constants[source.id])
        return self.extents[source.id]

    def within(self, number: int, allowed: Range, what: str) -> None:
        """Every value of a constant is in a range."""
        low, high = self.extent(number)
        self.require(allowed[0] <= low and high <= allowed[1], f"{what} is out of range")

    def accumulator(self, bound: int, limit: int = ACCUMULATOR) -> int:
        """The largest absolute value that an accumulator can reach, or a partial sum of it in any order; it is < `limit`."""
        if bound >= limit:
            self.require(False, f"an accumulator may reach {bound}, which is 2^{limit.bit_length() - 1} or more")
        return bound

    def contained(self, low: int, high: int) -> None:
        """What the operator can give is in its interval, without a clamp."""
        inside = self.operator.low <= low and high <= self.operator.high
        self.require(inside, f"the output may be {low} … {high}, which the interval does not contain")

    def absolute_row_sum(self, number: int) -> int:
        """A bound on Σ|a| along the last dimension of input `number`.

        What softmax gives is at most e·one/S + 1/2 each, so a row of L sums to at most one + L/2.
        """
        source = self.operator.inputs[number]
        length = self.longest(source.shape)[-1]
        bound = length * source.magnitude
        if source.origin not in (CONSTANT, INPUT):
            producer = self.program.operators[source.id]
            if producer.kind == "softmax" and source.origin != PREVIOUS:
                return min(bound, producer.integer("one") + length // 2)
        return bound
