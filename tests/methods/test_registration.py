"""The digest that binds a key to chain, operator, transport key and block."""

import hashlib

import cbor2
import pytest

from avow.methods.registration import BadRegistration, registration_digest

PARTS = {
    "chain_id": "avow-0123456789abcdef",
    "operator": b"o" * 20,
    "signing_key": b"\x04" + b"s" * 64,
    "transport_key": b"\x04" + b"t" * 64,
    "block_hash": b"b" * 32,
}
OTHERS = {
    "chain_id": "avow-0123456789abcdee",
    "operator": b"p" * 20,
    "signing_key": b"\x04" + b"S" * 64,
    "transport_key": b"\x04" + b"T" * 64,
    "block_hash": b"c" * 32,
}


def test_it_is_the_tagged_hash_of_the_five_in_order():
    content = cbor2.dumps(list(PARTS.values()))
    assert registration_digest(**PARTS) == hashlib.sha256(b"\x13avow/registration/1" + content).digest()


def test_a_vector():
    assert registration_digest(**PARTS).hex() == "7ac12010bc01b97ed14e1888c12ae66e3a60769ad0b46524fe0b4ffb7c11a110"


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_it(part):
    assert registration_digest(**PARTS | {part: OTHERS[part]}) != registration_digest(**PARTS)


def test_keys_do_not_trade_places():
    swapped = PARTS | {"signing_key": PARTS["transport_key"], "transport_key": PARTS["signing_key"]}
    assert registration_digest(**swapped) != registration_digest(**PARTS)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("chain_id", ""),
        ("chain_id", "a" * 65),
        ("operator", b"o" * 19),
        ("operator", b"o" * 21),
        ("signing_key", b"\x04" + b"s" * 63),
        ("signing_key", b"\x02" + b"s" * 64),
        ("signing_key", b""),
        ("transport_key", b"\x04" + b"t" * 65),
        ("transport_key", b"\x03" + b"t" * 64),
        ("block_hash", b"b" * 31),
        ("block_hash", b"b" * 33),
    ],
)
def test_a_part_out_of_its_size_is_refused(part, value):
    with pytest.raises(BadRegistration) as refused:
        registration_digest(**PARTS | {part: value})
    assert refused.value.fields["field"] == part


@pytest.mark.parametrize("chain_id", ["a", "a" * 64])
def test_a_chain_id_at_its_limits_is_accepted(chain_id):
    assert len(registration_digest(**PARTS | {"chain_id": chain_id})) == 32
