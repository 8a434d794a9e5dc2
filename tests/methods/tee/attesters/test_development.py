"""The development enclave: documents that verify like real ones, and say on every surface that they are not."""

import multiprocessing
import os
import stat
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from avow.methods.registration import registration_digest
from avow.methods.tee import errors
from avow.methods.tee.attesters import Attester, DevelopmentAttester, NitroAttester, development_root, measure
from avow.methods.tee.attesters.development import LEAF_LIFETIME_MS, NOT_HARDWARE, wall_clock_ms
from avow.methods.tee.document import P384_ORDER, parse_frame
from avow.methods.tee.verify import verify_attestation

NOW_MS = 1_750_000_000_123
PROGRAMS = (b"\x01" * 32, b"\x02" * 32)
VERSIONS = {"python": "3.11", "xllamacpp": "1"}
MINUTE_MS = 60_000


class Clock:
    def __init__(self):
        self.now_ms = NOW_MS

    def __call__(self):
        return self.now_ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def attester(tmp_path, clock):
    return DevelopmentAttester(tmp_path, programs=PROGRAMS, versions=VERSIONS, clock_ms=clock)


def check(attester, document, now_ms=NOW_MS, **options):
    return verify_attestation(document, roots=[attester.root], now_ms=now_ms, **options)


def test_a_document_verifies_and_binds_a_registration(attester):
    signing_key, transport_key = b"\x04" + b"s" * 64, b"\x04" + b"t" * 64
    digest = registration_digest("avow-0123456789abcdef", b"o" * 20, signing_key, transport_key, b"b" * 32)
    attestation = check(attester, attester.attest(signing_key, digest))
    assert (attestation.public_key, attestation.user_data, attestation.nonce) == (signing_key, digest, None)
    assert attestation.timestamp_ms == NOW_MS
    assert attestation.measurement == attester.measurement
    assert attestation.pcrs == attester.pcrs
    assert attestation.debug is False


def test_it_says_everywhere_that_it_is_not_hardware(attester):
    document = attester.attest()
    attestation = check(attester, document)
    assert attestation.hardware is False
    assert attester.hardware is False
    assert attester.name == "development"
    assert attestation.module_id.startswith("development enclave, not hardware")
    payload = cbor2.loads(parse_frame(document).payload)
    for der in (*payload["cabundle"], payload["certificate"]):
        assert NOT_HARDWARE in x509.load_der_x509_certificate(der).subject.rfc4514_string().replace("\\", "")


def test_documents_are_written_as_current_modules_write_them(attester):
    document = attester.attest(nonce=b"n")
    payload = parse_frame(document).payload
    assert payload[:1] == b"\xbf"
    assert list(cbor2.loads(payload)) == [
        "module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce",
    ]  # fmt: skip
    assert len(document) < 3000
    assert len(cbor2.loads(payload)["cabundle"]) == 1


def test_every_document_is_in_its_low_s_form(attester):
    for _ in range(24):
        assert parse_frame(attester.attest()).s <= P384_ORDER // 2


@pytest.mark.parametrize(("field", "limit"), [("public_key", 1024), ("user_data", 512), ("nonce", 512)])
def test_fields_are_accepted_up_to_their_limits(attester, field, limit):
    check(attester, attester.attest(**{field: bytes(limit)}))
    with pytest.raises(errors.AttesterRefused) as refused:
        attester.attest(**{field: bytes(limit + 1)})
    assert refused.value.fields["field"] == field


def test_empty_fields(attester):
    attestation = check(attester, attester.attest(user_data=b"", nonce=b""))
    assert (attestation.user_data, attestation.nonce) == (b"", b"")
    with pytest.raises(errors.AttesterRefused):
        attester.attest(public_key=b"")


def test_registers_measure_code_runtime_and_programs(attester):
    assert attester.pcrs[0] == measure.code()
    assert attester.pcrs[1] == measure.runtime(VERSIONS)
    assert attester.pcrs[2] == measure.programs(PROGRAMS)
    assert set(attester.pcrs) == set(range(16))
    assert all(any(attester.pcrs[index]) and len(attester.pcrs[index]) == 48 for index in (0, 1, 2))


def test_another_program_or_version_is_another_measurement(attester, tmp_path, clock):
    seen = {attester.measurement}
    for programs, versions in (
        (PROGRAMS[:1], VERSIONS),
        ((), VERSIONS),
        (PROGRAMS, VERSIONS | {"python": "3.12"}),
        (PROGRAMS, {}),
    ):
        other = DevelopmentAttester(tmp_path, programs=programs, versions=versions, clock_ms=clock)
        assert other.root == attester.root
        assert other.measurement not in seen
        seen.add(other.measurement)
    same = DevelopmentAttester(
        tmp_path, programs=[*reversed(PROGRAMS), PROGRAMS[0]], versions=dict(reversed(VERSIONS.items())), clock_ms=clock
    )
    assert same.measurement == attester.measurement
    assert same.module_id != attester.module_id


def test_code_is_measured_by_path_and_content(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.py").write_bytes(b"one")
    first = measure.code(tmp_path)
    assert first == measure.code(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"cache")
    assert measure.code(tmp_path) == first
    (tmp_path / "part" / "a.py").write_bytes(b"two")
    second = measure.code(tmp_path)
    (tmp_path / "part" / "a.py").rename(tmp_path / "part" / "b.py")
    third = measure.code(tmp_path)
    (tmp_path / "c.sol").write_bytes(b"")
    assert len({first, second, third, measure.code(tmp_path)}) == 4


def test_a_leaf_lives_for_hours_and_is_replaced_at_half_of_them(attester, clock):
    first = check(attester, attester.attest())
    assert first.valid_from_ms == (NOW_MS - 5 * MINUTE_MS) // 1000 * 1000
    assert first.valid_until_ms == (NOW_MS + LEAF_LIFETIME_MS) // 1000 * 1000
    clock.now_ms = NOW_MS + LEAF_LIFETIME_MS // 2 - 1000
    assert check(attester, attester.attest(), clock.now_ms).valid_until_ms == first.valid_until_ms
    clock.now_ms = NOW_MS + LEAF_LIFETIME_MS // 2 + 1000
    assert check(attester, attester.attest(), clock.now_ms).valid_until_ms > first.valid_until_ms
    clock.now_ms = NOW_MS + 1000 * LEAF_LIFETIME_MS
    check(attester, attester.attest(), clock.now_ms)
    clock.now_ms = NOW_MS
    check(attester, attester.attest(), clock.now_ms)


def test_a_document_outlives_neither_its_leaf_nor_its_root(attester):
    document = attester.attest()
    with pytest.raises(errors.CertificateExpired):
        check(attester, document, NOW_MS + LEAF_LIFETIME_MS + 1000)
    with pytest.raises(errors.UntrustedRoot):
        verify_attestation(document, roots=[NitroAttester.root], now_ms=NOW_MS)


def test_the_clock_is_the_walls_by_default(tmp_path):
    attester = DevelopmentAttester(tmp_path, programs=(), versions={})
    attestation = check(attester, attester.attest(), wall_clock_ms())
    assert abs(attestation.timestamp_ms - wall_clock_ms()) < 60_000


def test_both_are_attesters(attester):
    attesters: list[Attester] = [attester, NitroAttester()]
    assert [each.name for each in attesters] == ["development", "nitro"]


def root_file(home: Path) -> Path:
    return home / "development-enclave" / "root.pem"


def test_the_roots_key_is_its_owners_alone(tmp_path):
    old = os.umask(0)
    try:
        certificate, key = development_root(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(root_file(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(root_file(tmp_path).parent.stat().st_mode) == 0o700
    assert [path.name for path in root_file(tmp_path).parent.iterdir()] == ["root.pem"]
    again, same_key = development_root(tmp_path)
    assert again == certificate
    assert same_key.private_numbers() == key.private_numbers()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o602, 0o666])
def test_a_root_that_others_can_read_is_not_used(tmp_path, mode):
    development_root(tmp_path)
    root_file(tmp_path).chmod(mode)
    with pytest.raises(errors.KeyExposed) as refused:
        development_root(tmp_path)
    assert "chmod 600" in refused.value.hint


def test_a_damaged_root_is_a_typed_error(tmp_path):
    development_root(tmp_path)
    path = root_file(tmp_path)
    content = path.read_bytes()
    other = ec.generate_private_key(ec.SECP384R1())
    certificate = content[content.index(b"-----BEGIN CERT") :]
    swapped = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate
    for damaged in (b"", content[:100], certificate, content[: content.index(b"-----BEGIN CERT")], swapped):
        path.write_bytes(damaged)
        with pytest.raises(errors.AttesterUnavailable):
            development_root(tmp_path)


def first_bytes_of_root(home):
    return development_root(home)[0]


def test_processes_that_come_at_once_share_one_root(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        roots = pool.map(first_bytes_of_root, [tmp_path] * 8, chunksize=1)
    assert len(set(roots)) == 1
    assert [path.name for path in root_file(tmp_path).parent.iterdir()] == ["root.pem"]
