"""A bounded reader of GGUF headers (ggml's docs/gguf.md, versions 2 and 3, little-endian), run before any engine.

Rules:
1. Every count and length is checked against a limit and against what is left of the file before it is used.
2. Keys and tensor names occur once; types are known ones; arrays hold scalars or texts, not arrays.
3. Tensors lie one behind the other in the data section, aligned, and end where the file ends.
4. Hyper-parameters that an engine divides by or allocates from are within sane ranges; token ids lie in the vocabulary.
5. A file that is one shard of several is refused: the engine would open its siblings by name.

A file that passes is well-formed; it may still be refused by the engine for not being a model.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avow.models.errors import UnsafeModel

MAX_METADATA = 4_096
MAX_TENSORS = 65_536
MAX_ARRAY = 2_000_000
MAX_NESTED_TEXTS = 8_000_000
MAX_TEXT = 4 * 1024 * 1024
MAX_KEY = 256
MAX_NAME = 63
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 48
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS: Mapping[int, str] = {
    kind: "<" + letter
    for kind, letter in ((0, "B"), (1, "b"), (2, "H"), (3, "h"), (4, "I"), (5, "i"), (6, "f"), (7, "B"))
} | {10: "<Q", 11: "<q", 12: "<d"}
_SIMPLE = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
_OF_32 = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 20: 18, 39: 17}
_OF_256 = {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 16: 66, 17: 74, 18: 98, 19: 50, 21: 110, 22: 82, 23: 136}
_OF_256_MORE = {29: 56, 34: 54, 35: 66}
_BLOCKS: Mapping[int, tuple[int, int]] = {
    kind: (elements, size)
    for elements, sizes in ((1, _SIMPLE), (32, _OF_32), (256, _OF_256), (256, _OF_256_MORE))
    for kind, size in sizes.items()
}
"""ggml type → elements per block, bytes per block (ggml.h, ggml-common.h)."""

_RANGES: Mapping[str, tuple[int, int]] = {
    "block_count": (1, 512),
    "context_length": (1, 1 << 24),
    "embedding_length": (1, 1 << 17),
    "feed_forward_length": (0, 1 << 20),
    "attention.head_count": (1, 1024),
    "attention.head_count_kv": (0, 1024),
    "attention.key_length": (1, 1 << 14),
    "attention.value_length": (1, 1 << 14),
    "rope.dimension_count": (1, 1 << 14),
    "vocab_size": (1, 1 << 22),
    "expert_count": (0, 1024),
    "expert_used_count": (0, 1024),
}

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array of metadata: its element type, its length, and its items where they are scalars."""

    kind: int
    length: int
    numbers: tuple[int | float, ...] = ()


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, dimensions (innermost first), ggml type, offset in the data section, size in bytes."""

    name: str
    dimensions: tuple[int, ...]
    kind: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """A header that follows the rules."""

    version: int
    metadata: Mapping[str, Scalar | Array]
    tensors: tuple[Tensor, ...]

    def text(self, key: str) -> str | None:
        """A metadata text, if there is one of that key."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def check_gguf(path: Path) -> Gguf:
    """The header of a GGUF file that follows the rules. Raises UnsafeModel, which names what does not."""
    with path.open("rb") as stream:
        if not stream.read(1):
            raise UnsafeModel("not a GGUF file: it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_gguf(data)


def parse_gguf(data: bytes | mmap.mmap) -> Gguf:
    """As `check_gguf`, on the bytes of the whole file."""
    reader = _Reader(data)
    if reader.take(4) != b"GGUF":
        raise UnsafeModel("not a GGUF file")
    version = reader.number("<I")
    if version not in (2, 3):
        raise UnsafeModel("a GGUF version that is not known here", version=int(version))
    tensor_count = reader.count(MAX_TENSORS, 1, "tensors")
    metadata_count = reader.count(MAX_METADATA, 13, "metadata entries")
    metadata: dict[str, Scalar | Array] = {}
    for _ in range(metadata_count):
        key = reader.text(MAX_KEY, "a key")
        if key in metadata:
            raise UnsafeModel("a metadata key occurs twice", key=key)
        metadata[key] = reader.value(key)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 65_536 or alignment & (alignment - 1):
        raise UnsafeModel("the alignment is not a power of two from 8 to 65536")
    tensors = _tensors(reader, tensor_count, alignment)
    _check_extent(len(data), reader.position, tensors, alignment)
    _check_hyperparameters(metadata)
    _check_vocabulary(metadata)
    return Gguf(int(version), metadata, tensors)


class _Reader:
    """One pass; nothing is taken beyond the end."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = data
        self.position = 0
        self.end = len(data)
        self.texts = 0

    def take(self, length: int) -> bytes:
        if length > self.end - self.position:
            raise UnsafeModel("the file ends within its header", offset=self.position)
        taken = self.data[self.position : self.position + length]
        self.position += length
        return taken

    def number(self, form: str) -> int | float:
        value: int | float = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def count(self, limit: int, item_size: int, what: str) -> int:
        """A length of 64 bits, bounded by `limit` and by what is left for items of at least `item_size` bytes."""
        count = int.from_bytes(self.take(8), "little")
        if count > limit or count * item_size > self.end - self.position:
            raise UnsafeModel(f"more {what} than there can be", count=min(count, 1 << 62), offset=self.position)
        return count

    def text(self, limit: int, what: str) -> str:
        raw = self.take(self.count(limit, 1, f"bytes in {what}"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise UnsafeModel(f"{what} is not UTF-8", offset=self.position) from None

    def value(self, key: str) -> Scalar | Array:
        kind = int(self.number("<I"))
        if kind == _STRING:
            return self.text(MAX_TEXT, "a text")
        if kind == _ARRAY:
            return self.array(key)
        return self.scalar(kind, key)

    def scalar(self, kind: int, key: str) -> int | float | bool:
        if kind not in _SCALARS:
            raise UnsafeModel("a metadata value of unknown type", key=key, type=kind)
        number = self.number(_SCALARS[kind])
        if kind == _BOOL:
            if number not in (0, 1):
                raise UnsafeModel("a truth value that is neither 0 nor 1", key=key)
            return bool(number)
        if isinstance(number, float) and not math.isfinite(number):
            raise UnsafeModel("a number that is not finite", key=key)
        return number

    def array(self, key: str) -> Array:
        kind = int(self.number("<I"))
        if kind == _STRING:
            length = self.count(MAX_ARRAY, 8, "texts in an array")
            self.texts += length
            if self.texts > MAX_NESTED_TEXTS:
                raise UnsafeModel("too many texts", key=key)
            for _ in range(length):
                # Tokens may be pieces of characters: the bytes are passed over, not decoded.
                self.take(self.count(MAX_TEXT, 1, "bytes in a text"))
            return Array(kind, length)
        if kind not in _SCALARS:
            raise UnsafeModel("an array of unknown type", key=key, type=kind)
        form = _SCALARS[kind]
        length = self.count(MAX_ARRAY, struct.calcsize(form), "items in an array")
        raw = self.take(length * struct.calcsize(form))
        return Array(kind, length, struct.unpack(f"<{length}{form[1]}", raw))


def _tensors(reader: _Reader, count: int, alignment: int) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    names: set[str] = set()
    expected = 0
    for _ in range(count):
        name = reader.text(MAX_NAME, "a tensor's name")
        if name in names:
            raise UnsafeModel("a tensor's name occurs twice", tensor=name)
        names.add(name)
        dimension_count = int(reader.number("<I"))
        if not 1 <= dimension_count <= MAX_DIMENSIONS:
            raise UnsafeModel("a tensor with an impossible number of dimensions", tensor=name)
        dimensions = struct.unpack(f"<{dimension_count}Q", reader.take(8 * dimension_count))
        kind, offset = int(reader.number("<I")), int(reader.number("<Q"))
        elements = math.prod(dimensions)
        if kind not in _BLOCKS or not 1 <= elements <= MAX_ELEMENTS:
            raise UnsafeModel("a tensor of unknown type or impossible size", tensor=name, type=kind)
        block, size = _BLOCKS[kind]
        if dimensions[0] % block:
            raise UnsafeModel("a tensor's row is no whole number of blocks", tensor=name)
        if offset != expected:
            raise UnsafeModel("a tensor does not lie where the one before it ends", tensor=name)
        length = elements // block * size
        expected += -(-length // alignment) * alignment
        tensors.append(Tensor(name, dimensions, kind, offset, length))
    return tuple(tensors)


def _check_extent(file_size: int, header_end: int, tensors: tuple[Tensor, ...], alignment: int) -> None:
    if not tensors:
        raise UnsafeModel("there are no tensors")
    start = -(-header_end // alignment) * alignment
    end = start + tensors[-1].offset + tensors[-1].size
    if not end <= file_size <= -(-end // alignment) * alignment:
        raise UnsafeModel("the tensors do not end where the file ends", expected=end, size=file_size)


def _check_hyperparameters(metadata: Mapping[str, Scalar | Array]) -> None:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.replace("-", "").replace("_", "").isalnum():
        raise UnsafeModel("no architecture is named")
    if metadata.get("split.count", 0) not in (0, 1):
        raise UnsafeModel("one shard of several: join them first")
    for name, (least, most) in _RANGES.items():
        value = metadata.get(f"{architecture}.{name}")
        numbers = value.numbers if isinstance(value, Array) else (value,)
        if value is not None and not all(type(n) is int and least <= n <= most for n in numbers):
            raise UnsafeModel("a hyper-parameter is out of range", key=f"{architecture}.{name}")
    for name in ("block_count", "context_length", "embedding_length", "attention.head_count"):
        if f"{architecture}.{name}" not in metadata:
            raise UnsafeModel("a hyper-parameter is missing", key=f"{architecture}.{name}")


def _check_vocabulary(metadata: Mapping[str, Scalar | Array]) -> None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.kind != _STRING or not tokens.length:
        raise UnsafeModel("there is no vocabulary")
    for name in ("scores", "token_type"):
        beside = metadata.get(f"tokenizer.ggml.{name}")
        if beside is not None and (not isinstance(beside, Array) or beside.length != tokens.length):
            raise UnsafeModel("scores or types do not fit the vocabulary", key=f"tokenizer.ggml.{name}")
    for key, value in metadata.items():
        is_id = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        # 2^32 - 1 stands for "none".
        if is_id and (type(value) is not int or not (0 <= value < tokens.length or value == 0xFFFFFFFF)):
            raise UnsafeModel("a token id beyond the vocabulary", key=key)
