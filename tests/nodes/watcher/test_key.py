"""Nodes that salt a run under another key than the statement's seed gives, and lie when they are asked for it; the watcher is a process."""

import asyncio

import pytest

from avow.chain.modules import keys, optimistic
from avow.chain.modules.life import State as ChainState
from avow.exact import descent
from avow.exact.committed import CommittedRun
from avow.exact.descent import Demand
from avow.exact.hashing import Header
from avow.receipt.encoding import encode
from avow.receipt.finality import OptimisticParameters
from tests.nodes.liars import Lie, OtherKeyEngine
from tests.nodes.optimistic import network_of
from tests.nodes.watcher.command import PATIENCE_S, watching

RULES = OptimisticParameters(window_ms=600_000, move_ms=8_000, reveal_blocks=1)
pytestmark = [
    pytest.mark.timeout(2_400),
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.xdist_group("network"),
]


async def overturned_for(network, receipt):
    """Why the chain overturned the statement."""
    async with network.client() as chain:
        state, _, _, cause, *_ = await chain.view(optimistic.ADDRESS, "statementOf", bytes.fromhex(receipt.id))
    assert state == ChainState.OVERTURNED
    return keys.RevocationCause(cause)


async def test_a_node_that_gives_another_key_than_it_committed_to_loses_its_share(tmp_path):
    """It answers with the seed's key, over HTTP and on chain: that is no answer, however right its values are."""
    async with network_of(tmp_path, rules=RULES, engine=OtherKeyEngine) as network:
        receipt = await network.settled(await network.ask(1))
        async with watching(network, "--once") as watch:
            await asyncio.wait_for(watch.ended(), PATIENCE_S)
            assert "Traceback" not in await watch.errors()
        assert watch.states == ["chosen", "withheld", "demanded", "won"]
        assert await overturned_for(network, receipt) is keys.RevocationCause.TRACE_WITHHELD


async def test_a_node_that_gives_its_key_on_chain_alone_is_convicted_from_there(tmp_path):
    """Over HTTP the key is a lie. On chain it is right, and a wrong value is found under it."""
    async with network_of(tmp_path, rules=RULES, engine=lambda engine: OtherKeyEngine(engine, [Lie(0, 4)])) as network:
        openings = network.inference.node.upkeep.openings

        async def honest_about_salts(row, demand):
            shown = openings._shown(row)
            engine, request, effective = openings._prepared(row, shown)
            run = engine.replay(request, effective, shown.seed, Header.parse(shown.header))
            return descent.answer_to(demand, CommittedRun(shown.header, run, engine.salts(shown.seed)))

        async def lying_over_http(statement_id, asker, data):
            demand = Demand.parse(data)
            row = openings._admit(statement_id, asker)
            if demand.asked == "key":
                return encode(bytes(32))
            return await honest_about_salts(row, demand)

        openings.answer_of, openings.answer = honest_about_salts, lying_over_http
        receipt = await network.settled(await network.ask(1))
        async with watching(network, "--once") as watch:
            assert await asyncio.wait_for(watch.ended(), PATIENCE_S) == 1
            assert "Traceback" not in await watch.errors()
        assert watch.states[:3] == ["chosen", "withheld", "demanded"]
        assert watch.states[-4:] == ["proven", "committed", "upheld", "won"]
        assert await overturned_for(network, receipt) is keys.RevocationCause.FRAUD
