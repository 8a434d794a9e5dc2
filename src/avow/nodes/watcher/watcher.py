"""Follows the chain's optimistic statements, runs the chosen ones again, and challenges what its referee convicts.

Rules:
1. Blocks are read up to the one before the newest, so that each statement's beacon is there (sampling.py); what was chosen is in the
   journal before anything else happens.
2. What is not shown over HTTP is asked for again until the watcher's patience is over, and then demanded on chain. What the chain
   records as answered counts before anything that a node says elsewhere.
3. A proof is in the journal before its commitment is sent, and is revealed as soon as the commitment is in a block. Moves on chain never
   wait for runs.
4. Every change of a case goes to `on_change`, once it is durable.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from avow.chain.errors import Code, Refused
from avow.chain.modules.challenges import evidence
from avow.chain.modules.demands import build_demand
from avow.chain.modules.life import State as ChainState
from avow.errors import AvowError, InputError
from avow.exact.claims import Withheld
from avow.exact.descent import Demand
from avow.nodes.chain_client import ChainUnavailable, OptimisticRules
from avow.nodes.openings import Shown
from avow.nodes.watcher.check import Finding, check_shown, examine
from avow.nodes.watcher.errors import OpeningWrong, ProgramMissing
from avow.nodes.watcher.gateways import Gateways, ShutOut
from avow.nodes.watcher.journal import Case, Journal
from avow.nodes.watcher.programs import Programs
from avow.nodes.watcher.sampling import is_chosen
from avow.nodes.watcher.settlements import Posted, Settlements
from avow.nodes.watcher.states import Event, State
from avow.receipt.audience import AudienceKind
from avow.receipt.encoding import decode
from avow.receipt.statement import TERMS_PAYER_OPENS, Private, private_hash

log = logging.getLogger(__name__)

POLL_S = 0.3
LONGEST_RETRY_S = 5.0
MAX_BLOCKS = 500
"""Read at once."""
PATIENCE = 4
"""What is not shown over HTTP is demanded when one part in so many of the window is over, or MOST_PATIENCE_MS."""
MOST_PATIENCE_MS = 15_000

OnChange = Callable[[Case], None]


@dataclass(frozen=True, slots=True)
class Now:
    """One look at the chain: its rules, the window clock, its height."""

    rules: OptimisticRules
    height: int


class Watcher:
    """Rules 1 to 4. `rate_ppm` None: the rate that the network posts. `run` until cancelled, or `drain` once."""

    def __init__(
        self,
        settlements: Settlements,
        gateways: Gateways,
        programs: Programs,
        journal: Journal,
        *,
        rate_ppm: int | None = None,
        on_change: OnChange = lambda _case: None,
    ) -> None:
        self._chain = settlements
        self._gateways = gateways
        self._programs = programs
        self._journal = journal
        self._rate_ppm = rate_ppm
        self._on_change = on_change

    # --- Running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: reading and moving on one side, runs on the other (rule 3)."""
        await asyncio.gather(self._keep(self._read_and_move), self._keep(self._check_next))

    async def drain(self) -> None:
        """Read what there is, and work until every case has its result."""
        while True:
            now = await self._look()
            await self._read(now)
            for case in self._journal.open_cases():
                await self._tried(case, self._check if case.state is State.CHOSEN else self._move, now)
            if not self._journal.open_cases() and self._journal.height >= now.height - 1:
                return
            await asyncio.sleep(POLL_S)

    async def _keep(self, action: Callable[[], Awaitable[bool]]) -> None:
        """Do it again and again; what the chain or a node does not give is tried again with growing pauses."""
        pause_s = POLL_S
        while True:
            try:
                busy = await action()
                pause_s = 0.0 if busy else POLL_S
            except AvowError as error:
                pause_s = min(max(2 * pause_s, POLL_S), LONGEST_RETRY_S)
                log.warning("tried again in %.1f s: %s", pause_s, error.detail)
            await asyncio.sleep(pause_s)

    async def _read_and_move(self) -> bool:
        now = await self._look()
        more = await self._read(now)
        for case in self._journal.open_cases():
            if case.state is not State.CHOSEN:
                await self._tried(case, self._move, now)
        return more

    async def _check_next(self) -> bool:
        """Check the most pressing case that is not waiting for its node."""
        waiting = [case for case in self._journal.open_cases() if case.state is State.CHOSEN]
        if not waiting:
            return False
        now = await self._look()
        done = False
        for case in waiting:
            done = await self._tried(case, self._check, now) or done
        return done

    async def _tried(self, case: Case, action: Callable[[Case, Now], Awaitable[bool]], now: Now) -> bool:
        """Whether the case came further. What goes wrong with one holds up no other, but for a chain that is away."""
        try:
            return await action(case, now)
        except ChainUnavailable:
            raise
        except AvowError as error:
            log.warning("%s is tried again: %s", case.statement.hex(), error.detail)
            return False

    async def _look(self) -> Now:
        return Now(await self._chain.rules(), await self._chain.height())

    # --- Reading (rule 1) -------------------------------------------------------------------------------------------

    async def _read(self, now: Now) -> bool:
        """Whether there is more to be read at once."""
        first, last = self._journal.height + 1, now.height - 1
        if first > last:
            return False
        last = min(last, first + MAX_BLOCKS - 1)
        rate = now.rules.parameters.audit_ppm if self._rate_ppm is None else self._rate_ppm
        seen = 0
        chosen: list[Case] = []
        for posted in await self._chain.posted(first, last):
            seen += posted.count
            if posted.deadline >= now.rules.clock:  # what is over cannot be challenged
                chosen += await self._choose(posted, rate)
        self._journal.record_blocks(last, seen, chosen)
        for case in chosen:
            self._on_change(case)
        return last < now.height - 1

    async def _choose(self, posted: Posted, rate_ppm: int) -> list[Case]:
        beacon = await self._chain.beacon(posted.height + 1)
        now_ms = _now_ms()
        return [
            Case(hashed, posted.key, posted.first, posted.height, item, posted.deadline, State.CHOSEN, now_ms, now_ms)
            for item in await self._chain.statements(posted)
            if is_chosen(beacon, hashed := item.hash(), rate_ppm)
        ]

    # --- Checking ---------------------------------------------------------------------------------------------------

    async def _check(self, case: Case, now: Now) -> bool:
        """Whether the case came further."""
        if now.rules.clock > case.deadline and not await self._extended(case, now):
            return self._change(case, Event.WINDOW_OVER, "the window was over before it could be checked")
        record = await self._chain.batch(case.key, case.first)
        if record is None:
            return False
        if case.columns.number in record.overturned:
            return self._change(case, Event.OVERTURNED_BY_OTHERS)
        case.located.check(record, case.first)
        answers = self._journal.answers(case.statement)
        shown = await self._gateways.opening(case.statement)
        if isinstance(shown, ShutOut) and self._is_shut_out(case, shown.private, now):
            return self._change(case, Event.SHUT_OUT, "its audience leaves the network's watchers out")
        try:
            if not isinstance(shown, Shown):
                raise Withheld(Demand())
            check_shown(shown, case.columns.pack(), case.located.private)
        except (OpeningWrong, Withheld) as error:
            return self._not_shown(case, Demand(), answers, now, error.detail)
        case = replace(case, private=shown.private)
        try:
            finding = await self._examine(case, shown, answers)
        except ProgramMissing as error:
            log.warning("%s: %s. %s", case.columns.program.hex(), error.detail, error.hint)
            return self._change(case, Event.NO_PROGRAM, error.detail)
        except Withheld as error:
            return self._not_shown(case, error.demand, answers, now, error.detail)
        return self._found(case, finding)

    async def _examine(self, case: Case, shown: Shown, answers: dict[bytes, bytes]) -> Finding:
        loop = asyncio.get_running_loop()
        respondent = _Respondent(loop, self._gateways, case.statement, answers)

        def work() -> Finding:
            return examine(self._programs.get(case.columns.program), shown, case.columns.trace, respondent)

        return await asyncio.to_thread(work)

    def _found(self, case: Case, finding: Finding) -> bool:
        event = finding.event
        if event is Event.FAULT_SHOWN:
            shown = evidence(case.located, finding.fault)
            case = replace(case, evidence=shown, salt=secrets.token_bytes(32))
            columns = case.columns
            if columns.terms & TERMS_PAYER_OPENS and columns.payer != self._chain.address:
                event = Event.FAULT_FOR_PAYER
        return self._change(case, event, finding.detail)

    def _is_shut_out(self, case: Case, private: bytes, now: Now) -> bool:
        """Whether the statement itself says that this watcher is not one of its audience."""
        if private_hash(private) != case.located.private:
            return False
        try:
            audience = Private.from_value(decode(private)).audience
        except InputError:
            return False
        if audience is None or audience.kind is AudienceKind.PUBLIC:
            return False
        appointed = now.rules.parameters.watchers
        return not audience.admits(self._chain.address, payer=case.columns.payer, appointed=appointed)

    def _not_shown(self, case: Case, demand: Demand, answers: dict[bytes, bytes], now: Now, detail: str) -> bool:
        """Rule 2."""
        encoded = demand.encoded()
        if encoded in answers:  # the chain forced out what it can; the rest is not the chain's to force
            if now.rules.clock <= case.deadline:
                return False
            return self._change(case, Event.NOT_DEMANDABLE, detail)
        window = now.rules.parameters.window_ms
        patience = min(window // PATIENCE, MOST_PATIENCE_MS)
        if now.rules.clock < case.deadline - window // 2 and _now_ms() < case.since_ms + patience:
            return False
        return self._change(replace(case, demand=encoded), Event.NOTHING_SHOWN, detail)

    async def _extended(self, case: Case, now: Now) -> bool:
        """Whether the batch's deadline moved on: an answer to a demand gives time to use it."""
        record = await self._chain.batch(case.key, case.first)
        return record is not None and record.deadline_clock >= now.rules.clock

    # --- Moving -----------------------------------------------------------------------------------------------------

    async def _move(self, case: Case, now: Now) -> bool:
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
        except Refused as refused:
            event = _ENDS.get((case.state, refused.reason))
            if event is None:
                log.warning("the chain refuses a move of %s: code %d", case.statement.hex(), refused.reason)
                return False
            return self._change(case, event, f"the chain refuses with code {int(refused.reason)}")

    async def _pose(self, case: Case, now: Now) -> bool:
        assert case.demand is not None
        posed = await self._chain.posed(case.key, case.statement, case.demand, case.height)
        if posed is None:
            data = build_demand(case.key, case.first, case.located, case.demand, case.private)
            await self._chain.demand(data, now.rules.parameters.demand_bond)
            posed = await self._chain.posed(case.key, case.statement, case.demand, case.height)
        if posed is None:
            return False
        return self._change(replace(case, demand_id=posed), Event.DEMAND_POSED, Demand.parse(case.demand).asked)

    async def _await_answer(self, case: Case, now: Now) -> bool:
        assert case.demand is not None
        assert case.demand_id is not None
        given = await self._chain.answer(case.key, case.demand_id, case.height)
        if given is not None:
            self._journal.record_answer(case.statement, case.demand, given)
            record = await self._chain.batch(case.key, case.first)
            deadline = case.deadline if record is None else max(case.deadline, record.deadline_clock)
            return self._change(replace(case, demand_id=None, deadline=deadline), Event.ANSWER_GIVEN)
        last = await self._chain.last_answer(case.demand_id)
        if last is None:
            return await self._judge(case)
        if now.height >= last[0] and now.rules.clock > last[1]:
            await self._chain.expire(case.demand_id)
        return False

    async def _commit(self, case: Case, now: Now) -> bool:
        assert case.evidence is not None
        assert case.salt is not None
        if not await self._chain.committed(case.evidence, case.salt):
            if (await self._chain.overturned(case.statement)).winner:
                return self._change(case, Event.OVERTURNED_BY_OTHERS)
            bond = now.rules.parameters.challenge_bond
            await self._chain.commit(case.key, case.first, case.evidence, case.salt, bond)
        return await self._reveal(self._store(case, Event.COMMITMENT_TAKEN, case.detail), now)

    async def _reveal(self, case: Case, _now: Now) -> bool:
        assert case.evidence is not None
        assert case.salt is not None
        if await self._chain.committed(case.evidence, case.salt):
            state = await self._chain.prove(case.evidence, case.salt)
            if state is None:
                return False
            if state is ChainState.REJECTED:
                return self._change(case, Event.PROOF_FAILED, "the chain's referee does not convict")
        found = await self._chain.overturned(case.statement)
        if found.winner == self._chain.address:
            return self._change(case, Event.PROOF_HELD, case.detail)
        if found.winner:
            return self._change(case, Event.OVERTURNED_BY_OTHERS)
        return self._change(case, Event.PROOF_FAILED, "the challenge lapsed, or was rejected")

    async def _collect(self, case: Case, _now: Now) -> bool:
        found = await self._chain.overturned(case.statement)
        if found.winner == self._chain.address and not found.paid and not await self._chain.reward(case.statement):
            return False
        return await self._judge(case)

    async def _judge(self, case: Case) -> bool:
        """Who won, once it is paid."""
        found = await self._chain.overturned(case.statement)
        if found.winner == self._chain.address and found.paid:
            return self._change(case, Event.OVERTURNED_BY_US, f"{found.won} wei")
        if found.winner and found.winner != self._chain.address:
            return self._change(case, Event.OVERTURNED_BY_OTHERS)
        return False

    # --- Keeping ----------------------------------------------------------------------------------------------------

    def _change(self, case: Case, event: Event, detail: str = "") -> bool:
        self._store(case, event, detail)
        return True

    def _store(self, case: Case, event: Event, detail: str) -> Case:
        """Rule 4."""
        after = case.after(event, _now_ms(), detail)
        self._journal.store(after)
        self._on_change(after)
        return after


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


class _Respondent:
    """Demands of one examination, from the worker's thread: what the chain recorded first, then HTTP."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, gateways: Gateways, statement: bytes, answers: dict[bytes, bytes]
    ) -> None:
        self._loop = loop
        self._gateways = gateways
        self._statement = statement
        self._answers = answers

    def ask(self, demand: Demand) -> bytes | None:
        encoded = demand.encoded()
        found = self._answers.get(encoded)
        if found is not None:
            return found
        asked = self._gateways.demand(self._statement, encoded)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
