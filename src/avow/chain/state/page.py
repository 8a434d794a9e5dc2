"""A page of the state tree: four levels, sixteen slots, and the hashes above them.

Rules:
1. A slot is empty, a leaf (path, value hash), or the hash of the page below (tree.py, rule 2). The hash over a page follows
   `receipt.merkle`'s rule 2: nothing is 32 zero bytes, a lone leaf moves up unchanged.
2. What stands in a store or in its cache never changes: whoever changes a page changes a copy.
3. The hashes within a page are kept with it, so that a changed slot costs four of them and not thirty; they are not stored.

Page bytes: u16 mask of page slots ‖ u16 mask of leaf slots ‖ per occupied slot, in order, 32 bytes (page) or 64 (leaf).
"""

from hashlib import sha256

from avow.chain.state.errors import CorruptState
from avow.receipt.merkle import EMPTY_SUBTREE

Leaf = tuple[bytes, bytes]
"""Path and value hash, 32 bytes each."""
Slot = None | bytes | Leaf

SLOTS = 16
_ZERO = EMPTY_SUBTREE
_MANY = 6
"""From so many changed slots on, all is hashed again."""


class Page:
    """`set` slots, then ask for its `hash`."""

    __slots__ = ("_changed", "_hashes", "_lone", "slots")

    def __init__(self, slots: list[Slot]) -> None:
        self.slots = slots
        self._hashes: list[bytes | None] | None = None
        """As a heap: 1 is the page's own, 2 and 3 its halves', 16 to 31 the slots'. None for nothing."""
        self._lone = 0
        """A bit for each hash: whether it is one leaf's, with nothing beside it."""
        self._changed: list[int] = []

    def copy(self) -> "Page":
        """To be changed (rule 2)."""
        page = Page(self.slots.copy())
        page._hashes = None if self._hashes is None else self._hashes.copy()
        page._lone = self._lone
        page._changed = self._changed.copy()
        return page

    def set(self, place: int, slot: Slot) -> None:
        self.slots[place] = slot
        self._changed.append(place)

    def hash(self) -> bytes:
        """Of the subtree that the page is the top of."""
        hashes = self._hashes
        if hashes is None or len(self._changed) >= _MANY:
            nothing: list[bytes | None] = [None] * (2 * SLOTS)
            hashes = self._hashes = nothing
            self._lone = 0
            for place, slot in enumerate(self.slots):
                if slot is not None:
                    self._bottom(hashes, place, slot)
            for index in range(SLOTS - 1, 0, -1):
                self._above(hashes, index)
        elif len(self._changed) == 1:
            (place,) = self._changed
            self._bottom(hashes, place, self.slots[place])
            index = SLOTS + place >> 1
            while index:
                self._above(hashes, index)
                index >>= 1
        else:
            for place in self._changed:
                self._bottom(hashes, place, self.slots[place])
            level = {SLOTS + place >> 1 for place in self._changed}
            while level:
                for index in level:
                    self._above(hashes, index)
                level = {index >> 1 for index in level if index > 1}
        self._changed = []
        return hashes[1] or _ZERO

    def _bottom(self, hashes: list[bytes | None], place: int, slot: Slot) -> None:
        index = SLOTS + place
        if isinstance(slot, tuple):
            hashes[index] = sha256(b"\x00" + slot[0] + slot[1]).digest()
            self._lone |= 1 << index
        else:
            hashes[index] = slot
            self._lone &= ~(1 << index)

    def _above(self, hashes: list[bytes | None], index: int) -> None:
        left, right = hashes[2 * index], hashes[2 * index + 1]
        if left is not None and right is not None:
            hashes[index] = sha256(b"\x01" + left + right).digest()
        elif left is None and right is None:
            hashes[index] = None
        elif self._lone >> (2 * index) & 3:
            hashes[index] = left or right
            self._lone |= 1 << index
            return
        else:
            hashes[index] = sha256(b"\x01" + (left or _ZERO) + (right or _ZERO)).digest()
        self._lone &= ~(1 << index)

    def encoded(self) -> bytes:
        """The page's bytes, as it is stored."""
        pages = leaves = 0
        parts: list[bytes] = [b""]
        for place, slot in enumerate(self.slots):
            if slot is None:
                continue
            if isinstance(slot, bytes):
                pages |= 1 << place
                parts.append(slot)
            else:
                leaves |= 1 << place
                parts += slot
        parts[0] = pages.to_bytes(2) + leaves.to_bytes(2)
        return b"".join(parts)


def empty_page() -> Page:
    return Page([None] * SLOTS)


def decode_page(encoded: bytes) -> Page:
    """Raises CorruptState."""
    pages, leaves = int.from_bytes(encoded[:2]), int.from_bytes(encoded[2:4])
    if len(encoded) != 4 + 32 * pages.bit_count() + 64 * leaves.bit_count() or pages & leaves:
        raise CorruptState("a page of the state tree has the wrong size")
    slots: list[Slot] = [None] * SLOTS
    at = 4
    occupied = pages | leaves
    while occupied:
        bit = occupied & -occupied
        occupied ^= bit
        place = bit.bit_length() - 1
        if pages & bit:
            slots[place] = encoded[at : at + 32]
            at += 32
        else:
            slots[place] = (encoded[at : at + 32], encoded[at + 32 : at + 64])
            at += 64
    return Page(slots)


def range_hash(slots: list[Slot], low: int, high: int) -> bytes:
    """The hash over slots low to high (a power of two of them): `receipt.merkle` rule 2, bottom-up."""
    # A lone leaf moves up unchanged; `level` holds (hash, is a lone leaf) or None for nothing.
    level: list[tuple[bytes, bool] | None] = [
        None
        if slot is None
        else (slot, False)
        if isinstance(slot, bytes)
        else (sha256(b"\x00" + slot[0] + slot[1]).digest(), True)
        for slot in slots[low:high]
    ]
    while len(level) > 1:
        above: list[tuple[bytes, bool] | None] = []
        for at in range(0, len(level), 2):
            left, right = level[at], level[at + 1]
            if left is None:
                if right is None or right[1]:
                    above.append(right)
                else:
                    above.append((sha256(b"\x01" + _ZERO + right[0]).digest(), False))
            elif right is None:
                above.append(left if left[1] else (sha256(b"\x01" + left[0] + _ZERO).digest(), False))
            else:
                above.append((sha256(b"\x01" + left[0] + right[0]).digest(), False))
        level = above
    return _ZERO if level[0] is None else level[0][0]
