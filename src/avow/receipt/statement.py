"""The statement: the claim about one inference, and the signature that stands behind it.

Rules:
1. A statement has public columns, which the chain acts on, and a private part, of which the chain sees the hash alone.
2. columns        = u64 number ‖ 32 B program ‖ 20 B payer ‖ u8 method ‖ u64 units ‖ u128 amount ‖ u32 price version
                    ‖ u64 ended, big-endian, 97 bytes. Ended: when the answer was there, by the node's clock, in ms since the epoch.
                    Optimistic statements, and no others, have 33 more: ‖ 32 B trace ‖ u8 terms.
   private hash   = H("avow/statement-private/1", deterministic CBOR of the private part).
   statement hash = H("avow/statement/1", columns ‖ private hash). It is also the receipt's id.
3. The statements of one key are numbered 0, 1, 2, … and chained:
   head(-1) = H("avow/head/1", chain id ‖ key id);  head(n) = H("avow/head/1", head(n-1) ‖ statement hash(n)).
4. Signature n is a COSE_Sign1 (RFC 9052, ES256, detached payload) over number, statement hash and head. It authenticates every
   statement up to n, so the last delivered signature settles the whole range.
5. Signatures have s ≤ n/2; the other half of the plane is refused, so a signature has one form.

Pure: no clock, no randomness, no input or output.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from avow.errors import VerificationError
from avow.receipt import fields
from avow.receipt.audience import Audience
from avow.receipt.encoding import Value, encode_trusted, tagged_hash

VERSION = 1

_COLUMNS = struct.Struct(">Q32s20sBQ16sIQ")
_OPTIMISTIC_COLUMNS = struct.Struct(">Q32s20sBQ16sIQ32sB")
TERMS_PAYER_OPENS = 1
"""Bit 0 of the terms: on chain nobody but the payer may open anything of the run."""
KNOWN_TERMS = TERMS_PAYER_OPENS
_COSE_PREFIX = bytes.fromhex("8443a10126a0f65840")
"""COSE_Sign1 as array of four: protected {1: -7} (ES256), no unprotected header, detached payload, 64-byte signature."""
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-5 / SEC 2 §2.4.2
_ES256 = ec.ECDSA(hashes.SHA256())


class Method(IntEnum):
    """How an answer is backed; the number stands in the columns and on chain."""

    VANILLA = 0
    OPTIMISTIC = 1
    TEE = 2
    ZKML = 3

    @property
    def label(self) -> str:
        return self.name.lower()


class NonceSource(StrEnum):
    """Who chose the nonce. Only the caller's own proves to the caller that the answer is fresh."""

    CLIENT = "client"
    GATEWAY = "gateway"


class BadSignature(VerificationError):
    """A signature does not verify."""

    code = "bad_signature"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the chain acts on. `amount` is in wei, `units` in the program's unit of use.

    `trace` (exact/hashing.py) and `terms` are there for the method optimistic alone, 32 bytes and a byte; else empty and 0.
    """

    number: int
    program: bytes
    payer: bytes
    method: Method
    units: int
    amount: int
    price_version: int
    ended_ms: int
    trace: bytes = b""
    terms: int = 0

    def pack(self) -> bytes:
        """Rule 2's 97 bytes, 130 for optimistic statements."""
        common = (
            self.number,
            self.program,
            self.payer,
            self.method,
            self.units,
            self.amount.to_bytes(16),
            self.price_version,
            self.ended_ms,
        )
        if self.method is Method.OPTIMISTIC:
            return _OPTIMISTIC_COLUMNS.pack(*common, self.trace, self.terms)
        return _COLUMNS.pack(*common)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The inverse of `pack`, for bytes that it made."""
        layout = _COLUMNS if len(packed) == _COLUMNS.size else _OPTIMISTIC_COLUMNS
        number, program, payer, method, units, amount, price_version, ended_ms, *more = layout.unpack(packed)
        return cls(
            number, program, payer, Method(method), units, int.from_bytes(amount), price_version, ended_ms, *more
        )

    def to_value(self) -> dict[str, Value]:
        value: dict[str, Value] = {
            "number": self.number,
            "program": self.program,
            "payer": self.payer,
            "method": self.method.label,
            "units": self.units,
            "amount": self.amount.to_bytes(16),
            "price_version": self.price_version,
            "ended_ms": self.ended_ms,
        }
        if self.method is Method.OPTIMISTIC:
            value |= {"trace": self.trace, "terms": self.terms}
        return value

    @classmethod
    def from_value(cls, value: Value) -> Self:
        item = fields.mapping(value, "columns", _COLUMN_NAMES, _OPTIMISTIC_NAMES)
        label = fields.text(item["method"], "method", max_length=16)
        method = _METHODS.get(label)
        if method is None:
            raise fields.FieldError(f"unknown method {label!r}", field="method")
        trace, terms = b"", 0
        if method is Method.OPTIMISTIC:
            fields.mapping(value, "columns", _COLUMN_NAMES + _OPTIMISTIC_NAMES)
            trace = fields.octets(item["trace"], "trace", 32)
            terms = fields.integer(item["terms"], "terms", maximum=KNOWN_TERMS)
        else:
            fields.mapping(value, "columns", _COLUMN_NAMES)
        return cls(
            number=fields.integer(item["number"], "number"),
            program=fields.octets(item["program"], "program", 32),
            payer=fields.octets(item["payer"], "payer", 20),
            method=method,
            units=fields.integer(item["units"], "units"),
            amount=int.from_bytes(fields.octets(item["amount"], "amount", 16)),
            price_version=fields.integer(item["price_version"], "price_version", maximum=0xFFFFFFFF),
            ended_ms=fields.integer(item["ended_ms"], "ended_ms", maximum=fields.MAX_TIME_MS),
            trace=trace,
            terms=terms,
        )


_COLUMN_NAMES = ("number", "program", "payer", "method", "units", "amount", "price_version", "ended_ms")
_OPTIMISTIC_NAMES = ("trace", "terms")
_METHODS = {method.label: method for method in Method}


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What ran the program. `runtime` names the build where bits depend on it."""

    name: str
    version: str
    runtime: str


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last link of a stream's hash chain and the number of its chunks."""

    head: bytes
    chunks: int


@dataclass(frozen=True, slots=True)
class Private:
    """The part of a statement of which the chain sees the hash alone. It holds commitments, never texts.

    `request`, `effective` and `response` are salted commitments (see commitment.py); `started_ms` is the node's claim, in
    milliseconds since the epoch; `requester` is the address that signed the request, `authorised` whether it signed to pay for it too
    (authorisation.py); `usage` counts by name, in the order of names. `audience`: who may check an optimistic statement; other
    statements have none.
    """

    chain_id: str
    node: bytes
    key: bytes
    engine: EngineIdentity
    request: bytes
    effective: bytes
    response: bytes
    nonce: bytes
    nonce_source: NonceSource
    requester: bytes | None
    authorised: bool
    started_ms: int
    usage: tuple[tuple[str, int], ...]
    stream: StreamEnd | None
    complete: bool
    version: int = VERSION
    audience: Audience | None = None

    def to_value(self) -> dict[str, Value]:
        engine = self.engine
        stream = self.stream
        value: dict[str, Value] = {
            "version": self.version,
            "chain_id": self.chain_id,
            "node": self.node,
            "key": self.key,
            "engine": {"name": engine.name, "version": engine.version, "runtime": engine.runtime},
            "request": self.request,
            "effective": self.effective,
            "response": self.response,
            "nonce": self.nonce,
            "nonce_source": self.nonce_source.value,
            "requester": self.requester,
            "authorised": self.authorised,
            "started_ms": self.started_ms,
            "usage": dict(self.usage),
            "stream": None if stream is None else {"head": stream.head, "chunks": stream.chunks},
            "complete": self.complete,
        }
        if self.audience is not None:
            value["audience"] = self.audience.to_value()
        return value

    @classmethod
    def from_value(cls, value: Value) -> Self:
        item = fields.mapping(value, "private", _PRIVATE_NAMES, ("audience",))
        fields.version(item["version"], "statement", VERSION)
        engine = fields.mapping(item["engine"], "engine", ("name", "version", "runtime"))
        usage = item["usage"]
        if not isinstance(usage, dict) or len(usage) > 32:
            raise fields.FieldError("usage is a map of at most 32 counts", field="usage")
        source = fields.text(item["nonce_source"], "nonce_source", max_length=16)
        if source not in (NonceSource.CLIENT, NonceSource.GATEWAY):
            raise fields.FieldError("unknown nonce source", field="nonce_source")
        return cls(
            chain_id=fields.text(item["chain_id"], "chain_id", max_length=64),
            node=fields.octets(item["node"], "node", 20),
            key=fields.octets(item["key"], "key", 32),
            engine=EngineIdentity(
                *(
                    fields.text(engine[name], f"engine.{name}", max_length=256)
                    for name in ("name", "version", "runtime")
                )
            ),
            request=fields.octets(item["request"], "request", 32),
            effective=fields.octets(item["effective"], "effective", 32),
            response=fields.octets(item["response"], "response", 32),
            nonce=fields.octets(item["nonce"], "nonce", 8, 64),
            nonce_source=NonceSource(source),
            requester=None if item["requester"] is None else fields.octets(item["requester"], "requester", 20),
            authorised=fields.boolean(item["authorised"], "authorised"),
            started_ms=fields.integer(item["started_ms"], "started_ms", maximum=fields.MAX_TIME_MS),
            usage=tuple(sorted((name, fields.integer(count, f"usage.{name[:64]!r}")) for name, count in usage.items())),
            stream=_stream_end(item["stream"]),
            complete=fields.boolean(item["complete"], "complete"),
            audience=Audience.from_value(item["audience"]) if "audience" in item else None,
        )


_PRIVATE_NAMES = tuple(sorted(set(Private.__dataclass_fields__) - {"audience"}))


def _stream_end(value: Value) -> StreamEnd | None:
    if value is None:
        return None
    item = fields.mapping(value, "stream", ("head", "chunks"))
    return StreamEnd(fields.octets(item["head"], "stream.head", 32), fields.integer(item["chunks"], "stream.chunks"))


def private_hash(encoded: bytes) -> bytes:
    """The hash of the private part's CBOR, which the settlement batch carries."""
    return tagged_hash(b"avow/statement-private/1", encoded)


def statement_hash(packed_columns: bytes, private: bytes) -> bytes:
    """The statement's hash, and the receipt's id, from the packed columns and the private part's hash."""
    return tagged_hash(b"avow/statement/1", packed_columns, private)


def first_head(chain_id: str, key: bytes) -> bytes:
    """The head before statement 0 of `key`."""
    return tagged_hash(b"avow/head/1", chain_id.encode(), key)


def next_head(head: bytes, statement: bytes) -> bytes:
    """The head after one more statement."""
    return tagged_hash(b"avow/head/1", head, statement)


@dataclass(frozen=True, slots=True)
class Statement:
    """Columns and private part together."""

    columns: Columns
    private: Private

    def hash(self) -> bytes:
        return statement_hash(self.columns.pack(), private_hash(encode_trusted(self.private.to_value())))

    def to_value(self) -> dict[str, Value]:
        return {"columns": self.columns.to_value(), "private": self.private.to_value()}

    @classmethod
    def from_value(cls, value: Value) -> Self:
        item = fields.mapping(value, "statement", ("columns", "private"))
        statement = cls(Columns.from_value(item["columns"]), Private.from_value(item["private"]))
        if (statement.private.audience is None) is (statement.columns.method is Method.OPTIMISTIC):
            raise fields.FieldError("optimistic statements, and no others, name their audience", field="audience")
        return statement


def key_id(signing_key: bytes) -> bytes:
    """The id of a P-256 key given as 65-byte uncompressed SEC 1 point."""
    return tagged_hash(b"avow/key/1", signing_key)


def statement_payload(chain_id: str, key: bytes, number: int, statement: bytes, head: bytes) -> bytes:
    """What signature `number` covers."""
    return encode_trusted(["avow/signature/1", chain_id, key, number, statement, head])


def stream_payload(chain_id: str, key: bytes, request: bytes, effective: bytes, chunks: int, head: bytes) -> bytes:
    """What a signed stream head covers: the request as committed, and the stream so far."""
    return encode_trusted(["avow/stream-head/1", chain_id, key, request, effective, chunks, head])


def signature_input(payload: bytes) -> bytes:
    """COSE's Sig_structure (RFC 9052 §4.4) over a detached payload, with no external data."""
    return encode_trusted(["Signature1", b"\xa1\x01\x26", b"", payload])


def cose_sign1(r: int, s: int) -> bytes:
    """The one COSE_Sign1 encoding of an ECDSA signature; s is brought into its lower half."""
    s = min(s, _P256_ORDER - s)
    return _COSE_PREFIX + r.to_bytes(32) + s.to_bytes(32)


def verify_signature(signing_key: bytes, payload: bytes, signature: bytes) -> None:
    """Check a COSE_Sign1 over `payload`. Raises BadSignature, whatever is wrong with key or signature."""
    if len(signature) != len(_COSE_PREFIX) + 64 or not signature.startswith(_COSE_PREFIX):
        raise BadSignature("not a COSE_Sign1 with ES256, detached payload and empty unprotected header")
    r = int.from_bytes(signature[-64:-32])
    s = int.from_bytes(signature[-32:])
    if not (0 < r < _P256_ORDER and 0 < s <= _P256_ORDER // 2):
        raise BadSignature("signature numbers out of range (s must be in the lower half)")
    if len(signing_key) != 65 or signing_key[0] != 4:
        raise BadSignature("the signing key is not an uncompressed P-256 point")
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), signing_key)
        public.verify(encode_dss_signature(r, s), signature_input(payload), _ES256)
    except ValueError:
        raise BadSignature("the signing key is not a point of P-256") from None
    except InvalidSignature:
        raise BadSignature("the signature does not verify under the key") from None
