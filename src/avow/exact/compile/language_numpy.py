"""A language program over a whole prompt at once, in plain NumPy integers: what compilation measures its quality with.

It is a second implementation beside the kernels, written for clarity: products in float64, exact because every accumulator is < 2^30,
all else in int64. Tests hold it equal to the specification and to the kernels.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from avow.exact.program import CACHE, CONSTANT, INPUT, Operator, Program, Source

Integers = npt.NDArray[np.int64]
Given = npt.NDArray[np.generic]


def constant(program: Program, number: int) -> Given:
    """A constant as an array over the program's own bytes."""
    found = program.constants[number]
    return np.frombuffer(found.data, np.dtype(found.type).newbyteorder("<")).reshape(found.shape)


def requantised(accumulator: Integers, m: Integers | int, s: Integers | int) -> Integers:
    """floor((accumulator · m + 2^(s − 1)) / 2^s)"""
    shift = np.asarray(s, np.int64)
    return (accumulator * np.asarray(m, np.int64) + (np.int64(1) << (shift - 1))) >> shift


def scaled(values: Integers, exponents: Integers) -> Integers:
    """Values · 2^−exponent, to nearest, halves up; exact where exponent ≤ 0."""
    down = np.maximum(exponents, 1)
    return np.where(exponents <= 0, values << np.maximum(-exponents, 0), (values + (np.int64(1) << (down - 1))) >> down)


def roots(values: Integers) -> Integers:
    """Floor square roots of values < 2^52."""
    found = np.floor(np.sqrt(values.astype(np.float64))).astype(np.int64)
    found -= found * found > values
    return found + ((found + 1) * (found + 1) <= values)


class Prompt:
    """All positions of a prompt: `outputs` yields each operator's output, [positions, *shape], in order.

    Outputs whose size depends on the step are [positions, heads, positions], zero beyond each position. Caches are their rows,
    [positions, width]. Operators of phase 1 run at every position: quality is measured there. Sampling is left out.
    """

    def __init__(self, program: Program, tokens: npt.NDArray[np.int64]) -> None:
        self.program = program
        self.tokens = tokens
        self._values: dict[int, Integers] = {}
        self._last = self._last_uses()

    def outputs(
        self, beyond: int | None = None, known: tuple[int, Integers] | None = None
    ) -> Iterator[tuple[int, Integers]]:
        """Operators before number `beyond`, each with its output; those that nothing reads any more are let go.

        With `known`, an operator and its output, those after it alone, which read no other one before it.
        """
        first = 0
        if known is not None:
            first = known[0] + 1
            self._values[known[0]] = known[1]
        for index, operator in enumerate(self.program.operators[:beyond]):
            if index < first:
                continue
            value = np.clip(self._given(operator), operator.low, operator.high)
            self._values[index] = value
            yield index, value
            for source in operator.inputs:
                if self._last.get(source.id) == index and source.origin not in (CONSTANT, INPUT):
                    self._values.pop(source.id, None)

    def _given(self, operator: Operator) -> Integers:
        """The operator before its clamp: one method for each kind that language programs have."""
        method: Callable[[Operator], Integers] = getattr(self, f"_{operator.kind}")
        return method(operator)

    def _last_uses(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for index, operator in enumerate(self.program.operators):
            for source in operator.inputs:
                if source.origin not in (CONSTANT, INPUT):
                    found[source.id] = index
        return found

    def read(self, source: Source) -> Integers:
        if source.origin == CONSTANT:
            return constant(self.program, source.id).astype(np.int64)
        if source.origin == CACHE:
            return self._values[source.id]
        return self._values[source.id]

    def _token(self, operator: Operator) -> Integers:
        del operator
        return self.tokens[:, None]

    def _gather(self, operator: Operator) -> Integers:
        w, ids, m, s = operator.inputs
        rows = self.read(ids)
        found = constant(self.program, w.id)[rows].astype(np.int64)
        found = requantised(found, self.read(m)[rows][..., None], self.read(s)[rows][..., None])
        return found.reshape(len(rows), *operator.shape)

    def _norm(self, operator: Operator) -> Integers:
        x, gamma = (self.read(source) for source in operator.inputs)
        least, shift = operator.integer("exponent"), operator.integer("shift")
        largest = np.abs(x).max(-1, keepdims=True)
        exponents = np.full(largest.shape, least, np.int64)
        while True:
            over = scaled(largest, exponents) > 32_767
            if not over.any():
                break
            exponents += over
        u = scaled(x, exponents)
        root = roots(
            (u * u).sum(-1, keepdims=True) + (np.int64(operator.integer("epsilon")) >> (2 * (exponents - least)))
        )
        result = ((u * gamma << shift) + root // 2) // root
        s = operator.integer("s")
        return (result + (1 << (s - 1))) >> s if s else result

    def _linear(self, operator: Operator) -> Integers:
        x, w, m, s = operator.inputs
        weights = constant(self.program, w.id).astype(np.float64)
        values = self.read(x)
        product = values.reshape(len(values), -1, weights.shape[1]).astype(np.float64) @ weights.T
        return requantised(product.astype(np.int64), self.read(m), self.read(s)).reshape(len(values), *operator.shape)

    def _rope(self, operator: Operator) -> Integers:
        x, cosines, sines = (self.read(source) for source in operator.inputs)
        count = len(x)
        cosines, sines = cosines[:count, None], sines[:count, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        result = np.empty_like(x)
        result[..., 0::2], result[..., 1::2] = even * cosines - odd * sines, odd * cosines + even * sines
        return (result + (1 << 13)) >> 14

    def _append(self, operator: Operator) -> Integers:
        row = self.read(operator.inputs[0])
        return row.reshape(len(row), -1)

    def _scores(self, operator: Operator) -> Integers:
        q, k = (self.read(source) for source in operator.inputs)
        count, heads, width = q.shape
        keys = k.reshape(count, -1, width).astype(np.float64)
        share = heads // keys.shape[1]
        result = np.zeros((count, heads, count), np.int64)
        for head in range(heads):
            result[:, head] = (q[:, head].astype(np.float64) @ keys[:, head // share].T).astype(np.int64)
        scaled_up = requantised(result, operator.integer("m"), operator.integer("s"))
        seen = np.tril(np.ones((count, count), bool))[:, None]
        return np.where(seen, scaled_up, 0)

    def _softmax(self, operator: Operator) -> Integers:
        x, table = (self.read(source) for source in operator.inputs)
        count = len(x)
        seen = np.tril(np.ones((count, count), bool))[:, None]
        largest = np.where(seen, x, -(1 << 40)).max(-1, keepdims=True)
        entries = np.where(seen, table[np.minimum(largest - np.where(seen, x, largest), len(table) - 1)], 0)
        total = entries.sum(-1, keepdims=True)
        return np.asarray((entries * operator.integer("one") + total // 2) // total, np.int64)

    def _mix(self, operator: Operator) -> Integers:
        p, v = (self.read(source) for source in operator.inputs)
        heads, width = operator.shape
        values = v.reshape(len(v), -1, width).astype(np.float64)
        share = heads // values.shape[1]
        result = np.stack([p[:, head].astype(np.float64) @ values[:, head // share] for head in range(heads)], 1)
        return requantised(result.astype(np.int64), operator.integer("m"), operator.integer("s"))

    def _add(self, operator: Operator) -> Integers:
        a, b = (self.read(source) for source in operator.inputs)
        total, s = a * operator.integer("ma") + b * operator.integer("mb"), operator.integer("s")
        return (total + (1 << (s - 1))) >> s if s else total

    def _mul(self, operator: Operator) -> Integers:
        a, b = (self.read(source) for source in operator.inputs)
        return requantised(a * b, operator.integer("m"), operator.integer("s"))

    def _table(self, operator: Operator) -> Integers:
        x, entries = (self.read(source) for source in operator.inputs)
        return np.asarray(entries[x - operator.inputs[0].low], np.int64)


def logits_of(program: Program) -> int:
    """The number of the operator that gives the logits: what `gumbel` reads."""
    return next(each.inputs[0].id for each in program.operators if each.kind == "gumbel")


def stream_of(program: Program) -> int:
    """The number of the operator whose output the final norm reads: all before it run at every step, all after it in phase 1."""
    first = next(index for index, each in enumerate(program.operators) if each.phase)
    return program.operators[first].inputs[0].id
