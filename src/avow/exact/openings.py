"""Openings of several leaves of one RFC 6962 tree at once.

Rules:
1. A multiproof holds the hashes that are needed and cannot be computed, level by level from the leaves up, each level from left to right.
   A node without a partner moves up unchanged (receipt/merkle.py, rule 1).
2. What is opened and how many leaves there are decides how many hashes a multiproof has, so there is one for each set of leaves: one
   with a hash too many or too few, or of another size, is refused.
3. The number of leaves is the verifier's, out of what is already bound, never the proof's.

Pure.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from avow.receipt.merkle import NotIncluded, node_hash

MAX_TOTAL = 1 << 63


def root_of(total: int, opened: Mapping[int, bytes], hashes: Sequence[bytes]) -> bytes:
    """The root of a tree of `total` leaves, from the leaf hashes of `opened` by index, and a multiproof.

    Raises NotIncluded for a multiproof of the wrong form, or no leaf at all.
    """
    if not opened or not 0 < total <= MAX_TOTAL or min(opened) < 0 or max(opened) >= total:
        raise NotIncluded("an opened leaf is outside of the tree", total=total)
    if any(len(item) != 32 for item in hashes):
        raise NotIncluded("a hash of the opening is not of 32 bytes")
    following = iter(hashes)
    level = sorted(opened.items())
    try:
        while total > 1:
            level = _above(level, total, following)
            total = (total + 1) >> 1
    except StopIteration:
        raise NotIncluded("the opening lacks hashes") from None
    if next(following, None) is not None:
        raise NotIncluded("the opening has more hashes than it needs")
    return level[0][1]


def _above(level: Sequence[tuple[int, bytes]], total: int, following: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """The known nodes one level up. `level` is in order; `following` gives the missing partners."""
    source = iter(following)
    result: list[tuple[int, bytes]] = []
    at = 0
    while at < len(level):
        index, value = level[at]
        at += 1
        if index & 1:
            value = node_hash(next(source), value)
        elif at < len(level) and level[at][0] == index + 1:
            value = node_hash(value, level[at][1])
            at += 1
        elif index + 1 < total:
            value = node_hash(value, next(source))
        result.append((index >> 1, value))
    return result


def missing(total: int, indices: Collection[int]) -> list[tuple[int, int]]:
    """Rule 1's nodes, as (level, index), for opening the leaves `indices` (each once) of a tree of `total`."""
    result: list[tuple[int, int]] = []
    known = sorted(indices)
    height = 0
    while total > 1:
        present = set(known)
        result.extend((height, index ^ 1) for index in known if index ^ 1 not in present and index ^ 1 < total)
        known = sorted({index >> 1 for index in known})
        total = (total + 1) >> 1
        height += 1
    return result


def multiproof(levels: Sequence[Sequence[bytes]], indices: Collection[int]) -> list[bytes]:
    """The multiproof for `indices` out of all levels of the tree (`merkle.tree`, or `levels_over`)."""
    return [levels[height][index] for height, index in missing(len(levels[0]), indices)]


def levels_over(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """All levels over leaf hashes, the root alone in the last. Not for an empty tree."""
    levels = [list(hashes)]
    while len(levels[-1]) > 1:
        level = levels[-1]
        above = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            above.append(level[-1])
        levels.append(above)
    return levels


def ascending(indices: Sequence[int]) -> bool:
    """Whether indices are in order, each once."""
    return all(first < second for first, second in pairwise(indices))
