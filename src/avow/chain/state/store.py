"""The committed state: flat key-value, its tree, the history, and what else must be durable together with them.

Rules:
1. A block's changes are first prepared (roots known, nothing written), then committed. What is prepared may be thrown
   away; what is committed is one transaction: values, tree pages, history, records and height, or nothing of it.
2. `transaction()` makes several writes one. It nests: only leaving the outermost commits; an exception undoes all.
3. State is hashed, records are not: blocks, indexes and pools live in records, under prefixes that their owners choose.
4. Two stores that committed the same changes in the same order of heights have the same roots, whatever the backend.

`MemoryStore` is for tests and simulations; `sqlite.SqliteStore` is what nodes use. One conformance suite tests both.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Self, cast

from avow.chain.state import history as history_nodes
from avow.chain.state import tree
from avow.chain.state.errors import CorruptState, StaleCandidate, StoreFailed
from avow.chain.state.page import Page, decode_page
from avow.receipt import fields
from avow.receipt.encoding import decode, encode
from avow.receipt.headers import app_hash
from avow.receipt.merkle import EMPTY_SUBTREE, HistoryProof, MountainRange, SparseProof, sparse_path


class Table(Enum):
    """Where a backend keeps things."""

    STATE = "state"
    PAGE = "page"
    HISTORY = "history"
    RECORD = "record"


_EMPTY_HISTORY = MountainRange()
KEPT_PAGES = 8_192
"""At most 40 MiB; the upper pages of a million accounts, which every block changes, are half of that."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What the last commit left: a height, and the roots of the state after it."""

    height: int = 0
    state_root: bytes = EMPTY_SUBTREE
    history: MountainRange = _EMPTY_HISTORY

    @property
    def app_hash(self) -> bytes:
        """What the next header says of this state."""
        return app_hash(self.state_root, self.history.root())

    def encoded(self) -> bytes:
        return encode(
            {
                "height": self.height,
                "state_root": self.state_root,
                "size": self.history.size,
                "peaks": list(self.history.peaks),
            }
        )

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """Raises EncodingError when the store holds something else."""
        items = fields.mapping(decode(data), "committed", ("height", "state_root", "size", "peaks"))
        peaks = fields.array(items["peaks"], "peaks", max_length=64)
        history = MountainRange(
            fields.integer(items["size"], "size"), tuple(fields.octets(item, "peak", 32) for item in peaks)
        )
        return cls(
            fields.integer(items["height"], "height"), fields.octets(items["state_root"], "state_root", 32), history
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A state that could be the next one: its roots, and all that committing it writes."""

    base: Committed
    state_root: bytes
    history: MountainRange
    values: tuple[tuple[bytes, bytes | None], ...]
    pages: tree.PageWrites
    nodes: Mapping[bytes, bytes]

    @property
    def app_hash(self) -> bytes:
        return app_hash(self.state_root, self.history.root())


Pairs = Iterable[tuple[bytes, bytes | None]]
Changes = Mapping[bytes, bytes | None] | Pairs
"""Keys and their new values; None removes."""


class Store(ABC):
    """The rules above over a backend that can read, scan, write and undo."""

    def __init__(self) -> None:
        self._depth = 0
        self._doomed = False
        self._committed = Committed()
        self._pages: OrderedDict[bytes, Page] = OrderedDict()
        """Those written last, as they are committed."""

    # Backend -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _read(self, table: Table, key: bytes) -> bytes | None: ...
    def _read_many(self, table: Table, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of the keys that there are, with their values."""
        found = ((key, self._read(table, key)) for key in keys)
        return {key: value for key, value in found if value is not None}

    @abstractmethod
    def _scan(self, table: Table, first: bytes, beyond: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Keys from `first` to below `beyond`, in order."""

    @abstractmethod
    def _write(self, table: Table, items: Sequence[tuple[bytes, bytes | None]]) -> None: ...
    @abstractmethod
    def _begin(self) -> None: ...
    @abstractmethod
    def _finish(self) -> None:
        """Durable on return."""

    @abstractmethod
    def _undo(self) -> None: ...
    @abstractmethod
    def close(self) -> None: ...

    # Reading -------------------------------------------------------------------------------------------------------

    @property
    def committed(self) -> Committed:
        return self._committed

    def get(self, key: bytes) -> bytes | None:
        """The committed value of a state key."""
        return self._read(Table.STATE, key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The committed values of those of these state keys that have one."""
        return self._read_many(Table.STATE, keys)

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Committed keys and values under a prefix, in order of keys."""
        return self._scan(Table.STATE, prefix, _beyond(prefix))

    def prove(self, key: bytes) -> SparseProof:
        """That the key holds its committed value, or none, under `committed.state_root`."""
        return tree.prove(self._read_pages, sparse_path(key))

    def prove_history(self, index: int) -> HistoryProof:
        """That leaf `index` stands in the history, under its committed root."""
        return history_nodes.prove(self._read_node, self._committed.history, index)

    def record(self, key: bytes) -> bytes | None:
        return self._read(Table.RECORD, key)

    def records(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Records under a prefix, in order of keys, from `prefix ‖ start` on."""
        return self._scan(Table.RECORD, prefix + start, _beyond(prefix))

    def _read_pages(self, prefixes: Sequence[bytes]) -> dict[bytes, Page]:
        kept = self._pages
        found = {prefix: kept[prefix] for prefix in prefixes if prefix in kept}
        missing = [prefix for prefix in prefixes if prefix not in kept]
        if missing:
            read = self._read_many(Table.PAGE, missing)
            found.update([(prefix, decode_page(encoded)) for prefix, encoded in read.items()])
        return found

    def _keep_pages(self, pages: tree.PageWrites) -> None:
        """The last written stay longest: what is changed often is here."""
        kept = self._pages
        for prefix, page in pages.items():
            if page is None:
                kept.pop(prefix, None)
            else:
                kept[prefix] = page
                kept.move_to_end(prefix)
        while len(kept) > KEPT_PAGES:
            kept.popitem(last=False)

    def _read_node(self, key: bytes) -> bytes | None:
        return self._read(Table.HISTORY, key)

    # Writing -------------------------------------------------------------------------------------------------------

    def prepare(self, changes: Changes, leaves: Sequence[bytes] = ()) -> Candidate:
        """The state after these changes and these new history leaves; each key once. Writes nothing."""
        pairs = cast("Pairs", changes.items() if isinstance(changes, Mapping) else changes)
        values = tuple(sorted(pairs))
        hashed = [(sparse_path(key), None if value is None else sha256(value).digest()) for key, value in values]
        state_root, pages = tree.update(self._read_pages, hashed) if hashed else (self._committed.state_root, {})
        history, nodes = history_nodes.extend(self._committed.history, leaves)
        return Candidate(self._committed, state_root, history, values, pages, nodes)

    def commit(self, candidate: Candidate, height: int) -> Committed:
        """Make the candidate the committed state of `height`. Raises StaleCandidate when the state has moved on."""
        if candidate.base != self._committed:
            raise StaleCandidate("the state has changed since this was prepared", height=height)
        if height <= self._committed.height and self._committed.height != 0:
            raise StaleCandidate("heights only grow", height=height, committed=self._committed.height)
        with self.transaction():
            self._write(Table.STATE, candidate.values)
            self._write_pages(candidate.pages)
            self._write(Table.HISTORY, sorted(candidate.nodes.items()))
            return self._record_commit(Committed(height, candidate.state_root, candidate.history))

    def restore(self, height: int, parts: Iterable[Pairs], runs: Iterable[Sequence[bytes]]) -> Committed:
        """Make these values and this history the state of `height`, in a store that has none, in one transaction.

        `parts` together are the values, `runs` the history's leaf hashes in order: one part or run at a time is held in memory.
        Raises StaleCandidate.
        """
        if self._committed != Committed() or next(self.iterate(b""), None) is not None:
            raise StaleCandidate("there is a state already", height=self._committed.height)
        with self.transaction():
            state_root, history = EMPTY_SUBTREE, _EMPTY_HISTORY
            for part in parts:
                values = sorted(part)
                hashed = [
                    (sparse_path(key), None if value is None else sha256(value).digest()) for key, value in values
                ]
                if hashed:
                    state_root, pages = tree.update(self._read_pages, hashed)
                    self._write(Table.STATE, values)
                    self._write_pages(pages)
            for run in runs:
                history, nodes = history_nodes.extend_hashed(history, run)
                self._write(Table.HISTORY, sorted(nodes.items()))
            return self._record_commit(Committed(height, state_root, history))

    def _write_pages(self, pages: tree.PageWrites) -> None:
        self._write(Table.PAGE, [(prefix, _encoded(pages[prefix])) for prefix in sorted(pages)])
        self._keep_pages(pages)

    def _record_commit(self, committed: Committed) -> Committed:
        self._write(Table.RECORD, [(_COMMITTED, committed.encoded())])
        self._committed = committed
        return committed

    def history_leaf(self, index: int) -> bytes:
        """The hash of a leaf of the history. Raises CorruptState."""
        node = self._read_node(history_nodes.node_key(0, index))
        if node is None:
            raise CorruptState("a leaf of the history is missing", index=index)
        return node

    def put_records(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Set records (None removes), in the open transaction or in one of their own."""
        with self.transaction():
            self._write(Table.RECORD, list(items))

    def put_records_unflushed(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        """The same, whole or not at all; durable once `flush`, or a transaction after it, has returned."""
        self.put_records(items)

    def flush(self) -> None:  # noqa: B027  # a backend that leaves nothing unflushed has nothing to do
        """Make durable what `put_records_unflushed` wrote before. May run in another thread, beside all else."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Rule 2. After an exception the store is what it was before the outermost transaction."""
        if self._depth == 0:
            self._begin()
            self._doomed = False
        self._depth += 1
        try:
            yield
            if self._doomed:
                raise StoreFailed("a part of the transaction had failed")
            if self._depth == 1:
                self._finish()
        except BaseException:
            self._doomed = True
            if self._depth == 1:
                self._undo()
                self._load()
            raise
        finally:
            self._depth -= 1

    def _load(self) -> None:
        """Read back what the last durable commit left."""
        self._pages.clear()
        encoded = self._read(Table.RECORD, _COMMITTED)
        self._committed = Committed() if encoded is None else Committed.decoded(encoded)

    def check(self) -> None:
        """Rebuild both roots from the values and leaves alone and compare. Raises CorruptState. Slow: O(state)."""
        entries = ((sparse_path(key), sha256(value).digest()) for key, value in self.iterate(b""))
        root, _ = tree.update(lambda _: {}, entries)
        if root != self._committed.state_root:
            raise CorruptState(
                "the values do not give the state root", expected=self._committed.state_root.hex(), found=root.hex()
            )


_COMMITTED = b"\x00committed"


def _encoded(page: Page | None) -> bytes | None:
    return None if page is None else page.encoded()


def _beyond(prefix: bytes) -> bytes | None:
    """The least key above every key with this prefix; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


class MemoryStore(Store):
    """Dictionaries, with an undo list for transactions."""

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self._undo_list: list[tuple[Table, bytes, bytes | None]] = []
        self._sorted: dict[Table, list[bytes] | None] = dict.fromkeys(Table)

    def _read(self, table: Table, key: bytes) -> bytes | None:
        return self._tables[table].get(key)

    def _scan(self, table: Table, first: bytes, beyond: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        keys = self._sorted[table]
        if keys is None:
            keys = self._sorted[table] = sorted(self._tables[table])
        end = len(keys) if beyond is None else bisect_left(keys, beyond)
        for key in keys[bisect_left(keys, first) : end]:
            value = self._tables[table].get(key)
            if value is not None:
                yield key, value

    def _write(self, table: Table, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        held = self._tables[table]
        for key, value in items:
            self._undo_list.append((table, key, held.get(key)))
            self._set(table, key, value)

    def _set(self, table: Table, key: bytes, value: bytes | None) -> None:
        held = self._tables[table]
        if (key in held) != (value is not None):
            self._sorted[table] = None
        if value is None:
            held.pop(key, None)
        else:
            held[key] = value

    def _begin(self) -> None:
        self._undo_list.clear()

    def _finish(self) -> None:
        self._undo_list.clear()

    def _undo(self) -> None:
        for table, key, value in reversed(self._undo_list):
            self._set(table, key, value)
        self._undo_list.clear()

    def close(self) -> None:
        """Nothing to give back."""
