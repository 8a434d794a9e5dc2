"""Lowering of what works on single values: functions as tables, sums, products, quotients, magnitudes, bounds."""

import math

import numpy as np

from avow.exact.compile.builder import multiplier
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.functions import Body
from avow.exact.compile.graph import Node
from avow.exact.compile.lowering import Lowered, Lowering, bounded
from avow.exact.program import Source
from avow.exact.specification.arithmetic import ACCUMULATOR, MAX_MULTIPLIER, MAX_SHIFT

MAX_TABLE = 1 << 16


def function(lowering: Lowering, node: Node) -> None:
    """A table over the input's interval."""
    name = node.outputs[0]
    lowering.values[name] = tabulate(
        lowering, lowering.values[node.inputs[0]], node.attributes["body"], *lowering.scale(name)
    )


def tabulate(lowering: Lowering, x: Lowered, body: Body, scale: float, most: int) -> Lowered:
    """The function of a value, by a table of what it is at each integer of the interval, rounded and clamped to ±most."""
    if x.high - x.low + 1 > MAX_TABLE:
        x = lowering.at_most(x, 16)
    points = np.arange(x.low, x.high + 1, dtype=np.float64) * x.scale
    values = np.nan_to_num(body(points), nan=0.0, posinf=most * scale, neginf=-most * scale)
    entries = np.clip(np.rint(values / scale), -most, most)
    low, high = int(entries.min()), int(entries.max())
    width = np.int8 if most <= 127 else np.int16
    table = lowering.builder.constant(entries.astype(width))
    return lowering.add("table", [lowering.source(x), table], x.shape, x.axes, scale, (low, high))


def clamp(lowering: Lowering, node: Node) -> None:
    """ReLU or Clip of a value that others read unclamped."""
    x = lowering.values[node.inputs[0]]
    low, high = (
        max(x.low, _whole(node.attributes["low"], x.scale, x.low)),
        min(x.high, _whole(node.attributes["high"], x.scale, x.high)),
    )
    interval = (min(low, high), high)
    lowering.values[node.outputs[0]] = lowering.add("clip", [lowering.source(x)], x.shape, x.axes, x.scale, interval)


def _whole(bound: float, scale: float, without: int) -> int:
    return without if math.isinf(bound) else round(bound / scale)


def scale(lowering: Lowering, node: Node) -> None:
    """A positive factor: another scale, and no operator."""
    x = lowering.values[node.inputs[0]]
    factor = node.attributes["factor"]
    lowering.values[node.outputs[0]] = Lowered(x.number, x.shape, x.axes, x.scale * factor, x.low, x.high)


def add(lowering: Lowering, node: Node) -> None:
    """A + b, a − b; more terms one after the other."""
    sign = -1 if node.operator == "Sub" else 1
    names = node.inputs
    target, most = lowering.scale(node.outputs[0])
    total: Lowered | None = None
    first = names[0]
    for at, name in enumerate(names[1:]):
        last = at == len(names) - 2
        interval = bounded(node, target, most) if last else (-(1 << 29), 1 << 29)
        total = _sum(lowering, node, total or first, name, sign, target, interval)
    if total is None:
        total = lowering.values[first]
    lowering.values[node.outputs[0]] = total


def _sum(
    lowering: Lowering, node: Node, left: Lowered | str, right: str, sign: int, target: float, interval: tuple[int, int]
) -> Lowered:
    sources, scales, shape, axes = aligned(lowering, node, left, right)
    ma, mb, s = ratios(scales[0] / target, sign * scales[1] / target)
    return lowering.add("add", sources, shape, axes, target, interval, {"ma": ma, "mb": mb, "s": s})


def ratios(first: float, second: float) -> tuple[int, int, int]:
    """ma, mb, s with ma · 2^−s and mb · 2^−s nearest to two ratios."""
    largest = max(abs(first), abs(second))
    s = 14 - math.frexp(largest)[1] + 1
    if s < 0:
        raise CannotCompile("a change of scale is out of range", ratio=repr(largest))
    s = min(s, MAX_SHIFT)
    limit = MAX_MULTIPLIER
    ma, mb = (max(-limit, min(limit, round(math.ldexp(ratio, s)))) for ratio in (first, second))
    return ma, mb, s


def multiply(lowering: Lowering, node: Node) -> None:
    """A · b; the operands as wide as the product may be."""
    target, most = lowering.scale(node.outputs[0])
    sources, scales, shape, axes = aligned(lowering, node, *node.inputs[:2], product=True)
    m, s = multiplier(scales[0] * scales[1] / target)
    lowering.values[node.outputs[0]] = lowering.add(
        "mul", sources, shape, axes, target, bounded(node, target, most), {"m": m, "s": s}
    )


def divide(lowering: Lowering, node: Node) -> None:
    """A / b with b above zero; by a constant, a product with its inverse."""
    target, most = lowering.scale(node.outputs[0])
    if node.inputs[1] in lowering.graph.constants:
        name = f"1 / {node.inputs[1]}"
        lowering.graph.constants[name] = 1.0 / lowering.graph.constants[node.inputs[1]].astype(np.float64)
        multiply(lowering, Node("Mul", [node.inputs[0], name], node.outputs, node.attributes, node.place))
        return
    sources, scales, shape, axes = aligned(lowering, node, *node.inputs[:2])
    divisor = sources[1]
    assert isinstance(divisor, Source)
    found = lowering.ranges.values.get(node.inputs[1])
    if found is None or found.low <= 0:
        raise CannotCompile("a quotient whose divisor may be zero or negative")
    low = max(1, int(found.low / scales[1] / 2))
    b = lowering.add(
        "clip", [divisor], divisor.shape, axes[-len(divisor.shape) :], scales[1], (low, max(low, divisor.high))
    )
    numerator = sources[0]
    c = round(scales[0] / (scales[1] * target))
    if c < 8 or numerator.magnitude * c >= ACCUMULATOR:
        raise CannotCompile("a quotient that integers of these bits cannot hold", factor=c)
    lowering.values[node.outputs[0]] = lowering.add(
        "divide", [numerator, lowering.source(b)], shape, axes, target, (-most, most), {"c": c}
    )


def magnitude(lowering: Lowering, node: Node) -> None:
    """√(a² + b²): squares without loss, their sum, its integer root."""
    name = node.outputs[0]
    parts = [lowering.values[value] for value in node.inputs]
    # The sum of both squares stays below 2^30.
    most = 23_000
    scale_of = max(part.scale * part.magnitude for part in parts) / most
    squares = []
    axes = parts[0].axes
    for part in parts:
        part = lowering.arrange(lowering.rescale(part, scale_of, most), axes)  # noqa: PLW2901  # the same value, prepared
        source = lowering.source(part)
        peak = part.magnitude**2
        squares.append(
            lowering.add("mul", [source, source], part.shape, axes, scale_of**2, (0, peak), {"m": 2, "s": 1})
        )
    peak = sum(square.high for square in squares)
    total = lowering.add(
        "add", [lowering.source(square) for square in squares], squares[0].shape, axes, scale_of**2, (0, peak),
        {"ma": 1, "mb": 1, "s": 0},
    )  # fmt: skip
    root = lowering.add("isqrt", [lowering.source(total)], total.shape, axes, scale_of, (0, math.isqrt(peak)))
    target, largest = lowering.scale(name)
    lowering.values[name] = root if largest > 1 << 14 else lowering.rescale(root, target, largest)


def extremum(lowering: Lowering, node: Node) -> None:
    """max(a, b) = b + relu(a − b), min(a, b) = b − relu(b − a)."""
    if len(node.inputs) != 2:
        raise CannotCompile("the largest or smallest of more than two values")
    target, most = lowering.scale(node.outputs[0])
    sources, scales, shape, axes = aligned(lowering, node, *node.inputs)
    sign = -1 if node.operator == "Min" else 1
    ma, mb, s = ratios(sign * scales[0] / target, -sign * scales[1] / target)
    # What the one has over the other, held at zero from below.
    rest = lowering.add("add", sources, shape, axes, target, (0, 1 << 20), {"ma": ma, "mb": mb, "s": s})
    ma, mb, s = ratios(sign * 1.0, scales[1] / target)
    lowering.values[node.outputs[0]] = lowering.add(
        "add", [lowering.source(rest), sources[1]], shape, axes, target, (-most, most), {"ma": ma, "mb": mb, "s": s}
    )


# --- Two operands --------------------------------------------------------------------------------------------------


def aligned(
    lowering: Lowering, node: Node, left: Lowered | str, right: Lowered | str, *, product: bool = False
) -> tuple[list[Source], list[float], tuple[int, ...], tuple[int, ...]]:
    """Two operands that broadcast: sources, scales, the output's shape and axes.

    Dimensions are ordered as in the operand with more elements. With `product` both are narrow enough for |a · b| < 2^30.
    """
    output = lowering.graph.shapes[node.outputs[0]]
    operands = [_operand(lowering, each, len(output)) for each in (left, right)]
    values = [each for each in operands if isinstance(each, Lowered)]
    if product and len(values) == 2:
        values = _narrow(lowering, values)
        operands = list(values)
    leader = max(values, key=lambda value: int(np.prod(value.shape)))
    axes = leader.axes
    missing = [axis for axis, extent in enumerate(output) if extent > 1 and axis not in axes]
    axes = (*missing, *axes)
    shape = tuple(output[axis] if axis >= 0 else 1 for axis in axes)
    sources, scales = [], []
    for each in operands:
        if isinstance(each, Lowered):
            present = set(lowering.natural(each)) - {-1}
            first = next((at for at, axis in enumerate(axes) if axis in present), len(axes) - 1)
            # Leading extents of one are left out: broadcasting puts them back.
            found = each if each.axes == axes else lowering.arrange(each, axes[first:])
            sources.append(lowering.source(found))
            scales.append(found.scale)
        else:
            laid = each.reshape([1] * (len(output) - each.ndim) + list(each.shape))
            ones = [axis for axis in range(len(output)) if axis not in axes]
            ordered = laid.transpose([axis for axis in axes if axis >= 0] + ones)
            extents = iter(ordered.shape)
            packed = ordered.reshape([next(extents) if axis >= 0 else 1 for axis in axes])
            source, step, _ = lowering.quantised(packed, 15 if product else 16)
            sources.append(source)
            scales.append(step)
    return sources, scales, shape, axes


def _operand(lowering: Lowering, each: Lowered | str, rank: int) -> Lowered | np.ndarray:
    if isinstance(each, Lowered):
        return each
    if each in lowering.values:
        value = lowering.values[each]
        shift = rank - len(lowering.graph.shapes[each])
        axes = tuple(axis + shift if axis >= 0 else -1 for axis in value.axes)
        return Lowered(value.number, value.shape, axes, value.scale, value.low, value.high)
    return lowering.graph.constants[each].astype(np.float64)


def _narrow(lowering: Lowering, values: list[Lowered]) -> list[Lowered]:
    while values[0].magnitude * values[1].magnitude >= ACCUMULATOR:
        at = 0 if values[0].magnitude >= values[1].magnitude else 1
        values[at] = lowering.at_most(values[at], min(16, values[at].magnitude.bit_length()))
    return values


HANDLERS = {
    "Function": function,
    "Clamp": clamp,
    "Scale": scale,
    "Add": add,
    "Sum": add,
    "Sub": add,
    "Mul": multiply,
    "Div": divide,
    "Max": extremum,
    "Min": extremum,
    "Magnitude": magnitude,
}
