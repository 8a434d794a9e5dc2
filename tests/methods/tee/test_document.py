"""The frame and the payload: one spelling outside the signature, all that real documents do inside it."""

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avow.methods.tee import document as tee_document
from avow.methods.tee import errors
from avow.methods.tee.document import Reader, build_frame, low_s_form, parse_frame, parse_payload, signed_bytes
from tests.methods.tee import builder
from tests.methods.tee.builder import Absent, Raw

GOOD = builder.document()
PAYLOAD = builder.payload()
SIGNATURE = GOOD[-96:]
HEAD = b"\x84\x44\xa1\x01\x38\x22\xa0"
LENGTH = len(PAYLOAD).to_bytes(2)
TAIL = b"\x58\x60" + SIGNATURE


def test_a_frame_comes_apart_and_together():
    frame = parse_frame(GOOD)
    assert frame.payload == GOOD[10:-98]
    assert frame.signature == SIGNATURE
    assert (frame.r, frame.s) == (int.from_bytes(SIGNATURE[:48]), int.from_bytes(SIGNATURE[48:]))
    assert build_frame(frame.payload, frame.signature) == GOOD
    assert cbor2.loads(GOOD) == [b"\xa1\x01\x38\x22", {}, frame.payload, SIGNATURE]
    assert cbor2.loads(signed_bytes(frame.payload)) == ["Signature1", b"\xa1\x01\x38\x22", b"", frame.payload]


MALLEABILITIES = {
    "tag 18": (lambda d: b"\xd2" + d, "attestation_tagged"),
    "tag 18, long": (lambda d: b"\xd8\x12" + d, "attestation_tagged"),
    "self-described CBOR": (lambda d: b"\xd9\xd9\xf7" + d, "attestation_tagged"),
    "trailing byte": (lambda d: d + b"\x00", "attestation_trailing_bytes"),
    "trailing break": (lambda d: d + b"\xff", "attestation_trailing_bytes"),
    "trailing document": (lambda d: d + d[:600], "attestation_trailing_bytes"),
    "indefinite array": (lambda d: b"\x9f" + d[1:] + b"\xff", "attestation_indefinite_array"),
    "array length in 1 byte": (lambda d: b"\x98\x04" + d[1:], "attestation_long_form_length"),
    "array length in 2 bytes": (lambda d: b"\x99\x00\x04" + d[1:], "attestation_long_form_length"),
    "array length in 4 bytes": (lambda d: b"\x9a\x00\x00\x00\x04" + d[1:], "attestation_long_form_length"),
    "array length in 8 bytes": (lambda d: b"\x9b" + bytes(7) + b"\x04" + d[1:], "attestation_long_form_length"),
    "protected length in 1 byte": (lambda d: b"\x84\x58\x04" + d[2:], "attestation_long_form_length"),
    "protected length in 2 bytes": (lambda d: b"\x84\x59\x00\x04" + d[2:], "attestation_long_form_length"),
    "payload length in 4 bytes": (lambda d: d[:7] + b"\x5a\x00\x00" + d[8:], "attestation_long_form_length"),
    "payload length in 8 bytes": (lambda d: d[:7] + b"\x5b" + bytes(6) + d[8:], "attestation_long_form_length"),
    "signature length in 2 bytes": (lambda d: d[:-98] + b"\x59\x00\x60" + d[-96:], "attestation_long_form_length"),
    "signature length in 4 bytes": (
        lambda d: d[:-98] + b"\x5a\x00\x00\x00\x60" + d[-96:],
        "attestation_long_form_length",
    ),
}


@pytest.mark.parametrize("way", MALLEABILITIES)
def test_another_spelling_of_a_document_is_refused_with_its_own_code(way):
    respell, code = MALLEABILITIES[way]
    respelled = respell(GOOD)
    with pytest.raises(errors.AttestationError) as refused:
        parse_frame(respelled)
    assert refused.value.code == code


REFUSED_FRAMES = {
    "empty": (b"", errors.TruncatedDocument),
    "array head alone": (b"\x84", errors.TruncatedDocument),
    "protected head without length": (b"\x84\x58", errors.TruncatedDocument),
    "up to the protected header": (HEAD[:6], errors.TruncatedDocument),
    "up to the unprotected header": (HEAD, errors.TruncatedDocument),
    "half a payload length": (HEAD + b"\x59\x10", errors.TruncatedDocument),
    "payload cut": (GOOD[:-200], errors.TruncatedDocument),
    "no signature": (GOOD[:-98], errors.TruncatedDocument),
    "signature cut": (GOOD[:-1], errors.TruncatedDocument),
    "an array of 3": (b"\x83" + GOOD[1:], errors.MalformedDocument),
    "an array of 5": (b"\x85" + GOOD[1:], errors.MalformedDocument),
    "a reserved array length": (b"\x9c" + GOOD[1:], errors.MalformedDocument),
    "another reserved array length": (b"\x97" + GOOD[1:], errors.MalformedDocument),
    "a map": (b"\xa4" + GOOD[1:], errors.MalformedDocument),
    "a text": (b"\x64" + GOOD[1:], errors.MalformedDocument),
    "protected header as text": (b"\x84\x64" + GOOD[2:], errors.MalformedDocument),
    "protected header of indefinite length": (
        b"\x84\x5f\x44" + GOOD[2:6] + b"\xff" + GOOD[6:],
        errors.MalformedDocument,
    ),
    "protected header of reserved length": (b"\x84\x5c" + GOOD[2:], errors.MalformedDocument),
    "protected header of 24": (b"\x84\x58\x18" + bytes(24) + GOOD[6:], errors.WrongAlgorithm),
    "protected header empty": (b"\x84\x40" + GOOD[6:], errors.WrongAlgorithm),
    "protected header longer": (b"\x84\x45\xa1\x01\x39\x00\x22" + GOOD[6:], errors.WrongAlgorithm),
    "ES256": (b"\x84\x43\xa1\x01\x26" + GOOD[6:], errors.WrongAlgorithm),
    "ES512": (b"\x84\x44\xa1\x01\x38\x23" + GOOD[6:], errors.WrongAlgorithm),
    "unprotected header of one": (GOOD[:6] + b"\xa1\x01\x01" + GOOD[7:], errors.UnprotectedHeader),
    "unprotected header indefinite": (GOOD[:6] + b"\xbf\xff" + GOOD[7:], errors.UnprotectedHeader),
    "unprotected header null": (GOOD[:6] + b"\xf6" + GOOD[7:], errors.UnprotectedHeader),
    "payload null": (HEAD + b"\xf6" + TAIL, errors.MalformedDocument),
    "payload text": (HEAD + b"\x79" + LENGTH + PAYLOAD + TAIL, errors.MalformedDocument),
    "payload empty": (HEAD + b"\x40" + TAIL, errors.MalformedDocument),
    "payload of 255": (HEAD + b"\x58\xff" + bytes(255) + TAIL, errors.MalformedDocument),
    "payload of 23": (HEAD + b"\x57" + bytes(23) + TAIL, errors.MalformedDocument),
    "payload of 16385": (HEAD + b"\x59\x40\x01" + bytes(16385) + TAIL, errors.DocumentTooLarge),
    "payload of 65536": (HEAD + b"\x5a\x00\x01\x00\x00" + TAIL, errors.DocumentTooLarge),
    "payload of 2^32": (HEAD + b"\x5b\x00\x00\x00\x01\x00\x00\x00\x00" + TAIL, errors.DocumentTooLarge),
    "payload length beyond all": (HEAD + b"\x5b" + b"\xff" * 8 + TAIL, errors.DocumentTooLarge),
    "signature of 95": (GOOD[:-98] + b"\x58\x5f" + GOOD[-95:], errors.MalformedDocument),
    "signature of 97": (GOOD[:-98] + b"\x58\x61\x00" + GOOD[-96:], errors.MalformedDocument),
    "signature of 95, cut after its length": (GOOD[:-98] + b"\x58\x5f", errors.MalformedDocument),
    "signature as text": (GOOD[:-98] + b"\x78" + GOOD[-97:], errors.MalformedDocument),
    "too large": (bytes(20_000), errors.DocumentTooLarge),
}


@pytest.mark.parametrize("case", REFUSED_FRAMES)
def test_a_malformed_frame_is_refused(case):
    document, error = REFUSED_FRAMES[case]
    with pytest.raises(error) as refused:
        parse_frame(document)
    assert type(refused.value) is error


@pytest.mark.parametrize("size", [256, 16_384])
def test_the_sizes_of_a_payload_at_their_limits(size):
    document = builder.frame(bytes(size), bytes(96))
    assert parse_frame(document).payload == bytes(size)


def test_the_largest_document_is_as_large_as_stated():
    assert len(builder.frame(bytes(16_384), bytes(96))) == tee_document.MAX_DOCUMENT_BYTES


def test_every_truncation_is_refused():
    for end in range(len(GOOD)):
        with pytest.raises(errors.TruncatedDocument):
            parse_frame(GOOD[:end])


def test_the_low_s_form_flips_a_high_s_and_leaves_a_low_one():
    high = builder.flip_s(GOOD)
    assert high != GOOD
    assert low_s_form(high) == GOOD
    assert low_s_form(GOOD) == GOOD


@pytest.mark.parametrize(
    ("s", "low"),
    [
        (builder.ORDER // 2, builder.ORDER // 2),
        (builder.ORDER // 2 + 1, builder.ORDER // 2),
        (builder.ORDER - 1, 1),
        (builder.ORDER, builder.ORDER),
        (0, 0),
    ],
)
def test_the_low_s_form_at_the_ends_of_its_range(s, low):
    assert parse_frame(low_s_form(GOOD[:-48] + s.to_bytes(48))).s == low


def test_the_low_s_form_of_something_else_is_refused():
    with pytest.raises(errors.TaggedDocument):
        low_s_form(b"\xd2" + GOOD)


@pytest.mark.parametrize("indefinite", [True, False])
def test_a_payload_is_read(indefinite):
    parsed = parse_payload(builder.payload(indefinite=indefinite, public_key=b"k", user_data=b"", nonce=b"n" * 512))
    certificates = builder.chain()
    assert parsed.module_id == "i-0123456789abcdef0-enc0123456789abcdef"
    assert parsed.digest == "SHA384"
    assert parsed.timestamp_ms == builder.NOW_MS - 1000
    assert parsed.pcrs == builder.PCRS
    assert parsed.certificate == certificates[-1]
    assert parsed.cabundle == certificates[:-1]
    assert (parsed.public_key, parsed.user_data, parsed.nonce) == (b"k", b"", b"n" * 512)


@pytest.mark.parametrize("nothing", [None, Absent])
def test_null_is_absent(nothing):
    parsed = parse_payload(builder.payload(public_key=nothing, user_data=nothing, nonce=nothing))
    assert (parsed.public_key, parsed.user_data, parsed.nonce) == (None, None, None)


def test_maps_and_arrays_inside_may_be_indefinite():
    certificates = builder.chain()
    parsed = parse_payload(
        builder.payload(
            pcrs=builder.indefinite_map(builder.PCRS), cabundle=builder.indefinite_array(list(certificates[:-1]))
        )
    )
    assert parsed.pcrs == builder.PCRS
    assert parsed.cabundle == certificates[:-1]


ACCEPTED_FIELDS = {
    "one PCR": {"pcrs": {31: bytes(48)}},
    "32 PCRs": {"pcrs": {index: bytes(48) for index in range(32)}},
    "PCRs of 32 bytes": {"pcrs": {0: bytes(32)}},
    "PCRs of 64 bytes": {"pcrs": {0: bytes(64)}},
    "timestamp 1": {"timestamp": 1},
    "timestamp 2^64-1": {"timestamp": (1 << 64) - 1},
    "certificate of 1": {"certificate": b"\x30"},
    "certificate of 1024": {"certificate": bytes(1024)},
    "one in the bundle": {"cabundle": [b"\x30"]},
    "eight in the bundle": {"cabundle": [bytes(1024)] * 8},
    "public key of 1": {"public_key": b"k"},
    "public key of 1024": {"public_key": bytes(1024)},
    "user data of 0": {"user_data": b""},
    "user data of 512": {"user_data": bytes(512)},
    "nonce of 0": {"nonce": b""},
    "nonce of 512": {"nonce": bytes(512)},
    "a module id of one character": {"module_id": "m"},
    "a module id beyond ASCII": {"module_id": "m\u00f6dul"},
}


@pytest.mark.parametrize("case", ACCEPTED_FIELDS)
def test_a_field_at_its_limit_is_accepted(case):
    ((field, value),) = ACCEPTED_FIELDS[case].items()
    parsed = parse_payload(builder.payload(**{field: value}))
    expected = tuple(value) if field == "cabundle" else value
    assert getattr(parsed, {"timestamp": "timestamp_ms"}.get(field, field)) == expected


REFUSED_FIELDS = {
    "module_id empty": ({"module_id": ""}, errors.BadField),
    "module_id bytes": ({"module_id": b"m"}, errors.BadField),
    "module_id not UTF-8": ({"module_id": Raw(b"\x62\xc3\x28")}, errors.PayloadEncoding),
    "module_id of indefinite length": ({"module_id": Raw(b"\x7f\x61m\xff")}, errors.PayloadEncoding),
    "digest SHA256": ({"digest": "SHA256"}, errors.BadField),
    "digest lower case": ({"digest": "sha384"}, errors.BadField),
    "digest bytes": ({"digest": b"SHA384"}, errors.BadField),
    "timestamp 0": ({"timestamp": 0}, errors.BadField),
    "timestamp negative": ({"timestamp": -1}, errors.BadField),
    "timestamp text": ({"timestamp": "1"}, errors.BadField),
    "timestamp float": ({"timestamp": 1.5}, errors.PayloadEncoding),
    "timestamp true": ({"timestamp": True}, errors.PayloadEncoding),
    "timestamp tagged": ({"timestamp": Raw(b"\xc1\x01")}, errors.PayloadEncoding),
    "timestamp bignum": ({"timestamp": 1 << 64}, errors.PayloadEncoding),
    "timestamp in long form": ({"timestamp": Raw(b"\x18\x01")}, errors.PayloadEncoding),
    "timestamp 23 in long form": ({"timestamp": Raw(b"\x18\x17")}, errors.PayloadEncoding),
    "timestamp 255 in two bytes": ({"timestamp": Raw(b"\x19\x00\xff")}, errors.PayloadEncoding),
    "timestamp 65535 in four": ({"timestamp": Raw(b"\x1a\x00\x00\xff\xff")}, errors.PayloadEncoding),
    "timestamp 2^32-1 in eight": ({"timestamp": Raw(b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff")}, errors.PayloadEncoding),
    "timestamp of reserved length": ({"timestamp": Raw(b"\x1c\x01")}, errors.PayloadEncoding),
    "timestamp of indefinite length": ({"timestamp": Raw(b"\x1f\x01\xff")}, errors.PayloadEncoding),
    "pcrs empty": ({"pcrs": {}}, errors.BadField),
    "pcrs empty, indefinite": ({"pcrs": Raw(b"\xbf\xff")}, errors.BadField),
    "pcrs an array": ({"pcrs": [bytes(48)]}, errors.BadField),
    "PCR 32": ({"pcrs": {32: bytes(48)}}, errors.BadField),
    "33 PCRs": ({"pcrs": {index: bytes(48) for index in range(33)}}, errors.BadField),
    "PCR -1": ({"pcrs": {-1: bytes(48)}}, errors.BadField),
    "PCR by text": ({"pcrs": {"0": bytes(48)}}, errors.BadField),
    "PCR of 31 bytes": ({"pcrs": {0: bytes(31)}}, errors.BadField),
    "PCR of 47 bytes": ({"pcrs": {0: bytes(47)}}, errors.BadField),
    "PCR of 65 bytes": ({"pcrs": {0: bytes(65)}}, errors.BadField),
    "PCR empty": ({"pcrs": {0: b""}}, errors.BadField),
    "PCR text": ({"pcrs": {0: "0" * 48}}, errors.BadField),
    "PCR null": ({"pcrs": {0: None}}, errors.PayloadEncoding),
    "PCR twice": ({"pcrs": Raw(b"\xa2" + 2 * (b"\x00" + cbor2.dumps(bytes(48))))}, errors.DuplicateKey),
    "PCR twice, indefinite": (
        {"pcrs": Raw(b"\xbf" + 2 * (b"\x00" + cbor2.dumps(bytes(48))) + b"\xff")},
        errors.DuplicateKey,
    ),
    "PCR twice, once in long form": (
        {"pcrs": Raw(b"\xa2\x00" + cbor2.dumps(bytes(48)) + b"\x18\x00" + cbor2.dumps(bytes(48)))},
        errors.PayloadEncoding,
    ),
    "certificate empty": ({"certificate": b""}, errors.BadField),
    "certificate of 1025": ({"certificate": bytes(1025)}, errors.BadField),
    "certificate text": ({"certificate": "c"}, errors.BadField),
    "certificate in chunks": ({"certificate": Raw(b"\x5f\x41\x30\xff")}, errors.PayloadEncoding),
    "cabundle empty": ({"cabundle": []}, errors.BadField),
    "cabundle empty, indefinite": ({"cabundle": Raw(b"\x9f\xff")}, errors.BadField),
    "cabundle a map": ({"cabundle": {0: b"\x30"}}, errors.BadField),
    "cabundle of 9": ({"cabundle": [b"\x30"] * 9}, errors.BadField),
    "cabundle of 9, indefinite": ({"cabundle": builder.indefinite_array([b"\x30"] * 9)}, errors.BadField),
    "cabundle with an empty certificate": ({"cabundle": [b"\x30", b""]}, errors.BadField),
    "cabundle with one of 1025": ({"cabundle": [bytes(1025)]}, errors.BadField),
    "cabundle with a text": ({"cabundle": ["c"]}, errors.BadField),
    "cabundle with null": ({"cabundle": [None]}, errors.PayloadEncoding),
    "public key empty": ({"public_key": b""}, errors.BadField),
    "public key of 1025": ({"public_key": bytes(1025)}, errors.BadField),
    "public key text": ({"public_key": "k"}, errors.BadField),
    "public key undefined": ({"public_key": Raw(b"\xf7")}, errors.PayloadEncoding),
    "user data of 513": ({"user_data": bytes(513)}, errors.BadField),
    "user data text": ({"user_data": "u"}, errors.BadField),
    "nonce of 513": ({"nonce": bytes(513)}, errors.BadField),
    "nonce integer": ({"nonce": 1}, errors.BadField),
    "an unknown field": ({"pcr": b""}, errors.UnknownField),
    "the field of NitroTPM": ({"nitrotpm_pcrs": {0: bytes(48)}}, errors.UnknownField),
    **{
        f"{field} {word}": ({field: nothing}, errors.MissingField)
        for field in ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
        for word, nothing in (("absent", Absent), ("null", None))
    },
}


@pytest.mark.parametrize("case", REFUSED_FIELDS)
@pytest.mark.parametrize("indefinite", [True, False])
def test_a_field_out_of_its_rules_is_refused(case, indefinite):
    changes, error = REFUSED_FIELDS[case]
    (field,) = changes
    with pytest.raises(error) as refused:
        parse_payload(builder.payload(indefinite=indefinite, **changes))
    assert type(refused.value) is error
    assert refused.value.fields["field"] == field


DUPLICATED = b"\xbf" + PAYLOAD[1:-1]
REFUSED_PAYLOADS = {
    "empty": (b"", errors.PayloadEncoding),
    "an array": (b"\x80", errors.BadField),
    "null": (b"\xf6", errors.PayloadEncoding),
    "an empty map": (b"\xa0", errors.MissingField),
    "an empty indefinite map": (b"\xbf\xff", errors.MissingField),
    "an endless map": (PAYLOAD[:-1], errors.PayloadEncoding),
    "bytes after the map": (PAYLOAD + b"\x00", errors.PayloadEncoding),
    "a second break": (PAYLOAD + b"\xff", errors.PayloadEncoding),
    "a break in a definite map": (builder.payload(indefinite=False)[:-1] + b"\xff", errors.PayloadEncoding),
    "a map of more": (b"\xaa" + builder.payload(indefinite=False)[1:], errors.PayloadEncoding),
    "a map of fewer": (b"\xa8" + builder.payload(indefinite=False)[1:], errors.PayloadEncoding),
    "a map of 2^64-1": (b"\xbb" + b"\xff" * 8 + PAYLOAD[1:-1], errors.PayloadEncoding),
    "a map length in long form": (b"\xb8\x09" + builder.payload(indefinite=False)[1:], errors.PayloadEncoding),
    "a field twice": (DUPLICATED + cbor2.dumps("digest") + cbor2.dumps("SHA384") + b"\xff", errors.DuplicateKey),
    "a null field twice": (DUPLICATED + cbor2.dumps("nonce") + b"\xf6\xff", errors.DuplicateKey),
    "a null, then a value": (DUPLICATED + cbor2.dumps("nonce") + b"\x41n\xff", errors.DuplicateKey),
    "a key of bytes": (DUPLICATED + b"\x45nonce\x41n\xff", errors.BadField),
    "a key of indefinite length": (b"\xbf\x7f\x65nonce\xff\xf6" + PAYLOAD[1:], errors.PayloadEncoding),
    "a key in long form": (b"\xbf\x78\x05nonce\xf6" + PAYLOAD[1:], errors.PayloadEncoding),
    "a key that is not UTF-8": (b"\xbf\x62\xc3\x28\xf6" + PAYLOAD[1:], errors.UnknownField),
    "a text beyond the end": (b"\xbf\x7b" + b"\xff" * 8, errors.PayloadEncoding),
    "a text one beyond the end": (b"\xbf\x66nonce", errors.PayloadEncoding),
    "half a length": (b"\xbf\x79\x00", errors.PayloadEncoding),
    "too large": (bytes(16_385), errors.DocumentTooLarge),
}


@pytest.mark.parametrize("case", REFUSED_PAYLOADS)
def test_a_malformed_payload_is_refused(case):
    payload, error = REFUSED_PAYLOADS[case]
    with pytest.raises(error) as refused:
        parse_payload(payload)
    assert type(refused.value) is error


def test_every_truncation_of_a_payload_is_refused():
    for end in range(len(PAYLOAD)):
        with pytest.raises(errors.AttestationError):
            parse_payload(PAYLOAD[:end])


def test_a_payload_at_its_largest_is_read():
    filled = builder.payload(certificate=bytes(1024), cabundle=[bytes(1024)] * 8, public_key=bytes(1024))
    parse_payload(filled)
    with pytest.raises(errors.PayloadEncoding):  # its size is within the limit: read, and found to go on after its end
        parse_payload(filled + bytes(16_384 - len(filled)))


@pytest.mark.parametrize(
    ("encoded", "argument"),
    [("17", 23), ("1818", 24), ("18ff", 255), ("190100", 256), ("1a00010000", 65536), ("1b0000000100000000", 1 << 32)],
)
def test_each_width_of_a_number_begins_where_it_must(encoded, argument):
    assert Reader(bytes.fromhex(encoded)).head("n") == (0, argument)


@pytest.mark.parametrize("encoded", ["18", "1901", "1a010000", "1b01000000000000"])
def test_a_number_that_is_cut_is_not_read(encoded):
    with pytest.raises(errors.PayloadEncoding):
        Reader(bytes.fromhex(encoded)).head("n")


def only_typed_errors(parse, data):
    try:
        return parse(data)
    except errors.AttestationError:
        return None


@given(st.binary(max_size=600))
@example(b"\x84")
def test_arbitrary_bytes_as_a_document_give_typed_errors_only(data):
    only_typed_errors(parse_frame, data)
    only_typed_errors(parse_frame, HEAD + data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_as_a_payload_give_typed_errors_only(data):
    only_typed_errors(parse_payload, data)
    only_typed_errors(parse_payload, b"\xbf" + data)


@settings(max_examples=400)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=12), st.integers(0, 12))
def test_a_document_with_a_piece_replaced_gives_the_same_frame_or_a_typed_error(at, inserted, removed):
    changed = GOOD[:at] + inserted + GOOD[at + removed :]
    frame = only_typed_errors(parse_frame, changed)
    if frame is not None:
        assert build_frame(frame.payload, frame.signature) == changed
        only_typed_errors(parse_payload, frame.payload)


def cbor_values():
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(1 << 64), (1 << 64) - 1)
        | st.floats(allow_nan=False)
        | st.binary(max_size=70)
        | st.text(max_size=8)
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 40) | st.text(max_size=3), inner, max_size=4)
        ),
        max_leaves=8,
    )


FIELD_NAMES = (
    "module_id",
    "digest",
    "timestamp",
    "pcrs",
    "certificate",
    "cabundle",
    "public_key",
    "user_data",
    "nonce",
)


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from((*FIELD_NAMES, "other")), cbor_values(), max_size=3), st.booleans())
def test_a_payload_that_is_accepted_reads_as_other_cbor_decoders_read_it(changes, indefinite):
    payload = builder.payload(indefinite=indefinite, **changes)
    parsed = only_typed_errors(parse_payload, payload)
    if parsed is None:
        return
    fields = cbor2.loads(payload)
    assert set(fields) <= set(FIELD_NAMES)
    assert parsed.timestamp_ms == fields["timestamp"]
    for name in FIELD_NAMES:
        if name not in ("timestamp", "cabundle"):
            assert getattr(parsed, name) == fields.get(name)
    assert list(parsed.cabundle) == fields["cabundle"]
