"""Lowering of what moves values: most of it costs nothing but a new name for a dimension."""

from dataclasses import replace

import numpy as np

from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.graph import Node
from avow.exact.compile.lowering import Lowered, Lowering
from avow.exact.compile.states import slice_bounds


def reshape(lowering: Lowering, node: Node) -> None:
    """New names where only extents of one come and go; else the values in their order, cut anew."""
    before, after = lowering.graph.shapes[node.inputs[0]], lowering.graph.shapes[node.outputs[0]]
    x = lowering.values[node.inputs[0]]
    old = [axis for axis, extent in enumerate(before) if extent > 1]
    new = [axis for axis, extent in enumerate(after) if extent > 1]
    if [before[axis] for axis in old] == [after[axis] for axis in new]:
        names = dict(zip(old, new, strict=True))
        lowering.values[node.outputs[0]] = replace(x, axes=tuple(names.get(axis, -1) for axis in x.axes))
        return
    x = lowering.arrange(x, lowering.natural(x))
    shape = [after[axis] for axis in new]
    if _gives_any_shape(lowering, node, x):
        draft = lowering.builder.drafts[x.number]
        lowering.builder.drafts[x.number] = replace(draft, shape=tuple(shape))
        lowering.values[node.outputs[0]] = replace(x, shape=tuple(shape), axes=tuple(new))
        return
    lowering.values[node.outputs[0]] = lowering.add(
        "reshape", [lowering.source(x)], shape, new, x.scale, (x.low, x.high)
    )


def _gives_any_shape(lowering: Lowering, node: Node, x: Lowered) -> bool:
    """Whether `x` was just made by a kind that gives its rows in any shape, for this node alone."""
    last = x.number == len(lowering.builder.drafts) - 1
    kept = {*lowering.graph.outputs, *lowering.graph.states.values()}
    names = [name for name, value in lowering.values.items() if value.number == x.number]
    alone = names == [node.inputs[0]] and len(lowering.consumers(names[0])) == 1 and names[0] not in kept
    return last and alone and lowering.builder.drafts[x.number].kind in ("gather", "linear")


def transpose(lowering: Lowering, node: Node) -> None:
    """New names."""
    rank = len(lowering.graph.shapes[node.inputs[0]])
    permutation = [int(axis) for axis in node.attributes.get("perm", range(rank)[::-1])]
    x = lowering.values[node.inputs[0]]
    axes = tuple(permutation.index(axis) if axis >= 0 else -1 for axis in x.axes)
    lowering.values[node.outputs[0]] = replace(x, axes=axes)


def cut(lowering: Lowering, node: Node) -> None:
    """Slice: start, stop and step along each axis."""
    x = lowering.values[node.inputs[0]]
    lowering.values[node.outputs[0]] = _cut(lowering, x, slice_bounds(lowering.graph, node))


def _cut(lowering: Lowering, x: Lowered, bounds: list[tuple[int, int, int]]) -> Lowered:
    starts, steps, shape = [], [], []
    for axis, extent in zip(x.axes, x.shape, strict=True):
        start, stop, step = bounds[axis] if axis >= 0 else (0, extent, 1)
        count = max(0, -(-(stop - start) // step))
        if count == 0:
            raise CannotCompile("a slice of nothing")
        starts.append(start)
        steps.append(step)
        shape.append(count)
    if tuple(shape) == x.shape and all(step == 1 for step in steps):
        return x
    attributes: dict[str, int | tuple[int, ...]] = {"starts": tuple(starts), "steps": tuple(steps)}
    return lowering.add("slice", [lowering.source(x)], shape, x.axes, x.scale, (x.low, x.high), attributes)


def gather(lowering: Lowering, node: Node) -> None:
    """Constant indices: one, or evenly spaced ones, are a slice; others are put together."""
    before = lowering.graph.shapes[node.inputs[0]]
    axis = node.attributes.get("axis", 0) % len(before)
    index = lowering.graph.constants.get(node.inputs[1])
    if index is None:
        raise CannotCompile("a look-up in a variable table")
    picked = [int(value) % before[axis] for value in index.reshape(-1)]
    x = lowering.values[node.inputs[0]]
    if index.ndim > 1:
        raise CannotCompile("a look-up by a matrix of indices")
    x = lowering.arrange(x, lowering.natural(x) if axis in lowering.natural(x) else (*lowering.natural(x), axis))
    pieces = []
    for start, step, count in _runs(picked):
        bounds = [(0, extent, 1) for extent in before]
        bounds[axis] = (start, start + step * count, step)
        pieces.append(_cut(lowering, x, bounds))
    result = pieces[0] if len(pieces) == 1 else _join(lowering, pieces, axis)
    if index.ndim == 0:
        names = {old: old - (old > axis) for old in range(len(before))} | {axis: -1}
        result = replace(result, axes=tuple(names.get(each, -1) for each in result.axes))
    lowering.values[node.outputs[0]] = result


def _runs(picked: list[int]) -> list[tuple[int, int, int]]:
    """Indices as runs of start, step and count."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while at < len(picked):
        step = picked[at + 1] - picked[at] if at + 1 < len(picked) else 1
        count = 1
        while at + count < len(picked) and step and picked[at + count] - picked[at + count - 1] == step:
            count += 1
        found.append((picked[at], step or 1, count))
        at += count
    return found


def split(lowering: Lowering, node: Node) -> None:
    """A slice for each part."""
    before = lowering.graph.shapes[node.inputs[0]]
    axis = node.attributes.get("axis", 0) % len(before)
    x = lowering.values[node.inputs[0]]
    at = 0
    for name in node.outputs:
        extent = lowering.graph.shapes[name][axis]
        bounds = [(0, each, 1) for each in before]
        bounds[axis] = (at, at + extent, 1)
        lowering.values[name] = _cut(lowering, x, bounds)
        at += extent


def concat(lowering: Lowering, node: Node) -> None:
    """The parts at one scale, one after the other."""
    shape = lowering.graph.shapes[node.outputs[0]]
    axis = node.attributes["axis"] % len(shape)
    target, most = lowering.scale(node.outputs[0])
    parts = []
    for name in node.inputs:
        if name in lowering.values:
            parts.append(lowering.rescale(lowering.values[name], target, most))
        else:
            parts.append(_constant_part(lowering, name, target, most))
    lowering.values[node.outputs[0]] = _join(lowering, parts, axis)


def _constant_part(lowering: Lowering, name: str, target: float, most: int) -> Lowered:
    values = lowering.graph.constants[name].astype(np.float64)
    whole = np.clip(np.rint(values / target), -most, most)
    axes = tuple(range(values.ndim))
    source = lowering.builder.constant(whole.astype(np.int8 if most <= 127 else np.int16))
    # Only operators have scales and orders: a constant enters by way of one.
    return lowering.add("reshape", [source], values.shape, axes, target, (source.low, source.high))


def _join(lowering: Lowering, parts: list[Lowered], axis: int) -> Lowered:
    axes = next((part.axes for part in parts if axis in part.axes), ())
    needed = {each for part in parts for each in lowering.natural(part) if each >= 0} | {axis}
    if not needed <= set(axes) or -1 in axes:
        axes = tuple(sorted(needed))
    laid = [lowering.arrange(part, axes) for part in parts]
    place = axes.index(axis)
    shape = list(laid[0].shape)
    shape[place] = sum(part.shape[place] for part in laid)
    interval = (min(part.low for part in laid), max(part.high for part in laid))
    sources = [lowering.source(part) for part in laid]
    return lowering.add("concat", sources, shape, axes, laid[0].scale, interval, {"axis": place})


def pad(lowering: Lowering, node: Node) -> None:
    """Zeros (or another number), or the values mirrored at the ends."""
    before = lowering.graph.shapes[node.inputs[0]]
    given = (
        graph_pads.reshape(-1).tolist()
        if len(node.inputs) > 1 and (graph_pads := lowering.graph.constants.get(node.inputs[1])) is not None
        else node.attributes.get("pads", [])
    )
    if len(given) != 2 * len(before) or min(given) < 0:
        raise CannotCompile("a padding of another form")
    x = lowering.values[node.inputs[0]]
    mode = node.attributes.get("mode", "constant")
    if mode == "reflect":
        for axis, extent in enumerate(before):
            x = _reflect(lowering, x, axis, extent, int(given[axis]), int(given[len(before) + axis]))
    elif mode == "constant":
        x = _surround(lowering, node, x, [int(each) for each in given])
    else:
        raise CannotCompile(f"padding by {mode}")
    lowering.values[node.outputs[0]] = x


def _reflect(lowering: Lowering, x: Lowered, axis: int, extent: int, first: int, last: int) -> Lowered:
    if not first and not last:
        return x
    x = lowering.arrange(x, x.axes if axis in x.axes else (*x.axes, axis))
    rank = max(*x.axes, axis) + 1
    pieces = [x]
    for count, start in ((first, first), (last, extent - 2)):
        if count:
            bounds = [(0, 1 << 30, 1)] * rank
            bounds = [(0, x.shape[x.axes.index(at)], 1) if at in x.axes else (0, 1, 1) for at in range(rank)]
            bounds[axis] = (start, start - count, -1)
            piece = _cut(lowering, x, bounds)
            pieces.insert(0 if start == first and pieces == [x] and count == first and first else len(pieces), piece)
    return _join(lowering, pieces, axis)


def _surround(lowering: Lowering, node: Node, x: Lowered, given: list[int]) -> Lowered:
    number = 0.0
    if len(node.inputs) > 2 and node.inputs[2]:
        number = float(lowering.graph.constants[node.inputs[2]].reshape(-1)[0])
    number = float(node.attributes.get("value", number))
    rank = len(given) // 2
    padded = [axis for axis in range(rank) if given[axis] or given[rank + axis]]
    x = lowering.arrange(x, (*x.axes, *(axis for axis in padded if axis not in x.axes)))
    value = round(number / x.scale)
    before = tuple(given[axis] if axis >= 0 else 0 for axis in x.axes)
    shape = [
        extent + (given[axis] + given[rank + axis] if axis >= 0 else 0)
        for axis, extent in zip(x.axes, x.shape, strict=True)
    ]
    interval = (min(x.low, value), max(x.high, value))
    return lowering.add(
        "pad", [lowering.source(x)], shape, x.axes, x.scale, interval, {"before": before, "value": value}
    )


def expand(lowering: Lowering, node: Node) -> None:
    """Repeats along axes of extent one."""
    before, after = lowering.graph.shapes[node.inputs[0]], lowering.graph.shapes[node.outputs[0]]
    shift = len(after) - len(before)
    x = lowering.values[node.inputs[0]]
    x = replace(x, axes=tuple(axis + shift if axis >= 0 else -1 for axis in x.axes))
    axes = tuple(axis for axis, extent in enumerate(after) if extent > 1) or (-1,)
    x = lowering.arrange(x, axes)
    shape = [after[axis] if axis >= 0 else 1 for axis in axes]
    lowering.values[node.outputs[0]] = lowering.add(
        "expand", [lowering.source(x)], shape, axes, x.scale, (x.low, x.high)
    )


HANDLERS = {
    "Reshape": reshape,
    "Transpose": transpose,
    "Slice": cut,
    "Gather": gather,
    "Split": split,
    "Concat": concat,
    "Pad": pad,
    "Expand": expand,
}
