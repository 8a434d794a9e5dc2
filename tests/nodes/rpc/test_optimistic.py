"""Optimistic batches over JSON-RPC: what a watcher follows, and the proofs that a receipt carries."""

import asyncio
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from avow.chain.execution import MODULES
from avow.chain.modules import bank, nodes, optimistic, registry, settlement
from avow.chain.modules.batch import build_batch
from avow.methods.registration import registration_digest
from avow.nodes.chain_client import ChainClient, settlement_gas
from avow.nodes.full import FullNodeConfig, create_network, running_chain
from avow.receipt.finality import BatchState, BondProof, BondRecord, FinalityProof, OptimisticParameters, RecordMismatch
from avow.receipt.standing import KeyState
from avow.receipt.statement import Method
from tests.chain.harness import DECLARATION, ETHER, FAR_MS, NAMES, PROGRAM, NodeKey, account, cose, point, secret

RULES = OptimisticParameters(window_ms=1_500, move_ms=500, reveal_blocks=1, watchers=(account("watcher"),))


@pytest.fixture
async def running(tmp_path):
    accounts = [(account(name), 1_000 * ETHER) for name in NAMES]
    create_network(tmp_path, governance=account("governance"), accounts=accounts, heartbeat_ms=500, optimistic=RULES)
    async with running_chain(FullNodeConfig(tmp_path)) as chain:
        yield chain


@pytest.fixture
async def operator(running):
    async with ChainClient(running.url, secret("operator")) as client:
        yield client


@pytest.fixture
async def key(running, operator):
    network = await operator.network()
    private = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    made = NodeKey(network.chain_id, Method.OPTIMISTIC, "operator", *private, time.time_ns() // 1_000_000)
    block_hash, _, _ = await operator.beacon()
    points = [point(entry) for entry in private]
    digest = registration_digest(network.chain_id, operator.address, *points, block_hash)
    async with ChainClient(running.url, secret("payer")) as payer:
        await asyncio.gather(
            operator.transact(nodes.ADDRESS, "register", 1, *points, block_hash, cose(private[0], digest)),
            operator.transact(registry.ADDRESS, "publish", "test", PROGRAM),
            operator.transact(registry.ADDRESS, "declare", *DECLARATION),
            operator.transact(nodes.ADDRESS, "setPrice", PROGRAM, 1, 100),
            payer.transact(bank.ADDRESS, "allow", operator.address, ETHER, FAR_MS),
        )
    return made


async def settle(operator, key, count):
    made = [key.sign(trace=bytes([index]) * 32) for index in range(count)]
    data = build_batch(key.id, [(item.columns, item.private) for item in made], made[-1].signature)
    limit = settlement_gas(data, statements=count, payers=1, programs=1)
    await operator.transact(settlement.ADDRESS, "settle", data, gas_limit=limit)
    return made


async def test_finality_is_proven_while_open_and_when_final(operator, key):
    await operator.transact(optimistic.ADDRESS, "deposit", value=ETHER)
    await settle(operator, key, 2)
    await settle(operator, key, 3)
    policy = await operator.trust()
    for number, first in ((0, 0), (1, 0), (2, 2), (4, 2)):
        proof = await operator.finality(key.id, number)
        assert FinalityProof.from_value(proof.to_value()) == proof
        record = proof.check_membership(key.id)
        assert (proof.first, record.state, record.count) == (first, BatchState.OPEN, 2 if first == 0 else 3)
        policy.check_anchor(proof.block, time.time_ns() // 1_000_000)
        for other in (replace(proof, first=9), replace(proof, record=proof.record[:-1] + b"\x01")):
            with pytest.raises(RecordMismatch):
                other.check_membership(key.id)
    assert await operator.finality(key.id, 5) is None
    deadline = (await operator.finality(key.id, 4)).check_membership(key.id).deadline_clock
    while (await operator.rpc("avow_optimistic"))["clock"] <= deadline + 50:
        await asyncio.sleep(0.1)
    await operator.transact(optimistic.ADDRESS, "finalise", key.id, 2)
    record = (await operator.finality(key.id, 2)).check_membership(key.id)
    assert (record.state, record.held, record.locked) == (BatchState.FINAL, 0, 0)


async def test_standing_and_bond_are_under_one_header(operator, key):
    standing, bond = await operator.backing(key.id)
    block = standing.block.header
    assert standing.check_membership(key.id).state is KeyState.ACTIVE
    assert bond.check_membership(account("operator"), standing.history_root, block.app_hash) == BondRecord()
    assert bond.record is None
    await operator.transact(optimistic.ADDRESS, "deposit", value=ETHER)
    await settle(operator, key, 1)
    standing, bond = await operator.backing(key.id)
    found = bond.check_membership(account("operator"), standing.history_root, standing.block.header.app_hash)
    assert found == BondRecord(ETHER, RULES.required_bond(1_000, 0))
    assert BondProof.from_value(bond.to_value()) == bond
    with pytest.raises(RecordMismatch):
        bond.check_membership(account("stranger"), standing.history_root, standing.block.header.app_hash)
    assert await operator.backing(bytes(32)) is None


async def test_what_a_watcher_asks(operator, key):
    shown = await operator.rpc("avow_optimistic")
    assert shown["window_ms"] == RULES.window_ms
    assert shown["challenge_bond"] == str(RULES.challenge_bond)
    assert [entry.lower() for entry in shown["watchers"]] == ["0x" + account("watcher").hex()]
    assert abs(shown["clock"] - time.time_ns() // 1_000_000) < 30_000
    await operator.transact(optimistic.ADDRESS, "deposit", value=ETHER)
    await settle(operator, key, 2)
    logs = []
    for module, name in ((settlement.ADDRESS, "Posted"), (optimistic.ADDRESS, "Deposited")):
        event = MODULES[module].interface.events[name]
        wanted = {"fromBlock": "earliest", "address": "0x" + module.hex(), "topics": ["0x" + event.topic.hex()]}
        [log] = await operator.rpc("eth_getLogs", wanted)
        logs.append(event.decode_data(bytes.fromhex(log["data"][2:])))
    record = (await operator.finality(key.id, 0)).check_membership(key.id)
    assert logs == [[0, 2, record.deadline_clock, record.locked], [ETHER, ETHER]]


async def test_other_methods_have_no_finality(operator, key):
    assert await operator.finality(key.id, 0) is None
