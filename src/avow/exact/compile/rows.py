"""Normalisation and softmax, recognised by what they compute rather than by how they are written.

From each reduction along one axis, everything that depends on its input alone is gathered; on random rows the last value of the input's
shape that is γ · normalised + β (layer or root mean square), or the softmax, is found, and γ, β and ε with it. Frameworks write these in
a dozen ways; all of them end here.
"""

from collections.abc import Iterator

import numpy as np

from avow.exact.compile.elementwise import ELEMENTWISE, evaluate
from avow.exact.compile.graph import Graph, Node
from avow.exact.compile.runtime import Array

REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"})
MAX_REGION = 64
PROBES = 4
TOLERANCE = 1e-7
MAX_EPSILON = 0.1


def recognise_rows(graph: Graph) -> None:
    """Replaces what is found by nodes "Normalise" (axis, mode, epsilon, gamma, beta) and "Softmax" (axis)."""
    done = True
    while done:
        done = any(_replace(graph, node) for node in list(graph.nodes) if node.operator in REDUCTIONS)
        graph.drop_unused()


def _replace(graph: Graph, reduction: Node) -> bool:
    axes = axes_of(graph, reduction)
    if len(axes) != 1:
        return False
    for root in _roots(graph, reduction):
        region = _region(graph, root)
        if reduction not in region:
            continue
        found = _recognise(graph, root, region, axes[0])
        if found is None:
            continue
        at = next(index for index, node in enumerate(graph.nodes) if found.outputs[0] in node.outputs)
        graph.nodes[at] = found
        return True
    return False


def axes_of(graph: Graph, node: Node) -> list[int]:
    """The axes of a reduction, not negative, in order; those of extent 1 left out."""
    shape = graph.shapes[node.inputs[0]]
    given = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        given = graph.constants[node.inputs[1]].reshape(-1).tolist()
    if not given:
        given = [] if node.attributes.get("noop_with_empty_axes", 0) else list(range(len(shape)))
    return sorted({int(axis) % len(shape) for axis in given if shape[int(axis) % len(shape)] != 1})


def _roots(graph: Graph, reduction: Node) -> Iterator[str]:
    """What a reduction may be a normalisation of: its input, or what its input was squared or scaled from."""
    name = reduction.inputs[0]
    yield name
    producers = graph.producers()
    for _ in range(2):
        node = producers.get(name)
        if node is None or node.operator not in ELEMENTWISE or len(set(graph.dynamic(node))) != 1:
            return
        name = graph.dynamic(node)[0]
        yield name


def _region(graph: Graph, root: str) -> list[Node]:
    """The nodes that depend on `root` and constants alone, by element-wise operators, reductions and changes of shape."""
    inside = {root}
    found: list[Node] = []
    for node in graph.nodes:
        dynamic = graph.dynamic(node)
        fits = node.operator in ELEMENTWISE or node.operator in REDUCTIONS or node.operator in ("Reshape", "Expand")
        if fits and dynamic and all(name in inside for name in dynamic) and len(found) < MAX_REGION:
            inside.update(node.outputs)
            found.append(node)
    return found


def _recognise(graph: Graph, root: str, region: list[Node], axis: int) -> Node | None:
    shape = graph.shapes[root]
    generator = np.random.Generator(np.random.PCG64(1))
    scales = [1.0, 0.02, 3.0, 0.3][:PROBES]
    inputs = [generator.normal(size=shape) * scale + 0.1 * scale for scale in scales]
    runs = [_run(graph, root, region, points) for points in inputs]
    if any(run is None for run in runs):
        return None
    epsilons = {0.0, *_small_constants(graph, region)}
    epsilons |= {epsilon / shape[axis] for epsilon in epsilons}
    rows = np.stack([_rows(points, axis) for points in inputs])
    for node in reversed(region):
        name = node.outputs[0]
        if graph.shapes[name] != shape:
            continue
        results = np.stack([_rows(run[name], axis) for run in runs if run is not None])
        if np.allclose(results, _softmax(rows), rtol=TOLERANCE, atol=1e-12):
            return Node("Softmax", [root], [name], {"axis": axis}, node.place)
        fitted = _fit(rows, results, sorted(epsilons))
        if fitted is not None:
            mode, epsilon, gamma, beta = fitted
            attributes = {"axis": axis, "mode": mode, "epsilon": epsilon, "gamma": gamma, "beta": beta}
            return Node("Normalise", [root], [name], attributes, node.place)
    return None


def _run(graph: Graph, root: str, region: list[Node], points: Array) -> dict[str, Array] | None:
    values: dict[str, Array] = {root: points}
    for node in region:
        inputs = [
            None if not name else values[name] if name in values else graph.constants[name].astype(np.float64)
            for name in node.inputs
        ]
        first = inputs[0]
        shape = graph.shapes[node.outputs[0]]
        if node.operator in ELEMENTWISE:
            result = evaluate(node.operator, inputs, node.attributes)
        elif first is None:
            return None
        elif node.operator == "Reshape":
            result = first.reshape(shape)
        elif node.operator == "Expand":
            result = np.broadcast_to(first, shape)
        else:
            result = _reduce(node.operator, first, tuple(axes_of(graph, node))).reshape(shape)
        values[node.outputs[0]] = result
    return values


def _reduce(operator: str, values: Array, axes: tuple[int, ...]) -> Array:
    if operator == "ReduceMax":
        return np.asarray(values.max(axes))
    if operator == "ReduceMean":
        return np.asarray(values.mean(axes))
    if operator == "ReduceSum":
        return np.asarray(values.sum(axes))
    squares = np.asarray((values * values).sum(axes))
    return squares if operator == "ReduceSumSquare" else np.sqrt(squares)


def _rows(values: Array, axis: int) -> Array:
    """[rows, N], the axis last."""
    moved = np.moveaxis(values, axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def _small_constants(graph: Graph, region: list[Node]) -> Iterator[float]:
    for node in region:
        for name in node.inputs:
            value = graph.constants.get(name)
            if value is not None and value.size == 1 and value.dtype.kind == "f":
                number = float(value.reshape(-1)[0])
                if 0 < number < MAX_EPSILON:
                    yield number


def _softmax(rows: Array) -> Array:
    shifted = np.exp(rows - rows.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def _fit(rows: Array, results: Array, epsilons: list[float]) -> tuple[str, float, Array, Array] | None:
    """Mode, ε, γ and β with which the normalised rows are the results, if there are any. Both [probes, rows, N]."""
    if not np.isfinite(results).all():
        return None
    width = rows.shape[-1]
    flat = results.reshape(-1, width)
    best: tuple[float, str, float, Array, Array] | None = None
    for mode in ("layer", "rms"):
        centred = rows - rows.mean(-1, keepdims=True) if mode == "layer" else rows
        power = (centred * centred).mean(-1, keepdims=True)
        for epsilon in epsilons:
            normal = (centred / np.sqrt(power + epsilon)).reshape(-1, width)
            spread = normal - normal.mean(0)
            gamma = (spread * (flat - flat.mean(0))).sum(0) / (spread * spread).sum(0)
            beta = flat.mean(0) - gamma * normal.mean(0)
            if mode == "rms":
                gamma = (normal * flat).sum(0) / (normal * normal).sum(0)
                beta = np.zeros(width)
            error = float(np.abs(gamma * normal + beta - flat).max() / max(1e-30, np.abs(flat).max()))
            if np.isfinite(error) and (best is None or error < best[0]):
                best = error, mode, epsilon, gamma, beta
    if best is None or best[0] > TOLERANCE or not np.abs(best[3]).max() > 0:
        return None
    return best[1], best[2], best[3], np.where(np.abs(best[4]) < TOLERANCE, 0.0, best[4])
