"""Lowering of products: Linear, Convolution, Affine, Embedding, MatMul."""

import numpy as np

from avow.exact.compile.builder import Weights, multiplier, quantise_weights
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.graph import Node
from avow.exact.compile.lowering import Lowered, Lowering, bounded
from avow.exact.program import Source
from avow.exact.specification.arithmetic import ACCUMULATOR

MAX_STRIDED = 24
"""Values that lie in as many chunks: more would make a proof of one element too large."""


def linear(lowering: Lowering, node: Node) -> None:
    """X [..., K] · w [N, K]"""
    rank = len(lowering.graph.shapes[node.inputs[0]])
    x = lowering.at_most(lowering.values[node.inputs[0]], lowering.product_bits(node))
    kept = [axis for axis in lowering.natural_in_place(x) if axis != rank - 1]
    x = lowering.arrange(x, (*kept, rank - 1))
    weight, bias = node.attributes["weight"], node.attributes["bias"]
    scale, most = lowering.scale(node.outputs[0])
    made = _weights(lowering, weight, bias, x, scale)
    lowering.values[node.outputs[0]] = lowering.add(
        "linear",
        _sources(lowering, x, made),
        (*x.shape[:-1], len(weight)),
        x.axes,
        scale,
        bounded(node, scale, most),
        _flags(made),
    )


def linear_of(
    lowering: Lowering,
    x: Lowered,
    weight: np.ndarray,
    bias: np.ndarray,
    scale: float,
    interval: tuple[int, int],
    shape: tuple[int, ...],
) -> Lowered:
    """A linear map of rows that lie as they should, at a given scale."""
    made = _weights(lowering, weight, bias, x, scale)
    return lowering.add("linear", _sources(lowering, x, made), shape, x.axes, scale, interval, _flags(made))


def _weights(lowering: Lowering, weight: np.ndarray, bias: np.ndarray, x: Lowered, scale: float) -> Weights:
    return quantise_weights(
        weight,
        bias,
        input_scale=x.scale,
        low=x.low,
        high=x.high,
        output_scale=scale,
        bits=lowering.settings.weight_bits,
    )


def _sources(lowering: Lowering, x: Lowered, made: Weights) -> list[Source | str]:
    sources: list[Source | str] = [lowering.source(x), lowering.builder.constant(made.weight)]
    if made.bias.any():
        sources.append(lowering.builder.constant(made.bias))
    return [*sources, lowering.builder.constant(made.m), lowering.builder.constant(made.s)]


def _flags(made: Weights) -> dict[str, int | tuple[int, ...]]:
    return {"bias": int(made.bias.any()), "rescale": 1}


def convolution(lowering: Lowering, node: Node) -> None:
    """[1, C, H, W], or [1, C, W] as [1, W, C]: the channels come last."""
    attributes = node.attributes
    shape, output = lowering.graph.shapes[node.inputs[0]], lowering.graph.shapes[node.outputs[0]]
    weight, stride, dilation = attributes["weight"], attributes["stride"], attributes["dilation"]
    if shape[0] != 1:
        raise CannotCompile("a convolution over a batch")
    axes: tuple[int, int, int] = (2, 3, 1) if len(shape) == 4 else (-1, 2, 1)
    extents = [shape[axis] if axis >= 0 else 1 for axis in axes]
    results = [output[axis] if axis >= 0 else 1 for axis in axes]
    pad = list(attributes["pad"])
    if len(shape) == 4 and shape[3] == 1 and weight.shape[2] == 1 and shape[2] > 1:
        # One row rather than one column: its values lie side by side.
        axes, weight = (3, 2, 1), weight.transpose(0, 2, 1, 3)
        extents, results = [extents[1], extents[0], extents[2]], [results[1], results[0], results[2]]
        stride, dilation, pad = stride[::-1], dilation[::-1], [pad[1], pad[0], pad[3], pad[2]]
    x = lowering.at_most(lowering.values[node.inputs[0]], lowering.product_bits(node))
    x = lowering.arrange(x, axes)
    scale, most = lowering.scale(node.outputs[0])
    made = _weights(lowering, np.ascontiguousarray(weight), attributes["bias"], x, scale)
    lowering.values[node.outputs[0]] = lowering.add(
        "conv",
        _sources(lowering, x, made),
        results,
        axes,
        scale,
        bounded(node, scale, most),
        {
            **_flags(made),
            "groups": attributes["groups"],
            "stride": tuple(stride),
            "dilation": tuple(dilation),
            "pad": fitted(extents[:2], results[:2], weight.shape[1:3], stride, pad, dilation),
        },
    )


def fitted(
    extents: list[int],
    results: list[int],
    kernel: tuple[int, ...],
    stride: list[int],
    pad: list[int],
    dilation: list[int] | None = None,
) -> tuple[int, ...]:
    """The padding, its end set to what gives the output's extents: ONNX leaves it open what a window that overhangs does."""
    found = [pad[0], pad[1], 0, 0]
    for at in range(2):
        reach = (kernel[at] - 1) * (dilation[at] if dilation else 1) + 1
        found[2 + at] = max(0, (results[at] - 1) * stride[at] + reach - extents[at] - pad[at])
    return tuple(found)


def affine(lowering: Lowering, node: Node) -> None:
    """A factor and a term per channel (axis 1): a convolution of one tap in as many groups."""
    factor, term = node.attributes["factor"], node.attributes["term"]
    shape = lowering.graph.shapes[node.inputs[0]]
    x = lowering.at_most(lowering.values[node.inputs[0]], lowering.product_bits(node))
    kept = [axis for axis in lowering.natural(x) if axis not in (1, -1)]
    if len(kept) > 2:
        raise CannotCompile("factors per channel in more than two dimensions")
    axes = (*[-1] * (2 - len(kept)), *kept, 1)
    x = lowering.arrange(x, axes)
    scale, most = lowering.scale(node.outputs[0])
    made = _weights(lowering, factor.reshape(shape[1], 1, 1, 1), term, x, scale)
    ones = {"stride": (1, 1), "dilation": (1, 1), "pad": (0, 0, 0, 0)}
    lowering.values[node.outputs[0]] = lowering.add(
        "conv",
        _sources(lowering, x, made),
        x.shape,
        axes,
        scale,
        bounded(node, scale, most),
        {**_flags(made), "groups": shape[1], **ones},
    )


def embedding(lowering: Lowering, node: Node) -> None:
    """Rows of a table by ids, which are integers of the program's input."""
    ids = lowering.values[node.inputs[0]]
    weight = node.attributes["weight"]
    if ids.scale != 1:
        raise CannotCompile("ids that are not the model's input")
    if ids.low < 0 or ids.high >= len(weight):
        raise CannotCompile("an id may be of no row", low=ids.low, high=ids.high, rows=len(weight))
    shape = lowering.graph.shapes[node.outputs[0]]
    ids_shape = lowering.graph.shapes[node.inputs[0]]
    ids = lowering.arrange(ids, lowering.natural(ids))
    bits = lowering.bits(node.outputs[0])
    most = (1 << (bits - 1)) - 1
    scale = max(float(np.abs(weight).max()) / most, 1e-12)
    whole = np.rint(weight / scale).astype(np.int8 if bits <= 8 else np.int16)
    # The output's axes are those of the ids (one of extent one may have been dropped, at the end) and the row's.
    axes = [axis for axis in ids.axes if axis >= 0 and axis < len(ids_shape)]
    lowering.values[node.outputs[0]] = lowering.add(
        "gather",
        [lowering.builder.constant(whole), lowering.source(ids)],
        (*ids.shape, weight.shape[1]),
        (*(axes or [-1]), len(shape) - 1),
        scale,
        (-most, most),
        {"rescale": 0},
    )


def matmul(lowering: Lowering, node: Node) -> None:
    """A [..., M, K] · b [..., K, N], both variable (or one a constant of three dimensions and more)."""
    shapes = [_shape(lowering, name) for name in node.inputs[:2]]
    rank = max(len(shape) for shape in shapes)
    if min(len(shape) for shape in shapes) < 2:
        raise CannotCompile("a product with a vector")
    a, b = (_operand(lowering, name, rank) for name in node.inputs[:2])
    batch = sorted({axis for value in (a, b) for axis in lowering.natural(value) if 0 <= axis < rank - 2})
    for value in (a, b):
        if set(batch) - set(lowering.natural(value)):
            raise CannotCompile("a product whose batches are repeated")
    length = shapes[0][-1]
    transposed = b.axes[-1] == rank - 2 or (length > MAX_STRIDED and b.shape != (1,))
    last = (rank - 1, rank - 2) if transposed else (rank - 2, rank - 1)
    a = lowering.arrange(a, (*batch, rank - 2, rank - 1))
    b = lowering.arrange(b, (*batch, *last))
    a, b = _bounded_pair(lowering, a, b, length)
    scale, most = lowering.scale(node.outputs[0])
    m, s = multiplier(a.scale * b.scale / scale)
    lowering.values[node.outputs[0]] = lowering.add(
        "matmul",
        [lowering.source(a), lowering.source(b)],
        (*a.shape[:-1], shapes[1][-1]),
        (*batch, rank - 2, rank - 1),
        scale,
        bounded(node, scale, most),
        {"transpose_b": int(transposed), "m": m, "s": s},
    )


def _shape(lowering: Lowering, name: str) -> tuple[int, ...]:
    return lowering.graph.shapes[name] if name in lowering.values else lowering.graph.constants[name].shape


def _operand(lowering: Lowering, name: str, rank: int) -> Lowered:
    if name not in lowering.values:
        raise CannotCompile("a product with a constant of more than two dimensions, or on the left")
    value = lowering.values[name]
    shift = rank - len(lowering.graph.shapes[name])
    axes = tuple(axis + shift if axis >= 0 else -1 for axis in value.axes)
    return Lowered(value.number, value.shape, axes, value.scale, value.low, value.high)


def _bounded_pair(lowering: Lowering, a: Lowered, b: Lowered, length: int) -> tuple[Lowered, Lowered]:
    """Both with so few bits that no sum of `length` products reaches 2^30."""
    while length * a.magnitude * b.magnitude >= ACCUMULATOR:
        if a.magnitude >= b.magnitude:
            a = lowering.at_most(a, a.magnitude.bit_length())
        else:
            b = lowering.at_most(b, b.magnitude.bit_length())
        if min(a.magnitude, b.magnitude) < 64:
            raise CannotCompile("a product of two variable matrices is too long", length=length)
    return a, b


HANDLERS = {
    "Linear": linear,
    "Convolution": convolution,
    "Affine": affine,
    "Embedding": embedding,
    "MatMul": matmul,
}
