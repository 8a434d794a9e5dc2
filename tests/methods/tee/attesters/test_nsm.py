"""The security module's interface, byte by byte, against an emulated device."""

import contextlib
import errno
import hashlib
import os

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.methods.tee.attesters import NitroAttester
from avow.methods.tee.attesters.nsm import IOCTL_RAW, SecurityModule
from avow.methods.tee.errors import AttesterRefused, AttesterUnavailable, HighS
from avow.methods.tee.roots import AWS_NITRO_ROOT_G1
from avow.methods.tee.verify import verify_attestation
from tests.methods.tee import builder
from tests.methods.tee.attesters.emulated_module import COMMAND, EmulatedModule


@pytest.fixture
def emulated():
    return EmulatedModule()


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "nsm"
    path.touch()
    return path


@pytest.fixture
def module(emulated, device):
    with SecurityModule(device, ioctl=emulated) as module:
        yield module


def test_the_command_is_the_kernels():
    assert IOCTL_RAW == COMMAND


def test_requests_are_as_the_interface_writes_them(module, emulated):
    module.attestation(user_data=b"u", nonce=None, public_key=b"\x04")
    module.describe()
    module.describe_pcr(16)
    module.extend_pcr(16, b"data")
    module.lock_pcr(16)
    module.lock_pcrs(17)
    module.random()
    assert emulated.requests == [
        b"\xa1\x6bAttestation\xa3\x69user_data\x41u\x65nonce\xf6\x6apublic_key\x41\x04",
        b"\x6bDescribeNSM",
        b"\xa1\x6bDescribePCR\xa1\x65index\x10",
        b"\xa1\x69ExtendPCR\xa2\x65index\x10\x64data\x44data",
        b"\xa1\x67LockPCR\xa1\x65index\x10",
        b"\xa1\x68LockPCRs\xa1\x65range\x11",
        b"\x69GetRandom",
    ]


def test_answers_are_read(module, emulated):
    description = module.describe()
    assert description.version == (1, 2, 3)
    assert description.module_id == "i-0123456789abcdef0-enc0123456789abcdef"
    assert (description.max_pcrs, description.digest) == (32, "SHA384")
    assert description.locked_pcrs == tuple(range(16))
    assert module.describe_pcr(0) == (True, b"\xa0" * 48)
    assert module.describe_pcr(16) == (False, bytes(48))
    extended = module.extend_pcr(16, b"program")
    assert extended == hashlib.sha384(bytes(48) + b"program").digest()
    module.lock_pcr(16)
    assert module.describe_pcr(16) == (True, extended)
    module.lock_pcrs(20)
    assert module.describe().locked_pcrs == tuple(range(20))
    assert module.random() == b"\x5a" * 256


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (lambda module: module.extend_pcr(0, b"x"), "ReadOnlyIndex"),
        (lambda module: module.describe_pcr(32), "InvalidIndex"),
        (lambda module: module.attestation(user_data=bytes(1025), nonce=None, public_key=None), "InputTooLarge"),
    ],
)
def test_an_error_of_the_module_is_told(module, request_, code):
    with pytest.raises(AttesterRefused) as refused:
        request_(module)
    assert refused.value.fields["module"] == code


def test_a_request_beyond_the_interfaces_limit_is_not_sent(module, emulated):
    module.extend_pcr(16, bytes(0x1000 - 29))  # 28 bytes of CBOR around the data
    assert len(emulated.requests[0]) <= 0x1000
    with pytest.raises(AttesterRefused):
        module.extend_pcr(16, bytes(0x1000))
    assert len(emulated.requests) == 1


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EMSGSIZE, AttesterRefused),
        (errno.ETIMEDOUT, AttesterUnavailable),
        (errno.EIO, AttesterUnavailable),
        (errno.ENOTTY, AttesterUnavailable),
    ],
)
def test_a_failing_driver_is_a_typed_error(module, emulated, number, error):
    emulated.error = number
    with pytest.raises(error):
        module.random()


NONSENSE = {
    "nothing": b"",
    "no CBOR": b"\xff",
    "cut": cbor2.dumps({"GetRandom": {"random": b"x" * 30}})[:-1],
    "another request's answer": cbor2.dumps({"ExtendPCR": {"data": b"x"}}),
    "a name alone": cbor2.dumps("GetRandom"),
    "an unknown name": cbor2.dumps("Hello"),
    "two answers": cbor2.dumps({"GetRandom": {"random": b"x"}, "Error": "InternalError"}),
    "no arguments": cbor2.dumps({"GetRandom": {}}),
    "text for bytes": cbor2.dumps({"GetRandom": {"random": "x"}}),
    "a list": cbor2.dumps(["GetRandom"]),
    "an error that is no text": cbor2.dumps({"Error": 1}),
    "as large as the buffer": cbor2.dumps({"GetRandom": {"random": bytes(0x3000)}}),
    "nested deeply": b"\x81" * 5000 + b"\x01",
    "a map with an unhashable key": b"\xa1\x80\x01",
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_from_the_module_is_a_typed_error(module, emulated, case):
    emulated.response = NONSENSE[case]
    with pytest.raises(AttesterRefused):
        module.random()


@pytest.mark.parametrize("size", [0, 0x3000, 0x3001, (1 << 64) - 1])
def test_a_size_that_the_driver_cannot_mean_is_refused(module, emulated, size):
    emulated.claimed_size = size
    with pytest.raises(AttesterRefused):
        module.random()


@pytest.mark.parametrize("name", ["lock_pcr", "lock_pcrs"])
def test_a_lock_that_is_not_confirmed_is_an_error(module, emulated, name):
    for response in ({"LockPCR": {}}, {"LockPCRs": {}}, "Other"):
        emulated.response = cbor2.dumps(response)
        with pytest.raises(AttesterRefused):
            getattr(module, name)(16)


def test_a_description_with_a_bad_field_is_an_error(module, emulated):
    good = emulated.answer("DescribeNSM")["DescribeNSM"]
    for change in (
        {"locked_pcrs": ["0"]},
        {"locked_pcrs": 1},
        {"version_minor": "2"},
        {"max_pcrs": True},
        {"digest": None},
    ):
        emulated.response = cbor2.dumps({"DescribeNSM": good | change})
        with pytest.raises(AttesterRefused):
            module.describe()


def test_arbitrary_answers_give_typed_errors_only(device):
    emulated = EmulatedModule()
    with SecurityModule(device, ioctl=emulated) as module:

        @given(st.binary(max_size=200))
        def answers(data):
            emulated.response = data
            for request in (
                module.random,
                module.describe,
                lambda: module.describe_pcr(0),
                lambda: module.lock_pcr(16),
            ):
                with contextlib.suppress(AttesterRefused):
                    request()

        answers()


def test_no_device_is_a_typed_error(tmp_path):
    with pytest.raises(AttesterUnavailable) as missing:
        SecurityModule(tmp_path / "none")
    assert "development" in missing.value.hint
    with pytest.raises(AttesterUnavailable):
        NitroAttester(tmp_path / "none").attest()


def test_a_file_that_is_no_device_gives_no_answer(device):
    with SecurityModule(device) as module, pytest.raises(AttesterUnavailable):
        module.random()


def test_the_descriptor_is_closed_once(device, emulated):
    module = SecurityModule(device, ioctl=emulated)
    descriptor = module._descriptor
    module.close()
    module.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


@pytest.mark.parametrize("high_s", [True, False])
def test_the_attester_hands_out_documents_that_verify(device, emulated, high_s):
    emulated.high_s = high_s
    attester = NitroAttester(device, ioctl=emulated)
    document = attester.attest(b"\x04" * 65, b"u" * 32, b"n")
    attestation = verify_attestation(document, roots=builder.roots(), now_ms=builder.NOW_MS)
    assert (attestation.public_key, attestation.user_data, attestation.nonce) == (b"\x04" * 65, b"u" * 32, b"n")
    with pytest.raises(HighS):
        verify_attestation(builder.flip_s(document), roots=builder.roots(), now_ms=builder.NOW_MS)


def test_the_attester_says_what_it_is(device, emulated):
    attester = NitroAttester(device, ioctl=emulated)
    assert (attester.name, attester.hardware, attester.root) == ("nitro", True, AWS_NITRO_ROOT_G1)


def test_a_malformed_document_of_the_module_is_refused(device, emulated):
    emulated.response = cbor2.dumps({"Attestation": {"document": b"\xd2" + builder.document()}})
    with pytest.raises(AttesterRefused):
        NitroAttester(device, ioctl=emulated).attest()
