"""The receipt: a statement, its evidence, its settlement once there is one, and as much of the opening as its holder shows.

Rules:
1. A receipt is the CBOR map {"version", "statement", "evidence", "settlement"?, "opening"?, "disclosures"?}. Its id is the statement hash.
2. The opening is {"seed", "endpoint", "effective", "request"?, "response"?, "header"?}; request and response are lists of
   [name, bytes]. `header` is that of the trace, of optimistic statements alone.
   With the seed alone, whoever holds the bodies can check them. A redacted receipt has no opening and verifies all the same.
3. Bytes are refused unless they are the one encoding; a JSON file unless it is the one JSON form (encoding.py).

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from avow.errors import EncodingError, NotAReceipt, NotFound, TooLarge
from avow.receipt import fields
from avow.receipt.commitment import (
    MAX_NAME,
    MAX_PART,
    MAX_PARTS,
    SEED_LENGTH,
    Disclosure,
    Kind,
    Part,
    disclose,
    effective_parts,
    request_parts,
    response_parts,
)
from avow.receipt.encoding import Value, decode, encode_trusted, from_json, to_json
from avow.receipt.evidence import Evidence, Settlement
from avow.receipt.statement import Statement

VERSION = 1
MAX_RECEIPT = 16 * 1024 * 1024
MAX_DISCLOSURES = 1_024
MAX_TRACE_HEADER = 8_192


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens the commitments. `effective` is the JSON of the effective parameters; parts may be left with their holder."""

    seed: bytes
    endpoint: str
    effective: bytes
    request: tuple[Part, ...] | None = None
    response: tuple[Part, ...] | None = None
    header: bytes | None = None

    def to_value(self) -> dict[str, Value]:
        value: dict[str, Value] = {"seed": self.seed, "endpoint": self.endpoint, "effective": self.effective}
        if self.request is not None:
            value["request"] = [[name, data] for name, data in self.request]
        if self.response is not None:
            value["response"] = [[name, data] for name, data in self.response]
        if self.header is not None:
            value["header"] = self.header
        return value

    @classmethod
    def from_value(cls, value: Value) -> Self:
        item = fields.mapping(value, "opening", ("seed", "endpoint", "effective"), ("request", "response", "header"))
        return cls(
            seed=fields.octets(item["seed"], "seed", SEED_LENGTH),
            endpoint=fields.text(item["endpoint"], "endpoint", max_length=256),
            effective=fields.octets(item["effective"], "effective", 0, 1 << 20),
            request=_parts(item["request"], "request") if "request" in item else None,
            response=_parts(item["response"], "response") if "response" in item else None,
            header=fields.octets(item["header"], "header", 1, MAX_TRACE_HEADER) if "header" in item else None,
        )


def _parts(value: Value, field: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    for entry in fields.array(value, field, max_length=MAX_PARTS + 8):
        name, data = _pair(entry, field)
        parts.append((fields.text(name, field, max_length=MAX_NAME), fields.octets(data, field, 0, MAX_PART)))
    return tuple(parts)


def _pair(value: Value, field: str) -> tuple[Value, Value]:
    pair = fields.array(value, field, max_length=2)
    if len(pair) != 2:
        raise fields.FieldError(f"a part of {field} is a name and its bytes", field=field)
    return pair[0], pair[1]


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt. Immutable: each method that changes something returns another."""

    statement: Statement
    evidence: Evidence
    settlement: Settlement | None = None
    opening: Opening | None = None
    disclosures: tuple[Disclosure, ...] = ()

    @property
    def id(self) -> str:
        """The statement hash, 64 hex digits."""
        return self.statement.hash().hex()

    def to_value(self) -> dict[str, Value]:
        value: dict[str, Value] = {
            "version": VERSION,
            "statement": self.statement.to_value(),
            "evidence": self.evidence.to_value(),
        }
        if self.settlement is not None:
            value["settlement"] = self.settlement.to_value()
        if self.opening is not None:
            value["opening"] = self.opening.to_value()
        if self.disclosures:
            value["disclosures"] = [disclosure.to_value() for disclosure in self.disclosures]
        return value

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises NotAReceipt for what is none, UnknownVersion, FieldError."""
        if not isinstance(value, dict) or "statement" not in value or "evidence" not in value:
            raise NotAReceipt("this is not a receipt: it has no statement and evidence")
        fields.version(value.get("version"), "receipt", VERSION)
        item = fields.mapping(
            value, "receipt", ("version", "statement", "evidence"), ("settlement", "opening", "disclosures")
        )
        disclosures = fields.array(item.get("disclosures", []), "disclosures", max_length=MAX_DISCLOSURES)
        if "disclosures" in item and not disclosures:
            raise fields.FieldError("disclosures are left out when there are none", field="disclosures")
        return cls(
            statement=Statement.from_value(item["statement"]),
            evidence=Evidence.from_value(item["evidence"]),
            settlement=Settlement.from_value(item["settlement"]) if "settlement" in item else None,
            opening=Opening.from_value(item["opening"]) if "opening" in item else None,
            disclosures=tuple(Disclosure.from_value(entry) for entry in disclosures),
        )

    def to_bytes(self) -> bytes:
        return encode_trusted(self.to_value())

    def to_json(self) -> bytes:
        """The form for people and files: canonical JSON."""
        return to_json(self.to_value())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises EncodingError, TooLarge, NotAReceipt, UnknownVersion or FieldError."""
        return cls.from_value(decode(data, max_bytes=MAX_RECEIPT))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises what `from_bytes` raises; the JSON must be canonical, byte for byte."""
        return cls.from_value(from_json(data, max_bytes=2 * MAX_RECEIPT))

    @classmethod
    def load(cls, data: bytes) -> Self:
        """A receipt from a file's bytes, JSON or CBOR by the first byte. Raises NotAReceipt for anything else."""
        return cls.from_value(load_value(data))

    def redacted(self) -> Self:
        """Without prompt, answer, or any part of them."""
        return replace(self, opening=None, disclosures=())

    def with_settlement(self, settlement: Settlement) -> Self:
        return replace(self, settlement=settlement)

    def opened(self, request: bytes, response: bytes | Sequence[Part]) -> Self:
        """With the parts of these bodies in the opening, so that the receipt alone shows what was said.

        `response` is the body, or for a stream its parts (stream.stream_parts). Raises NotAReceipt without a seed.
        """
        opening = self._opening()
        answered = response_parts(response) if isinstance(response, bytes) else response
        asked = tuple(request_parts(opening.endpoint, request))
        return replace(self, opening=replace(opening, request=asked, response=tuple(answered)))

    def disclosing(self, names: Sequence[str]) -> Self:
        """With only the named parts shown ("request/messages/0", "response/choices/0/message/content", "effective").

        Raises NotAReceipt when the opening or a name is not there.
        """
        opening = self._opening()
        shown: list[Disclosure] = []
        for name in names:
            kind, parts = _named_parts(opening, name)
            rest = name.removeprefix(kind)
            index = next((i for i, (part, _) in enumerate(parts) if part in (rest, rest[1:], name)), None)
            if index is None:
                raise NotFound(
                    f"the receipt's opening has no part {name[:128]!r}", hint="`avow receipts show` names the parts"
                )
            shown.append(disclose(kind, opening.seed, parts, index))
        return replace(self, opening=None, disclosures=tuple(shown))

    def _opening(self) -> Opening:
        if self.opening is None:
            raise NotAReceipt("the receipt has no opening: it is redacted")
        return self.opening


def _named_parts(opening: Opening, name: str) -> tuple[Kind, Sequence[Part]]:
    """The kind of commitment that a name like "request/messages/0" means, and its parts as far as they are shown."""
    if name.startswith("request/"):
        return "request", opening.request or ()
    if name.startswith("response/"):
        return "response", opening.response or ()
    return "effective", effective_parts(opening.effective)


def load_value(data: bytes) -> Value:
    """The value in a file, JSON or CBOR. Raises NotAReceipt when it is neither, as a whole or in its encoding."""
    if not data:
        raise NotAReceipt("the file is empty")
    try:
        if data[:1] == b"{":
            return from_json(data, max_bytes=2 * MAX_RECEIPT)
        return decode(data, max_bytes=MAX_RECEIPT)
    except TooLarge:
        raise
    except EncodingError as error:
        raise NotAReceipt(f"this is not a receipt in its one encoding: {error.detail}") from error
