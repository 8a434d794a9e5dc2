"""The ABI codec against eth-abi, which others wrote; and its strictness against everything else."""

import eth_abi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.chain import abi
from avow.errors import EncodingError

ELEMENTS = {
    "address": st.binary(min_size=20, max_size=20),
    "bool": st.booleans(),
    "uint8": st.integers(0, 255),
    "uint64": st.integers(0, (1 << 64) - 1),
    "uint256": st.integers(0, (1 << 256) - 1),
    "bytes4": st.binary(min_size=4, max_size=4),
    "bytes32": st.binary(min_size=32, max_size=32),
    "bytes": st.binary(max_size=70),
    "string": st.text(max_size=40),
}
KINDS = ELEMENTS | {f"{kind}[]": st.lists(values, max_size=4) for kind, values in ELEMENTS.items()}


@st.composite
def typed(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), max_size=5))
    return kinds, [draw(KINDS[kind]) for kind in kinds]


def ours(kind, value):
    """eth-abi gives addresses as texts and lists as tuples."""
    if kind.endswith("[]"):
        return [ours(kind[:-2], item) for item in value]
    return bytes.fromhex(value[2:]) if kind == "address" else value


@given(typed())
def test_same_bytes_as_eth_abi(case):
    kinds, items = case
    encoded = abi.encode(kinds, items)
    assert encoded == eth_abi.encode(kinds, items)
    assert abi.decode(kinds, encoded) == items
    decoded = eth_abi.decode(kinds, encoded)
    assert [ours(kind, value) for kind, value in zip(kinds, decoded, strict=True)] == items


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=4), st.binary(max_size=400))
def test_any_bytes_are_the_one_encoding_or_refused(kinds, data):
    try:
        items = abi.decode(kinds, data)
    except EncodingError:
        return
    assert abi.encode(kinds, items) == data


@given(typed(), st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_means_something_else(case, place, bit):
    kinds, items = case
    data = bytearray(abi.encode(kinds, items))
    if not data:
        return
    data[place % len(data)] ^= 1 << bit
    try:
        found = abi.decode(kinds, bytes(data))
    except EncodingError:
        return
    assert found != items


WORD = (32).to_bytes(32)


@pytest.mark.parametrize(
    ("kinds", "data"),
    [
        (["bytes"], (64).to_bytes(32) + bytes(32) + bytes(32)),  # a gap before the tail
        (["bytes"], WORD + (1).to_bytes(32) + b"ab" + bytes(30)),  # padding is not zero
        (["bytes"], WORD + (1 << 255).to_bytes(32)),
        (["bytes"], WORD),
        (["uint8"], (256).to_bytes(32)),
        (["bool"], (2).to_bytes(32)),
        (["address"], (1 << 160).to_bytes(32)),
        (["bytes4"], bytes(31) + b"\x01"),
        (["string"], WORD + (1).to_bytes(32) + b"\xff" + bytes(31)),
        (["uint256[]"], WORD + (1 << 64).to_bytes(32)),
        (["uint256"], bytes(31)),
        (["uint256"], bytes(33)),
        ([], b"\x00"),
    ],
)
def test_other_encodings_are_refused(kinds, data):
    with pytest.raises(EncodingError):
        abi.decode(kinds, data)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("bool", 1),
        ("address", bytes(19)),
        ("bytes32", bytes(31)),
        ("bytes", "text"),
        ("string", 5),
        ("uint8[]", (1,)),
    ],
)
def test_values_must_fit(kind, value):
    with pytest.raises(EncodingError):
        abi.encode([kind], [value])


@pytest.mark.parametrize(
    "kind", ["int256", "uint", "uint7", "uint264", "bytes33", "bytes0", "tuple", "uint08", "uint256[2]"]
)
def test_other_types_are_refused(kind):
    with pytest.raises(EncodingError):
        abi.check_type(kind)
