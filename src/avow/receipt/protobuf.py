"""The handful of protobuf encoders that block hashes and signatures need (proto3: zero values are left out).

Encoding only: nothing here parses. Source: protobuf's encoding specification; gogoproto's non-nullable messages are
written even when empty, hence `message_field`.
"""

_ZERO_TIME_SECONDS = -62_135_596_800
"""Go's zero time, 0001-01-01T00:00:00Z."""


_SHORTEST = [number.to_bytes(1) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Base-128, little end first; a negative int64 takes its two's complement, ten bytes."""
    if 0 <= number < 0x80:
        return _SHORTEST[number]
    if 0 < number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0:
        number += 1 << 64
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Also for texts, as UTF-8."""
    return varint(number << 3 | 2) + varint(len(value)) + value if value else b""


def message_field(number: int, encoded: bytes) -> bytes:
    """A message that is always written, empty or not."""
    return varint(number << 3 | 2) + varint(len(encoded)) + encoded


def fixed64_field(number: int, value: int) -> bytes:
    """sfixed64."""
    return varint(number << 3 | 1) + value.to_bytes(8, "little", signed=True) if value else b""


def timestamp(time_ns: int | None) -> bytes:
    """google.protobuf.Timestamp; None is Go's zero time."""
    if time_ns is None:
        return varint_field(1, _ZERO_TIME_SECONDS)
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return varint_field(1, seconds) + varint_field(2, nanoseconds)
