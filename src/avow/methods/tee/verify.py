"""The check of an AWS Nitro attestation document: which code runs in the enclave that holds a key.

Rules, in order; the first that fails decides:
1. The frame and the payload are well formed (`document`, rules 1 to 10).
2. Its certificates chain to a pinned root and are valid now (`certificates`, rules 1 to 6).
3. The signature over the payload is ES384 by the last certificate's key.
4. PCR0, PCR1 and PCR2 are there, and not all of them zero: that is debug mode.
5. S is the low one of the two that verify alike; `document.low_s_form` brings a fresh document into that form. This
   comes last, so that its error says that all else holds.

Thus one attestation has one document. Key replay protection on `payload_hash` or the bound key all the same, never on a
hash of the document.

Whether the measurement, the bound key, the nonce and the age are those wanted is the reader's question (receipt.py).
A document holds for hours only (the life of its last certificate), so `now_ms` is the time at which it is to be judged:
the chain gives block time, a reader the time of the statement.

Pure: no clock, no randomness, no input or output.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from avow.methods.tee.certificates import load_certificate, verify_chain
from avow.methods.tee.document import P384_ORDER, Frame, parse_frame, parse_payload, signed_bytes
from avow.methods.tee.errors import BadSignature, DebugMode, HighS, MissingField
from avow.methods.tee.roots import HARDWARE_ROOTS
from avow.receipt.encoding import encode, tagged_hash

MEASURED_PCRS = (0, 1, 2)
"""Image, kernel with boot ramdisk, application. They mean something together only."""

_REMEMBERED = 128
"""Entries of the cache of signatures; at most 18 KiB each."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a document that holds says.

    `valid_from_ms` and `valid_until_ms` bound the time in which its whole chain is valid, ends included.
    `hardware` is false for a root that no hardware vendor published, as a development enclave's.
    """

    module_id: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    measurement: bytes
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    payload_hash: bytes
    root_fingerprint: bytes
    valid_from_ms: int
    valid_until_ms: int
    debug: bool
    hardware: bool


def verify_attestation(
    document: bytes, *, roots: Collection[bytes], now_ms: int, allow_debug: bool = False
) -> Attestation:
    """What `document` attests under one of `roots` (certificates in DER) at `now_ms` (milliseconds since the epoch).

    Raises an AttestationError; its code names the rule.
    """
    frame = parse_frame(document)
    payload = parse_payload(frame.payload)
    chain = verify_chain(payload.cabundle, payload.certificate, roots=roots, now_ms=now_ms)
    if not _signed(payload.certificate, frame):
        raise BadSignature
    measurement = measurement_of(payload.pcrs)
    debug = not any(any(payload.pcrs[index]) for index in MEASURED_PCRS)
    if debug and not allow_debug:
        raise DebugMode
    if frame.s > P384_ORDER // 2:
        raise HighS(
            hint="bring it into its low-S form (avow.methods.tee.document.low_s_form); nothing else is wrong with it"
        )
    root_fingerprint = hashlib.sha256(payload.cabundle[0]).digest()
    return Attestation(
        module_id=payload.module_id,
        timestamp_ms=payload.timestamp_ms,
        pcrs=payload.pcrs,
        measurement=measurement,
        public_key=payload.public_key,
        user_data=payload.user_data,
        nonce=payload.nonce,
        payload_hash=tagged_hash(b"avow/attestation/1", frame.payload),
        root_fingerprint=root_fingerprint,
        valid_from_ms=chain.valid_from_ms,
        valid_until_ms=chain.valid_until_ms,
        debug=debug,
        hardware=root_fingerprint in HARDWARE_ROOTS,
    )


def measurement_of(pcrs: Mapping[int, bytes]) -> bytes:
    """The 32 bytes under which an enclave's code is allow-listed: PCR0, PCR1 and PCR2 together. Raises MissingField."""
    for index in MEASURED_PCRS:
        if index not in pcrs:
            raise MissingField("a measured PCR is absent", field="pcrs", index=index)
    return tagged_hash(b"avow/measurement/1", encode(["nitro", *(pcrs[index] for index in MEASURED_PCRS)]))


@lru_cache(maxsize=_REMEMBERED)
def _signed(certificate: bytes, frame: Frame) -> bool:
    """Whether the key of `certificate` (DER) signed the frame's payload (ES384, RFC 9053 §2.1)."""
    signature = encode_dss_signature(frame.r, frame.s)
    try:
        load_certificate(certificate).key.verify(signature, signed_bytes(frame.payload), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
