"""Recursive length prefix encoding (Ethereum Yellow Paper, appendix B): byte strings and nested lists.

Rules:
1. There is one encoding of an item; `decode` refuses every other (a long form where a short one fits, a prefix before a
   single byte below 0x80, a length with a leading zero) and any byte after the end.
2. Every length is checked against what is left before it is used. Lists nest at most MAX_DEPTH deep.
3. Integers are big-endian without leading zeros; zero is the empty string.
"""

from avow.errors import EncodingError

Item = bytes | list["Item"]

MAX_DEPTH = 4
MAX_ITEMS = 65_536


def encode(item: Item) -> bytes:
    """The one encoding."""
    if isinstance(item, list):
        return _with_length(b"".join([encode(part) for part in item]), 0xC0)
    if len(item) == 1 and item[0] < 0x80:
        return item
    return _with_length(item, 0x80)


def _with_length(body: bytes, base: int) -> bytes:
    if len(body) < 56:
        return bytes((base + len(body),)) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8)
    return bytes((base + 55 + len(length),)) + length + body


def integer(number: int) -> bytes:
    """Rule 3's bytes."""
    return number.to_bytes((number.bit_length() + 7) // 8)


def to_integer(item: Item, max_bytes: int) -> int:
    """The inverse of `integer`. Raises EncodingError for a list, a leading zero or more than `max_bytes` bytes."""
    if not isinstance(item, bytes) or len(item) > max_bytes:
        raise EncodingError(f"not an integer of at most {max_bytes} bytes")
    if item and item[0] == 0:
        raise EncodingError("an integer has a leading zero")
    return int.from_bytes(item)


def decode(data: bytes) -> Item:
    """The item whose one encoding is `data`. Raises EncodingError."""
    reader = _Reader()
    item, end = reader.item(data, 0, len(data), 0)
    if end != len(data):
        raise EncodingError("bytes after the end", offset=end)
    return item


def first_items(data: bytes, count: int) -> bytes:
    """The encoding of the list of the first `count` items of a list; `data` was decoded, and is a list of so many or more."""
    start = at = _span(data, 0, len(data), data[0] - 0xC0)[0]
    for _ in range(count):
        first = data[at]
        if first < 0x80:
            at += 1
        elif first < 0xB8:
            at += first - 0x7F
        else:
            at = _span(data, at, len(data), first - (0xC0 if first >= 0xC0 else 0x80))[1]
    return _with_length(data[start:at], 0xC0)


class _Reader:
    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items = 0

    def item(self, data: bytes, at: int, end: int, depth: int) -> tuple[Item, int]:
        """One item that begins at `at`, and where it ends."""
        self.items += 1
        if self.items > MAX_ITEMS or depth > MAX_DEPTH:
            raise EncodingError("too many or too deeply nested items")
        if at >= end:
            raise EncodingError("truncated", offset=at)
        first = data[at]
        if first < 0x80:
            return data[at : at + 1], at + 1
        is_list = first >= 0xC0
        start, stop = _span(data, at, end, first - (0xC0 if is_list else 0x80))
        if not is_list:
            if stop == start + 1 and data[start] < 0x80:
                raise EncodingError("a single byte has a prefix", offset=at)
            return data[start:stop], stop
        return self.parts(data, start, stop, depth + 1), stop

    def parts(self, data: bytes, at: int, stop: int, depth: int) -> list[Item]:
        """The items from `at` to `stop`. Short strings, which most are, are read here."""
        parts: list[Item] = []
        while at < stop:
            first = data[at]
            if first >= 0xB8 or depth > MAX_DEPTH:
                part, at = self.item(data, at, stop, depth)
                parts.append(part)
                continue
            self.items += 1
            if first < 0x80:
                start, at = at, at + 1
            else:
                start = at + 1
                at += first - 0x7F
                if at > stop:
                    raise EncodingError("truncated", offset=start - 1)
                if first == 0x81 and data[start] < 0x80:
                    raise EncodingError("a single byte has a prefix", offset=start - 1)
            parts.append(data[start:at])
        if self.items > MAX_ITEMS:
            raise EncodingError("too many or too deeply nested items")
        return parts


def _span(data: bytes, at: int, end: int, code: int) -> tuple[int, int]:
    """Where the body of an item with prefix `code` (less its base) starts and stops."""
    if code <= 55:
        start, length = at + 1, code
    else:
        width = code - 55
        start = at + 1 + width
        if start > end:
            raise EncodingError("truncated", offset=at)
        length = int.from_bytes(data[at + 1 : start])
        if data[at + 1] == 0 or length < 56:
            raise EncodingError("a length is not in its shortest form", offset=at)
    if length > end - start:
        raise EncodingError("truncated", offset=at)
    return start, start + length
