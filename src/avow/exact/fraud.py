"""Fraud proofs: the one form in which a fault of a trace is shown (docs/optimistic.md). What they prove is judged in referee.py.

Rules:
1. A proof is one deterministic CBOR map of at most 64 KiB. Its kind decides its members: exactly those of MEMBERS.
2. Kinds, and the fault that each shows:
     program   the statement's program has no exact meaning;
     header    the trace's header is not one, or not one that the program can have;
     input     a value of a program input is outside of its interval;
     length    a tensor does not have the length that the program gives it;
     presence  an operator has a tensor at a step at which it does not run, or none where it does;
     element   a value of an operator's output is not what the operator gives;
     output    a value of a program output is not the value of the operator that it comes from; where that has no leaf: not what it gives;
     end       the run went on after an end token, or ends with one and does not say so, or says so and does not;
     salt      a chunk of a run is under another salt than the one that the header's key gives it.
3. `slot` says which tensor is meant (hashing.py, rule 4), `index` which of its values.
4. Opened tensors come in the order of their slots, constants of their numbers, chunks of theirs, each once, each chunk whole.
   Chunks of a run begin with their salt. Hashes are multiproofs (openings.py). Everything that is opened must be used.
5. What a referee does is bounded by the proof's size; so is its price in gas.

Pure: no clock, no input or output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from avow.errors import EncodingError, TooLarge, VerificationError
from avow.exact import hashing
from avow.exact.openings import ascending
from avow.exact.program import MAX_RECORD_BYTES
from avow.exact.specification.cones import MAX_INNER
from avow.receipt import fields
from avow.receipt.encoding import Value, decode, encode

MAX_PROOF = 65_536
MAX_MANIFEST = 8_192
"""Of a program that is to be offered with fraud proofs: each of them holds its manifest."""
MAX_OPENED = 256
"""Tensors, or constants, that one proof opens."""
MAX_HASHES = 2_048
"""What fits into a proof."""
MAX_ITEMS = 8_192

GAS = 400_000
"""Of every proof, however small: an element that reads zeros of the step before the first opens nothing for them."""
GAS_BYTE = 16
"""Beside what a transaction's bytes cost anyway: hashing, parsing, and one operation for each value opened."""

FaultKind = Literal["program", "header", "input", "length", "presence", "element", "output", "end", "salt"]
MEMBERS: Mapping[FaultKind, tuple[str, ...]] = {
    "program": (),
    "header": ("header", "head"),
    "input": ("header", "head", "slot", "index", "tensors"),
    "length": ("header", "head", "slot", "operator", "record", "path", "content", "leaves"),
    "presence": ("header", "head", "slot", "operator", "record", "path", "digest", "leaves"),
    "element": (
        "header", "head", "slot", "operator", "record", "path", "inside", "inside_hashes", "index", "witness", "tensors", "leaves",
        "constants", "constant_hashes",
    ),
    "output": (
        "header", "head", "slot", "operator", "record", "path", "inside", "inside_hashes", "index", "tensors", "leaves",
        "constants", "constant_hashes",
    ),
    "end": ("header", "head", "slot", "operator", "record", "path", "tensors", "leaves"),
    "salt": ("header", "head", "slot", "key", "content", "tensors", "leaves"),
}  # fmt: skip


class ProofError(VerificationError):
    """A fraud proof does not show a fault."""

    code = "proof_refused"


class MalformedProof(ProofError):
    """The bytes are not a fraud proof of the one form."""

    code = "proof_malformed"


class NotCommitted(ProofError):
    """What the proof opens is not what was committed to."""

    code = "proof_not_committed"


class NotShown(ProofError):
    """The proof opens more or less than its fault needs."""

    code = "proof_not_shown"


class NoFault(ProofError):
    """What the proof opens is as it should be."""

    code = "proof_no_fault"


@dataclass(frozen=True, slots=True)
class Opened:
    """Chunks of one tensor: its slot (of a constant, its number), the chunks by number, and the multiproof to their root.

    A chunk of a run's tensor is salt ‖ data, one of a constant data alone.
    """

    slot: int
    chunks: tuple[tuple[int, bytes], ...]
    hashes: tuple[bytes, ...]

    def to_value(self) -> Value:
        return [self.slot, [[number, data] for number, data in self.chunks], list(self.hashes)]

    @classmethod
    def from_value(cls, value: Value) -> Self:
        slot, chunks, hashes = _items(value, "tensor", 3)
        return cls(
            fields.integer(slot, "slot"),
            tuple(_chunk(item) for item in fields.array(chunks, "chunks", max_length=MAX_OPENED)),
            _hashes(hashes, "hashes"),
        )


@dataclass(frozen=True, slots=True)
class FraudProof:
    """Rule 1's map. What its kind does not have is empty here; `witness` is None also where an element needs none.

    `manifest`: of the statement's program. `header`: the trace's, encoded. `head`: the exact program's, encoded; empty where the header is
    none. `operator`, `record` and `path`: the operator's number and record, under the head; empty for a program input's length. `inside`:
    the records, by number, of the operators without a leaf that are computed, with their multiproof `inside_hashes`.
    `content`: byte length and root of a digest. `key`: of the salts. `leaves`, `constant_hashes`: the multiproofs for what is opened of
    the leaves' and the constants' trees.
    """

    kind: FaultKind
    manifest: bytes
    header: bytes = b""
    head: bytes = b""
    slot: int = 0
    record: bytes = b""
    path: tuple[bytes, ...] = ()
    index: int = 0
    witness: int | None = None
    digest: bytes = b""
    content: tuple[int, bytes] = (0, b"")
    tensors: tuple[Opened, ...] = ()
    leaves: tuple[bytes, ...] = ()
    constants: tuple[Opened, ...] = ()
    constant_hashes: tuple[bytes, ...] = ()
    key: bytes = b""
    operator: int = 0
    inside: tuple[tuple[int, bytes], ...] = ()
    inside_hashes: tuple[bytes, ...] = ()

    def encoded(self) -> bytes:
        everything: dict[str, Value] = {
            "header": self.header,
            "head": self.head,
            "slot": self.slot,
            "operator": self.operator,
            "record": self.record,
            "path": list(self.path),
            "inside": [[number, record] for number, record in self.inside],
            "inside_hashes": list(self.inside_hashes),
            "index": self.index,
            "witness": self.witness,
            "digest": self.digest,
            "content": list(self.content),
            "tensors": [tensor.to_value() for tensor in self.tensors],
            "leaves": list(self.leaves),
            "constants": [constant.to_value() for constant in self.constants],
            "constant_hashes": list(self.constant_hashes),
            "key": self.key,
        }
        chosen = {name: everything[name] for name in MEMBERS[self.kind]}
        return encode({"version": 1, "kind": self.kind, "manifest": self.manifest, **chosen})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The proof whose one encoding is `data`. Raises MalformedProof."""
        try:
            return cls._parse(data)
        except (EncodingError, TooLarge) as error:
            raise MalformedProof(error.detail) from error

    @classmethod
    def _parse(cls, data: bytes) -> Self:
        value = decode(data, max_bytes=MAX_PROOF, max_items=MAX_ITEMS)
        kind = value.get("kind") if isinstance(value, dict) else None
        for known, names in MEMBERS.items():
            if kind == known:
                item = fields.mapping(value, "proof", ("version", "kind", "manifest", *names))
                if item["version"] != 1 or isinstance(item["version"], bool):
                    raise fields.FieldError("the proof is of a version that is not known here", field="version")
                manifest = fields.octets(item["manifest"], "manifest", 1, MAX_MANIFEST)
                return cls(known, manifest, **{name: _READERS[name](item[name]) for name in names})
        raise fields.FieldError("the proof's kind is not known", field="kind")


def _items(value: Value, field: str, count: int) -> list[Value]:
    items = fields.array(value, field, max_length=count)
    if len(items) != count:
        raise fields.FieldError(f"{field} has not {count} members", field=field)
    return items


def _chunk(value: Value) -> tuple[int, bytes]:
    number, data = _items(value, "chunk", 2)
    return fields.integer(number, "chunk"), fields.octets(data, "chunk", 1, hashing.SALT + hashing.CHUNK)


def _hashes(value: Value, field: str) -> tuple[bytes, ...]:
    return tuple(fields.octets(item, field, 32) for item in fields.array(value, field, max_length=MAX_HASHES))


def _opened(value: Value, field: str) -> tuple[Opened, ...]:
    """Rule 4's order; each tensor has at least one chunk."""
    found = tuple(Opened.from_value(item) for item in fields.array(value, field, max_length=MAX_OPENED))
    if not ascending([tensor.slot for tensor in found]):
        raise fields.FieldError(f"{field} are out of order or twice", field=field)
    for tensor in found:
        if not tensor.chunks or not ascending([number for number, _ in tensor.chunks]):
            raise fields.FieldError("chunks are missing, out of order or twice", field=field)
    return found


def _inside(value: Value) -> tuple[tuple[int, bytes], ...]:
    """Records by number, in order, each once."""
    pairs = [_items(item, "inside", 2) for item in fields.array(value, "inside", max_length=MAX_INNER)]
    found = tuple(
        (fields.integer(number, "inside"), fields.octets(record, "inside", 0, MAX_RECORD_BYTES))
        for number, record in pairs
    )
    if not ascending([number for number, _ in found]):
        raise fields.FieldError("records are out of order or twice", field="inside")
    return found


def _content(value: Value) -> tuple[int, bytes]:
    length, root = _items(value, "content", 2)
    return fields.integer(length, "content"), fields.octets(root, "content", 32)


_READERS: Mapping[str, Callable[[Value], Any]] = {
    "header": lambda value: fields.octets(value, "header", 0, hashing.MAX_HEADER),
    "head": lambda value: fields.octets(value, "head", 0, MAX_RECORD_BYTES),
    "slot": lambda value: fields.integer(value, "slot"),
    "operator": lambda value: fields.integer(value, "operator"),
    "record": lambda value: fields.octets(value, "record", 0, MAX_RECORD_BYTES),
    "inside": _inside,
    "inside_hashes": lambda value: _hashes(value, "inside_hashes"),
    "path": lambda value: _hashes(value, "path"),
    "index": lambda value: fields.integer(value, "index"),
    "witness": lambda value: None if value is None else fields.integer(value, "witness"),
    "digest": lambda value: fields.octets(value, "digest", 32),
    "content": _content,
    "tensors": lambda value: _opened(value, "tensors"),
    "leaves": lambda value: _hashes(value, "leaves"),
    "constants": lambda value: _opened(value, "constants"),
    "constant_hashes": lambda value: _hashes(value, "constant_hashes"),
    "key": lambda value: fields.octets(value, "key", hashing.KEY),
}


def gas(proof: bytes) -> int:
    """What judging a proof costs: a function of its size alone."""
    return GAS + GAS_BYTE * len(proof)
