"""Merkle trees: the ordered list (RFC 6962), the sparse map, the append-only history.

Rules:
1. Ordered list (RFC 6962 §2.1, as CometBFT uses it): leaf = H(0x00 ‖ data), node = H(0x01 ‖ left ‖ right), the left
   side holds the largest power of two below the count, the empty list is H(""). H is SHA-256.
2. Sparse map over 256-bit paths, path = H(key): an empty subtree is 32 zero bytes, a subtree of one leaf is that leaf,
   H(0x00 ‖ path ‖ H(value)), every other subtree is H(0x01 ‖ left ‖ right). Each map has one root.
3. A sparse proof lists the siblings from the root down. Below them is the key's own leaf (membership), nothing, or one
   other leaf on the same way (non-membership).
4. History is a Merkle mountain range: perfect trees (rule 1's hashes) over the leaves, one per set bit of the size,
   highest first. Root = H(tag "avow/history/1", u64(size) ‖ peaks): the size is bound in, a proof cannot lie about it.

Every function computes a root or refuses; comparing it with a trusted one is the caller's one line
(`verify_history` does both).
Pure: no clock, no input or output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from avow.errors import VerificationError
from avow.receipt import fields
from avow.receipt.encoding import Value, tagged_hash

EMPTY_LIST_ROOT = sha256(b"").digest()
EMPTY_SUBTREE = bytes(32)
HISTORY_TAG = b"avow/history/1"
MAX_SPARSE_DEPTH = 256
MAX_HISTORY_HEIGHT = 64


def _hashes(value: Value, field: str, most: int) -> tuple[bytes, ...]:
    return tuple(fields.octets(item, field, 32) for item in fields.array(value, field, max_length=most))


class NotIncluded(VerificationError):
    """A Merkle proof does not lead from the leaf to the root."""

    code = "not_included"


def leaf_hash(data: bytes) -> bytes:
    """H(0x00 ‖ data), 32 bytes."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """H(0x01 ‖ left ‖ right), 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


# --- Ordered list (rule 1) -----------------------------------------------------------------------------------------


def tree(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels of the tree over leaf data, hashed leaves first, the root alone in the last. Empty for no leaves.

    A node without a partner moves up unchanged: that is RFC 6962's split, read from the bottom.
    """
    if not leaves:
        return []
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    levels = [level]
    while len(level) > 1:
        above = [sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            above.append(level[-1])
        levels.append(above)
        level = above
    return levels


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf data."""
    return tree(leaves)[-1][0] if leaves else EMPTY_LIST_ROOT


def root_of_hashes(level: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, without keeping the levels."""
    if not level:
        return EMPTY_LIST_ROOT
    while len(level) > 1:
        above = [sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            above.append(level[-1])
        level = above
    return level[0]


def path_in(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """The inclusion path of one leaf, from the leaf up, out of `tree`'s levels."""
    if not levels or not 0 <= index < len(levels[0]):
        raise IndexError("no such leaf")
    siblings = []
    for level in levels[:-1]:
        partner = index ^ 1
        if partner < len(level):
            siblings.append(level[partner])
        index >>= 1
    return siblings


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The inclusion path of one leaf, from the leaf up (RFC 6962 §2.1.1)."""
    return path_in(tree(leaves), index)


def path_length(index: int, total: int) -> int:
    """How many siblings the path of leaf `index` among `total` has."""
    length, last = 0, total - 1
    while last:
        length += index & 1 or index < last
        index >>= 1
        last >>= 1
    return length


def root_from_path(leaf: bytes, index: int, total: int, siblings: Sequence[bytes]) -> bytes:
    """The root that the path of leaf data implies. Raises NotIncluded for an index or a path of the wrong size."""
    if not 0 <= index < total <= 1 << 63:
        raise NotIncluded("the leaf's index is outside the tree", index=index, total=total)
    expected = path_length(index, total)
    if len(siblings) != expected:
        raise NotIncluded("the path has the wrong length", expected=expected, found=len(siblings))
    if any(len(sibling) != 32 for sibling in siblings):
        raise NotIncluded("a hash in the path is not of 32 bytes")
    result = leaf_hash(leaf)
    following = iter(siblings)
    last = total - 1
    while last:
        if index & 1:
            result = node_hash(next(following), result)
        elif index < last:
            result = node_hash(result, next(following))
        index >>= 1
        last >>= 1
    return result


# --- Sparse map (rules 2 and 3) ------------------------------------------------------------------------------------


def sparse_path(key: bytes) -> bytes:
    """Where a key stands in the map: 32 bytes, most significant bit first."""
    return sha256(key).digest()


def sparse_leaf(path: bytes, value_hash: bytes) -> bytes:
    """H(0x00 ‖ path ‖ H(value)); both parts have 32 bytes."""
    return sha256(b"\x00" + path + value_hash).digest()


@dataclass(frozen=True, slots=True)
class SparseProof:
    """Beside a key's way: the siblings from the root down, and the other leaf (path, value hash) if one ends it."""

    siblings: tuple[bytes, ...]
    other: tuple[bytes, bytes] | None = None

    def to_value(self) -> Value:
        """{"siblings": [32 B …], "other": null | [path, value hash]}"""
        return {"siblings": list(self.siblings), "other": None if self.other is None else list(self.other)}

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """The inverse of `to_value`; raises FieldError for anything else."""
        items = fields.mapping(value, "proof", ("siblings", "other"))
        siblings = _hashes(items["siblings"], "proof.siblings", MAX_SPARSE_DEPTH)
        if items["other"] is None:
            return cls(siblings)
        other = _hashes(items["other"], "proof.other", 2)
        if len(other) != 2:
            raise fields.FieldError("proof.other is not a path and a value hash", field="proof.other")
        return cls(siblings, (other[0], other[1]))


def sparse_root(key: bytes, value: bytes | None, proof: SparseProof) -> bytes:
    """The root under which `key` holds `value`, or holds nothing when `value` is None.

    Raises NotIncluded when the proof has not the form that its claim needs.
    """
    path = sparse_path(key)
    siblings = proof.siblings
    if len(siblings) > MAX_SPARSE_DEPTH or any(len(sibling) != 32 for sibling in siblings):
        raise NotIncluded("the sparse proof is not a list of hashes")
    bits = int.from_bytes(path)
    if value is not None:
        if proof.other is not None:
            raise NotIncluded("a proof of membership names another leaf")
        result = sparse_leaf(path, sha256(value).digest())
    elif proof.other is not None:
        other_path, other_value_hash = proof.other
        if len(other_path) != 32 or len(other_value_hash) != 32:
            raise NotIncluded("the other leaf is not a pair of hashes")
        if other_path == path:
            raise NotIncluded("the other leaf is the key's own")
        if (int.from_bytes(other_path) ^ bits) >> (256 - len(siblings)):
            raise NotIncluded("the other leaf is not on the key's way")
        result = sparse_leaf(other_path, other_value_hash)
    else:
        result = EMPTY_SUBTREE
    if siblings and siblings[-1] == EMPTY_SUBTREE:
        raise NotIncluded("the proof goes on below a subtree that has collapsed")
    for depth in range(len(siblings) - 1, -1, -1):
        right = bits >> (255 - depth) & 1
        result = node_hash(siblings[depth], result) if right else node_hash(result, siblings[depth])
    return result


# --- History (rule 4) ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MountainRange:
    """An append-only list by its size and peaks alone, highest peak first: all that appending needs."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> "MountainRange":
        """The range with one more leaf (data, hashed here)."""
        peaks = list(self.peaks)
        carry = leaf_hash(leaf)
        at = self.size
        while at & 1:
            carry = node_hash(peaks.pop(), carry)
            at >>= 1
        return MountainRange(self.size + 1, (*peaks, carry))

    def root(self) -> bytes:
        """The root that binds size and peaks."""
        return history_root(self.size, self.peaks)


def history_root(size: int, peaks: Sequence[bytes]) -> bytes:
    """H(tag, u64(size) ‖ peaks), peaks highest first."""
    return tagged_hash(HISTORY_TAG, size.to_bytes(8), *peaks)


def history_mountain(index: int, size: int) -> tuple[int, int]:
    """The position among the peaks, and the height, of the mountain that leaf `index` is in. 0 ≤ index < size."""
    position, start = 0, 0
    for height in range(size.bit_length() - 1, -1, -1):
        if size >> height & 1:
            if index < start + (1 << height):
                return position, height
            start += 1 << height
            position += 1
    raise IndexError("no such leaf")


@dataclass(frozen=True, slots=True)
class HistoryProof:
    """A leaf's way to its peak, from the leaf up, and the other peaks, highest first, at the time of `size` leaves."""

    size: int
    path: tuple[bytes, ...]
    peaks: tuple[bytes, ...]

    def to_value(self) -> Value:
        """{"size": uint, "path": [32 B …], "peaks": [32 B …]}"""
        return {"size": self.size, "path": list(self.path), "peaks": list(self.peaks)}

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """The inverse of `to_value`; raises FieldError for anything else."""
        items = fields.mapping(value, "history", ("size", "path", "peaks"))
        return cls(
            fields.integer(items["size"], "history.size", maximum=(1 << 63) - 1),
            _hashes(items["path"], "history.path", MAX_HISTORY_HEIGHT),
            _hashes(items["peaks"], "history.peaks", MAX_HISTORY_HEIGHT),
        )


def root_from_history(leaf: bytes, index: int, proof: HistoryProof) -> bytes:
    """The history root under which leaf data stands at `index`. Raises NotIncluded for a proof of the wrong form."""
    if not 0 <= index < proof.size < 1 << 63:
        raise NotIncluded("the leaf's index is outside the history", index=index, size=proof.size)
    position, height = history_mountain(index, proof.size)
    if len(proof.path) != height or len(proof.peaks) != proof.size.bit_count() - 1:
        raise NotIncluded("the history proof has the wrong length")
    if any(len(item) != 32 for item in (*proof.path, *proof.peaks)):
        raise NotIncluded("a hash in the history proof is not of 32 bytes")
    result = leaf_hash(leaf)
    for sibling in proof.path:
        result = node_hash(sibling, result) if index & 1 else node_hash(result, sibling)
        index >>= 1
    return history_root(proof.size, (*proof.peaks[:position], result, *proof.peaks[position:]))


def verify_history(leaf: bytes, index: int, proof: HistoryProof, root: bytes) -> None:
    """Leaf data stands at `index` of the history with this root. Raises NotIncluded."""
    found = root_from_history(leaf, index, proof)
    if found != root:
        raise NotIncluded("the leaf is not in the history", expected=root.hex(), found=found.hex())
