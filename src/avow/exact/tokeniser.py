r"""The tokeniser of a language program: byte-level byte-pair encoding, pinned as a file of the program.

Rules:
1. Everything that decides a token is in the file: vocabulary, merges, special tokens, the way words are cut, and which code points are
   letters, digits and spaces (so that no two releases of Unicode disagree). The file is one deterministic CBOR map (receipt/encoding.py).
2. Text is cut into words: `digits` first takes each digit out alone (Hugging Face's `Digits(individual_digits)`), then GPT-2's
   pattern applies to what is between:  's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^\sLN]+|\s+(?!\S)|\s+  (openai/gpt-2, encoder.py).
3. A word's UTF-8 bytes are merged, the pair of least rank first, the leftmost of equal ones.
4. Special tokens are never read out of a text: the caller places them. A template's marks are tokens, a user's words are not.
5. A byte that has no token of its own is left out (llama.cpp does the same); else the tokens' bytes, joined, are the text.

Pure: no clock, no randomness, no input or output.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import cast

from avow.errors import AvowError, EncodingError, TooLarge
from avow.receipt.encoding import Value, decode, encode

VERSION = 1
MAX_FILE = 32 * 1024 * 1024
MAX_VOCABULARY = 262_144
MAX_TOKEN_BYTES = 1_024
MAX_TEXT = 8 * 1024 * 1024
_MAX_ITEMS = 4_000_000
_CACHE = 65_536
_GONE = -2
_KEYS = ("digits", "letters", "merges", "numbers", "spaces", "special", "tokens", "version")
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

Ranges = tuple[int, ...]
"""Ascending borders [first, beyond, first, beyond, …) of code points."""


class BadTokeniser(AvowError):
    """The file is not a tokeniser."""

    code = "bad_tokeniser"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the file holds. `merges` are triples (left, right, whole) of token ids, of least rank first."""

    tokens: tuple[bytes, ...]
    merges: tuple[tuple[int, int, int], ...]
    special: frozenset[int]
    letters: Ranges
    numbers: Ranges
    spaces: Ranges
    digits: bool
    """Whether each digit is a word of its own."""

    def encoded(self) -> bytes:
        value: dict[str, Value] = {
            "version": VERSION,
            "digits": self.digits,
            "letters": [*self.letters],
            "merges": [*chain.from_iterable(self.merges)],
            "numbers": [*self.numbers],
            "spaces": [*self.spaces],
            "special": list[Value](sorted(self.special)),
            "tokens": [*self.tokens],
        }
        return encode(value)


def parse_vocabulary(data: bytes) -> Vocabulary:
    """The vocabulary whose one encoding is `data`. Raises BadTokeniser, whatever the bytes."""
    try:
        value = decode(data, max_bytes=MAX_FILE, max_items=_MAX_ITEMS)
    except (EncodingError, TooLarge) as error:
        raise BadTokeniser(f"not a tokeniser: {error.detail}") from error
    if not isinstance(value, dict) or tuple(sorted(value)) != _KEYS or value["version"] != VERSION:
        raise BadTokeniser("a tokeniser has exactly the keys of a version that is known here", known=VERSION)
    tokens = value["tokens"]
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= MAX_VOCABULARY:
        raise BadTokeniser("tokens is a list", limit=MAX_VOCABULARY)
    if not all(isinstance(token, bytes) and 1 <= len(token) <= MAX_TOKEN_BYTES for token in tokens):
        raise BadTokeniser("a token is 1 to 1024 bytes")
    flat = _integers(value["merges"], "merges")
    if len(flat) % 3 or not isinstance(value["digits"], bool):
        raise BadTokeniser("merges are triples, digits is a truth value")
    vocabulary = Vocabulary(
        tokens=tuple(cast("list[bytes]", tokens)),
        merges=tuple(zip(flat[0::3], flat[1::3], flat[2::3], strict=True)),
        special=frozenset(_ascending(value["special"], "special", len(tokens))),
        letters=_ascending(value["letters"], "letters", 0x110001),
        numbers=_ascending(value["numbers"], "numbers", 0x110001),
        spaces=_ascending(value["spaces"], "spaces", 0x110001),
        digits=value["digits"],
    )
    _check(vocabulary)
    return vocabulary


def _integers(value: Value, name: str) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise BadTokeniser(f"{name} is a list of natural numbers")
    return cast("list[int]", value)


def _ascending(value: Value, name: str, beyond: int) -> tuple[int, ...]:
    numbers = _integers(value, name)
    if any(left >= right for left, right in pairwise(numbers)) or (numbers and numbers[-1] >= beyond):
        raise BadTokeniser(f"{name} ascend and stay in range")
    return tuple(numbers)


def _check(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokens
    if any(len(ranges) % 2 for ranges in (vocabulary.letters, vocabulary.numbers, vocabulary.spaces)):
        raise BadTokeniser("ranges have two borders each")
    plain = [token for index, token in enumerate(tokens) if index not in vocabulary.special]
    known = set(plain)
    if len(known) != len(plain):
        raise BadTokeniser("two tokens have the same bytes")
    pairs = set()
    for left, right, whole in vocabulary.merges:
        if max(left, right, whole) >= len(tokens) or tokens[left] + tokens[right] != tokens[whole]:
            raise BadTokeniser("a merge's whole is its parts, joined")
        pairs.add((left, right))
    if len(pairs) != len(vocabulary.merges):
        raise BadTokeniser("a pair merges once")


@dataclass(slots=True)
class Tokeniser:
    """Text to token ids and back. May be called from several threads at once."""

    vocabulary: Vocabulary
    _ranks: dict[tuple[int, int], tuple[int, int]] = field(init=False)
    _bytes: list[int] = field(init=False)
    _words: re.Pattern[str] = field(init=False)
    _numbers: re.Pattern[str] | None = field(init=False)
    _cache: dict[str, tuple[int, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        vocabulary = self.vocabulary
        self._ranks = {(left, right): (rank, whole) for rank, (left, right, whole) in enumerate(vocabulary.merges)}
        ids = {token: index for index, token in enumerate(vocabulary.tokens) if index not in vocabulary.special}
        self._bytes = [ids.get(bytes([byte]), -1) for byte in range(256)]
        letters, numbers, spaces = (_class(r) for r in (vocabulary.letters, vocabulary.numbers, vocabulary.spaces))
        contractions = "|".join(_CONTRACTIONS)
        # The bars of the classes are plain ranges: what is a letter is decided by the file, not by Python's Unicode.
        self._words = re.compile(
            f"{contractions}| ?[{letters}]+| ?[{numbers}]+| ?[^{spaces}{letters}{numbers}]+|[{spaces}]+(?![^{spaces}])|[{spaces}]+"
        )
        self._numbers = re.compile(f"([{numbers}])") if vocabulary.digits else None

    @classmethod
    def read(cls, data: bytes) -> "Tokeniser":
        """Raises BadTokeniser."""
        return cls(parse_vocabulary(data))

    def encode(self, text: str) -> list[int]:
        """The text's tokens; none of them special. Raises TooLarge; a lone surrogate is an EncodingError."""
        if len(text) > MAX_TEXT:
            raise TooLarge("the text is too long to be cut into tokens", limit=MAX_TEXT)
        pieces = self._numbers.split(text) if self._numbers else [text]
        result: list[int] = []
        for piece in pieces:
            for word in self._words.findall(piece):
                result.extend(self._word(word))
        return result

    def text(self, tokens: Iterable[int]) -> bytes:
        """The tokens' bytes, joined; special tokens have none. A token beyond the vocabulary is a BadTokeniser."""
        return b"".join(self.piece(token) for token in tokens)

    def piece(self, token: int) -> bytes:
        """A token's bytes; b"" for a special one."""
        vocabulary = self.vocabulary
        if not 0 <= token < len(vocabulary.tokens):
            raise BadTokeniser("no such token", token=token)
        return b"" if token in vocabulary.special else vocabulary.tokens[token]

    def special(self, name: str) -> int:
        """The id of the special token that is written `name`. Raises BadTokeniser."""
        data = name.encode()
        for token in self.vocabulary.special:
            if self.vocabulary.tokens[token] == data:
                return token
        raise BadTokeniser("there is no such special token", token=name[:64])

    def _word(self, word: str) -> tuple[int, ...]:
        known = self._cache.get(word)
        if known is None:
            try:
                data = word.encode()
            except UnicodeEncodeError:
                raise EncodingError("a text holds half of a character (a lone surrogate)") from None
            known = tuple(part for part in _merge([self._bytes[byte] for byte in data], self._ranks) if part >= 0)
            if len(self._cache) < _CACHE and len(word) <= 64:
                self._cache[word] = known
        return known


def _class(ranges: Sequence[int]) -> str:
    """The ranges inside a regular expression's brackets."""
    pairs = zip(ranges[0::2], ranges[1::2], strict=True)
    return "".join(f"\\U{first:08x}-\\U{beyond - 1:08x}" for first, beyond in pairs)


def _merge(parts: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Rule 3 by a heap over a linked list: n log n, so that one endless word costs no more than a text."""
    if len(parts) < 2:
        return parts
    return _merge_short(parts, ranks) if len(parts) <= 48 else _merge_long(parts, ranks)


def _merge_short(parts: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    while len(parts) > 1:
        best, at, whole = 1 << 62, -1, -1
        for index in range(len(parts) - 1):
            found = ranks.get((parts[index], parts[index + 1]))
            if found is not None and found[0] < best:
                best, whole = found
                at = index
        if at < 0:
            break
        parts[at : at + 2] = [whole]
    return parts


def _merge_long(parts: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    from heapq import heapify, heappop, heappush

    count = len(parts)
    after = [*range(1, count), -1]
    before = [-1, *range(count - 1)]
    heap = [
        (found[0], index, parts[index], parts[index + 1], found[1])
        for index in range(count - 1)
        if (found := ranks.get((parts[index], parts[index + 1])))
    ]
    heapify(heap)
    while heap:
        _rank, at, left, right, whole = heappop(heap)
        following = after[at]
        if parts[at] != left or following < 0 or parts[following] != right:
            continue  # one of the two has been merged since
        parts[at], parts[following] = whole, _GONE
        after[at] = after[following]
        if after[at] >= 0:
            before[after[at]] = at
        for first, second in ((before[at], at), (at, after[at])):
            if first >= 0 and second >= 0:
                found = ranks.get((parts[first], parts[second]))
                if found:
                    heappush(heap, (found[0], first, parts[first], parts[second], found[1]))
    return [part for part in parts if part != _GONE]


def in_ranges(ranges: Ranges, code_point: int) -> bool:
    """Whether a code point lies in the ranges."""
    return bisect_right(ranges, code_point) % 2 == 1
