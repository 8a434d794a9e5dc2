"""The sparse Merkle tree over all state, kept in pages.

Rules:
1. The tree's shape and hashes are `receipt.merkle`'s rule 2; this file only says how it is stored and changed.
2. A page holds four levels: sixteen slots under one prefix of the path, in nibbles. A slot is empty, a leaf (path, value
   hash), or the hash of the page below. A page below has two leaves or more; what is left of a lesser one moves up.
3. Pages stand at their prefix and are replaced in place: the store holds one tree, the newest. What a change costs
   depends on the tree's depth, never on how often it changed before.
4. `update` reads pages, level by level and each level at once, and returns the new root with the pages to write; nothing
   is written here.

What a page is, and its bytes, says page.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from avow.chain.state.errors import CorruptState
from avow.chain.state.page import Leaf, Page, Slot, empty_page, range_hash
from avow.receipt.merkle import SparseProof

ReadPages = Callable[[Sequence[bytes]], Mapping[bytes, Page]]
"""The pages at these prefixes (lower-case hex digits in ASCII), as far as there are any."""
PageWrites = dict[bytes, Page | None]
"""Pages to write by prefix; None removes."""

_HEX = {digit: value for value, digit in enumerate("0123456789abcdef")}


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
        for prefix, page in levels[depth].items():
            above[prefix[:-1]].set(_HEX[prefix[-1]], _close(prefix, page, writes, existed=True))
    root = levels[0][""]
    writes[b""] = root if any(slot is not None for slot in root.slots) else None
    return root.hash(), writes


def _descend(read: ReadPages, entries: Entries, writes: PageWrites) -> list[dict[str, Page]]:
    """Every stored page on the changed paths, by level, with what changes in them but for the pages below."""
    levels: list[dict[str, Page]] = []
    frontier = {"": entries}
    while frontier:
        stored = read([prefix.encode("ascii") for prefix in frontier])
        level: dict[str, Page] = {}
        below: dict[str, Entries] = {}
        for prefix, page_entries in frontier.items():
            page = level[prefix] = _page(stored, prefix).copy()
            for nibble, group in _by_nibble(page_entries, len(prefix)):
                place = _HEX[nibble]
                slot = page.slots[place]
                if isinstance(slot, bytes):
                    below[prefix + nibble] = group
                else:
                    page.set(place, _grow(prefix + nibble, slot, group, writes))
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
    page = empty_page()
    for nibble, group in _by_nibble(leaves, len(prefix)):
        page.slots[_HEX[nibble]] = _grow(prefix + nibble, None, group, writes)
    return _close(prefix, page, writes, existed=False)


def _close(prefix: str, page: Page, writes: PageWrites, *, existed: bool) -> Slot:
    """What the page above holds of this one (rule 2)."""
    single: Slot = None
    for slot in page.slots:
        if slot is not None:
            if single is not None or isinstance(slot, bytes):
                writes[prefix.encode("ascii")] = page
                return page.hash()
            single = slot
    if existed:
        writes[prefix.encode("ascii")] = None
    return single


def _hex_path(entry: tuple[str, Leaf | None]) -> str:
    return entry[0]


def _by_nibble(entries: Entries, depth: int) -> Iterable[tuple[str, Entries]]:
    if len(entries) == 1:
        return ((entries[0][0][depth], entries),)
    return [(nibble, list(group)) for nibble, group in groupby(entries, key=lambda entry: entry[0][depth])]


def _page(stored: Mapping[bytes, Page], prefix: str) -> Page:
    """The page that must be there; only the root's may not."""
    page = stored.get(prefix.encode("ascii"))
    if page is not None:
        return page
    if prefix:
        raise CorruptState("a page of the state tree is missing", prefix=prefix)
    return empty_page()


def subtree(prefix: str, leaves: Iterable[Leaf]) -> Slot:
    """What the tree holds at a prefix (lower-case hex digits) below which there are these leaves."""
    entries: Entries = [(leaf[0].hex(), leaf) for leaf in leaves]
    entries.sort(key=_hex_path)
    return _grow(prefix, None, entries, {})


def root_of(slots: list[Slot]) -> bytes:
    """The root over the slots at every prefix of one length, in order: 16, 256, … of them."""
    return range_hash(slots, 0, len(slots))


def prove(read: ReadPages, path: bytes) -> SparseProof:
    """The siblings on the way of `path`, and the other leaf that ends it, if one does."""
    siblings: list[bytes] = []
    prefix, digits = "", path.hex()
    while True:
        slots = _page(read([prefix.encode("ascii")]), prefix).slots
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
                siblings.append(range_hash(slots, middle, high))
                high = middle
            else:
                siblings.append(range_hash(slots, low, middle))
                low = middle
        prefix = digits[: len(prefix) + 1]
