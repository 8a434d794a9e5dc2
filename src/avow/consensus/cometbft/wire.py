"""Protobuf's wire format, read strictly: what a length-prefixed stream and its messages may be.

Rules (protobuf's encoding specification, narrowed to what CometBFT writes):
1. A message on the socket is its length as a varint and so many bytes; more than MAX_MESSAGE is refused before it is read.
2. A message is read by a table of its fields. A field that is not in the table, has another wire type, stands twice though it
   is not repeated, or runs beyond the end, is a ProtocolFault.
3. A varint has at most ten bytes and is below 2^64. It need not be the shortest.

Writing is `receipt.protobuf`'s. Pure.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from avow.consensus.cometbft.errors import ProtocolFault
from avow.receipt.protobuf import varint

MAX_MESSAGE = 64 * 1024 * 1024
_MAX_VARINT = 10


class Wire(IntEnum):
    """Wire types that occur; the others (fixed 32 and 64, groups) do not."""

    VARINT = 0
    BYTES = 2


Table = Mapping[int, tuple[Wire, bool]]
"""Field number → (wire type, repeated)."""

INT = (Wire.VARINT, False)
BYTES = (Wire.BYTES, False)
MANY = (Wire.BYTES, True)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises ProtocolFault."""
    try:
        byte = data[at]
        if byte < 0x80:
            return byte, at + 1
        number, shift = byte & 0x7F, 7
        for position in range(at + 1, at + _MAX_VARINT):
            byte = data[position]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number >> 64:
                    break
                return number, position + 1
            shift += 7
    except IndexError:
        raise ProtocolFault("a number is cut off") from None
    raise ProtocolFault("a number is too large")


def read_message(data: bytes, table: Table) -> dict[int, Any]:
    """Field number → value (an unsigned int or bytes), or the list of them for a repeated field. Raises ProtocolFault."""
    found: dict[int, Any] = {}
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        if tag < 0x80:  # nearly always
            at += 1
        else:
            tag, at = read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        entry = table.get(number)
        if entry is None or entry[0] != wire:
            raise ProtocolFault("a message has a field that it should not have", field=number, wire=wire)
        value: int | bytes
        if wire == Wire.VARINT:
            value, at = read_varint(data, at)
        else:
            length, at = read_varint(data, at)
            if length > end - at:
                raise ProtocolFault("a field runs beyond its message", field=number)
            value = data[at : at + length]
            at += length
        if entry[1]:
            if number in found:
                found[number].append(value)
            else:
                found[number] = [value]
        elif number in found:
            raise ProtocolFault("a field stands twice", field=number)
        else:
            found[number] = value
    return found


def signed(number: int) -> int:
    """An int64 from its varint."""
    return number - (1 << 64) if number >> 63 else number


def text(data: bytes) -> str:
    """Raises ProtocolFault."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolFault("a text is not UTF-8") from None


class Frames:
    """Rule 1: bytes in as they come, whole messages out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole message; None when more bytes are needed. Raises ProtocolFault."""
        buffer = self._buffer
        head = bytes(buffer[:_MAX_VARINT])
        if not head or (len(head) < _MAX_VARINT and head[-1] >= 0x80 and all(byte >= 0x80 for byte in head)):
            return None
        length, start = read_varint(head, 0)
        if length > MAX_MESSAGE:
            raise ProtocolFault("a message is too large", size=length, limit=MAX_MESSAGE)
        if len(buffer) < start + length:
            return None
        message = bytes(memoryview(buffer)[start : start + length])
        del buffer[: start + length]
        return message


def frame(message: bytes) -> bytes:
    """A message as it goes over the socket."""
    return varint(len(message)) + message
