"""The contract ABI (Solidity documentation, "Contract ABI Specification"): values to bytes and back.

Rules:
1. Types: address (20 bytes), bool, uintN (int), bytesN, bytes, string, and T[] of these. Python values: bytes, bool,
   int, bytes, bytes, str, list.
2. There is one encoding of a list of values: heads, then tails in order without gaps, every pad byte zero. `decode`
   refuses every other; the specification calls this one "strict".
3. Every length is checked against what is left before it is used.
"""

from collections.abc import Sequence
from typing import Any

from avow.errors import EncodingError

Type = str

_WORD = 32


def is_dynamic(kind: Type) -> bool:
    return kind in ("bytes", "string") or kind.endswith("[]")


def check_type(kind: Type) -> None:
    """Raises EncodingError for a type that rule 1 leaves out."""
    element = kind.removesuffix("[]")
    if element in ("address", "bool", "bytes", "string"):
        return
    for stem, unit, most in (("uint", 8, 256), ("bytes", 1, 32)):
        size = element.removeprefix(stem)
        number = int(size) if element.startswith(stem) and size.isdecimal() and size[0] != "0" else 0
        if unit <= number <= most and number % unit == 0:
            return
    raise EncodingError(f"not an ABI type of ours: {kind}")


def encode(kinds: Sequence[Type], values: Sequence[Any]) -> bytes:
    """The one encoding of `values`. Raises EncodingError for a value that its type cannot hold."""
    if len(kinds) != len(values):
        raise EncodingError(f"{len(kinds)} values expected, {len(values)} given")
    heads: list[bytes] = []
    tails: list[bytes] = []
    position = _WORD * len(kinds)
    for kind, value in zip(kinds, values, strict=True):
        if is_dynamic(kind):
            tail = _encode_dynamic(kind, value)
            heads.append(position.to_bytes(_WORD))
            tails.append(tail)
            position += len(tail)
        else:
            heads.append(_encode_word(kind, value))
    return b"".join(heads + tails)


def _encode_dynamic(kind: Type, value: Any) -> bytes:
    if kind.endswith("[]"):
        if not isinstance(value, list):
            raise EncodingError(f"{kind} takes a list")
        return len(value).to_bytes(_WORD) + encode([kind[:-2]] * len(value), value)
    data = value.encode() if kind == "string" and isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise EncodingError(f"{kind} takes {'a text' if kind == 'string' else 'bytes'}")
    return len(data).to_bytes(_WORD) + data + bytes(-len(data) % _WORD)


def _encode_word(kind: Type, value: Any) -> bytes:
    if kind == "bool" and isinstance(value, bool):
        return value.to_bytes(_WORD)
    if kind == "address" and isinstance(value, bytes) and len(value) == 20:
        return bytes(12) + value
    if kind.startswith("bytes") and isinstance(value, bytes) and len(value) == int(kind[5:]):
        return value + bytes(_WORD - len(value))
    if kind.startswith("uint") and isinstance(value, int) and 0 <= value < 1 << int(kind[4:]):
        return value.to_bytes(_WORD)
    raise EncodingError(f"not a value for {kind}")


def decode(kinds: Sequence[Type], data: bytes) -> list[Any]:
    """The values whose one encoding is `data`. Raises EncodingError."""
    values, end = _decode(kinds, data, 0)
    if end != len(data):
        raise EncodingError("bytes after the arguments", offset=end)
    return values


def _decode(kinds: Sequence[Type], data: bytes, base: int) -> tuple[list[Any], int]:
    """Values whose heads begin at `base`, and where their last tail ends."""
    tail = base + _WORD * len(kinds)
    if tail > len(data):
        raise EncodingError("truncated arguments", offset=len(data))
    values: list[Any] = []
    at = base
    for kind in kinds:
        word = data[at : at + _WORD]
        at += _WORD
        if is_dynamic(kind):
            if int.from_bytes(word) != tail - base:
                raise EncodingError("a tail is not where the canonical encoding puts it", offset=at - _WORD)
            value, tail = _decode_dynamic(kind, data, tail)
            values.append(value)
        else:
            values.append(_decode_word(kind, word))
    return values, tail


def _decode_dynamic(kind: Type, data: bytes, at: int) -> tuple[Any, int]:
    length = int.from_bytes(data[at : at + _WORD])
    start = at + _WORD
    left = len(data) - start
    if kind.endswith("[]"):
        if left < 0 or length > left // _WORD:
            raise EncodingError("truncated list", offset=at)
        return _decode([kind[:-2]] * length, data, start)
    end = start + length + (-length % _WORD)
    if left < 0 or end > len(data):
        raise EncodingError("truncated bytes", offset=at)
    if any(data[start + length : end]):
        raise EncodingError("padding is not zero", offset=start + length)
    value = data[start : start + length]
    if kind == "bytes":
        return value, end
    try:
        return value.decode(), end
    except UnicodeDecodeError:
        raise EncodingError("a text is not UTF-8", offset=start) from None


def _decode_word(kind: Type, word: bytes) -> Any:
    number = int.from_bytes(word)
    if kind == "bool":
        if number > 1:
            raise EncodingError("a truth value is neither 0 nor 1")
        return bool(number)
    if kind == "address":
        if number >> 160:
            raise EncodingError("an address has more than 20 bytes")
        return word[12:]
    if kind.startswith("uint"):
        if number >> int(kind[4:]):
            raise EncodingError(f"a number does not fit {kind}")
        return number
    size = int(kind[5:])
    if any(word[size:]):
        raise EncodingError("padding is not zero")
    return word[:size]
