"""The Nitro security module, spoken to through its device.

Source: Linux, include/uapi/linux/nsm.h and drivers/misc/nsm.c; AWS, aws-nitro-enclaves-nsm-api (the CBOR of requests
and responses).

Rules:
1. One request is one ioctl, _IOWR(0x0A, 0, struct nsm_raw): two pairs of u64, address and length, of the request and of
   the response, in the machine's byte order. The driver writes the response's length back.
2. A request is at most 0x1000 bytes, a response 0x3000. The driver truncates silently: a full buffer is refused.
3. A request or response is the text of its name or, with arguments, a map of one entry, name → map of arguments. A
   failure is {"Error": text of the code}.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import cbor2

from avow.methods.tee.errors import AttesterRefused, AttesterUnavailable

DEVICE = Path("/dev/nsm")
IOCTL_RAW = 3 << 30 | 32 << 16 | 0x0A << 8 | 0
"""_IOWR(0x0A, 0, struct nsm_raw): direction both, 32 bytes, magic 0x0A, number 0 (asm-generic/ioctl.h)."""
MAX_REQUEST_BYTES = 0x1000
MAX_RESPONSE_BYTES = 0x3000
_RAW = struct.Struct("=QQQQ")

Ioctl = Callable[[int, int, bytearray, bool], int]
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class ModuleDescription:
    """What the module says of itself. `locked_pcrs` can no longer be extended."""

    version: tuple[int, int, int]
    module_id: str
    max_pcrs: int
    locked_pcrs: tuple[int, ...]
    digest: str


class SecurityModule:
    """An open module. Its requests block until the module answers; the driver gives up after two minutes.

    They raise AttesterUnavailable (no device, no answer) or AttesterRefused (the module said no, or nonsense).
    """

    def __init__(self, device: Path = DEVICE, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._ioctl = ioctl
        try:
            self._descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise AttesterUnavailable(
                f"no Nitro security module at {device}: {os.strerror(error.errno or 0)}",
                hint="this process does not run in a Nitro enclave; use the development enclave to try things out",
                device=str(device),
            ) from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def attestation(self, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
        """A signed attestation document, as the module made it."""
        arguments = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
        return _field(self._call("Attestation", arguments), "Attestation", "document", bytes)

    def describe(self) -> ModuleDescription:
        answer = self._call("DescribeNSM")
        version = [_field(answer, "DescribeNSM", f"version_{part}", int) for part in ("major", "minor", "patch")]
        locked = _field(answer, "DescribeNSM", "locked_pcrs", list)
        if not all(type(index) is int for index in locked):
            raise AttesterRefused("locked_pcrs holds something else than indexes", request="DescribeNSM")
        return ModuleDescription(
            version=(version[0], version[1], version[2]),
            module_id=_field(answer, "DescribeNSM", "module_id", str),
            max_pcrs=_field(answer, "DescribeNSM", "max_pcrs", int),
            locked_pcrs=tuple(sorted(locked)),
            digest=_field(answer, "DescribeNSM", "digest", str),
        )

    def describe_pcr(self, index: int) -> tuple[bool, bytes]:
        """Whether PCR `index` is locked, and its value."""
        answer = self._call("DescribePCR", {"index": index})
        return _field(answer, "DescribePCR", "lock", bool), _field(answer, "DescribePCR", "data", bytes)

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """PCR `index` := digest(PCR ‖ data); the new value. Indexes from 16 on are the application's."""
        return _field(self._call("ExtendPCR", {"index": index, "data": data}), "ExtendPCR", "data", bytes)

    def lock_pcr(self, index: int) -> None:
        self._call("LockPCR", {"index": index}, plain=True)

    def lock_pcrs(self, count: int) -> None:
        """Locks PCRs 0 … count-1."""
        self._call("LockPCRs", {"range": count}, plain=True)

    def random(self) -> bytes:
        """Entropy of the module's choice of length."""
        return _field(self._call("GetRandom"), "GetRandom", "random", bytes)

    def _call(self, name: str, arguments: Mapping[str, Any] | None = None, *, plain: bool = False) -> dict[str, Any]:
        """The arguments of the answer to one request; `plain` answers have none."""
        response = self._exchange(name, cbor2.dumps(name if arguments is None else {name: dict(arguments)}))
        if plain and response == name:
            return {}
        if isinstance(response, dict) and len(response) == 1:
            answer = response.get(name)
            if isinstance(answer, dict) and not plain:
                return cast("dict[str, Any]", answer)
            if isinstance(response.get("Error"), str):
                raise AttesterRefused(
                    f"the security module refused {name}: {response['Error']}", request=name, module=response["Error"]
                )
        raise AttesterRefused(f"the security module did not answer {name}", request=name)

    def _exchange(self, name: str, request: bytes) -> Any:
        if len(request) > MAX_REQUEST_BYTES:
            raise AttesterRefused("the request is too large for the security module", request=name, size=len(request))
        outgoing = ctypes.create_string_buffer(request, len(request))
        incoming = ctypes.create_string_buffer(MAX_RESPONSE_BYTES)
        raw = bytearray(
            _RAW.pack(ctypes.addressof(outgoing), len(request), ctypes.addressof(incoming), MAX_RESPONSE_BYTES)
        )
        try:
            self._ioctl(self._descriptor, IOCTL_RAW, raw, True)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise AttesterRefused("the request is too large for the driver", request=name) from error
            raise AttesterUnavailable(
                f"the security module gave no answer to {name}: {os.strerror(error.errno or 0)}", request=name
            ) from error
        size = _RAW.unpack(raw)[3]
        if not 0 < size < MAX_RESPONSE_BYTES:
            raise AttesterRefused("the answer does not fit", request=name, size=size)
        try:
            return cbor2.loads(incoming.raw[:size])
        except cbor2.CBORDecodeError as error:
            raise AttesterRefused("the answer is not CBOR", request=name) from error


def _field(answer: Mapping[str, Any], request: str, name: str, kind: type[_Kind]) -> _Kind:
    value = answer.get(name)
    if type(value) is not kind:
        raise AttesterRefused(f"the answer to {request} has no {name}", request=request, field=name)
    return value
