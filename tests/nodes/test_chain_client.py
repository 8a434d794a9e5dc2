"""The nodes' client against a chain that runs: sending, waiting, proofs that the relying party's own code accepts."""

import asyncio
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from avow.chain.errors import Code, Refused
from avow.chain.modules import bank, nodes, registry, settlement
from avow.chain.modules.batch import build_batch, leaves
from avow.methods.registration import registration_digest
from avow.nodes.chain_client import (
    ChainClient,
    ChainRejected,
    ChainUnavailable,
    TransactionDropped,
    function_of,
    settlement_gas,
)
from avow.nodes.full import FullNodeConfig, create_network, running_chain
from avow.receipt import merkle
from avow.receipt.encoding import decode, from_base64url
from avow.receipt.evidence import Settlement
from avow.receipt.headers import SignedBlock
from avow.receipt.merkle import SparseProof, sparse_root
from avow.receipt.standing import KeyState, app_hash
from avow.receipt.statement import Method
from tests.chain.harness import ETHER, FAR_MS, NAMES, PROGRAM, NodeKey, account, cose, point, secret


@pytest.fixture
async def running(tmp_path):
    accounts = [(account(name), 1_000 * ETHER) for name in NAMES]
    create_network(tmp_path, governance=account("governance"), accounts=accounts)
    async with running_chain(FullNodeConfig(tmp_path)) as chain:
        yield chain


@pytest.fixture
async def operator(running):
    async with ChainClient(running.url, secret("operator")) as client:
        yield client


@pytest.fixture
async def payer(running):
    async with ChainClient(running.url, secret("payer")) as client:
        yield client


async def node(operator, payer) -> NodeKey:
    network = await operator.network()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    key = NodeKey(network.chain_id, Method.VANILLA, "operator", *keys, time.time_ns() // 1_000_000)
    block_hash, _, _ = await operator.beacon()
    digest = registration_digest(network.chain_id, operator.address, point(keys[0]), point(keys[1]), block_hash)
    arguments = (0, point(keys[0]), point(keys[1]), block_hash, cose(keys[0], digest))
    await asyncio.gather(
        operator.transact(nodes.ADDRESS, "register", *arguments),
        operator.transact(registry.ADDRESS, "publish", "test", PROGRAM),
        operator.transact(nodes.ADDRESS, "setPrice", PROGRAM, 0, 100),
        payer.allow(account("operator"), ETHER, FAR_MS),
    )
    return key


def batch_of(key, made) -> bytes:
    return build_batch(key.id, [(item.columns, item.private) for item in made], made[-1].signature)


async def settle(operator, key, made):
    data = batch_of(key, made)
    gas = settlement_gas(data, statements=len(made), payers=1, programs=1)
    async with operator.lock:
        signed = await operator.sign(settlement.ADDRESS, "settle", data, gas_limit=gas)
        await operator.send(signed.raw)
    return signed


async def test_a_receipt_gets_both_of_its_proofs(operator, payer):
    key = await node(operator, payer)
    made = [key.sign() for _ in range(9)]
    signed = await settle(operator, key, made)
    included = await operator.included(signed.hash)
    assert function_of(settlement.ADDRESS, "settle").decode_output(included.output)[1:] == [key.id, 0, 9]
    proof = decode(await operator.settlement(signed.hash))
    history = decode(await operator.history(key.id, 4))
    policy = await operator.trust()
    assert history.pop("leaves") == 9
    tree = merkle.tree(leaves([item.hash for item in made], bytes(9)))
    for shown in (proof, history):
        own = {"leaf": 4, "leaves": 9, "leaf_path": merkle.path_in(tree, 4), "void": 0}
        found = Settlement.from_value(shown | own)
        found.check_membership(made[4].hash, key.id, 4)
        policy.check_anchor(found.block, time.time_ns() // 1_000_000)
    assert await operator.history(key.id, 9) is None
    assert await operator.next_number(key.id) == 9


async def test_history_finds_the_batch_of_any_number(operator, payer):
    key = await node(operator, payer)
    for count in (1, 7, 2, 30, 1):
        signed = await settle(operator, key, [key.sign() for _ in range(count)])
        assert await operator.included(signed.hash) is not None
    firsts = {}
    for number in range(41):
        firsts.setdefault(decode(await operator.history(key.id, number))["anchor"]["first"], []).append(number)
    assert {first: len(numbers) for first, numbers in firsts.items()} == {0: 1, 1: 7, 8: 2, 10: 30, 40: 1}


async def test_standing_under_load(operator, payer):
    """Standings are true while every block changes the state."""
    key = await node(operator, payer)
    policy = await operator.trust()

    async def busy():
        for cap in range(5):
            await payer.allow(account("operator"), ETHER + cap, FAR_MS)

    async def standings():
        for _ in range(20):
            standing = await operator.standing(key.id)
            assert standing.check_membership(key.id).state is KeyState.ACTIVE
            policy.check_anchor(standing.block, time.time_ns() // 1_000_000)

    await asyncio.gather(busy(), standings())
    assert await operator.standing(bytes(32)) is None
    assert (await operator.key_record(key.id)).operator == operator.address
    assert await operator.key_record(bytes(32)) is None


async def test_any_key_is_proven_or_its_absence(operator, payer):
    for name, present in ((b"account/" + account("payer"), True), (b"account/" + bytes(20), False)):
        found = decode(from_base64url(await operator.rpc("avow_prove", "0x" + name.hex())))
        assert (found["value"] is not None) is present
        root = sparse_root(name, found["value"], SparseProof.from_value(found["proof"]))
        header = SignedBlock.from_value(found["block"]).header
        assert app_hash(root, found["history_root"]) == header.app_hash


async def test_many_at_once_from_one_account(operator):
    names = [f"name-{index}" for index in range(30)]
    found = await asyncio.gather(*[operator.transact(registry.ADDRESS, "publish", name, PROGRAM) for name in names])
    assert len({included.hash for included in found}) == 30
    [offers, _] = await operator.view(registry.ADDRESS, "program", PROGRAM)
    assert offers == 30


async def test_refusals_are_typed(operator, payer):
    with pytest.raises(Refused) as caught:
        await operator.transact(nodes.ADDRESS, "retire", bytes(32))
    assert caught.value.reason is Code.KEY_UNKNOWN
    with pytest.raises(Refused) as caught:
        await operator.transact(nodes.ADDRESS, "retire", bytes(32), gas_limit=200_000)
    assert caught.value.reason is Code.KEY_UNKNOWN
    key = await node(operator, payer)
    data = batch_of(key, [key.sign(), key.sign(amount=9_999)])
    refused = await operator.refusal(settlement.ADDRESS, "settle", data)
    assert (refused.reason, refused.index) == (Code.AMOUNT_EXCEEDS_PRICE, 1)
    signed = await settle(operator, key, [key.sign(amount=8_888)])
    with pytest.raises(Refused):
        await operator.included(signed.hash)
    with pytest.raises(Refused):
        await operator.settlement(signed.hash)
    assert await operator.refusal(bank.ADDRESS, "balanceOf", account("payer")) is None


async def test_nonces_are_taken_up_again(running, operator):
    """Another process used the account meanwhile: the client asks the chain and goes on."""
    await operator.transact(registry.ADDRESS, "publish", "one", PROGRAM)
    async with ChainClient(running.url, secret("operator")) as other:
        await other.transact(registry.ADDRESS, "publish", "two", PROGRAM)
    await operator.transact(registry.ADDRESS, "publish", "three", PROGRAM)
    async with operator.lock:
        lost = await operator.sign(registry.ADDRESS, "publish", "lost", PROGRAM)
    with pytest.raises(ChainRejected, match="nonce too high"):
        async with operator.lock:
            await operator.send((await operator.sign(registry.ADDRESS, "publish", "gap", PROGRAM)).raw)
    await operator.transact(registry.ADDRESS, "publish", "four", PROGRAM)
    assert not await operator.can_be_included(lost.nonce)
    assert await operator.included(lost.hash, timeout_s=0) is None
    with pytest.raises(ChainRejected, match="nonce too low"):
        await operator.send(lost.raw)


async def test_sending_twice_is_sending_once(operator):
    async with operator.lock:
        signed = await operator.sign(registry.ADDRESS, "publish", "twice", PROGRAM)
        await asyncio.gather(operator.send(signed.raw), operator.send(signed.raw))
    included = await operator.included(signed.hash)
    await operator.send(signed.raw)
    assert await operator.included(signed.hash) == included


async def test_what_a_proposal_leaves_out_is_told_to_who_asks(running, operator, monkeypatch, caplog):
    """And to who waits, at once. Ethereum's methods say null; sent again, it may be taken again."""
    await operator.transact(registry.ADDRESS, "publish", "before", PROGRAM)
    with monkeypatch.context() as patch:
        left_out = lambda _run, _room, offered: {raw: Code.KEY_INVALID for raw, _ in offered}  # noqa: E731
        patch.setattr("avow.chain.application.prepare", left_out)
        async with operator.lock:
            first = await operator.sign(registry.ADDRESS, "publish", "first", PROGRAM)
            second = await operator.sign(registry.ADDRESS, "publish", "second", PROGRAM)
            await asyncio.gather(operator.send(first.raw), operator.send(second.raw))
        for signed, why in ((first, "left out of a proposal: key_invalid"), (second, "nonce too high")):
            with pytest.raises(TransactionDropped, match=why) as caught:
                await operator.included(signed.hash)
            assert caught.value.fields["hash"] == signed.hash.hex()
            assert f"0x{signed.hash.hex()} is dropped" in caplog.text
            for method in ("eth_getTransactionByHash", "eth_getTransactionReceipt"):
                assert await operator.rpc(method, "0x" + signed.hash.hex()) is None
        assert (await operator.rpc("avow_dropped", "0x" + first.hash.hex()))["code"] == Code.REVERTED
        with pytest.raises(TransactionDropped):
            await operator.transact(registry.ADDRESS, "publish", "third", PROGRAM, gas_limit=200_000)
    await operator.send(first.raw)
    assert (await operator.included(first.hash)).height
    assert await operator.rpc("avow_dropped", "0x" + first.hash.hex()) is None
    assert await operator.rpc("avow_dropped", "0x" + second.hash.hex()) is not None
    await operator.transact(registry.ADDRESS, "publish", "after", PROGRAM)


async def test_waiting(operator):
    status = await operator.status()
    assert await operator.wait_height(status["height"]) >= status["height"]
    with pytest.raises(ChainUnavailable):
        await operator.wait_height(status["height"] + 50, timeout_s=0.05)
    assert await operator.balance(account("payer")) == 1_000 * ETHER


async def test_a_chain_that_is_away(unused_tcp_port_factory=None):
    async with ChainClient("http://127.0.0.1:9", secret("operator"), timeout_s=2) as client:
        with pytest.raises(ChainUnavailable):
            await client.status()


async def test_without_an_account_nothing_is_sent(running):
    async with ChainClient(running.url) as client:
        assert await client.allowance(account("payer"), account("operator")) == (0, 0)
        with pytest.raises(ChainRejected):
            await client.transact(bank.ADDRESS, "allow", bytes(20), 1, 1)
