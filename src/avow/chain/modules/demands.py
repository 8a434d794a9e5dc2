"""Demands: what an entitled watcher needs of a trace and the node does not give is asked for on chain.

Rules:
1. Entitled are the payer, the appointed watchers, and whom the statement's audience names; these show its private part. What opens data
   of the run, and not hashes alone, an appointed watcher too is entitled to by the audience only. Where the terms say that the payer alone
   may open on chain, nobody else is.
2. A demand names a statement of an open batch while its window is open, shows that what it asks is committed to (exact/descent.py), and
   leaves a bond of more than what an answer costs. A node that answers gets the bond.
3. The node has `move_ms` of the window clock and `reveal_blocks` blocks, whichever ends later. After an answer there is time to use it
   (disputes.py, rule 5). Each demand has its own clock; none waits for another.
4. A demand that is not answered in time overturns the statement, and who posed it wins.
5. An account has at most MAX_POSED demands waiting: more would ask more of a node than its clock allows.
6. Once the statement is overturned nothing is answered any more; bonds of demands that still wait are returned.
"""

from dataclasses import dataclass, replace
from typing import Self

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import bonds, claims, disputes, keys, referee, watchers, window
from avow.chain.modules.disputes import Case
from avow.chain.modules.life import Event, State, Subject, advance
from avow.chain.modules.located import Located
from avow.errors import InputError, VerificationError
from avow.receipt import fields
from avow.receipt.encoding import decode, encode, tagged_hash
from avow.receipt.statement import TERMS_PAYER_OPENS, Private, private_hash

MAX_PRIVATE = 4_096
MAX_POSED = 16

_DEMAND = b"disputes/demand/"
_POSED = b"disputes/posed/"
_TAG = b"avow/demand/1"


@dataclass(frozen=True, slots=True)
class Posed:
    """A demand that waits. `asked`: its bytes (exact/descent.py). `height` and `clock`: the last at which the node may answer."""

    demander: bytes
    key: bytes
    first: int
    located: Located
    asked: bytes
    height: int
    clock: int

    def to_bytes(self) -> bytes:
        return encode(
            {
                "demander": self.demander,
                "key": self.key,
                "first": self.first,
                "statement": self.located.to_value(),
                "asked": self.asked,
                "height": self.height,
                "clock": self.clock,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        names = ("demander", "key", "first", "statement", "asked", "height", "clock")
        item = fields.mapping(decode(data), "demand", names)
        return cls(
            demander=fields.octets(item["demander"], "demander", 20),
            key=fields.octets(item["key"], "key", 32),
            first=fields.integer(item["first"], "first"),
            located=Located.from_value(item["statement"]),
            asked=fields.octets(item["asked"], "asked", 0, referee.MAX_DEMAND),
            height=fields.integer(item["height"], "height"),
            clock=fields.integer(item["clock"], "clock"),
        )

    def case(self, host: Host) -> Case:
        """The statement as it is now. Its batch is open: it is not final while a demand waits."""
        batch = disputes.load_open_batch(host, self.key, self.first)
        return Case(self.key, self.first, batch, self.located, self.located.hash())


def build_demand(key: bytes, first: int, statement: Located, asked: bytes, private: bytes | None = None) -> bytes:
    """What `demand` takes. `private`: CBOR of the statement's private part, shown by who is named there."""
    return encode({"key": key, "first": first, "statement": statement.to_value(), "private": private, "asked": asked})


def demand_id(demander: bytes, data: bytes, height: int) -> bytes:
    return tagged_hash(_TAG, demander, height.to_bytes(8), data)


def demand(host: Host, data: bytes) -> bytes:
    """Rules 1, 2 and 5. The demand's id."""
    rules = host.genesis.optimistic
    host.charge(referee.descent_gas(data))
    if host.value != rules.demand_bond:
        raise Refused(Code.DEPOSIT_WRONG)
    key, first, located, private, asked = _parse(data)
    batch = disputes.load_open_batch(host, key, first)
    clock = window.now(host)
    if clock > batch.deadline_clock:
        raise Refused(Code.WINDOW_PASSED)
    try:
        statement = located.check(batch, first)
    except VerificationError:
        raise Refused(Code.STATEMENT_UNKNOWN) from None
    if disputes.is_overturned(batch, located.columns.number):
        raise Refused(Code.DISPUTE_RESOLVED)
    if not referee.may_be_asked(asked, located.columns.trace):
        raise Refused(Code.DEMAND_REFUSED)
    _check_entitled(host, located, private, asked)
    _count(host, host.caller, 1)
    posed = Posed(
        host.caller, key, first, located, asked, host.block.height + rules.reveal_blocks, clock + rules.move_ms
    )
    identity = demand_id(host.caller, data, host.block.height)
    if host.load(_DEMAND + identity) is not None:
        raise Refused(Code.DEMAND_EXISTS)
    host.store(_DEMAND + identity, posed.to_bytes())
    waiting = disputes.load_waiting(host, key, first)
    disputes.store_waiting(host, key, first, replace(waiting, demands=waiting.demands + 1))
    bonds.dispute_opened(host, batch.operator)
    host.log(
        "Demanded", key, located.columns.number, identity, statement, host.caller, posed.height, posed.clock, asked
    )
    return identity


def _parse(data: bytes) -> tuple[bytes, int, Located, bytes | None, bytes]:
    try:
        names = ("key", "first", "statement", "private", "asked")
        most = referee.MAX_DEMAND + MAX_PRIVATE + 2_048
        item = fields.mapping(decode(data, max_bytes=most, max_items=64), "demand", names)
        private = item["private"]
        return (
            fields.octets(item["key"], "key", 32),
            fields.integer(item["first"], "first"),
            Located.from_value(item["statement"]),
            None if private is None else fields.octets(private, "private", 1, MAX_PRIVATE),
            fields.octets(item["asked"], "asked", 1, referee.MAX_DEMAND),
        )
    except InputError:
        raise Refused(Code.DEMAND_REFUSED) from None


def _check_entitled(host: Host, located: Located, private: bytes | None, asked: bytes) -> None:
    """Rule 1."""
    payer = located.columns.payer
    if host.caller == payer:
        return
    if located.columns.terms & TERMS_PAYER_OPENS:
        raise Refused(Code.NOT_ENTITLED)
    appointed = watchers.is_appointed(host, host.caller)
    if appointed and not referee.opens_data(asked):
        return
    if private is None or not _admits(host, located, private, appointed=appointed):
        raise Refused(Code.NOT_ENTITLED)


def _admits(host: Host, located: Located, private: bytes, *, appointed: bool) -> bool:
    host.charge(gas.PARSE)
    if private_hash(private) != located.private:
        return False
    try:
        audience = Private.from_value(decode(private)).audience
    except InputError:
        return False
    if audience is None:
        return False
    known = (host.caller,) if appointed else ()
    return audience.admits(host.caller, payer=located.columns.payer, appointed=known)


def answer(host: Host, identity: bytes, given: bytes) -> None:
    """Rules 2 and 3, by the operator."""
    host.charge(referee.descent_gas(given))
    posed = _load(host, identity)
    case = posed.case(host)
    if host.caller != case.batch.operator:
        raise Refused(Code.NOT_AUTHORISED)
    if disputes.is_overturned(case.batch, case.number):
        raise Refused(Code.DISPUTE_RESOLVED)
    if _is_late(host, posed):
        raise Refused(Code.ANSWER_LATE)
    if not referee.answers(posed.asked, given, posed.located.columns.trace):
        raise Refused(Code.ANSWER_REFUSED)
    disputes.extend(host, posed.key, posed.first, case.batch, window.now(host))
    _close(host, identity, posed, case, Event.ANSWER_GIVEN, host.caller)
    host.log("Answered", posed.key, case.number, identity, given)


def _is_late(host: Host, posed: Posed) -> bool:
    return host.block.height > posed.height and window.now(host) > posed.clock


def expire(host: Host, identity: bytes) -> None:
    """Rules 4 and 6, by anyone."""
    posed = _load(host, identity)
    case = posed.case(host)
    if disputes.is_overturned(case.batch, case.number):
        _close(host, identity, posed, case, Event.RESOLVED_OTHERWISE, posed.demander)
        return
    if not _is_late(host, posed):
        raise Refused(Code.ANSWER_OPEN)
    won = disputes.overturn(host, case, keys.RevocationCause.TRACE_WITHHELD, posed.demander)
    claim = claims.Claim(
        key=posed.key,
        first=posed.first,
        number=case.number,
        cause=keys.RevocationCause.TRACE_WITHHELD,
        winner=posed.demander,
        order=0,
        height=host.block.height,
        clock=window.now(host),
        reward=won,
        paid=False,
    )
    claims.pay(host, case.statement, claim)
    _close(host, identity, posed, case, Event.TIME_PASSED, posed.demander)


def _load(host: Host, identity: bytes) -> Posed:
    record = host.load(_DEMAND + identity)
    if record is None:
        raise Refused(Code.DEMAND_UNKNOWN)
    return Posed.from_bytes(record)


def _close(host: Host, identity: bytes, posed: Posed, case: Case, event: Event, bond_to: bytes) -> None:
    state = advance(Subject.DEMAND, State.POSED, event)
    host.store(_DEMAND + identity, None)
    waiting = disputes.load_waiting(host, posed.key, posed.first)
    disputes.store_waiting(host, posed.key, posed.first, replace(waiting, demands=waiting.demands - 1))
    bonds.dispute_closed(host, case.batch.operator)
    _count(host, posed.demander, -1)
    host.transfer(bonds.ADDRESS, bond_to, host.genesis.optimistic.demand_bond)
    host.log("DemandResolved", posed.key, case.number, identity, int(state))


def _count(host: Host, demander: bytes, change: int) -> None:
    """Rule 5."""
    posed = int.from_bytes(host.load(_POSED + demander) or b"") + change
    if posed > MAX_POSED:
        raise Refused(Code.TOO_MANY_DEMANDS)
    host.store(_POSED + demander, posed.to_bytes(2) if posed else None)


def demand_of(host: Host, identity: bytes) -> tuple[bytes, bytes, int, int, int, bytes]:
    """Demander, key, number, last height and clock for an answer, what is asked; zeros when no such demand waits."""
    record = host.load(_DEMAND + identity)
    if record is None:
        return bytes(20), bytes(32), 0, 0, 0, b""
    posed = Posed.from_bytes(record)
    return posed.demander, posed.key, posed.located.columns.number, posed.height, posed.clock, posed.asked
