"""The history of settled batches: a Merkle mountain range whose nodes are stored, so that any leaf can be proven later.

Rules:
1. Hashes and roots are `receipt.merkle`'s rule 4. Node (h, i) is the perfect tree over leaves i·2^h … (i+1)·2^h - 1.
2. Appending needs the size and the peaks alone and writes each new node once; nodes never change.
"""

from collections.abc import Callable, Sequence

from avow.chain.state.errors import CorruptState
from avow.receipt.merkle import HistoryProof, MountainRange, history_mountain, leaf_hash, node_hash

ReadNode = Callable[[bytes], bytes | None]
"""The hash at a node's key, or None."""


def node_key(height: int, index: int) -> bytes:
    """u8(height) ‖ u64(index)"""
    return height.to_bytes(1) + index.to_bytes(8)


def extend(history: MountainRange, leaves: Sequence[bytes]) -> tuple[MountainRange, dict[bytes, bytes]]:
    """The history with more leaves (data), and the nodes to store."""
    return extend_hashed(history, [leaf_hash(leaf) for leaf in leaves])


def extend_hashed(history: MountainRange, hashes: Sequence[bytes]) -> tuple[MountainRange, dict[bytes, bytes]]:
    """The same, for leaves whose hashes alone are known."""
    peaks, size = list(history.peaks), history.size
    nodes: dict[bytes, bytes] = {}
    for leaf in hashes:
        height, carry = 0, leaf
        nodes[node_key(0, size)] = carry
        while size >> height & 1:
            carry = node_hash(peaks.pop(), carry)
            height += 1
            nodes[node_key(height, size >> height)] = carry
        peaks.append(carry)
        size += 1
    return MountainRange(size, tuple(peaks)), nodes


def prove(read: ReadNode, history: MountainRange, index: int) -> HistoryProof:
    """The proof of leaf `index` under the history's root. Raises IndexError for a leaf that is not there."""
    if not 0 <= index < history.size:
        raise IndexError("no such leaf in the history")
    position, height = history_mountain(index, history.size)
    path = []
    for level in range(height):
        node = read(node_key(level, index >> level ^ 1))
        if node is None:
            raise CorruptState("a node of the history is missing", level=level, index=index)
        path.append(node)
    return HistoryProof(history.size, tuple(path), history.peaks[:position] + history.peaks[position + 1 :])
