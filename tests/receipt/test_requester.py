"""Requests signed by an account: checked against the Ethereum project's own signer, and against tampering."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import AvowError, EncodingError
from avow.receipt.requester import (
    BadRequester,
    Requester,
    eip155_chain_id,
    keccak256,
    request_digest,
    sign_request,
    typed_data,
)

CHAIN = "avow-0123456789abcdef"
KEY = bytes(31) + b"\x07"
COMMITMENT = bytes(range(32))
NONCE = b"nonce-of-caller"


def test_the_hash_is_ethereums():
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@given(st.binary(max_size=500))
def test_both_implementations_of_the_hash_agree(data):
    from Crypto.Hash import keccak

    assert keccak256(data) == keccak.new(digest_bits=256, data=data).digest()


def test_chain_number_is_the_first_52_bits():
    assert eip155_chain_id(CHAIN) == 0x0123456789ABC
    assert eip155_chain_id("avow-" + "f" * 16) == (1 << 52) - 1
    for wrong in (
        "",
        "avow-",
        "avow-0123456789abcde",
        "avow-0123456789abcdeg",
        "x" + CHAIN,
        CHAIN + "0",
        "avow-0123456789ABCDEF",
    ):
        with pytest.raises(EncodingError):
            eip155_chain_id(wrong)


def test_the_digest_and_signature_are_those_of_eth_account():
    account = pytest.importorskip("eth_account")
    messages = pytest.importorskip("eth_account.messages")
    message = messages.encode_typed_data(full_message=typed_data(CHAIN, COMMITMENT, "tee", NONCE))
    signed = account.Account.sign_message(message, KEY)
    ours = sign_request(KEY, CHAIN, COMMITMENT, "tee", NONCE)
    assert signed.message_hash == request_digest(CHAIN, COMMITMENT, "tee", NONCE)
    assert bytes(signed.signature) == ours.signature
    assert account.Account.from_key(KEY).address.lower() == "0x" + ours.address.hex()


def test_a_signature_counts_for_its_request_alone():
    signed = sign_request(KEY, CHAIN, COMMITMENT, "tee", NONCE)
    signed.verify(CHAIN, COMMITMENT, "tee", NONCE)
    others = [
        ("avow-fedcba9876543210", COMMITMENT, "tee", NONCE),
        (CHAIN, bytes(32), "tee", NONCE),
        (CHAIN, COMMITMENT, "vanilla", NONCE),
        (CHAIN, COMMITMENT, "tee", NONCE + b"x"),
    ]
    for other in others:
        with pytest.raises(BadRequester):
            signed.verify(*other)


def test_one_form_of_a_signature():
    signed = sign_request(KEY, CHAIN, COMMITMENT, "tee", NONCE)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = (order - int.from_bytes(signed.signature[32:64])).to_bytes(32)
    flipped = signed.signature[:32] + high + bytes((55 - signed.signature[64],))
    for signature in (flipped, signed.signature[:64], signed.signature[:64] + b"\x00", bytes(64) + b"\x1b"):
        with pytest.raises(BadRequester):
            Requester(signed.address, signature).verify(CHAIN, COMMITMENT, "tee", NONCE)


def test_header_round_trip():
    signed = sign_request(KEY, CHAIN, COMMITMENT, "vanilla", NONCE)
    assert Requester.from_header(signed.to_header()) == signed
    with pytest.raises(EncodingError):
        Requester.from_header(signed.to_header()[:-4])


@settings(max_examples=150)
@given(st.text(max_size=130), st.binary(max_size=90))
def test_any_header_is_read_or_refused(text, data):
    for value in (text, Requester(data[:20], data[20:]).to_header()):
        try:
            Requester.from_header(value).verify(CHAIN, COMMITMENT, "tee", NONCE)
        except AvowError:
            continue
        raise AssertionError("a made-up signature was accepted")
