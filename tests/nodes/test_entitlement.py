"""Signatures of who asks for openings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.errors import AvowError, EncodingError
from avow.nodes.entitlement import MAX_AGE_MS, Asker, BadAsker, sign_question
from avow.receipt.encoding import base64url

KEY = bytes(range(1, 33))
CHAIN = "avow-0123456789abcdef"
RECEIPT = bytes(32)
NOW_MS = 1_800_000_000_000
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_who_signed_is_who_asks():
    asker = sign_question(KEY, CHAIN, RECEIPT, NOW_MS)
    asker.verify(CHAIN, RECEIPT, NOW_MS)
    asker.verify(CHAIN, RECEIPT, NOW_MS + MAX_AGE_MS)
    assert Asker.from_header(asker.to_header()) == asker


@pytest.mark.parametrize(
    "changed",
    [
        lambda asker: (asker, "avow-fedcba9876543210", RECEIPT, NOW_MS),
        lambda asker: (asker, CHAIN, bytes(31) + b"\x01", NOW_MS),
        lambda asker: (asker, CHAIN, RECEIPT, NOW_MS + MAX_AGE_MS + 1),
        lambda asker: (asker, CHAIN, RECEIPT, NOW_MS - MAX_AGE_MS - 1),
        lambda asker: (Asker(bytes(20), asker.signature, asker.time_ms), CHAIN, RECEIPT, NOW_MS),
        lambda asker: (Asker(asker.address, asker.signature, asker.time_ms + 1), CHAIN, RECEIPT, NOW_MS),
        lambda asker: (Asker(asker.address, asker.signature[:64] + b"\x00", asker.time_ms), CHAIN, RECEIPT, NOW_MS),
        lambda asker: (Asker(asker.address, bytes(64) + b"\x1b", asker.time_ms), CHAIN, RECEIPT, NOW_MS),
    ],
)
def test_another_network_receipt_account_time_or_signature_is_refused(changed):
    asker, *question = changed(sign_question(KEY, CHAIN, RECEIPT, NOW_MS))
    with pytest.raises(BadAsker):
        asker.verify(*question)


def test_the_other_form_of_a_signature_is_refused():
    asker = sign_question(KEY, CHAIN, RECEIPT, NOW_MS)
    s = int.from_bytes(asker.signature[32:64])
    high = asker.signature[:32] + (ORDER - s).to_bytes(32) + bytes((55 - asker.signature[64],))
    with pytest.raises(BadAsker):
        Asker(asker.address, high, asker.time_ms).verify(CHAIN, RECEIPT, NOW_MS)


@given(st.binary(max_size=120))
def test_other_lengths_are_no_asker(data):
    if len(data) == 93:
        assert Asker.from_bytes(data).to_bytes() == data
    else:
        with pytest.raises(EncodingError):
            Asker.from_bytes(data)


@given(st.binary(min_size=93, max_size=93) | st.text(max_size=200).map(str.encode))
def test_nothing_else_is_taken_for_a_signature(data):
    try:
        asker = Asker.from_header(base64url(data))
        asker.verify(CHAIN, RECEIPT, asker.time_ms)
    except AvowError:
        return
    raise AssertionError("random bytes are a signature")
