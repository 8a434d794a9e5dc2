"""What a watcher knows, in one SQLite file: which blocks it has read, the statements it chose, and how far each is.

Rules:
1. A move is durable before the next one begins: a proof before its commitment is sent, a demand before it is posed. After a crash each
   state says what to do, and doing it again does no harm.
2. The height up to which blocks were read, and the statements chosen from them, are one transaction.
3. One watcher at a time has the journal.
4. Errors of the watcher itself are counted, by what failed; so are checks that began and did not end (faults.py).
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from avow.chain.modules.located import Located
from avow.nodes.watcher.errors import JournalBusy, OtherJournal
from avow.nodes.watcher.states import OPEN, Event, State, advance
from avow.receipt.encoding import decode, encode_trusted
from avow.receipt.statement import Columns

_SCHEMA = """
create table if not exists facts (name text primary key, value text not null) without rowid;
create table if not exists cases (
  statement blob primary key, key blob not null, first integer not null, height integer not null, located blob not null,
  deadline integer not null, state text not null, detail text not null default '', since_ms integer not null, changed_ms integer not null,
  demand blob, demand_id blob, private blob, evidence blob, salt blob) without rowid;
create index if not exists cases_by_state on cases (state, deadline);
create table if not exists answers (
  statement blob not null, demand blob not null, given blob not null, primary key (statement, demand)) without rowid;
create table if not exists faults (
  subject blob primary key, detail text not null, count integer not null, first_ms integer not null, last_ms integer not null)
  without rowid;
create table if not exists begun (statement blob primary key, count integer not null) without rowid;
"""
_PLACE = "statement, key, first, height, located, deadline"
_COLUMNS = f"{_PLACE}, state, detail, since_ms, changed_ms, demand, demand_id, private, evidence, salt"


@dataclass(frozen=True, slots=True)
class Case:
    """One chosen statement. `first` names its batch, `height` is that of its settlement; `deadline` is the window clock's, in milliseconds.

    `demand`: what has to be demanded, encoded; `demand_id` once it is posed. `private`: the statement's private part, once shown.
    `evidence` and `salt`: what the commitment is over.
    """

    statement: bytes
    key: bytes
    first: int
    height: int
    located: Located
    deadline: int
    state: State
    since_ms: int
    changed_ms: int
    detail: str = ""
    demand: bytes | None = None
    demand_id: bytes | None = None
    private: bytes | None = None
    evidence: bytes | None = None
    salt: bytes | None = None

    @property
    def columns(self) -> Columns:
        return self.located.columns

    def after(self, event: Event, now_ms: int, detail: str = "") -> "Case":
        """The case after an event. Raises NoSuchMove."""
        return replace(self, state=advance(self.state, event), changed_ms=now_ms, detail=detail)


@dataclass(frozen=True, slots=True)
class Fault:
    """An error of the watcher itself: what failed (a statement, or the name of something else), how, how often, since when (Unix ms)."""

    subject: bytes
    detail: str
    count: int
    first_ms: int
    last_ms: int

    def as_json(self) -> dict[str, object]:
        named = {"statement": self.subject.hex()} if len(self.subject) == 32 else {"what": self.subject.decode()}
        times = {"first_ms": self.first_ms, "last_ms": self.last_ms}
        return {**named, "detail": self.detail, "count": self.count, **times}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a journal holds: the last block read, how many statements were seen, cases by state, errors of the watcher itself."""

    height: int = 0
    seen: int = 0
    cases: dict[State, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


class Journal:
    """`close` it. Raises OtherJournal where `chain_id` is not the file's, JournalBusy while another has it."""

    def __init__(self, path: Path, chain_id: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise JournalBusy(
                "another watcher uses this journal",
                hint="`avow up` runs one: `avow watch --status` shows what it found; --journal FILE gives this one a journal of its own",
            ) from None
        self._database = _open(path)
        found = self._fact("chain_id")
        if found not in (None, chain_id):
            self.close()
            raise OtherJournal(
                "the journal is another network's",
                hint="keep it, and name another file with --journal, or the chain that it belongs to with --chain",
                expected=chain_id,
                found=found,
            )
        with self._database:
            self._set_fact("chain_id", chain_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()
        os.close(self._lock)

    # --- Blocks -----------------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """The last block that was read."""
        return int(self._fact("height") or 0)

    @property
    def seen(self) -> int:
        """How many statements were posted in the blocks that were read."""
        return int(self._fact("seen") or 0)

    def record_blocks(self, height: int, seen: int, chosen: Iterable[Case]) -> None:
        """Rule 2. `seen` statements more were posted."""
        with self._database:
            self._set_fact("height", str(height))
            self._set_fact("seen", str(self.seen + seen))
            for case in chosen:
                self._put("insert or ignore", case)

    # --- Cases ------------------------------------------------------------------------------------------------------

    def store(self, case: Case) -> None:
        """Rule 1."""
        with self._database:
            self._put("insert or replace", case)

    def open_cases(self) -> list[Case]:
        """Those with something left to do, the most pressing first."""
        marks = ",".join("?" * len(OPEN))
        query = f"select {_COLUMNS} from cases where state in ({marks}) order by deadline, statement"  # noqa: S608 - no input
        return [_case(row) for row in self._database.execute(query, sorted(OPEN))]

    def case(self, statement: bytes) -> Case | None:
        query = f"select {_COLUMNS} from cases where statement = ?"  # noqa: S608 - no input
        row = self._database.execute(query, (statement,)).fetchone()
        return None if row is None else _case(row)

    def counts(self) -> dict[State, int]:
        """How many cases are in each state."""
        rows = self._database.execute("select state, count(*) from cases group by state order by state").fetchall()
        return {State(name): count for name, count in rows}

    # --- Answers that the chain recorded ----------------------------------------------------------------------------

    def record_answer(self, statement: bytes, demand: bytes, given: bytes) -> None:
        with self._database:
            self._database.execute("insert or replace into answers values (?, ?, ?)", (statement, demand, given))

    def answers(self, statement: bytes) -> dict[bytes, bytes]:
        """By encoded demand."""
        return dict(
            self._database.execute("select demand, given from answers where statement = ?", (statement,)).fetchall()
        )

    # --- What went wrong here (rule 4) ------------------------------------------------------------------------------

    def record_fault(self, subject: bytes, detail: str, now_ms: int) -> None:
        """One time more. `subject`: a statement's 32 bytes, or the name of something else."""
        query = (
            "insert into faults values (?, ?, 1, ?, ?) on conflict (subject) do update set"
            " detail = excluded.detail, count = count + 1, last_ms = excluded.last_ms"
        )
        with self._database:
            self._database.execute(query, (subject, detail, now_ms, now_ms))

    def fault(self, subject: bytes) -> Fault | None:
        return next((fault for fault in _faults(self._database) if fault.subject == subject), None)

    def faults(self) -> tuple[Fault, ...]:
        """The latest last."""
        return _faults(self._database)

    def begin(self, statement: bytes) -> int:
        """Note that a check begins; how many began before this one and did not end."""
        query = (
            "insert into begun values (?, 1) on conflict (statement) do update set count = count + 1 returning count"
        )
        with self._database:
            [(count,)] = self._database.execute(query, (statement,)).fetchall()
        return int(count) - 1

    def end(self, statement: bytes) -> None:
        """The check ended, whatever came of it."""
        with self._database:
            self._database.execute("delete from begun where statement = ?", (statement,))

    # ----------------------------------------------------------------------------------------------------------------

    def _fact(self, name: str) -> str | None:
        row = self._database.execute("select value from facts where name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set_fact(self, name: str, value: str) -> None:
        self._database.execute("insert or replace into facts values (?, ?)", (name, value))

    def _put(self, how: str, case: Case) -> None:
        values = (
            case.statement,
            case.key,
            case.first,
            case.height,
            encode_trusted(case.located.to_value()),
            case.deadline,
            case.state.value,
            case.detail,
            case.since_ms,
            case.changed_ms,
            case.demand,
            case.demand_id,
            case.private,
            case.evidence,
            case.salt,
        )
        marks = ",".join("?" * len(values))
        self._database.execute(f"{how} into cases ({_COLUMNS}) values ({marks})", values)


def read_summary(path: Path) -> Summary:
    """Of a journal that a watcher may be using; an empty one where there is none."""
    if not path.exists():
        return Summary()
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        facts = dict(database.execute("select name, value from facts").fetchall())
        rows = database.execute("select state, count(*) from cases group by state order by state").fetchall()
        faults = _faults(database)
    finally:
        database.close()
    cases = {State(name): count for name, count in rows}
    return Summary(int(facts.get("height", 0)), int(facts.get("seen", 0)), cases, faults)


def _faults(database: sqlite3.Connection) -> tuple[Fault, ...]:
    query = "select subject, detail, count, first_ms, last_ms from faults order by last_ms, subject"
    return tuple(Fault(*row) for row in database.execute(query))


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    path.chmod(0o600)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.executescript(_SCHEMA)
    return database


def _case(row: tuple[object, ...]) -> Case:
    statement, key, first, height, located, deadline, state, detail, since_ms, changed_ms, *more = row
    demand, demand_id, private, evidence, salt = more
    assert isinstance(located, bytes)
    return Case(
        statement=_bytes(statement),
        key=_bytes(key),
        first=_int(first),
        height=_int(height),
        located=Located.from_value(decode(located)),
        deadline=_int(deadline),
        state=State(str(state)),
        since_ms=_int(since_ms),
        changed_ms=_int(changed_ms),
        detail=str(detail),
        demand=_optional(demand),
        demand_id=_optional(demand_id),
        private=_optional(private),
        evidence=_optional(evidence),
        salt=_optional(salt),
    )


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _optional(value: object) -> bytes | None:
    return None if value is None else _bytes(value)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
