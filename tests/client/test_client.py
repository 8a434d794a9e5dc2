"""The clients against an honest gateway on a real socket."""

import json

import pytest

import avow
from avow.client.errors import AnswerRefused, NotSettled, RemoteError, Unreachable
from avow.errors import InputError, TrustNotPinned
from avow.receipt.report import Outcome, Verdict
from avow.receipt.requester import sign_request
from avow.receipt.statement import Method
from tests.simulated_gateway import SimulatedGateway
from tests.simulator import Simulator

KEY = b"\x07" * 32


@pytest.fixture
def network():
    network = Simulator()
    network.register(Method.TEE)
    return network


@pytest.fixture
def gateway(network):
    with SimulatedGateway(network) as gateway:
        yield gateway


@pytest.fixture
def client(network, gateway, tmp_path):
    with avow.Client(gateway.url, trust=network.trust(), home=tmp_path, clock_ms=lambda: network.now_ms) as client:
        yield client


@pytest.mark.parametrize("method", [None, "vanilla", "tee"])
def test_a_chat_answer_with_its_receipt(client, network, method):
    answer = client.chat("hello", model="echo", method=method, temperature=0.5)
    assert answer.text == "You said: hello"
    assert answer.finish_reason == "stop"
    assert answer.tool_calls == []
    assert answer.usage["total_tokens"] == 7
    assert "avow" not in answer.body
    receipt = answer.receipt
    assert receipt.report.ok
    assert receipt.value.statement.columns.method.label == (method or "vanilla")
    alone = avow.verify(receipt.to_json(), network.trust(), now_ms=network.now_ms, require=("opened", "fresh"))
    assert alone.ok, alone.checks
    assert avow.verify(receipt.redacted(), network.trust(), now_ms=network.now_ms).ok


def test_a_receipt_settles(client, network):
    receipt = client.chat("hello", model="echo").receipt
    assert not receipt.is_settled
    assert "not settled" in repr(receipt)
    assert receipt.settled(timeout=5) is receipt
    assert receipt.is_settled
    assert receipt.report["settlement"].outcome is Outcome.PASS
    assert avow.verify(receipt.to_json(), network.trust(), now_ms=network.now_ms, require=("settled",)).ok


def test_finality_settled_makes_the_call_wait(client):
    assert client.chat("hello", model="echo", finality="settled").receipt.is_settled


def test_an_answer_that_does_not_settle(client, gateway):
    gateway.settles = False
    receipt = client.chat("hello", model="echo").receipt
    with pytest.raises(NotSettled):
        receipt.settled(timeout=0.2)


@pytest.mark.parametrize("method", ["vanilla", "tee"])
def test_a_stream(client, network, method):
    with client.stream("hello there", model="echo", method=method) as stream:
        with pytest.raises(AnswerRefused):
            _ = stream.receipt
        pieces = [chunk.text for chunk in stream]
    assert "".join(pieces) == "You said: hello there "
    assert stream.answer.text == "".join(pieces)
    assert stream.answer.usage["prompt_tokens"] == 3
    receipt = stream.receipt
    assert receipt.report["stream"].outcome is Outcome.PASS
    assert avow.verify(receipt.to_json(), network.trust(), now_ms=network.now_ms, require=("opened", "complete")).ok
    assert receipt.settled(timeout=5).is_settled


def test_a_stream_left_early_has_a_receipt_of_what_came(client, network):
    with client.stream("one two three four five six", model="echo") as stream:
        chunks = iter(stream)
        for _ in range(3):
            next(chunks)
    partial = stream.partial
    assert partial is not None
    assert partial.chunks == 1  # the simulator signs heads after chunks 1 and 4
    report = avow.verify(partial.to_json(), network.trust(), now_ms=network.now_ms)
    assert report.verdict is Verdict.WARN
    assert avow.load_receipt(partial.to_bytes()) == partial


def test_a_tensor_program(client):
    answer = client.infer("length", {"file": b"1234"}, method="tee")
    assert answer.output("length") == [8]  # the simulator counts base64 digits
    with pytest.raises(KeyError):
        answer.output("other")
    same = client.infer("length", [{"name": "file", "datatype": "BYTES", "shape": [1], "data": ["abc"]}])
    assert same.outputs[0]["data"] == [3]
    with pytest.raises(InputError):
        client.infer("a/b", {})


def test_a_signed_request_names_its_requester(network, gateway, tmp_path):
    with avow.Client(
        gateway.url, trust=network.trust(), key=KEY, home=tmp_path, clock_ms=lambda: network.now_ms
    ) as client:
        for method in (None, "tee"):
            receipt = client.chat("hello", model="echo", method=method).receipt
            account = sign_request(KEY, network.chain_id, bytes(32), "x", b"").address
            assert receipt.value.statement.private.requester == account
            assert receipt.report["requester"].outcome is Outcome.PASS
        stream = client.stream("hello", model="echo")
        list(stream)
        assert stream.receipt.report["requester"].outcome is Outcome.PASS


def test_receipts_are_kept_when_asked(network, gateway, tmp_path):
    seen = []
    with avow.Client(
        gateway.url,
        trust=network.trust(),
        save=True,
        on_receipt=seen.append,
        home=tmp_path,
        clock_ms=lambda: network.now_ms,
    ) as client:
        receipt = client.chat("hello", model="echo").receipt
        path = tmp_path / "receipts" / f"{receipt.id}.json"
        assert path.stat().st_mode & 0o777 == 0o600
        assert avow.Receipt.load(path.read_bytes()).settlement is None
        receipt.settled(timeout=5)
        assert avow.Receipt.load(path.read_bytes()).settlement is not None
        list(client.stream("hello", model="echo"))
    assert len(seen) == 2
    assert len(list((tmp_path / "receipts").iterdir())) == 2


def test_models_and_receipts_by_id(client, network):
    models = client.models()
    assert {model.name: model.kind for model in models} == {"echo": "chat", "length": "tensor"}
    assert models[0].program == network.programs["echo"].hex()
    assert models[0].prices == {"vanilla": 10, "tee": 10}
    answer = client.chat("hello", model="echo")
    assert client.receipt(answer.receipt.id).opening is None
    seed = answer.receipt.value.opening.seed
    assert client.receipt(answer.receipt.id, seed, wait=1).settlement is not None
    with pytest.raises(InputError):
        client.receipt("../trust")


def test_a_pinned_program_is_the_one_that_answers(network, gateway, tmp_path):
    pinned = {"echo": network.programs["echo"].hex()}
    with avow.Client(
        gateway.url, trust=network.trust(), programs=pinned, home=tmp_path, clock_ms=lambda: network.now_ms
    ) as client:
        assert client.chat("hello", model="echo").text


def test_the_networks_refusal_is_a_remote_error(client, gateway):
    gateway.refusal = (
        404,
        b'{"error":{"message":"no such model","type":"invalid_request_error","param":"model","code":"unknown_model"}}',
    )
    for ask in (client.chat, client.stream):
        with pytest.raises(RemoteError) as raised:
            ask("hello", model="nope")
        assert (raised.value.status, raised.value.remote_code, raised.value.param) == (404, "unknown_model", "model")
    gateway.refusal = (502, b"<html>")
    with pytest.raises(RemoteError, match="502"):
        client.chat("hello", model="echo")


def test_nobody_there(network, tmp_path):
    client = avow.Client("http://127.0.0.1:9", trust=network.trust(), home=tmp_path)
    with pytest.raises(Unreachable) as raised:
        client.chat("hello", model="echo")
    assert "avow up" in raised.value.hint
    with pytest.raises(Unreachable):
        client.stream("hello", model="echo")
    client.close()


def test_wrong_options_are_refused_before_anything_is_sent(client, gateway, network, tmp_path):
    with pytest.raises(InputError):
        client.chat("hello", model="echo", method="magic")
    with pytest.raises(InputError):
        client.chat("hello", model="echo", finality="soon")
    with pytest.raises(InputError):
        client.chat("hello", model="echo", temperature=float("nan"))
    with pytest.raises(InputError):
        client.chat("hello", model="echo", program="abc")
    with pytest.raises(InputError, match="stream"):
        client.chat("hello", model="echo", stream=True)
    with pytest.raises(InputError):
        avow.Client(gateway.url, trust=network.trust(), require=("magic",), home=tmp_path)
    assert gateway.requests == []


def test_trust_is_pinned_or_nothing_is_asked(network, gateway, tmp_path):
    with pytest.raises(TrustNotPinned):
        avow.Client(gateway.url, home=tmp_path)
    with pytest.raises(TrustNotPinned):
        avow.Client("https://example.org", home=tmp_path)
    (tmp_path / "trust.json").write_bytes(network.trust().to_json())
    with avow.Client(gateway.url, home=tmp_path, clock_ms=lambda: network.now_ms) as client:
        assert client.chat("hello", model="echo").text
    with pytest.raises(TrustNotPinned):  # the local network's policy is for this machine alone
        avow.Client("https://example.org", home=tmp_path)


async def test_the_asynchronous_client_does_the_same(network, gateway, tmp_path):
    async with avow.AsyncClient(
        gateway.url, trust=network.trust(), home=tmp_path, clock_ms=lambda: network.now_ms
    ) as client:
        answer = await client.chat("hello", model="echo", method="tee")
        assert answer.text == "You said: hello"
        assert (await answer.receipt.settled(timeout=5)).is_settled
        async with await client.stream("hello", model="echo") as stream:
            assert "".join([chunk.text async for chunk in stream]) == "You said: hello "
        assert stream.receipt.report.ok
        assert (await client.infer("length", {"file": b"1234"})).output("length") == [8]
        assert [model.name for model in await client.models()] == ["echo", "length"]
        assert (await client.receipt(answer.receipt.id)).opening is None
        gateway.refusal = (400, b"{}")
        with pytest.raises(RemoteError):
            await client.stream("hello", model="echo")
    async with avow.AsyncClient("http://127.0.0.1:9", trust=network.trust(), home=tmp_path) as lost:
        with pytest.raises(Unreachable):
            await lost.chat("hello", model="echo")
        with pytest.raises(Unreachable):
            await lost.stream("hello", model="echo")


def test_the_body_may_name_method_and_nonce(client, gateway):
    answer = client.chat("hello", model="echo", avow={"method": "tee", "nonce": "bm9uY2Utb2YtbWluZQ"})
    assert answer.receipt.value.statement.columns.method is Method.TEE
    assert answer.receipt.value.statement.private.nonce == b"nonce-of-mine"
    assert json.loads(gateway.requests[0][2])["avow"]["method"] == "tee"
