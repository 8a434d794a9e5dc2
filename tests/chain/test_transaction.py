"""Transactions against the EIP's own example and against eth-account, which others wrote."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain import rlp
from avow.chain.errors import Code, TransactionRefused
from avow.chain.transaction import (
    MAX_TRANSACTION,
    SECP256K1_ORDER,
    TransactionType,
    address_of_private_key,
    decode_transaction,
    sign_transaction,
    transaction_hash,
)
from tests.recursion import kept

with kept():
    from eth_account import Account

CHAIN = 1_778_782_931_907_537
KEY = bytes.fromhex("46" * 32)
TO = bytes.fromhex("35" * 20)


def signed(**changes) -> bytes:
    fields = {"chain_id": CHAIN, "nonce": 3, "gas_limit": 21_000, "to": TO, "max_fee": 10**9, "value": 5, "data": b"ab"}
    return sign_transaction(KEY, **(fields | changes))


def refusal(raw: bytes, chain_id: int = CHAIN) -> Code:
    with pytest.raises(TransactionRefused) as caught:
        decode_transaction(raw, chain_id)
    return caught.value.status


def test_example_of_eip_155():
    raw = bytes.fromhex(
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe53"
        "7567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )
    transaction = decode_transaction(raw, 1)
    assert transaction.kind is TransactionType.LEGACY
    assert transaction.sender == address_of_private_key(KEY)
    assert (transaction.nonce, transaction.max_fee, transaction.gas_limit) == (9, 20 * 10**9, 21_000)
    assert (transaction.to, transaction.value, transaction.data, transaction.v) == (TO, 10**18, b"", 37)
    assert transaction_hash(raw).hex() == "33469b22e9f636356c4160a87eb19df52b7412e8eac32a4a55ffe88ea8350788"
    assert refusal(raw, 2) is Code.WRONG_CHAIN


@given(
    nonce=st.integers(0, (1 << 64) - 2),
    fee=st.integers(0, 1 << 90),
    tip=st.integers(0, 1 << 90),
    gas=st.integers(0, (1 << 64) - 1),
    value=st.integers(0, 1 << 200),
    data=st.binary(max_size=200),
    legacy=st.booleans(),
    keys=st.lists(st.binary(min_size=32, max_size=32), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_eth_account_signs_what_we_decode(nonce, fee, tip, gas, value, data, legacy, keys):
    tip = min(tip, fee)
    body = {"nonce": nonce, "gas": gas, "to": "0x" + TO.hex(), "value": value, "data": data, "chainId": CHAIN}
    if legacy:
        body["gasPrice"] = fee
    else:
        body |= {"maxFeePerGas": fee, "maxPriorityFeePerGas": tip, "type": 2}
        body["accessList"] = [{"address": "0x" + TO.hex(), "storageKeys": ["0x" + key.hex() for key in keys]}]
    made = Account.sign_transaction(body, KEY)
    raw = bytes(made.raw_transaction)
    found = decode_transaction(raw, CHAIN)
    assert found.sender == address_of_private_key(KEY)
    assert transaction_hash(raw) == bytes(made.hash)
    assert (found.nonce, found.gas_limit, found.to, found.value, found.data) == (nonce, gas, TO, value, data)
    assert found.max_fee == fee
    assert found.max_priority_fee == (fee if legacy else tip)
    assert (found.v, found.r, found.s) == (made.v, made.r, made.s)
    assert found.access_list == (() if legacy else ((TO, tuple(keys)),))


def test_what_we_sign_eth_account_recovers():
    raw = signed()
    assert Account.recover_transaction(raw) == Account.from_key(KEY).address
    assert decode_transaction(raw, CHAIN).sender == address_of_private_key(KEY)


def resign(**changes) -> bytes:
    """A type 2 transaction whose signature fields were changed after signing."""
    fields = rlp.decode(signed()[1:])
    for index, value in changes.items():
        fields[int(index.removeprefix("f"))] = value
    return b"\x02" + rlp.encode(fields)


def test_high_s_is_refused():
    found = decode_transaction(signed(), CHAIN)
    twin = resign(f9=rlp.integer(1 - found.y_parity), f11=rlp.integer(SECP256K1_ORDER - found.s))
    assert refusal(twin) is Code.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", Code.MALFORMED),
        (b"\x01\xc0", Code.MALFORMED),
        (b"\x03\xc0", Code.MALFORMED),
        (b"\x02", Code.MALFORMED),
        (b"\x02\xc0", Code.MALFORMED),
        (b"\x02\x80", Code.MALFORMED),
        (signed() + b"\x00", Code.MALFORMED),
        (signed()[:-1], Code.MALFORMED),
        (bytes(MAX_TRANSACTION + 1), Code.TOO_LARGE),
        (signed(chain_id=CHAIN + 1), Code.WRONG_CHAIN),
        (signed(to=b""), Code.NO_CREATION),
        (signed(max_fee=1, max_priority_fee=2), Code.MALFORMED),
        (signed(nonce=(1 << 64) - 1), Code.MALFORMED),
        (signed(gas_limit=1 << 64), Code.MALFORMED),
        (signed(value=1 << 256), Code.MALFORMED),
        (signed(gas_limit=1 << 63, max_fee=1 << 200), Code.MALFORMED),
        (resign(f9=b"\x02"), Code.MALFORMED),
        (resign(f9=b"\x00"), Code.MALFORMED),
        (resign(f10=b""), Code.BAD_SIGNATURE),
        (resign(f11=b""), Code.BAD_SIGNATURE),
        (resign(f10=rlp.integer(SECP256K1_ORDER)), Code.BAD_SIGNATURE),
        (resign(f10=b"\x00" + bytes(31)), Code.MALFORMED),
        (resign(f5=TO[:19]), Code.MALFORMED),
        (resign(f5=[TO]), Code.MALFORMED),
        (resign(f8=b""), Code.MALFORMED),
        (resign(f8=[TO]), Code.MALFORMED),
        (resign(f8=[[TO, [b"short"]]]), Code.MALFORMED),
        (resign(f8=[[TO, [bytes(32)] * 2000]]), Code.MALFORMED),
    ],
)
def test_refusals(raw, code):
    assert refusal(raw) is code


def test_legacy_without_chain_is_refused():
    body = {"nonce": 0, "gas": 21000, "to": "0x" + TO.hex(), "value": 0, "data": b"", "gasPrice": 1}
    raw = bytes(Account.sign_transaction(body, KEY).raw_transaction)
    assert refusal(raw) is Code.WRONG_CHAIN


@given(st.binary(max_size=400))
def test_any_bytes_are_a_transaction_or_refused(data):
    try:
        decode_transaction(data, CHAIN)
    except TransactionRefused:
        pass


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(deadline=None)
def test_no_flipped_bit_keeps_the_sender(place, bit):
    raw = bytearray(signed())
    raw[place % len(raw)] ^= 1 << bit
    try:
        found = decode_transaction(bytes(raw), CHAIN)
    except TransactionRefused:
        return
    assert found.sender != address_of_private_key(KEY)
