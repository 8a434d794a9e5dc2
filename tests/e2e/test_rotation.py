"""A network whose validators are all replaced while it runs: headers are followed to the new set, and a pinned reader is told."""

import time

import pytest

from avow.chain.genesis import Genesis
from avow.errors import VerificationError
from avow.nodes.chain_client import ChainClient
from avow.nodes.headers import HeaderTrust
from avow.nodes.net import grow
from tests.consensus.cometbft.conftest import running

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.xdist_group("cometbft network"),
    pytest.mark.usefixtures("cometbft"),
]


async def test_all_validators_leave_and_the_chain_is_followed(tmp_path):
    async with running(tmp_path / "net", validators=2) as net:
        genesis = Genesis.from_bytes((net.home / "genesis.cbor").read_bytes())
        policy = await net.clients[0].trust()
        places = [await grow.add_node(net.home) for _ in range(2)]
        for place in places:
            net.clients.insert(net.count - 1, ChainClient(f"http://127.0.0.1:{place.rpc_port}"))
        height = await net.height(0)
        for index in (2, 3):
            await net.reach(index, height)
        for place in places:
            await grow.set_power(net.home, grow.validator_key(place), 10)
        for key, _ in genesis.validators:
            left = await grow.set_power(net.home, key, 0)
        await net.reach(3, left + 3)
        new = ChainClient(f"http://127.0.0.1:{places[1].rpc_port}")
        net.clients.append(new)
        block = await new.signed_block(left + 3)
        assert {item.public_key for item in block.validators} == {grow.validator_key(place) for place in places}
        with pytest.raises(VerificationError):
            policy.check_anchor(block, time.time_ns() // 10**6)
        trust = HeaderTrust(genesis.chain_id, policy)
        await trust.follow(await new.signed_block(1), new.signed_block, now_ns=time.time_ns())
        await trust.follow(block, new.signed_block, now_ns=time.time_ns())
        assert trust.height == left + 3
        # The old ones may go: they decide nothing any more.
        for index in (0, 1):
            await net.net._answer({"command": "stop", "validator": str(index)})
        await net.reach(3, left + 8)
