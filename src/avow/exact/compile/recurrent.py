"""Lowering of LSTM and GRU: cells of linear maps, tables, products and sums, one after the other.

Gates come from one sum of two linear maps, each at the gates' scale; what passes through tables has 16 bits; the cell's state is a sum of
two products that lose nothing before it. A sequence inside one step is unrolled, up to MAX_UNROLLED.
The ranges of gates and cell states, which no value of the float model shows, come from the same equations in float64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avow.exact.compile.builder import multiplier
from avow.exact.compile.elementwise import evaluate
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.functions import Body
from avow.exact.compile.graph import Graph, Node
from avow.exact.compile.lower_products import linear_of
from avow.exact.compile.lower_values import ratios, tabulate
from avow.exact.compile.lowering import Lowered, Lowering
from avow.exact.compile.runtime import Array

MAX_UNROLLED = 64
UNIT = 32_767
"""Gates and hyperbolic tangents are in units of 1 / 32,767."""
_SIGMOID = Body("x", [Node("Sigmoid", ["x"], ["y"], {}, "gate")], {})
_TANH = Body("x", [Node("Tanh", ["x"], ["y"], {}, "gate")], {})


@dataclass(frozen=True, slots=True)
class Cell:
    """One direction's weights: input map [G·H, I], recurrent map [G·H, H], their biases [G·H], G = 4 (LSTM: i o f c) or 3 (GRU: z r h)."""

    name: str
    direction: int
    backward: bool
    hidden: int
    w: Array
    r: Array
    w_bias: Array
    r_bias: Array
    reset_after: bool


def cells(graph: Graph, node: Node) -> Iterator[Cell]:
    """The directions of a node. Raises CannotCompile for forms that are not lowered."""
    count = 4 if node.operator == "LSTM" else 3
    given = node.attributes
    hidden = int(given["hidden_size"])
    direction = given.get("direction", "forward")
    names = ["Sigmoid", "Tanh", "Tanh"] if count == 4 else ["Sigmoid", "Tanh"]
    if [str(name).title() for name in given.get("activations", [])] not in ([], names, names * 2):
        raise CannotCompile("a recurrent layer with other activations", place=node.place)
    if given.get("clip") or given.get("input_forget") or given.get("layout") or any(node.inputs[7:]):
        raise CannotCompile("a recurrent layer with clip, coupled gates, peepholes or batch first", place=node.place)
    weights = [graph.constants.get(name) if name else None for name in node.inputs[1:4]]
    if weights[0] is None or weights[1] is None or (len(node.inputs) > 3 and node.inputs[3] and weights[2] is None):
        raise CannotCompile("a recurrent layer whose weights are variable", place=node.place)
    for at in range(len(weights[0])):
        bias = np.zeros(2 * count * hidden) if len(weights) < 3 or weights[2] is None else weights[2][at]
        yield Cell(
            node.outputs[0] or node.outputs[1],
            at,
            direction == "reverse" or at == 1,
            hidden,
            weights[0][at].astype(np.float64),
            weights[1][at].astype(np.float64),
            bias[: count * hidden].astype(np.float64),
            bias[count * hidden :].astype(np.float64),
            bool(given.get("linear_before_reset", 0)),
        )


def key(cell: Cell, what: str) -> str:
    """The name under which the ranges have a gate or state of a cell."""
    return f"{cell.name}#{cell.direction}.{what}"


# --- Ranges --------------------------------------------------------------------------------------------------------


def simulate(graph: Graph, node: Node, values: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """What calibration cannot see in the float model: pre-activations and states of each cell on one sample."""
    x = np.asarray(
        values[node.inputs[0]] if node.inputs[0] in values else graph.constants[node.inputs[0]], dtype=np.float64
    )
    for cell in cells(graph, node):
        h, c = (_initial(graph, node, values, cell, at) for at in (5, 6))
        order = range(len(x))[::-1] if cell.backward else range(len(x))
        for at in order:
            if node.operator == "LSTM":
                gates = x[at, 0] @ cell.w.T + cell.w_bias + h @ cell.r.T + cell.r_bias
                i, o, f, g = np.split(gates, 4)
                c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
                h = _sigmoid(o) * np.tanh(c)
                yield key(cell, "state"), c
            else:
                own, past = x[at, 0] @ cell.w.T + cell.w_bias, h @ cell.r.T + cell.r_bias
                z, r = (_sigmoid(a + b) for a, b in zip(np.split(own, 3)[:2], np.split(past, 3)[:2], strict=True))
                last = np.split(cell.r, 3)[2], np.split(cell.r_bias, 3)[2]
                inner = r * np.split(past, 3)[2] if cell.reset_after else (r * h) @ last[0].T + last[1]
                n = np.tanh(np.split(own, 3)[2] + inner)
                gates = np.concatenate([own, past, np.split(own, 3)[2] + inner])
                h = (1 - z) * n + z * h
            yield key(cell, "gates"), gates


def _initial(graph: Graph, node: Node, values: Mapping[str, Array], cell: Cell, at: int) -> Array:
    name = node.inputs[at] if len(node.inputs) > at else ""
    if not name:
        return np.zeros(cell.hidden)
    found = values[name] if name in values else graph.constants[name]
    return np.asarray(np.asarray(found, dtype=np.float64)[cell.direction, 0])


def _sigmoid(x: Array) -> Array:
    return evaluate("Sigmoid", [x], {})


def state_scale(lowering: Lowering, name: str) -> tuple[float, int] | None:
    """Scale and largest integer of a state that is a cell's own: then it passes from step to step unchanged."""
    names = {name}
    for node in lowering.graph.nodes:
        if node.operator == "Reshape" and node.inputs[0] in names:
            names.add(node.outputs[0])
        elif node.operator in ("LSTM", "GRU"):
            first = next(iter(cells(lowering.graph, node)))
            places = [at for at in (5, 6) if len(node.inputs) > at and node.inputs[at] in names]
            if places == [5]:
                most = (1 << (lowering.settings.bits - 1)) - 1
                return 1.0 / most, most
            if places == [6]:
                return lowering.scale(key(first, "state"), 16)
    return None


# --- Lowering ------------------------------------------------------------------------------------------------------


def recurrent(lowering: Lowering, node: Node) -> None:
    """All directions and steps; Y [T, D, 1, H], Y_h and Y_c [D, 1, H]."""
    shape = lowering.graph.shapes[node.inputs[0]]
    length, batch, _ = shape
    if batch != 1 or length > MAX_UNROLLED:
        raise CannotCompile(f"a recurrent layer over a batch, or more than {MAX_UNROLLED} steps at once", steps=length)
    rows: list[list[Lowered]] = []
    lasts: list[tuple[Lowered, Lowered | None]] = []
    for cell in cells(lowering.graph, node):
        found, state = _direction(lowering, node, cell, length)
        rows.append(found)
        lasts.append((found[0] if cell.backward else found[-1], state))
    _give(lowering, node, rows, lasts)


def _direction(lowering: Lowering, node: Node, cell: Cell, length: int) -> tuple[list[Lowered], Lowered | None]:
    x = lowering.at_most(lowering.values[node.inputs[0]], max(lowering.settings.bits, 8))
    x = lowering.arrange(x, (0, 2) if length > 1 else (2,))
    gates, most = lowering.scale(key(cell, "gates"), 12 if lowering.settings.bits <= 12 else 16)
    bias = cell.w_bias + cell.r_bias if node.operator == "LSTM" else cell.w_bias
    own = linear_of(lowering, x, cell.w, bias, gates, (-most, most), (*x.shape[:-1], len(cell.w)))
    h = _start(lowering, node, cell, 5, 1.0 / ((1 << (lowering.settings.bits - 1)) - 1))
    c = _start(lowering, node, cell, 6, lowering.scale(key(cell, "state"), 16)[0]) if node.operator == "LSTM" else None
    found: dict[int, Lowered] = {}
    for at in range(length)[::-1] if cell.backward else range(length):
        part = _row(lowering, own, at, length)
        if node.operator == "LSTM":
            assert c is not None
            h, c = _lstm(lowering, cell, part, h, c, (gates, most))
        else:
            h = _gru(lowering, cell, part, h, (gates, most))
        found[at] = h
    return [found[at] for at in range(length)], c


def _row(lowering: Lowering, rows: Lowered, at: int, length: int) -> Lowered:
    if length == 1:
        return rows
    width = rows.shape[-1]
    piece = lowering.add(
        "slice",
        [lowering.source(rows)],
        (1, width),
        (-1, 2),
        rows.scale,
        (rows.low, rows.high),
        {"starts": (at, 0), "steps": (1, 1)},
    )
    return lowering.arrange(piece, (2,))


def _start(lowering: Lowering, node: Node, cell: Cell, at: int, scale: float) -> Lowered:
    """The state before the first step, [H], at its scale in 16 bits (h: the bits of products)."""
    name = node.inputs[at] if len(node.inputs) > at else ""
    most = UNIT if at == 6 else (1 << (lowering.settings.bits - 1)) - 1
    value = lowering.values.get(name)
    if value is not None:
        if len(lowering.graph.shapes[name]) == 3 and lowering.graph.shapes[name][0] > 1:
            bounds = tuple(cell.direction if axis == 0 else 0 for axis in value.axes)
            shape = tuple(1 if axis == 0 else extent for axis, extent in zip(value.axes, value.shape, strict=True))
            value = lowering.add(
                "slice", [lowering.source(value)], shape, value.axes, value.scale, (value.low, value.high),
                {"starts": bounds, "steps": (1,) * len(shape)},
            )  # fmt: skip
        return lowering.arrange(lowering.rescale(value, scale, most), (2,))
    numbers = lowering.graph.constants[name][cell.direction, 0] if name else np.zeros(cell.hidden)
    whole = np.clip(np.rint(numbers / scale), -most, most).astype(np.int16)
    source = lowering.builder.constant(whole)
    return lowering.add("reshape", [source], (cell.hidden,), (2,), scale, (source.low, source.high))


def _part(lowering: Lowering, gates: Lowered, at: int, hidden: int) -> Lowered:
    return lowering.add(
        "slice", [lowering.source(gates)], (hidden,), (2,), gates.scale, (gates.low, gates.high),
        {"starts": (at * hidden,), "steps": (1,)},
    )  # fmt: skip


def _gate(lowering: Lowering, x: Lowered, body: Body) -> Lowered:
    return tabulate(lowering, x, body, 1.0 / UNIT, UNIT)


def _product(lowering: Lowering, a: Lowered, b: Lowered) -> Lowered:
    """A · b without loss: below 2^30."""
    reach = a.magnitude * b.magnitude
    low = 0 if a.low >= 0 and b.low >= 0 else -reach
    return lowering.add(
        "mul",
        [lowering.source(a), lowering.source(b)],
        a.shape,
        a.axes,
        a.scale * b.scale,
        (low, reach),
        {"m": 2, "s": 1},
    )


def _sum(lowering: Lowering, a: Lowered, b: Lowered, scale: float, most: int, sign: int = 1) -> Lowered:
    ma, mb, s = ratios(a.scale / scale, sign * b.scale / scale)
    return lowering.add(
        "add",
        [lowering.source(a), lowering.source(b)],
        a.shape,
        a.axes,
        scale,
        (-most, most),
        {"ma": ma, "mb": mb, "s": s},
    )


def _lstm(
    lowering: Lowering, cell: Cell, own: Lowered, h: Lowered, c: Lowered, gates: tuple[float, int]
) -> tuple[Lowered, Lowered]:
    scale, most = gates
    past = linear_of(lowering, h, cell.r, np.zeros(len(cell.r)), scale, (-most, most), (len(cell.r),))
    total = _sum(lowering, own, past, scale, most)
    i, o, f, g = (_part(lowering, total, at, cell.hidden) for at in range(4))
    i, o, f = (_gate(lowering, each, _SIGMOID) for each in (i, o, f))
    g = _gate(lowering, g, _TANH)
    c = _sum(lowering, _product(lowering, f, c), _product(lowering, i, g), c.scale, UNIT)
    squashed = _gate(lowering, c, _TANH)
    return _scaled_product(lowering, o, squashed, h.scale, (1 << (lowering.settings.bits - 1)) - 1), c


def _scaled_product(lowering: Lowering, a: Lowered, b: Lowered, scale: float, most: int) -> Lowered:
    """A · b at a scale, clamped to ±most."""
    m, s = multiplier(a.scale * b.scale / scale)
    return lowering.add(
        "mul", [lowering.source(a), lowering.source(b)], a.shape, a.axes, scale, (-most, most), {"m": m, "s": s}
    )


def _gru(lowering: Lowering, cell: Cell, own: Lowered, h: Lowered, gates: tuple[float, int]) -> Lowered:
    scale, most = gates
    hidden = cell.hidden
    both = 3 * hidden if cell.reset_after else 2 * hidden
    past = linear_of(lowering, h, cell.r[:both], cell.r_bias[:both], scale, (-most, most), (both,))
    z, r = (
        _gate(
            lowering,
            _sum(lowering, _part(lowering, own, at, hidden), _part(lowering, past, at, hidden), scale, most),
            _SIGMOID,
        )
        for at in range(2)
    )
    if cell.reset_after:
        inner = _scaled_product(lowering, r, _part(lowering, past, 2, hidden), scale, most)
    else:
        kept = _scaled_product(lowering, r, h, h.scale, (1 << (lowering.settings.bits - 1)) - 1)
        inner = linear_of(lowering, kept, cell.r[both:], cell.r_bias[both:], scale, (-most, most), (hidden,))
    n = _gate(lowering, _sum(lowering, _part(lowering, own, 2, hidden), inner, scale, most), _TANH)
    # h' = n + z · (h − n), in halves of a unit lest the difference leave 16 bits.
    difference = _sum(lowering, h, n, 2.0 / UNIT, UNIT, -1)
    change = _scaled_product(lowering, z, difference, 2.0 / UNIT, UNIT)
    return _sum(lowering, n, change, h.scale, (1 << (lowering.settings.bits - 1)) - 1)


def _give(
    lowering: Lowering, node: Node, rows: list[list[Lowered]], lasts: list[tuple[Lowered, Lowered | None]]
) -> None:
    names: list[Any] = [*node.outputs, "", ""][:3]
    if names[0]:
        steps = [
            _stack(lowering, [replace(direction[at], axes=(3,)) for direction in rows], 1) for at in range(len(rows[0]))
        ]
        lowering.values[names[0]] = _stack(lowering, steps, 0)
    if names[1]:
        lowering.values[names[1]] = _stack(lowering, [h for h, _ in lasts], 0)
    if names[2]:
        lowering.values[names[2]] = _stack(lowering, [c for _, c in lasts if c is not None], 0)


def _stack(lowering: Lowering, parts: list[Lowered], axis: int) -> Lowered:
    """The parts along a new axis."""
    if len(parts) == 1:
        return parts[0]
    laid = [lowering.arrange(part, (axis, *part.axes)) for part in parts]
    shape = (len(parts), *laid[0].shape[1:])
    interval = (min(part.low for part in laid), max(part.high for part in laid))
    sources = [lowering.source(part) for part in laid]
    return lowering.add("concat", sources, shape, laid[0].axes, laid[0].scale, interval, {"axis": 0})


HANDLERS = {"LSTM": recurrent, "GRU": recurrent}
