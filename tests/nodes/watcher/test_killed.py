"""`kill -9` of a watcher before and after every transaction of a dispute: the next one ends the case within the window, and pays once.

The watcher speaks to the chain through a way that the test owns (`command.way_to`). Before a transaction: it is known to the watcher
alone. After: it is in a block, and the watcher never heard of it.
"""

import asyncio

import pytest

from avow.chain.modules import optimistic
from avow.nodes.errors import OpeningGone
from avow.nodes.watcher.journal import read_summary
from avow.receipt.finality import OptimisticParameters
from tests.nodes.optimistic import network_of, until
from tests.nodes.watcher.command import MARKS, PATIENCE_S, lying, watcher_home, watching, way_to

RULES = OptimisticParameters(window_ms=600_000, move_ms=300_000, reveal_blocks=1)
SILENCE = OptimisticParameters(window_ms=120_000, move_ms=8_000, reveal_blocks=1)
pytestmark = MARKS


async def killed_at(network, home, number, when):
    """A watcher is killed at its transaction of this number."""
    reached = asyncio.Event()

    async def stop(sent):
        if sent == number:
            reached.set()
        return sent >= number

    async with way_to(network.url, **{when: stop}) as way, watching(network, home=home, chain=way) as watch:
        waiting = asyncio.create_task(watch.ended())
        await asyncio.wait_for(_either(reached, waiting), PATIENCE_S)
        assert reached.is_set(), await watch.errors()
        if when == "after":  # in the pool: and in a block before the process ends
            await until(lambda: _included(network, number), PATIENCE_S)
        watch.kill()
        assert await waiting == -9
        return watch.states


async def _either(event, task):
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _included(network, number):
    """Whether the watcher's account made so many transactions."""
    async with network.client(network.watcher) as chain:
        made = await chain.rpc("eth_getTransactionCount", "0x" + chain.address.hex(), "latest")
        return int(made, 16) >= number


async def ends_it(network, home, identity):
    """The next watcher wins the case; it and the node are as if nothing had happened."""
    async with watching(network, "--once", home=home) as watch:
        await asyncio.wait_for(watch.ended(), PATIENCE_S)
        assert "Traceback" not in await watch.errors()
        states = watch.states
    summary = read_summary(home / "watcher" / "journal.db")
    assert summary.cases == {"won": 1}
    assert not summary.faults
    async with network.client(network.watcher) as chain:
        share = RULES.required_bond(network.answers[identity].statement.columns.amount, 0)
        *_, winner, won, paid = await chain.view(optimistic.ADDRESS, "statementOf", bytes.fromhex(identity))
        assert (winner, won, paid) == (chain.address, share // 2, True)
        assert (await chain.view(optimistic.ADDRESS, "bondOf", network.inference.node.operator))[2] == 0
    return states


STAGES = [(1, "before"), (1, "after"), (2, "before"), (2, "after")]
DEMAND_STAGES = [(1, "before"), (1, "after"), (2, "after")]


@pytest.mark.parametrize(
    ("number", "when"), STAGES, ids=["before-commit", "commit-unheard", "before-reveal", "reveal-unheard"]
)
async def test_a_challenge_is_ended_by_the_next_watcher(tmp_path, number, when):
    async with network_of(tmp_path, rules=RULES, engine=lying) as network:
        home = watcher_home(network)
        async with network.client(network.watcher) as chain:
            before = await chain.balance(chain.address)
        receipt = await network.settled(await network.ask(1))
        seen = await killed_at(network, home, number, when)
        assert seen[:2] == ["chosen", "proven"]
        assert ("committed" in seen) is (number > 1)
        states = await ends_it(network, home, receipt.id)
        assert states[-1] == "won"
        assert "chosen" not in states  # it was not begun anew
        async with network.client(network.watcher) as chain:  # one bond was left, and came back
            share = RULES.required_bond(receipt.statement.columns.amount, 0)
            gained = await chain.balance(chain.address) - before
            assert share // 2 - RULES.challenge_bond // 2 < gained < share // 2


@pytest.mark.parametrize(("number", "when"), DEMAND_STAGES, ids=["before-demand", "demand-unheard", "expiry-unheard"])
async def test_a_demand_is_ended_by_the_next_watcher(tmp_path, number, when):
    """The node shows nothing: the case is a demand, and then the end of its time."""
    async with network_of(tmp_path, rules=SILENCE) as network:
        openings = network.inference.node.upkeep.openings

        def gone(*_):
            raise OpeningGone("nothing is shown")

        async def silent(*_):
            raise OpeningGone("nothing is shown")

        openings.show, openings.answer_of = gone, silent
        home = watcher_home(network)
        receipt = await network.settled(await network.ask(1))
        seen = await killed_at(network, home, number, when)
        assert seen[:2] == ["chosen", "withheld"]
        await ends_it(network, home, receipt.id)


async def test_what_is_killed_in_the_middle_of_a_run_runs_again(tmp_path):
    async with network_of(tmp_path, rules=RULES, engine=lying) as network:
        home = watcher_home(network)
        receipt = await network.settled(await network.ask(1))
        async with watching(network, home=home) as watch:
            await watch.until_state("chosen")
            watch.kill()
            await watch.ended()
            assert watch.states[0] == "chosen"
        await ends_it(network, home, receipt.id)
