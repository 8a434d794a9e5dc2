"""The bytes of an AWS Nitro attestation document: a COSE_Sign1 frame around one signed CBOR map.

Source: AWS Nitro Enclaves, "Attestation process", §2.2, §3.1 and §3.2.2; RFC 9052 §4.2; RFC 8949.

Rules of the frame. It is outside the signature, so anything that can be written in two ways lets others respell a
document; exactly one spelling is accepted:
1.  84                            array of four, untagged, definite
2.  44 a1013822                   protected header {1: -35}: ES384
3.  a0                            unprotected header, empty
4.  59 LLLL payload               256 … 16,384 bytes (a shorter one cannot hold a certificate)
5.  58 60 signature               r ‖ s of 48 bytes each
6.  nothing after it

Rules of the payload. It is inside the signature, so here the parser is as wide as the documents that exist:
7.  One map, of definite or indefinite length, with text keys, each known and none twice; nothing after it. Maps and
    arrays inside may be of either length too; strings may not. Every length and number is in its shortest form.
8.  A null is an absent field. (The format's text forbids nulls; most real documents have them.)
9.  module_id: text, not empty. digest: "SHA384". timestamp: integer > 0, milliseconds. pcrs: 1 … 32 entries, keys
    0 … 31, values of 32, 48 or 64 bytes. certificate: 1 … 1,024 bytes. cabundle: 1 … 8 certificates of 1 … 1,024 bytes,
    the root first (the format sets no upper number; real chains have 4, and each costs a signature check).
    These are mandatory.
10. public_key: 1 … 1,024 bytes. user_data, nonce: 0 … 512 bytes. These are optional.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from avow.methods.tee.errors import (
    AttestationError,
    BadField,
    DocumentTooLarge,
    DuplicateKey,
    IndefiniteArray,
    LongFormLength,
    MalformedDocument,
    MissingField,
    PayloadEncoding,
    TaggedDocument,
    TrailingBytes,
    TruncatedDocument,
    UnknownField,
    UnprotectedHeader,
    WrongAlgorithm,
)

PROTECTED_HEADER = bytes.fromhex("a1013822")
SIGNATURE_BYTES = 96
MIN_PAYLOAD_BYTES = 256
MAX_PAYLOAD_BYTES = 16_384
FRAME_BYTES = 1 + 1 + len(PROTECTED_HEADER) + 1 + 3 + 2 + SIGNATURE_BYTES
"""What the frame adds to the payload."""
MAX_DOCUMENT_BYTES = FRAME_BYTES + MAX_PAYLOAD_BYTES

MAX_PCRS = 32
PCR_BYTES = (32, 48, 64)
MAX_CERTIFICATE_BYTES = 1_024
MAX_BUNDLE_CERTIFICATES = 8
MAX_PUBLIC_KEY_BYTES = 1_024
MAX_USER_DATA_BYTES = 512
MAX_NONCE_BYTES = 512

INDEFINITE = -1
"""The argument of an array or map whose end is marked."""

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
"""The order n of the group of P-384 (SP 800-186 §3.2.1.4): (r, s) and (r, n - s) verify alike."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A COSE_Sign1 frame taken apart. `payload` is what is signed, `signature` is r ‖ s."""

    payload: bytes
    signature: bytes

    @property
    def r(self) -> int:
        return int.from_bytes(self.signature[:48])

    @property
    def s(self) -> int:
        return int.from_bytes(self.signature[48:])


@dataclass(frozen=True, slots=True)
class Payload:
    """What a Nitro security module says, by the names of the format. Absent optional fields are None."""

    module_id: str
    digest: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def parse_frame(document: bytes) -> Frame:
    """Payload and signature of a document, by rules 1 to 6. Raises an AttestationError of the frame's kinds."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLarge(size=len(document), limit=MAX_DOCUMENT_BYTES)
    _array_of_four(document)
    position = _byte_string(document, 1, "protected", len(PROTECTED_HEADER))
    protected = document[position - len(PROTECTED_HEADER) : position]
    if protected != PROTECTED_HEADER:
        raise WrongAlgorithm(expected=PROTECTED_HEADER.hex(), found=protected.hex())
    if position >= len(document):
        raise TruncatedDocument(offset=position)
    if document[position] != 0xA0:
        raise UnprotectedHeader(offset=position)
    payload_start = position + 4
    payload_end = _byte_string(document, position + 1, "payload", None)
    end = _byte_string(document, payload_end, "signature", SIGNATURE_BYTES)
    if end != len(document):
        raise TrailingBytes(expected=end, found=len(document))
    return Frame(document[payload_start:payload_end], document[end - SIGNATURE_BYTES : end])


def build_frame(payload: bytes, signature: bytes) -> bytes:
    """The one document that holds `payload` (256 … 16,384 bytes) and `signature` (96 bytes)."""
    return b"".join(
        (b"\x84\x44", PROTECTED_HEADER, b"\xa0\x59", len(payload).to_bytes(2), payload, b"\x58\x60", signature)
    )


def signed_bytes(payload: bytes) -> bytes:
    """The Sig_structure ["Signature1", protected, h'', payload] that ES384 signs (RFC 9052 §4.4)."""
    return b"".join((b"\x84\x6aSignature1\x44", PROTECTED_HEADER, b"\x40\x59", len(payload).to_bytes(2), payload))


def low_s_form(document: bytes) -> bytes:
    """The same attestation with the lower of its two possible S, as verifiers here demand it.

    The security module signs with either S. Who first receives a document brings it into this form; it needs no key.
    Raises an AttestationError of the frame's kinds.
    """
    frame = parse_frame(document)
    s = frame.s
    if not P384_ORDER // 2 < s < P384_ORDER:
        return document
    return build_frame(frame.payload, frame.signature[:48] + (P384_ORDER - s).to_bytes(48))


def _array_of_four(document: bytes) -> None:
    if not document:
        raise TruncatedDocument(offset=0)
    first = document[0]
    if first == 0x84:
        return
    if first >> 5 == 6:
        raise TaggedDocument
    if first == 0x9F:
        raise IndefiniteArray
    if 0x98 <= first <= 0x9B:
        raise LongFormLength(element="array")
    raise MalformedDocument(found=first)


def _byte_string(document: bytes, position: int, element: str, length: int | None) -> int:
    """Where the byte string at `position` ends, if it is in the one accepted form.

    `length` None stands for the payload: its head has two length bytes and its length the payload's range.
    """
    if position >= len(document):
        raise TruncatedDocument(offset=position)
    first = document[position]
    if first >> 5 != 2 or first & 31 > 27:
        raise MalformedDocument(element=element, offset=position, found=first)
    width = 0 if first & 31 < 24 else 1 << ((first & 31) - 24)
    start = position + 1 + width
    if start > len(document):
        raise TruncatedDocument(offset=position)
    size = first & 31 if width == 0 else int.from_bytes(document[position + 1 : start])
    if width and size < (24, 1 << 8, 1 << 16, 1 << 32)[width.bit_length() - 1]:
        raise LongFormLength(element=element, offset=position)
    if length is None:
        if size > MAX_PAYLOAD_BYTES:
            raise DocumentTooLarge(element=element, size=size, limit=MAX_PAYLOAD_BYTES)
        if size < MIN_PAYLOAD_BYTES:
            raise MalformedDocument(element=element, size=size)
    elif size != length:
        error: type[AttestationError] = WrongAlgorithm if element == "protected" else MalformedDocument
        raise error(element=element, expected=length, found=size)
    if start + size > len(document):
        raise TruncatedDocument(element=element, offset=start)
    return start + size


def parse_payload(payload: bytes) -> Payload:
    """The fields of a payload (at most 16,384 bytes), by rules 7 to 10.

    Raises an AttestationError of the payload's kinds.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DocumentTooLarge(element="payload", size=len(payload), limit=MAX_PAYLOAD_BYTES)
    reader = Reader(payload)
    fields: dict[str, object] = {}
    entries = reader.expect(5, "payload")
    while reader.another(entries, len(fields)):
        name = reader.string(3, "payload").decode("utf-8", "replace")
        read = _FIELDS.get(name)
        if read is None:
            raise UnknownField(field=name[:32])
        if name in fields:
            raise DuplicateKey(field=name)
        fields[name] = None if reader.null() else read(reader, name)
    reader.end()
    for name in _MANDATORY:
        if fields.get(name) is None:
            raise MissingField(field=name)
    return Payload(
        timestamp_ms=fields.pop("timestamp"),  # type: ignore[arg-type]  # by _FIELDS
        **(dict.fromkeys(_OPTIONAL) | fields),  # type: ignore[arg-type]
    )


class Reader:
    """One pass over the CBOR subset of rule 7: unsigned integers, strings, arrays, maps and null.

    Whoever calls it knows which item comes next, so nothing nests deeper than the format does. Each length is held
    against what is left before it is used.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def head(self, field: str) -> tuple[int, int]:
        """Major type and argument (or INDEFINITE, of arrays and maps) of the next item (RFC 8949 §3)."""
        data, at = self._data, self._position
        if at >= len(data):
            raise PayloadEncoding("truncated", field=field, offset=at)
        major, info = data[at] >> 5, data[at] & 31
        if major > 5:
            raise PayloadEncoding("a tag, a float, a simple value or a break", field=field, offset=at)
        if info < 24:
            self._position = at + 1
            return major, info
        if info == 31 and major in (4, 5):
            self._position = at + 1
            return major, INDEFINITE
        if info > 27:
            raise PayloadEncoding("a string of indefinite length, or a reserved length", field=field, offset=at)
        end = at + 1 + (1 << (info - 24))
        if end > len(data):
            raise PayloadEncoding("truncated", field=field, offset=at)
        argument = int.from_bytes(data[at + 1 : end])
        if argument < (24, 1 << 8, 1 << 16, 1 << 32)[info - 24]:
            raise PayloadEncoding("not in its shortest form", field=field, offset=at)
        self._position = end
        return major, argument

    def expect(self, expected: int, field: str) -> int:
        """The argument of the next item, which must be of major type `expected`."""
        at = self._position
        major, argument = self.head(field)
        if major != expected:
            raise BadField(f"{field} is not of the right type", field=field, offset=at, expected=expected, found=major)
        return argument

    def another(self, entries: int, read: int) -> bool:
        """Whether an entry follows the `read` ones of a container of `entries`; consumes the end of an indefinite one."""
        if entries != INDEFINITE:
            return read < entries
        if self._data[self._position : self._position + 1] == b"\xff":
            self._position += 1
            return False
        return True

    def string(self, major: int, field: str) -> bytes:
        """The bytes of the byte string (2) or text (3) that begins here."""
        length = self.expect(major, field)
        end = self._position + length
        if end > len(self._data):
            raise PayloadEncoding("truncated", field=field, offset=self._position)
        content = self._data[self._position : end]
        self._position = end
        return content

    def text(self, field: str) -> str:
        try:
            return self.string(3, field).decode("utf-8")
        except UnicodeDecodeError:
            raise PayloadEncoding("a text is not UTF-8", field=field) from None

    def unsigned(self, field: str) -> int:
        return self.expect(0, field)

    def null(self) -> bool:
        """Whether a null stood here; it is consumed."""
        if self._data[self._position : self._position + 1] != b"\xf6":
            return False
        self._position += 1
        return True

    def end(self) -> None:
        if self._position != len(self._data):
            raise PayloadEncoding("bytes after the end", offset=self._position)


def _module_id(reader: Reader, field: str) -> str:
    text = reader.text(field)
    if not text:
        raise BadField("module_id is empty", field=field)
    return text


def _digest(reader: Reader, field: str) -> str:
    text = reader.text(field)
    if text != "SHA384":
        raise BadField("digest is not SHA384", field=field, found=text[:32])
    return text


def _timestamp(reader: Reader, field: str) -> int:
    timestamp = reader.unsigned(field)
    if timestamp == 0:
        raise BadField("timestamp is not above 0", field=field)
    return timestamp


def _sized(minimum: int, maximum: int) -> Callable[[Reader, str], bytes]:
    def read(reader: Reader, field: str) -> bytes:
        content = reader.string(2, field)
        if not minimum <= len(content) <= maximum:
            raise BadField(f"{field} is out of its size", field=field, size=len(content), limit=maximum)
        return content

    return read


_certificate = _sized(1, MAX_CERTIFICATE_BYTES)


def _cabundle(reader: Reader, field: str) -> tuple[bytes, ...]:
    entries = reader.expect(4, field)
    bundle: list[bytes] = []
    while reader.another(entries, len(bundle)):
        if len(bundle) == MAX_BUNDLE_CERTIFICATES:
            raise BadField("cabundle has too many certificates", field=field, limit=MAX_BUNDLE_CERTIFICATES)
        bundle.append(_certificate(reader, field))
    if not bundle:
        raise BadField("cabundle is empty", field=field)
    return tuple(bundle)


def _pcrs(reader: Reader, field: str) -> Mapping[int, bytes]:
    entries = reader.expect(5, field)
    pcrs: dict[int, bytes] = {}
    while reader.another(entries, len(pcrs)):
        index = reader.unsigned(field)
        if index >= MAX_PCRS:
            raise BadField("a PCR index is above 31", field=field, found=index)
        if index in pcrs:
            raise DuplicateKey(field=field, index=index)
        pcrs[index] = reader.string(2, field)
        if len(pcrs[index]) not in PCR_BYTES:
            raise BadField("a PCR has no size of a digest", field=field, index=index, size=len(pcrs[index]))
    if not pcrs:
        raise BadField("there are no PCRs", field=field)
    return pcrs


_FIELDS: dict[str, Callable[[Reader, str], object]] = {
    "module_id": _module_id,
    "digest": _digest,
    "timestamp": _timestamp,
    "pcrs": _pcrs,
    "certificate": _certificate,
    "cabundle": _cabundle,
    "public_key": _sized(1, MAX_PUBLIC_KEY_BYTES),
    "user_data": _sized(0, MAX_USER_DATA_BYTES),
    "nonce": _sized(0, MAX_NONCE_BYTES),
}
_OPTIONAL = ("public_key", "user_data", "nonce")
_MANDATORY = tuple(name for name in _FIELDS if name not in _OPTIONAL)
