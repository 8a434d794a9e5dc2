"""The certificate chain of an attestation document: from a pinned root to the key that signed.

Source: AWS Nitro Enclaves, "Attestation process", §3.2.3 and §3.2.4; RFC 5280 §4.2.1 and §6.1. The chain is
[root, …, intermediate, target].

Rules, for each certificate from the root down; the first that fails decides:
1. The root is, byte for byte, one that the reader pinned. Its own signature is not checked: pinning says more.
2. It is X.509 version 3 in DER, with a serial number above 0 and a P-384 key, signed by ECDSA with SHA-384.
3. It is valid now, both ends included; the root too.
4. It has no critical extension beside basicConstraints and keyUsage.
5. Authorities: basicConstraints is critical and says CA; no more authorities follow than pathLenConstraint says;
   keyUsage has keyCertSign. Target: no CA, no pathLenConstraint; keyUsage has digitalSignature.
6. Its issuer is the subject of the one before it, whose key signed it.
There are no revocation lists: the format turns them off, and targets live for hours.

What depends on bytes alone is remembered in bounded caches: an authority serves every document for days. Time and
position are judged anew.
Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from avow.methods.tee.errors import (
    BadCertificate,
    BasicConstraints,
    CertificateExpired,
    CertificateKey,
    CertificateNotYetValid,
    CriticalExtension,
    KeyUsage,
    NotChained,
    PathTooLong,
    UntrustedRoot,
)

_REMEMBERED = 512
"""Entries of each cache; at most 2 KiB of certificates each."""
_ECDSA_WITH_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
"""AlgorithmIdentifier without parameters (RFC 5758 §3.2). It ends a certificate, with the signature as a bit string of
whole bytes. No signature covers these bytes, so they are compared."""
_EPOCH_ORDINAL = 719_163
"""1 January 1970 in the proleptic Gregorian calendar, where 1 January of the year 1 is 1."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """The extension basicConstraints (RFC 5280 §4.2.1.9)."""

    critical: bool
    authority: bool
    path_length: int | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the rules need of a certificate. Times are in milliseconds since the epoch."""

    parsed: x509.Certificate
    key: ec.EllipticCurvePublicKey
    not_before_ms: int
    not_after_ms: int
    basic_constraints: Constraints | None
    unknown_critical: str
    signs_certificates: bool
    signs_data: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that holds: the key at its end and the time in which all of it is valid, both ends included."""

    key: ec.EllipticCurvePublicKey
    valid_from_ms: int
    valid_until_ms: int


def verify_chain(bundle: Sequence[bytes], target: bytes, *, roots: Collection[bytes], now_ms: int) -> Chain:
    """The chain of `bundle` (DER, the root first, at least one) and `target` (DER) under one of `roots` (DER).

    Raises an AttestationError of the certificates' kinds; its `position` counts from the root, 0.
    """
    if bundle[0] not in roots:
        raise UntrustedRoot
    chain = [*bundle, target]
    certificates = []
    for position, der in enumerate(chain):
        certificate = load_certificate(der)
        _check_validity(certificate, position, now_ms)
        if certificate.unknown_critical:
            raise CriticalExtension(position=position, extension=certificate.unknown_critical)
        if position < len(bundle):
            _check_authority(certificate, position, followers=len(bundle) - 1 - position)
        else:
            _check_target(certificate, position)
        if position > 0 and not _issued(chain[position - 1], der):
            raise NotChained(position=position)
        certificates.append(certificate)
    return Chain(
        key=certificates[-1].key,
        valid_from_ms=max(certificate.not_before_ms for certificate in certificates),
        valid_until_ms=min(certificate.not_after_ms for certificate in certificates),
    )


def _check_validity(certificate: Certificate, position: int, now_ms: int) -> None:
    if now_ms < certificate.not_before_ms:
        raise CertificateNotYetValid(position=position, not_before_ms=certificate.not_before_ms, now_ms=now_ms)
    if now_ms > certificate.not_after_ms:
        raise CertificateExpired(position=position, not_after_ms=certificate.not_after_ms, now_ms=now_ms)


def _check_authority(certificate: Certificate, position: int, followers: int) -> None:
    """Rule 5 for an authority with `followers` authorities between it and the target."""
    constraints = certificate.basic_constraints
    if constraints is None or not constraints.critical or not constraints.authority:
        raise BasicConstraints("not marked as an authority, critically", position=position)
    if constraints.path_length is not None and followers > constraints.path_length:
        raise PathTooLong(position=position, path_length=constraints.path_length, followers=followers)
    if not certificate.signs_certificates:
        raise KeyUsage("the key is not for signing certificates", position=position)


def _check_target(certificate: Certificate, position: int) -> None:
    constraints = certificate.basic_constraints
    if constraints is not None and constraints.authority:  # a path length without it does not parse
        raise BasicConstraints("the target is marked as an authority", position=position)
    if not certificate.signs_data:
        raise KeyUsage("the key is not for signing data", position=position)


@lru_cache(maxsize=_REMEMBERED)
def load_certificate(der: bytes) -> Certificate:
    """What the rules need of a certificate, by rule 2. Raises BadCertificate or CertificateKey."""
    try:
        parsed = x509.load_der_x509_certificate(der)
        key, signature = parsed.public_key(), parsed.signature
        if parsed.version is not x509.Version.v3 or parsed.serial_number <= 0:
            raise BadCertificate("not version 3, or a serial number that is not above 0")
        tail = b"".join((_ECDSA_WITH_SHA384, b"\x03", (len(signature) + 1).to_bytes(2)[1:], b"\x00", signature))
        if not der.endswith(tail):
            raise CertificateKey("not signed by ECDSA with SHA-384")
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise CertificateKey("not a key of P-384")
        return _read(parsed, key)
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm):
        raise BadCertificate from None


def _read(parsed: x509.Certificate, key: ec.EllipticCurvePublicKey) -> Certificate:
    constraints: Constraints | None = None
    usage: x509.KeyUsage | None = None
    unknown_critical = ""
    for extension in parsed.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            constraints = Constraints(extension.critical, extension.value.ca, extension.value.path_length)
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
        elif extension.critical:
            unknown_critical = extension.oid.dotted_string
    return Certificate(
        parsed=parsed,
        key=key,
        not_before_ms=_milliseconds(parsed.not_valid_before_utc),
        not_after_ms=_milliseconds(parsed.not_valid_after_utc),
        basic_constraints=constraints,
        unknown_critical=unknown_critical,
        signs_certificates=usage is not None and usage.key_cert_sign,
        signs_data=usage is not None and usage.digital_signature,
    )


@lru_cache(maxsize=_REMEMBERED)
def _issued(issuer: bytes, subject: bytes) -> bool:
    """Whether the certificate `subject` names `issuer` and bears its signature (rule 6)."""
    try:
        load_certificate(subject).parsed.verify_directly_issued_by(load_certificate(issuer).parsed)
    except (ValueError, InvalidSignature):
        return False
    return True


class _UtcTime(Protocol):
    """The fields of a UTC date and time that X.509 can write: whole seconds."""

    @property
    def hour(self) -> int: ...
    @property
    def minute(self) -> int: ...
    @property
    def second(self) -> int: ...

    def toordinal(self) -> int: ...


def _milliseconds(moment: _UtcTime) -> int:
    """Milliseconds since the epoch of a UTC date and time, in integers alone."""
    days = moment.toordinal() - _EPOCH_ORDINAL
    return (((days * 24 + moment.hour) * 60 + moment.minute) * 60 + moment.second) * 1000
