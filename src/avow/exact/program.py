"""An exact program: a static list of integer operators, its file, and the root that commits to it (docs/exact.md).

Rules:
1. A file is MAGIC ‖ u64 big-endian header length ‖ header ‖ zeros to a multiple of 64 ‖ constants. Each constant begins at the next
   multiple of 64 after the one before it, with zeros between; the file ends with the last constant's last byte.
2. The header is deterministic CBOR, a map of exactly HEADER_NAMES. There is one file for a program.
3. A source repeats its producer's type, shape and interval, so that one operator's record is all that its referee needs.
4. Sources: an operator of this step that comes earlier in the list; any operator at the previous step (zeros before the first); the cache
   of an `append`; a constant; a program input, which `input` and `token` alone may read.
5. Operators of phase 1 run from the step of the prompt's last token on. What they give is read by phase 1 alone, and at the next step by
   `token`.
6. root = H("avow/exact-program/1", encode(Head)); a Head holds the RFC 6962 roots over the operators' and the constants' records.

What an operator's kind demands of its inputs, attributes and bounds is `specification`'s. Both refuse with BadProgram.
Pure: no files (files.py), no clock, integers and bytes only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, cast

from avow.errors import EncodingError, TooLarge
from avow.exact.errors import BadProgram
from avow.exact.hashing import constant_digest
from avow.exact.tensors import MAX_ELEMENTS, MAX_RANK, RANGES, WIDTHS, Buffer, size_of, unpack, value_at
from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, decode, encode, encode_trusted, tagged_hash

MAGIC = b"AVOWEXACT1\n"
VERSION = 1
ALIGNMENT = 64
PROGRAM_TAG = b"avow/exact-program/1"
NOTES_TAG = b"avow/exact-notes/1"

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_HEADER_ITEMS = 4_000_000
MAX_FILE_BYTES = 1 << 36
MAX_RECORD_BYTES = 8_192
MAX_OPERATORS = 65_536
MAX_CONSTANTS = 65_536
MAX_PROGRAM_INPUTS = 16
MAX_OUTPUTS = 64
MAX_SOURCES = 64
MAX_ATTRIBUTES = 32
MAX_CONTEXT = 1 << 20
MAX_END_TOKENS = 256
MAX_NOTES = 4_096
MAX_NOTE_CHARACTERS = 65_536
MAX_NAME_CHARACTERS = 128

MODES = ("once", "sequence", "generate")
HEADER_NAMES = (
    "version", "name", "mode", "context", "inputs", "constants", "operators", "outputs", "end", "token", "notes",
)  # fmt: skip
RECORD_NAMES = ("kind", "inputs", "type", "shape", "low", "high", "phase", "attributes")

OPERATOR, PREVIOUS, CACHE, CONSTANT, INPUT = range(5)
"""Where a source comes from: an operator at this step, one at the previous step, an `append`'s pages, a constant, a program input."""

Attribute = int | tuple[int, ...]
Interval = tuple[int, int]


# --- Checked reading -----------------------------------------------------------------------------------------------


def _integer(value: Value, what: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise fields.FieldError(f"{what} is not an integer", field=what)
    if not low <= value <= high:
        raise fields.FieldError(f"{what} is out of range", field=what)
    return value


def _integers(value: Value, what: str, low: int, high: int, most: int) -> tuple[int, ...]:
    return tuple(_integer(item, what, low, high) for item in fields.array(value, what, max_length=most))


def _type(value: Value) -> str:
    name = fields.text(value, "type", max_length=8)
    if name not in WIDTHS:
        raise fields.FieldError("type is none of int8, int16, int32", field="type")
    return name


def _shape(value: Value, *, symbolic: bool) -> tuple[int, ...]:
    shape = _integers(value, "shape", -1, MAX_ELEMENTS, MAX_RANK)
    if not shape or any(
        extent < 1 and not (symbolic and extent == -1 and at == len(shape) - 1) for at, extent in enumerate(shape)
    ):
        raise fields.FieldError("shape has an extent out of range", field="shape")
    if size_of(shape) > MAX_ELEMENTS:
        raise fields.FieldError("shape has too many elements", field="shape")
    return shape


def _interval(kind: str, low: Value, high: Value) -> Interval:
    least, most = RANGES[kind]
    found = _integer(low, "low", least, most), _integer(high, "high", least, most)
    if found[0] > found[1]:
        raise fields.FieldError("the interval is empty", field="low")
    return found


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
        kind = _type(items[0])
        return cls(kind, _shape(items[1], symbolic=False), *_interval(kind, items[2], items[3]))


@dataclass(frozen=True, slots=True)
class Source:
    """What an operator reads: where from (OPERATOR … INPUT), which one, and what it is known to be.

    Of a CACHE, shape is that of one page. Of an INPUT, shape is that of one step's part.
    """

    origin: int
    id: int
    type: str
    shape: tuple[int, ...]
    low: int
    high: int

    @property
    def interval(self) -> Interval:
        return self.low, self.high

    @property
    def magnitude(self) -> int:
        """The largest absolute value."""
        return max(-self.low, self.high)

    def to_value(self) -> Value:
        return [self.origin, self.id, self.type, list(self.shape), self.low, self.high]

    @classmethod
    def from_value(cls, value: Value) -> Self:
        items = fields.array(value, "source", max_length=6)
        if len(items) != 6:
            raise fields.FieldError("a source has not six members", field="inputs")
        origin = _integer(items[0], "from", OPERATOR, INPUT)
        number = _integer(items[1], "id", 0, max(MAX_OPERATORS, MAX_CONSTANTS) - 1)
        kind = _type(items[2])
        shape = _shape(items[3], symbolic=origin == OPERATOR)
        return cls(origin, number, kind, shape, *_interval(kind, items[4], items[5]))


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

    def integer(self, name: str) -> int:
        """An attribute that is one integer; the kind's check has seen that it is."""
        return cast("int", self.attributes[name])

    def integers(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list."""
        return cast("tuple[int, ...]", self.attributes[name])

    def source(self, origin: int, number: int) -> Source:
        """This operator, `number` in its program, as another's input."""
        return Source(origin, number, self.type, self.shape, self.low, self.high)

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
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """The inverse of `to_value`. Raises FieldError."""
        item = fields.mapping(value, "operator", RECORD_NAMES)
        sources = fields.array(item["inputs"], "inputs", max_length=MAX_SOURCES)
        kind = _type(item["type"])
        low, high = _interval(kind, item["low"], item["high"])
        return cls(
            fields.text(item["kind"], "kind", max_length=32),
            tuple(Source.from_value(source) for source in sources),
            kind,
            _shape(item["shape"], symbolic=True),
            low,
            high,
            _integer(item["phase"], "phase", 0, 1),
            _attributes(item["attributes"]),
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
        name: _integers(item, "attribute", -bound, bound, 64)
        if isinstance(item, list)
        else _integer(item, "attribute", -bound, bound)
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
            checked = _type(kind), _shape(extents, symbolic=False)
        except EncodingError as error:
            raise BadProgram(f"a constant: {error.detail}") from error
        if len(data) != size_of(shape) * WIDTHS[kind]:
            raise BadProgram("a constant's bytes are not what its shape needs")
        return cls(*checked, constant_digest(data), data)

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
    """All of a program but its operators and constants, of which it holds the roots. What the program root hashes."""

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

    def encoded(self) -> bytes:
        return encode([
            VERSION, self.mode, self.context, [item.to_value() for item in self.inputs], list(self.outputs), list(self.end),
            self.token, self.notes, self.operators, self.operators_root, self.constants, self.constants_root,
        ])  # fmt: skip

    def root(self) -> bytes:
        """The program root, 32 bytes."""
        return tagged_hash(PROGRAM_TAG, self.encoded())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The head whose one encoding is `data`. Raises EncodingError, TooLarge or UnknownVersion."""
        items = fields.array(decode(data, max_bytes=MAX_RECORD_BYTES), "head", max_length=12)
        if len(items) != 12:
            raise fields.FieldError("a head has not twelve members", field="head")
        fields.version(items[0], "program", VERSION)
        return cls(
            _mode(items[1]),
            _integer(items[2], "context", 1, MAX_CONTEXT),
            tuple(Tensor.from_value(item) for item in fields.array(items[3], "inputs", max_length=MAX_PROGRAM_INPUTS)),
            _integers(items[4], "outputs", 0, MAX_OPERATORS - 1, MAX_OUTPUTS),
            _integers(items[5], "end", 0, MAX_ELEMENTS, MAX_END_TOKENS),
            _integer(items[6], "token", -1, MAX_OPERATORS - 1),
            fields.octets(items[7], "notes", 32),
            _integer(items[8], "operators", 1, MAX_OPERATORS),
            fields.octets(items[9], "operators root", 32),
            _integer(items[10], "constants", 0, MAX_CONSTANTS),
            fields.octets(items[11], "constants root", 32),
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
        return _type(items[0]), _shape(items[1], symbolic=False), fields.octets(items[2], "digest", 32)


def _mode(value: Value) -> str:
    mode = fields.text(value, "mode", max_length=16)
    if mode not in MODES:
        raise fields.FieldError("mode is none of once, sequence, generate", field="mode")
    return mode


# --- The program ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A whole program whose structure holds (rules 3 to 5). `build` and `parse` make one; bounds are checked by `specification`."""

    name: str
    mode: str
    context: int
    inputs: tuple[Tensor, ...]
    constants: tuple[Constant, ...]
    operators: tuple[Operator, ...]
    outputs: tuple[int, ...]
    end: tuple[int, ...]
    token: int
    notes: Mapping[str, str]
    head: Head
    root: bytes
    _operator_tree: list[list[bytes]] = field(repr=False, compare=False)
    _constant_tree: list[list[bytes]] = field(repr=False, compare=False)

    @classmethod
    def build(
        cls,
        *,
        name: str,
        mode: str,
        context: int,
        inputs: Sequence[Tensor],
        constants: Sequence[Constant],
        operators: Sequence[Operator],
        outputs: Sequence[int],
        end: Sequence[int] = (),
        token: int = -1,
        notes: Mapping[str, str] | None = None,
    ) -> Self:
        """A program from its parts. Raises BadProgram, TooLarge."""
        header: Value = {
            "version": VERSION, "name": name, "mode": mode, "context": context,
            "inputs": [item.to_value() for item in inputs], "constants": [], "operators": [item.to_value() for item in operators],
            "outputs": list(outputs), "end": list(end), "token": token, "notes": {**(notes or {})},
        }  # fmt: skip
        try:
            return cls._from_header(decode(encode(header), max_items=MAX_HEADER_ITEMS), tuple(constants))
        except EncodingError as error:
            raise BadProgram(error.detail) from error

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """The program of a file's bytes, e.g. of a mapped file, of which the constants then are views. Digests are recomputed.

        Raises BadProgram, EncodingError, TooLarge, UnknownVersion.
        """
        view = memoryview(data).cast("B")
        if len(view) > MAX_FILE_BYTES:
            raise TooLarge("the program is too large", size=len(view), limit=MAX_FILE_BYTES)
        start = len(MAGIC) + 8
        if len(view) < start or bytes(view[: len(MAGIC)]) != MAGIC:
            raise BadProgram("the file is not an exact program")
        length = int.from_bytes(view[len(MAGIC) : start])
        if length > MAX_HEADER_BYTES:
            raise TooLarge("the program's header is too large", size=length, limit=MAX_HEADER_BYTES)
        if len(view) < start + length:
            raise BadProgram("the file ends within its header")
        header = decode(bytes(view[start : start + length]), max_items=MAX_HEADER_ITEMS)
        if not isinstance(header, dict):
            raise BadProgram("the header is not a map")
        return cls._from_header(header, _read_constants(header.get("constants"), view, start + length))

    @classmethod
    def _from_header(cls, value: Value, constants: tuple[Constant, ...]) -> Self:
        item = fields.mapping(value, "header", HEADER_NAMES)
        fields.version(item["version"], "program", VERSION)
        if len(constants) > MAX_CONSTANTS:
            raise BadProgram("too many constants")
        operators = _operators(item["operators"])
        records = [operator.encoded() for operator in operators]
        for index, record in enumerate(records):
            if len(record) > MAX_RECORD_BYTES:
                raise BadProgram("the record is too large", operator=index)
        operator_tree, constant_tree = merkle.tree(records), merkle.tree([constant.encoded() for constant in constants])
        notes = _notes(item["notes"])
        encoded_notes: Value = {**notes}
        head = Head(
            _mode(item["mode"]),
            _integer(item["context"], "context", 1, MAX_CONTEXT),
            tuple(
                Tensor.from_value(each)
                for each in fields.array(item["inputs"], "inputs", max_length=MAX_PROGRAM_INPUTS)
            ),
            _integers(item["outputs"], "outputs", 0, len(operators) - 1, MAX_OUTPUTS),
            _integers(item["end"], "end", 0, MAX_ELEMENTS, MAX_END_TOKENS),
            _integer(item["token"], "token", -1, len(operators) - 1),
            tagged_hash(NOTES_TAG, encode_trusted(encoded_notes)),
            len(operators),
            operator_tree[-1][0],
            len(constants),
            constant_tree[-1][0] if constants else merkle.EMPTY_LIST_ROOT,
        )
        if len(head.encoded()) > MAX_RECORD_BYTES:
            raise BadProgram("the program's head is too large")
        program = cls(
            fields.text(item["name"], "name", max_length=MAX_NAME_CHARACTERS), head.mode, head.context, head.inputs, constants,
            operators, head.outputs, head.end, head.token, notes, head, head.root(), operator_tree, constant_tree,
        )  # fmt: skip
        _check_structure(program)
        return program

    def header(self) -> Value:
        """The file's header (rule 2)."""
        offsets, _ = _layout(self.constants)
        return {
            "version": VERSION, "name": self.name, "mode": self.mode, "context": self.context,
            "inputs": [item.to_value() for item in self.inputs],
            "constants": [
                [constant.type, list(constant.shape), constant.digest, offset]
                for constant, offset in zip(self.constants, offsets, strict=True)
            ],
            "operators": [operator.to_value() for operator in self.operators],
            "outputs": list(self.outputs), "end": list(self.end), "token": self.token, "notes": {**self.notes},
        }  # fmt: skip

    def parts(self) -> Iterator[Buffer]:
        """The file's bytes in order, piece by piece. Raises TooLarge."""
        header = encode(self.header())
        if len(header) > MAX_HEADER_BYTES:
            raise TooLarge("the program's header is too large", size=len(header), limit=MAX_HEADER_BYTES)
        written = len(MAGIC) + 8 + len(header)
        yield MAGIC + len(header).to_bytes(8) + header
        for constant in self.constants:
            yield bytes(-written % ALIGNMENT)
            written += -written % ALIGNMENT + len(constant.data)
            yield constant.data

    def operator_opening(self, index: int) -> tuple[bytes, list[bytes]]:
        """The record of an operator and its path, as `Head.operator` takes them."""
        return self.operators[index].encoded(), merkle.path_in(self._operator_tree, index)

    def constant_opening(self, index: int) -> tuple[bytes, list[bytes]]:
        """The record of a constant and its path, as `Head.constant` takes them."""
        return self.constants[index].encoded(), merkle.path_in(self._constant_tree, index)


def _layout(constants: Sequence[Constant]) -> tuple[list[int], int]:
    """Where each constant begins, from the first multiple of 64 after the header on, and where the last one ends."""
    offsets, end = [], 0
    for constant in constants:
        end += -end % ALIGNMENT
        offsets.append(end)
        end += len(constant.data)
    return offsets, end


def _read_constants(value: Value, view: memoryview, end_of_header: int) -> tuple[Constant, ...]:
    """Rule 1, and every digest. Offsets count from the first multiple of 64 after the header."""
    found: list[Constant] = []
    at = end_of_header
    first = end_of_header + -end_of_header % ALIGNMENT
    for item in fields.array(value, "constants", max_length=MAX_CONSTANTS):
        record = fields.array(item, "constant", max_length=4)
        if len(record) != 4:
            raise fields.FieldError("a constant has not four members", field="constants")
        kind, shape = _type(record[0]), _shape(record[1], symbolic=False)
        start = at + -at % ALIGNMENT
        size = size_of(shape) * WIDTHS[kind]
        if _integer(record[3], "offset", 0, MAX_FILE_BYTES) != start - first:
            raise BadProgram("a constant is not where it should begin")
        if start + size > len(view):
            raise BadProgram("the file ends within a constant")
        if any(view[at:start]):
            raise BadProgram("the bytes between constants are not zero")
        constant = Constant(
            kind, shape, fields.octets(record[2], "digest", 32), view[start : start + size].toreadonly()
        )
        if constant_digest(constant.data) != constant.digest:
            raise BadProgram(f"constant {len(found)} is not what its digest says")
        found.append(constant)
        at = start + size
    if at != len(view):
        raise BadProgram("the file does not end with its last constant")
    return tuple(found)


def _operators(value: Value) -> tuple[Operator, ...]:
    found: list[Operator] = []
    for item in fields.array(value, "operators", max_length=MAX_OPERATORS):
        try:
            found.append(Operator.from_value(item))
        except EncodingError as error:
            raise BadProgram(error.detail, operator=len(found)) from error
    if not found:
        raise BadProgram("a program has no operators")
    return tuple(found)


def _notes(value: Value) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_NOTES:
        raise fields.FieldError("notes is not a map, or too large", field="notes")
    return {
        fields.text(name, "note", max_length=MAX_NAME_CHARACTERS): fields.text(
            text, "note", max_length=MAX_NOTE_CHARACTERS
        )
        for name, text in value.items()
    }


# --- Structure (rules 3 to 5) --------------------------------------------------------------------------------------


def _check_structure(program: Program) -> None:
    generate = program.mode == "generate"
    if not program.inputs:
        raise BadProgram("a program has no inputs")
    if not program.outputs or len(set(program.outputs)) != len(program.outputs):
        raise BadProgram("a program has outputs, each once")
    for index, operator in enumerate(program.operators):
        if operator.phase and not generate:
            raise BadProgram("phase 1 is for programs that generate", operator=index)
        for source in operator.inputs:
            _check_source(program, index, operator, source)
    for number in program.outputs:
        if program.operators[number].shape[-1] < 0:
            raise BadProgram("an output's size depends on the step", operator=number)
    if generate:
        _check_generate(program)
    elif program.end or program.token != -1:
        raise BadProgram("end and token are for programs that generate")


def _check_generate(program: Program) -> None:
    if len(program.inputs) != 1 or (program.inputs[0].type, program.inputs[0].shape) != ("int32", (1,)):
        raise BadProgram("the one input of a program that generates is a token, int32 [1]")
    if program.token < 0 or program.outputs != (program.token,):
        raise BadProgram("the one output of a program that generates is the chosen token")
    chosen = program.operators[program.token]
    if (chosen.type, chosen.shape, chosen.phase) != ("int32", (1,), 1) or chosen.low < 0:
        raise BadProgram("the chosen token is int32 [1] of phase 1, not negative", operator=program.token)
    if list(program.end) != sorted(set(program.end)) or any(token > chosen.high for token in program.end):
        raise BadProgram("end tokens are in order, each once, and can be chosen")


def _check_source(program: Program, index: int, operator: Operator, source: Source) -> None:
    def refuse(detail: str) -> BadProgram:
        return BadProgram(detail, operator=index)

    if source.origin == CONSTANT:
        if source.id >= len(program.constants):
            raise refuse("there is no such constant")
        constant = program.constants[source.id]
        if (source.type, source.shape) != (constant.type, constant.shape):
            raise refuse("the source is not what the constant is")
        return
    if source.origin == INPUT:
        if operator.kind != ("token" if program.mode == "generate" else "input"):
            raise refuse("this kind does not read program inputs")
        if source.id >= len(program.inputs):
            raise refuse("there is no such program input")
        if source.to_value() != [INPUT, source.id, *cast("list[Value]", program.inputs[source.id].to_value())]:
            raise refuse("the source is not what the program input is")
        return
    if source.id >= len(program.operators):
        raise refuse("there is no such operator")
    producer = program.operators[source.id]
    if source != producer.source(source.origin, source.id):
        raise refuse("the source is not what its operator gives")
    if source.origin != PREVIOUS and source.id >= index:
        raise refuse("the source comes later")
    if source.origin == PREVIOUS:
        if program.mode == "once":
            raise refuse("a program that runs once has no previous step")
        if not source.low <= 0 <= source.high:
            raise refuse("zero, the value before the first step, is outside of the interval")
        if producer.phase and operator.kind != "token":
            raise refuse("what phase 1 gave at the previous step is for token alone")
        if source.shape[-1] < 0:
            raise refuse("what the previous step gave has another size")
    elif source.origin == CACHE:
        if producer.kind != "append" or program.mode != "generate":
            raise refuse("a cache is an append's, in a program that generates")
        if producer.phase:
            raise refuse("a cache has all positions: its append is of phase 0")
    elif producer.phase > operator.phase:
        raise refuse("phase 0 does not read phase 1")
