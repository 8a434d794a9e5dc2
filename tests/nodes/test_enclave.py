"""The enclave behind its socket: binding, attestation, jobs, and what a restarted node finds."""

import asyncio
import time

import pytest

from avow.methods.registration import registration_digest
from avow.methods.tee.attesters import DevelopmentAttester
from avow.methods.tee.verify import verify_attestation
from avow.nodes import enclave as enclave_module
from avow.nodes import wire
from avow.nodes.enclave import Enclave
from avow.nodes.enclave_client import EnclaveClient
from avow.nodes.jobs import Chunks, Result
from avow.nodes.wire import Kind
from avow.receipt.statement import key_id
from tests.nodes.conftest import (
    BODY,
    CHAIN,
    OPERATOR,
    PROGRAM,
    STREAM_BODY,
    TERMS,
    StubEngine,
    job,
    loaded,
)


@pytest.fixture
async def served(tmp_path):
    attester = DevelopmentAttester(tmp_path, programs=[PROGRAM], versions={"stub": "1"})
    enclave = Enclave({PROGRAM: loaded(StubEngine(chunks=5, delay_s=0.01))}, attester)
    address = f"unix:{tmp_path}/enclave.sock"
    await enclave.listen(address)
    client = EnclaveClient()
    await client.connect(address)
    yield attester, address, client
    await client.close()
    await enclave.close()


async def finish(client, a_job):
    events = []
    over = asyncio.get_running_loop().create_future()

    def event(kind, payload):
        events.append((kind, payload))
        if kind in (Kind.END, Kind.FAILED):
            over.set_result(None)

    client.run(TERMS, wire.encode(a_job), event)
    await asyncio.wait_for(over, 10)
    return events


async def test_a_key_is_bound_once_and_attested(served):
    attester, _, client = served
    description = await client.describe()
    assert (description.attester, description.hardware) == ("development", False)
    assert [program.program for program in description.programs] == [PROGRAM]
    with pytest.raises(Exception, match="bound"):
        await client.attest(bytes(32))
    assert (await finish(client, job(method=2)))[-1][0] is Kind.FAILED
    key = await client.bind(CHAIN, OPERATOR)
    assert key == await client.bind(CHAIN, OPERATOR)
    assert key.key == key_id(key.signing_key)
    with pytest.raises(Exception, match="another"):
        await client.bind("avow-fedcba9876543210", OPERATOR)
    document = await client.attest(b"\x07" * 32)
    attestation = verify_attestation(document, roots=[description.root], now_ms=time.time_ns() // 1_000_000)
    assert attestation.public_key == key.signing_key
    assert attestation.user_data == registration_digest(
        CHAIN, OPERATOR, key.signing_key, key.transport_key, b"\x07" * 32
    )
    assert attestation.measurement == attester.measurement


async def test_answers_and_streams_come_over_the_socket(served):
    _, _, client = served
    await client.bind(CHAIN, OPERATOR)
    ((kind, payload),) = await finish(client, job(method=2))
    assert kind is Kind.END
    result = wire.decode(payload, Result)
    assert result.signed.number == 0
    events = await finish(client, job(STREAM_BODY, method=2))
    kinds = [kind for kind, _ in events]
    assert (kinds[0], kinds[-1]) == (Kind.BEGIN, Kind.END)
    chunks = [wire.decode(payload, Chunks) for kind, payload in events if kind is Kind.CHUNKS]
    assert sum(len(item.data) for item in chunks) == 5
    ((kind, payload),) = await finish(client, job(BODY[:-1], method=2))
    assert wire.decode_failure(payload).code == "malformed_json"


async def test_a_node_that_comes_back_finds_what_it_never_made_durable(served):
    _, address, client = served
    key = await client.bind(CHAIN, OPERATOR)
    for _ in range(4):
        await finish(client, job(method=2))
    client.acknowledge(2)
    await client.close()
    again = EnclaveClient()
    await again.connect(address)
    assert (await again.bind(CHAIN, OPERATOR)).key == key.key
    assert [signed.number for signed in await again.kept(2)] == [2, 3]
    assert [signed.number for signed in await again.kept(4)] == []
    await again.close()


async def test_a_stream_cut_by_a_lost_node_is_kept_as_undelivered(served):
    _, address, client = served
    await client.bind(CHAIN, OPERATOR)
    seen = asyncio.Event()
    client.run(TERMS, wire.encode(job(STREAM_BODY, method=2)), lambda kind, _: kind is Kind.CHUNKS and seen.set())
    await asyncio.wait_for(seen.wait(), 5)
    await client.close()
    again = EnclaveClient()
    await again.connect(address)
    async with asyncio.timeout(5):
        while not (kept := await again.kept(0)):
            await asyncio.sleep(0.01)
    assert [signed.number for signed in kept] == [0]
    await again.close()


async def test_jobs_stop_when_nobody_acknowledges(served, monkeypatch):
    _, _, client = served
    monkeypatch.setattr(enclave_module, "MAX_KEPT", 2)
    await client.bind(CHAIN, OPERATOR)
    for _ in range(2):
        assert (await finish(client, job(method=2)))[-1][0] is Kind.END
    ((kind, payload),) = await finish(client, job(method=2))
    assert wire.decode_failure(payload).code == "busy"
    client.acknowledge(2)
    assert (await finish(client, job(method=2)))[-1][0] is Kind.END
