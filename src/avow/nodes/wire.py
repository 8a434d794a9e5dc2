"""Frames between gateway, node and enclave, over a Unix socket, loopback TCP or vsock.

Rules:
1. A frame is u32 length ‖ u8 kind ‖ u32 call ‖ payload, big-endian; length counts what follows it and is checked before anything
   is kept. The payload is MessagePack, or empty; whoever only passes a frame on changes the call and nothing else.
2. The side that connected opens calls and numbers them; the other side answers under the same number. Call 0 is no call: notices.
3. The first frame is HELLO with the version from the connecting side. A frame that breaks a rule ends the connection.
4. A side that cannot write any more stops its producers until the other has read (`pressure`).
5. Frames may be sent by any thread, in one order: what a thread sends is written to the socket there and then, unless something
   waits before it. To have the loop do it would cost a wake-up more than the write.
"""

import asyncio
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from avow.errors import AvowError, FieldValue
from avow.nodes.errors import ConnectionLost, WireError, remote_error

log = logging.getLogger(__name__)

VERSION = 1
MAX_FRAME = 48 * 1024 * 1024
"""Room for a body of 16 MiB, its opening and its answer."""
MAX_FIRST_FRAME = 64
_HEADER = struct.Struct(">IBI")
_HIGH_WATER = 256 * 1024


class Kind(IntEnum):
    """What a frame is. Below 16: from the connecting side; from 16: from the other."""

    HELLO = 1
    ASK = 2
    JOB = 3
    CANCEL = 4
    PAUSE = 5
    RESUME = 6
    NOTE = 7
    REPLY = 16
    BEGIN = 17
    CHUNKS = 18
    HEAD = 19
    END = 20
    FAILED = 21


_FROM_CONNECTING = {int(kind): kind for kind in Kind if kind < Kind.REPLY}
_FROM_ACCEPTING = {int(kind): kind for kind in Kind if kind >= Kind.REPLY}
FrameHandler = Callable[["Connection", Kind, int, bytes], None]


class Failure(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """An error as it travels."""

    code: str
    http_status: int
    detail: str
    hint: str = ""
    fields: dict[str, str | int | bool | None] = {}


_encode = msgspec.msgpack.Encoder().encode
_failure = msgspec.msgpack.Decoder(Failure).decode
_Decoded = TypeVar("_Decoded")


def encode(value: Any) -> bytes:
    """MessagePack."""
    return _encode(value)


def decode(payload: bytes, kind: type[_Decoded]) -> _Decoded:
    """A payload of the expected type. Raises WireError."""
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a payload is not a {kind.__name__}") from error


def encode_failure(error: AvowError) -> bytes:
    return _encode(Failure(error.code, error.http_status, error.detail[:2048], error.hint[:512], dict(error.fields)))


def decode_failure(payload: bytes) -> AvowError:
    """The peer's error, to be raised here."""
    try:
        failure = _failure(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return WireError("the peer failed without saying how")
    fields: dict[str, FieldValue] = dict(failure.fields)
    return remote_error(failure.code, failure.http_status, failure.detail, failure.hint, fields)


class Connection(asyncio.Protocol):
    """Cuts a byte stream into frames. `on_frame` gets each; `on_lost` is called once; `on_pressure` as rule 4 says."""

    def __init__(self, on_frame: FrameHandler, *, accepting: bool) -> None:
        self._on_frame = on_frame
        self._accepting = accepting
        self._kinds = _FROM_CONNECTING if accepting else _FROM_ACCEPTING
        self._greeted = not accepting
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._descriptor = -1
        """The socket, for other threads than the loop's."""
        self._behind: list[bytes] = []
        """What another thread could not write, and what came after it."""
        self.on_lost: Callable[[Connection], None] | None = None
        self.on_pressure: Callable[[bool], None] | None = None
        self.closed = self._loop.create_future()

    @property
    def is_closed(self) -> bool:
        return self.closed.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own transports are registered as none of asyncio's classes
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        if not self._accepting:
            self.send(Kind.HELLO, 0, _encode(VERSION))

    def connection_lost(self, exc: Exception | None) -> None:
        with self._lock:
            self._transport = None
            self._behind.clear()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
        self._buffer.clear()
        if not self.closed.done():
            self.closed.set_result(None)
            if self.on_lost is not None:
                self.on_lost(self)
        del exc

    def pause_writing(self) -> None:
        if self.on_pressure is not None:
            self.on_pressure(True)

    def resume_writing(self) -> None:
        if self.on_pressure is not None:
            self.on_pressure(False)

    def send(self, kind: Kind, call: int, payload: bytes = b"") -> None:
        """Send one frame, or queue it (rule 5). A lost connection drops it: `on_lost` tells."""
        if len(payload) > MAX_FRAME - 5:
            raise WireError("a frame is too large", size=len(payload), limit=MAX_FRAME)
        frame = _HEADER.pack(len(payload) + 5, kind, call) + payload
        with self._lock:
            transport = self._transport
            if transport is None:
                return
            if threading.get_ident() == self._thread:
                if self._behind:
                    self._behind.append(frame)
                else:
                    transport.write(frame)
                return
            rest = frame
            if not self._behind and transport.get_write_buffer_size() == 0:
                rest = self._write(transport, frame)
            if rest:
                self._behind.append(rest)
                if len(self._behind) == 1:
                    self._loop.call_soon_threadsafe(self._catch_up)

    def _write(self, transport: asyncio.Transport, frame: bytes) -> bytes:
        """Write to the socket as much as it takes now; the rest."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.dup(transport.get_extra_info("socket").fileno())
            written = os.write(self._descriptor, frame)
        except BlockingIOError:
            return frame
        except OSError:
            return b""  # the loop is about to learn that the connection is lost
        return frame[written:]

    def _catch_up(self) -> None:
        with self._lock:
            behind, self._behind = b"".join(self._behind), []
            if self._transport is not None:
                self._transport.write(behind)

    def fail(self, call: int, error: AvowError) -> None:
        self.send(Kind.FAILED, call, encode_failure(error))

    def close(self) -> None:
        """End the connection after what is queued."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < 4 or len(buffer) < 4 + int.from_bytes(buffer[:4]) <= MAX_FRAME:
                return  # the rest of a large frame: wait without copying what is there
            data = bytes(buffer)
            buffer.clear()
        position, end = 0, len(data)
        try:
            while end - position >= _HEADER.size:
                length, number, call = _HEADER.unpack_from(data, position)
                self._check_length(length)
                next_position = position + 4 + length
                if end < next_position:
                    break
                self._frame(number, call, data[position + _HEADER.size : next_position])
                position = next_position
            if end - position >= 4:  # a length that cannot be is refused before what it announces has come
                self._check_length(int.from_bytes(data[position : position + 4]))
        except WireError as error:
            log.warning("a peer broke the protocol: %s", error.detail)
            self.close()
            return
        if position < end:
            buffer += data[position:]

    def _check_length(self, length: int) -> None:
        if not 5 <= length <= (MAX_FRAME if self._greeted else MAX_FIRST_FRAME):
            raise WireError("a frame has a length out of bounds", length=length)

    def _frame(self, number: int, call: int, payload: bytes) -> None:
        kind = self._kinds.get(number)
        if kind is None:
            raise WireError("a frame of a kind that does not belong here", kind=number)
        if kind is Kind.HELLO:
            if self._greeted or payload != _encode(VERSION):
                raise WireError("the peer speaks another version")
            self._greeted = True
            return
        if not self._greeted:
            raise WireError("the first frame is not HELLO")
        self._on_frame(self, kind, call, payload)


async def connect(address: str, on_frame: FrameHandler) -> Connection:
    """Connect to unix:PATH, tcp:HOST:PORT or vsock:CID:PORT. Raises ConnectionLost when nobody listens."""
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(on_frame, accepting=False)

    scheme, where = _parse(address)
    try:
        if scheme == "unix":
            _, connection = await loop.create_unix_connection(make, where[0])
        elif scheme == "tcp":
            _, connection = await loop.create_connection(make, where[0], int(where[1]))
        else:
            sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            sock.setblocking(False)
            await loop.sock_connect(sock, (int(where[0]), int(where[1])))
            _, connection = await loop.create_connection(make, sock=sock)
    except OSError as error:
        raise ConnectionLost(f"nobody answers at {address}", address=address) from error
    return connection


async def serve(address: str, make: Callable[[], Connection]) -> asyncio.Server:
    """Listen. A Unix socket is for this user alone; one left behind by a process that is gone is replaced."""
    loop = asyncio.get_running_loop()
    scheme, where = _parse(address)
    if scheme == "unix":
        sock = _unix_listener(Path(where[0]))
        return await loop.create_unix_server(make, sock=sock, backlog=128)
    if scheme == "tcp":
        return await loop.create_server(make, where[0], int(where[1]))
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.bind((int(where[0]), int(where[1])))
    return await loop.create_server(make, sock=sock)


def _unix_listener(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(previous)
    sock.setblocking(False)
    return sock


def _parse(address: str) -> tuple[str, tuple[str, ...]]:
    scheme, _, rest = address.partition(":")
    if scheme == "unix" and rest:
        return scheme, (rest,)
    host, _, port = rest.rpartition(":")
    if scheme in {"tcp", "vsock"} and host and port.isdecimal() and int(port) < 1 << 32:
        return scheme, (host, port)
    raise WireError("an address is unix:PATH, tcp:HOST:PORT or vsock:CID:PORT", address=address[:256])
