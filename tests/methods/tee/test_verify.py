"""The whole check: generated documents rule by rule, and recorded ones with the right verdict for the right reason."""

import hashlib

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.methods.tee import errors, roots, verify
from avow.methods.tee.document import low_s_form, parse_frame, parse_payload
from avow.methods.tee.verify import measurement_of, verify_attestation
from avow.receipt.encoding import encode, tagged_hash
from tests.methods.tee import builder
from tests.methods.tee.builder import CHAIN, NOW_MS, SHORT, with_plan
from tests.methods.tee.test_document import MALLEABILITIES

DEBUG_PCRS = builder.PCRS | {0: bytes(48), 1: bytes(48), 2: bytes(48)}


def check(document, *, plans=CHAIN, now_ms=NOW_MS, **options):
    return verify_attestation(document, roots=builder.roots(plans), now_ms=now_ms, **options)


@pytest.mark.parametrize("indefinite", [True, False])
@pytest.mark.parametrize("plans", [CHAIN, SHORT], ids=["five", "two"])
def test_a_document_that_holds_says_what_it_attests(plans, indefinite):
    document = builder.document(plans, indefinite=indefinite, public_key=b"k" * 65, user_data=b"u" * 32)
    attestation = check(document, plans=plans)
    payload = document[10:-98]
    assert attestation.module_id == "i-0123456789abcdef0-enc0123456789abcdef"
    assert attestation.timestamp_ms == NOW_MS - 1000
    assert attestation.pcrs == builder.PCRS
    assert (attestation.public_key, attestation.user_data, attestation.nonce) == (b"k" * 65, b"u" * 32, None)
    assert attestation.payload_hash == tagged_hash(b"avow/attestation/1", payload)
    assert attestation.root_fingerprint == hashlib.sha256(builder.roots(plans)[0]).digest()
    assert (attestation.valid_from_ms, attestation.valid_until_ms) == (NOW_MS - builder.DAY_MS, NOW_MS + builder.DAY_MS)
    assert attestation.debug is False
    assert attestation.hardware is False


def test_a_measurement_is_its_three_registers_together():
    document = builder.document()
    expected = tagged_hash(b"avow/measurement/1", encode(["nitro", b"\xa0" * 48, b"\xa1" * 48, b"\xa2" * 48]))
    assert check(document).measurement == expected
    seen = {expected}
    for index in (0, 1, 2):
        other = measurement_of(builder.PCRS | {index: b"\xff" * 48})
        assert other not in seen
        seen.add(other)
    swapped = builder.PCRS | {0: builder.PCRS[1], 1: builder.PCRS[0]}
    assert measurement_of(swapped) not in seen
    assert measurement_of(builder.PCRS | {3: b"\xff" * 48, 8: b""}) == expected


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_document_without_a_measured_register_is_refused(index):
    pcrs = {at: value for at, value in builder.PCRS.items() if at != index}
    with pytest.raises(errors.MissingField) as refused:
        check(builder.document(pcrs=pcrs))
    assert refused.value.fields == {"field": "pcrs", "index": index}


@pytest.mark.parametrize("way", MALLEABILITIES)
def test_another_spelling_of_a_document_is_refused(way):
    respell, code = MALLEABILITIES[way]
    with pytest.raises(errors.AttestationError) as refused:
        check(respell(builder.document()))
    assert refused.value.code == code


def test_the_high_s_is_refused_and_its_low_form_accepted():
    high = builder.document(high_s=True)
    with pytest.raises(errors.HighS):
        check(high)
    assert check(low_s_form(high)) == check(builder.flip_s(high))
    low = builder.document()
    check(low)
    with pytest.raises(errors.HighS):
        check(builder.flip_s(low))


def test_the_low_half_ends_at_half_the_order(monkeypatch):
    monkeypatch.setattr(verify, "_signed", lambda _certificate, _frame: True)
    frame = builder.document()[:-48]
    check(frame + (builder.ORDER // 2).to_bytes(48))
    with pytest.raises(errors.HighS):
        check(frame + (builder.ORDER // 2 + 1).to_bytes(48))


def test_debug_mode_is_refused_unless_allowed():
    document = builder.document(pcrs=DEBUG_PCRS)
    with pytest.raises(errors.DebugMode):
        check(document)
    assert check(document, allow_debug=True).debug is True


@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_measured_register_that_is_not_zero_is_no_debug_mode(index):
    attestation = check(builder.document(pcrs=DEBUG_PCRS | {index: bytes(47) + b"\x01"}))
    assert attestation.debug is False


def test_a_register_that_is_not_measured_does_not_hide_debug_mode():
    with pytest.raises(errors.DebugMode):
        check(builder.document(pcrs=DEBUG_PCRS | dict.fromkeys(range(3, 32), b"\xff" * 48)))


def test_a_signature_by_another_key_is_refused():
    for signer in ("instance", "root", "elsewhere"):
        with pytest.raises(errors.BadSignature):
            check(builder.document(signer=signer))


def test_a_signature_over_another_payload_or_header_is_refused():
    signed = builder.payload()
    other = builder.payload(nonce=b"other")
    with pytest.raises(errors.BadSignature):
        check(builder.frame(signed, builder.sign(other)))
    with pytest.raises(errors.BadSignature):
        check(builder.frame(signed, builder.sign(signed, protected=b"\xa1\x01\x26")))


@pytest.mark.parametrize("r_and_s", [(0, 0), (0, 1), (1, 0), (1, 1), (builder.ORDER, 1), (2**384 - 1, 2**384 - 1)])
def test_a_signature_out_of_range_is_refused(r_and_s):
    r, s = r_and_s
    with pytest.raises(errors.BadSignature):
        check(builder.frame(builder.payload(), r.to_bytes(48) + s.to_bytes(48)))


def test_the_payload_and_the_chain_are_checked():
    with pytest.raises(errors.UnknownField):
        check(builder.document(other=1))
    with pytest.raises(errors.UntrustedRoot):
        verify_attestation(builder.document(), roots=builder.roots(with_plan(0, subject="other")), now_ms=NOW_MS)
    with pytest.raises(errors.CertificateExpired):
        check(builder.document(), now_ms=NOW_MS + builder.DAY_MS + 1)
    expired = with_plan(4, not_after_ms=NOW_MS - 1000)
    with pytest.raises(errors.CertificateExpired):
        check(builder.document(expired), plans=expired)


def test_the_order_of_the_rules():
    """Each document breaks a rule and all later ones that it can; the earlier rule is the reason."""
    expired = with_plan(4, not_after_ms=NOW_MS - 1000)
    bad = builder.flip_s(builder.document(expired, signer="elsewhere", pcrs=DEBUG_PCRS))
    with pytest.raises(errors.UntrustedRoot):
        verify_attestation(bad, roots=[], now_ms=NOW_MS)
    with pytest.raises(errors.CertificateExpired):
        check(bad, plans=expired)
    with pytest.raises(errors.BadSignature):
        check(builder.flip_s(builder.document(signer="elsewhere", pcrs=DEBUG_PCRS)))
    with pytest.raises(errors.DebugMode):
        check(builder.flip_s(builder.document(pcrs=DEBUG_PCRS)))
    with pytest.raises(errors.UnknownField):
        check(builder.document(expired, signer="elsewhere", other=1), plans=CHAIN)


def test_no_changed_bit_is_accepted():
    document = builder.document(SHORT)
    check(document, plans=SHORT)
    for at in range(len(document)):
        changed = bytearray(document)
        changed[at] ^= 1 << (at * 5 % 8)
        with pytest.raises(errors.AttestationError):
            check(bytes(changed), plans=SHORT)


@settings(max_examples=200)
@given(st.data())
def test_no_change_is_accepted(data):
    document = builder.document(SHORT)
    at = data.draw(st.integers(0, len(document)))
    changed = document[:at] + data.draw(st.binary(max_size=4)) + document[at + data.draw(st.integers(0, 4)) :]
    if changed == document:
        return
    with pytest.raises(errors.AttestationError):
        check(changed, plans=SHORT)


def test_what_is_remembered_does_not_pass_for_something_else():
    document = builder.document(nonce=b"one")
    other = builder.document(nonce=b"two")
    assert check(document) == check(document)
    with pytest.raises(errors.BadSignature):
        check(builder.frame(other[10:-98], document[-96:]))
    with pytest.raises(errors.BadSignature):
        check(builder.frame(document[10:-98], other[-96:]))
    with pytest.raises(errors.UntrustedRoot):
        verify_attestation(document, roots=[], now_ms=NOW_MS)
    with pytest.raises(errors.CertificateExpired):
        check(document, now_ms=NOW_MS + builder.DAY_MS + 1)
    assert verify._signed.cache_info().maxsize == 128


def test_the_root_of_aws_is_the_published_one():
    assert hashlib.sha256(roots.AWS_NITRO_ROOT_G1).digest() == roots.AWS_NITRO_ROOT_G1_SHA256
    certificate = x509.load_der_x509_certificate(roots.AWS_NITRO_ROOT_G1)
    assert certificate.subject.rfc4514_string() == "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"
    certificate.verify_directly_issued_by(certificate)


def test_a_document_under_a_vendors_root_is_hardware(monkeypatch):
    fingerprint = hashlib.sha256(builder.roots()[0]).digest()
    monkeypatch.setattr(verify, "HARDWARE_ROOTS", frozenset({fingerprint}))
    assert check(builder.document()).hardware is True


# Recorded documents.

RECORDED = {
    "attestation-doc-validation_01": "attestation_debug_mode",
    "attestation-doc-validation_02": None,
    "attestation-doc-validation_03": None,
    "attestation-doc-validation_04": "attestation_debug_mode",
    "dstack_01": None,
    "dstack_02": "attestation_debug_mode",
    "remote-attestation-verifier_02": "attestation_signature",
    "oyster-monorepo_03": "attestation_untrusted_root",
}


@pytest.fixture
def recorded(shared_fixtures):
    folder = shared_fixtures / "nitro"

    def read(name):
        document = (folder / f"{name}.cose").read_bytes()
        return document, parse_payload(parse_frame(document).payload).timestamp_ms

    return read


def judge(document, now_ms, **options):
    return verify_attestation(document, roots=[roots.AWS_NITRO_ROOT_G1], now_ms=now_ms, **options)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_document_is_judged_rightly(recorded, name):
    document, now_ms = recorded(name)
    code = RECORDED[name]
    for form in (document, low_s_form(document), builder.flip_s(low_s_form(document))):
        low = form == low_s_form(document)
        expected = code or (None if low else "attestation_high_s")
        if expected is None:
            assert judge(form, now_ms).hardware is True
        else:
            with pytest.raises(errors.AttestationError) as refused:
                judge(form, now_ms)
            assert refused.value.code == expected


def test_all_recorded_documents_are_judged(shared_fixtures):
    assert {path.stem for path in (shared_fixtures / "nitro").glob("*.cose")} == set(RECORDED)


def test_the_recorded_root_is_the_one_in_code(shared_fixtures):
    certificate = x509.load_pem_x509_certificate((shared_fixtures / "nitro" / "aws_nitro_root_g1.pem").read_bytes())
    assert certificate.public_bytes(Encoding.DER) == roots.AWS_NITRO_ROOT_G1


@pytest.mark.parametrize("name", [name for name, code in RECORDED.items() if code == "attestation_debug_mode"])
def test_recorded_debug_documents_hold_otherwise(recorded, name):
    document, now_ms = recorded(name)
    assert judge(low_s_form(document), now_ms, allow_debug=True).debug is True


def test_the_recorded_document_of_another_root_holds_under_that_root(recorded):
    document, now_ms = recorded("oyster-monorepo_03")
    root = parse_payload(parse_frame(document).payload).cabundle[0]
    attestation = verify_attestation(low_s_form(document), roots=[root], now_ms=now_ms)
    assert attestation.hardware is False
    assert attestation.public_key == b"\x12\x34\x56\x78"


@pytest.mark.parametrize("name", [name for name, code in RECORDED.items() if code is None])
def test_a_recorded_document_holds_for_three_hours(recorded, name):
    document, now_ms = recorded(name)
    document = low_s_form(document)
    attestation = judge(document, now_ms)
    assert attestation.valid_until_ms - attestation.valid_from_ms == 3 * builder.HOUR_MS + 3000
    judge(document, attestation.valid_from_ms)
    judge(document, attestation.valid_until_ms)
    with pytest.raises(errors.CertificateNotYetValid):
        judge(document, attestation.valid_from_ms - 1)
    with pytest.raises(errors.CertificateExpired):
        judge(document, attestation.valid_until_ms + 1)


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("way", MALLEABILITIES)
def test_another_spelling_of_a_recorded_document_is_refused(recorded, name, way):
    document, now_ms = recorded(name)
    respell, code = MALLEABILITIES[way]
    with pytest.raises(errors.AttestationError) as refused:
        judge(respell(low_s_form(document)), now_ms)
    assert refused.value.code == code


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_payload_reads_as_other_cbor_decoders_read_it(recorded, name):
    document, _ = recorded(name)
    fields = cbor2.loads(cbor2.loads(document)[2])
    parsed = parse_payload(parse_frame(document).payload)
    assert parsed.pcrs == fields["pcrs"]
    assert parsed.module_id == fields["module_id"]
    assert [*parsed.cabundle, parsed.certificate] == [*fields["cabundle"], fields["certificate"]]
    assert (parsed.public_key, parsed.user_data, parsed.nonce) == tuple(
        fields.get(name) for name in ("public_key", "user_data", "nonce")
    )
