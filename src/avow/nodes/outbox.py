"""The outbox: what was signed is durable before it leaves, and stays until it is settled.

Rules:
1. One writer thread owns the writing connection (SQLite, WAL, synchronous FULL). It commits whatever waits as one
   transaction: one flush to the disk for many answers.
2. `put` calls back on the loop after the commit, in the order of the puts. Statement n of a key is written with or after n-1.
3. When a write fails, its callers are told, and the entries wait in memory as void (undelivered): they are written before
   anything else, so numbers never have a gap on disk. Until then `writable` is False and no job should be started.
4. Readers use a connection of their own, on the loop; they see what is committed.
5. A statement with which nothing else waits is written on the loop itself: to hand it to the writer and back costs more than the
   flush. That is done only while the writer has nothing to do, so that there is one writer at a time.
6. Openings are deleted after their retention and are sealed under secrets that are not here (opening.py). Statements stay until
   they are settled, and for their own retention after that; they go batch by batch, oldest first, each with its proof.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from avow.nodes.batches import ended_ms
from avow.nodes.errors import OutboxUnwritable
from avow.nodes.outbox_rows import SCHEMA, Entry, StoredBatch, StoredKey, StoredStatement
from avow.receipt.statement import Method

log = logging.getLogger(__name__)

MAX_GROUP = 1_024
RETRY_S = 0.25
UNDELIVERED = 5
"""The void cause of what was signed and never delivered (receipt/evidence.py)."""

_INSERT = (
    "insert into statements (key_number, number, id, columns, private, previous_head, signature, requester_signature,"
    " authorisation, backing, opening, void) values (?,?,?,?,?,?,?,?,?,?,?,?)"
)

_Result = TypeVar("_Result")
Done = Callable[[OutboxUnwritable | None], None]


@dataclass(slots=True)
class _Task:
    """A write of another kind than a new statement."""

    work: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"


_STATEMENT = (
    "select key_number, number, id, columns, private, previous_head, signature, requester_signature, authorisation,"
    " backing, opening, void from statements "
)
_DROP_OPENINGS = (
    "delete from openings where opening in (select opening from openings where created_ms < ? and opening not in"
    " (select opening from statements join traced using (key_number, number) where opening is not null)"
    " order by opening limit 256)"
)
_BATCH = "select key_number, first, count, transaction_hash, transaction_bytes, leaves, proof, finality from batches "


class Outbox:
    """Opened by `open`, closed by `close`; everything but the writer runs on one loop."""

    def __init__(self, path: Path, *, max_page_count: int | None = None) -> None:
        self._path = path
        self._max_page_count = max_page_count
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Entry, Done] | _Task | None] = queue.SimpleQueue()
        self._stuck: list[Entry] = []
        self._next_opening = 1
        self._handed = 0
        """Writes that the writer has and whose end the loop has not seen."""
        self.writable = True
        self.on_recovered: Callable[[list[Entry]], None] | None = None
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._writer = self._connect()
        self._writer.executescript(SCHEMA)
        row = self._writer.execute("select max(opening) from statements").fetchone()
        newest = self._writer.execute("select max(opening) from openings").fetchone()
        self._next_opening = 1 + max(row[0] or 0, newest[0] or 0)
        self._reader = self._connect()
        self._batch_reader = self._connect()
        self._batch_lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        if self._max_page_count is not None:
            connection.execute(f"pragma max_page_count={int(self._max_page_count)}")
        return connection

    def close(self) -> None:
        """Finish what is queued and close."""
        self._queue.put(None)
        self._thread.join()
        self._reader.close()
        with self._batch_lock:
            self._batch_reader.close()

    # Writing, from the loop.

    def put(self, entry: Entry, done: Done, *, alone: bool = False) -> None:
        """Make a statement durable; `done` gets None, or the error when it could not be.

        `alone`: nobody else waits for the loop, so it may wait for the disk (rule 5); `done` may then be called at once.
        """
        if alone and self._handed == 0 and self.writable:
            try:
                self._insert([entry])
            except sqlite3.Error as failure:
                log.debug("left to the writer: %s", failure)
            else:
                done(None)
                return
        self._handed += 1
        self._queue.put((entry, done))

    async def write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run `work` in a transaction of its own. Raises OutboxUnwritable."""
        future: asyncio.Future[_Result] = self._loop.create_future()
        self._handed += 1
        self._queue.put(_Task(work, future))
        return await future

    async def add_key(self, key: bytes, method: int) -> StoredKey:
        """The key, recorded if it is new."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("insert or ignore into keys (key, method) values (?,?)", (key, method))

        await self.write(work)
        return next(known for known in self.all_keys() if known.key == key)

    async def set_retired(self, key_number: int) -> None:
        """The chain has the key retired, and nothing of it is left to settle."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("update keys set retired = 1 where key_number = ?", (key_number,))

        await self.write(work)

    async def add_backing(self, digest: bytes, content: bytes) -> int:
        """The number of the evidence that answers of one key share for a while."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("insert or ignore into backings (digest, content) values (?,?)", (digest, content))
            row = connection.execute("select backing from backings where digest = ?", (digest,)).fetchone()
            return int(row[0])

        return await self.write(work)

    async def set_void(self, key_number: int, numbers: list[int], cause: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "update statements set void = ? where key_number = ? and number = ?",
                [(cause, key_number, number) for number in numbers],
            )

        await self.write(work)

    async def record_batch(self, batch: StoredBatch) -> None:
        """Before it is sent: what a restart needs to find out what became of it. Replaces one that was never settled."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "insert or replace into batches values (?,?,?,?,?,?,?,?)",
                (
                    batch.key_number,
                    batch.first,
                    batch.count,
                    batch.transaction_hash,
                    batch.transaction,
                    batch.leaves,
                    None,
                    None,
                ),
            )

        await self.write(work)

    async def record_settled(self, key_number: int, first: int, count: int, proof: bytes) -> None:
        """The batch is in a block and the proof is here."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "update batches set proof = ?, transaction_bytes = x'' where key_number = ? and first = ?",
                (proof, key_number, first),
            )
            connection.execute(
                "update keys set settled = max(settled, ?) where key_number = ?", (first + count, key_number)
            )

        await self.write(work)

    async def record_final(self, batch: StoredBatch, finality: bytes) -> None:
        """Nobody can challenge the batch any more: the proof is kept, and what watchers were given goes."""

        def work(connection: sqlite3.Connection) -> None:
            place = (batch.key_number, batch.first)
            connection.execute("update batches set finality = ? where key_number = ? and first = ?", (finality, *place))
            connection.execute(
                "delete from traced where key_number = ? and number >= ? and number < ?",
                (*place, batch.first + batch.count),
            )

        await self.write(work)

    async def drop_openings(self, before_ms: int) -> int:
        """Delete the openings that are older, but for those that watchers may still need; how many there were."""
        dropped = 0
        while True:

            def work(connection: sqlite3.Connection) -> int:
                return connection.execute(_DROP_OPENINGS, (before_ms,)).rowcount

            deleted = await self.write(work)
            dropped += deleted
            if deleted == 0:
                return dropped

    async def drop_settled(self, before_ms: int) -> int:
        """Delete the batches that are settled and whose last answer ended before; how many statements that were."""
        dropped = 0
        for key in self.all_keys():
            while count := await self.write(partial(_drop_oldest, key.key_number, before_ms)):
                dropped += count
        return dropped

    # Reading.

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
        return 0 if row is None else int(row[0])

    def statement(self, statement_id: bytes) -> StoredStatement | None:
        row = self._reader.execute(_STATEMENT + "where id = ?", (statement_id,)).fetchone()
        return None if row is None else StoredStatement(*row)

    def statements(self, key_number: int, first: int, count: int) -> list[StoredStatement]:
        """At most `count` statements from number `first` on, in order."""
        return _range(self._reader, key_number, first, count)

    def batch_rows(self, key_number: int, first: int, count: int) -> list[StoredStatement]:
        """The same for other threads, one at a time."""
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
        return None if row is None else (bytes(row[0]), bytes(row[1]))

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
        return None if row is None else bytes(row[0])

    # The writer thread.

    def _work(self) -> None:
        stopping = False
        while not stopping:
            items = self._take()
            stopping = None in items
            entries = [item for item in items if isinstance(item, tuple)]
            if self._stuck:
                self._unstick()
            if entries:
                self._write_entries(entries)
            for item in items:
                if isinstance(item, _Task):
                    self._run(item)
        self._writer.close()

    def _take(self) -> list[tuple[Entry, Done] | _Task | None]:
        try:
            items = [self._queue.get(timeout=RETRY_S if self._stuck else None)]
        except queue.Empty:
            return []
        while len(items) < MAX_GROUP:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return items

    def _write_entries(self, entries: list[tuple[Entry, Done]]) -> None:
        error: OutboxUnwritable | None = None
        if self._stuck:
            error = OutboxUnwritable("the outbox cannot be written", hint="make room on the node's disk")
        else:
            try:
                self._insert([entry for entry, _ in entries])
            except sqlite3.Error as failure:
                log.error("the outbox cannot be written: %s", failure)  # noqa: TRY400 - the message says it all
                error = OutboxUnwritable(f"the outbox cannot be written: {failure}", hint="is the disk full?")
        if error is not None:
            self._stuck += [replace(entry, void=entry.void or UNDELIVERED) for entry, _ in entries]
        self._loop.call_soon_threadsafe(self._report, [done for _, done in entries], error)

    def _report(self, waiting: list[Done], error: OutboxUnwritable | None) -> None:
        self._handed -= len(waiting)
        if error is not None:
            self.writable = False
        for done in waiting:
            done(error)

    def _insert(self, entries: list[Entry]) -> None:
        writer = self._writer
        opening = self._next_opening
        writer.execute("begin immediate")
        try:
            for entry in entries:
                signed = entry.signed
                number = None
                if entry.sealed:
                    number = opening
                    opening += 1
                    writer.execute("insert into openings values (?,?,?)", (number, entry.created_ms, entry.sealed))
                if entry.traced is not None:
                    writer.execute(
                        "insert into traced values (?,?,?,?)", (entry.key_number, signed.number, *entry.traced)
                    )
                row = (
                    entry.key_number,
                    signed.number,
                    signed.id,
                    signed.columns,
                    signed.private,
                    signed.previous_head,
                    signed.signature,
                    entry.requester_signature,
                    entry.authorisation,
                    entry.backing,
                    number,
                    entry.void,
                )
                writer.execute(_INSERT, row)
            writer.execute("commit")
        except sqlite3.Error:
            if writer.in_transaction:
                writer.execute("rollback")
            raise
        self._next_opening = opening

    def _unstick(self) -> None:
        try:
            self._insert(self._stuck)
        except sqlite3.Error as failure:
            log.debug("the outbox is still not writable: %s", failure)
            return
        recovered, self._stuck = self._stuck, []
        self._loop.call_soon_threadsafe(self._recovered, recovered)

    def _recovered(self, entries: list[Entry]) -> None:
        log.warning("the outbox is writable again; %d undelivered statements were kept", len(entries))
        self.writable = True
        if self.on_recovered is not None:
            self.on_recovered(entries)

    def _run(self, task: _Task) -> None:
        writer = self._writer
        try:
            writer.execute("begin immediate")
            result = task.work(writer)
            writer.execute("commit")
        except sqlite3.Error as failure:
            if writer.in_transaction:
                writer.execute("rollback")
            error = OutboxUnwritable(f"the outbox cannot be written: {failure}", hint="is the disk full?")
            self._loop.call_soon_threadsafe(self._fail, task.future, error)
        except Exception as fault:  # noqa: BLE001 - a fault of the task is its caller's; the writer goes on
            writer.execute("rollback")
            self._loop.call_soon_threadsafe(self._fail, task.future, fault)
        else:
            self._loop.call_soon_threadsafe(self._resolve, task.future, result)

    def _resolve(self, future: "asyncio.Future[Any]", result: object) -> None:
        self._handed -= 1
        if not future.done():
            future.set_result(result)

    def _fail(self, future: "asyncio.Future[Any]", error: Exception) -> None:
        self._handed -= 1
        if not future.done():
            future.set_exception(error)


def _drop_oldest(key_number: int, before_ms: int, connection: sqlite3.Connection) -> int:
    """Delete a key's oldest batch if it is settled, for optimistic final, and that old; how many statements it had."""
    row = connection.execute(
        "select first, count, proof is null or (finality is null and method = ?) from batches join keys using (key_number)"
        " where key_number = ? order by first limit 1",
        (Method.OPTIMISTIC, key_number),
    ).fetchone()
    if row is None or row[2]:
        return 0
    first, count, _ = row
    last = connection.execute(
        "select columns from statements where key_number = ? and number = ?", (key_number, first + count - 1)
    ).fetchone()
    if last is None or ended_ms(last[0]) >= before_ms:
        return 0
    connection.execute("delete from batches where key_number = ? and first = ?", (key_number, first))
    return connection.execute(
        "delete from statements where key_number = ? and number >= ? and number < ?", (key_number, first, first + count)
    ).rowcount


def _range(reader: sqlite3.Connection, key_number: int, first: int, count: int) -> list[StoredStatement]:
    rows = reader.execute(
        _STATEMENT + "where key_number = ? and number >= ? order by number limit ?", (key_number, first, count)
    )
    return [StoredStatement(*row) for row in rows]
