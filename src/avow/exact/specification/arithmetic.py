"""The arithmetic of exact programs: integers that never overflow what their bounds say (docs/exact.md, "Arithmetic").

Pure Python integers: they have no width, so a bound that is wrong shows as a wrong check, never as a wrong bit.
"""

from collections.abc import Sequence
from math import isqrt

from avow.exact.errors import Undefined

ACCUMULATOR = 1 << 30
"""Every sum and product before a multiplier is smaller than this, in absolute value and in every partial sum."""
PRODUCT = 1 << 45
"""Every accumulator times its multiplier is smaller than this."""
MAX_MULTIPLIER = (1 << 15) - 1
MAX_SHIFT = 45


def requantise(accumulator: int, multiplier: int, shift: int) -> int:
    """floor((accumulator · multiplier + 2^(shift − 1)) / 2^shift), 1 ≤ shift ≤ 45: halves go up."""
    if not 1 <= shift <= MAX_SHIFT:
        raise Undefined("a shift is out of range")
    return (accumulator * multiplier + (1 << (shift - 1))) >> shift


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def divide(numerator: int, divisor: int) -> int:
    """floor((numerator + floor(divisor / 2)) / divisor), divisor > 0: the nearest integer, halves go up."""
    if divisor <= 0:
        raise Undefined("a divisor is not positive")
    return (numerator + divisor // 2) // divisor


def square_root(value: int) -> int:
    """floor(√value), value ≥ 0."""
    if value < 0:
        raise Undefined("a root of a negative number")
    return isqrt(value)


def scale(value: int, exponent: int) -> int:
    """The value · 2^(−exponent), to the nearest integer, halves up; exact where exponent ≤ 0."""
    if exponent <= 0:
        return value << -exponent
    return (value + (1 << (exponent - 1))) >> exponent


# --- Positions in row-major tensors --------------------------------------------------------------------------------


def split(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The coordinates of a flat index."""
    coordinates = []
    for extent in reversed(shape):
        index, coordinate = divmod(index, extent)
        coordinates.append(coordinate)
    return tuple(reversed(coordinates))


def join(coordinates: Sequence[int], shape: Sequence[int]) -> int:
    """The flat index of coordinates."""
    index = 0
    for coordinate, extent in zip(coordinates, shape, strict=True):
        index = index * extent + coordinate
    return index


def broadcast(index: int, shape: Sequence[int], source: Sequence[int]) -> int:
    """The flat index in a tensor of shape `source` of what stands at `index` when it is broadcast to `shape`.

    As NumPy does: shapes are aligned at their last dimension, an extent of 1 is repeated.
    """
    coordinates = split(index, shape)[len(shape) - len(source) :]
    return join([0 if extent == 1 else at for at, extent in zip(coordinates, source, strict=True)], source)
