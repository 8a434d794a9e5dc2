"""Statements: what is hashed, chained and signed, and the one form of a signature."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avow.errors import AvowError, UnknownVersion
from avow.receipt.audience import Audience, AudienceKind
from avow.receipt.statement import (
    BadSignature,
    Columns,
    EngineIdentity,
    Method,
    NonceSource,
    Private,
    Statement,
    StreamEnd,
    cose_sign1,
    first_head,
    key_id,
    next_head,
    signature_input,
    statement_payload,
    verify_signature,
)

COLUMNS = Columns(7, b"p" * 32, b"q" * 20, Method.TEE, 12, 10**20, 3, 9)
PRIVATE = Private(
    "avow-0123456789abcdef", b"n" * 20, b"k" * 32, EngineIdentity("llama", "1", "x86"), b"r" * 32, b"e" * 32, b"s" * 32,
    b"nonce-123", NonceSource.CLIENT, b"a" * 20, False, 5, (("completion_tokens", 4), ("prompt_tokens", 8)), StreamEnd(b"h" * 32, 3), True,
)  # fmt: skip
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_columns_are_97_bytes_at_fixed_places():
    packed = COLUMNS.pack()
    assert len(packed) == 97
    assert packed == (
        (7).to_bytes(8)
        + b"p" * 32
        + b"q" * 20
        + b"\x02"
        + (12).to_bytes(8)
        + (10**20).to_bytes(16)
        + (3).to_bytes(4)
        + (9).to_bytes(8)
    )


def test_values_round_trip():
    statement = Statement(COLUMNS, PRIVATE)
    assert Statement.from_value(statement.to_value()) == statement
    plain = replace(PRIVATE, requester=None, stream=None)
    assert Private.from_value(plain.to_value()) == plain


RUN = replace(COLUMNS, method=Method.OPTIMISTIC, trace=b"t" * 32, terms=1)
WATCHED = replace(PRIVATE, audience=Audience(AudienceKind.WATCHERS, (b"a" * 20, b"b" * 20)))


def test_optimistic_columns_have_33_bytes_more():
    plain = replace(COLUMNS, method=Method.OPTIMISTIC, trace=bytes(32))
    assert RUN.pack() == plain.pack()[:97] + b"t" * 32 + b"\x01"
    assert Columns.unpack(RUN.pack()) == RUN
    assert Columns.unpack(COLUMNS.pack()) == COLUMNS


def test_optimistic_statements_alone_have_a_trace_and_an_audience():
    statement = Statement(RUN, WATCHED)
    assert Statement.from_value(statement.to_value()) == statement
    for audience in (Audience(), Audience(AudienceKind.PUBLIC), Audience(AudienceKind.PAYER)):
        other = Statement(RUN, replace(WATCHED, audience=audience))
        assert Statement.from_value(other.to_value()) == other
        assert other.hash() != statement.hash()
    for columns, private in ((RUN, PRIVATE), (COLUMNS, WATCHED)):
        with pytest.raises(AvowError):
            Statement.from_value(Statement(columns, private).to_value())
    for change in ({"terms": 2}, {"trace": bytes(31)}, {"trace": None}, {"method": "vanilla"}):
        value = RUN.to_value() | change
        with pytest.raises(AvowError):
            Columns.from_value(value)
    for name in ("trace", "terms"):
        value = RUN.to_value()
        del value[name]
        with pytest.raises(AvowError):
            Columns.from_value(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"kind": "public"},
        {"kind": "nobody", "keys": []},
        {"kind": "public", "keys": [bytes(20)]},
        {"kind": "payer", "keys": [bytes(20)]},
        {"kind": "watchers", "keys": [bytes(19)]},
        {"kind": "watchers", "keys": [b"b" * 20, b"a" * 20]},
        {"kind": "watchers", "keys": [b"a" * 20, b"a" * 20]},
        {"kind": "watchers", "keys": [index.to_bytes(20) for index in range(17)]},
    ],
)
def test_what_is_no_audience(value):
    with pytest.raises(AvowError):
        Audience.from_value(value)


def test_whom_an_audience_admits():
    payer, appointed, named, stranger = (name * 20 for name in (b"p", b"w", b"n", b"s"))
    expected = {
        Audience(): {payer, appointed},
        Audience(AudienceKind.WATCHERS, (named,)): {payer, appointed, named},
        Audience(AudienceKind.PAYER): {payer},
        Audience(AudienceKind.PUBLIC): {payer, appointed, named, stranger},
    }
    for audience, admitted in expected.items():
        for address in (payer, appointed, named, stranger):
            assert audience.admits(address, payer=payer, appointed=[appointed]) is (address in admitted)


CHANGES = {
    "columns": {"number": 8, "program": b"x" * 32, "payer": b"x" * 20, "method": Method.VANILLA, "units": 13, "amount": 1, "price_version": 4, "ended_ms": 10},
    "private": {
        "chain_id": "avow-x", "node": b"x" * 20, "key": b"x" * 32, "engine": EngineIdentity("llama", "2", "x86"), "request": b"x" * 32,
        "effective": b"x" * 32, "response": b"x" * 32, "nonce": b"nonce-124", "nonce_source": NonceSource.GATEWAY, "requester": None,
        "authorised": True, "started_ms": 6, "usage": (), "stream": None, "complete": False,
    },
}  # fmt: skip


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, changes in CHANGES.items() for name in changes])
def test_every_field_is_under_the_hash(part, name):
    statement = Statement(COLUMNS, PRIVATE)
    changed = replace(statement, **{part: replace(getattr(statement, part), **{name: CHANGES[part][name]})})
    assert changed.hash() != statement.hash()


BAD = {
    "columns": {"number": -1, "program": b"x", "payer": b"x" * 21, "method": "magic", "units": 1 << 64, "amount": b"x" * 15, "price_version": 1 << 32, "ended_ms": 1 << 60},
    "private": {
        "chain_id": "x" * 65, "node": b"", "key": "x", "engine": {"name": "a"}, "request": None, "effective": b"x" * 33, "response": 5,
        "nonce": b"short", "nonce_source": "me", "requester": b"", "authorised": 1, "started_ms": True, "usage": {"a": "b"},
        "stream": {"head": b"", "chunks": 1}, "complete": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, values in BAD.items() for name in values])
def test_fields_out_of_range_are_refused(part, name):
    value = Statement(COLUMNS, PRIVATE).to_value()
    value[part][name] = BAD[part][name]
    with pytest.raises(AvowError):
        Statement.from_value(value)


def test_missing_and_unknown_members_and_versions():
    for change in ({"extra": 1}, {"usage": {str(i): i for i in range(33)}}):
        value = PRIVATE.to_value() | change
        with pytest.raises(AvowError):
            Private.from_value(value)
    value = PRIVATE.to_value()
    del value["nonce"]
    with pytest.raises(AvowError):
        Private.from_value(value)
    with pytest.raises(UnknownVersion):
        Private.from_value(PRIVATE.to_value() | {"version": 2})


def test_heads_chain():
    start = first_head("avow-a", b"k" * 32)
    assert start != first_head("avow-b", b"k" * 32) != first_head("avow-a", b"l" * 32)
    assert next_head(next_head(start, b"1" * 32), b"2" * 32) != next_head(next_head(start, b"2" * 32), b"1" * 32)


@pytest.fixture(scope="module")
def signed():
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    payload = statement_payload("avow-x", key_id(point), 1, b"s" * 32, b"h" * 32)
    r, s = decode_dss_signature(key.sign(signature_input(payload), ec.ECDSA(hashes.SHA256())))
    return point, payload, r, min(s, ORDER - s)


def test_a_signature_has_one_form(signed):
    point, payload, r, s = signed
    good = cose_sign1(r, s)
    assert good == cose_sign1(r, ORDER - s)
    verify_signature(point, payload, good)
    high = good[:-32] + (ORDER - s).to_bytes(32)
    bad = [
        high, good[:-1], good + b"\0", b"\xd2" + good, good[:9] + bytes(64), good[:-32] + bytes(32), good[:-64] + bytes(32) + good[-32:],
        good[:-64] + ORDER.to_bytes(32) + good[-32:], bytes.fromhex("8443a10126a0405840") + good[-64:], b"",
    ]  # fmt: skip
    for signature in bad:
        with pytest.raises(BadSignature):
            verify_signature(point, payload, signature)
    with pytest.raises(BadSignature):
        verify_signature(point, payload + b"x", good)
    for key in (
        b"",
        point[1:],
        b"\x02" + point[1:33],
        b"\x04" + bytes(64),
        b"\x05" + point[1:],
        point[:-1] + bytes((point[-1] ^ 1,)),
    ):
        with pytest.raises(BadSignature):
            verify_signature(key, payload, good)


@pytest.mark.parametrize("at", range(9, 73))
def test_every_byte_of_a_signature_counts(signed, at):
    point, payload, r, s = signed
    changed = bytearray(cose_sign1(r, s))
    changed[at] ^= 1
    with pytest.raises(BadSignature):
        verify_signature(point, payload, bytes(changed))


def test_the_halfway_point_is_in_the_lower_half():
    assert cose_sign1(1, ORDER // 2)[-32:] == (ORDER // 2).to_bytes(32)
    assert cose_sign1(1, ORDER // 2 + 1)[-32:] == (ORDER // 2).to_bytes(32)
