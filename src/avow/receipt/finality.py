"""When an optimistic statement can no longer be challenged, and what is at stake until then: the chain's records of it.

Rules:
1. One record per settled batch of an optimistic key, under "disputes/batch/" ‖ key id ‖ u64 first number; nothing deletes it. `open`
   until the window clock has passed `deadline_clock` and nothing is disputed any more, then `final`. `overturned` are the numbers
   whose fraud was proven, or whose trace the node withheld.
2. The window clock counts milliseconds of block time, but no more than two heartbeats a block: while the chain stands still, it does.
   It began at the genesis' time, so without a halt it is block time.
3. One record per operator, under "disputes/bond/" ‖ address: its bond, and how much of it its open statements lock.
4. A statement locks `required_bond`. Half of it is burnt when the statement is overturned, whoever wins the other half; that half alone
   makes cheating a loss: it is more than G · (1 - p) / p, with G the gain, `gain_factor` times the amount, and p the share of
   statements that are checked. Never less than the floor. Where the payer alone may open on chain, fewer can prove a fraud: four
   times that.
5. A record is proven by a sparse Merkle proof under a signed block's app hash (standing.py, rules 2 and 3): what held before that block.

Pure: no clock, no randomness, no input or output.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from avow.errors import VerificationError
from avow.receipt import fields
from avow.receipt.encoding import Value, decode, encode
from avow.receipt.headers import SignedBlock, app_hash
from avow.receipt.merkle import SparseProof, sparse_root
from avow.receipt.statement import TERMS_PAYER_OPENS

BATCH_PREFIX = b"disputes/batch/"
BOND_PREFIX = b"disputes/bond/"
MAX_BATCH_RECORD = 64 * 1024
MAX_BOND_RECORD = 256
MAX_STATEMENTS = 4_096
MILLION = 1_000_000
PAYER_OPENS_FACTOR = 4


class BatchState(StrEnum):
    OPEN = "open"
    FINAL = "final"


def batch_key(key: bytes, first: int) -> bytes:
    """The state key of a batch's record."""
    return BATCH_PREFIX + key + first.to_bytes(8)


def bond_key(operator: bytes) -> bytes:
    """The state key of an operator's bond."""
    return BOND_PREFIX + operator


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Rule 1. `held` fees and `locked` bond in wei; clocks in milliseconds (rule 2); `overturned` rises."""

    root: bytes
    count: int
    operator: bytes
    settled_clock: int
    deadline_clock: int
    held: int
    locked: int
    state: BatchState
    overturned: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        return encode(
            {
                "root": self.root,
                "count": self.count,
                "operator": self.operator,
                "settled_clock": self.settled_clock,
                "deadline_clock": self.deadline_clock,
                "held": self.held.to_bytes(16),
                "locked": self.locked.to_bytes(16),
                "state": self.state.value,
                "overturned": list(self.overturned),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises EncodingError or TooLarge."""
        value = decode(data, max_bytes=MAX_BATCH_RECORD, max_items=MAX_STATEMENTS + 32)
        item = fields.mapping(value, "batch record", tuple(cls.__dataclass_fields__))
        state = fields.text(item["state"], "state", max_length=8)
        if state not in (BatchState.OPEN, BatchState.FINAL):
            raise fields.FieldError("unknown state of a batch", field="state")
        numbers = fields.array(item["overturned"], "overturned", max_length=MAX_STATEMENTS)
        overturned = tuple([fields.integer(number, "overturned") for number in numbers])
        if list(overturned) != sorted(set(overturned)):
            raise fields.FieldError("overturned numbers do not rise", field="overturned")
        return cls(
            root=fields.octets(item["root"], "root", 32),
            count=fields.integer(item["count"], "count", maximum=MAX_STATEMENTS),
            operator=fields.octets(item["operator"], "operator", 20),
            settled_clock=fields.integer(item["settled_clock"], "settled_clock"),
            deadline_clock=fields.integer(item["deadline_clock"], "deadline_clock"),
            held=_wei(item["held"], "held"),
            locked=_wei(item["locked"], "locked"),
            state=BatchState(state),
            overturned=overturned,
        )


@dataclass(frozen=True, slots=True)
class BondRecord:
    """Rule 3. `amount` and `locked` in wei, locked ≤ amount; `disputes`: challenges and demands that wait against the operator."""

    amount: int = 0
    locked: int = 0
    disputes: int = 0

    @property
    def free(self) -> int:
        """What further statements may lock, or the operator take back."""
        return self.amount - self.locked

    def to_bytes(self) -> bytes:
        return encode(
            {"amount": self.amount.to_bytes(16), "locked": self.locked.to_bytes(16), "disputes": self.disputes}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises EncodingError or TooLarge."""
        item = fields.mapping(decode(data, max_bytes=MAX_BOND_RECORD), "bond record", ("amount", "locked", "disputes"))
        record = cls(
            amount=_wei(item["amount"], "amount"),
            locked=_wei(item["locked"], "locked"),
            disputes=fields.integer(item["disputes"], "disputes"),
        )
        if record.locked > record.amount:
            raise fields.FieldError("more is locked than there is", field="locked")
        return record


# --- Proofs (rule 5) ------------------------------------------------------------------------------------------------


class RecordMismatch(VerificationError):
    """A record is not under the header's app hash."""

    code = "record_mismatch"


@dataclass(frozen=True, slots=True)
class FinalityProof:
    """A batch's record, as hashed, and the block that proves it. The block's signatures are checked elsewhere."""

    first: int
    record: bytes
    proof: SparseProof
    history_root: bytes
    block: SignedBlock

    def to_value(self) -> dict[str, Value]:
        return {
            "first": self.first,
            "record": self.record,
            "proof": self.proof.to_value(),
            "history_root": self.history_root,
            "block": self.block.to_value(),
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises FieldError."""
        item = fields.mapping(value, "finality", ("first", "record", "proof", "history_root", "block"))
        return cls(
            first=fields.integer(item["first"], "first"),
            record=fields.octets(item["record"], "record", 1, MAX_BATCH_RECORD),
            proof=SparseProof.from_value(item["proof"]),
            history_root=fields.octets(item["history_root"], "history_root", 32),
            block=SignedBlock.from_value(item["block"]),
        )

    def check_membership(self, key: bytes) -> BatchRecord:
        """The record of the batch that begins at `first` of key id `key`. Raises RecordMismatch."""
        root = sparse_root(batch_key(key, self.first), self.record, self.proof)
        if app_hash(root, self.history_root) != self.block.header.app_hash:
            raise RecordMismatch("the batch's record is not under the header's app hash")
        return BatchRecord.from_bytes(self.record)


@dataclass(frozen=True, slots=True)
class BondProof:
    """An operator's bond under the same app hash as a key's standing. `record` None: it has none."""

    record: bytes | None
    proof: SparseProof

    def to_value(self) -> dict[str, Value]:
        return {"record": self.record, "proof": self.proof.to_value()}

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises FieldError."""
        item = fields.mapping(value, "bond", ("record", "proof"))
        record = item["record"]
        return cls(
            record=None if record is None else fields.octets(record, "record", 1, MAX_BOND_RECORD),
            proof=SparseProof.from_value(item["proof"]),
        )

    def check_membership(self, operator: bytes, history_root: bytes, expected: bytes) -> BondRecord:
        """The bond of `operator` under app hash `expected`; an empty one where there is none. Raises RecordMismatch."""
        root = sparse_root(bond_key(operator), self.record, self.proof)
        if app_hash(root, history_root) != expected:
            raise RecordMismatch("the operator's bond is not under the header's app hash")
        return BondRecord() if self.record is None else BondRecord.from_bytes(self.record)


# --- Parameters (rule 4) --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StakeRule:
    """What decides a statement's share: the least one in wei, the audit rate in millionths, a cheat's gain over the fee."""

    bond_floor: int
    audit_ppm: int
    gain_factor: int

    def share(self, amount: int, terms: int) -> int:
        """Rule 4: what a statement of this amount locks."""
        gain = amount * self.gain_factor
        share = max(self.bond_floor, 2 * (gain * (MILLION - self.audit_ppm) // self.audit_ppm + 1))
        return share * PAYER_OPENS_FACTOR if terms & TERMS_PAYER_OPENS else share


@dataclass(frozen=True, slots=True)
class OptimisticParameters:
    """The genesis' rules of the method. Times in milliseconds of the window clock, money in wei.

    `move_ms`: how long a node has to answer a demand, and a challenger to reveal; `reveal_blocks` the least number of blocks for a
    reveal. `audit_ppm`: the share of statements that the appointed watchers run again, in millionths; posted so that bonds can be
    judged. `watchers`: those appointed when the network begins.
    """

    window_ms: int = 60_000
    move_ms: int = 10_000
    audit_ppm: int = 50_000
    gain_factor: int = 1
    reveal_blocks: int = 3
    bond_floor: int = 10**16
    challenge_bond: int = 10**16
    demand_bond: int = 10**16
    watchers: tuple[bytes, ...] = ()

    @property
    def stake(self) -> StakeRule:
        return StakeRule(self.bond_floor, self.audit_ppm, self.gain_factor)

    def required_bond(self, amount: int, terms: int) -> int:
        """Rule 4: what a statement of this amount locks."""
        return self.stake.share(amount, terms)

    def to_value(self) -> dict[str, Value]:
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            **{name: getattr(self, name).to_bytes(16) for name in _MONEY},
            "watchers": list(self.watchers),
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises FieldError."""
        item = fields.mapping(value, "optimistic", tuple(cls.__dataclass_fields__))
        numbers = {name: fields.integer(item[name], name, maximum=1 << 40) for name in _NUMBERS}
        if not all(numbers.values()) or numbers["audit_ppm"] > MILLION:
            raise fields.FieldError("a parameter is out of range", field="optimistic")
        watchers = fields.array(item["watchers"], "watchers", max_length=64)
        addresses = tuple([fields.octets(watcher, "watchers", 20) for watcher in watchers])
        if list(addresses) != sorted(set(addresses)):
            raise fields.FieldError("watchers are not in order, or one is there twice", field="watchers")
        return cls(**numbers, **{name: _wei(item[name], name) for name in _MONEY}, watchers=addresses)


_NUMBERS = ("window_ms", "move_ms", "audit_ppm", "gain_factor", "reveal_blocks")
_MONEY = ("bond_floor", "challenge_bond", "demand_bond")


def _wei(value: Value, field: str) -> int:
    return int.from_bytes(fields.octets(value, field, 16))
