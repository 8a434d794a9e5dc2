"""Challenges: fraud proofs, committed to before they are shown.

Rules:
1. A challenger first commits to H(chain, its address, a salt, the evidence), naming the batch and leaving a bond. Who reads a proof in
   a waiting transaction can no longer be first.
2. The commitment is made while the batch's window is open. The evidence is revealed in a later block, within `reveal_blocks` blocks or
   `move_ms` of the window clock, whichever ends later; until then the batch does not become final.
3. Evidence is {"statement": where it settled (located.py), "fault": the fraud proof}. If the referee finds a fault the statement is
   overturned and the bond returned; if not, the bond is burnt. It is more than twice what the referee costs.
4. Of several proofs that hold, the first committed wins (claims.py); the others lose nothing. So does who proves what was overturned
   before.
5. Where the terms say that the payer alone may open on chain, nobody else's proof is heard.
6. A commitment that is not revealed in time lapses, and its bond is burnt. Anyone may say so.
"""

from dataclasses import dataclass, replace
from typing import Self

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import bonds, claims, disputes, keys, referee, window
from avow.chain.modules.disputes import Case
from avow.chain.modules.life import Event, State, Subject, advance
from avow.chain.modules.located import Located
from avow.errors import InputError, VerificationError
from avow.receipt import fields
from avow.receipt.encoding import decode, encode, tagged_hash
from avow.receipt.finality import BatchRecord
from avow.receipt.statement import TERMS_PAYER_OPENS

MAX_EVIDENCE = referee.MAX_FAULT + 4_096

_CHALLENGE = b"disputes/challenge/"
_TAG = b"avow/challenge/1"


def commitment(chain_id: str, challenger: bytes, salt: bytes, evidence: bytes) -> bytes:
    """Rule 1's hash; the salt has 32 bytes."""
    return tagged_hash(_TAG, encode([chain_id, challenger, salt, evidence]))


def evidence(statement: Located, fault: bytes) -> bytes:
    """Rule 3's bytes."""
    return encode({"statement": statement.to_value(), "fault": fault})


@dataclass(frozen=True, slots=True)
class Challenge:
    """A commitment that waits. `order`: its place among all challenges of its batch; `height` and `clock`: when it was made."""

    key: bytes
    first: int
    order: int
    height: int
    clock: int

    def to_bytes(self) -> bytes:
        return encode({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        item = fields.mapping(decode(data), "challenge", tuple(cls.__dataclass_fields__))
        key = fields.octets(item["key"], "key", 32)
        return cls(key, *[fields.integer(item[name], name) for name in ("first", "order", "height", "clock")])


def _place(challenger: bytes, committed: bytes) -> bytes:
    """By challenger too, so that nobody takes another's commitment away by sending it first."""
    return _CHALLENGE + challenger + committed


def _load(host: Host, challenger: bytes, committed: bytes) -> Challenge:
    record = host.load(_place(challenger, committed))
    if record is None:
        raise Refused(Code.CHALLENGE_UNKNOWN)
    return Challenge.from_bytes(record)


def commit(host: Host, key: bytes, first: int, committed: bytes) -> None:
    """Rules 1 and 2."""
    rules = host.genesis.optimistic
    if host.value != rules.challenge_bond:
        raise Refused(Code.DEPOSIT_WRONG)
    batch = disputes.load_open_batch(host, key, first)
    clock, height = window.now(host), host.block.height
    if clock > batch.deadline_clock:
        raise Refused(Code.WINDOW_PASSED)
    place = _place(host.caller, committed)
    if host.load(place) is not None:
        raise Refused(Code.CHALLENGE_EXISTS)
    waiting = disputes.load_waiting(host, key, first)
    challenge = Challenge(key, first, waiting.orders, height, clock)
    host.store(place, challenge.to_bytes())
    changed = replace(
        waiting,
        orders=waiting.orders + 1,
        challenges=waiting.challenges + 1,
        reveal_height=height + rules.reveal_blocks,
        reveal_clock=clock + rules.move_ms,
    )
    disputes.store_waiting(host, key, first, changed)
    bonds.dispute_opened(host, batch.operator)
    host.log("Challenged", key, first, host.caller, committed, challenge.order)


def prove(host: Host, shown: bytes, salt: bytes) -> int:
    """Rules 2 to 5. What became of the challenge (life.py)."""
    host.charge(gas.BATCH_BYTE * len(shown))
    committed = commitment(host.genesis.chain_id, host.caller, salt, shown)
    challenge = _load(host, host.caller, committed)
    if host.block.height <= challenge.height:
        raise Refused(Code.CHALLENGE_TOO_EARLY)
    if _is_late(host, challenge):
        raise Refused(Code.REVEAL_PASSED)
    batch = disputes.load_open_batch(host, challenge.key, challenge.first)
    event = _judge(host, challenge, batch, shown)
    _close(host, host.caller, committed, challenge, event)
    return int(advance(Subject.CHALLENGE, State.COMMITTED, event))


def _is_late(host: Host, challenge: Challenge) -> bool:
    rules = host.genesis.optimistic
    late = window.now(host) > challenge.clock + rules.move_ms
    return late and host.block.height > challenge.height + rules.reveal_blocks


def _judge(host: Host, challenge: Challenge, batch: BatchRecord, shown: bytes) -> Event:
    try:
        item = fields.mapping(
            decode(shown, max_bytes=MAX_EVIDENCE, max_items=1_024), "evidence", ("statement", "fault")
        )
        located = Located.from_value(item["statement"])
        fault = fields.octets(item["fault"], "fault", 0, referee.MAX_FAULT)
        statement = located.check(batch, challenge.first)
    except (InputError, VerificationError):
        return Event.PROOF_FAILS
    columns = located.columns
    if columns.terms & TERMS_PAYER_OPENS and host.caller != columns.payer:
        raise Refused(Code.NOT_ENTITLED)
    claim = claims.load_claim(host, statement)
    if claim is not None and (claim.paid or claim.order <= challenge.order):
        return Event.RESOLVED_OTHERWISE
    host.charge(referee.gas(fault))
    if not referee.shows_fault(fault, columns.program, columns.trace):
        return Event.PROOF_FAILS
    case = Case(challenge.key, challenge.first, batch, located, statement)
    _claim(host, case, challenge, claim)
    return Event.PROOF_HOLDS


def _claim(host: Host, case: Case, challenge: Challenge, before: claims.Claim | None) -> None:
    """Rule 4: the statement is overturned, or the claim on it taken over by an earlier challenge."""
    if before is not None:
        advance(Subject.CHALLENGE, State.UPHELD, Event.EARLIER_PROOF_HOLDS)
        won = before.reward
    else:
        won = disputes.overturn(host, case, keys.RevocationCause.FRAUD, host.caller)
    claim = claims.Claim(
        key=case.key,
        first=case.first,
        number=case.number,
        cause=keys.RevocationCause.FRAUD,
        winner=host.caller,
        order=challenge.order,
        height=challenge.height,
        clock=challenge.clock,
        reward=won,
        paid=False,
    )
    claims.store_claim(host, case.statement, claim)
    if claims.is_closed(host, claim):
        claims.pay(host, case.statement, claim)


def lapse(host: Host, challenger: bytes, committed: bytes) -> None:
    """Rule 6."""
    challenge = _load(host, challenger, committed)
    if not _is_late(host, challenge):
        raise Refused(Code.REVEAL_OPEN)
    _close(host, challenger, committed, challenge, Event.TIME_PASSED)


_BURNT = (State.REJECTED, State.LAPSED)


def _close(host: Host, challenger: bytes, committed: bytes, challenge: Challenge, event: Event) -> None:
    """The challenge is resolved; its bond goes where its state says."""
    state = advance(Subject.CHALLENGE, State.COMMITTED, event)
    batch = disputes.load_batch(host, challenge.key, challenge.first)
    waiting = disputes.load_waiting(host, challenge.key, challenge.first)
    if waiting.challenges:
        changed = replace(waiting, challenges=waiting.challenges - 1)
        disputes.store_waiting(host, challenge.key, challenge.first, changed)
    host.store(_place(challenger, committed), None)
    bonds.dispute_closed(host, batch.operator)
    bond = host.genesis.optimistic.challenge_bond
    if state in _BURNT:
        bonds.burn(host, bond)
    else:
        host.transfer(bonds.ADDRESS, challenger, bond)
    host.log("ChallengeResolved", challenge.key, challenger, committed, int(state))


def challenge_of(host: Host, challenger: bytes, committed: bytes) -> tuple[bytes, int, int, int, int]:
    """Key, first number, order, height, clock of a commitment that waits; zeros when none does."""
    record = host.load(_place(challenger, committed))
    if record is None:
        return bytes(32), 0, 0, 0, 0
    found = Challenge.from_bytes(record)
    return found.key, found.first, found.order, found.height, found.clock
