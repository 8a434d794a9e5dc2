"""Lowering of what looks at regions and rows: pools, reductions as trees, softmax, normalisation."""

import math
from dataclasses import replace

import numpy as np

from avow.exact.compile.builder import multiplier, type_of
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.graph import Node
from avow.exact.compile.lower_products import MAX_STRIDED, fitted
from avow.exact.compile.lowering import Lowered, Lowering, bounded
from avow.exact.compile.rows import axes_of
from avow.exact.program import Source
from avow.exact.specification.arithmetic import ACCUMULATOR
from avow.exact.tensors import WIDTHS, size_of

CHUNK = 1024
SOFTMAX_ENTRIES = 8_000
SOFTMAX_REACH = 11.5
"""exp of less than −this is below half a unit of 2^15."""
SOFTMAX_LARGEST = 32_767
NORM_PEAK = 32_767


# --- Pools ---------------------------------------------------------------------------------------------------------


def max_pool(lowering: Lowering, node: Node) -> None:
    """The largest of a window."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise CannotCompile("a pool that gives places")
    x, axes, attributes, shape = _window(lowering, node)
    given: dict[str, int | tuple[int, ...]] = {"mode": 0, "rescale": 0, **attributes}
    lowering.values[node.outputs[0]] = lowering.add(
        "pool", [lowering.source(x)], shape, axes, x.scale, (x.low, x.high), given
    )


def average_pool(lowering: Lowering, node: Node) -> None:
    """The mean of a window that lies inside, or counts the zeros around."""
    x, axes, attributes, shape = _window(lowering, node)
    if any(attributes["pad"]) and not node.attributes.get("count_include_pad", 0):
        raise CannotCompile("a mean over windows that overhang")
    target, most = lowering.scale(node.outputs[0])
    area = math.prod(attributes["kernel"])
    m, s = multiplier(x.scale / area / target)
    given: dict[str, int | tuple[int, ...]] = {"mode": 1, "rescale": 1, "m": m, "s": s, **attributes}
    lowering.values[node.outputs[0]] = lowering.add(
        "pool", [lowering.source(x)], shape, axes, target, bounded(node, target, most), given
    )


def _window(
    lowering: Lowering, node: Node
) -> tuple[Lowered, tuple[int, ...], dict[str, tuple[int, ...]], tuple[int, ...]]:
    before, after = lowering.graph.shapes[node.inputs[0]], lowering.graph.shapes[node.outputs[0]]
    kernel = [int(each) for each in node.attributes["kernel_shape"]]
    spatial = len(kernel)
    if spatial not in (1, 2) or before[0] != 1 or any(int(each) != 1 for each in node.attributes.get("dilations", ())):
        raise CannotCompile("a pool of another form")
    stride = [int(each) for each in node.attributes.get("strides", [1] * spatial)]
    given = [int(each) for each in node.attributes.get("pads", [0] * 2 * spatial)]
    if node.attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        totals = [max(0, (after[2 + at] - 1) * stride[at] + kernel[at] - before[2 + at]) for at in range(spatial)]
        lower = node.attributes["auto_pad"] == "SAME_LOWER"
        given = [-(-total // 2) if lower else total // 2 for total in totals] * 2
    axes: tuple[int, ...] = (2, 3, 1)
    if spatial == 1:
        axes, kernel, stride, given = (-1, 2, 1), [1, *kernel], [1, *stride], [0, given[0], 0, given[1]]
    x = lowering.arrange(lowering.values[node.inputs[0]], axes)
    shape = tuple(after[axis] if axis >= 0 else 1 for axis in axes)
    pad = fitted(list(x.shape[:2]), list(shape[:2]), tuple(kernel), stride, given)
    return x, axes, {"kernel": tuple(kernel), "stride": tuple(stride), "pad": pad}, shape


# --- Reductions ----------------------------------------------------------------------------------------------------


def global_average(lowering: Lowering, node: Node) -> None:
    """The mean over all but batch and channels."""
    axes = list(range(2, len(lowering.graph.shapes[node.inputs[0]])))
    _reduce(lowering, node, axes, mean=True, largest=False)


def global_max(lowering: Lowering, node: Node) -> None:
    """The maximum over all but batch and channels."""
    _reduce(lowering, node, list(range(2, len(lowering.graph.shapes[node.inputs[0]]))), mean=False, largest=True)


def reduction(lowering: Lowering, node: Node) -> None:
    """ReduceMean, ReduceSum, ReduceMax."""
    axes = axes_of(lowering.graph, node)
    _reduce(lowering, node, axes, mean=node.operator == "ReduceMean", largest=node.operator == "ReduceMax")


def _reduce(lowering: Lowering, node: Node, axes: list[int], *, mean: bool, largest: bool) -> None:
    """One axis after the other, where they lie: nothing is moved, and extents of one stay for who needs them."""
    before, after = lowering.graph.shapes[node.inputs[0]], lowering.graph.shapes[node.outputs[0]]
    x = lowering.values[node.inputs[0]]
    gone = [axis for axis in x.axes if axis in axes and before[axis] > 1]
    target, most = (x.scale, 0) if largest else lowering.scale(node.outputs[0])
    count = math.prod(before[axis] for axis in gone)
    ratio = x.scale / (count if mean else 1) / target
    for axis in gone:
        place = x.axes.index(axis)
        x = _tree(lowering, x, place, largest=largest)
        if axis == gone[-1] and not largest:
            x = _scaled(lowering, node, x, ratio, target, most)
    # What is left keeps its order; with keepdims, the axes that went are still there, of extent one.
    left = [axis for axis, extent in enumerate(before) if extent > 1 and axis not in axes]
    names = dict(zip(left, [axis for axis, extent in enumerate(after) if extent > 1], strict=True))
    if len(before) == len(after):
        names |= {axis: axis for axis in gone}
    lowering.values[node.outputs[0]] = replace(x, axes=tuple(names.get(axis, -1) for axis in x.axes))


def _tree(lowering: Lowering, x: Lowered, place: int, *, largest: bool) -> Lowered:
    """Blocks of blocks along one dimension, each small enough to be opened; sums as they are."""
    while x.shape[place] > 1:
        block = min(_block(x, place), x.shape[place])
        shape = list(x.shape)
        shape[place] = -(-shape[place] // block)
        interval = (x.low, x.high) if largest else (x.low * block, x.high * block)
        if max(-interval[0], interval[1]) >= ACCUMULATOR:
            raise CannotCompile("a sum of too many values", extent=x.shape[place])
        attributes: dict[str, int | tuple[int, ...]] = {
            "axis": place,
            "block": block,
            "mode": 0 if largest else 1,
            "rescale": 0,
        }
        x = lowering.add("reduce", [lowering.source(x)], shape, x.axes, x.scale, interval, attributes)
    return x


def _scaled(lowering: Lowering, node: Node, x: Lowered, ratio: float, target: float, most: int) -> Lowered:
    """The last sum, requantised as it is made: the operator just added gets a multiplier and a shift."""
    m, s = multiplier(ratio)
    draft = lowering.builder.drafts[x.number]
    low, high = bounded(node, target, most)
    lowering.builder.drafts[x.number] = replace(
        draft,
        low=low,
        high=high,
        type=type_of(low, high),
        attributes={**draft.attributes, "rescale": 1, "m": m, "s": s},
    )
    return Lowered(x.number, x.shape, x.axes, target, low, high)


def _block(x: Lowered, place: int) -> int:
    """How many values along a dimension may be read at once: their chunks have to fit into a proof."""
    width = WIDTHS[lowered_type(x)]
    chunks = -(-size_of(x.shape) * width // CHUNK)
    extent = x.shape[place]
    if chunks <= MAX_STRIDED:
        return extent
    if math.prod(x.shape[place + 1 :]) == 1:
        return min(extent, MAX_STRIDED * CHUNK // width)
    return MAX_STRIDED


def lowered_type(x: Lowered) -> str:
    """The type of a value, by its interval."""
    return "int8" if x.magnitude <= 127 and x.low >= -128 else "int16" if x.magnitude <= 32_767 else "int32"


# --- Rows ----------------------------------------------------------------------------------------------------------


def softmax(lowering: Lowering, node: Node) -> None:
    """A table of exp over the distance from the row's maximum, its sum, and one division."""
    shape = lowering.graph.shapes[node.inputs[0]]
    axis = node.attributes.get("axis", -1 if lowering.graph.opset >= 13 else 1) % len(shape)
    if lowering.graph.opset < 13 and node.operator == "Softmax" and "axis" in node.attributes:
        rest = [extent for extent in shape[axis + 1 :] if extent > 1]
        if rest:
            raise CannotCompile("a softmax over several axes")
    x = lowering.values[node.inputs[0]]
    x = lowering.arrange(x, (*[each for each in lowering.natural(x) if each not in (axis, -1)], axis))
    # As fine as a table of this many entries can be.
    finest = SOFTMAX_REACH / SOFTMAX_ENTRIES
    if x.scale < finest:
        x = lowering.rescale(x, finest, min(NORM_PEAK, math.ceil(x.magnitude * x.scale / finest)))
    count = min(math.ceil(SOFTMAX_REACH / x.scale) + 1, x.high - x.low + 1)
    entries = np.rint(np.exp(-np.arange(count) * x.scale) * SOFTMAX_LARGEST).astype(np.int16)
    length = x.shape[-1]
    if length * SOFTMAX_LARGEST >= ACCUMULATOR:
        entries = (entries // (-(-length * SOFTMAX_LARGEST // ACCUMULATOR) + 1)).astype(np.int16)
    one = SOFTMAX_LARGEST
    bits = lowering.bits(node.outputs[0])
    if bits < 16:
        one = (1 << (bits - 1)) - 1
    lowering.values[node.outputs[0]] = lowering.add(
        "softmax",
        [lowering.source(x), lowering.builder.constant(entries)],
        x.shape,
        x.axes,
        1.0 / one,
        (0, one),
        {"one": one},
    )


def normalise(lowering: Lowering, node: Node) -> None:
    """Layer or root-mean-square normalisation: exact but for the roundings that the specification names."""
    attributes = node.attributes
    axis = attributes["axis"]
    x = lowering.values[node.inputs[0]]
    x = lowering.arrange(x, (*[each for each in x.axes if each != axis and each >= 0], axis))
    length = x.shape[-1]
    layer = attributes["mode"] == "layer"
    if x.magnitude * (2 * length if layer else 1) >= ACCUMULATOR:
        x = lowering.at_most(x, max(8, (ACCUMULATOR // (2 * length)).bit_length() - 1))
    target, most = lowering.scale(node.outputs[0])
    weights = np.asarray(attributes["gamma"], dtype=np.float64) * math.sqrt(length) / target
    terms = np.asarray(attributes["beta"], dtype=np.float64) / target
    lift = min(15, math.floor(math.log2(NORM_PEAK / max(np.abs(weights).max(), 1e-9))))
    shift = min(14, 15 - lift)
    while shift > max(0, -lift) and np.abs(terms).max() * 2.0 ** (shift + lift) >= 2.0**28:
        shift -= 1
    if shift + lift < 0 or shift < 0:
        raise CannotCompile("a normalisation whose weights are out of range")
    exponent, epsilon = _epsilon(float(attributes["epsilon"]), x, length, layer=layer)
    gamma = np.rint(weights * 2.0**lift).astype(np.int16)
    beta = np.rint(terms * 2.0 ** (shift + lift)).astype(np.int32)
    sources: list[Source | str] = [lowering.source(x), lowering.builder.constant(gamma)]
    if beta.any():
        sources.append(lowering.builder.constant(beta))
    lowering.values[node.outputs[0]] = lowering.add(
        "norm",
        sources,
        x.shape,
        x.axes,
        target,
        bounded(node, target, most),
        {
            "mode": int(layer),
            "exponent": exponent,
            "epsilon": epsilon,
            "shift": shift,
            "beta": int(beta.any()),
            "s": shift + lift,
        },
    )


def _epsilon(epsilon: float, x: Lowered, length: int, *, layer: bool) -> tuple[int, int]:
    """The least exponent, and ε in units of the squares at it: as fine as 2^45 allows."""
    power = epsilon * length / x.scale**2 * (length**2 if layer else 1)
    exponent = -14
    while exponent < 15 and power * 2.0 ** (-2 * exponent) >= 2.0**44:
        exponent += 1
    return exponent, max(1, round(power * 2.0 ** (-2 * exponent)))


HANDLERS = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
    "ReduceMean": reduction,
    "ReduceSum": reduction,
    "ReduceMax": reduction,
    "Softmax": softmax,
    "Normalise": normalise,
}
