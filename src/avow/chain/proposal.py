"""What a block may hold: decided by executing it on the state before.

Rules:
1. The transactions of a proposal run in order, in a block of its height and time, within the block's bytes and gas: the very run
   that the block needs. So whoever agrees with a proposal has executed its block, and keeps the run for it.
2. No transaction of an honest proposal ends in a fault: nothing happened and nobody paid (form, nonce, money, fee), or its call was
   refused for one of FAULTS. A fault leaves nothing behind: a proposer that leaves the transaction out runs what others run without
   it.
3. FAULTS follow from what the sender itself showed: a signature or proof that does not hold, an amount above the price that it
   names, a time outside the settlement window. What another transaction may bring about (a number that is taken, money that is
   gone) is no fault: it stands in the block, and its sender pays for it.
4. EARLY faults heal by themselves: the block's time has yet to reach what the transaction says. After a halt the first block has
   the time of the votes before it, so settlements of answers given meanwhile wait for the next one.
5. Whoever prepares a proposal executes no more than PREPARED_BLOCKS blocks' gas, faults included: what nobody pays for is bounded.

Pure: the block's time is a parameter.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from avow.chain.abci import Event, EventAttribute, ExecTxResult, total_bytes
from avow.chain.errors import Code
from avow.chain.execution import Machine, Outcome
from avow.chain.host import Log, refusal
from avow.chain.modules import nodes, settlement
from avow.chain.transaction import Transaction

PREPARED_BLOCKS = 2

EARLY = frozenset({Code.BATCH_EARLY})
FAULTS = EARLY | {
    Code.BATCH_MALFORMED,
    Code.BATCH_SIGNATURE,
    Code.BATCH_TIME,
    Code.AMOUNT_EXCEEDS_PRICE,
    Code.AUTHORISATION_REFUSED,
    Code.VOID_CAUSE_UNKNOWN,
    Code.KEY_INVALID,
    Code.POSSESSION_UNPROVEN,
    Code.ATTESTATION_REFUSED,
    Code.ATTESTATION_UNBOUND,
    Code.EVIDENCE_REFUSED,
}
"""Rule 3."""

_SHOWING = (
    (settlement.MODULE, ("settle", "void", "reportFalseVoid")),
    (nodes.MODULE, ("register", "rotate", "reattest", "reportEquivocation", "reportSubstitution")),
)
SHOWING: frozenset[tuple[bytes, bytes]] = frozenset(
    [(module.address, module.interface.functions[name].selector) for module, names in _SHOWING for name in names]
)
"""Module and selector of the calls that may end in one of FAULTS: those that show something which every node can check by itself."""

LOG_EVENT = "log"


def fault_of(outcome: Outcome) -> Code | None:
    """The fault that a transaction ended in (rule 2); None for what may stand in a block."""
    if outcome.code in (Code.OK, Code.OUT_OF_GAS):
        return None
    if outcome.code is not Code.REVERTED:
        return outcome.code
    refused = refusal(outcome.data)
    return refused.reason if refused is not None and refused.reason in FAULTS else None


@dataclass(slots=True)
class Run:
    """A block as far as it was executed: the transactions that stand in it, and their results."""

    machine: Machine
    txs: list[bytes] = field(default_factory=list)
    results: list[ExecTxResult] = field(default_factory=list)

    def execute(self, raw: bytes, transaction: Transaction) -> None:
        """The next transaction of a block that was decided: a fault stands in it with its code."""
        self._add(raw, transaction, self.machine.execute(transaction))

    def offer(self, raw: bytes, transaction: Transaction) -> Code | None:
        """The next transaction, unless it ends in a fault: that is given back, and nothing of it stays."""
        state, history = self.machine.state, self.machine.history
        mark, leaves = state.checkpoint(), len(history.leaves)
        outcome = self.machine.execute(transaction)
        fault = fault_of(outcome)
        if fault is None:
            self._add(raw, transaction, outcome)
        else:
            state.revert(mark)
            del history.leaves[leaves:]
        return fault

    def refuse(self, raw: bytes, code: Code, detail: str) -> None:
        """The next transaction of a block that was decided, which is none."""
        self.txs.append(raw)
        self.results.append(ExecTxResult(int(code), log=detail))

    def _add(self, raw: bytes, transaction: Transaction, outcome: Outcome) -> None:
        self.txs.append(raw)
        self.results.append(
            ExecTxResult(
                code=int(outcome.code),
                data=outcome.data,
                gas_wanted=transaction.gas_limit,
                gas_used=outcome.gas_used,
                log=outcome.detail,
                events=tuple([log_event(log) for log in outcome.logs]),
            )
        )


@dataclass(slots=True)
class Room:
    """What a block has left, in bytes and in gas."""

    size: int
    gas: int

    def take(self, raw: bytes, transaction: Transaction) -> bool:
        """Whether the transaction fits; if so, its room is taken."""
        size = total_bytes((raw,))
        if size > self.size or transaction.gas_limit > self.gas:
            return False
        self.size -= size
        self.gas -= transaction.gas_limit
        return True


def prepare(run: Run, room: Room, offered: Iterable[tuple[bytes, Transaction]]) -> dict[bytes, Code]:
    """Fill a block, in order of arrival, with what fits and ends in no fault; the others' faults, by transaction (rules 2 and 5)."""
    faults: dict[bytes, Code] = {}
    budget = PREPARED_BLOCKS * room.gas
    for raw, transaction in offered:
        if transaction.gas_limit > budget:
            continue
        left = Room(room.size, room.gas)
        if not left.take(raw, transaction):
            continue
        budget -= transaction.gas_limit
        fault = run.offer(raw, transaction)
        if fault is None:
            room.size, room.gas = left.size, left.gas
        else:
            faults[raw] = fault
    return faults


def accept(run: Run, room: Room, proposed: Iterable[tuple[bytes, Transaction]]) -> bool:
    """Whether all of a proposal fits and ends in no fault."""
    return all(room.take(raw, transaction) and run.offer(raw, transaction) is None for raw, transaction in proposed)


def log_event(log: Log) -> Event:
    """A module's event as the consensus engine carries it: hexadecimal, for indexes; never hashed."""
    topics = [EventAttribute("topic", topic.hex()) for topic in log.topics]
    attributes = (EventAttribute("address", log.address.hex()), *topics, EventAttribute("data", log.data.hex(), False))
    return Event(LOG_EVENT, attributes)


def event_log(event: Event) -> Log | None:
    """The inverse of `log_event`; None for an event of another kind."""
    if event.type != LOG_EVENT:
        return None
    values = [(attribute.key, bytes.fromhex(attribute.value)) for attribute in event.attributes]
    topics = tuple([value for key, value in values if key == "topic"])
    return Log(dict(values)["address"], topics, dict(values)["data"])
