"""Optimistic batches after their settlement: open, disputed, overturned in part, final.

Rules:
1. What can happen to a statement, a challenge (challenges.py) and a demand (demands.py) is the table in life.py.
2. Settling a batch holds its fees and locks its bond until the batch is final. Each statement's share of both follows from its columns.
3. A batch is final when the window clock (window.py) has passed its deadline, no demand waits, and no challenge that was made in
   time can still be revealed. Anyone may say so; fees go to the operator, what was locked is free.
4. A statement that is overturned: its fee returns to its payer, its share of the bond is slashed (bonds.py, rule 4), its key is revoked,
   and the batch goes on without it. Other statements of the batch neither wait for it nor suffer.
5. An answered demand moves the deadline on, so that there is time to use the answer; by `MAX_MOVES` moves of both sides in all.

All of a batch's money is in the module's account: the sum over open batches of what they hold, all bonds, the bonds of waiting challenges
and demands, and rewards not yet paid is its balance.
"""

from dataclasses import dataclass, replace
from typing import Self

from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import bonds, keys, window
from avow.chain.modules.batch import Batch
from avow.chain.modules.life import Event, State, Subject, advance
from avow.chain.modules.located import Located
from avow.receipt import fields
from avow.receipt.encoding import decode, encode
from avow.receipt.finality import BatchRecord, BatchState, batch_key
from avow.receipt.standing import KeyState

ADDRESS = bonds.ADDRESS
MAX_MOVES = 16
"""Rule 5: a descent of seven demands, with room for a second one."""

_WAITING = b"disputes/waiting/"


# --- Batches --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """What may keep a batch from being final. `orders`: challenges ever made; `challenges` and `demands`: those that wait;
    `reveal_height` and `reveal_clock`: when the last challenge has lapsed, revealed or not.
    """

    orders: int = 0
    challenges: int = 0
    demands: int = 0
    reveal_height: int = 0
    reveal_clock: int = 0

    def to_bytes(self) -> bytes:
        return encode({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        names = tuple(cls.__dataclass_fields__)
        item = fields.mapping(decode(data), "waiting", names)
        return cls(*[fields.integer(item[name], name) for name in names])


def load_batch(host: Host, key: bytes, first: int) -> BatchRecord:
    """Raises Refused (BATCH_UNKNOWN)."""
    record = host.load(batch_key(key, first))
    if record is None:
        raise Refused(Code.BATCH_UNKNOWN)
    return BatchRecord.from_bytes(record)


def load_open_batch(host: Host, key: bytes, first: int) -> BatchRecord:
    """Raises Refused (BATCH_UNKNOWN or BATCH_FINAL)."""
    batch = load_batch(host, key, first)
    if batch.state is not BatchState.OPEN:
        raise Refused(Code.BATCH_FINAL)
    return batch


def store_batch(host: Host, key: bytes, first: int, batch: BatchRecord) -> None:
    host.store(batch_key(key, first), batch.to_bytes())


def load_waiting(host: Host, key: bytes, first: int) -> Waiting:
    record = host.load(_waiting_key(key, first))
    return Waiting() if record is None else Waiting.from_bytes(record)


def store_waiting(host: Host, key: bytes, first: int, waiting: Waiting) -> None:
    host.store(_waiting_key(key, first), waiting.to_bytes() if waiting != Waiting() else None)


def _waiting_key(key: bytes, first: int) -> bytes:
    return _WAITING + key + first.to_bytes(8)


def hold(host: Host, batch: Batch, operator: bytes, root: bytes, charged: int) -> tuple[int, int]:
    """Rule 2, by the settlement that has moved `charged` wei into the module's account. Deadline and what is locked.

    A batch in which everything is void has nothing to dispute: it is final at once.

    Raises Refused (BOND_INSUFFICIENT) with the index of the first statement that the bond does not cover.
    """
    locked = _lock(host, operator, batch)
    clock = window.now(host)
    deadline = clock + host.genesis.optimistic.window_ms
    record = BatchRecord(
        root=root,
        count=len(batch),
        operator=operator,
        settled_clock=clock,
        deadline_clock=deadline,
        held=charged,
        locked=locked,
        state=BatchState.OPEN if locked else BatchState.FINAL,
    )
    store_batch(host, batch.key, batch.first, record)
    return deadline, locked


def _lock(host: Host, operator: bytes, batch: Batch) -> int:
    """Rule 2's part about the bond; what is locked."""
    required = host.genesis.optimistic.required_bond
    columns = list(zip(batch.amounts, batch.terms, strict=True))
    shares = {column: required(*column) for column in set(columns)}
    locked = [0 if cause else shares[column] for column, cause in zip(columns, batch.void, strict=True)]
    total = sum(locked)
    free = bonds.load_bond(host, operator).free
    if total > free:
        for index, share in enumerate(locked):
            free -= share
            if free < 0:
                raise Refused(Code.BOND_INSUFFICIENT, index)
    if total:
        bonds.lock(host, operator, total)
    return total


def finalise(host: Host, key: bytes, first: int) -> None:
    """Rule 3."""
    batch = load_open_batch(host, key, first)
    advance(Subject.STATEMENT, State.OPEN, Event.WINDOW_PASSED)
    clock = window.now(host)
    if clock <= batch.deadline_clock:
        raise Refused(Code.WINDOW_OPEN)
    waiting = load_waiting(host, key, first)
    revealing = host.block.height <= waiting.reveal_height or clock <= waiting.reveal_clock
    if waiting.demands or (waiting.challenges and revealing):
        raise Refused(Code.DISPUTE_WAITS)
    if batch.held:
        host.transfer(ADDRESS, batch.operator, batch.held)
    if batch.locked:
        bonds.release(host, batch.operator, batch.locked)
    store_batch(host, key, first, replace(batch, held=0, locked=0, state=BatchState.FINAL))
    if waiting != Waiting():
        store_waiting(host, key, first, Waiting())
    host.log("Finalised", key, first, batch.operator, batch.held)


def extend(host: Host, key: bytes, first: int, batch: BatchRecord, clock: int) -> None:
    """Rule 5."""
    parameters = host.genesis.optimistic
    latest = batch.settled_clock + parameters.window_ms + MAX_MOVES * 2 * parameters.move_ms
    deadline = max(batch.deadline_clock, min(clock + parameters.move_ms, latest))
    if deadline != batch.deadline_clock:
        store_batch(host, key, first, replace(batch, deadline_clock=deadline))


# --- Statements -----------------------------------------------------------------------------------------------------


def is_overturned(batch: BatchRecord, number: int) -> bool:
    return number in batch.overturned


@dataclass(frozen=True, slots=True)
class Case:
    """A statement before the chain: its batch's record, and where it is."""

    key: bytes
    first: int
    batch: BatchRecord
    located: Located
    statement: bytes

    @property
    def number(self) -> int:
        return self.located.columns.number


def overturn(host: Host, case: Case, cause: keys.RevocationCause, winner: bytes) -> int:
    """Rule 4, for a statement that is open. The winner's reward, which is still the module's."""
    event = Event.FRAUD_PROVEN if cause is keys.RevocationCause.FRAUD else Event.TRACE_WITHHELD
    state = State.OVERTURNED if is_overturned(case.batch, case.number) else State.OPEN
    advance(Subject.STATEMENT, state, event)
    columns, batch = case.located.columns, case.batch
    share = host.genesis.optimistic.required_bond(columns.amount, columns.terms)
    reward = bonds.slash(host, batch.operator, share)
    if columns.amount:
        host.transfer(ADDRESS, columns.payer, columns.amount)
    changed = replace(
        batch,
        held=batch.held - columns.amount,
        locked=batch.locked - share,
        overturned=tuple(sorted((*batch.overturned, case.number))),
    )
    store_batch(host, case.key, case.first, changed)
    record = keys.load_key(host, case.key)
    if record.state is not KeyState.REVOKED:
        keys.revoke_for_fault(host, case.key, record, cause)
    host.log("Overturned", case.key, case.number, case.statement, int(cause), winner, share)
    return reward
