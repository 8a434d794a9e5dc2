"""The node with a real chain and a real enclave, on one loop: answers, streams, refusals, restarts, and refused batches."""

import asyncio
import os
import time

import msgspec
import pytest

import avow
from avow.chain.errors import Code, Refused
from avow.chain.modules import bank, nodes, registry, settlement
from avow.methods.tee.attesters import DevelopmentAttester
from avow.nodes.chain_client import ChainClient
from avow.nodes.enclave_process import measured_versions
from avow.nodes.errors import ReceiptNotFound
from avow.nodes.jobs import CHAT, Answer, Begin, Chunks, Consent, Head
from avow.nodes.node_client import NodeClient
from avow.nodes.outbox import Outbox
from avow.nodes.receipts import Receipts
from avow.receipt.authorisation import Authorisation
from avow.receipt.commitment import commit, request_parts, response_parts
from avow.receipt.encoding import encode
from avow.receipt.receipt import Receipt
from avow.receipt.requester import sign_request
from avow.receipt.statement import Method, next_head
from avow.receipt.stream import stream_next, stream_parts, stream_start
from tests.nodes.conftest import BODY, STREAM_BODY, StubEngine, job
from tests.nodes.network import allow, chain_of, enclave_of, make_home, network_of, node_of, ready


async def trust_of(url):
    async with ChainClient(url) as client:
        return await client.trust()


async def verified(receipt, url):
    report = avow.verify(receipt, await trust_of(url))
    assert report.verdict == "warn", [check for check in report.checks if check.outcome == "fail"]
    return report


async def settled(client, answer):
    receipt = Receipt.from_bytes(await client.wait_settled(answer.id, 15_000))
    assert receipt.settlement is not None
    return receipt


@pytest.mark.parametrize("method", [0, 2])
async def test_an_answer_verifies_at_once_settles_and_opens_for_its_secret(tmp_path, method):
    async with network_of(tmp_path) as (home, _, client, url):
        answer = await client.infer(job(payer=home.payer, method=method))
        receipt = Receipt.from_bytes(answer.receipt)
        assert bytes.fromhex(receipt.id) == answer.id
        private = receipt.statement.private
        assert private.request == commit("request", answer.seed, request_parts(job().endpoint, BODY))
        assert private.response == commit("response", answer.seed, response_parts(answer.body))
        assert answer.key == private.key
        await verified(receipt, url)
        final = await settled(client, answer)
        await verified(final, url)
        assert (final.evidence.attestation is not None) == (method == 2)
        opened = Receipt.from_bytes(await client.receipt(answer.id, answer.seed))
        assert dict(opened.opening.request)["/model"] == b'"stub"'
        await verified(opened, url)
        for secret in (os.urandom(32), b"short"):
            with pytest.raises(Exception) as caught:
                await client.receipt(answer.id, secret)
            assert caught.value.code in ("opening_gone", "wire")
        with pytest.raises(Exception) as caught:
            await client.receipt(os.urandom(32), None)
        assert caught.value.code == "receipt_not_found"
        assert Receipt.from_bytes(await client.receipt(answer.id, None)).opening is None
        status = await client.status()
        assert (status.outbox_depth, status.trust_gap_ms) == (0, 0)
        assert [(key.durable, key.settled) for key in status.keys if key.key == answer.key] == [(1, 1)]


@pytest.mark.parametrize("method", [0, 2])
async def test_a_stream_ends_in_a_receipt_of_all_of_it(tmp_path, method):
    async with network_of(tmp_path, StubEngine(chunks=40)) as (home, _, client, url):
        stream = client.stream(job(STREAM_BODY, payer=home.payer, method=method))
        events = [event async for together in stream for event in together]
        assert isinstance(events[0], Begin)
        assert isinstance(events[-1], Answer)
        assert any(isinstance(event, Head) for event in events)
        data = [item for event in events if isinstance(event, Chunks) for item in event.data]
        receipt = Receipt.from_bytes(events[-1].receipt)
        private = receipt.statement.private
        head = stream_start(private.request, private.effective)
        for item in data:
            head = stream_next(head, item)
        assert private.stream.chunks == len(data) == 40
        assert private.response == commit("response", events[-1].seed, stream_parts(data, head))
        assert events[0].standing
        await verified(await settled(client, events[-1]), url)


async def test_a_reader_who_leaves_ends_the_stream_with_an_incomplete_statement(tmp_path):
    async with network_of(tmp_path, StubEngine(chunks=500, delay_s=0.01)) as (home, inference, client, _):
        stream = client.stream(job(STREAM_BODY, payer=home.payer, method=2))
        async for together in stream:
            if any(isinstance(event, Chunks) for event in together):
                break
        await stream.aclose()
        async with asyncio.timeout(5):
            while inference.node._running or (await client.status()).outbox_depth:
                await asyncio.sleep(0.05)
        key = next(key for key in inference.node.outbox.all_keys() if key.method == 2)
        (row,) = inference.node.outbox.statements(key.key_number, 0, 10)
        assert not Receipt.from_bytes(await client.receipt(row.id, None)).statement.private.complete
        assert row.void == 0


async def test_nobody_is_billed_without_consent(tmp_path):
    async with network_of(tmp_path) as (home, _, client, url):
        for method in (0, 2):
            with pytest.raises(Exception) as caught:
                await client.infer(job(payer=os.urandom(20), method=method))
            assert (caught.value.code, caught.value.http_status) == ("payer_uncovered", 402)
        async with ChainClient(url, home.payer_key) as payer:
            expiry_ms = time.time_ns() // 1_000_000 + 3_600_000
            await payer.transact(bank.ADDRESS, "allow", home.operator, 10, expiry_ms)
        await asyncio.sleep(2.1)
        with pytest.raises(Exception) as caught:
            await client.infer(job(payer=home.payer))
        assert caught.value.code == "payer_uncovered"


def authorised(home, nonce, **changes):
    """A job whose payer has no allowance, and signed for it."""
    seed, chain_id = os.urandom(32), home.genesis.chain_id
    request = commit("request", seed, request_parts(CHAT, BODY))
    method = Method(changes.get("method", 0)).label
    requester = sign_request(home.payer_key, chain_id, request, method, b"n" * 16)
    expiry_ms = time.time_ns() // 1_000_000 + 3_600_000
    message = Authorisation(changes.pop("node", home.operator), request, changes.pop("most", 10**20), expiry_ms, nonce)
    signature = message.sign(home.payer_key, chain_id)
    consent = Consent(message.max_amount.to_bytes(16), expiry_ms, nonce, signature)
    return job(
        payer=home.payer,
        seed=seed,
        requester=home.payer,
        requester_signature=requester.signature,
        authorisation=msgspec.msgpack.encode(consent),
        **changes,
    )


@pytest.mark.parametrize("method", [0, 2])
async def test_a_payer_signs_for_one_answer(tmp_path, method):
    """It settles by the authorisation; if the payer takes it back the statement is void, and no fault of the node's."""
    home = make_home(tmp_path)
    async with chain_of(home) as chain, enclave_of(home), node_of(home, chain.url, flush_age_s=1.0) as inference:
        client = NodeClient()
        await client.connect(home.node_address)
        await ready(client)
        for changes in ({"node": bytes(20)}, {"most": 1}):
            with pytest.raises(Exception) as caught:
                await client.infer(authorised(home, 1, method=method, **changes))
            assert caught.value.code == ("bad_authorisation" if "node" in changes else "payer_uncovered")
        kept = await client.infer(authorised(home, 1, method=method))
        receipt = await settled(client, kept)
        assert (receipt.settlement.void, receipt.statement.private.authorised) == (0, True)
        await verified(receipt, chain.url)
        taken_back = await client.infer(authorised(home, 2, method=method))
        async with ChainClient(chain.url, home.payer_key) as payer:
            await payer.transact(bank.ADDRESS, "cancelAuthorisation", 2)
            receipt = await settled(client, taken_back)
            assert receipt.settlement.void == 4
            statement = receipt.statement
            head = next_head(receipt.evidence.previous_head, statement.hash())
            evidence = encode([statement.to_value(), head, receipt.evidence.signature])
            with pytest.raises(Refused) as refused:
                await payer.transact(settlement.ADDRESS, "reportFalseVoid", kept.key, evidence)
            assert refused.value.reason is Code.EVIDENCE_REFUSED
        assert inference.node.keys[method].ready
        await client.close()


async def test_what_does_not_fit_is_refused_with_its_code(tmp_path):
    async with network_of(tmp_path) as (home, inference, client, _):

        async def code(**changes):
            with pytest.raises(Exception) as caught:
                await client.infer(job(payer=home.payer, **changes))
            return caught.value.code

        assert await code(program=bytes(32)) == "unknown_program"
        assert await code(method=1) == "method_not_served"
        assert await code(endpoint="POST /v2/models/stub/infer") == "endpoint_mismatch"
        assert await code(body=b"{}") == "bad_input"
        assert await code(body=b"[") == "malformed_json"
        inference.node.outbox.writable = False
        assert await code() == "outbox_unwritable"
        inference.node.outbox.writable = True
        inference.node._max_trust_gap_ms = -1
        assert await code() == "trust_gap_exceeded"


async def test_a_full_disk_stops_answers_with_507_and_goes_on_when_there_is_room(tmp_path):
    home = make_home(tmp_path)
    async with chain_of(home) as chain, enclave_of(home):
        outbox = Outbox(home.folder / "node" / "outbox.db", max_page_count=60)
        async with node_of(home, chain.url, outbox=outbox) as inference:
            await allow(home, chain.url)
            client = NodeClient()
            await client.connect(home.node_address)
            await ready(client)
            body = BODY.replace(b"hello there", b"x" * 3000)
            delivered = []
            with pytest.raises(Exception) as caught:
                for _ in range(200):
                    delivered.append(await client.infer(job(body, payer=home.payer, method=2)))
            assert (caught.value.code, caught.value.http_status) == ("outbox_unwritable", 507)
            with pytest.raises(Exception) as caught:
                await client.infer(job(payer=home.payer, method=0))
            assert caught.value.http_status == 507
            outbox._writer.execute("pragma max_page_count=1000000")
            async with asyncio.timeout(10):
                while not (await client.status()).outbox_ok:
                    await asyncio.sleep(0.05)
            delivered.append(await client.infer(job(payer=home.payer, method=2)))
            for answer in delivered[:3] + delivered[-1:]:
                receipt = await settled(client, answer)
                assert receipt.settlement.void == 0
            numbers = {answer.number for answer in delivered}
            key = next(key for key in outbox.all_keys() if key.method == 2)
            rows = outbox.statements(key.key_number, 0, 10_000)
            assert [row.number for row in rows] == list(range(len(rows)))
            assert {row.number for row in rows if row.void} == set(range(len(rows))) - numbers
            for row in rows:
                if row.void:  # its id is public, its private part would prove to the chain that it was delivered
                    with pytest.raises(ReceiptNotFound):
                        Receipts(outbox).find(row.id)
            await client.close()
        del inference


async def test_a_node_that_restarts_settles_what_it_promised(tmp_path):
    """The enclave lives on, so its key and numbers go on; the chain comes back on the same port."""
    home = make_home(tmp_path)
    async with enclave_of(home):
        async with chain_of(home) as chain:
            port = int(chain.url.rpartition(":")[2])
            async with node_of(home, chain.url, flush_age_s=30.0):
                await allow(home, chain.url)
                client = NodeClient()
                await client.connect(home.node_address)
                await ready(client)
                first = [await client.infer(job(payer=home.payer, method=method)) for method in (0, 2, 2)]
                await client.close()
        async with chain_of(home, port=port) as chain, node_of(home, chain.url) as inference:
            client = NodeClient()
            await client.connect(home.node_address)
            await ready(client)
            later = await client.infer(job(payer=home.payer, method=2))
            assert later.key == first[1].key
            assert later.number == 2
            for answer in (*first, later):
                await verified(await settled(client, answer), chain.url)
            vanilla = [key for key in inference.node.outbox.all_keys() if key.method == 0]
            assert len(vanilla) == 2, "a vanilla key lives for one start of the node"
            async with asyncio.timeout(10):
                while not next(key for key in inference.node.outbox.all_keys() if key.key == first[0].key).retired:
                    await asyncio.sleep(0.05)
            await client.close()


async def test_a_withdrawn_program_voids_what_was_not_settled(tmp_path):
    home = make_home(tmp_path)
    async with chain_of(home) as chain, enclave_of(home):
        async with node_of(home, chain.url, flush_age_s=1.0):
            await allow(home, chain.url)
            client = NodeClient()
            await client.connect(home.node_address)
            await ready(client)
            before = await client.infer(job(payer=home.payer, method=2))
            await settled(client, before)
            answer = await client.infer(job(payer=home.payer, method=2))
            operator_key = bytes.fromhex((home.folder / "node" / "key").read_text())
            async with ChainClient(chain.url, operator_key) as operator:
                await operator.transact(registry.ADDRESS, "withdraw", "stub", 1)
            receipt = await settled(client, answer)
            assert receipt.settlement.void == 3
            assert (await settled(client, before)).settlement.void == 0
            await client.close()


async def test_openings_are_deleted_after_their_retention(tmp_path):
    async with network_of(tmp_path) as (home, inference, client, _):
        answer = await client.infer(job(payer=home.payer))
        assert await inference.node.outbox.drop_openings(time.time_ns() // 1_000_000 + 1000) == 1
        with pytest.raises(Exception) as caught:
            await client.receipt(answer.id, answer.seed)
        assert caught.value.code == "opening_gone"
        assert Receipt.from_bytes(await client.receipt(answer.id, None)).id == answer.id.hex()


async def test_settled_receipts_are_found_until_their_retention_ends(tmp_path):
    async with network_of(tmp_path) as (home, inference, client, url):
        outbox = inference.node.outbox
        for method in (0, 2):
            answer = await client.infer(job(payer=home.payer, method=method))
            await settled(client, answer)
            assert await outbox.drop_settled(time.time_ns() // 1_000_000 - 3_600_000) == 0
            await verified(Receipt.from_bytes(await client.receipt(answer.id, answer.seed)), url)
            assert await outbox.drop_settled(time.time_ns() // 1_000_000 + 1000) >= 1
            for secret in (None, answer.seed):
                with pytest.raises(Exception) as caught:
                    await client.receipt(answer.id, secret)
                assert caught.value.code == "receipt_not_found"
            following = await client.infer(job(payer=home.payer, method=method))
            await verified(await settled(client, following), url)


async def test_the_disk_holds_no_prompt(tmp_path):
    async with network_of(tmp_path) as (home, _, client, _):
        secret = "the-launch-code-is-0000"
        body = BODY.replace(b"hello there", secret.encode())
        for method in (0, 2):
            await settled(client, await client.infer(job(body, payer=home.payer, method=method)))
        for path in home.folder.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("method", [0, 2])
async def test_a_revoked_key_answers_no_more_and_what_it_promised_is_void(tmp_path, method):
    home = make_home(tmp_path)
    async with chain_of(home) as chain, enclave_of(home), node_of(home, chain.url, flush_age_s=0.5):
        await allow(home, chain.url)
        client = NodeClient()
        await client.connect(home.node_address)
        await ready(client)
        before = await client.infer(job(payer=home.payer, method=method))
        await settled(client, before)
        answer = await client.infer(job(payer=home.payer, method=method))
        async with ChainClient(chain.url, home.governance_key) as governance:
            await governance.transact(nodes.ADDRESS, "revoke", answer.key)
        receipt = await settled(client, answer)
        assert receipt.settlement.void == 1
        with pytest.raises(Exception) as caught:
            await client.infer(job(payer=home.payer, method=method))
        assert caught.value.code == "not_ready"
        await client.infer(job(payer=home.payer, method=2 - method))
        report = avow.verify(Receipt.from_bytes(await client.receipt(before.id, None)), await trust_of(chain.url))
        assert report.verdict == "warn", "earlier receipts stay what they were"
        await client.close()


async def test_attestation_and_standing_are_renewed_while_answers_flow(tmp_path, monkeypatch):
    monkeypatch.setattr("avow.nodes.keyring.STANDING_S", 0.3)
    monkeypatch.setattr(
        "tests.nodes.network.development_attester",
        lambda home, programs: DevelopmentAttester(
            home, programs=programs, versions=measured_versions(), leaf_lifetime_ms=9_000
        ),
    )
    async with network_of(tmp_path) as (home, _, client, url):
        documents, standings = set(), set()
        started = time.monotonic()
        while len(documents) < 3 and time.monotonic() - started < 30:
            answer = await client.infer(job(payer=home.payer, method=2))
            receipt = Receipt.from_bytes(answer.receipt)
            documents.add(receipt.evidence.attestation)
            standings.add(receipt.evidence.standing.block.header.height)
            await asyncio.sleep(0.2)
        assert len(documents) == 3
        assert len(standings) > 3
        await verified(await settled(client, answer), url)
