"""Bytes: deterministic CBOR, tagged hashes, and the JSON view of a receipt.

Rules:
1. CBOR is the core deterministic encoding of RFC 8949 §4.2.1, restricted to integers of 64 bits, byte strings, UTF-8 texts,
   arrays, maps with text keys, false, true and null. No floats, tags, indefinite lengths, or duplicate keys.
2. There is one encoding of a value. `decode` refuses every other, and whatever exceeds its limits before it allocates.
3. Every hash has a tag: H(tag, data) = SHA-256(u8(len(tag)) ‖ tag ‖ data). The length makes tags prefix-free.
4. The JSON view is for people. It is canonical JSON (RFC 8785) of the mapping below, and a file must be that, byte for byte.
   Byte strings are "utf8:…" where they are UTF-8 without control characters, else "hex:…" up to 64 bytes, else "b64:…"
   (base64url, no padding).
   Texts that begin like one of these get "text:" in front; integers beyond ±(2^53-1) become "int:…".

Pure: no clock, no randomness, no input or output.
"""

import base64
import binascii
import hashlib
import json
import re
from typing import Any, cast

import cbor2

from avow.errors import EncodingError, TooLarge

Value = None | bool | int | bytes | str | list["Value"] | dict[str, "Value"]
"""What deterministic CBOR may hold here."""

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 16
_HASH = 32
MAX_ITEMS = 262_144

_PREFIXES = ("utf8:", "hex:", "b64:", "int:", "text:")
_SAFE_INTEGER = (1 << 53) - 1
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def tagged_hash(tag: bytes, *parts: bytes) -> bytes:
    """SHA-256 under a tag (at most 255 bytes); 32 bytes. The caller's layout of `parts` must be unambiguous."""
    return hashlib.sha256(b"".join((len(tag).to_bytes(1), tag, *parts))).digest()


def encode(value: Value) -> bytes:
    """The one encoding of `value`. Raises EncodingError for what rule 1 leaves out."""
    _check_value(value, 0)
    return cbor2.dumps(value, canonical=True)


def encode_trusted(value: Value) -> bytes:
    """`encode` for values that our own code just built from checked fields: skips the walk."""
    return cbor2.dumps(value, canonical=True)


def _check_value(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise EncodingError("nested too deep", limit=MAX_DEPTH)
    kind = type(value)
    if value is None or kind in (bool, bytes, str):
        return
    if kind is int:
        if not -(1 << 63) <= cast("int", value) < 1 << 64:
            raise EncodingError("integer beyond 64 bits")
        return
    if kind is list:
        for item in cast("list[object]", value):
            _check_value(item, depth + 1)
        return
    if kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str:
                raise EncodingError("map keys are texts")
            _check_value(item, depth + 1)
        return
    raise EncodingError(f"a {kind.__name__} has no place in a receipt")


def decode(data: bytes, *, max_bytes: int = MAX_BYTES, max_items: int = MAX_ITEMS) -> Value:
    """The value whose one encoding is `data`.

    Raises EncodingError (not canonical, not CBOR, or a type that rule 1 leaves out) or TooLarge.
    """
    if len(data) > max_bytes:
        raise TooLarge("encoded value is too large", size=len(data), limit=max_bytes)
    reader = _Reader(data, max_items)
    value = reader.item(0)
    if reader.position != len(data):
        raise EncodingError("bytes after the end", offset=reader.position)
    return value


class _Reader:
    """One pass over deterministic CBOR; every length is checked against what is left before it is used."""

    __slots__ = ("data", "items", "max_items", "position")

    def __init__(self, data: bytes, max_items: int) -> None:
        self.data = data
        self.max_items = max_items
        self.position = 0
        self.items = 0

    def fail(self, detail: str) -> EncodingError:
        return EncodingError(detail, offset=self.position)

    def head(self) -> tuple[int, int]:
        """Major type and argument (RFC 8949 §3), shortest form only."""
        data, at = self.data, self.position
        if at >= len(data):
            raise self.fail("truncated")
        first = data[at]
        major, info = first >> 5, first & 31
        if info < 24:
            self.position = at + 1
            return major, info
        if info > 27 or major == 7:
            raise self.fail("an indefinite length, a float or a reserved code")
        width = 1 << (info - 24)
        if at + 1 + width > len(data):
            raise self.fail("truncated")
        argument = int.from_bytes(data[at + 1 : at + 1 + width])
        if argument < (24, 1 << 8, 1 << 16, 1 << 32)[info - 24]:
            raise self.fail("a number is not in its shortest form")
        self.position = at + 1 + width
        return major, argument

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise self.fail("truncated")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a text is not UTF-8") from None

    def item(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise self.fail("nested too deep")
        self.items += 1
        if self.items > self.max_items:
            raise TooLarge("too many items", limit=self.max_items)
        # The shortest heads, and byte strings of a hash's length: most values have one of these.
        data, at = self.data, self.position
        first = data[at] if at < len(data) else 0xFF
        if first < 0x18:
            self.position = at + 1
            return first
        if first == 0x58 and at + 2 + _HASH <= len(data) and data[at + 1] == _HASH:
            self.position = at + 2 + _HASH
            return data[at + 2 : at + 2 + _HASH]
        if first & 31 < 24 and first < 0xE0:
            major, argument = first >> 5, first & 31
            self.position = at + 1
        else:
            major, argument = self.head()
        if major == 0:
            return argument
        if major == 1:
            if argument >= 1 << 63:
                raise self.fail("integer beyond 64 bits")
            return -1 - argument
        if major == 2:
            return self.take(argument)
        if major == 3:
            return self.text(argument)
        if major == 4:
            if argument > len(self.data) - self.position:
                raise self.fail("truncated")
            return [self.item(depth + 1) for _ in range(argument)]
        if major == 5:
            return self.map(argument, depth)
        if major == 7 and argument in (20, 21, 22):
            return (False, True, None)[argument - 20]
        raise self.fail("a tag, a float or an unknown simple value")

    def map(self, length: int, depth: int) -> dict[str, Value]:
        if 2 * length > len(self.data) - self.position:
            raise self.fail("truncated")
        result: dict[str, Value] = {}
        previous = b""
        for _ in range(length):
            start = self.position
            major, argument = self.head()
            if major != 3:
                raise self.fail("map keys are texts")
            key = self.text(argument)
            raw = self.data[start : self.position]
            if raw <= previous:
                raise self.fail("map keys out of order or twice")
            previous = raw
            result[key] = self.item(depth + 1)
        return result


def base64url(data: bytes) -> str:
    """RFC 4648 §5 without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The inverse of `base64url`; refuses padding, other alphabets and non-zero trailing bits."""
    if len(text) > max_bytes * 4 // 3 + 4:
        raise TooLarge("base64url text is too large", limit=max_bytes)
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise EncodingError("not base64url") from None
    if base64url(data) != text:
        raise EncodingError("not the one base64url encoding")
    return data


def to_json(value: Value) -> bytes:
    """The JSON view (rule 4), canonical bytes."""
    return json.dumps(_view(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _view(value: Value) -> Any:
    if isinstance(value, bytes):
        return _view_bytes(value)
    if isinstance(value, str):
        return "text:" + value if value.startswith(_PREFIXES) else value
    if isinstance(value, list):
        return [_view(item) for item in value]
    if isinstance(value, dict):
        return {key: _view(value[key]) for key in sorted(value, key=_utf16)}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _SAFE_INTEGER:
        return f"int:{value}"
    return value


def _utf16(name: str) -> bytes:
    """RFC 8785 §3.2.3 orders names by their UTF-16 code units."""
    return name.encode("utf-16-be", "surrogatepass")


def _view_bytes(data: bytes) -> str:
    if data:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            if not _CONTROL.search(text):
                return "utf8:" + text
    return "hex:" + data.hex() if len(data) <= 64 else "b64:" + base64url(data)


def from_json(data: bytes, *, max_bytes: int = 2 * MAX_BYTES) -> Value:
    """The value whose JSON view is `data`. Raises EncodingError when `data` is not that view, byte for byte."""
    if len(data) > max_bytes:
        raise TooLarge("JSON text is too large", size=len(data), limit=max_bytes)
    _check_items(data)
    try:
        parsed = json.loads(data.decode("utf-8"), parse_float=_refuse_number, parse_constant=_refuse_number)
        value = _unview(parsed, 0)
        again = to_json(value)
    except (UnicodeError, json.JSONDecodeError, RecursionError) as error:
        raise EncodingError("not JSON that a receipt may hold") from error
    except ValueError as error:
        raise EncodingError("a number that a receipt may not hold") from error
    if again != data:
        raise EncodingError("not the canonical JSON form (RFC 8785)")
    return value


def _check_items(data: bytes) -> None:
    """Refuse JSON of more items than CBOR may hold, before a parser makes objects of them. Counts outside of strings; linear."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * MAX_ITEMS:
        raise TooLarge("too many items", limit=MAX_ITEMS)
    outside = b'""'.join(bare.split(b'"')[::2])
    opened = outside.count(b"[") + outside.count(b"{") - outside.count(b"[]") - outside.count(b"{}")
    if 1 + outside.count(b",") + opened > MAX_ITEMS:
        raise TooLarge("too many items", limit=MAX_ITEMS)


def _refuse_number(text: str) -> Any:
    raise EncodingError("floats have no place in a receipt", text=text[:32])


def _unview(value: Any, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise EncodingError("nested too deep", limit=MAX_DEPTH)
    if isinstance(value, str):
        prefix, colon, rest = value.partition(":")
        if not colon:
            return value
        if prefix == "utf8":
            return rest.encode("utf-8")
        if prefix == "hex":
            return bytes.fromhex(rest)
        if prefix == "b64":
            return from_base64url(rest)
        if prefix == "int":
            if len(rest) > 20:
                raise EncodingError("integer beyond 64 bits")
            number = int(rest)
            _check_value(number, depth)
            return number
        return rest if prefix == "text" else value
    if isinstance(value, list):
        return [_unview(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: _unview(item, depth + 1) for key, item in value.items()}
    return cast("Value", value)
