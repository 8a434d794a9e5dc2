"""Which transactions may wait for a block: check_tx.

Rules:
1. A transaction is admitted on top of those of its sender already admitted since the last commit; after a commit the driver offers
   the waiting ones again, in order.
2. A new call that shows something to check (proposal.py, SHOWING) is tried on the committed state, in a block with the last one's
   time. What ends in a fault is refused, with the revert; nobody is charged. Before this process has seen a block, nothing is
   tried.
3. What a proposal of ours had to leave out for a fault is refused at the next offer.
4. What is only early waits; at each further block it is tried again, and refused after EARLY_BLOCKS of them.

What is admitted is this node's matter; what a block may hold is not (proposal.py). Pure: the block's time is a parameter.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from avow.chain.abci import CheckTxResponse, CheckTxType
from avow.chain.errors import Code, TransactionRefused
from avow.chain.execution import Machine, Outcome
from avow.chain.host import read_account
from avow.chain.proposal import EARLY, SHOWING, fault_of
from avow.chain.transaction import Transaction

EARLY_BLOCKS = 4
"""Once blocks are made again, their time is at most one block behind: what stays early is of a clock that is wrong."""
MAX_NOTED = 8_192

T = TypeVar("T")


@dataclass(slots=True)
class _Left:
    """What is left of one sender's account after what was admitted since the last commit."""

    nonce: int
    balance: int


@dataclass(slots=True)
class Admission:
    """`machine` gives a view of the committed state in a block of the next height."""

    machine: Callable[[int], Machine]
    time_ms: int | None = None
    _accounts: dict[bytes, _Left] = field(default_factory=dict)
    _faulty: dict[bytes, Code] = field(default_factory=dict)
    _early: dict[bytes, int] = field(default_factory=dict)
    _reading: Machine | None = None
    """A view that nothing is written to, until the next commit."""

    def check(self, raw: bytes, transaction: Transaction, kind: CheckTxType) -> CheckTxResponse:
        """The answer of check_tx. `data` of what is admitted is its sender's address."""
        machine = self._reading = self._reading or self.machine(self.time_ms or 0)
        left = self.account(transaction.sender) or _Left(*read_account(machine.state, transaction.sender))
        try:
            if kind is CheckTxType.NEW and transaction.nonce < left.nonce:
                committed, _ = read_account(machine.state, transaction.sender)
                if transaction.nonce >= committed:
                    raise TransactionRefused(Code.NONCE_TOO_LOW, "already known: a transaction with this nonce waits")
            machine.check(transaction)
            machine.check_account(transaction, left.nonce, left.balance)
            if kind is CheckTxType.RECHECK and raw in self._faulty:
                raise TransactionRefused(Code.REVERTED, f"left out of a proposal: {self._faulty.pop(raw).label}")
        except TransactionRefused as refused:
            return CheckTxResponse(int(refused.status), log=refused.detail)
        if kind is CheckTxType.NEW or raw in self._early:
            outcome = self._try(raw, transaction)
            if outcome is not None:
                return CheckTxResponse(int(Code.REVERTED), data=outcome.data, log=outcome.detail)
        left.nonce += 1
        left.balance -= transaction.max_cost()
        self._accounts[transaction.sender] = left
        return CheckTxResponse(data=transaction.sender, gas_wanted=transaction.gas_limit)

    def _try(self, raw: bytes, transaction: Transaction) -> Outcome | None:
        """Rules 2 and 4: the outcome for which a call is refused."""
        if self.time_ms is None or (transaction.to, transaction.data[:4]) not in SHOWING:
            return None
        gas_limit = transaction.gas_limit - transaction.intrinsic_gas()
        machine = self.machine(self.time_ms)
        outcome = machine.call(transaction.sender, transaction.to, transaction.value, transaction.data, gas_limit)
        fault = fault_of(outcome)
        left = self._early.pop(raw, EARLY_BLOCKS)
        if fault in EARLY and left:
            _note(self._early, raw, left - 1)
            return None
        return None if fault is None else outcome

    def account(self, address: bytes) -> _Left | None:
        """Nonce and balance after what was admitted since the last commit; None where that is nothing."""
        return self._accounts.get(address)

    def left_out(self, faults: dict[bytes, Code]) -> None:
        """What a proposal of ours could not hold."""
        for raw, fault in faults.items():
            if fault in EARLY:
                _note(self._early, raw, self._early.get(raw, EARLY_BLOCKS))
            elif fault >= Code.UNKNOWN_FUNCTION:
                _note(self._faulty, raw, fault)

    def committed(self, time_ms: int | None) -> None:
        """The state is another now; its block's time, where it is known."""
        self.time_ms = time_ms
        self._reading = None
        self._accounts.clear()


def _note(notes: dict[bytes, T], raw: bytes, note: T) -> None:
    """The oldest go first beyond MAX_NOTED: they are met again."""
    notes[raw] = note
    while len(notes) > MAX_NOTED:
        del notes[next(iter(notes))]
