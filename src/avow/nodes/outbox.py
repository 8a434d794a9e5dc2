"""The outbox: what was signed is durable before it leaves, and stays until it is settled.

Rules:
1. `put` makes a statement durable in the journal (journal.py): one write and one flush for all that are put within one turn of
   the loop, on the loop itself. To hand them to a thread and back costs more than the flush. A disk that is slow to flush is
   left to the writer.
2. `put` calls back on the loop after the flush, in the order of the puts. Statement n of a key is written with or after n-1.
3. One writer thread owns the writing connection (SQLite, WAL, synchronous FULL). It folds the journal into the database, a
   generation as one transaction: before a batch is settled, when a file of the journal is full, and at the next start after a crash.
   What the journal has no room for is written to the database at once, after what was put before it.
4. When a write fails, its callers are told, and the entries wait in memory as void (undelivered): they are written before
   anything else, so numbers never have a gap on disk. Until then `writable` is False and no job should be started. So it is
   while the journal cannot be folded; nothing is lost by that.
5. Readers use connections of their own; they see what is committed, and what is in the journal (outbox_reader.py).
6. Openings are deleted after their retention and are sealed under secrets that are not here (opening.py). Statements stay until
   they are settled, and for their own retention after that; they go batch by batch, oldest first, each with its proof.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from avow.nodes import outbox_changes as changes
from avow.nodes.errors import OutboxUnwritable
from avow.nodes.journal import Journal
from avow.nodes.outbox_reader import OutboxReader
from avow.nodes.outbox_rows import SCHEMA, Entry, StoredBatch, StoredKey

log = logging.getLogger(__name__)

MAX_GROUP = 1_024
RETRY_S = 0.25
SLOW_FLUSH_S = 0.005
"""A flush that takes longer, averaged, is not waited for on the loop while other jobs are under way."""
UNDELIVERED = 5
"""The void cause of what was signed and never delivered (receipt/evidence.py)."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode

_Result = TypeVar("_Result")
Done = Callable[[OutboxUnwritable | None], None]
_Put = tuple[Entry, Done]


@dataclass(slots=True)
class _Task:
    """A write of another kind than a new statement."""

    work: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"


@dataclass(slots=True)
class _Fold:
    """A generation of the journal, to be written to the database."""

    generation: int
    entries: list[Entry]


class Outbox(OutboxReader):
    """Closed by `close`; everything but the writer runs on one loop."""

    def __init__(self, path: Path, *, max_page_count: int | None = None) -> None:
        self._path = path
        self._max_page_count = max_page_count
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Put | _Task | _Fold | None] = queue.SimpleQueue()
        self._stuck: list[Entry] = []
        self._unwritten: list[_Fold] = []
        """Folds that failed, oldest first; the writer's."""
        self._group: list[_Put] = []
        """Puts of this turn of the loop."""
        self._journaled: list[Entry] = []
        """What the generation that is being filled holds."""
        self._following: dict[int, int] = {}
        """By key, the number after the last that was put: the journal takes no other."""
        self._handed = 0
        """Puts that the writer has and whose end the loop has not seen."""
        self._flush_s = 0.0
        self._recovering = False
        """Whether the loop was told that a fold failed; the writer's."""
        self.writable = True
        self.on_recovered: Callable[[list[Entry]], None] | None = None
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._writer = self._connect()
        self._writer.executescript(SCHEMA)
        super().__init__(self._connect)
        self._journal = self._open_journal()
        row = self._writer.execute("select max(opening) from statements").fetchone()
        newest = self._writer.execute("select max(opening) from openings").fetchone()
        numbers = [row[0] or 0, newest[0] or 0, *(entry.opening or 0 for entry in self._unfolded.values())]
        self._next_opening = 1 + max(numbers)
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        if self._max_page_count is not None:
            connection.execute(f"pragma max_page_count={int(self._max_page_count)}")
        return connection

    def _open_journal(self) -> Journal | None:
        """The journal, after what a crash left in it was folded. None where there is no room for one."""
        try:
            journal = Journal(self._path.with_suffix(".journal"))
        except OSError as error:
            log.warning("the outbox has no journal: %s", error)
            return None
        folded = self._writer.execute("select folded from journal").fetchone()[0]
        left = [_Fold(generation, _entries(payloads)) for generation, payloads in journal.recover(folded)]
        try:
            for fold in left:
                changes.insert(self._writer, fold.entries, fold.generation)
                folded = fold.generation
            # two may have been begun of which nothing whole is left: their numbers are not given again
            self._writer.execute("update journal set folded = ?", (folded + 2,))
        except sqlite3.Error as error:  # as the writer does it: it is tried until it succeeds
            log.error("the journal cannot be folded: %s", error)  # noqa: TRY400 - the message says it all
            journal.close()
            self.writable, self._recovering = False, True
            self._unwritten = [fold for fold in left if fold.generation > folded]
            for fold in self._unwritten:
                self._unfolded |= {entry.signed.id: entry for entry in fold.entries}
            return None
        journal.start(folded + 3)
        return journal

    def close(self) -> None:
        """Finish what is queued and close."""
        self._flush_group()
        self._turn()
        self._queue.put(None)
        self._thread.join()
        self.close_reader()
        if self._journal is not None:
            self._journal.close()

    # Writing, from the loop.

    def put(self, entry: Entry, done: Done, *, alone: bool = False) -> None:
        """Make a statement durable; `done` gets None, or the error when it could not be.

        `alone`: nobody else waits for the loop; `done` may then be called at once.
        """
        if entry.sealed:
            entry.opening = self._next_opening
            self._next_opening += 1
        self._group.append((entry, done))
        if alone:
            self._flush_group(alone=True)
        elif len(self._group) == 1:
            self._loop.call_soon(self._flush_group)

    def _flush_group(self, *, alone: bool = False) -> None:
        """Rule 1, for what was put since the last time."""
        group, self._group = self._group, []
        if not group:
            return
        payloads = self._payloads(group, alone=alone)
        journal = self._journal
        if payloads is None or journal is None:
            self._hand_over(group)
            return
        start = time.perf_counter()
        try:
            journal.append(payloads)
        except OSError as error:
            log.error("the journal cannot be written: %s", error)  # noqa: TRY400 - the message says it all
            self._hand_over(group)
            return
        self._flush_s += (time.perf_counter() - start - self._flush_s) / 8
        for entry, _ in group:
            self._journaled.append(entry)
            self._unfolded[entry.signed.id] = entry
        for _, done in group:
            done(None)

    def _payloads(self, group: list[_Put], *, alone: bool) -> list[bytes] | None:
        """The group for the journal, or None if it is the writer's: it has earlier ones, or the journal does not take these."""
        journal = self._journal
        in_order = True
        for entry, _ in group:
            key, number = entry.key_number, entry.signed.number
            following = self._following.get(key)
            if following is None:
                following = self.durable(key)
            in_order = in_order and number == following
            self._following[key] = max(following, number + 1)
        if journal is None or self._handed or not self.writable or not in_order:
            return None
        if self._flush_s > SLOW_FLUSH_S and not alone:
            self._flush_s *= 0.95  # so that it is tried again
            return None
        payloads = [_encode(entry) for entry, _ in group]
        if not journal.has_room(payloads):
            self._turn()
            if not journal.has_room(payloads):
                return None
        return payloads

    def _hand_over(self, group: list[_Put]) -> None:
        """To the writer, after what the journal has."""
        self._turn()
        self._handed += len(group)
        for item in group:
            self._queue.put(item)

    def _turn(self) -> None:
        """Have the writer fold what the journal has."""
        if self._journal is not None and self._journaled:
            entries, self._journaled = self._journaled, []
            self._queue.put(_Fold(self._journal.turn(), entries))

    async def fold(self) -> None:
        """Until everything that is durable now is in the database. Raises OutboxUnwritable."""
        self._turn()
        if self._unfolded:
            await self.write(self._require_folded)

    def _folded(self, fold: _Fold) -> None:
        if self._journal is not None:
            self._journal.release(fold.generation)
        for entry in fold.entries:
            self._unfolded.pop(entry.signed.id, None)

    def _not_folded(self) -> None:
        self.writable = False

    async def write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run `work` in a transaction of its own. Raises OutboxUnwritable."""
        future: asyncio.Future[_Result] = self._loop.create_future()
        self._queue.put(_Task(work, future))
        return await future

    async def add_key(self, key: bytes, method: int) -> StoredKey:
        """The key, recorded if it is new."""
        await self.write(partial(changes.add_key, key, method))
        return next(known for known in self.all_keys() if known.key == key)

    async def set_retired(self, key_number: int) -> None:
        """The chain has the key retired, and nothing of it is left to settle."""
        await self.write(partial(changes.set_retired, key_number))

    async def add_backing(self, digest: bytes, content: bytes) -> int:
        """The number of the evidence that answers of one key share for a while."""
        return await self.write(partial(changes.add_backing, digest, content))

    async def set_void(self, key_number: int, numbers: list[int], cause: int) -> None:
        await self.fold()
        await self.write(partial(changes.set_void, key_number, numbers, cause))

    async def record_batch(self, batch: StoredBatch) -> None:
        """Before it is sent: what a restart needs to find out what became of it. Replaces one that was never settled."""
        await self.write(partial(changes.record_batch, batch))

    async def record_settled(self, key_number: int, first: int, count: int, proof: bytes) -> None:
        """The batch is in a block and the proof is here."""
        await self.write(partial(changes.record_settled, key_number, first, count, proof))

    async def record_final(self, batch: StoredBatch, finality: bytes) -> None:
        """Nobody can challenge the batch any more: the proof is kept, and what watchers were given goes."""
        await self.write(partial(changes.record_final, batch, finality))

    async def drop_openings(self, before_ms: int) -> int:
        """Delete the openings that are older, but for those that watchers may still need; how many there were."""
        dropped = 0
        with suppress(OutboxUnwritable):  # where there is no room, what goes makes some
            await self.fold()
        while deleted := await self.write(partial(changes.drop_openings, before_ms)):
            dropped += deleted
        return dropped

    async def drop_settled(self, before_ms: int) -> int:
        """Delete the batches that are settled and whose last answer ended before; how many statements that were."""
        dropped = 0
        for key in self.all_keys():
            while count := await self.write(partial(changes.drop_oldest, key.key_number, before_ms)):
                dropped += count
        return dropped

    # The writer thread.

    def _work(self) -> None:
        stopping = False
        while not stopping:
            items = self._take()
            stopping = None in items
            self._unwritten += [item for item in items if isinstance(item, _Fold)]
            self._fold_all()
            puts = [item for item in items if isinstance(item, tuple)]
            if self._stuck and not self._unwritten:
                self._unstick()
            if puts:
                self._write_puts(puts)
            for item in items:
                if isinstance(item, _Task):
                    self._run(item)
        self._writer.close()

    def _take(self) -> list[_Put | _Task | _Fold | None]:
        try:
            items = [self._queue.get(timeout=RETRY_S if self._stuck or self._unwritten else None)]
        except queue.Empty:
            return []
        while len(items) < MAX_GROUP:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return items

    def _fold_all(self) -> None:
        """Rule 3. A fold is queued before whatever must come after it, so it may be done first of all that was taken."""
        failed = False
        while self._unwritten and not failed:
            fold = self._unwritten[0]
            try:
                changes.insert(self._writer, fold.entries, fold.generation)
            except sqlite3.Error as failure:
                log.error("the journal cannot be folded: %s", failure)  # noqa: TRY400 - the message says it all
                failed = True
                self._recovering = True
                self._loop.call_soon_threadsafe(self._not_folded)
            else:
                del self._unwritten[0]
                self._loop.call_soon_threadsafe(self._folded, fold)
        if self._recovering and not failed and not self._stuck:
            self._recovering = False
            self._loop.call_soon_threadsafe(self._recovered, [])

    def _require_folded(self, _connection: sqlite3.Connection) -> None:
        """A write that waits for the folds before it."""
        if self._unwritten:
            raise OutboxUnwritable("the journal cannot be folded", hint="make room on the node's disk")

    def _write_puts(self, puts: list[_Put]) -> None:
        error: OutboxUnwritable | None = None
        if self._stuck or self._unwritten:
            error = OutboxUnwritable("the outbox cannot be written", hint="make room on the node's disk")
        else:
            try:
                changes.insert(self._writer, [entry for entry, _ in puts])
            except sqlite3.Error as failure:
                log.error("the outbox cannot be written: %s", failure)  # noqa: TRY400 - the message says it all
                error = OutboxUnwritable(f"the outbox cannot be written: {failure}", hint="is the disk full?")
        if error is not None:
            for entry, _ in puts:
                entry.void = entry.void or UNDELIVERED
                self._stuck.append(entry)
        self._loop.call_soon_threadsafe(self._report, [done for _, done in puts], error)

    def _report(self, waiting: list[Done], error: OutboxUnwritable | None) -> None:
        self._handed -= len(waiting)
        if error is not None:
            self.writable = False
        for done in waiting:
            done(error)

    def _unstick(self) -> None:
        try:
            changes.insert(self._writer, self._stuck)
        except sqlite3.Error as failure:
            log.debug("the outbox is still not writable: %s", failure)
            return
        recovered, self._stuck = self._stuck, []
        self._recovering = False
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
        if not future.done():
            future.set_result(result)

    def _fail(self, future: "asyncio.Future[Any]", error: Exception) -> None:
        if not future.done():
            future.set_exception(error)


def _entries(payloads: list[bytes]) -> list[Entry]:
    try:
        return [_decode(payload) for payload in payloads]
    except msgspec.DecodeError as error:
        raise OutboxUnwritable("the journal was written by another version", hint="start that version once") from error
