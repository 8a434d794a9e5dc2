"""One encoding of each value: what decodes encodes to the same bytes, and nothing else decodes."""

import json

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import AvowError, EncodingError, TooLarge
from avow.receipt.encoding import base64url, decode, encode, from_base64url, from_json, tagged_hash, to_json

integers = st.integers(-(1 << 63), (1 << 64) - 1)
scalars = st.none() | st.booleans() | integers | st.binary(max_size=80) | st.text(max_size=40)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=30), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_round_trip(value):
    data = encode(value)
    assert decode(data) == value
    assert cbor2.loads(data) == value


@given(values)
def test_json_round_trip(value):
    data = to_json(value)
    assert from_json(data) == value
    assert encode(from_json(data)) == encode(value)


@settings(max_examples=600)
@given(st.binary(max_size=60))
def test_whatever_decodes_is_canonical(data):
    try:
        value = decode(data)
    except EncodingError:
        return
    assert encode(value) == data


@settings(max_examples=400)
@given(values, st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value, data):
    encoded = bytearray(encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(bytes(encoded))
    except AvowError:
        return
    assert encode(other) == bytes(encoded) != encode(value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("1800", "an integer in two bytes that fits in one"),
        ("190017", "an integer in three bytes that fits in one"),
        ("1b00000000ffffffff", "an integer in nine bytes that fits in five"),
        ("5f4100ff", "an indefinite byte string"),
        ("9fff", "an indefinite array"),
        ("bfff", "an indefinite map"),
        ("c240", "a tag"),
        ("f97c00", "a float"),
        ("f7", "undefined"),
        ("f820", "a simple value"),
        ("a2616201616100", "keys out of order"),
        ("a2616101616100", "a key twice"),
        ("a10000", "a key that is no text"),
        ("a26262620061610" + "0", "a longer key before a shorter one"),
        ("61ff", "a text that is not UTF-8"),
        ("0000", "bytes after the end"),
        ("", "nothing"),
        ("43aabb", "a byte string that ends early"),
        ("9b00000000ffffffff", "an array longer than the data"),
        ("bb00000000ffffffff", "a map longer than the data"),
        ("3bffffffffffffffff", "an integer below 64 bits"),
        ("81" * 17 + "00", "seventeen levels"),
        ("1c", "a reserved length"),
    ],
)
def test_refused(data, why):
    with pytest.raises(EncodingError):
        decode(bytes.fromhex(data))


def test_limits():
    assert decode(bytes.fromhex("81" * 16 + "00"))
    with pytest.raises(TooLarge):
        decode(b"\x40", max_bytes=0)
    for bad in (1.5, {1: 2}, (1,), object(), 1 << 64, -(1 << 63) - 1):
        with pytest.raises(EncodingError):
            encode(bad)


def test_tags_are_prefix_free():
    assert tagged_hash(b"ab", b"c") != tagged_hash(b"a", b"bc") != tagged_hash(b"", b"abc")
    assert tagged_hash(b"a", b"b", b"c") == tagged_hash(b"a", b"bc")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1.0}', b'{"a":1e3}', b'{"a":NaN}', b'{"a":"hex:AB"}', b'{"a":"hex:zz"}',
        b'{"a":"b64:YQ"}', b'{"a":"b64:YR=="}', b'{"a":"int:5"}', b'{"a":"int:007"}', b'{"a":9007199254740993}',
        b'{"a":"\\u0061"}', b'{"a":"text:plain"}', b'{"a":1,"a":1}', b'"\\ud800"', b"\xff", b"", b"[1,]", b'{"a":"hex:61"}', b'{"a":1}\n',
        b'{"a":"utf8:"}', b'"int:99999999999999999999999999"', b"[" * 100_000,
    ],
)  # fmt: skip
def test_json_that_is_not_the_one_form(text):
    with pytest.raises(EncodingError):
        from_json(text)


def test_json_is_what_people_expect():
    view = json.loads(to_json({"t": "x", "b": b"\x01\x02", "m": b'{"role":"user"}', "n": 1 << 60, "u": "hex:no"}))
    assert view == {"t": "x", "b": "hex:0102", "m": 'utf8:{"role":"user"}', "n": f"int:{1 << 60}", "u": "text:hex:no"}


@given(st.binary(max_size=50))
def test_base64url(data):
    text = base64url(data)
    assert from_base64url(text) == data
    for other in (text + "=", text + "A", " " + text):
        try:
            assert from_base64url(other) != data
        except EncodingError:
            pass


@pytest.mark.parametrize("text", ["YQ==", "YR", "a+b/", "a b", "é", "A"])
def test_base64url_refuses(text):
    with pytest.raises(EncodingError):
        from_base64url(text)
