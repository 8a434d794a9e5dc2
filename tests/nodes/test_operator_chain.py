"""An operator's view of a real chain: what cannot settle is told at once, costs nothing, and the account's line goes on."""

import asyncio
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from avow.chain.errors import WHOLE_BATCH, Code, Refused
from avow.chain.modules import nodes
from avow.chain.modules.batch import build_batch
from avow.methods.registration import registration_digest
from avow.nodes.chain_client import ChainClient
from avow.nodes.gateway.account import account_key
from avow.nodes.operator_chain import OperatorChain
from avow.nodes.settler import Refusal
from avow.receipt.statement import Method
from tests.chain.harness import PROGRAM, NodeKey, cose, point, secret
from tests.nodes.network import chain_of, make_home
from tests.patience import patient_s

PRICE = 100


@pytest.fixture
async def operator(tmp_path):
    """A registered operator on a chain, and a key of its own that signs."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "key").write_text(secret("operator").hex())
    home = make_home(tmp_path, heartbeat_ms=500)
    async with chain_of(home) as running:
        chain = await OperatorChain.open(running.url, account_key(home.folder / "node" / "key"), home.folder)
        signing, transport = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        block_hash = await chain.beacon()
        digest = registration_digest(chain.chain_id, chain.operator, point(signing), point(transport), block_hash)
        await chain.register(0, point(signing), point(transport), block_hash, cose(signing, digest))
        await chain.publish("operator", PROGRAM)
        await chain.set_price(PROGRAM, 0, PRICE)
        key = NodeKey(chain.chain_id, Method.VANILLA, "operator", signing, transport, 0)
        yield chain, key, running.url
        await chain.close()


def batch(key, *, units=3, amount=3 * PRICE, spoil=False, ended_ms=None):
    """A batch of one statement that the operator pays itself."""
    key.now_ms = time.time_ns() // 10**6
    before = (key.next, key.head)
    made = key.sign(units=units, amount=amount, ended_ms=ended_ms, payer="operator")
    if spoil or amount > units * PRICE:
        key.next, key.head = before
    signature = bytearray(made.signature)
    signature[-1] ^= spoil
    return build_batch(key.id, [(made.columns, made.private)], bytes(signature))


@pytest.mark.parametrize(
    ("wrong", "code", "index"),
    [({"spoil": True}, Code.BATCH_SIGNATURE, WHOLE_BATCH), ({"amount": 3 * PRICE + 1}, Code.AMOUNT_EXCEEDS_PRICE, 0)],
)
async def test_what_cannot_settle_is_told_at_once(operator, wrong, code, index):
    chain, key, url = operator
    bad = batch(key, **wrong)
    async with ChainClient(url) as client:
        before = await client.balance(chain.operator)
        async with chain.sending(), asyncio.timeout(patient_s(5)):
            raw, digest = await chain.sign_batch(bad, all_void=False)
            await chain.send(raw)
        assert await asyncio.wait_for(chain.outcome(raw, digest), patient_s(2)) is False
        assert await chain.refusal(bad, all_void=False) == Refusal(index, int(code))
        assert await client.balance(chain.operator) == before, "nobody paid"
        assert await client.rpc("eth_getTransactionReceipt", "0x" + digest.hex()) is None
    good = batch(key)
    async with chain.sending():
        raw, digest = await chain.sign_batch(good, all_void=False)
        await chain.send(raw)
    assert await asyncio.wait_for(chain.outcome(raw, digest), patient_s(10)) is True
    assert await chain.proof(digest)


async def test_what_is_early_waits_and_settles(operator):
    """Its answer ended later than the chain's time allows: no retry is needed, the block that may hold it takes it."""
    chain, key, _ = operator
    ahead = batch(key, ended_ms=time.time_ns() // 10**6 + 6_500)
    async with chain.sending():
        raw, digest = await chain.sign_batch(ahead, all_void=False)
        await chain.send(raw)
    assert await asyncio.wait_for(chain.outcome(raw, digest), patient_s(30)) is True


async def test_a_settlement_that_a_proposal_leaves_out_is_sent_again(operator, monkeypatch):
    """One of the chain's nodes dropped it, another may have it still: only its nonce says that it is over."""
    chain, key, _ = operator
    monkeypatch.setattr("avow.nodes.operator_chain._DROPPED_S", 0.01)
    data = batch(key)
    with monkeypatch.context() as patch:
        left_out = lambda _run, _room, offered: {raw: Code.KEY_INVALID for raw, _ in offered}  # noqa: E731
        patch.setattr("avow.chain.application.prepare", left_out)
        async with chain.sending():
            raw, digest = await chain.sign_batch(data, all_void=False)
            await chain.send(raw)
        waiting = asyncio.create_task(chain.outcome(raw, digest))
        await asyncio.sleep(patient_s(1.5))
        assert not waiting.done()
    assert await asyncio.wait_for(waiting, patient_s(20)) is True


async def test_others_are_told_the_reason_too(operator):
    """A client's transaction that shows nothing raises the chain's own refusal, and stands in no block."""
    _, key, url = operator
    async with ChainClient(url, secret("operator")) as client:
        before = await client.balance(client.address)
        with pytest.raises(Refused) as refused:
            await client.transact(nodes.ADDRESS, "reportEquivocation", key.id, b"\x80", b"\x80", gas_limit=500_000)
        assert refused.value.reason is Code.EVIDENCE_REFUSED
        assert await client.balance(client.address) == before
