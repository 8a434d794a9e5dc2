"""Answers, streams, receipts beside them, and what happens when a caller goes away or a node fails."""

import asyncio
import json

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from avow.errors import AvowError, InputError
from avow.methods.checks import verify
from avow.nodes.errors import Busy, EngineFailure, PayerUncovered
from avow.nodes.gateway import Limits
from avow.nodes.gateway.directory import Directory
from avow.receipt.commitment import commit, request_parts, response_parts
from avow.receipt.encoding import base64url, decode, from_base64url
from avow.receipt.receipt import Receipt
from avow.receipt.statement import Method
from avow.receipt.stream import chunk_mac, mac_key, shared_secret, stream_next, stream_start
from avow.receipt.verify import Question
from tests.nodes.gateway.conftest import JSON, events
from tests.nodes.gateway.simulated_node import SimulatedNode, chat
from tests.simulator import point


class Bank:
    """A bank whose blocks wait until it is open."""

    def __init__(self):
        self.open = asyncio.Event()
        self.held = (0, 0)
        self.allowed = []

    async def allowance(self, _payer, _node):
        return self.held

    async def allow(self, node, cap, expiry_ms):
        self.allowed.append(node)
        await self.open.wait()
        self.held = (cap, expiry_ms)


def receipt_of(avow):
    receipt = Receipt.from_bytes(from_base64url(avow["receipt"]))
    assert receipt.id == avow["id"]
    return receipt


@pytest.mark.parametrize("method", ["vanilla", "tee"])
async def test_an_answer_carries_a_receipt_that_verifies_against_the_bytes_on_the_wire(gateway, method):
    body = chat("hello there")
    answer = await gateway.chat(body, avow_method=method)
    assert answer.status_code == 200, answer.text
    avow = answer.json()["avow"]
    assert avow["method"] == method
    assert answer.headers["avow-receipt-id"] == avow["id"]
    assert answer.headers["avow-receipt-url"] == avow["url"] == f"/receipts/{avow['id']}"
    assert avow["page"] == f"/r/{avow['id']}#{answer.headers['avow-secret']}"
    receipt = receipt_of(avow)
    assert receipt.statement.columns.method.label == method
    network = gateway.node.network
    question = Question(now_ms=network.now_ms, request=body, response=answer.content)
    report = verify(receipt, network.trust(), question)
    assert report.ok, report.checks
    assert report["response"].outcome == "pass"
    seed = from_base64url(answer.headers["avow-secret"])
    assert commit("response", seed, response_parts(answer.content)) == receipt.statement.private.response


async def test_nonce_and_seed_of_the_caller_are_the_ones_in_the_statement(gateway):
    seed, nonce = b"s" * 32, b"n" * 24
    body = chat()
    answer = await gateway.chat(body, avow_nonce=base64url(nonce), avow_seed=base64url(seed))
    receipt = receipt_of(answer.json()["avow"])
    assert receipt.statement.private.nonce == nonce
    assert receipt.statement.private.nonce_source == "client"
    assert receipt.statement.private.request == commit(
        "request", seed, request_parts("POST /v1/chat/completions", body)
    )


async def test_a_plain_caller_gets_the_gateways_nonce(gateway):
    receipt = receipt_of((await gateway.chat(chat())).json()["avow"])
    assert receipt.statement.private.nonce_source == "gateway"


async def test_options_may_stand_in_the_body(gateway):
    answer = await gateway.chat(chat(avow={"method": "tee", "finality": "settled", "nonce": base64url(b"12345678")}))
    avow = answer.json()["avow"]
    assert avow["method"] == "tee"
    assert avow["finality"] == "settled"
    assert receipt_of(avow).statement.private.nonce == b"12345678"


async def test_header_and_body_that_agree_are_fine_and_that_differ_are_refused(gateway):
    assert (await gateway.chat(chat(avow={"method": "tee"}), avow_method="tee")).status_code == 200
    refused = await gateway.chat(chat(avow={"method": "tee"}), avow_method="vanilla")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "conflicting_options"
    assert refused.json()["error"]["param"] == "avow.method"


async def test_settled_finality_waits_for_the_proof(gateway):
    answer = await gateway.chat(chat(), avow_finality="settled")
    receipt = receipt_of(answer.json()["avow"])
    assert receipt.settlement is not None
    network = gateway.node.network
    report = verify(receipt, network.trust(), Question(now_ms=network.now_ms))
    assert report["settlement"].outcome in ("pass", "warn"), report["settlement"]


async def test_an_answer_that_does_not_settle_in_time_can_be_fetched_later(gateway):
    gateway.node.settles = False
    answer = await gateway.chat(chat("kept"), avow_finality="settled")
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "not_settled"
    found = await gateway.http.get(
        answer.headers["avow-receipt-url"], headers={"avow-secret": answer.headers["avow-secret"]}
    )
    opening = Receipt.from_json(found.content).opening
    assert any(b"kept" in data for _, data in opening.response)


async def test_a_stream_ends_with_its_receipt_in_a_chunk_of_its_own(gateway):
    body = chat("one two three", stream=True, stream_options={"include_usage": True})
    answer = await gateway.chat(body, avow_method="tee")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks, comments = events(answer.text)
    *words, usage, last = chunks
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0
    assert last["choices"] == []
    assert last["object"] == "chat.completion.chunk"
    assert (last["id"], last["model"], last["created"]) == (words[0]["id"], words[0]["model"], words[0]["created"])
    receipt = receipt_of(last["avow"])
    assert receipt.statement.private.stream.chunks == len(chunks) - 1
    begin = decode(from_base64url(comments[0].removeprefix(": b ")))
    assert set(begin) == {"seed", "effective", "signing_key", "standing", "transport_key"}
    assert base64url(begin["seed"]) == answer.headers["avow-secret"]
    assert any(comment.startswith(": h 1 ") for comment in comments)


async def test_each_chunk_is_authenticated_for_a_caller_with_a_key(gateway):
    private = ec.generate_private_key(ec.SECP256R1())
    body = chat("one two three four", stream=True)
    answer = await gateway.chat(body, avow_client_key=base64url(point(private)))
    lines = [line for line in answer.content.split(b"\n") if line]
    begin = decode(from_base64url(lines[0].removeprefix(b": b ").decode()))
    request = commit("request", begin["seed"], request_parts("POST /v1/chat/completions", body))
    effective = commit("effective", begin["seed"], [("effective", begin["effective"])])
    key = mac_key(shared_secret(private, begin["transport_key"]), request, effective)
    head, mac, checked = stream_start(request, effective), None, 0
    for line in lines[1:]:
        if line.startswith(b": m "):
            mac = from_base64url(line[4:].decode())
        elif line.startswith(b"data: {") and mac is not None:
            head = stream_next(head, line[6:])
            assert chunk_mac(key, head) == mac
            mac, checked = None, checked + 1
    assert checked == receipt_of(events(answer.text)[0][-1]["avow"]).statement.private.stream.chunks


async def test_chunks_pass_through_byte_for_byte(gateway):
    seed = b"x" * 32
    body = chat("byte for byte", stream=True)
    answer = await gateway.chat(body, avow_seed=base64url(seed))
    data = [line[6:] for line in answer.content.split(b"\n") if line.startswith(b"data: ")][:-2]
    receipt = receipt_of(events(answer.text)[0][-1]["avow"])
    private = receipt.statement.private
    head = stream_start(private.request, private.effective)
    for item in data:
        head = stream_next(head, item)
    assert head == private.stream.head


async def test_a_settled_stream_has_its_settlement_and_an_unsettled_one_says_so(gateway):
    answer = await gateway.chat(chat(stream=True), avow_finality="settled")
    last = events(answer.text)[0][-1]["avow"]
    assert last["finality"] == "settled"
    assert receipt_of(last).settlement is not None
    gateway.node.settles = False
    answer = await gateway.chat(chat(stream=True), avow_finality="settled")
    last = events(answer.text)[0][-1]["avow"]
    assert last["finality"] == "instant"
    assert receipt_of(last).settlement is None


async def test_tensors_by_the_open_inference_protocol(gateway):
    body = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["abc"]}]}).encode()
    answer = await gateway.http.post("/v2/models/length/infer", content=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [3]
    receipt = receipt_of(answer.json()["avow"])
    seed = from_base64url(answer.headers["avow-secret"])
    parts = request_parts("POST /v2/models/length/infer", body)
    assert commit("request", seed, parts) == receipt.statement.private.request


@pytest.mark.parametrize(
    ("failure", "status", "kind", "code"),
    [
        (InputError("messages must not be empty", param="messages"), 400, "invalid_request_error", "bad_input"),
        (Busy("all slots are taken"), 429, "rate_limit_error", "busy"),
        (EngineFailure("the engine broke"), 500, "server_error", "engine_failure"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_nodes_errors_come_in_the_envelope_with_their_status(gateway, failure, status, kind, code, stream):
    gateway.node.failure = failure
    answer = await gateway.chat(chat(stream=stream))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (kind, code)
    assert error["param"] == failure.fields.get("param")
    assert set(error) >= {"message", "type", "param", "code"}


async def test_a_stream_that_breaks_says_so_in_the_stream_and_is_not_done(gateway):
    gateway.node.cut = EngineFailure("the engine broke")
    answer = await gateway.chat(chat("one two three four", stream=True))
    assert answer.status_code == 200
    data = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert json.loads(data[-1])["error"]["code"] == "engine_failure"
    assert "[DONE]" not in data


async def test_a_client_that_hangs_up_mid_stream_cancels_the_job(gateway):
    gateway.node.gap_s = 0.1
    async with gateway.http.stream(
        "POST", "/v1/chat/completions", content=chat("a " * 40, stream=True), headers=JSON
    ) as answer:
        async for _ in answer.aiter_raw():
            break
    for _ in range(100):
        if gateway.node.cancelled:
            break
        await asyncio.sleep(0.02)
    assert gateway.node.cancelled
    assert (await gateway.http.get("/health")).json()["nodes"][0]["in_flight"] == 0


async def test_a_client_that_hangs_up_before_the_answer_cancels_the_job(gateway):
    gateway.node.hold = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await gateway.chat(chat())
    for _ in range(100):
        if gateway.node.cancelled:
            break
        await asyncio.sleep(0.02)
    assert gateway.node.cancelled


async def test_a_node_takes_no_more_than_its_places(node, make_gateway):
    node.hold = asyncio.Event()
    async with make_gateway(node, limits=Limits(in_flight_per_node=2)) as gateway:
        waiting = [asyncio.create_task(gateway.chat(chat())) for _ in range(2)]
        while len(node.jobs) < 2:
            await asyncio.sleep(0.01)
        refused = await gateway.chat(chat())
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "too_many_requests"
        node.hold.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert (await gateway.chat(chat())).status_code == 200


async def test_the_deadline_ends_a_request(node, make_gateway):
    node.hold = asyncio.Event()
    async with make_gateway(node, limits=Limits(deadline_ms=150)) as gateway:
        answer = await gateway.chat(chat())
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert node.cancelled
        assert node.jobs[0].deadline_ms == 150


async def test_a_lost_node_is_found_again(gateway):
    assert (await gateway.chat(chat())).status_code == 200
    gateway.node.lose()
    answer = await gateway.chat(chat())
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "service_unavailable_error"
    gateway.node.reachable = True
    for _ in range(100):
        if (await gateway.chat(chat())).status_code == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the gateway did not connect again")


async def test_the_default_method_is_the_configured_one(make_gateway):
    async with make_gateway(SimulatedNode(), default_method=Method.TEE) as gateway:
        assert (await gateway.chat(chat())).json()["avow"]["method"] == "tee"


async def test_a_method_that_is_not_offered_is_refused_with_those_that_are(make_gateway):
    async with make_gateway(SimulatedNode(methods=(Method.VANILLA,))) as gateway:
        answer = await gateway.chat(chat(), avow_method="tee")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "method_not_offered"
        assert "vanilla" in answer.json()["error"]["message"]


async def test_what_a_node_still_starts_is_not_there_yet_and_no_fault_of_the_callers(make_gateway):
    """As after a restart of gateway and enclave: nobody here has heard of the method."""
    node = SimulatedNode(methods=(Method.VANILLA,))
    node.starting = [Method.TEE]
    async with make_gateway(node) as gateway:
        for body, headers in ((chat(), {"avow_method": "tee"}), (chat(model="other"), {"avow_method": "tee"})):
            answer = await gateway.chat(body, **headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_node")
            assert answer.headers["retry-after"] == "1"
        assert (await gateway.chat(chat(), avow_method="optimistic")).json()["error"]["code"] == "method_not_offered"
        assert (await gateway.chat(chat(model="other"))).json()["error"]["code"] == "model_not_found"


async def test_a_node_that_was_not_met_yet_may_be_the_one(monkeypatch):
    node = SimulatedNode()
    directory = Directory(["unix:/met", "unix:/unmet"], node.client, 4, Method.VANILLA)
    task = asyncio.create_task(directory.links[0].run())
    while not directory.links[0].connected:
        await asyncio.sleep(0.01)
    for young, code in ((True, "no_node"), (False, "model_not_found")):
        if not young:
            monkeypatch.setattr("avow.nodes.gateway.directory.UNMET_S", 0.0)
        with pytest.raises(AvowError) as caught:
            directory.route("other", None, "chat")
        assert caught.value.code == code
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tensors", [False, True])
async def test_the_gateways_own_allowance_is_waited_for(make_gateway, monkeypatch, stream, tensors):
    """What the node refuses to the gateway as payer, the caller cannot help: it is asked again once the allowance is open."""
    node, bank = SimulatedNode(), Bank()
    node.failure = PayerUncovered("no allowance")
    monkeypatch.setattr("avow.nodes.gateway.account.RETRY_S", 60)
    async with make_gateway(node, bank) as gateway:
        body = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["abc"]}]})
        ask = gateway.http.post("/v2/models/length/infer", content=body, headers=JSON)
        asked = asyncio.create_task(ask if tensors else gateway.chat(chat(stream=stream)))
        await asyncio.sleep(0.3)
        assert not asked.done()
        bank.open.set()
        await asyncio.sleep(0.1)
        node.failure = None
        answer = await asked
        assert answer.status_code == 200, answer.text
        assert len(bank.allowed) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gateway_that_cannot_pay_says_so_in_time(make_gateway, monkeypatch, stream):
    node, bank = SimulatedNode(), Bank()
    node.failure = PayerUncovered("no allowance")
    monkeypatch.setattr("avow.nodes.gateway.account.COVER_S", 0.3)
    async with make_gateway(node, bank) as gateway:
        for _ in range(2):
            answer = await gateway.chat(chat(stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "gateway_uncovered")
            assert "avow-authorisation" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"] == "1"
            bank.open.set()  # the second time there is an allowance, and the node refuses all the same
        node.failure = Busy("all slots are taken")
        assert (await gateway.chat(chat(stream=stream))).json()["error"]["code"] == "busy"


async def test_who_hangs_up_is_not_waited_for(make_gateway):
    node, bank = SimulatedNode(), Bank()
    node.failure = PayerUncovered("no allowance")
    async with make_gateway(node, bank) as gateway:
        for stream in (False, True):
            with pytest.raises(httpx2.ReadTimeout):
                await gateway.http.post("/v1/chat/completions", content=chat(stream=stream), headers=JSON, timeout=0.2)
        await asyncio.sleep(0.5)
        node.failure = None
        bank.open.set()
        assert (await gateway.chat(chat())).status_code == 200
        assert len(node.jobs) == 3


async def test_a_method_that_is_away_for_a_while_is_the_nodes_trouble_not_the_callers(make_gateway):
    node = SimulatedNode()
    async with make_gateway(node) as gateway:
        assert (await gateway.chat(chat(), avow_method="tee")).status_code == 200
        node.methods = (Method.VANILLA,)
        for _ in range(100):
            answer = await gateway.chat(chat(), avow_method="tee")
            if answer.status_code != 200:
                break
            await asyncio.sleep(0.05)
        assert answer.status_code == 503
        assert (await gateway.chat(chat())).status_code == 200


async def test_the_payer_is_the_gateways_own_account(gateway):
    await gateway.chat(chat())
    assert gateway.node.jobs[0].payer == gateway.node.network.payer
