"""Models, receipts by id, the report, the page, trust, health, metrics."""

import asyncio
import json
import re

import pytest

from avow.nodes.gateway.pages import ASSETS, CONTENT_SECURITY_POLICY, RECEIPT_PAGE
from avow.receipt.receipt import Receipt
from tests.nodes.gateway.simulated_node import chat


async def answered(gateway, text="the secret words", **headers):
    answer = await gateway.chat(chat(text), **headers)
    return answer.json()["avow"], answer.headers["avow-secret"]


async def test_models_are_listed_as_openai_lists_them(gateway):
    listed = (await gateway.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["echo", "length"]
    echo = listed["data"][0]
    assert set(echo) >= {"id", "object", "created", "owned_by"}
    node = "0x" + gateway.node.network.operator.hex()
    assert echo["avow"]["methods"]["tee"] == {"price_wei_per_unit": "10", "nodes": [node]}
    assert (await gateway.http.get("/v1/models/echo")).json() == echo
    assert (await gateway.http.get(f"/v1/models/{echo['avow']['program']}")).json() == echo
    missing = await gateway.http.get("/v1/models/none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_open_inference_protocols_health_and_metadata(gateway):
    assert (await gateway.http.get("/v2/health/live")).json() == {"live": True}
    assert (await gateway.http.get("/v2/health/ready")).json() == {"ready": True}
    metadata = (await gateway.http.get("/v2/models/length")).json()
    assert metadata["name"] == "length"
    assert set(metadata) == {"name", "versions", "platform", "inputs", "outputs"}
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert (await gateway.http.get("/v2/models/length/ready")).json()["ready"] is True
    assert (await gateway.http.get("/v2/models/echo")).status_code == 404


async def test_by_id_anyone_gets_the_redacted_receipt_and_no_words(gateway):
    avow, _secret = await answered(gateway)
    found = await gateway.http.get(avow["url"])
    assert b"the secret words" not in found.content
    receipt = Receipt.from_json(found.content)
    assert receipt.id == avow["id"]
    assert receipt.opening is None
    cbor = await gateway.http.get(avow["url"], headers={"accept": "application/cbor"})
    assert cbor.headers["content-type"] == "application/cbor"
    assert Receipt.from_bytes(cbor.content) == receipt


async def test_the_secret_opens_the_receipt_and_a_wrong_one_does_not(gateway):
    avow, secret = await answered(gateway)
    found = await gateway.http.get(avow["url"], headers={"avow-secret": secret})
    assert b"the secret words" in found.content
    assert found.headers["cache-control"] == "no-store"
    wrong = await gateway.http.get(avow["url"], headers={"avow-secret": "A" * 43})
    assert wrong.status_code == 404
    assert b"the secret words" not in wrong.content
    malformed = await gateway.http.get(avow["url"], headers={"avow-secret": "short"})
    assert (malformed.status_code, malformed.json()["error"]["code"]) == (400, "bad_option")


async def test_waiting_for_the_settlement(gateway):
    avow, _ = await answered(gateway)
    assert Receipt.from_json((await gateway.http.get(avow["url"])).content).settlement is None
    settled = await gateway.http.get(avow["url"] + "?wait_ms=5000")
    assert Receipt.from_json(settled.content).settlement is not None
    gateway.node.settles = False
    later, _ = await answered(gateway)
    waited = await gateway.http.get(later["url"] + "?wait_ms=20")
    assert waited.status_code == 200
    assert Receipt.from_json(waited.content).settlement is None
    assert (await gateway.http.get(avow["url"] + "?wait_ms=99999999")).status_code == 400
    assert (await gateway.http.get(avow["url"] + "?wait_ms=-1")).status_code == 400


@pytest.mark.parametrize("name", ["0" * 64, "zz", "A" * 64, "0" * 63])
async def test_unknown_receipts_are_not_found(gateway, name):
    for path in (f"/receipts/{name}", f"/receipts/{name}/report"):
        found = await gateway.http.get(path)
        assert found.status_code == 404
        assert found.json()["error"]["code"] in ("not_found", "receipt_not_found")


async def test_the_report_names_every_check_and_what_is_not_proven(gateway):
    avow, secret = await answered(gateway, avow_method="tee", avow_finality="settled")
    report = (await gateway.http.get(avow["url"] + "/report", headers={"avow-secret": secret})).json()
    assert report["verdict"] == "warn"
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    assert outcomes["response"] == "pass"
    assert outcomes["settlement"] == "pass"
    assert all(check["detail"] for check in report["checks"])
    assert report["not_proven"]
    redacted = (await gateway.http.get(avow["url"] + "/report")).json()
    assert {check["name"]: check["outcome"] for check in redacted["checks"]}["response"] == "skipped"


async def test_the_page_is_one_for_all_and_lets_nothing_else_in(gateway):
    page = await gateway.http.get("/r/" + "ab" * 32)
    assert page.status_code == 200
    assert page.content == RECEIPT_PAGE.body
    assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert page.headers["referrer-policy"] == "no-referrer"
    referred = set(re.findall(r'(?:src|href)="([^"]+)"', page.text))
    assert referred == {f"/pages/{name}" for name in ASSETS}
    for path in referred:
        asset = await gateway.http.get(path)
        assert asset.status_code == 200
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"https?://(?!www\.w3\.org)", asset.text)
    assert (await gateway.http.get("/pages/../errors.py")).status_code == 404
    assert (await gateway.http.get("/r/nothing")).status_code == 404


def test_the_page_never_makes_markup_from_text():
    script = ASSETS["receipt.js"].body.decode()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)
    assert "<script>" not in RECEIPT_PAGE.body.decode()
    assert " style=" not in RECEIPT_PAGE.body.decode()


async def test_the_trust_policy_is_handed_out(gateway):
    policy = await gateway.http.get("/trust")
    assert policy.json()["chain_id"] == gateway.node.network.chain_id
    assert policy.content == gateway.node.network.trust().to_json()


async def test_health_follows_the_nodes(gateway):
    health = await gateway.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    gateway.node.lose()
    health = await gateway.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")


def series(text):
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


async def test_metrics_count_what_happened(gateway):
    await gateway.chat(chat())
    await gateway.chat(chat(stream=True), avow_method="tee")
    await gateway.chat(b"not json")
    exposition = await gateway.http.get("/metrics")
    assert exposition.headers["content-type"].startswith("text/plain; version=0.0.4")
    counted = series(exposition.text)
    assert counted['avow_gateway_requests_total{endpoint="chat",method="vanilla",status="200"}'] == "1"
    assert counted['avow_gateway_requests_total{endpoint="chat",method="tee",status="200"}'] == "1"
    assert counted['avow_gateway_errors_total{code="malformed_request"}'] == "1"
    assert counted['avow_gateway_request_seconds_count{endpoint="chat",stream="true"}'] == "1"
    assert counted["avow_gateway_first_chunk_seconds_count"] == "1"
    assert int(counted['avow_gateway_usage_total{unit="completion_tokens"}']) > 4


async def test_the_trust_gap_is_measured_from_delivery_to_settlement(gateway):
    await gateway.chat(chat())
    for _ in range(100):
        counted = series((await gateway.http.get("/metrics")).text)
        if float(counted["avow_gateway_trust_gap_open_seconds"]) > 0.05:
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("the open gap is not shown")
    assert int(counted['avow_node_outbox_depth{node="unix:/simulated"}']) == 1
    gateway.node.settle()
    for _ in range(100):
        counted = series((await gateway.http.get("/metrics")).text)
        if counted.get("avow_gateway_trust_gap_seconds_count") == "1":
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the settlement was not seen")
    assert 0.05 < float(counted["avow_gateway_trust_gap_seconds_sum"]) < 5


async def test_the_front_door_names_the_paths(gateway):
    assert "/v1/chat/completions" in json.dumps((await gateway.http.get("/")).json())
