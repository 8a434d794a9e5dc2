"""Makes attestation documents and certificate chains under roots of its own, with one knob for each rule to break it.

It shares no code with the verifier: CBOR by cbor2, certificates by cryptography's builder, DER edits by hand.
"""

import datetime as dt
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

NOW_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ORDER = int("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)

PCRS = {0: b"\xa0" * 48, 1: b"\xa1" * 48, 2: b"\xa2" * 48, 3: bytes(48), 8: b"\xa8" * 48}


def key(name: str, kind: str = "P-384") -> Any:
    """A private key that belongs to `name`; the same for the whole test run."""
    return _key(name, kind)


@cache
def _key(name: str, kind: str) -> Any:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key({"P-384": ec.SECP384R1(), "P-256": ec.SECP256R1()}[kind])


@dataclass(frozen=True)
class Plan:
    """A certificate as it is to be made. Names of subject, issuer and signer are also those of their keys."""

    subject: str
    issuer: str | None = None
    signer: str | None = None
    key_kind: str = "P-384"
    signer_kind: str = "P-384"
    digest: str = "SHA384"
    not_before_ms: int = NOW_MS - DAY_MS
    not_after_ms: int = NOW_MS + DAY_MS
    constraints: tuple[bool, int | None] | None = (True, None)
    constraints_critical: bool = True
    usage: tuple[str, ...] | None = ("key_cert_sign",)
    usage_critical: bool = True
    extra: tuple[tuple[str, bool, bytes], ...] = ()
    """More extensions: identifier, critical, value."""
    edit: tuple[bytes, bytes] | None = None
    """Bytes of the signed part to replace (once), before it is signed anew."""

    def der(self, parent: str, parent_kind: str = "P-384") -> bytes:
        issuer, signer = self.issuer or parent, self.signer or parent
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.subject))
            .issuer_name(name(issuer))
            .public_key(key(self.subject, self.key_kind).public_key())
            .serial_number(0x1234567890)
            .not_valid_before(moment(self.not_before_ms))
            .not_valid_after(moment(self.not_after_ms))
        )
        if self.constraints is not None:
            authority, path_length = self.constraints
            builder = builder.add_extension(
                x509.BasicConstraints(authority, path_length), critical=self.constraints_critical
            )
        if self.usage is not None:
            flags = dict.fromkeys(
                (
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "key_cert_sign",
                    "crl_sign",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            flags.update(dict.fromkeys(self.usage, True))
            builder = builder.add_extension(x509.KeyUsage(**flags), critical=self.usage_critical)
        for oid, critical, value in self.extra:
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical)
        signing_key = key(signer, self.signer_kind if self.signer else parent_kind)
        certificate = builder.sign(signing_key, getattr(hashes, self.digest)())
        if self.edit is None:
            return certificate.public_bytes(Encoding.DER)
        return signed_anew(certificate, signing_key, *self.edit)


def signed_anew(certificate: x509.Certificate, signing_key: Any, old: bytes, new: bytes) -> bytes:
    """The certificate with `old` replaced by `new` in its signed part (of the same outer layout), signed by `signing_key`."""
    signed = certificate.tbs_certificate_bytes
    assert signed.count(old) >= 1, "nothing to edit"
    content = signed[4:] if signed[1] == 0x82 else signed[3:]
    edited = tlv(0x30, content.replace(old, new, 1))
    algorithm = bytes.fromhex("300a06082a8648ce3d040303")
    signature = signing_key.sign(edited, ec.ECDSA(hashes.SHA384()))
    return tlv(0x30, edited + algorithm + tlv(0x03, b"\x00" + signature))


def tlv(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(size))) + size + content


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def moment(time_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(time_ms // 1000, dt.UTC)


ROOT = Plan("root")
REGION = Plan("region", constraints=(True, 2))
ZONE = Plan("zone", constraints=(True, 1))
INSTANCE = Plan("instance", constraints=(True, 0))
LEAF = Plan("leaf", constraints=(False, None), usage=("digital_signature",), usage_critical=False)
CHAIN = (ROOT, REGION, ZONE, INSTANCE, LEAF)
SHORT = (ROOT, LEAF)


def chain(plans: tuple[Plan, ...] = CHAIN) -> tuple[bytes, ...]:
    """The certificates of `plans` in DER, each issued by the one before it, the first by itself."""
    return _chain(plans)


@cache
def _chain(plans: tuple[Plan, ...]) -> tuple[bytes, ...]:
    certificates = []
    for position, plan in enumerate(plans):
        parent = plans[max(position - 1, 0)]
        certificates.append(plan.der(parent.subject, parent.key_kind))
    return tuple(certificates)


def with_plan(position: int, plans: tuple[Plan, ...] = CHAIN, **changes: Any) -> tuple[Plan, ...]:
    return tuple(replace(plan, **changes) if at == position else plan for at, plan in enumerate(plans))


class Raw(bytes):
    """CBOR that stands in a payload as it is."""


class Absent:
    """A field that is left out."""


def cbor(value: Any) -> bytes:
    return bytes(value) if isinstance(value, Raw) else cbor2.dumps(value)


def indefinite_map(value: dict[Any, Any]) -> Raw:
    return Raw(b"\xbf" + b"".join(cbor(part) for entry in value.items() for part in entry) + b"\xff")


def indefinite_array(value: list[Any]) -> Raw:
    return Raw(b"\x9f" + b"".join(map(cbor, value)) + b"\xff")


def payload(plans: tuple[Plan, ...] = CHAIN, *, indefinite: bool = True, **changes: Any) -> bytes:
    """A payload; `changes` replaces fields by values, Raw CBOR or Absent, and adds unknown ones."""
    certificates = chain(plans)
    fields: dict[str, Any] = {
        "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": NOW_MS - 1000,
        "pcrs": PCRS,
        "certificate": certificates[-1],
        "cabundle": list(certificates[:-1]),
        "public_key": None,
        "user_data": None,
        "nonce": None,
    } | changes
    entries = [cbor(field) + cbor(value) for field, value in fields.items() if value is not Absent]
    if indefinite:
        return b"\xbf" + b"".join(entries) + b"\xff"
    return bytes((0xA0 | len(entries),)) + b"".join(entries)


def frame(signed: bytes, signature: bytes) -> bytes:
    return b"\x84\x44\xa1\x01\x38\x22\xa0\x59" + len(signed).to_bytes(2) + signed + b"\x58\x60" + signature


def sign(signed: bytes, signer: str = "leaf", *, protected: bytes = b"\xa1\x01\x38\x22", high_s: bool = False) -> bytes:
    """r ‖ s over the payload `signed`, by the key of `signer`, with S in the half that is asked for."""
    structure = cbor2.dumps(["Signature1", protected, b"", signed])
    r, s = decode_dss_signature(key(signer).sign(structure, ec.ECDSA(hashes.SHA384())))
    if (s > ORDER // 2) != high_s:
        s = ORDER - s
    return r.to_bytes(48) + s.to_bytes(48)


def document(
    plans: tuple[Plan, ...] = CHAIN,
    *,
    signer: str = "leaf",
    high_s: bool = False,
    indefinite: bool = True,
    **changes: Any,
) -> bytes:
    signed = payload(plans, indefinite=indefinite, **changes)
    return frame(signed, sign(signed, signer, high_s=high_s))


def flip_s(whole: bytes) -> bytes:
    """The other signature that verifies alike."""
    return whole[:-48] + (ORDER - int.from_bytes(whole[-48:])).to_bytes(48)


def roots(plans: tuple[Plan, ...] = CHAIN) -> list[bytes]:
    return [chain(plans)[0]]
