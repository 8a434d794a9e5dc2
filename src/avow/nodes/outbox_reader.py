"""What is read out of the outbox: the database's rows, and the entries that are in the journal and not yet among them."""

import sqlite3
import threading
from collections.abc import Callable

from avow.exact.hashing import trace_of
from avow.nodes.outbox_rows import Entry, StoredBatch, StoredKey, StoredStatement, as_stored

_STATEMENT = (
    "select key_number, number, id, columns, private, previous_head, signature, requester_signature, authorisation,"
    " backing, opening, void from statements "
)
_BATCH = "select key_number, first, count, transaction_hash, transaction_bytes, leaves, proof, finality from batches "


class OutboxReader:
    """Used on one loop, but for `batch_rows`."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._reader = connect()
        self._batch_reader = connect()
        self._batch_lock = threading.Lock()
        self._unfolded: dict[bytes, Entry] = {}
        """Entries by id, in the order of the puts, that are durable and perhaps not in the database yet."""

    def close_reader(self) -> None:
        self._reader.close()
        with self._batch_lock:
            self._batch_reader.close()

    def all_keys(self) -> list[StoredKey]:
        rows = self._reader.execute("select key_number, key, method, settled, retired from keys order by key_number")
        return [
            StoredKey(number, key, method, settled, bool(retired)) for number, key, method, settled, retired in rows
        ]

    def durable(self, key_number: int) -> int:
        """How many statements of the key were made durable: numbers 0 to that, without gap."""
        row = self._reader.execute(
            "select max(settled, ifnull((select max(number) + 1 from statements where key_number = keys.key_number), 0))"
            " from keys where key_number = ?",
            (key_number,),
        ).fetchone()
        found = 0 if row is None else int(row[0])
        return max([found, *(entry.signed.number + 1 for entry in self._unfolded_of(key_number, found))])

    def _unfolded_of(self, key_number: int, first: int) -> list[Entry]:
        return [
            entry
            for entry in self._unfolded.values()
            if entry.key_number == key_number and entry.signed.number >= first
        ]

    def statement(self, statement_id: bytes) -> StoredStatement | None:
        entry = self._unfolded.get(statement_id)
        if entry is not None:
            return as_stored(entry)
        row = self._reader.execute(_STATEMENT + "where id = ?", (statement_id,)).fetchone()
        return None if row is None else StoredStatement(*row)

    def statements(self, key_number: int, first: int, count: int) -> list[StoredStatement]:
        """At most `count` statements from number `first` on, in order."""
        rows = _range(self._reader, key_number, first, count)
        if len(rows) < count and self._unfolded:
            rows += [
                as_stored(entry) for entry in self._unfolded_of(key_number, rows[-1].number + 1 if rows else first)
            ]
        return rows[:count]

    def batch_rows(self, key_number: int, first: int, count: int) -> list[StoredStatement]:
        """The same of the database alone, for other threads, one at a time."""
        with self._batch_lock:
            return _range(self._batch_reader, key_number, first, count)

    def batch_of(self, key_number: int, number: int) -> StoredBatch | None:
        """The batch that the number was sent in last, if it was."""
        row = self._reader.execute(
            _BATCH + "where key_number = ? and first <= ? order by first desc limit 1", (key_number, number)
        ).fetchone()
        batch = None if row is None else StoredBatch(*row)
        return batch if batch is not None and number < batch.first + batch.count else None

    def traced(self, key_number: int, number: int) -> tuple[bytes, bytes] | None:
        """Seed and trace header of an optimistic statement, until it is final."""
        row = self._reader.execute(
            "select seed, header from traced where key_number = ? and number = ?", (key_number, number)
        ).fetchone()
        if row is not None:
            return bytes(row[0]), bytes(row[1])
        unfolded = self._unfolded_of(key_number, number)
        return next((entry.traced for entry in unfolded if entry.signed.number == number), None)

    def traces(self) -> set[bytes]:
        """The traces of all statements that can be challenged still, or settle."""
        rows = self._reader.execute(
            "select header from traced join statements using (key_number, number) where void = 0"
        )
        waiting = [entry.traced[1] for entry in self._unfolded.values() if entry.traced is not None and not entry.void]
        return {trace_of(bytes(header)) for header in (*(row[0] for row in rows), *waiting)}

    def open_batches(self, method: int) -> list[StoredBatch]:
        """The settled batches of keys of `method` whose finality is not proven yet, in the order of their numbers."""
        keys = "(select key_number from keys where method = ?)"
        where = f"where key_number in {keys} and proof is not null and finality is null order by key_number, first"
        return [StoredBatch(*row) for row in self._reader.execute(_BATCH + where, (method,))]

    def backing(self, number: int) -> bytes:
        row = self._reader.execute("select content from backings where backing = ?", (number,)).fetchone()
        return bytes(row[0])

    def sealed_opening(self, number: int) -> bytes | None:
        """The sealed opening, or None once it was deleted."""
        row = self._reader.execute("select sealed from openings where opening = ?", (number,)).fetchone()
        if row is not None:
            return bytes(row[0])
        return next((entry.sealed for entry in self._unfolded.values() if entry.opening == number), None)


def _range(reader: sqlite3.Connection, key_number: int, first: int, count: int) -> list[StoredStatement]:
    rows = reader.execute(
        _STATEMENT + "where key_number = ? and number >= ? order by number limit ?", (key_number, first, count)
    )
    return [StoredStatement(*row) for row in rows]
