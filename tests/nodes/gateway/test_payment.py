"""A payer without an allowance pays by authorisation: through gateway, node and chain, and what is refused on the way."""

import contextlib
import os
import time
from dataclasses import replace

import pytest

import avow
import avow.chain.modules.bank
import avow.client.exchange
import avow.client.session
from avow.client.errors import PaymentMismatch
from avow.client.exchange import BadOption, prepare
from avow.errors import AvowError
from avow.nodes.chain_client import ChainClient
from avow.nodes.gateway import GatewayConfig, running_gateway
from avow.nodes.gateway.account import PayerAccount
from avow.nodes.node_client import NodeClient
from avow.receipt.authorisation import StatedAuthorisation
from avow.receipt.statement import Method
from benchmarks.stub_engine import StubEngine
from tests.nodes.network import chain_of, enclave_of, make_home, node_of, ready

BODY = b'{"model":"stub","messages":[{"role":"user","content":"hello there"}]}'
MOST = 10**20


class CountingEngine(StubEngine):
    """How often it ran."""

    runs = 0

    def chat(self, request, effective, emit):
        self.runs += 1
        return super().chat(request, effective, emit)


@contextlib.asynccontextmanager
async def paid_network(folder):
    """Everything up, and no allowance for anybody: (home, chain URL, gateway URL, engine)."""
    home, engine = make_home(folder), CountingEngine()
    async with chain_of(home) as chain, enclave_of(home, engine), node_of(home, chain.url, engine):
        node = NodeClient()
        await node.connect(home.node_address)
        await ready(node)
        config = GatewayConfig(home=folder, nodes=(home.node_address,), chain=chain.url, port=0)
        async with running_gateway(config, NodeClient, PayerAccount(os.urandom(20), None)) as gateway:
            async with ChainClient(chain.url) as client:
                trust = await client.trust()
            async with avow.AsyncClient(gateway.url, trust=trust, home=folder / "reader") as reader:
                for _ in range(200):
                    with contextlib.suppress(AvowError):
                        if await reader.models():
                            break
            yield home, chain.url, gateway.url, engine, trust
        await node.close()


async def balance(url, account):
    async with ChainClient(url) as client:
        return await client.balance(account)


@pytest.mark.parametrize("method", ["vanilla", "tee"])
async def test_an_account_without_allowance_is_charged_by_its_signature(tmp_path, method):
    async with paid_network(tmp_path) as (home, chain, url, _, trust):
        before = await balance(chain, home.payer)
        settings = {"trust": trust, "home": tmp_path / "reader", "key": home.payer_key, "method": method}
        async with avow.AsyncClient(url, **settings, payment=avow.Payment(home.operator, MOST)) as client:
            [model] = [model for model in await client.models() if model.name == "stub"]
            assert model.nodes[method] == ("0x" + home.operator.hex(),)
            charged = 0
            for _ in range(2):
                answer = await client.chat("hello there", model="stub", finality="settled")
                statement = answer.receipt.value.statement
                assert (statement.columns.payer, statement.private.authorised) == (home.payer, True)
                assert answer.receipt.value.settlement.void == 0
                charged += statement.columns.amount
            stream = await client.stream("hello there", model="stub", finality="settled")
            async with stream:
                assert [chunk async for chunk in stream]
            charged += stream.receipt.value.statement.columns.amount
        assert charged > 0
        assert await balance(chain, home.payer) == before - charged


async def test_what_is_not_authorised_is_refused_before_the_engine_runs(tmp_path):
    async with paid_network(tmp_path) as (home, _, url, engine, trust):
        now_ms = time.time_ns() // 1_000_000

        def sent(payment, key=home.payer_key, at_ms=now_ms):
            options = avow.client.exchange.Options(method=Method.VANILLA, private_key=key, payment=payment)
            return prepare("POST /v1/chat/completions", BODY, options, trust, now_ms=at_ms)

        async with avow.AsyncClient(url, trust=trust, home=tmp_path / "reader") as client:

            async def code(prepared):
                status, body = await client._send(client._request(prepared))
                return (
                    None
                    if status == 200
                    else (status, avow.client.session.remote_error(status, body).fields["remote_code"])
                )

            good = sent(avow.Payment(home.operator, MOST))
            stated = good.authorisation
            assert await code(sent(avow.Payment(bytes(20), MOST))) == (400, "node_not_offered")
            assert await code(sent(avow.Payment(home.operator, 1))) == (402, "payer_uncovered")
            assert await code(sent(avow.Payment(home.operator, MOST), at_ms=now_ms - 700_000)) == (
                402,
                "payer_uncovered",
            )
            assert await code(sent(avow.Payment(home.operator, MOST), key=os.urandom(32))) == (402, "payer_uncovered")
            for wrong in (
                replace(stated, max_amount=stated.max_amount + 1),
                replace(stated, expiry_ms=stated.expiry_ms + 1),
                replace(stated, nonce=stated.nonce + 1),
                replace(sent(avow.Payment(bytes(20), MOST)).authorisation, node=home.operator),
                sent(avow.Payment(home.operator, MOST)).authorisation,
            ):
                assert await code(replace(good, authorisation=wrong)) == (400, "bad_authorisation")
            for missing in (replace(good, requester=None), replace(good, authorisation=None)):
                assert (await code(missing))[1] in ("bad_option", "gateway_uncovered")
            assert engine.runs == 0
            assert await code(good) is None
            assert await code(good) == (402, "authorisation_used")
            assert engine.runs == 1


async def test_a_nonce_that_the_chain_knows_is_refused(tmp_path):
    async with paid_network(tmp_path) as (home, chain, url, engine, trust):
        async with ChainClient(chain, home.payer_key) as payer:
            await payer.transact(avow.chain.modules.bank.ADDRESS, "cancelAuthorisation", 7)
        settings = {"trust": trust, "home": tmp_path / "reader", "key": home.payer_key}
        payment = avow.Payment(home.operator, MOST, nonces=iter((7,)))
        async with avow.AsyncClient(url, **settings, payment=payment) as client:
            with pytest.raises(AvowError) as refused:
                await client.chat("hello there", model="stub")
        assert refused.value.fields["remote_code"] == "authorisation_used"
        assert engine.runs == 0


async def test_an_answer_that_charges_otherwise_is_refused_by_the_client(gateway, tmp_path):
    """The simulated node ignores who pays: its statements name its own network's payer."""
    network = gateway.node.network
    payment = avow.Payment(network.operator, 10**30)
    settings = {"trust": network.trust(), "home": tmp_path / "reader", "key": os.urandom(32)}
    async with avow.AsyncClient(gateway.url, **settings, payment=payment) as client:
        with pytest.raises(PaymentMismatch):
            await client.chat("hello", model="echo")


@pytest.mark.parametrize("text", ["", "AAAA", "!" * 156, "A" * 157, "A" * 160])
async def test_a_header_of_another_form_is_refused(gateway, text):
    options = avow.client.exchange.Options(method=Method.VANILLA, private_key=os.urandom(32))
    prepared = prepare("POST /v1/chat/completions", BODY, options, gateway.node.network.trust(), now_ms=0)
    headers = prepared.http_headers() | {"avow-authorisation": text}
    answer = await gateway.http.post("/v1/chat/completions", content=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_option")


def test_the_header_is_what_was_stated():
    stated = StatedAuthorisation(b"\x01" * 20, 1 << 100, 1 << 52, (1 << 64) - 1, b"\x02" * 65)
    assert StatedAuthorisation.from_header(stated.to_header()) == stated
    with pytest.raises(AvowError):
        StatedAuthorisation.from_header(replace(stated, expiry_ms=1 << 53).to_header())


@pytest.mark.parametrize("changes", [{"node": "0x12"}, {"node": b""}, {"most": 0}, {"most": 1 << 128}, {"valid_s": 0}])
def test_a_payment_says_whom_and_how_much(changes):
    with pytest.raises(BadOption):
        avow.Payment(**{"node": bytes(20), "most": 1, **changes})


def test_a_payment_needs_an_account(tmp_path, node):
    with pytest.raises(AvowError):
        avow.Client("http://127.0.0.1:1", trust=node.network.trust(), home=tmp_path, payment=avow.Payment(bytes(20), 1))
