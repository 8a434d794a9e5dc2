"""The records that a program is made of: program inputs, sources, operators, constants, and the head that the root hashes.

Rules:
1. Each record has one encoding, deterministic CBOR, and one reader, which refuses whatever is not that with FieldError.
2. A source repeats its producer's type, shape, interval and leaf, so that one operator's record says where all that it reads is found.
3. An operator with a leaf in the trace has a rank: leaf = step · leaves + rank. One without (rank −1) is computed inside of its readers.
4. root = H("avow/exact-program/1", encode(Head)); a Head holds the RFC 6962 roots over the operators' and the constants' records.

Pure: no input or output, integers and bytes only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, cast

from avow.errors import EncodingError
from avow.exact.errors import BadProgram
from avow.exact.hashing import constant_chunk, constant_digest
from avow.exact.tensors import MAX_ELEMENTS, MAX_RANK, RANGES, WIDTHS, Buffer, size_of, unpack, value_at
from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, decode, encode, tagged_hash

VERSION = 1
PROGRAM_TAG = b"avow/exact-program/1"

MAX_RECORD_BYTES = 8_192
MAX_OPERATORS = 65_536
MAX_CONSTANTS = 65_536
MAX_PROGRAM_INPUTS = 16
MAX_OUTPUTS = 64
MAX_SOURCES = 64
MAX_ATTRIBUTES = 32
MAX_CONTEXT = 1 << 20
MAX_END_TOKENS = 256

MODES = ("once", "sequence", "generate")
RECORD_NAMES = ("kind", "inputs", "type", "shape", "low", "high", "phase", "attributes", "leaf")
NO_LEAF = -1
"""The rank of an operator that has no leaf in the trace; of constants and program inputs, too."""

OPERATOR, PREVIOUS, CACHE, CONSTANT, INPUT = range(5)
"""Where a source comes from: an operator at this step, one at the previous step, an `append`'s pages, a constant, a program input."""

Attribute = int | tuple[int, ...]
Interval = tuple[int, int]


# --- Checked reading -----------------------------------------------------------------------------------------------


def integer(value: Value, what: str, low: int, high: int) -> int:
    if type(value) is not int:
        raise fields.FieldError(f"{what} is not an integer", field=what)
    if not low <= value <= high:
        raise fields.FieldError(f"{what} is out of range", field=what)
    return value


def integers(value: Value, what: str, low: int, high: int, most: int) -> tuple[int, ...]:
    return tuple(integer(item, what, low, high) for item in fields.array(value, what, max_length=most))


def type_name(value: Value) -> str:
    name = fields.text(value, "type", max_length=8)
    if name not in WIDTHS:
        raise fields.FieldError("type is none of int8, int16, int32", field="type")
    return name


def shape_of(value: Value, *, symbolic: bool) -> tuple[int, ...]:
    """Rule 2 of tensors.py; with `symbolic`, −1 may be the last extent."""
    shape = integers(value, "shape", -1, MAX_ELEMENTS, MAX_RANK)
    if not shape or min(shape[:-1], default=1) < 1 or not (shape[-1] > 0 or (symbolic and shape[-1] == -1)):
        raise fields.FieldError("shape has an extent out of range", field="shape")
    if size_of(shape) > MAX_ELEMENTS:
        raise fields.FieldError("shape has too many elements", field="shape")
    return shape


def interval_of(kind: str, low: Value, high: Value) -> Interval:
    least, most = RANGES[kind]
    found = integer(low, "low", least, most), integer(high, "high", least, most)
    if found[0] > found[1]:
        raise fields.FieldError("the interval is empty", field="low")
    return found


def rank_of(value: Value) -> int:
    return integer(value, "leaf", NO_LEAF, MAX_OPERATORS - 1)


# --- Parts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensor:
    """A program input: what one step reads of it. Over a whole run it has one more dimension, the steps, in front."""

    type: str
    shape: tuple[int, ...]
    low: int
    high: int

    def to_value(self) -> Value:
        return [self.type, list(self.shape), self.low, self.high]

    @classmethod
    def from_value(cls, value: Value) -> Self:
        items = fields.array(value, "input", max_length=4)
        if len(items) != 4:
            raise fields.FieldError("an input has not four members", field="inputs")
        kind = type_name(items[0])
        return cls(kind, shape_of(items[1], symbolic=False), *interval_of(kind, items[2], items[3]))


@dataclass(frozen=True, slots=True)
class Source:
    """What an operator reads: where from (OPERATOR … INPUT), which one, and what it is known to be.

    Of a CACHE, shape is that of one page. Of an INPUT, shape is that of one step's part. `leaf` is the producer's rank.
    """

    origin: int
    id: int
    type: str
    shape: tuple[int, ...]
    low: int
    high: int
    leaf: int = NO_LEAF

    @property
    def interval(self) -> Interval:
        return self.low, self.high

    @property
    def magnitude(self) -> int:
        """The largest absolute value."""
        return max(-self.low, self.high)

    def to_value(self) -> Value:
        return [self.origin, self.id, self.type, list(self.shape), self.low, self.high, self.leaf]

    @classmethod
    def from_value(cls, value: Value) -> Self:
        items = fields.array(value, "source", max_length=7)
        if len(items) != 7:
            raise fields.FieldError("a source has not seven members", field="inputs")
        origin = integer(items[0], "from", OPERATOR, INPUT)
        number = integer(items[1], "id", 0, max(MAX_OPERATORS, MAX_CONSTANTS) - 1)
        kind = type_name(items[2])
        shape = shape_of(items[3], symbolic=origin == OPERATOR)
        return cls(origin, number, kind, shape, *interval_of(kind, items[4], items[5]), rank_of(items[6]))


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator's record: its kind, what it reads, and the type, shape and interval of the one tensor that it gives."""

    kind: str
    inputs: tuple[Source, ...]
    type: str
    shape: tuple[int, ...]
    low: int
    high: int
    phase: int = 0
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    leaf: int = NO_LEAF

    def integer(self, name: str) -> int:
        """An attribute that is one integer; the kind's check has seen that it is."""
        return cast("int", self.attributes[name])

    def integers(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list."""
        return cast("tuple[int, ...]", self.attributes[name])

    def source(self, origin: int, number: int) -> Source:
        """This operator, `number` in its program, as another's input."""
        return Source(origin, number, self.type, self.shape, self.low, self.high, self.leaf)

    def to_value(self) -> Value:
        return {
            "kind": self.kind,
            "inputs": [source.to_value() for source in self.inputs],
            "type": self.type,
            "shape": list(self.shape),
            "low": self.low,
            "high": self.high,
            "phase": self.phase,
            "attributes": {
                name: list(value) if isinstance(value, tuple) else value for name, value in self.attributes.items()
            },
            "leaf": self.leaf,
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """The inverse of `to_value`. Raises FieldError."""
        item = fields.mapping(value, "operator", RECORD_NAMES)
        sources = fields.array(item["inputs"], "inputs", max_length=MAX_SOURCES)
        kind = type_name(item["type"])
        low, high = interval_of(kind, item["low"], item["high"])
        return cls(
            fields.text(item["kind"], "kind", max_length=32),
            tuple(Source.from_value(source) for source in sources),
            kind,
            shape_of(item["shape"], symbolic=True),
            low,
            high,
            integer(item["phase"], "phase", 0, 1),
            _attributes(item["attributes"]),
            rank_of(item["leaf"]),
        )

    def encoded(self) -> bytes:
        """The leaf under the program's operators root."""
        return encode(self.to_value())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The operator whose one encoding is `data`. Raises EncodingError or TooLarge."""
        return cls.from_value(decode(data, max_bytes=MAX_RECORD_BYTES))


def _attributes(value: Value) -> dict[str, Attribute]:
    if not isinstance(value, dict):
        raise fields.FieldError("attributes is not a map", field="attributes")
    if len(value) > MAX_ATTRIBUTES:
        raise fields.FieldError("too many attributes", field="attributes")
    bound = 1 << 62
    return {
        name: integers(item, "attribute", -bound, bound, 64)
        if isinstance(item, list)
        else integer(item, "attribute", -bound, bound)
        for name, item in value.items()
    }


@dataclass(frozen=True, slots=True)
class Constant:
    """Weights or a table: type, shape, digest, and the bytes, which may be a view of a mapped file."""

    type: str
    shape: tuple[int, ...]
    digest: bytes
    data: Buffer = field(repr=False, compare=False)

    @classmethod
    def of(cls, kind: str, shape: Sequence[int], data: Buffer) -> Self:
        """A constant from its bytes: little-endian, row-major. Raises BadProgram for bytes that the shape does not need."""
        extents: list[Value] = [*shape]
        try:
            checked = type_name(kind), shape_of(extents, symbolic=False)
        except EncodingError as error:
            raise BadProgram(f"a constant: {error.detail}") from error
        if len(data) != size_of(shape) * WIDTHS[kind]:
            raise BadProgram("a constant's bytes are not what its shape needs")
        return cls(*checked, constant_digest(data, constant_chunk(shape)), data)

    def value(self, index: int) -> int:
        """The value at a flat index."""
        return value_at(self.type, self.data, index)

    def values(self, start: int = 0, count: int | None = None) -> tuple[int, ...]:
        """`count` values from a flat index on."""
        return unpack(self.type, self.data, start, count)

    def encoded(self) -> bytes:
        """The leaf under the program's constants root."""
        return encode([self.type, list(self.shape), self.digest])

    def source(self, number: int, low: int | None = None, high: int | None = None) -> Source:
        """This constant, `number` in its program, as an operator's input; by default with its type's whole range."""
        least, most = RANGES[self.type]
        return Source(
            CONSTANT, number, self.type, self.shape, least if low is None else low, most if high is None else high
        )


@dataclass(frozen=True, slots=True)
class Head:
    """All of a program but its operators and constants, of which it holds the roots. What the program root hashes.

    `leaves`: how many operators have a leaf in the trace, and so how many leaves a step has.
    """

    mode: str
    context: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[int, ...]
    end: tuple[int, ...]
    token: int
    notes: bytes
    operators: int
    operators_root: bytes
    constants: int
    constants_root: bytes
    leaves: int

    def encoded(self) -> bytes:
        return encode([
            VERSION, self.mode, self.context, [item.to_value() for item in self.inputs], list(self.outputs), list(self.end),
            self.token, self.notes, self.operators, self.operators_root, self.constants, self.constants_root, self.leaves,
        ])  # fmt: skip

    def root(self) -> bytes:
        """The program root, 32 bytes."""
        return tagged_hash(PROGRAM_TAG, self.encoded())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The head whose one encoding is `data`. Raises EncodingError, TooLarge or UnknownVersion."""
        items = fields.array(decode(data, max_bytes=MAX_RECORD_BYTES), "head", max_length=13)
        if len(items) != 13:
            raise fields.FieldError("a head has not thirteen members", field="head")
        fields.version(items[0], "program", VERSION)
        return cls(
            mode_name(items[1]),
            integer(items[2], "context", 1, MAX_CONTEXT),
            tuple(Tensor.from_value(item) for item in fields.array(items[3], "inputs", max_length=MAX_PROGRAM_INPUTS)),
            integers(items[4], "outputs", 0, MAX_OPERATORS - 1, MAX_OUTPUTS),
            integers(items[5], "end", 0, MAX_ELEMENTS, MAX_END_TOKENS),
            integer(items[6], "token", -1, MAX_OPERATORS - 1),
            fields.octets(items[7], "notes", 32),
            integer(items[8], "operators", 1, MAX_OPERATORS),
            fields.octets(items[9], "operators root", 32),
            integer(items[10], "constants", 0, MAX_CONSTANTS),
            fields.octets(items[11], "constants root", 32),
            integer(items[12], "leaves", 0, MAX_OPERATORS),
        )

    def operator(self, index: int, record: bytes, path: Sequence[bytes]) -> Operator:
        """The operator that stands at `index`. Raises NotIncluded, EncodingError or TooLarge."""
        if merkle.root_from_path(record, index, self.operators, path) != self.operators_root:
            raise merkle.NotIncluded("the record is not under the operators' root", index=index)
        return Operator.parse(record)

    def constant(self, index: int, record: bytes, path: Sequence[bytes]) -> tuple[str, tuple[int, ...], bytes]:
        """Type, shape and digest of the constant at `index`. Raises NotIncluded, EncodingError or TooLarge."""
        if merkle.root_from_path(record, index, self.constants, path) != self.constants_root:
            raise merkle.NotIncluded("the record is not under the constants' root", index=index)
        items = fields.array(decode(record, max_bytes=MAX_RECORD_BYTES), "constant", max_length=3)
        if len(items) != 3:
            raise fields.FieldError("a constant's record has not three members", field="constant")
        return type_name(items[0]), shape_of(items[1], symbolic=False), fields.octets(items[2], "digest", 32)


def mode_name(value: Value) -> str:
    mode = fields.text(value, "mode", max_length=16)
    if mode not in MODES:
        raise fields.FieldError("mode is none of once, sequence, generate", field="mode")
    return mode
