"""Nodes that cheat, on a running network with a watcher: caught, and it costs them; honest ones never."""

import asyncio
from dataclasses import replace
from math import prod

import pytest

import avow
from avow.chain.modules import optimistic
from avow.chain.modules.life import State as ChainState
from avow.nodes.errors import OpeningGone
from avow.nodes.watcher.states import State
from avow.receipt.finality import OptimisticParameters
from avow.receipt.report import CheckName
from avow.receipt.standing import KeyState
from avow.verification import verify
from tests.nodes.liars import Lie, LyingEngine
from tests.nodes.optimistic import network_of
from tests.nodes.watching import watcher_of

RULES = OptimisticParameters(window_ms=30_000, move_ms=1_000, reveal_blocks=1)
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("network")]


class Liars:
    """Engines of the nodes that were made; `lies` of the first is what it lies about from then on."""

    def __init__(self):
        self.made = []

    def __call__(self, engine):
        self.made.append(LyingEngine(engine))
        return self.made[-1]

    def lie(self, *lies):
        self.made[0].lies = list(lies)


@pytest.fixture
async def cheated(tmp_path):
    liars = Liars()
    async with network_of(tmp_path, engine=liars, rules=RULES) as network:
        yield network, liars


def states(watcher):
    return [case.state for case in watcher.changes]


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_planted_value_costs_the_bond_the_key_and_the_fee(cheated, goes_on):
    network, liars = cheated
    operator = network.inference.node.operator
    async with watcher_of(network) as watcher:
        chain = watcher.client
        honest = await network.settled(await network.ask(1))
        await watcher.drain()
        assert states(watcher)[-1] is State.AGREED
        before, balance = (
            (await chain.view(optimistic.ADDRESS, "bondOf", operator))[0],
            await chain.balance(chain.address),
        )
        liars.lie(Lie(0, len(network.program.operators) // 2, goes_on=goes_on))
        receipt = await network.settled(await network.ask(2))
        await watcher.drain()
        assert states(watcher)[-4:] == [State.PROVEN, State.COMMITTED, State.UPHELD, State.WON]
        share = RULES.required_bond(receipt.statement.columns.amount, 0)
        amount, locked, _ = await chain.view(optimistic.ADDRESS, "bondOf", operator)
        assert before - amount == share
        earned = await chain.balance(chain.address) - balance
        assert share // 4 < earned < share // 2  # half, but for the fees of two transactions
        state, _, _, _, winner, won, paid = await chain.view(
            optimistic.ADDRESS, "statementOf", bytes.fromhex(receipt.id)
        )
        assert (state, winner, won, paid) == (ChainState.OVERTURNED, chain.address, share // 2, True)
        assert (await chain.key_record(receipt.statement.private.key)).state is KeyState.REVOKED
        shown = await network.receipt(receipt.id, is_overturned)
        report = verify(shown, await chain.trust())
        assert next(check for check in report.checks if check.name is CheckName.FINALITY).code == "overturned"
        assert not report.ok
        assert not is_overturned(await network.receipt(honest.id, lambda found: found.settlement.finality is not None))


def is_overturned(receipt):
    finality = None if receipt.settlement is None else receipt.settlement.finality
    if finality is None:
        return False
    record = finality.check_membership(receipt.statement.private.key)
    return receipt.statement.columns.number in record.overturned


async def test_a_node_that_shows_nothing_loses_its_share_to_a_demand(cheated):
    network, _ = cheated
    openings = network.inference.node.upkeep.openings
    async with watcher_of(network) as watcher:
        receipt = await network.settled(await network.ask(1))

        def gone(*_):
            raise OpeningGone("nothing is shown")

        async def silent(*_):
            raise OpeningGone("nothing is shown")

        openings.show, openings.answer_of = gone, silent
        await asyncio.wait_for(watcher.drain(), 60)
        assert states(watcher)[-3:] == [State.WITHHELD, State.DEMANDED, State.WON]
        state, *_, paid = await watcher.client.view(optimistic.ADDRESS, "statementOf", bytes.fromhex(receipt.id))
        assert (state, paid) == (ChainState.OVERTURNED, True)


async def test_a_cheat_who_answers_on_chain_alone_is_convicted_from_there(cheated):
    """Over HTTP the opening is shown, and nothing of the trace: what is needed is demanded on chain, piece by piece."""
    network, liars = cheated
    openings = network.inference.node.upkeep.openings

    async def silent(*_):
        raise OpeningGone("ask me on chain")

    openings.answer = silent
    liars.lie(Lie(0, 4))
    async with watcher_of(network) as watcher:
        await network.settled(await network.ask(1))
        await asyncio.wait_for(watcher.drain(), 100)
        assert states(watcher)[-1] is State.WON
        assert states(watcher).count(State.DEMANDED) >= 2


async def test_a_watcher_that_is_killed_goes_on_where_it_was(cheated, tmp_path):
    """Between every two moves: another process takes up the journal and ends the case."""
    network, liars = cheated
    liars.lie(Lie(0, 5))
    await network.settled(await network.ask(1))
    seen = []
    for stop_at in (State.CHOSEN, State.PROVEN, State.COMMITTED, State.UPHELD):
        async with watcher_of(network) as watcher:
            reached = asyncio.Event()
            watcher._on_change = lambda case, stop_at=stop_at, reached=reached: (
                seen.append(case.state),
                reached.set() if case.state is stop_at else None,
            )
            running = asyncio.create_task(watcher.run())
            waiting = asyncio.create_task(reached.wait())
            await asyncio.wait({running, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            for task in (running, waiting):
                task.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
    async with watcher_of(network) as watcher:
        await asyncio.wait_for(watcher.drain(), 60)
        assert watcher.journal.counts() == {State.WON: 1}


async def test_of_two_watchers_one_wins_and_the_other_loses_nothing(cheated, tmp_path):
    network, liars = cheated
    liars.lie(Lie(0, 3))
    await network.settled(await network.ask(1, avow_audience="public"))
    async with (
        watcher_of(network) as first,
        watcher_of(network, key=network.governance, journal=tmp_path / "other.db") as second,
    ):
        balance = await second.client.balance(second.client.address)
        await asyncio.wait_for(asyncio.gather(first.drain(), second.drain()), 100)
        ends = {states(first)[-1], states(second)[-1]}
        assert ends == {State.WON, State.BEATEN}
        loser = second if states(second)[-1] is State.BEATEN else first
        if loser is second:
            lost = balance - await second.client.balance(second.client.address)
            assert lost < RULES.challenge_bond // 2


async def test_what_is_not_for_watchers_is_left_alone_and_what_the_payer_alone_opens_is_told(cheated):
    network, liars = cheated
    async with watcher_of(network) as watcher:
        await network.settled(await network.ask(1, avow_audience="payer"))
        await watcher.drain()
        assert states(watcher)[-1] is State.NOT_LET
        liars.lie(Lie(0, 5))
        await network.settled(await network.ask(2, avow_opening="payer"))
        await watcher.drain()
        assert states(watcher)[-1] is State.FOR_PAYER
    async with watcher_of(network, key=network.payer, journal=network.home / "payer.db") as payer:
        await asyncio.wait_for(payer.drain(), 60)
        assert State.WON in payer.journal.counts()


async def test_other_answers_and_other_inputs_are_told_and_not_challenged(cheated):
    network, liars = cheated
    engine = liars.made[0]
    honest = engine._traced

    def other_answer(request, seed):
        answer, trace, tensors = honest(request, seed)
        answer["outputs"][0]["data"][0] += 1
        return answer, trace, tensors

    def other_inputs(request, seed):
        changed = {**request, "inputs": [{**tensor, "data": [0] * len(tensor["data"])} for tensor in request["inputs"]]}
        return honest(changed, seed)

    async with watcher_of(network) as watcher:
        for lie, state in ((other_answer, State.OTHER_ANSWER), (other_inputs, State.OTHER_INPUTS)):
            engine._traced = lie
            await network.settled(await network.ask(1))
            await watcher.drain()
            assert states(watcher)[-1] is state


async def test_a_machine_that_errs_does_not_challenge(cheated):
    """The watcher's own kernels give another value each time: it says that it is unsure."""
    network, _ = cheated
    async with watcher_of(network) as watcher:
        await network.settled(await network.ask(1))
        wrong = iter(range(1, 100))
        runnable = watcher._programs.get(network.program_id)
        engine = LyingEngine(runnable.engine)

        class Erring(LyingEngine):
            def _traced(self, request, seed):
                step = next(wrong)
                self.lies = [Lie(0, 4, change=step)]
                return super()._traced(request, seed)

        erring = Erring(engine._engine)
        loaded = replace(runnable.loaded, engine=erring)
        watcher._programs._loaded[network.program_id] = replace(runnable, engine=erring, loaded=loaded)
        await watcher.drain()
        assert states(watcher)[-1] in (State.UNSURE, State.AGREED)
        assert State.COMMITTED not in states(watcher)


async def test_the_sdk_asks_by_optimistic_and_waits_until_it_is_final(tmp_path):
    rules = OptimisticParameters(window_ms=1_500, move_ms=500)
    async with network_of(tmp_path, rules=rules) as network, network.client() as chain:
        trust = await chain.trust()
        inputs = [
            {"name": f"in{at}", "datatype": "FP32", "shape": [1, *item.shape], "data": [0] * size(item)}
            for at, item in enumerate(network.program.inputs)
        ]
        async with avow.AsyncClient(
            network.gateway, trust=trust, home=tmp_path / "reader", method="optimistic"
        ) as client:
            answer = await client.infer(network.name, inputs, audience="public")
            assert answer.receipt.value.statement.private.audience.kind == "public"
            assert not answer.receipt.is_final
            await answer.receipt.final(30)
            assert answer.receipt.is_final
            with pytest.raises(avow.errors.InputError):
                await client.infer(network.name, inputs, method="vanilla", audience="public")


def size(tensor):
    return prod(tensor.shape)
