"""Follows the chain's optimistic statements, runs the chosen ones again, and challenges what its referee convicts.

Rules:
1. Blocks are read up to the one before the newest, so that each statement's beacon is there (sampling.py); what was chosen is in the
   journal before anything else happens.
2. What is not shown over HTTP is asked for again until the watcher's patience is over, and then demanded on chain. What the chain
   records as answered counts before anything that a node says elsewhere.
3. A proof is in the journal before its commitment is sent, and is revealed as soon as the commitment is in a block. Moves on chain never
   wait for runs.
4. Every change of a case goes to `on_change`, once it is durable.
5. What goes wrong with one case or one batch holds up no other: it is told, and tried again (faults.py).
"""

import asyncio
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from avow.chain.modules.challenges import evidence
from avow.errors import InputError
from avow.exact.claims import Withheld
from avow.exact.descent import Demand
from avow.nodes.chain_client import ChainUnavailable
from avow.nodes.openings import Shown
from avow.nodes.watcher.answers import Finding
from avow.nodes.watcher.check import check_shown, examine
from avow.nodes.watcher.errors import OpeningWrong, ProgramMissing
from avow.nodes.watcher.examination import Respondent, in_thread
from avow.nodes.watcher.faults import CRASHES, Faults, describe
from avow.nodes.watcher.gateways import Gateways, ShutOut
from avow.nodes.watcher.journal import Case, Journal
from avow.nodes.watcher.moves import Cases, Moves, Now, OnChange, now_ms
from avow.nodes.watcher.programs import Programs
from avow.nodes.watcher.sampling import is_chosen
from avow.nodes.watcher.settlements import Posted, Settlements
from avow.nodes.watcher.states import Event, State
from avow.receipt.audience import AudienceKind
from avow.receipt.encoding import decode
from avow.receipt.statement import TERMS_PAYER_OPENS, Private, private_hash

log = logging.getLogger(__name__)

POLL_S = 0.3
MAX_BLOCKS = 500
"""Read at once."""
AT_ONCE = 16
"""Checks that wait for openings and answers at once; one of them computes (examination.py)."""
UNREADABLE = 3
"""Attempts to read a batch, after which it is left alone."""
PATIENCE = 4
"""What is not shown over HTTP is demanded when one part in so many of the window is over, or MOST_PATIENCE_MS."""
MOST_PATIENCE_MS = 15_000


class Watcher:
    """Rules 1 to 5. `rate_ppm` None: the rate that the network posts. `run` until cancelled, or `drain` once."""

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
        self._faults = Faults(journal)
        self._cases = Cases(journal, self._told)
        self._moves = Moves(settlements, self._cases)
        self._checks: dict[bytes, asyncio.Task[bool]] = {}
        self._processor = threading.Lock()

    # --- Running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: reading and moving on one side, runs on the other (rule 3)."""
        try:
            await asyncio.gather(
                self._keep(b"reading and moving", self._read_and_move), self._keep(b"checking", self._check_some)
            )
        finally:
            await self._stop_checks()

    async def drain(self) -> None:
        """Read what there is, and work until every case has its result, or fails again and again by an error of the watcher."""
        try:
            while True:
                now = await self._look()
                await self._read(now)
                await self._move_all(now)
                left = [case for case in self._journal.open_cases() if not self._faults.is_hopeless(case.statement)]
                if not left and not self._checks and self._journal.height >= now.height - 1:
                    return
                self._start_checks(now)
                await self._checks_done()
        finally:
            await self._stop_checks()

    @property
    def own_errors(self) -> int:
        """Errors of the watcher itself since it started (faults.py)."""
        return self._faults.own

    async def _keep(self, what: bytes, action: Callable[[], Awaitable[bool]]) -> None:
        """Do it again and again, whatever goes wrong (rule 5)."""
        while True:
            try:
                busy = await action()
            except Exception as error:  # noqa: BLE001 - told and counted there
                pause_s = max(self._faults.failed(what, error, what.decode()), POLL_S)
            else:
                self._faults.over(what)
                pause_s = 0.0 if busy else POLL_S
            await asyncio.sleep(pause_s)

    async def _read_and_move(self) -> bool:
        now = await self._look()
        more = await self._read(now)
        await self._move_all(now)
        return more

    async def _move_all(self, now: Now) -> None:
        for case in self._journal.open_cases():
            if case.state is not State.CHOSEN and self._faults.is_due(case.statement):
                await self._tried(case, self._moves.move, now)

    async def _check_some(self) -> bool:
        """Whether there is more to be checked at once."""
        if self._waiting():
            self._start_checks(await self._look())
        await self._checks_done()
        return bool(self._checks)

    def _waiting(self) -> list[Case]:
        """What is to be checked and is not being checked: first what did not fail, the most pressing first."""
        found = [
            case
            for case in self._journal.open_cases()
            if case.state is State.CHOSEN and case.statement not in self._checks and self._faults.is_due(case.statement)
        ]
        return sorted(found, key=lambda case: self._faults.count(case.statement))

    def _start_checks(self, now: Now) -> None:
        for case in self._waiting()[: AT_ONCE - len(self._checks)]:
            self._checks[case.statement] = asyncio.create_task(self._tried(case, self._check, now))

    async def _checks_done(self) -> None:
        """Wait a while for a check to end, if there is one. Raises ChainUnavailable."""
        if not self._checks:
            await asyncio.sleep(POLL_S)
            return
        await asyncio.wait(self._checks.values(), timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        ended = [statement for statement, task in self._checks.items() if task.done()]
        came_further = [self._checks.pop(statement).result() for statement in ended]
        if ended and not any(came_further):
            await asyncio.sleep(POLL_S)

    async def _stop_checks(self) -> None:
        for task in self._checks.values():
            task.cancel()
        await asyncio.gather(*self._checks.values(), return_exceptions=True)
        self._checks.clear()

    async def _tried(self, case: Case, action: Callable[[Case, Now], Awaitable[bool]], now: Now) -> bool:
        """Whether the case came further. Rule 5; a chain that is away is no one case's matter."""
        try:
            done = await action(case, now)
        except ChainUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - told and counted there
            self._faults.failed(case.statement, error, case.statement.hex())
            return False
        if done:
            self._faults.over(case.statement)
        return done

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
                chosen += await self._chosen(posted, rate)
        self._journal.record_blocks(last, seen, chosen)
        for case in chosen:
            self._on_change(case)
        return last < now.height - 1

    async def _chosen(self, posted: Posted, rate_ppm: int) -> list[Case]:
        """As `_choose`. A batch that cannot be read holds the others up UNREADABLE times, and is left alone then (rule 5)."""
        subject = b"batch %s %d" % (posted.key.hex().encode(), posted.first)
        failure = ""
        for _ in range(UNREADABLE):
            try:
                return await self._choose(posted, rate_ppm)
            except ChainUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - told and counted there
                pause_s = self._faults.failed(subject, error, subject.decode())
                failure = describe(error)
            await asyncio.sleep(pause_s)
        log.error("%s is left unread: %s", subject.decode(), failure)
        self._journal.record_fault(subject, f"left unread: {failure}", now_ms())
        return []

    async def _choose(self, posted: Posted, rate_ppm: int) -> list[Case]:
        beacon = await self._chain.beacon(posted.height + 1)
        at_ms = now_ms()
        return [
            Case(hashed, posted.key, posted.first, posted.height, item, posted.deadline, State.CHOSEN, at_ms, at_ms)
            for item in await self._chain.statements(posted)
            if is_chosen(beacon, hashed := item.hash(), rate_ppm)
        ]

    # --- Checking ---------------------------------------------------------------------------------------------------

    async def _check(self, case: Case, now: Now) -> bool:
        """Whether the case came further."""
        if now.rules.clock > case.deadline and not await self._extended(case, now):
            fault = self._journal.fault(case.statement)
            if fault is not None:
                return self._change(case, Event.OWN_ERROR, fault.detail)
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
            if finding is None:
                return self._change(case, Event.OWN_ERROR, "the process ended whenever this was checked")
        except ProgramMissing as error:
            log.warning("%s: %s. %s", case.columns.program.hex(), error.detail, error.hint)
            return self._change(case, Event.NO_PROGRAM, error.detail)
        except Withheld as error:
            return self._not_shown(case, error.demand, answers, now, error.detail)
        return self._found(case, finding)

    async def _examine(self, case: Case, shown: Shown, answers: dict[bytes, bytes]) -> Finding | None:
        """None: the process ended in the middle of this again and again (faults.py, rule 3)."""
        if self._journal.begin(case.statement) >= CRASHES:
            return None
        ask = partial(self._gateways.demand, case.statement)
        respondent = Respondent(asyncio.get_running_loop(), ask, answers, self._processor)

        def work() -> Finding:
            with self._processor:
                return examine(self._programs.get(case.columns.program), shown, case.columns.trace, respondent)

        try:
            return await in_thread(work)
        finally:
            self._journal.end(case.statement)

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
        if now.rules.clock < case.deadline - window // 2 and now_ms() < case.since_ms + patience:
            return False
        return self._change(replace(case, demand=encoded), Event.NOTHING_SHOWN, detail)

    async def _extended(self, case: Case, now: Now) -> bool:
        """Whether the batch's deadline moved on: an answer to a demand gives time to use it."""
        record = await self._chain.batch(case.key, case.first)
        return record is not None and record.deadline_clock >= now.rules.clock

    def _told(self, case: Case) -> None:
        self._on_change(case)

    def _change(self, case: Case, event: Event, detail: str = "") -> bool:
        self._cases.change(case, event, detail)
        return True
