"""The second machine: NumPy alone, one operator after the other, one step at a time. For tests, and where numba is not at hand.

Rules:
1. Every value in between is int64 and every operation is an integer's: no float64 argument is needed here that the compiled kernels need,
   so that one machine's mistake is not the other's.
2. Products go through NumPy's integer matmul: slow, without BLAS, the same on every processor.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.errors import BadRun
from avow.exact.hashing import Tracer
from avow.exact.kernels.layout import DTYPES, values_of
from avow.exact.kernels.machine import view_of
from avow.exact.program import CONSTANT, INPUT, PREVIOUS, Operator, Program, Source

Integers = NDArray[Any]
Inputs = Sequence[Integers]
"""An operator's inputs as int64, in their shapes."""


def requantise(accumulator: Integers, multiplier: Any, shift: Any) -> Integers:
    """floor((a·m + 2^(s − 1)) / 2^s); s ≥ 1."""
    return (accumulator * multiplier + (np.int64(1) << (shift - 1))) >> shift


def divide(numerator: Integers, divisor: Integers) -> Integers:
    """The nearest integer, halves up."""
    result: Integers = (numerator + divisor // 2) // divisor
    return result


def root(value: Integers) -> Integers:
    """Integer square roots of values below 2^52, put right by one where the float's root is not below."""
    found: Integers = np.sqrt(value.astype(np.float64)).astype(np.int64)
    found -= (found * found > value).astype(np.int64)
    found += ((found + 1) * (found + 1) <= value).astype(np.int64)
    return found


# --- Products ------------------------------------------------------------------------------------------------------


def _finish(operator: Operator, inputs: Inputs, accumulator: Integers) -> Integers:
    number = 2
    if operator.integer("bias"):
        accumulator = accumulator + inputs[number]
        number += 1
    if operator.integer("rescale"):
        accumulator = requantise(accumulator, inputs[number], inputs[number + 1])
    return accumulator


def _linear(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    w = inputs[1]
    return _finish(operator, inputs, inputs[0].reshape(-1, w.shape[1]) @ w.T).reshape(operator.shape)


def _matmul(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    a, b = inputs
    if operator.integer("transpose_b"):
        b = np.swapaxes(b, -1, -2)
    return requantise(a @ b, operator.integer("m"), operator.integer("s"))


def _windows(operator: Operator, x: Integers, kernel: tuple[int, int], outside: int) -> list[list[Integers]]:
    """For each tap, what it sees at all places: [Ho, Wo, C]."""
    top, left, bottom, right = operator.integers("pad")
    down, along = operator.integers("stride")
    spread = operator.integers("dilation") if "dilation" in operator.attributes else (1, 1)
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=outside)
    height, width = operator.shape[:2]
    return [
        [
            padded[i * spread[0] :: down, j * spread[1] :: along][:height, :width]
            for j in range(kernel[1])
        ]
        for i in range(kernel[0])
    ]  # fmt: skip


def _conv(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    x, w = inputs[:2]
    outputs, taps_y, taps_x, depth = w.shape
    groups = operator.integer("groups")
    height, width = operator.shape[:2]
    total = np.zeros((height, width, groups, outputs // groups), np.int64)
    for i, line in enumerate(_windows(operator, x, (taps_y, taps_x), 0)):
        for j, seen in enumerate(line):
            weights = w[:, i, j].reshape(groups, outputs // groups, depth)
            total += np.einsum("yxgk,gok->yxgo", seen.reshape(height, width, groups, depth), weights)
    return _finish(operator, inputs, total.reshape(operator.shape))


# --- Single values -------------------------------------------------------------------------------------------------


def _add(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    total: Integers = inputs[0] * operator.integer("ma") + inputs[1] * operator.integer("mb")
    shift = operator.integer("s")
    return requantise(total, 1, shift) if shift else total


def _mul(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return requantise(inputs[0] * inputs[1], operator.integer("m"), operator.integer("s"))


def _divide(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return divide(inputs[0] * operator.integer("c"), inputs[1])


def _rescale(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return requantise(inputs[0], operator.integer("m"), operator.integer("s"))


def _same(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return inputs[0].reshape(operator.shape)


def _table(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return inputs[1][inputs[0] - operator.inputs[0].low]


def _isqrt(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del operator, step
    return root(inputs[0])


def _rope(operator: Operator, inputs: Inputs, step: int) -> Integers:
    x, cosine, sine = inputs[0], inputs[1][step], inputs[2][step]
    half = x.shape[-1] // 2
    result = np.empty_like(x)
    first, second = (
        (slice(0, None, 2), slice(1, None, 2))
        if operator.integer("interleaved")
        else (slice(0, half), slice(half, None))
    )
    one, two = x[..., first], x[..., second]
    result[..., first] = requantise(one * cosine - two * sine, 1, 14)
    result[..., second] = requantise(two * cosine + one * sine, 1, 14)
    return result


# --- Movement ------------------------------------------------------------------------------------------------------


def _gather(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    rows = inputs[1].reshape(-1)
    found: Integers = inputs[0][rows]
    if operator.integer("rescale"):
        found = requantise(found, inputs[2][rows, None], inputs[3][rows, None])
    return found.reshape(operator.shape)


def _concat(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return np.concatenate(inputs, axis=operator.integer("axis"))


def _slice(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    walks = zip(operator.integers("starts"), operator.integers("steps"), operator.shape, strict=True)
    return inputs[0][np.ix_(*[first + each * np.arange(count) for first, each, count in walks])]


def _transpose(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return inputs[0].transpose(operator.integers("perm"))


def _pad(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    before = operator.integers("before")
    room = zip(before, inputs[0].shape, operator.shape, strict=True)
    widths = [(first, whole - first - extent) for first, extent, whole in room]
    return np.pad(inputs[0], widths, constant_values=operator.integer("value"))


def _expand(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    return np.broadcast_to(inputs[0], operator.shape)


# --- Reductions ----------------------------------------------------------------------------------------------------


def _gathered(operator: Operator, total: Integers) -> Integers:
    if operator.integer("mode") and operator.integer("rescale"):
        return requantise(total, operator.integer("m"), operator.integer("s"))
    return total


def _pool(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    kernel = operator.integers("kernel")
    mode = operator.integer("mode")
    outside = 0 if mode else operator.inputs[0].low
    seen = [each for line in _windows(operator, inputs[0], (kernel[0], kernel[1]), outside) for each in line]
    total: Integers = seen[0]
    for each in seen[1:]:
        total = total + each if mode else np.maximum(total, each)
    return _gathered(operator, total)


def _reduce(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    x, axis = inputs[0], operator.integer("axis")
    starts = np.arange(0, x.shape[axis], operator.integer("block"))
    combine = np.add if operator.integer("mode") else np.maximum
    return _gathered(operator, combine.reduceat(x, starts, axis=axis))


def _softmax(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    x, table = inputs
    entries = table[np.minimum(x.max(axis=-1, keepdims=True) - x, len(table) - 1)]
    return divide(entries * operator.integer("one"), entries.sum(axis=-1, keepdims=True))


def _scaled(value: Integers, exponent: Integers) -> Integers:
    up = np.maximum(-exponent, 0)
    down = np.maximum(exponent, 0)
    half = np.where(down > 0, np.int64(1) << np.maximum(down - 1, 0), 0)
    return ((value << up) + half) >> down


def _norm(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    x, gamma = inputs[:2]
    if operator.integer("mode"):
        x = x.shape[-1] * x - x.sum(axis=-1, keepdims=True)
    least = operator.integer("exponent")
    largest = np.abs(x).max(axis=-1, keepdims=True)
    exponent = np.full_like(largest, least)
    while True:
        large = _scaled(largest, exponent) > 32_767
        if not large.any():
            break
        exponent = exponent + large
    scaled = _scaled(x, exponent)
    epsilon = np.int64(operator.integer("epsilon")) >> np.minimum(2 * (exponent - least), 63)
    divisor = root((scaled * scaled).sum(axis=-1, keepdims=True) + epsilon)
    result = divide((scaled * gamma) << operator.integer("shift"), divisor)
    if operator.integer("beta"):
        result = result + inputs[2]
    return _scaled(result, np.int64(operator.integer("s")))  # type: ignore[arg-type]


def _choose(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    # A stable sort of the negatives: of equal values the lower place first.
    return np.argsort(-inputs[0], axis=-1, kind="stable")[..., : operator.shape[-1]]


def _trees(operator: Operator, inputs: Inputs, step: int) -> Integers:
    del step
    features, nodes = inputs
    trees = np.arange(len(nodes))
    at = np.zeros(len(nodes), np.int64)
    for _ in range(operator.integer("depth")):
        feature, threshold, left, right = (nodes[trees, at, field] for field in range(4))
        left_of = features[np.maximum(feature, 0)] <= threshold
        at = np.where(feature < 0, at, np.where(left_of, left, right))
    found: Integers = nodes[trees, at, 1]
    return found


Kind = Callable[[Operator, Inputs, int], Integers]
KINDS: Mapping[str, Kind] = {
    "linear": _linear, "matmul": _matmul, "conv": _conv, "add": _add, "mul": _mul, "divide": _divide, "rescale": _rescale,
    "clip": _same, "table": _table, "isqrt": _isqrt, "rope": _rope, "input": _same, "gather": _gather, "concat": _concat,
    "slice": _slice, "transpose": _transpose, "reshape": _same, "pad": _pad, "expand": _expand, "pool": _pool, "reduce": _reduce,
    "softmax": _softmax, "norm": _norm, "argmax": _choose, "topk": _choose, "trees": _trees,
}  # fmt: skip
"""What each kind gives of inputs as int64 at a step, before the clamp to its interval; where the language has none, it changes nothing."""


class PlainRunner:
    """See machine.py's rules. Holds nothing but the program's constants."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._constants: dict[int, Integers] = {}
        for operator in program.operators:
            for source in operator.inputs:
                if source.origin == CONSTANT and source.id not in self._constants:
                    self._constants[source.id] = values_of(program, source).astype(np.int64)

    def run(self, inputs: Sequence[Integers], steps: int, tracer: Tracer | None) -> list[Integers]:
        self._check(inputs)
        program = self._program
        results = [
            np.empty((steps, *program.operators[number].shape), DTYPES[program.operators[number].type])
            for number in program.outputs
        ]
        previous: list[Integers] = []
        for step in range(steps):
            now = self._step(inputs, previous, step, tracer)
            for result, number in zip(results, program.outputs, strict=True):
                result[step] = now[number]
            previous = now
        return results

    def traced(self, inputs: Sequence[Integers], steps: int, tracer: Tracer) -> None:
        """Its runs are long."""

    def tensor(self, inputs: Sequence[Integers], step: int, operator: int) -> bytes:
        self._check(inputs)
        now: list[Integers] = []
        for each in range(step + 1) if self._program.mode == "sequence" else (step,):
            now = self._step(inputs, now, each, None)
        return now[operator].tobytes()

    def _check(self, inputs: Sequence[Integers]) -> None:
        for number, (array, wanted) in enumerate(zip(inputs, self._program.inputs, strict=True)):
            if int(array.min()) < wanted.low or int(array.max()) > wanted.high:
                raise BadRun("an input has a value outside of its interval", input=number)

    def _step(self, inputs: Inputs, previous: list[Integers], step: int, tracer: Tracer | None) -> list[Integers]:
        now: list[Integers] = []
        for index, operator in enumerate(self._program.operators):
            found = KINDS[operator.kind](
                operator, [self._read(source, inputs, now, previous, step) for source in operator.inputs], step
            )
            clamped = np.minimum(np.maximum(found, operator.low), operator.high)
            value = np.ascontiguousarray(clamped, DTYPES[operator.type])
            now.append(value)
            if tracer is not None:
                tracer.record(step, index, view_of(value))
        return now

    def _read(
        self, source: Source, inputs: Inputs, now: list[Integers], previous: list[Integers], step: int
    ) -> Integers:
        if source.origin == CONSTANT:
            return self._constants[source.id]
        if source.origin == INPUT:
            return inputs[source.id][step].astype(np.int64)
        if source.origin == PREVIOUS:
            return previous[source.id].astype(np.int64) if previous else np.zeros(source.shape, np.int64)
        return now[source.id].astype(np.int64)
