"""A bounded reader of ONNX models (onnx.proto, protocol buffers), run before any engine.

Rules:
1. Every length is checked against what encloses it before it is used; nesting and the number of fields are bounded.
2. Fields that onnx.proto does not have, groups, and training graphs are refused.
3. A tensor's data is exactly as long as its type and dimensions say.
4. External data names a file of the same manifest, lies inside it, and belongs to an initializer of the main graph.
5. Operators come from the standard domains or from functions that the model itself defines.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from avow.models.errors import UnsafeModel

MAX_DEPTH = 24
MAX_FIELDS = 4_000_000
MAX_NODES = 200_000
MAX_TEXT = 1 << 20
MAX_TENSOR_BYTES = 1 << 40
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPE_BITS: Mapping[int, int] = {
    type_: bits
    for bits, types in (
        (8, (2, 3, 9)),
        (16, (4, 5, 10, 16)),
        (32, (1, 6, 12)),
        (64, (7, 11, 13)),
        (0, (8,)),
        (4, (21, 22)),
    )
    for type_ in types
}
"""TensorProto.DataType → bits per element; texts (8) have no fixed size, float8 and complex are refused."""

Field = tuple[int, int, int | memoryview]
"""Field number, wire type, value."""


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """An initializer whose data is in a sibling file: name, TensorProto.DataType, dimensions, where the bytes are."""

    name: str
    data_type: int
    dimensions: tuple[int, ...]
    location: str
    offset: int
    length: int


@dataclass(slots=True)
class OnnxModel:
    """What was found in a model that follows the rules."""

    ir_version: int = 0
    nodes: int = 0
    initializers: int = 0
    external: list[ExternalTensor] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)


def check_onnx(data: bytes, siblings: Mapping[str, int]) -> OnnxModel:
    """Checks a model's bytes; `siblings` maps the manifest's other files to their sizes. Raises UnsafeModel."""
    walker = _Walker(siblings)
    walker.model(memoryview(data))
    found = walker.found
    unknown = sorted({domain for domain, _name in found.operators} - DOMAINS - found.functions)
    if unknown:
        raise UnsafeModel("operators of an unknown domain", domain=unknown[0][:64])
    return found


class _Walker:
    """Walks the messages that onnx.proto defines; `_FIELDS` says which fields each has and what to do with them."""

    def __init__(self, siblings: Mapping[str, int]) -> None:
        self.siblings = siblings
        self.found = OnnxModel()
        self.count = 0

    def model(self, data: memoryview) -> None:
        seen_graph = 0
        for number, _wire, value in self.fields("ModelProto", data):
            if number == 1:
                self.found.ir_version = _integer(value)
            elif number == 7:
                seen_graph += 1
                self.graph(_view(value), 1)
            elif number == 25:
                self.function(_view(value), 1)
        if seen_graph != 1 or not 3 <= self.found.ir_version <= 64:
            raise UnsafeModel("not an ONNX model: it has no graph, several, or no sensible version")

    def graph(self, data: memoryview, depth: int) -> None:
        self.deeper(depth)
        for number, _wire, value in self.fields("GraphProto", data):
            if number == 1:
                self.node(_view(value), depth + 1)
            elif number == 5:
                self.found.initializers += 1
                self.tensor(_view(value), external=depth == 1)
            elif number == 15:
                self.sparse(_view(value))
            elif number in (11, 12, 13):
                self.value_info(_view(value), depth + 1)

    def function(self, data: memoryview, depth: int) -> None:
        for number, _wire, value in self.fields("FunctionProto", data):
            if number == 7:
                self.node(_view(value), depth + 1)
            elif number == 10:
                self.found.functions.add(_text(value))
            elif number == 11:
                self.attribute(_view(value), depth + 1)
            elif number == 12:
                self.value_info(_view(value), depth + 1)

    def node(self, data: memoryview, depth: int) -> None:
        self.deeper(depth)
        self.found.nodes += 1
        if self.found.nodes > MAX_NODES:
            raise UnsafeModel("too many operators", limit=MAX_NODES)
        operator = domain = ""
        for number, _wire, value in self.fields("NodeProto", data):
            if number == 4:
                operator = _text(value)
            elif number == 7:
                domain = _text(value)
            elif number == 5:
                self.attribute(_view(value), depth + 1)
        self.found.operators.add((domain, operator))

    def attribute(self, data: memoryview, depth: int) -> None:
        self.deeper(depth)
        for number, _wire, value in self.fields("AttributeProto", data):
            if number in (5, 10):
                self.tensor(_view(value), external=False)
            elif number in (6, 11):
                self.graph(_view(value), depth + 1)
            elif number in (14, 15):
                self.type(_view(value), depth + 1)
            elif number in (22, 23):
                self.sparse(_view(value))

    def value_info(self, data: memoryview, depth: int) -> None:
        for number, _wire, value in self.fields("ValueInfoProto", data):
            if number == 2:
                self.type(_view(value), depth + 1)

    def type(self, data: memoryview, depth: int) -> None:
        self.deeper(depth)
        for number, _wire, value in self.fields("TypeProto", data):
            if number in (4, 9):
                for inner, _kind, element in self.fields("TypeProto.Sequence", _view(value)):
                    if inner == 1:
                        self.type(_view(element), depth + 1)
            elif number in (1, 8):
                self.tensor_type(_view(value))
            elif number == 5:
                for inner, _kind, element in self.fields("TypeProto.Map", _view(value)):
                    if inner == 2:
                        self.type(_view(element), depth + 1)

    def tensor_type(self, data: memoryview) -> None:
        for number, _wire, value in self.fields("TypeProto.Tensor", data):
            if number == 2:
                for _number, _kind, dimension in self.fields("TensorShapeProto", _view(value)):
                    for _inner, _w, _v in self.fields("TensorShapeProto.Dimension", _view(dimension)):
                        pass

    def sparse(self, data: memoryview) -> None:
        for number, _wire, value in self.fields("SparseTensorProto", data):
            if number in (1, 2):
                self.tensor(_view(value), external=False)

    def tensor(self, data: memoryview, *, external: bool) -> None:
        tensor = _TensorReader()
        for number, wire, value in self.fields("TensorProto", data):
            tensor.take(number, wire, value, self)
        tensor.check(self, external=external)

    def deeper(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnsafeModel("graphs are nested too deep", limit=MAX_DEPTH)

    def fields(self, message: str, data: memoryview) -> Iterator[Field]:
        """The fields of one message, in order. Raises UnsafeModel for what rules 1 and 2 refuse."""
        known = _FIELDS[message]
        position, end = 0, len(data)
        while position < end:
            self.count += 1
            if self.count > MAX_FIELDS:
                raise UnsafeModel("too many fields", limit=MAX_FIELDS)
            tag, position = _varint(data, position)
            number, wire = tag >> 3, tag & 7
            if wire not in known.get(number, ()):
                raise UnsafeModel("a field that ONNX does not have", message=message, field=min(number, 1 << 30))
            if wire == _VARINT:
                value, position = _varint(data, position)
                yield number, wire, value
                continue
            if wire == _BYTES:
                length, position = _varint(data, position)
            else:
                length = 8 if wire == _FIXED64 else 4
            if length > end - position:
                raise UnsafeModel("a field ends beyond what encloses it", message=message, field=number)
            yield number, wire, data[position : position + length]
            position += length


class _TensorReader:
    """Collects the fields of one TensorProto, then judges them together."""

    def __init__(self) -> None:
        self.dimensions: list[int] = []
        self.data_type = 0
        self.name = ""
        self.location = 0
        self.entries: dict[str, str] = {}
        self.elements = 0
        self.raw: int | None = None

    def take(self, number: int, wire: int, value: int | memoryview, walker: _Walker) -> None:
        if number == 1:
            self.dimensions.extend(_varints(value))
        elif number == 2:
            self.data_type = _integer(value)
        elif number == 3:
            raise UnsafeModel("a tensor in segments")
        elif number in (4, 10):
            self.elements += 1 if wire != _BYTES else len(_view(value)) // (4 if number == 4 else 8)
        elif number in (5, 7, 11):
            self.elements += 1 if wire == _VARINT else _count_varints(_view(value))
        elif number == 6:
            self.elements += 1
        elif number == 8:
            self.name = _text(value)
        elif number == 9:
            self.raw = len(_view(value))
        elif number == 13:
            self.entry(_view(value), walker)
        elif number == 14:
            self.location = _integer(value)
        if len(self.dimensions) > 32:
            raise UnsafeModel("a tensor with too many dimensions", tensor=self.name[:64])

    def entry(self, data: memoryview, walker: _Walker) -> None:
        pair = {number: _text(value) for number, _wire, value in walker.fields("StringStringEntryProto", data)}
        key = pair.get(1, "")
        if key in self.entries or key not in ("location", "offset", "length", "checksum"):
            raise UnsafeModel("external data with an unknown or repeated entry", tensor=self.name[:64])
        self.entries[key] = pair.get(2, "")

    def check(self, walker: _Walker, *, external: bool) -> None:
        named = {"tensor": self.name[:64]}
        if self.data_type not in _TYPE_BITS:
            raise UnsafeModel("a tensor of a type that is not known here", **named, type=min(self.data_type, 1 << 30))
        if any(dimension >= 1 << 63 for dimension in self.dimensions):
            raise UnsafeModel("a tensor with a negative dimension", **named)
        bits, elements = _TYPE_BITS[self.data_type], math.prod(self.dimensions)
        size = -(-elements * bits // 8)
        if elements > MAX_TENSOR_BYTES or size > MAX_TENSOR_BYTES:
            raise UnsafeModel("a tensor that is too large", **named)
        if self.location:
            self.check_external(walker, size, external=external)
        elif self.entries:
            raise UnsafeModel("external data of a tensor that is not external", **named)
        elif self.raw is not None:
            if self.raw != size or self.elements or not bits:
                raise UnsafeModel("a tensor's data is not as long as its dimensions say", **named)
        elif self.elements != (elements if bits != 4 else -(-elements // 2)):
            raise UnsafeModel("a tensor's data is not as long as its dimensions say", **named)

    def check_external(self, walker: _Walker, size: int, *, external: bool) -> None:
        named = {"tensor": self.name[:64]}
        if self.location != 1 or not external or self.raw is not None or self.elements or not size:
            raise UnsafeModel("external data where there can be none", **named)
        location = self.entries.get("location", "")
        if location not in walker.siblings:
            raise UnsafeModel(
                "external data in a file that the manifest does not name", location=location[:128], **named
            )
        offset = _decimal(self.entries.get("offset", "0"))
        length = _decimal(self.entries.get("length", str(size)))
        if length != size or offset + length > walker.siblings[location]:
            raise UnsafeModel("external data lies outside its file, or is not as long as it should be", **named)
        walker.found.external.append(
            ExternalTensor(self.name, self.data_type, tuple(self.dimensions), location, offset, length)
        )


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise UnsafeModel("a number that does not end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7


def _varints(value: int | memoryview) -> list[int]:
    if isinstance(value, int):
        return [value]
    found: list[int] = []
    position = 0
    while position < len(value) and len(found) <= 32:
        number, position = _varint(value, position)
        found.append(number)
    return found


_CONTINUED = bytes(range(128, 256))


def _count_varints(data: memoryview) -> int:
    """How many numbers a packed field holds: as many as it has bytes that end one."""
    return len(bytes(data).translate(None, _CONTINUED))


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise UnsafeModel("a number where bytes should be")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise UnsafeModel("bytes where a number should be")
    return value


def _text(value: int | memoryview) -> str:
    view = _view(value)
    if len(view) > MAX_TEXT:
        raise UnsafeModel("a text is too long", limit=MAX_TEXT)
    try:
        return bytes(view).decode("utf-8")
    except UnicodeDecodeError:
        raise UnsafeModel("a text is not UTF-8") from None


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise UnsafeModel("external data at no sensible place")
    return int(text)


def _known(**wires: str) -> dict[int, tuple[int, ...]]:
    """Field numbers by wire type: v(arint), b(ytes), f(ixed32), d(ouble), p(acked or single) of each."""
    kinds: Mapping[str, tuple[int, ...]] = {
        "v": (_VARINT,),
        "b": (_BYTES,),
        "f": (_FIXED32,),
        "vb": (_VARINT, _BYTES),
        "fb": (_FIXED32, _BYTES),
        "db": (_FIXED64, _BYTES),
    }
    return {int(number): kinds[kind] for kind, numbers in wires.items() for number in numbers.split()}


_FIELDS: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "ModelProto": _known(v="1 5", b="2 3 4 6 7 8 14 25 26"),
    "GraphProto": _known(b="1 2 5 10 11 12 13 14 15 16"),
    "NodeProto": _known(b="1 2 3 4 5 6 7 8 9 10"),
    "AttributeProto": _known(f="2", v="3 20", b="1 4 5 6 9 10 11 13 14 15 21 22 23", fb="7", vb="8"),
    "FunctionProto": _known(b="1 4 5 6 7 8 9 10 11 12 13 14", v="2 3"),
    "ValueInfoProto": _known(b="1 2 3 4"),
    "TypeProto": _known(b="1 4 5 6 7 8 9"),
    "TypeProto.Sequence": _known(b="1"),
    "TypeProto.Map": _known(v="1", b="2"),
    "TypeProto.Tensor": _known(v="1", b="2"),
    "TensorShapeProto": _known(b="1"),
    "TensorShapeProto.Dimension": _known(v="1", b="2 3"),
    "SparseTensorProto": _known(b="1 2", vb="3"),
    "TensorProto": _known(v="2 14", b="3 6 8 9 12 13 16", vb="1 5 7 11", fb="4", db="10"),
    "StringStringEntryProto": _known(b="1 2"),
}
