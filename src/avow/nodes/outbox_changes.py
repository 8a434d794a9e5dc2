"""What is changed in the outbox's database: one function for each change, on the writer's connection and inside of a transaction.

`insert` alone makes a transaction of its own.
"""

import sqlite3

from avow.nodes.batches import ended_ms
from avow.nodes.outbox_rows import Entry, StoredBatch, row_of
from avow.receipt.statement import Method

_ROW = "(key_number, number, id, columns, private, previous_head, signature, requester_signature, authorisation, backing, opening, void)"
_INSERT = f"into statements {_ROW} values (?,?,?,?,?,?,?,?,?,?,?,?)"
_DROP_OPENINGS = (
    "delete from openings where opening in (select opening from openings where created_ms < ? and opening not in"
    " (select opening from statements join traced using (key_number, number) where opening is not null)"
    " order by opening limit 256)"
)


def insert(connection: sqlite3.Connection, entries: list[Entry], generation: int | None = None) -> None:
    """New statements. Of the journal's `generation`, what is there already stays as it is."""
    into = "insert" if generation is None else "insert or ignore"
    openings = [(entry.opening, entry.created_ms, entry.sealed) for entry in entries if entry.opening is not None]
    traced = [(entry.key_number, entry.signed.number, *entry.traced) for entry in entries if entry.traced]
    connection.execute("begin immediate")
    try:
        connection.executemany(f"{into} into openings values (?,?,?)", openings)
        connection.executemany(f"{into} into traced values (?,?,?,?)", traced)
        connection.executemany(f"{into} {_INSERT}", map(row_of, entries))
        if generation is not None:
            connection.execute("update journal set folded = ?", (generation,))
        connection.execute("commit")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def add_key(key: bytes, method: int, connection: sqlite3.Connection) -> None:
    connection.execute("insert or ignore into keys (key, method) values (?,?)", (key, method))


def set_retired(key_number: int, connection: sqlite3.Connection) -> None:
    connection.execute("update keys set retired = 1 where key_number = ?", (key_number,))


def add_backing(digest: bytes, content: bytes, connection: sqlite3.Connection) -> int:
    """Its number, new or not."""
    connection.execute("insert or ignore into backings (digest, content) values (?,?)", (digest, content))
    row = connection.execute("select backing from backings where digest = ?", (digest,)).fetchone()
    return int(row[0])


def set_void(key_number: int, numbers: list[int], cause: int, connection: sqlite3.Connection) -> None:
    connection.executemany(
        "update statements set void = ? where key_number = ? and number = ?",
        [(cause, key_number, number) for number in numbers],
    )


def record_batch(batch: StoredBatch, connection: sqlite3.Connection) -> None:
    place = (batch.key_number, batch.first, batch.count)
    connection.execute(
        "insert or replace into batches values (?,?,?,?,?,?,?,?)",
        (*place, batch.transaction_hash, batch.transaction, batch.leaves, None, None),
    )


def record_settled(key_number: int, first: int, count: int, proof: bytes, connection: sqlite3.Connection) -> None:
    connection.execute(
        "update batches set proof = ?, transaction_bytes = x'' where key_number = ? and first = ?",
        (proof, key_number, first),
    )
    connection.execute("update keys set settled = max(settled, ?) where key_number = ?", (first + count, key_number))


def record_final(batch: StoredBatch, finality: bytes, connection: sqlite3.Connection) -> None:
    place = (batch.key_number, batch.first)
    connection.execute("update batches set finality = ? where key_number = ? and first = ?", (finality, *place))
    connection.execute(
        "delete from traced where key_number = ? and number >= ? and number < ?", (*place, batch.first + batch.count)
    )


def drop_openings(before_ms: int, connection: sqlite3.Connection) -> int:
    """The oldest, a few hundred at a time; how many there were."""
    return connection.execute(_DROP_OPENINGS, (before_ms,)).rowcount


def drop_oldest(key_number: int, before_ms: int, connection: sqlite3.Connection) -> int:
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
