"""The payer's consent, against eth-account's own EIP-712."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.receipt.authorisation import Authorisation, BadAuthorisation
from avow.receipt.requester import address_of
from tests.recursion import kept

with kept():
    from coincurve import PrivateKey
    from eth_account import Account
    from eth_account.messages import encode_typed_data

NODE = b"\x22" * 20
CHAIN = "avow-0123456789abcdef"
KEY = bytes.fromhex("46" * 32)
ADDRESS = address_of(PrivateKey(KEY).public_key.format(compressed=False))
MESSAGE = Authorisation(NODE, b"\x11" * 32, 10**18, 1_800_000_000_000, 7)


@given(
    request=st.binary(min_size=32, max_size=32),
    amount=st.integers(0, (1 << 256) - 1),
    expiry_ms=st.integers(0, (1 << 64) - 1),
    nonce=st.integers(0, (1 << 64) - 1),
)
@settings(max_examples=40, deadline=None)
def test_wallets_sign_the_same(request, amount, expiry_ms, nonce):
    message = Authorisation(NODE, request, amount, expiry_ms, nonce)
    typed = encode_typed_data(full_message=message.typed_data(CHAIN))
    theirs = bytes(Account.sign_message(typed, KEY).signature)
    assert theirs == message.sign(KEY, CHAIN)
    assert message.signer(CHAIN, theirs) == ADDRESS


@pytest.mark.parametrize(
    "other",
    [
        Authorisation(b"\x23" * 20, b"\x11" * 32, 10**18, 1_800_000_000_000, 7),
        Authorisation(NODE, b"\x12" * 32, 10**18, 1_800_000_000_000, 7),
        Authorisation(NODE, b"\x11" * 32, 10**18 + 1, 1_800_000_000_000, 7),
        Authorisation(NODE, b"\x11" * 32, 10**18, 1_800_000_000_001, 7),
        Authorisation(NODE, b"\x11" * 32, 10**18, 1_800_000_000_000, 8),
    ],
)
def test_another_message_has_another_signer(other):
    assert other.signer(CHAIN, MESSAGE.sign(KEY, CHAIN)) != ADDRESS


def test_another_chain_has_another_signer():
    assert MESSAGE.signer("avow-1123456789abcdef", MESSAGE.sign(KEY, CHAIN)) != ADDRESS


def test_signatures_have_one_form():
    good = MESSAGE.sign(KEY, CHAIN)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = good[:32] + (order - int.from_bytes(good[32:64])).to_bytes(32) + bytes((55 - good[64],))
    for bad in (b"", good[:64], good + b"\x00", good[:64] + b"\x00", good[:64] + b"\x1d", high, bytes(64) + b"\x1b"):
        with pytest.raises(BadAuthorisation):
            MESSAGE.signer(CHAIN, bad)
