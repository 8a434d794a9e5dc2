"""The store of nodes: SQLite with a write-ahead log, each transaction flushed to disk before it counts.

Rules:
1. `synchronous=FULL`: when `transaction()` returns, a power cut loses nothing of it. `put_records_unflushed` leaves the log's flush,
   which is all that FULL adds to NORMAL, to `flush`: no loop has to stand still for a disk.
2. One process writes. The engine holds a lock beside the database; this file does not guard against a second writer.
3. A connection may move between threads but serves one at a time: its owner sees to that.
4. Every failure of the database is StoreFailed with SQLite's stable error name; the transaction is undone.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

from avow.chain.state.errors import StoreFailed
from avow.chain.state.store import Store, Table

SCHEMA_VERSION = 1
CACHE_KIB = 64 * 1024
MOST_LOG_PAGES = 16_384
"""The log is written back at this size at the latest (64 MiB); `checkpoint` does it earlier, off the hot path."""
CHECKPOINT_ROWS = 4_096
_SCAN_BATCH = 256
_flush_file = getattr(os, "fdatasync", os.fsync)
_READ_BATCH = 64
_FEW_KEYS = 8

_SCHEMA = """
CREATE TABLE state (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE page (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE history (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE record (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL);
"""
_READ = {table: f"SELECT value FROM {table.value} WHERE key = ?" for table in Table}  # noqa: S608
_UPSERT = "(key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_PUT = {table: f"INSERT INTO {table.value} {_UPSERT}" for table in Table}
_REMOVE = {table: f"DELETE FROM {table.value} WHERE key = ?" for table in Table}  # noqa: S608
_READ_MANY = {
    table: f"SELECT key, value FROM {table.value} WHERE key IN ({', '.join('?' * _READ_BATCH)})"  # noqa: S608
    for table in Table
}
_RANGE = "WHERE key >= ? AND (? IS NULL OR key < ?) ORDER BY key LIMIT ?"
_SCAN = {table: f"SELECT key, value FROM {table.value} {_RANGE}" for table in Table}  # noqa: S608


class SqliteStore(Store):
    """State in one SQLite file (and its log beside it). `path` may be ":memory:"."""

    def __init__(self, path: str) -> None:
        """Opens or creates. Raises StoreFailed, also for a file of another version or another program."""
        super().__init__()
        self._path = path
        self._rows_since_checkpoint = 0
        self._log: int | None = None
        with _failures():
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            with _failures():
                self._open()
            self._load()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        run = self._connection.execute
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0 and run("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            run("PRAGMA page_size = 4096")
            run("PRAGMA journal_mode = WAL")
            run("BEGIN IMMEDIATE")
            for statement in _SCHEMA.strip().split("\n"):
                run(statement)
            run(f"PRAGMA user_version = {SCHEMA_VERSION}")
            run("COMMIT")
        elif version != SCHEMA_VERSION:
            raise StoreFailed("the database is of another version", expected=SCHEMA_VERSION, found=version)
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run(f"PRAGMA cache_size = -{CACHE_KIB}")
        run(f"PRAGMA wal_autocheckpoint = {MOST_LOG_PAGES}")

    def _read(self, table: Table, key: bytes) -> bytes | None:
        try:
            row = self._connection.execute(_READ[table], (key,)).fetchone()
        except sqlite3.Error as error:
            raise _failure(error) from error
        return None if row is None else row[0]

    def _read_many(self, table: Table, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        if len(keys) < _FEW_KEYS:
            return super()._read_many(table, keys)
        found: dict[bytes, bytes] = {}
        with _failures():
            for at in range(0, len(keys), _READ_BATCH):
                batch = keys[at : at + _READ_BATCH]
                batch = [*batch, *[batch[-1]] * (_READ_BATCH - len(batch))]  # one statement for every length
                found.update(self._connection.execute(_READ_MANY[table], batch))
        return found

    def _scan(self, table: Table, first: bytes, beyond: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """In batches: no cursor stays open across the caller's own work."""
        while True:
            with _failures():
                rows = self._connection.execute(_SCAN[table], (first, beyond, beyond, _SCAN_BATCH)).fetchall()
            yield from rows
            if len(rows) < _SCAN_BATCH:
                return
            first = rows[-1][0] + b"\x00"

    def _write(self, table: Table, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        with _failures():
            self._rows_since_checkpoint += len(items)
            put = [item for item in items if item[1] is not None]
            if put:
                self._connection.executemany(_PUT[table], put)
            if len(put) != len(items):
                self._connection.executemany(_REMOVE[table], [(key,) for key, value in items if value is None])

    @property
    def checkpoint_due(self) -> bool:
        """Whether enough was written since the last `checkpoint` to be worth one."""
        return self._rows_since_checkpoint >= CHECKPOINT_ROWS

    def checkpoint(self) -> None:
        """Write the log back into the database, on a connection of its own: may run in another thread beside all else."""
        self._rows_since_checkpoint = 0
        with _failures(), closing(sqlite3.connect(self._path, isolation_level=None, timeout=5)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def frozen(self) -> "SqliteStore":
        """The committed state as it is now, on a connection of its own that later commits do not reach; to be closed. For reading in
        another thread.
        """
        other = SqliteStore(self._path)
        with _failures():
            other._connection.execute("BEGIN")  # the read that follows pins it
        other._load()
        return other

    def _begin(self) -> None:
        with _failures():
            self._connection.execute("BEGIN IMMEDIATE")

    def _finish(self) -> None:
        with _failures():
            self._connection.execute("COMMIT")

    def put_records_unflushed(self, items: Iterable[tuple[bytes, bytes | None]]) -> None:
        if self._depth:
            self.put_records(items)
            return
        with _failures():
            self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            self.put_records(items)
        finally:
            with _failures():
                self._connection.execute("PRAGMA synchronous = FULL")

    def flush(self) -> None:
        """SQLite keeps one log for as long as the database is open, and locks nothing in it: another descriptor flushes it too."""
        if self._path == ":memory:":
            return
        try:
            if self._log is None:
                self._log = os.open(self._path + "-wal", os.O_RDONLY)
            _flush_file(self._log)
        except OSError as error:
            raise StoreFailed("the database's log cannot be flushed", reason=type(error).__name__) from error

    def _undo(self) -> None:
        if self._connection.in_transaction:  # a failed COMMIT may have ended it already
            with _failures():
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _failure(error) from error


def _failure(error: sqlite3.Error) -> StoreFailed:
    return StoreFailed("the database failed", reason=getattr(error, "sqlite_errorname", type(error).__name__))
