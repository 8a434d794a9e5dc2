"""The sparse Merkle tree over all state, kept in pages.

Rules:
1. The tree's shape and hashes are `receipt.merkle`'s rule 2; this file only says how it is stored and changed.
2. A page holds four levels: sixteen slots under one prefix of the path, in nibbles. A slot is empty, a leaf (path, value
   hash), or the hash of the page below. A page below has two leaves or more; what is left of a lesser one moves up.
3. Pages stand at their prefix and are replaced in place: the store holds one tree, the newest. What a change costs
   depends on the tree's depth, never on how often it changed before.
4. `update` reads pages, level by level and each level at once, and returns the new root with the pages to write; nothing
   is written here.

Page bytes: u16 mask of page slots ‖ u16 mask of leaf slots ‖ per occupied slot, in order, 32 bytes (page) or 64 (leaf).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import groupby

from avow.chain.state.errors import CorruptState
from avow.receipt.merkle import EMPTY_SUBTREE, SparseProof

Leaf = tuple[bytes, bytes]
"""Path and value hash, 32 bytes each."""
Slot = None | bytes | Leaf
ReadPages = Callable[[Sequence[bytes]], Mapping[bytes, bytes]]
"""The pages at these prefixes (lower-case hex digits in ASCII), as far as there are any."""
PageWrites = dict[bytes, bytes | None]
"""Pages to write by prefix; None removes."""

_HEX = {digit: value for value, digit in enumerate("0123456789abcdef")}
_ZERO = EMPTY_SUBTREE


Entries = list[tuple[str, Leaf | None]]
"""(path in hex, leaf or None to remove), sorted, each path once."""


def update(read: ReadPages, changes: Iterable[tuple[bytes, bytes | None]]) -> tuple[bytes, PageWrites]:
    """The root after these changes, and the pages that hold it.

    `changes`: (path, value hash or None to remove), each path once, in any order.
    """
    entries = [(path.hex(), None if value_hash is None else (path, value_hash)) for path, value_hash in changes]
    entries.sort(key=_hex_path)
    writes: PageWrites = {}
    levels = _descend(read, entries, writes)
    for depth in range(len(levels) - 1, 0, -1):
        above = levels[depth - 1]
        for prefix, slots in levels[depth].items():
            above[prefix[:-1]][_HEX[prefix[-1]]] = _close(prefix, slots, writes, existed=True)
    slots = levels[0][""]
    writes[b""] = encode_page(slots) if any(slot is not None for slot in slots) else None
    return page_hash(slots), writes


def _descend(read: ReadPages, entries: Entries, writes: PageWrites) -> list[dict[str, list[Slot]]]:
    """Every stored page on the changed paths, by level, with what changes in them but for the pages below."""
    levels: list[dict[str, list[Slot]]] = []
    frontier = {"": entries}
    while frontier:
        encoded = read([prefix.encode("ascii") for prefix in frontier])
        level: dict[str, list[Slot]] = {}
        below: dict[str, Entries] = {}
        for prefix, page_entries in frontier.items():
            slots = level[prefix] = _page(encoded, prefix)
            for nibble, group in _by_nibble(page_entries, len(prefix)):
                place = _HEX[nibble]
                slot = slots[place]
                if isinstance(slot, bytes):
                    below[prefix + nibble] = group
                else:
                    slots[place] = _grow(prefix + nibble, slot, group, writes)
        levels.append(level)
        frontier = below
    return levels


def _grow(prefix: str, slot: Leaf | None, entries: Entries, writes: PageWrites) -> Slot:
    """What a slot without a page becomes. All of it is new: nothing needs reading."""
    if slot is not None:
        known = slot[0].hex()
        if all(path != known for path, _ in entries):
            entries = sorted([*entries, (known, slot)], key=_hex_path)
    leaves: Entries = [entry for entry in entries if entry[1] is not None]
    if len(leaves) < 2:
        return leaves[0][1] if leaves else None
    slots = _empty_page()
    for nibble, group in _by_nibble(leaves, len(prefix)):
        slots[_HEX[nibble]] = _grow(prefix + nibble, None, group, writes)
    return _close(prefix, slots, writes, existed=False)


def _close(prefix: str, slots: list[Slot], writes: PageWrites, *, existed: bool) -> Slot:
    """What the page above holds of this one (rule 2)."""
    occupied = [slot for slot in slots if slot is not None]
    if len(occupied) > 1 or (occupied and isinstance(occupied[0], bytes)):
        writes[prefix.encode("ascii")] = encode_page(slots)
        return page_hash(slots)
    if existed:
        writes[prefix.encode("ascii")] = None
    return occupied[0] if occupied else None


def _hex_path(entry: tuple[str, Leaf | None]) -> str:
    return entry[0]


def _by_nibble(entries: Entries, depth: int) -> Iterable[tuple[str, Entries]]:
    if len(entries) == 1:
        return ((entries[0][0][depth], entries),)
    return [(nibble, list(group)) for nibble, group in groupby(entries, key=lambda entry: entry[0][depth])]


def _page(encoded: Mapping[bytes, bytes], prefix: str) -> list[Slot]:
    """The page that must be there; only the root's may not."""
    page = encoded.get(prefix.encode("ascii"))
    if page is not None:
        return decode_page(page)
    if prefix:
        raise CorruptState("a page of the state tree is missing", prefix=prefix)
    return _empty_page()


def subtree(prefix: str, leaves: Iterable[Leaf]) -> Slot:
    """What the tree holds at a prefix (lower-case hex digits) below which there are these leaves."""
    entries: Entries = [(leaf[0].hex(), leaf) for leaf in leaves]
    entries.sort(key=_hex_path)
    return _grow(prefix, None, entries, {})


def root_of(slots: list[Slot]) -> bytes:
    """The root over the slots at every prefix of one length, in order: 16, 256, … of them."""
    return _range_hash(slots, 0, len(slots))


def prove(read: ReadPages, path: bytes) -> SparseProof:
    """The siblings on the way of `path`, and the other leaf that ends it, if one does."""
    siblings: list[bytes] = []
    prefix, digits = "", path.hex()
    while True:
        slots = _page(read([prefix.encode("ascii")]), prefix)
        place = _HEX[digits[len(prefix)]]
        low, high = 0, 16
        while True:
            occupied = [slot for slot in slots[low:high] if slot is not None]
            if not occupied:
                return SparseProof(tuple(siblings))
            if len(occupied) == 1 and not isinstance(occupied[0], bytes):
                leaf = occupied[0]
                return SparseProof(tuple(siblings), None if leaf[0] == path else leaf)
            if high - low == 1:
                break
            middle = (low + high) // 2
            if place < middle:
                siblings.append(_range_hash(slots, middle, high))
                high = middle
            else:
                siblings.append(_range_hash(slots, low, middle))
                low = middle
        prefix = digits[: len(prefix) + 1]


def _empty_page() -> list[Slot]:
    return [None] * 16


def decode_page(encoded: bytes) -> list[Slot]:
    """Sixteen slots. Raises CorruptState."""
    pages, leaves = int.from_bytes(encoded[:2]), int.from_bytes(encoded[2:4])
    if len(encoded) != 4 + 32 * pages.bit_count() + 64 * leaves.bit_count() or pages & leaves:
        raise CorruptState("a page of the state tree has the wrong size")
    slots = _empty_page()
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
    return slots


def encode_page(slots: list[Slot]) -> bytes:
    pages = leaves = 0
    parts: list[bytes] = [b""]
    for place, slot in enumerate(slots):
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


def page_hash(slots: list[Slot]) -> bytes:
    """The hash of the subtree that the page is the top of; an empty one is 32 zero bytes."""
    if None in slots:
        return _range_hash(slots, 0, 16)
    # A full page has nothing to collapse.
    level = [
        slot if isinstance(slot, bytes) else sha256(b"\x00" + slot[0] + slot[1]).digest()
        for slot in slots
        if slot is not None
    ]
    while len(level) > 1:
        level = [sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level), 2)]
    return level[0]


def _range_hash(slots: list[Slot], low: int, high: int) -> bytes:
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
