"""The chain's rules, each broken by one certificate of its own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.methods.tee import certificates, errors
from avow.methods.tee.certificates import load_certificate, verify_chain
from tests.methods.tee import builder
from tests.methods.tee.builder import CHAIN, NOW_MS, SHORT, Plan, with_plan

ROOT, REGION, ZONE, INSTANCE, LEAF = range(5)
UNKNOWN = "1.2.3.4", b"\x05\x00"
EXTENDED_KEY_USAGE = "2.5.29.37", bytes.fromhex("300a06082b06010505070301")


def extension(which, critical):
    identifier, value = which
    return ((identifier, critical, value),)


def verify(plans=CHAIN, *, now_ms=NOW_MS, roots=None):
    built = builder.chain(plans)
    return verify_chain(built[:-1], built[-1], roots=roots or builder.roots(plans), now_ms=now_ms)


@pytest.mark.parametrize("plans", [CHAIN, SHORT], ids=["five", "two"])
def test_a_chain_holds(plans):
    chain = verify(plans)
    assert chain.key == builder.key("leaf").public_key()
    assert (chain.valid_from_ms, chain.valid_until_ms) == (NOW_MS - builder.DAY_MS, NOW_MS + builder.DAY_MS)


def test_a_chain_is_valid_while_all_of_it_is():
    chain = verify(
        with_plan(
            LEAF, with_plan(ZONE, not_before_ms=NOW_MS - 5000), not_before_ms=NOW_MS - 9000, not_after_ms=NOW_MS + 7000
        )
    )
    assert (chain.valid_from_ms, chain.valid_until_ms) == (NOW_MS - 5000, NOW_MS + 7000)


def test_a_chain_that_is_valid_since_the_epoch():
    early = tuple(Plan(**{**vars(plan), "not_before_ms": 0}) for plan in SHORT)
    assert verify(early, now_ms=0).valid_from_ms == 0


SERIAL = b"\x02\x05\x12\x34\x56\x78\x90"
V3 = b"\xa0\x03\x02\x01\x02"
INNER_SHA384, INNER_SHA256 = bytes.fromhex("06082a8648ce3d040303"), bytes.fromhex("06082a8648ce3d040302")
NO_AUTHORITY = bytes.fromhex("a31d301b300c0603551d130101ff04023000")
NO_AUTHORITY_BUT_A_PATH_LENGTH = bytes.fromhex("a320301e300f0603551d130101ff04053003020100")


ACCEPTED = {
    "serial number 1": with_plan(ZONE, edit=(SERIAL, b"\x02\x01\x01")),
    "no path length": with_plan(REGION, constraints=(True, None)),
    "path length as long as needed": with_plan(ROOT, constraints=(True, 3)),
    "key usage of an authority not critical": with_plan(REGION, usage_critical=False),
    "authority that signs data too": with_plan(REGION, usage=("key_cert_sign", "crl_sign", "digital_signature")),
    "target without basic constraints": with_plan(LEAF, constraints=None),
    "target whose basic constraints are not critical": with_plan(LEAF, constraints_critical=False),
    "an extension that is not critical": with_plan(ZONE, extra=extension(UNKNOWN, critical=False)),
    "an extension of the target that is not critical": with_plan(
        LEAF, extra=extension(EXTENDED_KEY_USAGE, critical=False)
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_chain_at_the_edge_of_a_rule_holds(case):
    verify(ACCEPTED[case])


REFUSED = {
    "root not marked as authority": (with_plan(ROOT, constraints=None), errors.BasicConstraints, ROOT),
    "root marked as no authority": (with_plan(ROOT, constraints=(False, None)), errors.BasicConstraints, ROOT),
    "root's constraints not critical": (with_plan(ROOT, constraints_critical=False), errors.BasicConstraints, ROOT),
    "authority without constraints": (with_plan(INSTANCE, constraints=None), errors.BasicConstraints, INSTANCE),
    "authority that is none": (with_plan(INSTANCE, constraints=(False, None)), errors.BasicConstraints, INSTANCE),
    "authority's constraints not critical": (
        with_plan(ZONE, constraints_critical=False),
        errors.BasicConstraints,
        ZONE,
    ),
    "target an authority": (with_plan(LEAF, constraints=(True, None)), errors.BasicConstraints, LEAF),
    "target an authority with a path length": (with_plan(LEAF, constraints=(True, 0)), errors.BasicConstraints, LEAF),
    "target with a path length": (
        with_plan(LEAF, edit=(NO_AUTHORITY, NO_AUTHORITY_BUT_A_PATH_LENGTH)),
        errors.BadCertificate,
        None,
    ),
    "root's path one too short": (with_plan(ROOT, constraints=(True, 2)), errors.PathTooLong, ROOT),
    "region's path one too short": (with_plan(REGION, constraints=(True, 1)), errors.PathTooLong, REGION),
    "zone's path one too short": (with_plan(ZONE, constraints=(True, 0)), errors.PathTooLong, ZONE),
    "root without key usage": (with_plan(ROOT, usage=None), errors.KeyUsage, ROOT),
    "root not for certificates": (with_plan(ROOT, usage=("digital_signature", "crl_sign")), errors.KeyUsage, ROOT),
    "authority without key usage": (with_plan(ZONE, usage=None), errors.KeyUsage, ZONE),
    "authority not for certificates": (with_plan(INSTANCE, usage=("digital_signature",)), errors.KeyUsage, INSTANCE),
    "target without key usage": (with_plan(LEAF, usage=None), errors.KeyUsage, LEAF),
    "target not for data": (with_plan(LEAF, usage=("key_cert_sign", "content_commitment")), errors.KeyUsage, LEAF),
    "root with an unknown critical extension": (
        with_plan(ROOT, extra=extension(UNKNOWN, critical=True)),
        errors.CriticalExtension,
        ROOT,
    ),
    "target with a critical extension that others know": (
        with_plan(LEAF, extra=extension(EXTENDED_KEY_USAGE, critical=True)),
        errors.CriticalExtension,
        LEAF,
    ),
    "an extension that does not parse": (
        with_plan(ZONE, extra=(("2.5.29.30", False, b"\x05\x00"),)),
        errors.BadCertificate,
        None,
    ),
    "authority with an unknown critical extension": (
        with_plan(REGION, extra=extension(UNKNOWN, critical=True)),
        errors.CriticalExtension,
        REGION,
    ),
    "target with an unknown critical extension": (
        with_plan(LEAF, extra=extension(UNKNOWN, critical=True)),
        errors.CriticalExtension,
        LEAF,
    ),
    "issuer of another name": (with_plan(ZONE, issuer="elsewhere"), errors.NotChained, ZONE),
    "target's issuer of another name": (with_plan(LEAF, issuer="zone"), errors.NotChained, LEAF),
    "signed by another key": (with_plan(ZONE, signer="elsewhere"), errors.NotChained, ZONE),
    "target signed by another key": (with_plan(LEAF, signer="zone"), errors.NotChained, LEAF),
    "target signed by itself": (with_plan(LEAF, signer="leaf"), errors.NotChained, LEAF),
    "first after the root signed by another": (with_plan(REGION, signer="elsewhere"), errors.NotChained, REGION),
    "the signed algorithm is not the outer one": (
        with_plan(ZONE, edit=(INNER_SHA384, INNER_SHA256)),
        (errors.NotChained, errors.BadCertificate),
        ZONE,
    ),
    "root's key of P-256": (with_plan(ROOT, key_kind="P-256"), errors.CertificateKey, None),
    "authority's key of P-256": (with_plan(ZONE, key_kind="P-256"), errors.CertificateKey, None),
    "target's key of P-256": (with_plan(LEAF, key_kind="P-256"), errors.CertificateKey, None),
    "target's key of RSA": (with_plan(LEAF, key_kind="RSA"), errors.CertificateKey, None),
    "signed with SHA-256": (with_plan(ZONE, digest="SHA256"), errors.CertificateKey, None),
    "target signed with SHA-512": (with_plan(LEAF, digest="SHA512"), errors.CertificateKey, None),
    "signed by an RSA key": (
        with_plan(LEAF, signer="elsewhere RSA", signer_kind="RSA", digest="SHA384"),
        errors.CertificateKey,
        None,
    ),
    "version 1": (with_plan(ZONE, edit=(V3, b"")), errors.BadCertificate, None),
    "version 2": (with_plan(ZONE, edit=(V3, b"\xa0\x03\x02\x01\x01")), errors.BadCertificate, None),
    "version 4": (with_plan(ZONE, edit=(V3, b"\xa0\x03\x02\x01\x03")), errors.BadCertificate, None),
    "serial number 0": (with_plan(ZONE, edit=(SERIAL, b"\x02\x01\x00")), errors.BadCertificate, None),
    "serial number -1": (with_plan(ZONE, edit=(SERIAL, b"\x02\x01\xff")), errors.BadCertificate, None),
    "an extension twice": (
        with_plan(
            ZONE,
            extra=(("1.2.3.4", False, b""), ("1.2.3.5", False, b"")),
            edit=(b"\x06\x03\x2a\x03\x05", b"\x06\x03\x2a\x03\x04"),
        ),
        errors.BadCertificate,
        None,
    ),
    "a key that is no point": (
        with_plan(ZONE, edit=(b"\x03\x62\x00\x04", b"\x03\x62\x00\x05")),
        errors.BadCertificate,
        None,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_certificate_out_of_its_rules_is_refused(case):
    plans, error, position = REFUSED[case]
    with pytest.raises(error) as refused:
        verify(plans)
    assert refused.value.fields.get("position") == position


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize(
    ("not_before_ms", "not_after_ms", "error"),
    [
        (NOW_MS, NOW_MS + 5000, None),
        (NOW_MS - 5000, NOW_MS, None),
        (NOW_MS, NOW_MS, None),
        (NOW_MS + 1000, NOW_MS + 5000, errors.CertificateNotYetValid),
        (NOW_MS - 5000, NOW_MS - 1000, errors.CertificateExpired),
    ],
)
def test_every_certificate_is_judged_at_now(position, not_before_ms, not_after_ms, error):
    plans = with_plan(position, not_before_ms=not_before_ms, not_after_ms=not_after_ms)
    if error is None:
        verify(plans)
        return
    with pytest.raises(error) as refused:
        verify(plans)
    assert refused.value.fields["position"] == position


def test_validity_is_judged_to_the_millisecond():
    plans = with_plan(LEAF, not_before_ms=NOW_MS - 5000, not_after_ms=NOW_MS + 5000)
    verify(plans, now_ms=NOW_MS - 5000)
    verify(plans, now_ms=NOW_MS + 5000)
    with pytest.raises(errors.CertificateNotYetValid):
        verify(plans, now_ms=NOW_MS - 5001)
    with pytest.raises(errors.CertificateExpired):
        verify(plans, now_ms=NOW_MS + 5001)


def test_times_are_those_of_the_calendar():
    for time_ms in (0, 951_782_399_000, 951_868_800_000, 4_107_542_399_000, 2_519_044_085_000, 253_402_300_799_000):
        plan = Plan("root", not_before_ms=0, not_after_ms=time_ms)
        assert load_certificate(plan.der("root")).not_after_ms == time_ms


def test_the_root_is_one_that_is_pinned():
    others = builder.roots((Plan("another root"),))
    with pytest.raises(errors.UntrustedRoot):
        verify(roots=others)
    with pytest.raises(errors.UntrustedRoot):
        verify(roots=[builder.chain()[1]])
    verify(roots=[*others, *builder.roots()])


def test_a_root_of_the_same_name_and_key_but_other_bytes_is_another_root():
    again = Plan("root", not_after_ms=NOW_MS + builder.HOUR_MS)
    with pytest.raises(errors.UntrustedRoot):
        verify(roots=[again.der("root")])


def test_no_root_is_no_trust():
    built = builder.chain()
    with pytest.raises(errors.UntrustedRoot):
        verify_chain(built[:-1], built[-1], roots=[], now_ms=NOW_MS)


def test_the_root_need_not_be_signed_by_itself():
    verify(with_plan(ROOT, issuer="elsewhere", signer="elsewhere"))


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 2, 1), (0, 1, 3), (0, 2, 3), (0, 1, 2), (0,), (0, 1, 1, 2, 3)])
def test_a_bundle_in_another_order_or_with_a_gap_is_refused(order):
    built = builder.chain()
    with pytest.raises((errors.NotChained, errors.PathTooLong)):
        verify_chain([built[at] for at in order], built[-1], roots=builder.roots(), now_ms=NOW_MS)


def test_what_is_remembered_is_judged_anew_at_another_time_and_place():
    verify()
    with pytest.raises(errors.CertificateExpired):
        verify(now_ms=NOW_MS + builder.DAY_MS + 1)
    built = builder.chain()
    with pytest.raises(errors.BasicConstraints):
        verify_chain(built[:-2], built[-2], roots=builder.roots(), now_ms=NOW_MS)  # an authority in the target's place
    with pytest.raises(errors.BasicConstraints):
        verify_chain([built[0], built[-1]], built[-1], roots=builder.roots(), now_ms=NOW_MS)  # the other way round


def test_a_refused_certificate_is_refused_again():
    for _ in range(2):
        with pytest.raises(errors.NotChained):
            verify(REFUSED["signed by another key"][0])
        with pytest.raises(errors.CertificateKey):
            verify(REFUSED["signed with SHA-256"][0])


def test_what_is_remembered_is_bounded():
    for cache in (certificates.load_certificate, certificates._issued):
        assert cache.cache_info().maxsize == 512


def only_typed_errors(der):
    try:
        load_certificate(der)
        verify_chain([der], builder.chain()[-1], roots=[der], now_ms=NOW_MS)
    except errors.AttestationError:
        pass


@pytest.mark.filterwarnings("ignore")
@given(st.binary(max_size=400))
def test_arbitrary_bytes_as_a_certificate_give_typed_errors_only(data):
    only_typed_errors(data)
    only_typed_errors(b"\x30\x82" + len(data).to_bytes(2) + data)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=1500)
@given(st.integers(0, 4), st.data())
def test_a_certificate_with_a_piece_replaced_gives_typed_errors_only(which, data):
    der = bytearray(builder.chain()[which])
    at = data.draw(st.integers(0, len(der) - 1))
    der[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    only_typed_errors(bytes(der))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("position", [REGION, ZONE, INSTANCE, LEAF])
def test_every_changed_byte_of_a_certificate_breaks_its_chain(position):
    built = builder.chain()
    for at in range(len(built[position])):
        for flip in (0x01, 0x80):
            chain = list(built)
            changed = bytearray(built[position])
            changed[at] ^= flip
            chain[position] = bytes(changed)
            with pytest.raises(errors.AttestationError):
                verify_chain(chain[:-1], chain[-1], roots=builder.roots(), now_ms=NOW_MS)


def test_a_signature_with_unused_bits_is_refused():
    der = builder.chain()[ZONE]
    for attempt in range(64):  # one in two signatures ends with a zero bit, which may then be called unused
        der = Plan("zone", constraints=(True, 1), not_after_ms=NOW_MS + attempt * 1000).der("region")
        if der[-1] & 1 == 0:
            break
    signature = load_certificate(der).parsed.signature
    start = len(der) - len(signature) - 1
    with pytest.raises(errors.CertificateKey):
        load_certificate(der[:start] + b"\x01" + signature)


def test_an_algorithm_with_parameters_is_refused():
    certificate = load_certificate(builder.chain()[ZONE]).parsed
    algorithm = builder.tlv(0x30, INNER_SHA384 + b"\x05\x00")
    signature = builder.tlv(0x03, b"\x00" + certificate.signature)
    with pytest.raises((errors.CertificateKey, errors.BadCertificate)):
        load_certificate(builder.tlv(0x30, certificate.tbs_certificate_bytes + algorithm + signature))
