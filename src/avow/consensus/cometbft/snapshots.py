"""Snapshots for state sync: made in the background, kept in a folder, taken from peers.

Rules:
1. One is made at every height that `interval` divides, from the state as it was then, in a thread of its own; while one is being
   made, no other is begun. The newest KEPT are kept; one that is not whole is removed.
2. One from peers counts only as far as chain/state/snapshot.py's rules 2 and 3 go: a wrong outline is rejected, a wrong chunk is
   fetched again and its sender banned. Each is kept on disk once it is verified. With the last one the state is made from them, one
   after another, in one transaction, which the caller holds open.

FOLDER/HEIGHT/outline, FOLDER/HEIGHT/0, 1, …: the chunks. FOLDER/taken: what is being taken from peers.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from avow.chain.state import SqliteStore, StateError, Store
from avow.chain.state import history as history_nodes
from avow.chain.state.errors import BadSnapshot
from avow.chain.state.snapshot import (
    HISTORY_LEAVES,
    Outline,
    Pair,
    bucket_of,
    depth_of,
    outline_of,
    read_leaves,
    read_pairs,
    write_pairs,
)
from avow.consensus.cometbft.messages import Applied, ApplySnapshotChunkResponse, Offered, Snapshot
from avow.home import private_folder
from avow.receipt.encoding import tagged_hash
from avow.receipt.merkle import MountainRange, sparse_path

log = logging.getLogger(__name__)

FORMAT = 1
KEPT = 2
_OUTLINE = "outline"
_TAKEN = "taken"
_SPILL_BYTES = 64 * 1024 * 1024


class SnapshotFolder:
    """The rules above, as the driver's `Snapshots`. `on_restored` is called when the store holds another state."""

    def __init__(
        self, path: Path, store: Store, *, interval: int, on_restored: Callable[[], None] = lambda: None
    ) -> None:
        self._path = private_folder(path)
        self._store = store
        self._interval = interval
        self._on_restored = on_restored
        self._making: threading.Thread | None = None
        self._taking: tuple[Outline, bytes] | None = None
        self._taken: set[int] = set()
        for leftover in [*self._path.glob("*.part"), self._path / _TAKEN]:
            shutil.rmtree(leftover, ignore_errors=True)

    # --- Making -----------------------------------------------------------------------------------------------------

    def committed(self, height: int) -> None:
        """Rule 1."""
        if not self._interval or height % self._interval or not isinstance(self._store, SqliteStore):
            return
        if self._making is not None and self._making.is_alive():
            log.warning("the last snapshot is still being made: none is made at height %d", height)
            return
        frozen = self._store.frozen()
        self._making = threading.Thread(target=self._make, args=(frozen,), name="snapshot", daemon=True)
        self._making.start()

    def wait(self) -> None:
        """Until the snapshot that is being made is there."""
        if self._making is not None:
            self._making.join()

    def _make(self, frozen: SqliteStore) -> None:
        height = frozen.committed.height
        try:
            make(frozen, self._path / str(height))
            for old in self._heights()[:-KEPT]:
                shutil.rmtree(self._path / str(old), ignore_errors=True)
        except (StateError, OSError):
            log.exception("no snapshot at height %d", height)
        finally:
            frozen.close()

    # --- Giving -----------------------------------------------------------------------------------------------------

    def _heights(self) -> list[int]:
        return sorted([int(item.name) for item in self._path.iterdir() if item.name.isdecimal()])

    def list(self) -> Sequence[Snapshot]:
        found = []
        for height in reversed(self._heights()):
            try:
                data = (self._path / str(height) / _OUTLINE).read_bytes()
                found.append(Snapshot(height, FORMAT, Outline.decoded(data).chunks, _identity(data), data))
            except (OSError, BadSnapshot):
                log.warning("the snapshot at height %d is damaged: it is not offered", height)
        return found

    def load(self, height: int, kind: int, chunk: int) -> bytes:
        if kind != FORMAT:
            return b""
        try:
            return (self._path / str(height) / str(chunk)).read_bytes()
        except OSError:
            return b""

    def oldest_needed(self) -> int | None:
        return min(self._heights(), default=None)

    # --- Taking -----------------------------------------------------------------------------------------------------

    def offer(self, snapshot: Snapshot, app_hash: bytes) -> Offered:
        if snapshot.format != FORMAT:
            return Offered.REJECT_FORMAT
        try:
            outline = Outline.decoded(snapshot.metadata)
        except BadSnapshot as bad:
            log.warning("a snapshot is refused: %s", bad.detail)
            return Offered.REJECT
        right = (
            outline.height == snapshot.height
            and outline.chunks == snapshot.chunks
            and outline.committed.app_hash == app_hash
            and _identity(snapshot.metadata) == snapshot.hash
        )
        if not right or self._store.committed.height:
            return Offered.REJECT
        shutil.rmtree(self._path / _TAKEN, ignore_errors=True)
        private_folder(self._path / _TAKEN)
        self._taking, self._taken = (outline, app_hash), set()
        return Offered.ACCEPT

    def apply(self, index: int, chunk: bytes, sender: str) -> ApplySnapshotChunkResponse:
        if self._taking is None:
            return ApplySnapshotChunkResponse(Applied.ABORT)
        outline, app_hash = self._taking
        try:
            outline.check(index, chunk)
        except BadSnapshot as bad:
            log.warning("a snapshot's chunk is refused: %s", bad.detail)
            return ApplySnapshotChunkResponse(Applied.RETRY, (index,), (sender,) if sender else ())
        (self._path / _TAKEN / str(index)).write_bytes(chunk)
        self._taken.add(index)
        if len(self._taken) == outline.chunks:
            self._restore(outline, app_hash)
        return ApplySnapshotChunkResponse(Applied.ACCEPT)

    def _restore(self, outline: Outline, app_hash: bytes) -> None:
        """Rule 2."""
        folder = self._path / _TAKEN
        states = len(outline.bounds)
        committed = self._store.restore(
            outline.height,
            (read_pairs((folder / str(index)).read_bytes()) for index in range(states)),
            (read_leaves((folder / str(index)).read_bytes()) for index in range(states, outline.chunks)),
        )
        if committed.app_hash != app_hash:
            raise BadSnapshot("the restored state has another hash", height=outline.height)
        self._taking = None
        shutil.rmtree(folder, ignore_errors=True)
        self._on_restored()


def _identity(outline: bytes) -> bytes:
    return tagged_hash(b"avow/snapshot/1", outline)


# --- Writing one --------------------------------------------------------------------------------------------------------


def make(store: Store, target: Path) -> None:
    """Write the store's committed state as a snapshot into `target`, whole or not at all."""
    work = target.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)
    private_folder(work)
    try:
        depth = depth_of(sum(1 for _ in store.iterate(b"")))
        _spill(store, work, depth)
        roots = _write_history(store, work)
        outline = outline_of(store.committed, depth, (_bucket(work, at) for at in range(16**depth)), roots)
        first = 0
        for index, bound in enumerate(outline.bounds):
            with (work / str(index)).open("wb") as file:
                for at in range(first, bound):
                    file.write(write_pairs(_bucket(work, at)))
                    (work / f"bucket-{at}").unlink(missing_ok=True)
            first = bound
        for run in range(outline.history_chunks):
            (work / f"history-{run}").rename(work / str(len(outline.bounds) + run))
        (work / _OUTLINE).write_bytes(outline.encoded())
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _spill(store: Store, work: Path, depth: int) -> None:
    """Every value into the file of its prefix, in bounded memory."""
    held: dict[int, list[Pair]] = {}
    size = 0
    for key, value in store.iterate(b""):
        held.setdefault(bucket_of(sparse_path(key), depth), []).append((key, value))
        size += len(key) + len(value)
        if size > _SPILL_BYTES:
            _flush(held, work)
            size = 0
    _flush(held, work)


def _flush(held: dict[int, list[Pair]], work: Path) -> None:
    for bucket, pairs in held.items():
        with (work / f"bucket-{bucket}").open("ab") as file:
            file.write(write_pairs(pairs))
    held.clear()


def _bucket(work: Path, at: int) -> Sequence[Pair]:
    try:
        return list(read_pairs((work / f"bucket-{at}").read_bytes()))
    except FileNotFoundError:
        return ()


def _write_history(store: Store, work: Path) -> list[bytes]:
    """The history's chunks; the roots of the full ones."""
    roots: list[bytes] = []
    size = store.committed.history.size
    for run, first in enumerate(range(0, size, HISTORY_LEAVES)):
        hashes = list(_leaves(store, first, min(size, first + HISTORY_LEAVES)))
        (work / f"history-{run}").write_bytes(b"".join(hashes))
        if len(hashes) == HISTORY_LEAVES:
            made, _ = history_nodes.extend_hashed(MountainRange(), hashes)
            roots += made.peaks
    return roots


def _leaves(store: Store, first: int, beyond: int) -> Iterator[bytes]:
    for index in range(first, beyond):
        yield store.history_leaf(index)
