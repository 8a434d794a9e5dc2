"""Changes on top of a state that are not committed: for a block being executed, a check, a simulation.

Rules:
1. An overlay never writes to its parent. Reading falls through to it.
2. `checkpoint` marks a point, `revert` undoes everything since, in time proportional to what was undone.
3. `changes` are sorted by key: no order of execution reaches anything hashed.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Protocol


class Reader(Protocol):
    """What an overlay stands on: a store, or another overlay."""

    def get(self, key: bytes) -> bytes | None: ...
    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]: ...


class _Absent:
    """The journal's mark for a key that the overlay did not hold."""


_ABSENT = _Absent()


class Overlay:
    """A journaled map over a parent. Values are bytes; None is a removal."""

    __slots__ = ("_journal", "_keys", "_parent", "_values")

    def __init__(self, parent: Reader) -> None:
        self._parent = parent
        self._values: dict[bytes, bytes | None] = {}
        self._keys: list[bytes] | None = None
        self._journal: list[tuple[bytes, bytes | _Absent | None]] = []

    def get(self, key: bytes) -> bytes | None:
        if key in self._values:
            return self._values[key]
        return self._parent.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._set(key, value)

    def delete(self, key: bytes) -> None:
        self._set(key, None)

    def _set(self, key: bytes, value: bytes | None) -> None:
        before = self._values.get(key, _ABSENT)
        if before is _ABSENT and self._keys is not None:
            insort(self._keys, key)
        self._journal.append((key, before))
        self._values[key] = value

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values under a prefix, in order of keys. Writing while iterating is not allowed."""
        if self._keys is None:
            self._keys = sorted(self._values)
        own = self._keys
        at = bisect_left(own, prefix)
        for key, value in self._parent.iterate(prefix):
            while at < len(own) and own[at] < key and own[at].startswith(prefix):
                yield from self._present(own[at])
                at += 1
            if at < len(own) and own[at] == key:
                yield from self._present(key)
                at += 1
            else:
                yield key, value
        while at < len(own) and own[at].startswith(prefix):
            yield from self._present(own[at])
            at += 1

    def _present(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        value = self._values[key]
        if value is not None:
            yield key, value

    def checkpoint(self) -> int:
        """A mark for `revert`. Marks nest: reverting to an outer one undoes the inner ones too."""
        return len(self._journal)

    def revert(self, mark: int) -> None:
        """Undo every change since the mark."""
        while len(self._journal) > mark:
            key, before = self._journal.pop()
            if isinstance(before, _Absent):
                del self._values[key]
                self._keys = None
            else:
                self._values[key] = before

    def commit(self, mark: int) -> None:
        """Keep what was done since the mark: it can be undone only by an outer mark. The outermost forgets the journal."""
        if mark == 0:
            self._journal.clear()

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Every key that was set, with its value or None, sorted by key."""
        return sorted(self._values.items(), key=_key)

    def apply_to(self, other: "Overlay") -> None:
        """Set all changes on another overlay, usually the parent."""
        for key, value in self.changes():
            other._set(key, value)  # noqa: SLF001


def _key(item: tuple[bytes, bytes | None]) -> bytes:
    return item[0]
