"""The moves of one case on chain: a demand and what comes of it; a commitment, its reveal and the reward.

Rules:
1. What a move needs is in the journal before the move is made, and each move sees first whether it was made before: after a crash it is
   made again, or found made.
2. What the chain does not allow now is tried again; what it never will is a result.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from avow.chain.errors import Code, Refused
from avow.chain.modules.demands import build_demand
from avow.chain.modules.life import State as ChainState
from avow.exact.descent import Demand
from avow.nodes.chain_client import OptimisticRules
from avow.nodes.watcher.errors import BondMissing
from avow.nodes.watcher.journal import Case, Journal
from avow.nodes.watcher.settlements import Settlements
from avow.nodes.watcher.states import Event, State

log = logging.getLogger(__name__)

OnChange = Callable[[Case], None]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Now:
    """One look at the chain: its rules, the window clock, its height."""

    rules: OptimisticRules
    height: int


class Cases:
    """Changes of cases: durable, and then told to `on_change`."""

    def __init__(self, journal: Journal, on_change: OnChange) -> None:
        self._journal = journal
        self._on_change = on_change

    def change(self, case: Case, event: Event, detail: str = "") -> bool:
        """Always true: the case came further."""
        self.store(case, event, detail)
        return True

    def store(self, case: Case, event: Event, detail: str) -> Case:
        """The case as it is now."""
        after = case.after(event, now_ms(), detail)
        self._journal.store(after)
        self._on_change(after)
        return after

    def record_answer(self, statement: bytes, demand: bytes, given: bytes) -> None:
        """What the chain recorded as answered."""
        self._journal.record_answer(statement, demand, given)


class Moves:
    """Rules 1 and 2, from the account of `settlements`."""

    def __init__(self, settlements: Settlements, cases: Cases) -> None:
        self._chain = settlements
        self._cases = cases

    async def move(self, case: Case, now: Now) -> bool:
        """One step on chain. What it does not allow now is tried again; what it never will is a result."""
        moves = {
            State.WITHHELD: self._pose,
            State.DEMANDED: self._await_answer,
            State.PROVEN: self._commit,
            State.COMMITTED: self._reveal,
            State.UPHELD: self._collect,
        }
        try:
            return await moves[case.state](case, now)
        except BondMissing as missing:
            if now.rules.clock <= await self._deadline(case):
                raise
            return self._cases.change(case, Event.WINDOW_OVER, missing.detail)
        except Refused as refused:
            event = _ENDS.get((case.state, refused.reason))
            if event is None:
                log.warning("the chain refuses a move of %s: code %d", case.statement.hex(), refused.reason)
                return False
            return self._cases.change(case, event, f"the chain refuses with code {int(refused.reason)}")

    async def _pose(self, case: Case, now: Now) -> bool:
        assert case.demand is not None
        posed = await self._chain.posed(case.key, case.statement, case.demand, case.height)
        if posed is None:
            await self._chain.check_funds(now.rules.parameters.demand_bond)
            data = build_demand(case.key, case.first, case.located, case.demand, case.private)
            await self._chain.demand(data, now.rules.parameters.demand_bond)
            posed = await self._chain.posed(case.key, case.statement, case.demand, case.height)
        if posed is None:
            return False
        return self._cases.change(replace(case, demand_id=posed), Event.DEMAND_POSED, Demand.parse(case.demand).asked)

    async def _await_answer(self, case: Case, now: Now) -> bool:
        assert case.demand is not None
        assert case.demand_id is not None
        given = await self._chain.answer(case.key, case.demand_id, case.height)
        if given is not None:
            self._cases.record_answer(case.statement, case.demand, given)
            deadline = await self._deadline(case)
            return self._cases.change(replace(case, demand_id=None, deadline=deadline), Event.ANSWER_GIVEN)
        last = await self._chain.last_answer(case.demand_id)
        if last is None:
            return await self._judge(case)
        if now.height >= last[0] and now.rules.clock > last[1]:
            await self._chain.expire(case.demand_id)
        return False

    async def _deadline(self, case: Case) -> int:
        """Of the batch, as it is now: an answer to a demand moves it on."""
        record = await self._chain.batch(case.key, case.first)
        return case.deadline if record is None else max(case.deadline, record.deadline_clock)

    async def _commit(self, case: Case, now: Now) -> bool:
        assert case.evidence is not None
        assert case.salt is not None
        if not await self._chain.committed(case.evidence, case.salt):
            if (await self._chain.overturned(case.statement)).winner:
                return self._cases.change(case, Event.OVERTURNED_BY_OTHERS)
            bond = now.rules.parameters.challenge_bond
            await self._chain.check_funds(bond)
            await self._chain.commit(case.key, case.first, case.evidence, case.salt, bond)
        return await self._reveal(self._cases.store(case, Event.COMMITMENT_TAKEN, case.detail), now)

    async def _reveal(self, case: Case, _now: Now) -> bool:
        assert case.evidence is not None
        assert case.salt is not None
        if await self._chain.committed(case.evidence, case.salt):
            state = await self._chain.prove(case.evidence, case.salt)
            if state is None:
                return False
            if state is ChainState.REJECTED:
                return self._cases.change(case, Event.PROOF_FAILED, "the chain's referee does not convict")
        found = await self._chain.overturned(case.statement)
        if found.winner == self._chain.address:
            return self._cases.change(case, Event.PROOF_HELD, case.detail)
        if found.winner:
            return self._cases.change(case, Event.OVERTURNED_BY_OTHERS)
        return self._cases.change(case, Event.PROOF_FAILED, "the challenge lapsed, or was rejected")

    async def _collect(self, case: Case, _now: Now) -> bool:
        found = await self._chain.overturned(case.statement)
        if found.winner == self._chain.address and not found.paid and not await self._chain.reward(case.statement):
            return False
        return await self._judge(case)

    async def _judge(self, case: Case) -> bool:
        """Who won, once it is paid."""
        found = await self._chain.overturned(case.statement)
        if found.winner == self._chain.address and found.paid:
            return self._cases.change(case, Event.OVERTURNED_BY_US, f"{found.won} wei")
        if found.winner and found.winner != self._chain.address:
            return self._cases.change(case, Event.OVERTURNED_BY_OTHERS)
        return False


_ENDS: dict[tuple[State, Code], Event] = {
    (State.WITHHELD, Code.WINDOW_PASSED): Event.WINDOW_OVER,
    (State.WITHHELD, Code.BATCH_FINAL): Event.WINDOW_OVER,
    (State.WITHHELD, Code.DISPUTE_RESOLVED): Event.OVERTURNED_BY_OTHERS,
    (State.WITHHELD, Code.NOT_ENTITLED): Event.NOT_DEMANDABLE,
    (State.WITHHELD, Code.DEMAND_REFUSED): Event.NOT_DEMANDABLE,
    (State.PROVEN, Code.WINDOW_PASSED): Event.WINDOW_OVER,
    (State.PROVEN, Code.BATCH_FINAL): Event.WINDOW_OVER,
    (State.COMMITTED, Code.REVEAL_PASSED): Event.PROOF_FAILED,
    (State.COMMITTED, Code.NOT_ENTITLED): Event.PROOF_FAILED,
}
"""The chain's refusals that end a case; every other one passes."""
