"""A whole state in pieces, each of which is checked by itself against the application's hash.

Rules:
1. A snapshot is an outline and chunks. It follows from the state alone: every node makes the same bytes.
2. The outline names the history's peaks and, for every prefix of `depth` nibbles, what the state tree holds there: together they give the
   application's hash, so that an outline is either right or refused before anything is fetched.
3. A state chunk holds the values under a run of prefixes, in order of their paths; rebuilding those subtrees gives what the outline
   says, or the chunk is refused. A history chunk holds the leaf hashes of a run of the history, checked against its perfect trees.
4. How the state is cut: `depth` by the number of values, runs greedily up to CHUNK_BYTES, the history by HISTORY_LEAVES.

Chunk bytes, state: per value u32 key length ‖ key ‖ u32 value length ‖ value; history: 32 bytes a leaf. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Self

from avow.chain.state import history as history_nodes
from avow.chain.state import tree
from avow.chain.state.errors import BadSnapshot
from avow.chain.state.page import Leaf, Slot
from avow.chain.state.store import Committed
from avow.errors import InputError
from avow.receipt import fields
from avow.receipt.encoding import Value, decode, encode
from avow.receipt.merkle import MountainRange, sparse_path

VERSION = 1
CHUNK_BYTES = 8 * 1024 * 1024
MAX_CHUNK = 15 * 1024 * 1024
"""CometBFT carries less than 16 MB (statesync/messages.go)."""
MAX_OUTLINE = 3 * 1024 * 1024
MAX_ITEMS = 100_000
HISTORY_HEIGHT = 17
HISTORY_LEAVES = 1 << HISTORY_HEIGHT
MAX_DEPTH = 3
DEPTHS = ((1_024, 1), (1_000_000, 2))
"""Up to so many values, so many nibbles; beyond, MAX_DEPTH."""

Pair = tuple[bytes, bytes]


def depth_of(count: int) -> int:
    return next((depth for most, depth in DEPTHS if count <= most), MAX_DEPTH)


def bucket_of(path: bytes, depth: int) -> int:
    """Which of the 16^depth prefixes a path is under."""
    return int.from_bytes(path[:2]) >> (16 - 4 * depth)


@dataclass(frozen=True)
class Outline:
    """See the rules. `bounds` are the prefixes at which state chunks end (exclusive), ascending to 16^depth.

    `history_roots` are the perfect trees over each full run of HISTORY_LEAVES.
    """

    height: int
    depth: int
    slots: tuple[Slot, ...]
    bounds: tuple[int, ...]
    history: MountainRange
    history_roots: tuple[bytes, ...]

    @cached_property
    def committed(self) -> Committed:
        return Committed(self.height, tree.root_of(list(self.slots)), self.history)

    @property
    def chunks(self) -> int:
        return len(self.bounds) + self.history_chunks

    @property
    def history_chunks(self) -> int:
        return -(-self.history.size // HISTORY_LEAVES)

    def encoded(self) -> bytes:
        slots: list[Value] = [
            None if slot is None else slot if isinstance(slot, bytes) else list(slot) for slot in self.slots
        ]
        return encode(
            {
                "version": VERSION,
                "height": self.height,
                "depth": self.depth,
                "slots": slots,
                "bounds": list(self.bounds),
                "history_size": self.history.size,
                "history_peaks": list(self.history.peaks),
                "history_roots": list(self.history_roots),
            }
        )

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """Raises BadSnapshot, also for an outline that contradicts itself."""
        try:
            item = fields.mapping(decode(data, max_bytes=MAX_OUTLINE, max_items=MAX_ITEMS), "outline", _NAMES)
            fields.version(item["version"], "outline", VERSION)
            depth = fields.integer(item["depth"], "depth", maximum=MAX_DEPTH)
            outline = cls(
                fields.integer(item["height"], "height", maximum=(1 << 63) - 1),
                depth,
                tuple([_slot(slot) for slot in fields.array(item["slots"], "slots", max_length=16**MAX_DEPTH)]),
                tuple([fields.integer(at, "bound") for at in fields.array(item["bounds"], "bounds", max_length=4_096)]),
                MountainRange(
                    fields.integer(item["history_size"], "history_size", maximum=1 << 40),
                    _hashes(item["history_peaks"], "history_peaks", 64),
                ),
                _hashes(item["history_roots"], "history_roots", 65_536),
            )
        except InputError as error:
            raise BadSnapshot(error.detail) from error
        outline._check()
        return outline

    def _check(self) -> None:
        prefixes = 16**self.depth
        if self.depth == 0 or len(self.slots) != prefixes:
            raise BadSnapshot("the outline has not one slot per prefix")
        if not self.bounds or self.bounds[-1] != prefixes or list(self.bounds) != sorted(set(self.bounds)):
            raise BadSnapshot("the outline's chunks do not cover the state")
        for at, slot in enumerate(self.slots):
            if isinstance(slot, tuple) and bucket_of(slot[0], self.depth) != at:
                raise BadSnapshot("a leaf of the outline stands at another prefix than its own")
        full = self.history.size // HISTORY_LEAVES
        peaks, _ = history_nodes.extend_hashed(MountainRange(), self.history_roots)
        high = self.history.peaks[: full.bit_count()]
        if (
            len(self.history_roots) != full
            or peaks.peaks != high
            or len(self.history.peaks) != self.history.size.bit_count()
        ):
            raise BadSnapshot("the outline's history contradicts itself")

    # --- Chunks -----------------------------------------------------------------------------------------------------

    def check(self, index: int, chunk: bytes) -> None:
        """Rule 3. Raises BadSnapshot."""
        if not 0 <= index < self.chunks or len(chunk) > MAX_CHUNK:
            raise BadSnapshot("there is no such chunk", index=index, size=len(chunk))
        if index < len(self.bounds):
            self._check_state(index, chunk)
        else:
            self._check_history(index - len(self.bounds), read_leaves(chunk))

    def _check_state(self, index: int, chunk: bytes) -> None:
        first = self.bounds[index - 1] if index else 0
        found: list[list[Leaf]] = [[] for _ in range(self.bounds[index] - first)]
        last = b""
        for key, value in read_pairs(chunk):
            path = sparse_path(key)
            bucket = bucket_of(path, self.depth) - first
            if path <= last or not 0 <= bucket < len(found):
                raise BadSnapshot("a chunk's values are not in order, or not its own", index=index)
            last = path
            found[bucket].append((path, sha256(value).digest()))
        for at, leaves in enumerate(found, first):
            if tree.subtree(prefix(at, self.depth), leaves) != self.slots[at]:
                raise BadSnapshot("a chunk's values are not those of the state", index=index)

    def _check_history(self, run: int, hashes: Sequence[bytes]) -> None:
        size = min(HISTORY_LEAVES, self.history.size - run * HISTORY_LEAVES)
        made, _ = history_nodes.extend_hashed(MountainRange(), hashes)
        full = run < len(self.history_roots)
        expected = (self.history_roots[run],) if full else self.history.peaks[len(self.history_roots).bit_count() :]
        if made.size != size or made.peaks != expected:
            raise BadSnapshot("a chunk's leaves are not those of the history", run=run)


_NAMES = ("version", "height", "depth", "slots", "bounds", "history_size", "history_peaks", "history_roots")


def _hashes(value: Value, field: str, most: int) -> tuple[bytes, ...]:
    return tuple([fields.octets(item, field, 32) for item in fields.array(value, field, max_length=most)])


def _slot(value: Value) -> Slot:
    if value is None:
        return None
    if isinstance(value, list):
        if len(value) != 2:
            raise BadSnapshot("a leaf is a path and a hash")
        return fields.octets(value[0], "path", 32), fields.octets(value[1], "value_hash", 32)
    return fields.octets(value, "slot", 32)


def prefix(bucket: int, depth: int) -> str:
    return f"{bucket:0{depth}x}"


# --- Making one ---------------------------------------------------------------------------------------------------------


def outline_of(committed: Committed, depth: int, buckets: Iterable[Sequence[Pair]], roots: Sequence[bytes]) -> Outline:
    """The outline of a state whose values are given by prefix, all 16^depth of them in order; each is looked at once."""
    slots: list[Slot] = []
    bounds: list[int] = []
    size = 0
    for at, pairs in enumerate(buckets):
        slots.append(
            tree.subtree(prefix(at, depth), [(sparse_path(key), sha256(value).digest()) for key, value in pairs])
        )
        length = sum([8 + len(key) + len(value) for key, value in pairs])
        if size and size + length > CHUNK_BYTES:
            bounds.append(at)
            size = 0
        size += length
    bounds.append(len(slots))
    outline = Outline(committed.height, depth, tuple(slots), tuple(bounds), committed.history, tuple(roots))
    if outline.committed != committed:
        raise BadSnapshot("the values do not give the state's root", height=committed.height)
    return outline


def write_pairs(pairs: Iterable[Pair]) -> bytes:
    """A prefix's part of a chunk: its values in order of their paths."""
    ordered = sorted([(sparse_path(key), key, value) for key, value in pairs])
    return b"".join([len(key).to_bytes(4) + key + len(value).to_bytes(4) + value for _, key, value in ordered])


def read_pairs(chunk: bytes) -> Iterator[Pair]:
    """Raises BadSnapshot."""
    at = 0
    while at < len(chunk):
        parts = []
        for _ in range(2):
            length = int.from_bytes(chunk[at : at + 4])
            if at + 4 + length > len(chunk):
                raise BadSnapshot("a chunk is cut off")
            parts.append(chunk[at + 4 : at + 4 + length])
            at += 4 + length
        yield parts[0], parts[1]


def read_leaves(chunk: bytes) -> list[bytes]:
    """Raises BadSnapshot."""
    if len(chunk) % 32:
        raise BadSnapshot("a chunk of the history is cut off")
    return [chunk[at : at + 32] for at in range(0, len(chunk), 32)]
