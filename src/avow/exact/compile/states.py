"""States of a model that is run step by step: inputs whose value is an output of the step before.

A state that its step puts together from parts is taken apart, and what picks a part of it reads that part alone: hidden and cell state of
an LSTM then have scales of their own.
"""

import numpy as np

from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.graph import Graph, Node


def take_states_apart(graph: Graph) -> None:
    """Rewrites states that are concatenations. Raises CannotCompile for shapes that do not fit."""
    for name, value in list(graph.states.items()):
        if graph.shapes[name] != graph.shapes[value]:
            raise CannotCompile("a state and its next value have different shapes", input=name[:96])
        graph.measured[name] = value
        producer = graph.producers().get(value)
        if producer is None or producer.operator != "Concat":
            continue
        axis = producer.attributes["axis"] % len(graph.shapes[name])
        parts = [f"{name}.{index}" for index in range(len(producer.inputs))]
        for part, source in zip(parts, producer.inputs, strict=True):
            graph.shapes[part], graph.types[part] = graph.shapes[source], graph.types[source]
            graph.states[part] = graph.measured[part] = source
        del graph.states[name]
        at = graph.inputs.index(name)
        graph.inputs[at : at + 1] = parts
        graph.nodes.insert(0, Node("Concat", parts, [name], {"axis": axis}, f"state {name}"))
    _read_parts(graph)
    graph.drop_unused()


def _read_parts(graph: Graph) -> None:
    """Gather and Slice of exactly one part of a concatenation read that part."""
    producers = graph.producers()
    for node in graph.nodes:
        source = producers.get(node.inputs[0]) if node.inputs else None
        if source is None or source.operator != "Concat" or node.operator not in ("Gather", "Slice"):
            continue
        rank = len(graph.shapes[source.outputs[0]])
        axis = source.attributes["axis"] % rank
        picked = _picked(graph, node, axis, rank)
        start = 0
        for part in source.inputs:
            extent = graph.shapes[part][axis] if part not in graph.constants else graph.constants[part].shape[axis]
            if picked == (start, start + extent) and part not in graph.constants:
                node.operator, node.inputs, node.attributes = "Reshape", [part], {}
                break
            start += extent


def _picked(graph: Graph, node: Node, axis: int, rank: int) -> tuple[int, int] | None:
    """The half-open range along `axis` that a node picks, if it picks one and all of the other axes."""
    extent = graph.shapes[node.inputs[0]][axis]
    if node.operator == "Gather":
        index = graph.constants.get(node.inputs[1])
        if index is None or index.size != 1 or node.attributes.get("axis", 0) % rank != axis:
            return None
        at = int(index.reshape(-1)[0]) % extent
        return at, at + 1
    bounds = slice_bounds(graph, node)
    if any(step != 1 for _, _, step in bounds):
        return None
    shape = graph.shapes[node.inputs[0]]
    if any((start, stop) != (0, shape[at]) for at, (start, stop, _) in enumerate(bounds) if at != axis):
        return None
    return bounds[axis][0], bounds[axis][1]


def slice_bounds(graph: Graph, node: Node) -> list[tuple[int, int, int]]:
    """Start, stop and step of a Slice along every axis, worked out for its input's shape; a stop of −1 is before the first."""
    shape = graph.shapes[node.inputs[0]]
    if len(node.inputs) > 1:
        given = [graph.constants[name].reshape(-1).tolist() if name else None for name in node.inputs[1:]]
        given += [None] * (4 - len(given))
        starts, stops, axes, steps = given
    else:
        starts, stops, axes, steps = (node.attributes.get(name) for name in ("starts", "ends", "axes", "steps"))
    starts, stops = list(starts or ()), list(stops or ())
    found = [(0, extent, 1) for extent in shape]
    for at, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        axis = int((axes or range(len(starts)))[at]) % len(shape)
        step = int(steps[at]) if steps else 1
        extent = shape[axis]
        low, high = (0, extent) if step > 0 else (-1, extent - 1)
        first = int(np.clip(start + extent if start < 0 else start, max(low, 0) if step > 0 else 0, high))
        last = int(np.clip(stop + extent if stop < 0 else stop, low, extent if step > 0 else extent - 1))
        found[axis] = (first, last, step)
    return found
