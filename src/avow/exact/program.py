"""An exact program: a static list of integer operators, and its file (docs/exact.md).

Rules:
1. A file is MAGIC ‖ u64 big-endian header length ‖ header ‖ zeros to a multiple of 64 ‖ constants. Each constant begins at the next
   multiple of 64 after the one before it, with zeros between; the file ends with the last constant's last byte.
2. The header is deterministic CBOR, a map of exactly HEADER_NAMES. There is one file for a program.
3. A source is what its producer's record says.
4. Sources: an operator of this step that comes earlier in the list; any operator at the previous step (zeros before the first); the cache
   of an `append`; a constant; a program input, which `input` and `token` alone may read.
5. Operators have a leaf in the trace, numbered in order, or none (records.py, rule 3). What is read at the previous step has one, and so
   have `token` and the pages of a transposed `append`; an `append` without is read as a cache only.
6. Operators of phase 1 run from the step of the prompt's last token on. What they give is read by phase 1 alone, and at the next step by
   `token`.

What an operator's kind demands of its inputs, attributes and bounds is `specification`'s. Both refuse with BadProgram.
Pure: no files (files.py), no clock, integers and bytes only.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, cast

from avow.errors import EncodingError, TooLarge
from avow.exact import openings
from avow.exact.errors import BadProgram
from avow.exact.hashing import constant_chunk, constant_digest
from avow.exact.records import (
    CACHE,
    CONSTANT,
    INPUT,
    MAX_CONSTANTS,
    MAX_CONTEXT,
    MAX_END_TOKENS,
    MAX_OPERATORS,
    MAX_OUTPUTS,
    MAX_PROGRAM_INPUTS,
    MAX_RECORD_BYTES,
    NO_LEAF,
    OPERATOR,
    PREVIOUS,
    VERSION,
    Attribute,
    Constant,
    Head,
    Interval,
    Operator,
    Source,
    Tensor,
    integer,
    integers,
    mode_name,
    shape_of,
    type_name,
)
from avow.exact.tensors import MAX_ELEMENTS, WIDTHS, Buffer, size_of
from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, decode, encode, encode_trusted, tagged_hash

__all__ = [
    "CACHE",
    "CONSTANT",
    "INPUT",
    "MAX_CONSTANTS",
    "MAX_CONTEXT",
    "MAX_OPERATORS",
    "MAX_RECORD_BYTES",
    "NO_LEAF",
    "OPERATOR",
    "PREVIOUS",
    "Attribute",
    "Constant",
    "Head",
    "Interval",
    "Operator",
    "Program",
    "Source",
    "Tensor",
]

MAGIC = b"AVOWEXACT1\n"
ALIGNMENT = 64
NOTES_TAG = b"avow/exact-notes/1"

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_HEADER_ITEMS = 4_000_000
MAX_FILE_BYTES = 1 << 36
MAX_NOTES = 4_096
MAX_NOTE_CHARACTERS = 65_536
MAX_NAME_CHARACTERS = 128

HEADER_NAMES = (
    "version", "name", "mode", "context", "inputs", "constants", "operators", "outputs", "end", "token", "notes",
)  # fmt: skip


# --- The program ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A whole program whose structure holds (rules 3 to 6). `build` and `parse` make one; bounds are checked by `specification`."""

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
        leaves: Collection[int] | None = None,
    ) -> Self:
        """A program from its parts. `leaves`: the operators that have one; by default all. Raises BadProgram, TooLarge."""
        operators = numbered(operators, range(len(operators)) if leaves is None else leaves)
        header: Value = {
            "version": VERSION, "name": name, "mode": mode, "context": context,
            "inputs": [item.to_value() for item in inputs], "constants": [], "operators": [item.to_value() for item in operators],
            "outputs": list(outputs), "end": list(end), "token": token, "notes": {**(notes or {})},
        }  # fmt: skip
        try:
            return cls.from_header(decode(encode(header), max_items=MAX_HEADER_ITEMS), tuple(constants))
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
        return cls.from_header(header, _read_constants(header.get("constants"), view, start + length))

    @classmethod
    def from_header(cls, value: Value, constants: tuple[Constant, ...]) -> Self:
        """The program of a file's decoded header, with the constants that the header lists. Raises as `parse`."""
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
            mode_name(item["mode"]),
            integer(item["context"], "context", 1, MAX_CONTEXT),
            tuple(
                Tensor.from_value(each)
                for each in fields.array(item["inputs"], "inputs", max_length=MAX_PROGRAM_INPUTS)
            ),
            integers(item["outputs"], "outputs", 0, len(operators) - 1, MAX_OUTPUTS),
            integers(item["end"], "end", 0, MAX_ELEMENTS, MAX_END_TOKENS),
            integer(item["token"], "token", -1, len(operators) - 1),
            tagged_hash(NOTES_TAG, encode_trusted(encoded_notes)),
            len(operators),
            operator_tree[-1][0],
            len(constants),
            constant_tree[-1][0] if constants else merkle.EMPTY_LIST_ROOT,
            sum(operator.leaf != NO_LEAF for operator in operators),
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

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of each operator the rank of its leaf, or NO_LEAF: what a tracer needs."""
        return tuple(operator.leaf for operator in self.operators)

    @property
    def with_leaf(self) -> tuple[int, ...]:
        """By rank, the operators that have a leaf: leaf i is that of operator with_leaf[i mod leaves] at step i // leaves."""
        return tuple(number for number, operator in enumerate(self.operators) if operator.leaf != NO_LEAF)

    def slot(self, step: int, operator: int) -> int | None:
        """The leaf of an operator's output at a step; None where it has none."""
        rank = self.operators[operator].leaf
        return None if rank == NO_LEAF else step * self.head.leaves + rank

    def place(self, slot: int) -> tuple[int, int]:
        """The step and the operator that a leaf is of. Raises KeyError where programs have no leaves."""
        if not self.head.leaves:
            raise KeyError(slot)
        step, rank = divmod(slot, self.head.leaves)
        return step, self.with_leaf[rank]

    def operator_opening(self, index: int) -> tuple[bytes, list[bytes]]:
        """The record of an operator and its path, as `Head.operator` takes them."""
        return self.operators[index].encoded(), merkle.path_in(self._operator_tree, index)

    def operators_proof(self, indices: Sequence[int]) -> list[bytes]:
        """The multiproof (openings.py) for several operators' records; empty for none."""
        return openings.multiproof(self._operator_tree, indices) if indices else []

    def constant_opening(self, index: int) -> tuple[bytes, list[bytes]]:
        """The record of a constant and its path, as `Head.constant` takes them."""
        return self.constants[index].encoded(), merkle.path_in(self._constant_tree, index)


def numbered(operators: Sequence[Operator], leaves: Collection[int]) -> list[Operator]:
    """The operators, those in `leaves` with their ranks, in records and in the sources that repeat them; the others without."""
    chosen = frozenset(leaves)
    following = iter(range(len(operators)))
    ranks = [next(following) if number in chosen else NO_LEAF for number in range(len(operators))]

    def source(each: Source) -> Source:
        inside = each.origin not in (CONSTANT, INPUT) and 0 <= each.id < len(ranks)
        return replace(each, leaf=ranks[each.id] if inside else NO_LEAF)

    return [
        replace(operator, leaf=rank, inputs=tuple(source(each) for each in operator.inputs))
        for operator, rank in zip(operators, ranks, strict=True)
    ]


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
        kind, shape = type_name(record[0]), shape_of(record[1], symbolic=False)
        start = at + -at % ALIGNMENT
        size = size_of(shape) * WIDTHS[kind]
        if integer(record[3], "offset", 0, MAX_FILE_BYTES) != start - first:
            raise BadProgram("a constant is not where it should begin")
        if start + size > len(view):
            raise BadProgram("the file ends within a constant")
        if any(view[at:start]):
            raise BadProgram("the bytes between constants are not zero")
        constant = Constant(
            kind, shape, fields.octets(record[2], "digest", 32), view[start : start + size].toreadonly()
        )
        if constant_digest(constant.data, constant_chunk(shape)) != constant.digest:
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


# --- Structure (rules 3 to 6) --------------------------------------------------------------------------------------


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
    ranked = [operator.leaf for operator in program.operators if operator.leaf != NO_LEAF]
    if ranked != list(range(len(ranked))):
        raise BadProgram("the leaves are not numbered in order")
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
    if chosen.leaf == NO_LEAF:
        raise BadProgram("the chosen token has no leaf", operator=program.token)
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
        if source.leaf != NO_LEAF:
            raise refuse("a constant has no leaf")
        return
    if source.origin == INPUT:
        if operator.kind != ("token" if program.mode == "generate" else "input"):
            raise refuse("this kind does not read program inputs")
        if source.id >= len(program.inputs):
            raise refuse("there is no such program input")
        if source.to_value() != [INPUT, source.id, *cast("list[Value]", program.inputs[source.id].to_value()), NO_LEAF]:
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
        if source.leaf == NO_LEAF and (operator.kind != "append" or source.id != index):
            raise refuse("what the previous step gave has no leaf")
    elif source.origin == CACHE:
        if producer.kind != "append" or program.mode != "generate":
            raise refuse("a cache is an append's, in a program that generates")
        if producer.phase:
            raise refuse("a cache has all positions: its append is of phase 0")
        if source.leaf == NO_LEAF and producer.attributes.get("transposed") != 0:
            raise refuse("transposed pages have leaves")
    elif producer.phase > operator.phase:
        raise refuse("phase 0 does not read phase 1")
    elif source.leaf == NO_LEAF and producer.kind == "append":
        raise refuse("an append without a leaf is read as a cache")
