"""Chains of element-wise operators with one origin, as functions of one number.

Rules:
1. A value is a function of `root` if every path from it leads through element-wise operators to `root` alone, with constants of
   one element beside it.
2. A function's nodes are evaluated in float64 (elementwise.py) at the points that the table needs.
3. ReLU and Clip alone are bounds, not tables; a positive factor alone is a change of scale.
"""

from dataclasses import dataclass

import numpy as np

from avow.exact.compile.elementwise import ELEMENTWISE, evaluate
from avow.exact.compile.graph import Graph, Node
from avow.exact.compile.runtime import Array

PRODUCTS = frozenset({"Linear", "Convolution", "Affine", "Add", "Mul", "Sub", "MatMul", "AveragePool"})
"""What can hold its output within bounds itself."""


@dataclass(slots=True)
class Body:
    """The nodes that make a function, in order; the last one's output is the result. `constants` are single numbers."""

    root: str
    nodes: list[Node]
    constants: dict[str, float]

    def __call__(self, points: Array) -> Array:
        values: dict[str, Array] = {self.root: np.asarray(points, dtype=np.float64)}
        result = values[self.root]
        for node in self.nodes:
            inputs = [
                None if not name else values[name] if name in values else np.asarray(self.constants[name])
                for name in node.inputs
            ]
            result = np.broadcast_to(evaluate(node.operator, inputs, node.attributes), np.shape(points))
            values[node.outputs[0]] = result
        return result

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Low and high, if the function is ReLU or Clip alone."""
        if any(node.operator not in ("Relu", "Clip") for node in self.nodes):
            return None
        low, high = self(np.array([-1e30, 1e30]))
        return (-np.inf if low <= -1e29 else float(low)), (np.inf if high >= 1e29 else float(high))

    @property
    def factor(self) -> float | None:
        """The positive factor, if the function is that alone."""
        if any(
            node.operator not in ("Mul", "Div") or len(set(node.inputs) & set(self.constants)) != 1
            for node in self.nodes
        ):
            return None
        if any(node.operator == "Div" and node.inputs[0] in self.constants for node in self.nodes):
            return None
        value = float(self(np.ones(1))[0])
        return value if value > 0 else None


def form_magnitudes(graph: Graph) -> None:
    """√(a² + b²) as one node "Magnitude": squares have twice the bits of a table's input."""
    producers = graph.producers()
    for node in graph.nodes:
        total = producers.get(node.inputs[0]) if node.operator == "Sqrt" else None
        if total is None or total.operator != "Add" or len(graph.dynamic(total)) != 2:
            continue
        squared = [_squared(graph, producers.get(name)) for name in total.inputs]
        if all(name is not None and graph.shapes[name] == graph.shapes[node.outputs[0]] for name in squared):
            node.operator, node.inputs = "Magnitude", [name for name in squared if name is not None]


def _squared(graph: Graph, node: Node | None) -> str | None:
    if node is None or len(set(graph.dynamic(node))) != 1:
        return None
    if node.operator == "Mul" and node.inputs[0] == node.inputs[1]:
        return node.inputs[0]
    if (
        node.operator == "Pow"
        and node.inputs[1] in graph.constants
        and bool(np.all(graph.constants[node.inputs[1]] == 2))
    ):
        return node.inputs[0]
    return None


def form_functions(graph: Graph) -> None:
    """Turns chains into nodes "Function" (attribute `body`), "Clamp" (low, high), "Scale" (factor); bounds join their product."""
    roots = _roots(graph)
    needed = {*graph.outputs, *graph.states.values()}
    for node in graph.nodes:
        outside = roots.get(node.outputs[0]) is None
        for name in node.inputs:
            if outside and name in roots:
                needed.add(name)
    producers = graph.producers()
    made: list[Node] = []
    for node in graph.nodes:
        name = node.outputs[0]
        if name not in roots:
            made.append(node)
        elif name in needed:
            made.append(_function(graph, name, roots[name], producers))
    graph.nodes = made
    _join_bounds(graph)
    _join_embeddings(graph)


def _roots(graph: Graph) -> dict[str, str]:
    """Value → the one value that it is a function of."""
    roots: dict[str, str] = {}
    for node in graph.nodes:
        if node.operator not in ELEMENTWISE:
            continue
        origins = {roots.get(name, name) for name in graph.dynamic(node)}
        single = all(graph.constants[name].size == 1 for name in node.inputs if name in graph.constants)
        if len(origins) != 1 or not single:
            continue
        origin = origins.pop()
        if graph.shapes[origin] == graph.shapes[node.outputs[0]] or _same_extents(graph, origin, node.outputs[0]):
            roots[node.outputs[0]] = origin
    return roots


def _same_extents(graph: Graph, one: str, other: str) -> bool:
    """Whether two shapes differ by leading ones alone."""
    a, b = graph.shapes[one], graph.shapes[other]
    short, long = sorted((a, b), key=len)
    return long[len(long) - len(short) :] == short and all(extent == 1 for extent in long[: len(long) - len(short)])


def _function(graph: Graph, name: str, root: str, producers: dict[str, Node]) -> Node:
    order: list[Node] = []
    seen = {root}

    def visit(value: str) -> None:
        if value in seen or value in graph.constants or not value:
            return
        seen.add(value)
        for source in producers[value].inputs:
            visit(source)
        order.append(producers[value])

    visit(name)
    constants = {
        source: float(graph.constants[source].reshape(-1)[0])
        for node in order
        for source in node.inputs
        if source in graph.constants
    }
    body = Body(root, order, constants)
    place = producers[name].place
    if (bounds := body.bounds) is not None:
        return Node("Clamp", [root], [name], {"low": bounds[0], "high": bounds[1]}, place)
    if (factor := body.factor) is not None:
        return Node("Scale", [root], [name], {"factor": factor}, place)
    return Node("Function", [root], [name], {"body": body}, place)


def _join_bounds(graph: Graph) -> None:
    """A Clamp that alone reads a product becomes the product's bounds."""
    consumers, producers = graph.consumers(), graph.producers()
    kept = {*graph.outputs, *graph.states.values()}
    gone: set[int] = set()
    for node in graph.nodes:
        if node.operator != "Clamp":
            continue
        before = producers.get(node.inputs[0])
        if (
            before is None
            or before.operator not in PRODUCTS
            or len(consumers[node.inputs[0]]) != 1
            or node.inputs[0] in kept
        ):
            continue
        before.attributes = {**before.attributes, "low": node.attributes["low"], "high": node.attributes["high"]}
        before.outputs = list(node.outputs)
        gone.add(id(node))
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _join_embeddings(graph: Graph) -> None:
    """A function of looked-up rows is applied to the rows once and for all."""
    consumers, producers = graph.consumers(), graph.producers()
    kept = {*graph.outputs, *graph.states.values()}
    for node in graph.nodes:
        if node.operator != "Function":
            continue
        before = producers.get(node.inputs[0])
        if (
            before is None
            or before.operator != "Embedding"
            or len(consumers[node.inputs[0]]) != 1
            or node.inputs[0] in kept
        ):
            continue
        body: Body = node.attributes["body"]
        node.operator, node.inputs = "Embedding", list(before.inputs)
        node.attributes = {"weight": body(before.attributes["weight"])}
    graph.drop_unused()
