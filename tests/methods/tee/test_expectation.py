"""What a reader expects of an attestation: each demand alone, and absent ones demand nothing."""

import pytest

from avow.methods.tee import errors
from avow.methods.tee.expectation import Expectation
from avow.methods.tee.verify import verify_attestation
from tests.methods.tee import builder
from tests.methods.tee.builder import NOW_MS

DOCUMENT = builder.document(public_key=b"key", user_data=b"data", nonce=b"nonce", timestamp=NOW_MS)
ATTESTATION = verify_attestation(DOCUMENT, roots=builder.roots(), now_ms=NOW_MS)
BARE = verify_attestation(builder.document(timestamp=NOW_MS), roots=builder.roots(), now_ms=NOW_MS)
OTHER = b"\x00" * 32


def test_nothing_expected_is_nothing_demanded():
    Expectation().check(ATTESTATION, now_ms=0)
    Expectation().check(BARE, now_ms=1 << 63)


def test_all_that_is_expected_is_found():
    Expectation(
        measurements=[OTHER, ATTESTATION.measurement],
        public_key=b"key",
        user_data=b"data",
        nonce=b"nonce",
        max_age_ms=10,
        max_ahead_ms=0,
    ).check(ATTESTATION, now_ms=NOW_MS + 10)


@pytest.mark.parametrize(
    ("expectation", "error"),
    [
        (Expectation(measurements=[]), errors.UnexpectedMeasurement),
        (Expectation(measurements=[OTHER]), errors.UnexpectedMeasurement),
        (Expectation(public_key=b"other"), errors.UnexpectedPublicKey),
        (Expectation(public_key=b""), errors.UnexpectedPublicKey),
        (Expectation(user_data=b"other"), errors.UnexpectedUserData),
        (Expectation(user_data=b""), errors.UnexpectedUserData),
        (Expectation(nonce=b"other"), errors.UnexpectedNonce),
        (Expectation(nonce=b""), errors.UnexpectedNonce),
    ],
)
@pytest.mark.parametrize("attestation", [ATTESTATION, BARE])
def test_something_else_is_refused(expectation, error, attestation):
    with pytest.raises(error):
        expectation.check(attestation, now_ms=NOW_MS)


def test_a_refusal_tells_expected_and_found():
    for attestation, found in ((ATTESTATION, b"key".hex()), (BARE, None)):
        with pytest.raises(errors.UnexpectedPublicKey) as refused:
            Expectation(public_key=b"other").check(attestation, now_ms=NOW_MS)
        assert refused.value.fields == {"expected": b"other".hex(), "found": found}


def test_age_is_judged_to_the_millisecond():
    young = Expectation(max_age_ms=1000)
    young.check(ATTESTATION, now_ms=NOW_MS + 1000)
    young.check(ATTESTATION, now_ms=NOW_MS - 5000)
    with pytest.raises(errors.StaleAttestation):
        young.check(ATTESTATION, now_ms=NOW_MS + 1001)
    past = Expectation(max_ahead_ms=1000)
    past.check(ATTESTATION, now_ms=NOW_MS - 1000)
    past.check(ATTESTATION, now_ms=NOW_MS + 5000)
    with pytest.raises(errors.FutureAttestation):
        past.check(ATTESTATION, now_ms=NOW_MS - 1001)
    with pytest.raises(errors.StaleAttestation):
        Expectation(max_age_ms=0).check(ATTESTATION, now_ms=NOW_MS + 1)
    with pytest.raises(errors.FutureAttestation):
        Expectation(max_ahead_ms=0).check(ATTESTATION, now_ms=NOW_MS - 1)
