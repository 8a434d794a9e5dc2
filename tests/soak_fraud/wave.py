"""One wave: lies and honest answers of one program under one key, then a watcher, and what it came to.

Rules:
1. All is settled before the watcher begins: the key of an overturned statement settles nothing more. `live` waves have one lie, and a watcher
   that runs from the beginning.
2. Of each lie: the watcher's own transaction proved it, at the leaf that the plan says, to the chain, which took exactly the statement's share
   of the bond and gave half of it to the watcher; the statement's receipt, fetched anew, says `overturned`, and `avow verify` fails it.
3. Of each honest answer: the watcher agrees, nobody challenges it, its receipt holds.
4. Bonds and balances are accounted for to the last wei.
"""

import asyncio
import contextlib
import io
import time
from dataclasses import asdict, dataclass, field

from avow.chain.modules import optimistic
from avow.chain.modules.life import State as ChainState
from avow.cli import main
from avow.errors import AvowError
from avow.nodes.watcher.states import State
from tests.soak_fraud.engines import text_of
from tests.soak_fraud.network import Failed, until

AT_ONCE = 3
FLOOD_AT_ONCE = 8
HONEST_EVERY = 4
READY_S = 600.0
SETTLE_S = 600.0
CASE_S = 30.0
END_S = 60.0


@dataclass
class Outcome:
    """Of one lie. `problems` is empty if it was caught as it has to be."""

    case: object
    statement: str
    slot: int = -1
    index: int = -1
    fault: str = ""
    proof_bytes: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def as_json(self):
        case = self.case
        return {
            "model": case.model, "kind": case.kind, "operator": case.lie.operator, "place": case.place, "step": case.lie.step,
            "at": case.at, "goes_on": case.lie.goes_on, "expected_slot": case.slot, **{
                name: value for name, value in asdict(self).items() if name != "case"
            },
        }  # fmt: skip


@dataclass
class Wave:
    """What a wave came to. `problems`: of the whole; `honest`: answers that nobody challenged."""

    outcomes: list[Outcome]
    honest: int
    seconds: float
    problems: list[str]


class _Asked:
    """Answers of a wave: (case or None, the SDK's answer)."""

    def __init__(self, network, model):
        self._network, self._model = network, model
        self.name = model.name
        self.answers = []

    @staticmethod
    def honest_of(cases):
        """How many honest answers `all` puts between these lies."""
        return len(range(0, len(cases), HONEST_EVERY)) + 1

    async def ask(self, client, case, number):
        said = "" if case is None else text_of(case.lie)
        body = self._model.body(number, said)
        if self._model.chats:
            answer = await client.chat(body.pop("messages"), model=self._model.name, **body)
        else:
            answer = await client.infer(self._model.name, body.pop("inputs"), **body)
        self.answers.append((case, answer))
        return answer

    async def first(self, client):
        """An honest answer, as soon as the node gives any."""
        end = time.monotonic() + READY_S
        while True:
            try:
                return await self.ask(client, None, 0)
            except AvowError as error:
                if time.monotonic() > end:
                    raise Failed(f"the node does not answer: {error.detail}") from error
                self._network.check_alive()
                await asyncio.sleep(0.3)

    async def all(self, client, cases, tick):
        """Honest ones between the lies."""
        wanted = []
        for at, case in enumerate(cases):
            if at % HONEST_EVERY == 0:
                wanted.append((None, at))
            wanted.append((case, case.number))
        wanted.append((None, len(cases)))
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(case, number):
            async with slots:
                await self.ask(client, case, number)
                tick()

        async with asyncio.TaskGroup() as group:
            for case, number in wanted:
                group.create_task(one(case, number))


async def wave(network, model, program, cases, progress, *, live=False):
    """Runs one; `progress(done, total, label)`."""
    began = time.monotonic()
    await network.serve(program)
    asked = _Asked(network, model)
    done = 0

    def tick():
        nonlocal done
        done += 1
        progress(done, 2 * (len(cases) + asked.honest_of(cases)) + 1, f"{model.name}: asked")

    async with network.client() as client:
        await asked.first(client)
        since = (await network.chain.status())["height"] + 1
        bond, _ = await network.bond()
        balance = await network.chain.balance(network.watcher)
        if live:
            await network.watch()
        asked_at = time.monotonic()
        await asked.all(client, cases, tick)
        for _, answer in asked.answers:
            await answer.receipt.settled(SETTLE_S)
        if not live:
            await network.watch()
        lies = {answer.receipt.id: case for case, answer in asked.answers if case is not None}
        seen = await _await_watcher(network, asked, lies, asked_at, progress)
        status = await network.unwatch()
        problems = [] if status == 0 else [f"the watcher ended with status {status}"]
        outcomes = await _judge(network, asked, lies, seen, since, problems)
        await _account(network, asked, lies, since, bond, balance, problems)
        _receipts(network, asked, lies, outcomes, problems)
    return Wave(list(outcomes.values()), len(asked.answers) - len(lies), time.monotonic() - began, problems)


async def flood(network, model, program, count, progress):
    """`count` honest answers while a watcher checks every one: none is challenged, nothing is lost and nothing spent."""
    began = time.monotonic()
    await network.serve(program)
    asked = _Asked(network, model)
    async with network.client() as client:
        await asked.first(client)
        since = (await network.chain.status())["height"] + 1
        bond, _ = await network.bond()
        await network.watch()
        waiting = iter(range(1, count))

        async def caller():
            for number in waiting:
                await asked.ask(client, None, number)
                progress(len(asked.answers), 2 * count, f"{model.name}: honest, asked")

        async with asyncio.TaskGroup() as group:
            for _ in range(FLOOD_AT_ONCE):
                group.create_task(caller())
        await _await_watcher(network, asked, {}, began, progress)
        status = await network.unwatch()
    problems = [] if status == 0 else [f"the watcher ended with status {status}"]
    wrong = [answer.receipt.id for _, answer in asked.answers if network.state_of(answer.receipt.id) != State.AGREED]
    problems += [
        f"the honest statement {statement[:16]} is {network.state_of(statement) or 'not seen'}"
        for statement in wrong[:9]
    ]
    for event in ("Challenged", "Overturned", "Demanded"):
        if await network.chain.logs(optimistic.ADDRESS, event, since):
            problems.append(f"an honest statement is {event.lower()}")
    if (await network.bond())[0] != bond or (await network.spent(network.watcher, since))[1]:
        problems.append("the bond changed, or the watcher sent a transaction")
    return Wave([], len(asked.answers) - len(wrong), time.monotonic() - began, problems)


async def _await_watcher(network, asked, lies, asked_at, progress):
    """Until the watcher has a result for every answer; seconds from asking to the conviction of each lie."""
    seen = {}
    results = {State.WON, State.AGREED}

    async def over():
        network.check_alive()
        for statement in lies:
            states = {said["state"] for said in network.changes.get(statement, ())}
            if statement not in seen and State.UPHELD in states:
                seen[statement] = time.monotonic() - asked_at
        count = len(asked.answers) - 1
        checked = sum(network.state_of(answer.receipt.id) in results for _, answer in asked.answers)
        progress(count + checked, 2 * count + 1, f"{asked.name}: checked")
        return checked == len(asked.answers)

    with contextlib.suppress(Failed):  # what is missing is told case by case
        await until(over, END_S + CASE_S * len(asked.answers), "the watcher's end")
    network.check_alive()
    return seen


async def _judge(network, asked, lies, seen, since, problems):
    """Rules 2 and 3 but for receipts."""
    convictions = await network.convictions(since)
    outcomes = {}
    for _, answer in asked.answers:
        statement = answer.receipt.id
        case, state = lies.get(statement), network.state_of(statement)
        found = convictions.pop(bytes.fromhex(statement), None)
        if case is None:
            if state != State.AGREED or found is not None:
                problems.append(f"the honest statement {statement[:16]} is {state or 'not seen'}")
            continue
        outcome = outcomes[statement] = Outcome(case, statement, seconds=round(seen.get(statement, 0.0), 2))
        if found is None:
            detail = network.changes[statement][-1]["detail"] if state else ""
            outcome.problems.append(f"not overturned: the watcher says {state or 'nothing'} {detail}".strip())
            continue
        await _judge_one(network, answer, outcome, found, state)
    problems += [f"a statement of nobody is overturned: {statement.hex()[:16]}" for statement in convictions]
    challenges = len(await network.chain.logs(optimistic.ADDRESS, "Challenged", since))
    if challenges != len(lies):
        problems.append(f"{challenges} challenges for {len(lies)} lies")
    return outcomes


async def _judge_one(network, answer, outcome, found, state):
    problems = outcome.problems
    if not found.proof:  # the liar runs again for every question, and was too late with one that was put on chain
        outcome.fault = "withheld"
        if (state, found.winner) != (State.WON, network.watcher):
            problems.append(f"withheld, and the watcher says {state}, and {found.winner.hex()} won")
        return
    fault = found.fault
    outcome.slot, outcome.index, outcome.fault, outcome.proof_bytes = (
        fault.slot,
        fault.index,
        fault.kind,
        len(found.proof),
    )
    columns = answer.receipt.value.statement.columns
    share = network.rules.required_bond(columns.amount, columns.terms)
    wanted = {
        "the watcher's last word": (state, State.WON),
        "who proved it": (found.sender, network.watcher),
        "who won": (found.winner, network.watcher),
        "the leaf": (fault.slot, outcome.case.slot),
        "the kind": (fault.kind, outcome.case.fault),
        "what was slashed": (found.slashed, share),
        "its number": (found.number, columns.number),
    }
    shown = await network.chain.view(optimistic.ADDRESS, "statementOf", found.statement)
    wanted["its state"] = ((shown[0], shown[5], shown[6]), (ChainState.OVERTURNED, share // 2, True))
    for what, (is_now, should_be) in wanted.items():
        if is_now != should_be:
            problems.append(f"{what} is {is_now}, not {should_be}")


async def _account(network, asked, lies, since, bond, balance, problems):
    """Rule 4."""
    shares = {
        answer.receipt.id: network.rules.required_bond(answer.receipt.value.statement.columns.amount, 0)
        for _, answer in asked.answers
    }
    lost = sum(shares[statement] for statement in lies)
    after, _ = await network.bond()
    if bond - after != lost:
        problems.append(f"the bond fell by {bond - after}, not {lost}")
    fees, count = await network.spent(network.watcher, since)
    earned = await network.chain.balance(network.watcher) - balance + fees
    answered = len(
        await network.chain.logs(optimistic.ADDRESS, "Answered", since)
    )  # a slow node may have to be asked on chain
    won = sum(shares[statement] // 2 for statement in lies) - answered * network.rules.demand_bond
    if earned != won:
        problems.append(f"the watcher earned {earned} before the fees of its {count} transactions, not {won}")


def _receipts(network, asked, lies, outcomes, problems):
    """Rule 2's and 3's receipts, by the commands that their holders use."""
    reader = network.home / "reader"
    for _, answer in asked.answers:
        statement = answer.receipt.id
        answer.receipt.save()
        trouble = outcomes[statement].problems if statement in lies else problems
        status, said = command("receipts", "refresh", statement, "--url", network.gateway, "--home", reader)
        if statement in lies and (status != 1 or "overturned" not in said):
            trouble.append(f"`avow receipts refresh` ends with {status}: {said[:200]}")
        if statement not in lies and status != 0:
            trouble.append(f"the honest {statement[:16]} does not refresh: {said[:200]}")
        status, said = command("verify", reader / "receipts" / f"{statement}.json", "--home", reader)
        if statement in lies and (status != 1 or "overturned: a fault was proven" not in said):
            trouble.append(f"`avow verify` ends with {status}: {said[:200]}")
        if statement not in lies and status != 0:
            trouble.append(f"the honest {statement[:16]} does not verify: {said[:200]}")


def command(*arguments):
    """Exit status and output of `avow …`, in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            return stopped.code, said.getvalue()
    raise AssertionError("a command ends by exiting")
