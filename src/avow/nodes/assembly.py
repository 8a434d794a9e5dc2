"""Receipts put together from bytes that are encoded already.

Rules:
1. What comes out is byte for byte what `Receipt.to_bytes` gives: the one encoding (tests hold the two equal).
2. What a key's answers share for a while (its standing, its attestation) is encoded once, as a `Backing`.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Self

import msgspec

from avow.nodes.jobs import Signed
from avow.nodes.splice import head, octets, text
from avow.receipt.encoding import Value, encode_trusted
from avow.receipt.receipt import VERSION
from avow.receipt.statement import Method

_COLUMNS = struct.Struct(">Q32s20sBQ16sIQ")


_NAMES = {
    name: text(name)
    for name in (
        "amount",
        "attestation",
        "bond",
        "columns",
        "effective",
        "ended_ms",
        "endpoint",
        "evidence",
        "header",
        "method",
        "number",
        "opening",
        "payer",
        "previous_head",
        "price_version",
        "private",
        "program",
        "registration_block",
        "requester_signature",
        "seed",
        "settlement",
        "signature",
        "signing_key",
        "standing",
        "statement",
        "units",
        "version",
        "terms",
        "trace",
    )
}
_METHOD_TEXTS = {int(method): text(method.label) for method in Method}
_VERSION = _NAMES["version"] + head(0, VERSION)


class _Shared(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A backing as it is stored."""

    method: int
    signing_key: bytes
    standing: bytes
    attestation: bytes | None
    registration_block: bytes | None
    bond: bytes = b""


@dataclass(frozen=True, slots=True)
class Backing:
    """The evidence that a key's answers share, in pieces of CBOR; `stored` is the form for the outbox."""

    key: bytes
    method: int
    signing_key: bytes
    standing: bytes
    stored: bytes
    before_signature: bytes
    after_signature: bytes
    registration_block: bytes
    members: int

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.stored).digest()

    @classmethod
    def make(
        cls,
        key: bytes,
        method: int,
        signing_key: bytes,
        *,
        standing: bytes,
        attestation: bytes | None = None,
        registration_block: bytes | None = None,
        bond: bytes = b"",
    ) -> Self:
        """`standing` and `bond` are CBOR of their maps, empty when there is none."""
        shared = _Shared(method, signing_key, standing, attestation, registration_block, bond)
        before = [_NAMES["bond"], bond] if bond else []
        before += [_NAMES["method"], _METHOD_TEXTS[method]]
        if standing:
            before += [_NAMES["standing"], standing]
        after = []
        if attestation is not None:
            after += [_NAMES["attestation"], octets(attestation)]
        after += [_NAMES["signing_key"], octets(signing_key)]
        block = b""
        if registration_block is not None:
            block = _NAMES["registration_block"] + octets(registration_block)
        members = 4 + bool(standing) + bool(bond) + (attestation is not None) + (registration_block is not None)
        stored = msgspec.msgpack.encode(shared)
        return cls(key, method, signing_key, standing, stored, b"".join(before), b"".join(after), block, members)

    @classmethod
    def load(cls, key: bytes, stored: bytes) -> Self:
        """From the outbox."""
        shared = msgspec.msgpack.decode(stored, type=_Shared)
        return cls.make(
            key,
            shared.method,
            shared.signing_key,
            standing=shared.standing,
            attestation=shared.attestation,
            registration_block=shared.registration_block,
            bond=shared.bond,
        )


def assemble_receipt(
    signed: Signed,
    backing: Backing,
    *,
    requester_signature: bytes | None = None,
    opening: bytes = b"",
    settlement: bytes = b"",
) -> bytes:
    """The receipt's CBOR. `opening` is from `opening_member` or `encode`; `settlement` the CBOR of the proof; empty: left out."""
    names = _NAMES
    requester = b""
    if requester_signature is not None:
        requester = names["requester_signature"] + octets(requester_signature)
    return b"".join(
        (
            head(5, 3 + bool(opening) + bool(settlement)),
            names["opening"] + opening if opening else b"",
            _VERSION,
            names["evidence"],
            head(5, backing.members + (requester_signature is not None)),
            backing.before_signature,
            names["signature"],
            octets(signed.signature),
            backing.after_signature,
            names["previous_head"],
            octets(signed.previous_head),
            backing.registration_block,
            requester,
            names["statement"],
            b"\xa2",
            names["columns"],
            _columns(signed.columns),
            names["private"],
            signed.private,
            names["settlement"] + settlement if settlement else b"",
        )
    )


def _columns(packed: bytes) -> bytes:
    number, program, payer, method, units, amount, price_version, ended_ms = _COLUMNS.unpack_from(packed)
    names = _NAMES
    more = packed[_COLUMNS.size :]
    run = b""
    if more:
        run = b"".join((names["terms"], head(0, more[32]), names["trace"], octets(more[:32])))
    return b"".join(
        (
            b"\xaa" if more else b"\xa8",
            names["payer"],
            octets(payer),
            run,
            names["units"],
            head(0, units),
            names["amount"],
            octets(amount),
            names["method"],
            _METHOD_TEXTS[method],
            names["number"],
            head(0, number),
            names["program"],
            octets(program),
            names["ended_ms"],
            head(0, ended_ms),
            names["price_version"],
            head(0, price_version),
        )
    )


def opening_member(seed: bytes, endpoint: str, effective: bytes, header: bytes = b"") -> bytes:
    """The opening that travels with an answer: the secret, and what the caller does not know yet. `header`: of a trace."""
    names = _NAMES
    return b"".join(
        (
            b"\xa4" if header else b"\xa3",
            names["seed"],
            octets(seed),
            names["header"] + octets(header) if header else b"",
            names["endpoint"],
            text(endpoint),
            names["effective"],
            octets(effective),
        )
    )


def whole_opening(
    seed: bytes,
    endpoint: str,
    effective: bytes,
    request: list[tuple[str, bytes]],
    response: list[tuple[str, bytes]],
    header: bytes = b"",
) -> bytes:
    """The opening with every part."""
    shown: dict[str, Value] = {"header": header} if header else {}
    return encode_trusted(
        {
            **shown,
            "seed": seed,
            "endpoint": endpoint,
            "effective": effective,
            "request": [[name, data] for name, data in request],
            "response": [[name, data] for name, data in response],
        }
    )
