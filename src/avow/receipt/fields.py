"""Checked access to decoded values: each function returns the typed value or raises FieldError naming the field."""

from collections.abc import Sequence

from avow.errors import EncodingError, UnknownVersion
from avow.receipt.encoding import Value

MAX_TIME_MS = 1 << 48
"""A bound on times in milliseconds since the epoch (the year 10889)."""


class FieldError(EncodingError):
    """A field is missing, unknown, of the wrong type or out of range."""

    code = "bad_field"


def mapping(value: Value, field: str, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Value]:
    """A map with exactly `names`, and any of `optional`."""
    if not isinstance(value, dict):
        raise FieldError(f"{field} is not a map", field=field)
    for name in names:
        if name not in value:
            raise FieldError(f"{field} lacks {name}", field=f"{field}.{name}")
    if len(value) > len(names):
        for name in value:
            if name not in names and name not in optional:
                raise FieldError(f"{field} has an unknown member {name[:64]!r}", field=field)
    return value


def array(value: Value, field: str, *, max_length: int) -> list[Value]:
    if not isinstance(value, list):
        raise FieldError(f"{field} is not an array", field=field)
    if len(value) > max_length:
        raise FieldError(f"{field} has more than {max_length} items", field=field)
    return value


def octets(value: Value, field: str, length: int, max_length: int | None = None) -> bytes:
    """Bytes of exactly `length`, or of `length` to `max_length`."""
    if not isinstance(value, bytes):
        raise FieldError(f"{field} is not a byte string", field=field)
    if not length <= len(value) <= (length if max_length is None else max_length):
        raise FieldError(f"{field} has {len(value)} bytes", field=field)
    return value


def text(value: Value, field: str, *, max_length: int) -> str:
    if not isinstance(value, str):
        raise FieldError(f"{field} is not a text", field=field)
    if len(value) > max_length:
        raise FieldError(f"{field} is longer than {max_length}", field=field)
    return value


def integer(value: Value, field: str, *, maximum: int = (1 << 64) - 1) -> int:
    """An unsigned integer up to `maximum`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(f"{field} is not an integer", field=field)
    if not 0 <= value <= maximum:
        raise FieldError(f"{field} is out of range", field=field)
    return value


def boolean(value: Value, field: str) -> bool:
    if not isinstance(value, bool):
        raise FieldError(f"{field} is not a truth value", field=field)
    return value


def version(value: Value, field: str, known: int) -> int:
    """The version, which must be the known one; raises UnknownVersion so that a reader sees what to do."""
    number = integer(value, f"{field} version")
    if number != known:
        raise UnknownVersion(f"{field} version {number} is not known", hint="a newer avow may know it", version=number)
    return number
