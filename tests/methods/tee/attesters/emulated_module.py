"""A Nitro security module behind the driver's ioctl: it reads and writes the caller's memory as the kernel does.

State as in the device: registers that extend and lock, and documents signed under the builder's chain.
"""

import ctypes
import errno
import hashlib
import struct

import cbor2

from tests.methods.tee import builder

COMMAND = 0xC0200A00
"""_IOWR(0x0A, 0, 32 bytes), worked out by hand from asm-generic/ioctl.h: 3 << 30, 32 << 16, 0x0A << 8."""


class EmulatedModule:
    def __init__(self):
        self.requests = []
        self.pcrs = {index: bytes(48) for index in range(32)} | {0: b"\xa0" * 48, 1: b"\xa1" * 48, 2: b"\xa2" * 48}
        self.locked = set(range(16))
        self.high_s = False
        self.error = None
        self.response = None
        self.claimed_size = None

    def __call__(self, descriptor, command, raw, mutate):
        assert descriptor >= 0
        assert command == COMMAND
        assert type(raw) is bytearray
        assert len(raw) == 32
        assert mutate is True
        request_address, request_size, response_address, response_size = struct.unpack("=4Q", raw)
        if self.error is not None:
            raise OSError(self.error, "emulated")
        if request_size > 0x1000:
            raise OSError(errno.EMSGSIZE, "emulated")
        request = ctypes.string_at(request_address, request_size)
        self.requests.append(request)
        response = self.response if self.response is not None else cbor2.dumps(self.answer(cbor2.loads(request)))
        size = min(len(response), response_size, 0x3000)
        ctypes.memmove(response_address, response, size)
        raw[24:32] = struct.pack("=Q", size if self.claimed_size is None else self.claimed_size)
        return 0

    def answer(self, request):
        if request == "DescribeNSM":
            return {
                "DescribeNSM": {
                    "digest": "SHA384",
                    "max_pcrs": 32,
                    "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
                    "locked_pcrs": sorted(self.locked),
                    "version_major": 1,
                    "version_minor": 2,
                    "version_patch": 3,
                }
            }
        if request == "GetRandom":
            return {"GetRandom": {"random": b"\x5a" * 256}}
        ((name, arguments),) = request.items()
        if name == "Attestation":
            if any(value is not None and len(value) > 1024 for value in arguments.values()):
                return {"Error": "InputTooLarge"}
            pcrs = {index: self.pcrs[index] for index in sorted(self.locked)}
            return {"Attestation": {"document": builder.document(pcrs=pcrs, high_s=self.high_s, **arguments)}}
        index = arguments.get("index", 0)
        if index not in self.pcrs:
            return {"Error": "InvalidIndex"}
        if name == "DescribePCR":
            return {"DescribePCR": {"lock": index in self.locked, "data": self.pcrs[index]}}
        if name == "LockPCRs":
            self.locked |= set(range(arguments["range"]))
            return "LockPCRs"
        if index in self.locked:
            return {"Error": "ReadOnlyIndex"}
        if name == "LockPCR":
            self.locked.add(index)
            return "LockPCR"
        if name == "ExtendPCR":
            self.pcrs[index] = hashlib.sha384(self.pcrs[index] + arguments["data"]).digest()
            return {"ExtendPCR": {"data": self.pcrs[index]}}
        return {"Error": "InvalidOperation"}
