"""Why an attestation is refused, one type and one stable code for each rule of `verify`."""

from avow.errors import AvowError, Unavailable, VerificationError


class AttestationError(VerificationError):
    """An attestation document does not hold."""

    code = "attestation"


# The frame: the bytes around the signed payload. Each of the first five is a second spelling of a document that holds.


class TaggedDocument(AttestationError):
    """The document carries a CBOR tag; the one accepted form is untagged."""

    code = "attestation_tagged"


class TrailingBytes(AttestationError):
    """There are bytes after the end of the document."""

    code = "attestation_trailing_bytes"


class IndefiniteArray(AttestationError):
    """The outer array has an indefinite length."""

    code = "attestation_indefinite_array"


class LongFormLength(AttestationError):
    """A length in the frame is not in its shortest form."""

    code = "attestation_long_form_length"


class HighS(AttestationError):
    """Of the two signatures that one signing yields, this is the one with the high S."""

    code = "attestation_high_s"


class DocumentTooLarge(AttestationError):
    """The document is larger than its limit."""

    code = "attestation_too_large"


class TruncatedDocument(AttestationError):
    """The document ends before its structure does."""

    code = "attestation_truncated"


class MalformedDocument(AttestationError):
    """The bytes are not a COSE_Sign1 array of four elements."""

    code = "attestation_malformed"


class WrongAlgorithm(AttestationError):
    """The protected header is not exactly {1: -35}, ES384."""

    code = "attestation_algorithm"


class UnprotectedHeader(AttestationError):
    """The unprotected header is not empty."""

    code = "attestation_unprotected_header"


# The payload: what the security module says.


class PayloadEncoding(AttestationError):
    """The payload is not of the CBOR subset that attestation documents use."""

    code = "attestation_payload_encoding"


class DuplicateKey(AttestationError):
    """A key stands twice in a map of the payload."""

    code = "attestation_duplicate_key"


class UnknownField(AttestationError):
    """The payload has a field that the format does not know."""

    code = "attestation_unknown_field"


class MissingField(AttestationError):
    """A mandatory field is absent or null."""

    code = "attestation_missing_field"


class BadField(AttestationError):
    """A field has the wrong type, or its value is out of range."""

    code = "attestation_bad_field"


# The certificates.


class UntrustedRoot(AttestationError):
    """The chain does not begin with a pinned root."""

    code = "attestation_untrusted_root"


class BadCertificate(AttestationError):
    """A certificate is not X.509 version 3 in DER, as far as the rules need it."""

    code = "attestation_certificate_malformed"


class CertificateKey(AttestationError):
    """A certificate's key is not P-384, or its signature is not ECDSA with SHA-384."""

    code = "attestation_certificate_key"


class CertificateNotYetValid(AttestationError):
    """A certificate of the chain is not valid yet."""

    code = "attestation_certificate_not_yet_valid"


class CertificateExpired(AttestationError):
    """A certificate of the chain is no longer valid."""

    code = "attestation_certificate_expired"


class CriticalExtension(AttestationError):
    """A certificate has a critical extension that these rules do not know."""

    code = "attestation_certificate_critical_extension"


class BasicConstraints(AttestationError):
    """A certificate stands where its basic constraints do not let it stand."""

    code = "attestation_certificate_basic_constraints"


class PathTooLong(AttestationError):
    """More certificate authorities follow a certificate than its path length allows."""

    code = "attestation_certificate_path_length"


class KeyUsage(AttestationError):
    """A certificate's key is used for what its key usage does not allow."""

    code = "attestation_certificate_key_usage"


class NotChained(AttestationError):
    """A certificate was not issued by the one before it."""

    code = "attestation_certificate_chain"


# What the document says.


class BadSignature(AttestationError):
    """The document's signature does not verify under its certificate."""

    code = "attestation_signature"


class DebugMode(AttestationError):
    """The enclave runs in debug mode: its operator can read and change its memory."""

    code = "attestation_debug_mode"


# What the reader expected of it.


class UnexpectedMeasurement(AttestationError):
    """The enclave runs code that is not among the expected measurements."""

    code = "attestation_measurement"


class UnexpectedPublicKey(AttestationError):
    """The attestation is bound to another key."""

    code = "attestation_public_key"


class UnexpectedUserData(AttestationError):
    """The attestation is bound to other data."""

    code = "attestation_user_data"


class UnexpectedNonce(AttestationError):
    """The attestation answers another nonce."""

    code = "attestation_nonce"


class StaleAttestation(AttestationError):
    """The attestation is older than allowed."""

    code = "attestation_stale"


class FutureAttestation(AttestationError):
    """The attestation was made later than now."""

    code = "attestation_from_the_future"


# Making them.


class AttesterUnavailable(Unavailable):
    """The attester cannot be reached on this machine."""

    code = "attester_unavailable"


class AttesterRefused(AvowError):
    """The attester answered with an error, or not with what was asked."""

    code = "attester_refused"


class KeyExposed(AvowError):
    """A private key's file can be read by others."""

    code = "key_exposed"
