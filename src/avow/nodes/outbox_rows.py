"""The outbox's tables, and their rows as values."""

from dataclasses import dataclass

import msgspec

from avow.nodes.jobs import Signed

SCHEMA = """
create table if not exists keys (
  key_number integer primary key, key blob not null unique, method integer not null, settled integer not null default 0,
  retired integer not null default 0);
create table if not exists backings (
  backing integer primary key, digest blob not null unique, content blob not null);
create table if not exists statements (
  key_number integer not null, number integer not null, id blob not null, columns blob not null, private blob not null,
  previous_head blob not null, signature blob not null, requester_signature blob, authorisation blob,
  backing integer, opening integer, void integer not null default 0,
  primary key (key_number, number)) without rowid;
create index if not exists statement_ids on statements (id);
create table if not exists openings (opening integer primary key, created_ms integer not null, sealed blob not null);
create table if not exists batches (
  key_number integer not null, first integer not null, count integer not null, transaction_hash blob not null,
  transaction_bytes blob not null, leaves blob not null, proof blob, finality blob,
  primary key (key_number, first)) without rowid;
create table if not exists traced (
  key_number integer not null, number integer not null, seed blob not null, header blob not null,
  primary key (key_number, number)) without rowid;
create table if not exists journal (one integer primary key check (one = 1), folded integer not null);
insert or ignore into journal values (1, 0);
"""


class Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One signed statement to keep. `backing` is the evidence that its key shares, by number; `sealed` the sealed opening.

    `traced`: of an optimistic statement, the opening's seed and the trace's header. They are what watchers get, and what demands
    are answered from, until nobody can challenge the statement any more. `opening`: the number of the sealed opening, which the outbox
    gives.
    """

    key_number: int
    signed: Signed
    backing: int | None
    sealed: bytes
    created_ms: int
    requester_signature: bytes | None = None
    authorisation: bytes | None = None
    void: int = 0
    traced: tuple[bytes, bytes] | None = None
    opening: int | None = None


@dataclass(frozen=True, slots=True)
class StoredStatement:
    """A statement as it lies in the outbox."""

    key_number: int
    number: int
    id: bytes
    columns: bytes
    private: bytes
    previous_head: bytes
    signature: bytes
    requester_signature: bytes | None
    authorisation: bytes | None
    backing: int | None
    opening: int | None
    void: int


def row_of(
    entry: Entry,
) -> tuple[int, int, bytes, bytes, bytes, bytes, bytes, bytes | None, bytes | None, int | None, int | None, int]:
    """The entry's row of `statements`."""
    signed = entry.signed
    return (
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
        entry.opening,
        entry.void,
    )


def as_stored(entry: Entry) -> StoredStatement:
    """An entry as it will lie in the outbox's database."""
    return StoredStatement(*row_of(entry))


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key of this node's, of this boot or an earlier one. `settled`: the first number whose settlement is not proven."""

    key_number: int
    key: bytes
    method: int
    settled: int
    retired: bool = False


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch that was or may have been sent. `leaves` are 33 bytes each; `proof` is the chain's, once there.

    `finality`: of an optimistic batch, the chain's proof that it is final, once there.
    """

    key_number: int
    first: int
    count: int
    transaction_hash: bytes
    transaction: bytes
    leaves: bytes
    proof: bytes | None
    finality: bytes | None = None
