"""Commitments to what was asked and answered: salted Merkle trees over named parts of the bytes on the wire.

Rules:
1. Texts are committed as bytes received. A JSON object is cut into parts, named by JSON Pointer (RFC 6901), each the raw bytes of
   a value as it stood in the body; white space around values is left out, nothing else. Names that occur twice in one object are refused.
2. Cut points, from the top: every member of the body; each element of `messages`, `tools`, `inputs` (requests), `choices`,
   `outputs` (responses); in a choice every member, in its `message` every member, and each of that message's `tool_calls`.
   An array or object that is cut leaves "[n]" or "{n}", its number of elements or members, under its own name, before its parts.
3. A request's parts begin with ("endpoint", method and path). A response's leave out the member `avow`, which carries the receipt.
   The parts of a streamed response are those of its assembled body (stream.py), and ("stream", head ‖ u64 number of chunks).
   The effective parameters are one part, ("effective", JSON), under a commitment of their own: they are the node's word.
4. salt(part) = first 16 bytes of H("avow/salt/1", seed ‖ kind ‖ 0x00 ‖ name). Whoever has the seed can open every part; a single
   disclosed part shows its own salt alone.
5. leaf = "avow/part/1" ‖ salt ‖ u16 len(name) ‖ name ‖ bytes, in an RFC 6962 tree;
   commitment = H("avow/commitment/1", u8 len(kind) ‖ kind ‖ u32 number of parts ‖ root).

Pure: no clock, no randomness, no input or output.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, Self

import msgspec

from avow.errors import InputError, VerificationError
from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, tagged_hash

Kind = Literal["request", "effective", "response"]
Part = tuple[str, bytes]

SEED_LENGTH = 32
MAX_PARTS = 16_384
MAX_BODY_DEPTH = 64
"""Levels of a body. A number of our own: parsers differ, and one that gives up sooner would disagree with one that does not."""
MAX_NAME = 1_024
MAX_PART = 16 * 1024 * 1024

_KIND_OF: dict[str, Kind] = {"request": "request", "effective": "effective", "response": "response"}

_Cut = dict[str, Any] | list[Any] | None
"""Where a value is cut: None not at all, [cut] each element, {name: cut} every member, the named ones further."""
_REQUEST: _Cut = {"messages": [None], "tools": [None], "inputs": [None]}
_RESPONSE: _Cut = {"choices": [{"message": {"tool_calls": [None]}}], "outputs": [None]}

_SALT_TAG = b"\x0bavow/salt/1"
"""tagged_hash's prefix for the salt's tag, and below RFC 6962's leaf prefix before the part's own."""
_LEAF_PREFIX = b"\x00avow/part/1"

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class MalformedBody(InputError):
    """The body is not a JSON object with distinct names."""

    code = "malformed_json"


class CommitmentMismatch(VerificationError):
    """What is shown is not what was committed."""

    code = "commitment_mismatch"


def request_parts(endpoint: str, body: bytes) -> list[Part]:
    """The parts of a request. `endpoint` is method and path, as "POST /v1/chat/completions". Raises MalformedBody."""
    return [("endpoint", endpoint.encode()), *_parts(body, _REQUEST, leave_out=None)]


def response_parts(body: bytes) -> list[Part]:
    """The parts of a response, without the member `avow`. Raises MalformedBody."""
    return _parts(body, _RESPONSE, leave_out="avow")


def response_body(answer: Mapping[str, Any]) -> tuple[bytes, list[Part]]:
    """A response as JSON, and its parts: what `response_parts` gives for that JSON, without reading it again."""
    parts: list[Part] = []
    body = _join_members("", {key: value for key, value in answer.items() if key != "avow"}, _RESPONSE, parts)
    if len(parts) > MAX_PARTS:
        raise MalformedBody("the body has too many parts", limit=MAX_PARTS)
    return body, parts


def effective_parts(effective: bytes) -> list[Part]:
    """The one part that holds the effective parameters, JSON."""
    return [("effective", effective)]


def _parts(body: bytes, cut: _Cut, leave_out: str | None) -> list[Part]:
    _refuse_ambiguous(body)
    parts: list[Part] = []
    try:
        members = _MEMBERS.decode(body)
        if leave_out is not None:
            members.pop(leave_out, None)
        _cut_members("", members, cut, parts)
    except msgspec.DecodeError as error:  # stricter than the parser above about escapes in names
        raise MalformedBody("a name in the body is malformed") from error
    if len(parts) > MAX_PARTS:
        raise MalformedBody("the body has too many parts", limit=MAX_PARTS)
    return parts


def _refuse_ambiguous(body: bytes) -> None:
    """Refuse what two JSON parsers might read differently: names that occur twice, NaN, anything but UTF-8."""
    try:
        parsed = _STRICT.decode(body.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise MalformedBody("the body is not JSON in UTF-8") from error
    except ValueError as error:
        raise MalformedBody("the body holds a number that is too long") from error
    if not isinstance(parsed, dict):
        raise MalformedBody("the body is not a JSON object")
    if body.count(b"[") + body.count(b"{") > MAX_BODY_DEPTH:
        _check_depth(parsed)


def _check_depth(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_BODY_DEPTH):
        children = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise MalformedBody("the body is nested too deep", limit=MAX_BODY_DEPTH)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedBody("a name occurs twice in one object")
    return result


def _no_constant(text: str) -> Any:
    raise MalformedBody(f"{text} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant)


def _cut_value(name: str, raw: bytes, cut: _Cut, parts: list[Part]) -> None:
    if isinstance(cut, list) and raw[:1] == b"[":
        elements = _ELEMENTS.decode(raw)
        parts.append((name, b"[%d]" % len(elements)))
        for index, element in enumerate(elements):
            _cut_value(f"{name}/{index}", bytes(element), cut[0], parts)
    elif isinstance(cut, dict) and raw[:1] == b"{":
        members = _MEMBERS.decode(raw)
        parts.append((name, b"{%d}" % len(members)))
        _cut_members(name, members, cut, parts)
    else:
        parts.append((name, raw))


def _cut_members(prefix: str, members: dict[str, msgspec.Raw], cut: _Cut, parts: list[Part]) -> None:
    for key, raw in members.items():
        name = f"{prefix}/{key.replace('~', '~0').replace('/', '~1')}"
        if len(name) > MAX_NAME:
            raise MalformedBody("a member's name is too long", limit=MAX_NAME)
        inner = cut.get(key) if isinstance(cut, dict) else None
        _cut_value(name, bytes(raw), inner, parts)


def _join(name: str, value: Any, cut: _Cut, parts: list[Part]) -> bytes:
    """The JSON of a value, its parts on the way: `_cut_value` the other way round."""
    if isinstance(cut, list) and isinstance(value, list):
        parts.append((name, b"[%d]" % len(value)))
        elements = [_join(f"{name}/{index}", element, cut[0], parts) for index, element in enumerate(value)]
        return b"[" + b",".join(elements) + b"]"
    if isinstance(cut, dict) and isinstance(value, Mapping):
        parts.append((name, b"{%d}" % len(value)))
        return _join_members(name, value, cut, parts)
    raw = _encode(value)
    parts.append((name, raw))
    return raw


def _join_members(prefix: str, members: Mapping[str, Any], cut: _Cut, parts: list[Part]) -> bytes:
    joined = []
    for key, value in members.items():
        name = f"{prefix}/{key.replace('~', '~0').replace('/', '~1')}"
        if len(name) > MAX_NAME:
            raise MalformedBody("a member's name is too long", limit=MAX_NAME)
        inner = cut.get(key) if isinstance(cut, dict) else None
        joined.append(_encode(key) + b":" + _join(name, value, inner, parts))
    return b"{" + b",".join(joined) + b"}"


def part_salt(kind: Kind, seed: bytes, name: str) -> bytes:
    """Rule 4's 16 bytes."""
    return tagged_hash(b"avow/salt/1", seed, kind.encode(), b"\0", name.encode())[:16]


def _leaf(salt: bytes, name: str, data: bytes) -> bytes:
    encoded = name.encode()
    return b"".join((b"avow/part/1", salt, len(encoded).to_bytes(2), encoded, data))


def _leaves(kind: Kind, seed: bytes, parts: Sequence[Part]) -> list[bytes]:
    if len(seed) != SEED_LENGTH:
        raise fields.FieldError(f"the opening seed has {SEED_LENGTH} bytes", field="seed")
    return [_leaf(part_salt(kind, seed, name), name, data) for name, data in parts]


def _commitment(kind: Kind, count: int, root: bytes) -> bytes:
    return tagged_hash(b"avow/commitment/1", len(kind).to_bytes(1), kind.encode(), count.to_bytes(4), root)


def commit(kind: Kind, seed: bytes, parts: Sequence[Part]) -> bytes:
    """The 32-byte commitment to `parts` in their order, salted from the 32-byte `seed`."""
    return _commitment(kind, len(parts), merkle.root_of_hashes(_leaf_hashes(kind, seed, parts)))


def _leaf_hashes(kind: Kind, seed: bytes, parts: Sequence[Part]) -> list[bytes]:
    """merkle.leaf_hash of each of `_leaves`, written out: this runs for every part of every answer."""
    if len(seed) != SEED_LENGTH:
        raise fields.FieldError(f"the opening seed has {SEED_LENGTH} bytes", field="seed")
    salted = b"".join((_SALT_TAG, seed, kind.encode(), b"\0"))
    hashes = []
    for name, data in parts:
        encoded = name.encode()
        salt = sha256(salted + encoded).digest()[:16]
        hashes.append(sha256(b"".join((_LEAF_PREFIX, salt, len(encoded).to_bytes(2), encoded, data))).digest())
    return hashes


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One part, shown alone: enough to check it against its commitment and nothing about the others but their number."""

    kind: Kind
    name: str
    data: bytes
    salt: bytes
    index: int
    count: int
    path: tuple[bytes, ...]

    def to_value(self) -> dict[str, Value]:
        return {
            "kind": self.kind,
            "name": self.name,
            "data": self.data,
            "salt": self.salt,
            "index": self.index,
            "count": self.count,
            "path": list(self.path),
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        item = fields.mapping(value, "disclosure", ("kind", "name", "data", "salt", "index", "count", "path"))
        kind: Kind | None = _KIND_OF.get(fields.text(item["kind"], "disclosure.kind", max_length=16))
        if kind is None:
            raise fields.FieldError("unknown kind of commitment", field="disclosure.kind")
        path = fields.array(item["path"], "disclosure.path", max_length=32)
        return cls(
            kind=kind,
            name=fields.text(item["name"], "disclosure.name", max_length=MAX_NAME),
            data=fields.octets(item["data"], "disclosure.data", 0, MAX_PART),
            salt=fields.octets(item["salt"], "disclosure.salt", 16),
            index=fields.integer(item["index"], "disclosure.index", maximum=MAX_PARTS),
            count=fields.integer(item["count"], "disclosure.count", maximum=MAX_PARTS + 8),
            path=tuple(fields.octets(node, "disclosure.path", 32) for node in path),
        )


def disclose(kind: Kind, seed: bytes, parts: Sequence[Part], index: int) -> Disclosure:
    """Show part `index` of a commitment and hide the rest."""
    leaves = _leaves(kind, seed, parts)
    name, data = parts[index]
    path = tuple(merkle.path(leaves, index))
    return Disclosure(kind, name, data, part_salt(kind, seed, name), index, len(parts), path)


def verify_disclosure(disclosure: Disclosure, commitment: bytes) -> None:
    """Check a disclosed part. Raises CommitmentMismatch."""
    leaf = _leaf(disclosure.salt, disclosure.name, disclosure.data)
    try:
        root = merkle.root_from_path(leaf, disclosure.index, disclosure.count, disclosure.path)
    except VerificationError as error:
        raise CommitmentMismatch(f"the path of {disclosure.name} does not fit its tree") from error
    if _commitment(disclosure.kind, disclosure.count, root) != commitment:
        raise CommitmentMismatch(f"{disclosure.name} is not what was committed", part=disclosure.name)
