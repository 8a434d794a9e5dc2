"""Puts an exact program together: constants, records, intervals, multipliers.

Nothing here is trusted: whoever loads the program proves its bounds again (specification/bounds.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.leaves import with_leaves
from avow.exact.compile.runtime import Array
from avow.exact.program import (
    CONSTANT,
    INPUT,
    OPERATOR,
    PREVIOUS,
    Attribute,
    Constant,
    Operator,
    Program,
    Source,
    Tensor,
)
from avow.exact.specification.arithmetic import ACCUMULATOR, MAX_MULTIPLIER, MAX_SHIFT
from avow.exact.tensors import RANGES

TYPES = {np.dtype(np.int8): "int8", np.dtype(np.int16): "int16", np.dtype(np.int32): "int32"}


def type_of(low: int, high: int) -> str:
    """The narrowest type that holds an interval."""
    return next(name for name, (least, most) in RANGES.items() if least <= low and high <= most)


def multiplier(ratio: float) -> tuple[int, int]:
    """M and s with m · 2^−s nearest to a positive ratio, m < 2^15. Raises CannotCompile for one of 2^14 or more."""
    if not 0 < ratio < 1 << 14:
        raise CannotCompile("a change of scale is out of range", ratio=repr(ratio))
    fraction, exponent = math.frexp(ratio)
    m, s = round(math.ldexp(fraction, 15)), 15 - exponent
    if m > MAX_MULTIPLIER:
        m, s = m >> 1, s - 1
    if s > MAX_SHIFT:
        m, s = max(1, round(math.ldexp(ratio, MAX_SHIFT))), MAX_SHIFT
    return m, s


@dataclass(frozen=True, slots=True)
class Draft:
    """A record before the program is whole; a source at the previous step names a state."""

    kind: str
    sources: tuple[Source | str, ...]
    type: str
    shape: tuple[int, ...]
    low: int
    high: int
    attributes: Mapping[str, Attribute]
    phase: int = 0

    def source(self, origin: int, number: int) -> Source:
        return Source(origin, number, self.type, self.shape, self.low, self.high)


@dataclass(slots=True)
class Builder:
    """A program in the making."""

    inputs: list[Tensor] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    """State → the operator that gives its next value."""
    _known: dict[tuple[str, tuple[int, ...], bytes], int] = field(default_factory=dict)

    def constant(self, values: Array) -> Source:
        """A constant (int8, int16 or int32) as a source with its true interval; equal ones are one."""
        name = TYPES[values.dtype]
        made = Constant.of(
            name, values.shape, np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
        )
        key = (made.type, made.shape, made.digest)
        if key not in self._known:
            self._known[key] = len(self.constants)
            self.constants.append(made)
        return made.source(self._known[key], int(values.min()), int(values.max()))

    def operator(
        self,
        kind: str,
        sources: Sequence[Source | str],
        shape: Sequence[int],
        low: int,
        high: int,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        type: str = "",  # noqa: A002  # the record's own word
        phase: int = 0,
    ) -> int:
        """Adds an operator; its number. The type is the narrowest one of the interval, unless given."""
        extents = tuple(int(extent) for extent in shape) or (1,)
        self.drafts.append(
            Draft(
                kind,
                tuple(sources),
                type or type_of(low, high),
                extents,
                int(low),
                int(high),
                dict(attributes or {}),
                phase,
            )
        )
        return len(self.drafts) - 1

    def output(self, number: int) -> Source:
        """An operator's output at this step, as a source."""
        return self.drafts[number].source(OPERATOR, number)

    def input(self, kind: str, shape: Sequence[int], low: int, high: int) -> int:
        """Adds a program input and the operator that reads it; the operator's number."""
        tensor = Tensor(kind, tuple(shape), low, high)
        self.inputs.append(tensor)
        source = Source(INPUT, len(self.inputs) - 1, kind, tensor.shape, low, high)
        return self.operator("input", [source], shape, low, high, type=kind)

    def build(self, *, name: str, mode: str, context: int, outputs: Sequence[int], notes: Mapping[str, str]) -> Program:
        """The program, without what nothing reads, with as few bytes in its traces as can be (leaves.py). Raises BadProgram."""
        outputs = self._prune(outputs)
        operators = [
            Operator(
                draft.kind,
                tuple(self._source(source) for source in draft.sources),
                draft.type,
                draft.shape,
                draft.low,
                draft.high,
                draft.phase,
                draft.attributes,
            )
            for draft in self.drafts
        ]
        whole = Program.build(
            name=name,
            mode=mode,
            context=context,
            inputs=self.inputs,
            constants=self.constants,
            operators=operators,
            outputs=outputs,
            notes=notes,
        )
        return with_leaves(whole)

    def _prune(self, outputs: Sequence[int]) -> list[int]:
        """Drops operators and constants that no output depends on; the outputs' new numbers."""
        wanted: set[int] = set()
        stack = list(outputs)
        while stack:
            number = stack.pop()
            if number in wanted:
                continue
            wanted.add(number)
            for source in self.drafts[number].sources:
                if isinstance(source, str):
                    stack.append(self.states[source])
                elif source.origin == OPERATOR:
                    stack.append(source.id)
        # A program input is read by its own operator, which stays.
        wanted |= {number for number, draft in enumerate(self.drafts) if draft.kind == "input"}
        order = sorted(wanted)
        moved = {old: new for new, old in enumerate(order)}
        used = sorted(
            {
                source.id
                for old in order
                for source in self.drafts[old].sources
                if not isinstance(source, str) and source.origin == CONSTANT
            }
        )
        constants = {old: new for new, old in enumerate(used)}
        places = {OPERATOR: moved, CONSTANT: constants}

        def renumbered(source: Source | str) -> Source | str:
            if isinstance(source, str) or source.origin not in places:
                return source
            return replace(source, id=places[source.origin][source.id])

        self.drafts = [
            replace(self.drafts[old], sources=tuple(renumbered(source) for source in self.drafts[old].sources))
            for old in order
        ]
        self.constants = [self.constants[old] for old in used]
        self.states = {name: moved[number] for name, number in self.states.items() if number in moved}
        return [moved[number] for number in outputs]

    def _source(self, source: Source | str) -> Source:
        if isinstance(source, str):
            number = self.states[source]
            return self.drafts[number].source(PREVIOUS, number)
        return source


@dataclass(frozen=True, slots=True)
class Weights:
    """Quantised weights of a product: w [N, …], bias [N], multipliers and shifts [N]."""

    weight: Array
    bias: Array
    m: Array
    s: Array


def quantise_weights(
    weight: Array, bias: Array, *, input_scale: float, low: int, high: int, output_scale: float, bits: int
) -> Weights:
    """Symmetric integers per output channel (the first axis), bounded so that no accumulator reaches 2^30.

    `low` and `high` are the input's interval. A channel whose sum could overflow gets a coarser scale. Raises CannotCompile.
    """
    channels = len(weight)
    flat = weight.reshape(channels, -1)
    largest = float((1 << (bits - 1)) - 1)
    peak = np.abs(flat).max(1)
    # What no product reaches: a bias of 2^28, and a ratio of scales below 2^13.
    scale = np.maximum.reduce(
        [
            peak / largest,
            np.abs(bias) / (input_scale * 2.0**28),
            np.full(channels, output_scale / input_scale * 2.0**-40),
        ]
    )
    scale = np.minimum(scale, output_scale / input_scale * 2.0**13)
    for _ in range(24):
        whole = np.rint(flat / scale[:, None])
        offset = np.rint(bias / (input_scale * scale))
        reach = _reach(whole, offset, low, high)
        over = reach >= ACCUMULATOR
        if not over.any():
            break
        scale = np.where(over, scale * np.maximum(1.02, reach / ACCUMULATOR), scale)
    else:
        raise CannotCompile("a sum cannot be kept below 2^30", reach=int(reach.max()))  # pyright: ignore[reportPossiblyUnboundVariable]
    pairs = [multiplier(float(ratio)) for ratio in input_scale * scale / output_scale]
    width = np.int8 if np.abs(whole).max(initial=0) <= 127 else np.int16
    return Weights(
        whole.reshape(weight.shape).astype(width),
        offset.astype(np.int32),
        np.array([m for m, _ in pairs], dtype=np.int32),
        np.array([s for _, s in pairs], dtype=np.int8),
    )


def _reach(whole: Array, offset: Array, low: int, high: int) -> Array:
    """The largest absolute partial sum per channel, as specification/products.py bounds it."""
    up, down = max(high, 0), max(-low, 0)
    positive = np.where(whole > 0, whole, 0).sum(1)
    negative = np.where(whole < 0, -whole, 0).sum(1)
    above = positive * up + negative * down + np.maximum(offset, 0)
    below = positive * down + negative * up + np.maximum(-offset, 0)
    return np.asarray(np.maximum(above, below))
