"""Lowering: what a float value has become, how it lies in memory, how finely it is quantised.

Rules:
1. A value is an operator's output with a scale: real = integer · scale. Its dimensions stand for axes of the ONNX value in any order, so
   that Transpose, Squeeze and the like cost nothing until an operator needs another order. Extents of one may be left out.
2. A value is as fine as its readers need: `bits` for what goes into a product, at least 12 for what goes into a table, 16 otherwise.
3. Scales come from the ranges of calibration; values are clamped to the symmetric interval of their bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from avow.exact.compile.builder import Builder, multiplier
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.graph import Graph, Node
from avow.exact.compile.ranges import Ranges
from avow.exact.program import Source

MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Gather",
        "MaxPool",
        "GlobalMaxPool",
        "Pad",
        "Reshape",
        "Scale",
        "Slice",
        "Split",
        "Transpose",
        "Clamp",
    }
)
"""Nodes whose output is as fine as their input."""
PRODUCTS = frozenset({"Linear", "Convolution", "MatMul", "Affine", "LSTM", "GRU"})
HEADROOM = 1.05
"""Values a little beyond those of the calibration are not clamped, where the bits allow for it."""
SMALLEST_SCALE = 1e-12

Handler = Callable[["Lowering", Node], None]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A value: operator number, shape, ONNX axis of each dimension (−1: an extent of one that no axis has), scale, interval."""

    number: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    scale: float
    low: int
    high: int

    @property
    def magnitude(self) -> int:
        return max(-self.low, self.high)


@dataclass(frozen=True, slots=True)
class Settings:
    """Bits of what goes into products (8 to 16), and of weights (8 to 16)."""

    bits: int = 8
    weight_bits: int = 8


class Lowering:
    """A graph on its way into a Builder."""

    def __init__(self, graph: Graph, ranges: Ranges, settings: Settings, handlers: dict[str, Handler]) -> None:
        self.graph = graph
        self.ranges = ranges
        self.settings = settings
        self.builder = Builder()
        self.values: dict[str, Lowered] = {}
        self._handlers = handlers
        self._consumers = graph.consumers()
        self._bits: dict[str, int] = {}
        self._multiplied: set[str] = set()
        self._narrowed: dict[tuple[int, int], Lowered] = {}
        self._arranged: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Lowered] = {}

    def run(self) -> None:
        """Lowers every node. Raises UnsupportedOperators before, CannotCompile with the place on the way."""
        for node in self.graph.nodes:
            try:
                self._handlers[node.operator](self, node)
            except CannotCompile as error:
                if "place" not in error.fields:
                    error.fields["place"] = node.place
                raise
            except (KeyError, IndexError, TypeError, ValueError) as error:
                # A constant that is not constant, an attribute or input that is not there.
                raise CannotCompile(f"{node.operator} has a form that is not compiled", place=node.place) from error

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read a value."""
        return self._consumers.get(name, [])

    # --- Scales ----------------------------------------------------------------------------------------------------

    def bits(self, name: str) -> int:
        """How many bits the readers of a value need (rule 2)."""
        if name not in self._bits:
            wanted = [self._bits_for(node, name) for node in self._consumers.get(name, [])]
            state = name in self.graph.states.values()
            products = [bits for kind, bits in wanted if kind == "product"]
            others = [bits for kind, bits in wanted if kind != "product"]
            if state and not products:
                products = [self.bits(part) for part, value in self.graph.states.items() if value == name]
            self._bits[name] = min(products) if products else max(others, default=16)
            if products:
                self._multiplied.add(name)
        return self._bits[name]

    def _bits_for(self, node: Node, name: str) -> tuple[str, int]:
        bits = self.settings.bits
        if node.operator in MOVES:
            found = self.bits(node.outputs[0])
            return ("product" if node.outputs[0] in self._multiplied else "other"), found
        if node.operator in ("LSTM", "GRU"):
            # The last input, the cell's state, goes into no product with weights.
            return ("other", 16) if name in node.inputs[6:] else ("product", bits)
        if node.operator in PRODUCTS:
            return "product", self.product_bits(node)
        if node.operator == "Function":
            return "other", 12 if bits <= 12 else 16
        return "other", 16

    def product_bits(self, node: Node) -> int:
        """The bits of a product's input: those that were asked for; beyond 12 as many as leave the weights two fewer.

        A sum of K products of b and w bits needs b + w + log2 K' bits, where K' counts the weights by how large they are.
        """
        bits = self.settings.bits
        weight = node.attributes.get("weight")
        if bits <= 12 or weight is None:
            return bits
        flat = np.abs(np.asarray(weight, dtype=np.float64)).reshape(len(weight), -1)
        count = float((flat.sum(1) / np.maximum(flat.max(1), 1e-30)).max())
        return min(bits, max(12, int((30 - np.log2(max(count, 1.0)) + 2) / 2)))

    def scale(self, name: str, bits: int | None = None) -> tuple[float, int]:
        """The scale of a value and its largest integer, by its calibrated range."""
        bits = bits or self.bits(name)
        measured = name
        while measured in self.graph.measured:
            measured = self.graph.measured[measured]
        found = self.ranges.values.get(measured)
        if found is None:
            raise CannotCompile("the ranges do not have a value", name=measured[:96])
        most = (1 << (bits - 1)) - 1
        bound = found.clip if bits <= 8 else found.magnitude * HEADROOM
        return max(bound / most, SMALLEST_SCALE), most

    # --- Adding operators ------------------------------------------------------------------------------------------

    def source(self, value: Lowered) -> Source:
        return self.builder.output(value.number)

    def add(
        self,
        kind: str,
        sources: Sequence[Source | str],
        shape: Sequence[int],
        axes: Sequence[int],
        scale: float,
        interval: tuple[int, int],
        attributes: dict[str, int | tuple[int, ...]] | None = None,
    ) -> Lowered:
        """Adds an operator; its output as a value."""
        shape, axes = tuple(shape) or (1,), tuple(axes) or (-1,)
        if len(shape) != len(axes):
            raise AssertionError("a shape and its axes differ in length")
        number = self.builder.operator(kind, sources, shape, *interval, attributes)
        return Lowered(number, shape, axes, scale, *interval)

    def rescale(self, value: Lowered, scale: float, most: int) -> Lowered:
        """The value at another scale, clamped to ±most; itself if nothing changes."""
        if value.scale == scale and value.magnitude <= most:
            return value
        low, high = max(-most, -most if value.low < 0 else 0), most
        m, s = multiplier(value.scale / scale)
        return self.add("rescale", [self.source(value)], value.shape, value.axes, scale, (low, high), {"m": m, "s": s})

    def at_most(self, value: Lowered, bits: int) -> Lowered:
        """The value in at most so many bits."""
        most = (1 << (bits - 1)) - 1
        if value.magnitude <= most:
            return value
        if (value.number, bits) not in self._narrowed:
            narrowed = self.rescale(value, value.scale * value.magnitude / most, most)
            self._narrowed[value.number, bits] = narrowed
        return replace(self._narrowed[value.number, bits], axes=value.axes)

    # --- Order of dimensions (rule 1) ------------------------------------------------------------------------------

    def natural(self, value: Lowered) -> tuple[int, ...]:
        """The axes in their order, those of extent one left out."""
        return tuple(sorted(axis for axis, extent in zip(value.axes, value.shape, strict=True) if extent > 1)) or (-1,)

    def natural_in_place(self, value: Lowered) -> tuple[int, ...]:
        """The axes of an extent above one, in the order in which they lie."""
        return tuple(axis for axis, extent in zip(value.axes, value.shape, strict=True) if extent > 1)

    def arrange(self, value: Lowered, wanted: Sequence[int]) -> Lowered:
        """The value with exactly these dimensions: every axis of an extent above one, and any others as extents of one."""
        target = tuple(wanted)
        if value.axes == target:
            return value
        key = (value.number, value.axes, target)
        if key not in self._arranged:
            self._arranged[key] = self._arrange(value, target)
        return self._arranged[key]

    def _arrange(self, value: Lowered, wanted: tuple[int, ...]) -> Lowered:
        extents = {axis: extent for axis, extent in zip(value.axes, value.shape, strict=True) if extent > 1}
        if not set(extents) <= set(wanted):
            raise AssertionError("an axis is missing")
        order = [axis for axis in wanted if axis in extents]
        if order != [axis for axis in value.axes if axis in extents]:
            places = [value.axes.index(axis) for axis in order]
            ones = [place for place, extent in enumerate(value.shape) if extent == 1]
            permutation = tuple(ones + places)
            moved = [value.shape[place] for place in permutation]
            axes = [value.axes[place] for place in permutation]
            value = self.add(
                "transpose",
                [self.source(value)],
                moved,
                axes,
                value.scale,
                (value.low, value.high),
                {"perm": permutation},
            )
        shape = tuple(extents.get(axis, 1) for axis in wanted)
        if value.shape == shape:
            return replace(value, axes=wanted)
        return self.add("reshape", [self.source(value)], shape, wanted, value.scale, (value.low, value.high))

    # --- Values ----------------------------------------------------------------------------------------------------

    def quantised(self, numbers: np.ndarray, bits: int) -> tuple[Source, float, int]:
        """A constant at a scale of its own: source, scale, largest integer."""
        most = (1 << (bits - 1)) - 1
        scale = max(float(np.abs(numbers).max(initial=0.0)) / most, SMALLEST_SCALE)
        whole = np.rint(np.asarray(numbers, dtype=np.float64) / scale)
        return self.builder.constant(whole.astype(np.int8 if bits <= 8 else np.int16)), scale, most


def bounded(node: Node, scale: float, most: int) -> tuple[int, int]:
    """The interval of a product's output, with the bounds of a ReLU or Clip that joined it."""
    low, high = float(node.attributes.get("low", -np.inf)), float(node.attributes.get("high", np.inf))
    least = -most if low == -np.inf else max(-most, round(low / scale))
    largest = most if high == np.inf else min(most, round(high / scale))
    return min(least, largest), largest
