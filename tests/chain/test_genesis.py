from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.chain.errors import BadGenesis
from avow.chain.genesis import AllowedMeasurement, Genesis
from avow.receipt.encoding import decode, encode

GENESIS = Genesis(
    time_ms=1_800_000_000_000,
    governance=b"\x01" * 20,
    treasury=b"\x02" * 20,
    accounts=((b"\x03" * 20, 10**18), (b"\x04" * 20, 5)),
    validators=((b"\x05" * 32, 1),),
    attestation_roots=(b"certificate",),
    measurements=(
        AllowedMeasurement(b"\x06" * 32, None, 0, None),
        AllowedMeasurement(b"\x07" * 32, b"\x08" * 32, 1, 2),
    ),
)


def test_it_comes_back_and_names_itself():
    assert Genesis.from_bytes(GENESIS.to_bytes()) == GENESIS
    assert GENESIS.chain_id.startswith("avow-")
    assert len(GENESIS.chain_id) == 21
    assert GENESIS.eip155 == int(GENESIS.chain_id[5:], 16) >> 12 < 1 << 52


def test_every_rule_is_in_the_name():
    names = {GENESIS.chain_id}
    changes = [
        {field: getattr(GENESIS, field) + 1}
        for field in Genesis.__dataclass_fields__
        if isinstance(getattr(GENESIS, field), int)
    ]
    changes += [
        {"governance": bytes(20)},
        {"treasury": bytes(20)},
        {"accounts": ()},
        {"validators": ()},
        {"attestation_roots": ()},
        {"measurements": ()},
    ]
    rules = GENESIS.optimistic
    changes += [
        {"optimistic": replace(rules, **{field: getattr(rules, field) + 1})}
        for field in type(rules).__dataclass_fields__
        if field != "watchers"
    ]
    changes.append({"optimistic": replace(rules, watchers=(bytes(20),))})
    for change in changes:
        names.add(replace(GENESIS, **change).chain_id)
    assert len(names) == len(changes) + 1


def changed(**changes) -> bytes:
    return encode(decode(GENESIS.to_bytes()) | changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa0",
        GENESIS.to_bytes() + b"\x00",
        changed(chain_id="avow-0000000000000000"),
        changed(base_fee=2),
        changed(base_fee=-1),
        changed(version=2),
        changed(extra=1),
        changed(governance=bytes(19)),
        changed(accounts=[[b"\x04" * 20, bytes(16)], [b"\x03" * 20, bytes(16)]]),
        changed(accounts=[[b"\x04" * 20, bytes(16)], [b"\x04" * 20, bytes(16)]]),
        changed(accounts=[[b"\x03" * 20, b"\xff" * 16], [b"\x04" * 20, b"\xff" * 16]]),
        changed(accounts=[[b"\x03" * 20]]),
        changed(validators=[[b"\x03" * 31, 1]]),
        changed(measurements=[[bytes(32), None, 0]]),
        changed(attestation_roots=[b""]),
        changed(optimistic=None),
        changed(optimistic=GENESIS.optimistic.to_value() | {"window_ms": 0}),
        changed(optimistic=GENESIS.optimistic.to_value() | {"audit_ppm": 1_000_001}),
        changed(optimistic=GENESIS.optimistic.to_value() | {"bond_floor": bytes(15)}),
        changed(optimistic=GENESIS.optimistic.to_value() | {"extra": 1}),
        changed(optimistic=GENESIS.optimistic.to_value() | {"watchers": [bytes(19)]}),
        changed(optimistic=GENESIS.optimistic.to_value() | {"watchers": [bytes(20), bytes(20)]}),
    ],
)
def test_what_is_no_genesis(data):
    with pytest.raises(BadGenesis):
        Genesis.from_bytes(data)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(place, bit):
    data = bytearray(GENESIS.to_bytes())
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(BadGenesis):
        Genesis.from_bytes(bytes(data))
