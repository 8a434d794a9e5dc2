"""Tensors of integers as bytes: types, shapes and values. Their digests are hashing.py's.

Rules:
1. A tensor is its values in row-major order, each little-endian two's complement of 1, 2 or 4 bytes.
2. A shape has 1 to 8 dimensions of at least 1 and at most 2^31 − 1 elements. −1, as the last dimension only, stands for the
   positions so far (step + 1).

Pure: no input or output.
"""

import struct
from collections.abc import Sequence
from math import prod

WIDTHS = {"int8": 1, "int16": 2, "int32": 4}
RANGES = {name: (-(1 << (8 * width - 1)), (1 << (8 * width - 1)) - 1) for name, width in WIDTHS.items()}
MAX_RANK = 8
MAX_ELEMENTS = (1 << 31) - 1
_CODES = {"int8": "b", "int16": "h", "int32": "i"}

Buffer = bytes | memoryview


def size_of(shape: Sequence[int], positions: int = 1) -> int:
    """The number of elements, with `positions` in the place of −1."""
    return prod(positions if extent < 0 else extent for extent in shape)


def shape_at(shape: Sequence[int], positions: int) -> tuple[int, ...]:
    """The shape with `positions` in the place of −1."""
    return tuple(positions if extent < 0 else extent for extent in shape)


def pack(kind: str, values: Sequence[int]) -> bytes:
    """Values as bytes (rule 1). Raises struct.error for one that the type does not hold."""
    return struct.pack(f"<{len(values)}{_CODES[kind]}", *values)


def unpack(kind: str, data: Buffer, start: int = 0, count: int | None = None) -> tuple[int, ...]:
    """`count` values from flat index `start` on; all that follow if None."""
    width = WIDTHS[kind]
    if count is None:
        count = len(data) // width - start
    return struct.unpack_from(f"<{count}{_CODES[kind]}", data, start * width)


def value_at(kind: str, data: Buffer, index: int) -> int:
    """The value at a flat index."""
    width = WIDTHS[kind]
    return int.from_bytes(data[index * width : (index + 1) * width], "little", signed=True)
