"""The node with a real chain and a real enclave, on one loop."""

import asyncio
import os
import time

import pytest

import avow
from avow.nodes.chain_client import ChainClient
from avow.nodes.jobs import Answer, Begin, Chunks, Head
from avow.receipt.commitment import commit, request_parts, response_parts
from avow.receipt.receipt import Receipt
from tests.nodes.conftest import BODY, STREAM_BODY, StubEngine, job
from tests.nodes.network import network_of


async def trust_of(url):
    async with ChainClient(url) as client:
        return await client.trust()


@pytest.mark.parametrize("method", [0, 2])
async def test_an_answer_verifies_at_once_and_settles(tmp_path, method):
    async with network_of(tmp_path) as (home, inference, client, url):
        before = time.monotonic()
        answer = await client.infer(job(payer=home.payer, method=method))
        print("delivered", time.monotonic() - before)
        receipt = Receipt.from_bytes(answer.receipt)
        assert bytes.fromhex(receipt.id) == answer.id
        private = receipt.statement.private
        assert private.request == commit("request", answer.seed, request_parts(job().endpoint, BODY))
        assert private.response == commit("response", answer.seed, response_parts(answer.body))
        trust = await trust_of(url)
        report = avow.verify(receipt, trust)
        print(report)
        settled = await client.wait_settled(answer.id, 10_000)
        print("settled", time.monotonic() - before)
        report = avow.verify(Receipt.from_bytes(settled), await trust_of(url))
        print(report)
        assert Receipt.from_bytes(settled).settlement is not None
        assert report.verdict != "fail"
        opened = Receipt.from_bytes(await client.receipt(answer.id, answer.seed))
        assert opened.opening.request is not None
        with pytest.raises(Exception, match="open") as caught:
            await client.receipt(answer.id, os.urandom(32))
        assert caught.value.code == "opening_gone"
        redacted = Receipt.from_bytes(await client.receipt(answer.id, None))
        assert redacted.opening is None
        status = await client.status()
        assert status.outbox_depth == 0
        assert status.trust_gap_ms == 0
