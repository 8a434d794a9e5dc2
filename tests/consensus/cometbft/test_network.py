"""Validators under CometBFT, as processes on this machine."""

import asyncio
import itertools
import time
from hashlib import sha256
from pathlib import Path

import pytest

from avow.chain import abci
from avow.chain.application import Application
from avow.chain.genesis import Genesis
from avow.chain.modules import registry
from avow.chain.state import MemoryStore
from avow.consensus.cometbft.configuration import Folder
from avow.consensus.cometbft.process import end_stale
from avow.consensus.cometbft.rpc import CometRpc
from avow.errors import AvowError
from avow.nodes.chain_client import ChainClient
from avow.nodes.net import grow
from avow.receipt import light
from avow.receipt.encoding import decode, from_base64url
from avow.receipt.headers import SignedBlock
from tests.chain.harness import PROGRAM, account, secret
from tests.nodes import test_chain_client
from tests.patience import patient_s

pytestmark = [
    pytest.mark.timeout(1_200),
    pytest.mark.network,
    pytest.mark.xdist_group("cometbft network"),
    pytest.mark.usefixtures("cometbft"),
]


async def transfer(client, number: int) -> int:
    """A transfer that is in a block; its height."""
    to = sha256(number.to_bytes(4)).digest()[:20]
    from avow.chain.transaction import sign_transaction

    network = await client.network()
    nonce = int(await client.rpc("eth_getTransactionCount", "0x" + client.address.hex(), "pending"), 16)
    tx = sign_transaction(
        secret("payer"), chain_id=network.eip155, nonce=nonce, to=to, value=1, gas_limit=50_000, max_fee=2 * 10**9
    )
    digest = await client.rpc("eth_sendRawTransaction", "0x" + tx.hex())
    receipt, until = None, time.monotonic() + patient_s(30)
    while receipt is None and time.monotonic() < until:
        receipt = await client.rpc("avow_waitForTransaction", digest, 10_000, extra_s=10)
    assert receipt is not None and receipt["status"] == "0x1"
    return int(receipt["blockNumber"], 16)


async def test_four_validators_agree_lose_one_and_agree_again(network):
    async with network() as net:
        genesis = Genesis.from_bytes((net.home / "genesis.cbor").read_bytes())
        assert len(genesis.validators) == 4
        payer = net.client(0, secret("payer"))
        height = max([await transfer(payer, number) for number in range(5)])
        for index in range(4):
            await net.reach(index, height + 1)
        assert len(await net.app_hashes(height)) == 1
        await check_signatures(net, genesis, height + 1)
        await check_replay(net, genesis, height)

        # One is killed, application first, as it would die by itself; three go on.
        pids = net.net.pids(net.net.layout.validators[3])
        await net.net._answer({"command": "stop", "validator": "validator3"})
        assert all(not alive(pid) for pid in pids.values())
        during = max([await transfer(payer, number) for number in range(10, 14)])
        await net.net._answer({"command": "start", "validator": "3"})
        started = time.monotonic()
        await net.reach(3, during, timeout_s=20)
        assert time.monotonic() - started < patient_s(20)
        assert len(await net.app_hashes(during)) == 1

        # Killed without warning, application and CometBFT each by itself: they come back.
        for process in ("chain", "cometbft", "both"):
            await net.net._answer({"command": "kill", "validator": "2", "process": process})
            at = await transfer(payer, int.from_bytes(process.encode()[:2]))
            await net.reach(2, at, timeout_s=30)
        assert len(await net.app_hashes(at)) == 1
        async with asyncio.timeout(patient_s(30)):
            while [item["state"] for item in await net.net.status()] != ["up"] * 4:
                await asyncio.sleep(0.5)
        assert (await net.net.status())[2]["restarts"] >= 2


def alive(pid: int | None) -> bool:
    return pid is not None and Path(f"/proc/{pid}/exe").exists()


async def check_signatures(net, genesis: Genesis, height: int) -> None:
    """What a receipt carries verifies with a set of four, on every validator; headers follow one another by the light client."""
    trust = await net.clients[1].rpc("avow_trust")
    assert trust["chain_id"] == genesis.chain_id
    assert len(trust["validators"]) == 4
    for client in net.clients[: net.count]:
        answer = decode(
            from_base64url(await client.rpc("avow_prove", "0x" + b"account/".hex() + account("payer").hex()))
        )
        block = SignedBlock.from_value(answer["block"])
        light.verify_commit(genesis.chain_id, block.validators, block.signed_header)
        assert {item.public_key for item in block.validators} == {key for key, _ in genesis.validators}
    rpc = CometRpc(f"tcp://127.0.0.1:{net.net.layout.validators[0].comet_rpc_port}")
    headers = await rpc.signed_headers(range(1, height + 1))
    validators = await rpc.validators(1)
    for header, commit in headers:
        light.verify_commit(genesis.chain_id, validators, light.SignedHeader(header, commit))
    await rpc.close()


async def check_replay(net, genesis: Genesis, height: int) -> None:
    """The network's own blocks, replayed without any engine, give the hashes that the network agreed on."""
    application = Application(MemoryStore(), genesis)
    application.init_chain(abci.InitChainRequest(genesis.time_ms * 10**6, genesis.chain_id, (), genesis.to_bytes()))
    rpc = CometRpc(f"tcp://127.0.0.1:{net.net.layout.validators[0].comet_rpc_port}")
    headers = [header for header, _ in await rpc.signed_headers(range(1, height + 2))]
    from base64 import b64decode

    for header, following in itertools.pairwise(headers):
        found = await rpc.call("block", height=str(header.height))
        txs = tuple(b64decode(tx) for tx in found["block"]["data"]["txs"] or ())
        response = application.finalize_block(
            abci.FinalizeBlockRequest(txs, header.hash, header.height, header.time_ns, header.proposer_address)
        )
        application.commit()
        assert response.app_hash == following.app_hash
        assert (
            light.last_results_hash([item.deterministic() for item in response.tx_results])
            == following.last_results_hash
        )
    await rpc.close()


async def test_two_of_four_down_halts_and_resumes_and_a_module_call_settles(network):
    async with network() as net:
        operator = net.client(0, secret("operator"))
        await operator.transact(registry.ADDRESS, "publish", "harness", PROGRAM)
        for index in (2, 3):
            await net.net._answer({"command": "stop", "validator": str(index)})
        height = await net.standstill(0)
        sent = asyncio.create_task(transfer(net.client(0, secret("payer")), 77))
        await asyncio.sleep(4.0)
        assert await net.height(0) <= height + 1
        assert not sent.done()  # taken into custody, in no block
        await net.net._answer({"command": "start", "validator": "2"})
        at = await asyncio.wait_for(sent, patient_s(60))
        await net.net._answer({"command": "start", "validator": "3"})
        for index in range(4):
            await net.reach(index, at)
        assert len(await net.app_hashes(at)) == 1


async def test_parted_validators_follow_when_they_are_joined(network):
    async with network(relay=True) as net:
        await net.net._answer({"command": "partition", "groups": [["validator3"]]})
        at = max([await transfer(net.client(0, secret("payer")), number) for number in range(3)])
        assert await net.height(3) < at
        await net.net._answer({"command": "heal"})
        await net.reach(3, at, timeout_s=60)
        assert len(await net.app_hashes(at)) == 1


async def test_one_validator_is_quiet_when_idle_and_a_stale_process_is_ended(network):
    async with network(validators=1) as net:
        await asyncio.sleep(1.0)
        height = await net.height(0)
        await asyncio.sleep(4.0)
        assert await net.height(0) - height <= 5  # a heartbeat of a second
        place = net.net.layout.validators[0]
        from avow.consensus.cometbft.binary import find

        pid = net.net.pids(place)["cometbft"]
        assert alive(pid)
        await end_stale(Folder(place.comet.path), find())  # as the next process would find it
        assert not alive(pid)
        await net.reach(0, height + 8)


async def test_control_refuses_what_it_does_not_know(network):
    async with network(validators=1) as net:
        for request in (
            {"command": "dance"},
            {"command": "kill", "validator": "0", "signal": "HUP"},
            {"command": "stop", "validator": "validator9"},
            {"command": "partition", "groups": [["0"]]},
        ):
            with pytest.raises(AvowError):
                await net.net._answer({"validator": "0"} | request)


async def test_a_node_joins_from_a_snapshot_gains_power_and_another_leaves(network):
    """The set of validators is replaced by half; headers follow by the light client, and the joiner has the same state."""
    async with network(snapshot_interval=5) as net:
        genesis = Genesis.from_bytes((net.home / "genesis.cbor").read_bytes())
        payer = net.client(0, secret("payer"))
        at = max([await transfer(payer, number) for number in range(6)])
        await net.reach(0, at + 6)  # a snapshot lies behind by now
        place = await grow.add_node(net.home, from_snapshot=True)
        net.clients.insert(net.count - 1, ChainClient(f"http://127.0.0.1:{place.rpc_port}"))
        await net.reach(4, at + 1, timeout_s=90)
        at = await transfer(payer, 20)
        await net.reach(4, at)
        status = await net.clients[4].rpc("avow_status")
        assert status["base"] > 1  # nothing before the snapshot was replayed
        assert len(await net.app_hashes(at)) == 1
        joined = await grow.set_power(net.home, grow.validator_key(place), 10)
        left = await grow.set_power(net.home, genesis.validators[3][0], 0)
        for index in (0, 4):
            await net.reach(index, left + 3)
        trust = await net.clients[4].rpc("avow_trust")
        keys = {item["public_key"] for item in trust["validators"]}
        assert len(keys) == 4
        rpc = CometRpc(f"tcp://127.0.0.1:{net.net.layout.validators[0].comet_rpc_port}")
        sets = {height: await rpc.validators(height) for height in (joined + 1, joined + 2, left + 2)}
        assert [len(found) for found in sets.values()] == [4, 5, 4]
        headers = await rpc.signed_headers(range(joined, left + 4))
        await rpc.close()
        for (before, _), (after, commit) in itertools.pairwise(headers):
            assert after.validators_hash == before.next_validators_hash
            found = await validators_of(net, after.height)
            light.verify_commit(genesis.chain_id, found, light.SignedHeader(after, commit))
        # The node that left follows on; the one that joined signs.
        at = await transfer(payer, 30)
        await net.reach(3, at)
        assert len(await net.app_hashes(at)) == 1


async def validators_of(net, height: int):
    rpc = CometRpc(f"tcp://127.0.0.1:{net.net.layout.validators[0].comet_rpc_port}")
    try:
        return await rpc.validators(height)
    finally:
        await rpc.close()


async def test_receipts_get_their_proofs_from_four_validators(network):
    """Standing, settlement and history, each accepted by the policy that pins the four; a node is left without anybody noticing."""
    async with network() as net:
        urls = [f"http://127.0.0.1:{place.rpc_port}" for place in net.net.layout.validators]
        operator = ChainClient(",".join(urls[2:]), secret("operator"))
        payer = net.client(1, secret("payer"))
        net.clients.append(operator)
        assert len((await operator.trust()).validators) == 4
        await test_chain_client.test_a_receipt_gets_both_of_its_proofs(operator, payer)
        await net.net._answer({"command": "stop", "validator": "2"})
        await test_chain_client.test_history_finds_the_batch_of_any_number(operator, payer)
        await test_chain_client.test_standing_under_load(operator, payer)


async def test_the_application_mempool_and_pruning(network):
    async with network(mempool_type="app", retain_blocks=30) as net:
        at = max([await transfer(net.client(number % 4, secret("payer")), number) for number in range(4)])
        for index in range(4):
            await net.reach(index, max(at + 1, 70))
            assert (await net.clients[index].rpc("avow_status"))["base"] > 1
        rpc = CometRpc(f"tcp://127.0.0.1:{net.net.layout.validators[0].comet_rpc_port}")
        assert int((await rpc.status())["sync_info"]["earliest_block_height"]) > 1
        await rpc.close()
