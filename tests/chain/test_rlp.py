import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.chain import rlp
from avow.errors import EncodingError

items = st.recursive(st.binary(max_size=80), lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def depth(item):
    return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0


@pytest.mark.parametrize(
    ("item", "encoded"),
    [  # Ethereum's wiki, "RLP", examples
        (b"dog", "83646f67"),
        ([b"cat", b"dog"], "c88363617483646f67"),
        (b"", "80"),
        ([], "c0"),
        (b"\x00", "00"),
        (b"\x0f", "0f"),
        (b"\x04\x00", "820400"),
        ([[], [[]], [[], [[]]]], "c7c0c1c0c3c0c1c0"),
        (
            b"Lorem ipsum dolor sit amet, consectetur adipisicing elit",
            "b8384c6f72656d20697073756d20646f6c6f722073697420616d65742c20636f6e7365637465747572206164697069736963696e6720656c6974",
        ),
    ],
)
def test_published_examples(item, encoded):
    assert rlp.encode(item).hex() == encoded
    assert rlp.decode(bytes.fromhex(encoded)) == item


@given(items)
def test_what_is_encoded_decodes(item):
    if depth(item) <= rlp.MAX_DEPTH:
        assert rlp.decode(rlp.encode(item)) == item


@given(st.binary(max_size=300))
def test_every_input_has_one_encoding_or_is_refused(data):
    try:
        item = rlp.decode(data)
    except EncodingError:
        return
    assert rlp.encode(item) == data


@pytest.mark.parametrize(
    "data",
    [
        "",
        "8100",  # a prefix before a single small byte
        "b800",
        "b837" + "00" * 55,  # long form where the short one fits
        "b90038" + "00" * 56,  # leading zero in a length
        "83646f",  # truncated
        "c88363617483646f6700",  # after the end
        "f800",
        "bfffffffffffffffff",
        "c3820400" + "00",
        "c1" * 40 + "c0",
    ],
)
def test_other_encodings_are_refused(data):
    with pytest.raises(EncodingError):
        rlp.decode(bytes.fromhex(data))


@pytest.mark.parametrize("item", [b"\x00", b"\x00\x01", [], b"\x01" * 9])
def test_integers_have_one_form(item):
    with pytest.raises(EncodingError):
        rlp.to_integer(item, 8)


@given(st.integers(min_value=0, max_value=(1 << 256) - 1))
def test_integers(number):
    assert rlp.to_integer(rlp.integer(number), 32) == number


@given(st.lists(items, max_size=6), st.integers(0, 6))
def test_the_first_items_are_the_list_cut_short(item, count):
    if depth(item) <= rlp.MAX_DEPTH and count <= len(item):
        assert rlp.first_items(rlp.encode(item), count) == rlp.encode(item[:count])
