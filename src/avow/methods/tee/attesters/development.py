"""The development enclave's signer: documents of the Nitro format under a root of this network's own. Not hardware.

Rules:
1. The root's key lives in HOME/development-enclave/root.pem (mode 0600, key and certificate in one file, made once),
   the leaf's in memory only. Whoever can read the file can attest anything: that is what "not hardware" means, and
   module and certificates say it.
2. The root is a parameter of the network (genesis, trust policy), never known to code.
3. The chain is short, [root, leaf]; a leaf lives for hours and is replaced when half of that is over.
4. The payload is written as current security modules write it: an indefinite-length map, nulls for what is absent.
"""

import datetime as dt
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from avow.methods.tee.attesters import measure
from avow.methods.tee.document import (
    MAX_NONCE_BYTES,
    MAX_PUBLIC_KEY_BYTES,
    MAX_USER_DATA_BYTES,
    build_frame,
    low_s_form,
    signed_bytes,
)
from avow.methods.tee.errors import AttesterRefused, AttesterUnavailable, KeyExposed
from avow.methods.tee.verify import measurement_of

NOT_HARDWARE = "development enclave, not hardware"
"""How every document of a development enclave begins its module_id."""

LEAF_LIFETIME_MS = 3 * 3_600_000
_BACKDATED_MS = 5 * 60_000
"""Leaves begin a little in the past: a chain's block time may lag behind the clock that made them."""
_ROOT_YEARS = 10
_PCRS = 16
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Leaf:
    certificate: bytes
    key: ec.EllipticCurvePrivateKey
    not_after_ms: int


class DevelopmentAttester:
    """Signs as a Nitro security module does, with registers measured once, when it is made.

    Safe to call from several threads.
    """

    name = "development"
    hardware = False

    def __init__(
        self,
        home: Path,
        *,
        programs: Iterable[bytes],
        versions: Mapping[str, str],
        clock_ms: Callable[[], int] = wall_clock_ms,
        leaf_lifetime_ms: int = LEAF_LIFETIME_MS,
    ) -> None:
        """`programs`: ids of 32 bytes that the enclave may run; `versions`: its engines and libraries, by name."""
        self._clock_ms = clock_ms
        self._leaf_lifetime_ms = leaf_lifetime_ms
        self.root, self._root_key = development_root(home, now_ms=clock_ms())
        measured = (measure.code(), measure.runtime(versions), measure.programs(programs))
        zero = bytes(measure.PCR_BYTES)
        self.pcrs = {index: measured[index] if index < len(measured) else zero for index in range(_PCRS)}
        self.measurement = measurement_of(self.pcrs)
        self.module_id = f"{NOT_HARDWARE} ({secrets.token_hex(8)})"
        self._leaf = self._issue_leaf()

    def attest(
        self, public_key: bytes | None = None, user_data: bytes | None = None, nonce: bytes | None = None
    ) -> bytes:
        limits = (MAX_PUBLIC_KEY_BYTES, MAX_USER_DATA_BYTES, MAX_NONCE_BYTES)
        for field, data, limit in zip(
            ("public_key", "user_data", "nonce"), (public_key, user_data, nonce), limits, strict=True
        ):
            if data is not None and (len(data) > limit or (field == "public_key" and not data)):
                raise AttesterRefused(f"{field} is out of its size", field=field, size=len(data), limit=limit)
        now_ms = self._clock_ms()
        leaf = self._leaf
        if not leaf.not_after_ms - self._leaf_lifetime_ms <= now_ms <= leaf.not_after_ms - self._leaf_lifetime_ms // 2:
            leaf = self._leaf = self._issue_leaf()
        fields = {
            "module_id": self.module_id,
            "digest": "SHA384",
            "timestamp": now_ms,
            "pcrs": self.pcrs,
            "certificate": leaf.certificate,
            "cabundle": [self.root],
            "public_key": public_key,
            "user_data": user_data,
            "nonce": nonce,
        }
        entries = (cbor2.dumps(part) for entry in fields.items() for part in entry)
        payload = b"".join((b"\xbf", *entries, b"\xff"))
        r, s = decode_dss_signature(leaf.key.sign(signed_bytes(payload), ec.ECDSA(hashes.SHA384())))
        return low_s_form(build_frame(payload, r.to_bytes(48) + s.to_bytes(48)))

    def _issue_leaf(self) -> _Leaf:
        now_ms = self._clock_ms()
        not_after_ms = now_ms + self._leaf_lifetime_ms
        key = ec.generate_private_key(ec.SECP384R1())
        certificate = (
            _certificate("leaf", key, now_ms - _BACKDATED_MS, not_after_ms)
            .issuer_name(_name("root"))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .sign(self._root_key, hashes.SHA384())
        )
        return _Leaf(certificate.public_bytes(Encoding.DER), key, not_after_ms // 1000 * 1000)


def development_root(home: Path, *, now_ms: int | None = None) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """Certificate (DER) and key of the development root of `home`.

    Made at the first call, by whichever process comes first.
    Raises KeyExposed when others may read the file, AttesterUnavailable when it does not hold a root.
    """
    path = home / "development-enclave" / "root.pem"
    if not path.exists():
        _create_root(path, wall_clock_ms() if now_ms is None else now_ms)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyExposed(
            f"{path} has mode {mode:04o}: others can read the development root's key",
            hint=f"chmod 600 {path}, or remove it to make a new root",
            path=str(path),
        )
    content = path.read_bytes()
    try:
        key = load_pem_private_key(content, password=None)
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise AttesterUnavailable(f"{path} does not hold a development root", path=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AttesterUnavailable(f"{path}: the key is not the certificate's", path=str(path))
    return certificate.public_bytes(Encoding.DER), key


def _create_root(path: Path, now_ms: int) -> None:
    """Writes a new root to `path` in one step, unless another process was first."""
    key = ec.generate_private_key(ec.SECP384R1())
    year_ms = 365 * 86_400_000
    certificate = (
        _certificate("root", key, now_ms - _BACKDATED_MS, now_ms + _ROOT_YEARS * year_ms)
        .issuer_name(_name("root"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(
        Encoding.PEM
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"root.{secrets.token_hex(8)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _certificate(
    role: str, key: ec.EllipticCurvePrivateKey, not_before_ms: int, not_after_ms: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(role))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(not_before_ms))
        .not_valid_after(_moment(not_after_ms))
    )


def _name(role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Avow"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, NOT_HARDWARE),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{role} of a {NOT_HARDWARE}"),
        ]
    )


def _moment(time_ms: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(seconds=time_ms // 1000)


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
