"""Our own client against our own gateway: what two hands wrote from one specification, checked against each other."""

import pytest

import avow
from avow.nodes.errors import EngineFailure


@pytest.fixture
async def client(gateway, tmp_path):
    policy = gateway.node.network.trust()
    async with avow.AsyncClient(gateway.url, trust=policy, home=tmp_path / "reader") as made:
        yield made


@pytest.mark.parametrize("method", ["vanilla", "tee"])
async def test_a_verified_answer_and_its_settlement(client, method):
    answer = await client.chat("hello there", model="echo", method=method)
    assert "hello there" in answer.text
    receipt = await answer.settled(10)
    assert receipt.is_settled


@pytest.mark.parametrize("method", ["vanilla", "tee"])
async def test_a_stream_whose_chunks_are_verified_as_they_come(client, method):
    async with await client.stream("one two three four", model="echo", method=method) as stream:
        text = "".join([chunk.text async for chunk in stream])
    assert "one two three four" in text
    assert stream.receipt.id


async def test_tensors(client):
    inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["abcd"]}]
    answer = await client.infer("length", inputs)
    assert answer.output("length") == [4]


async def test_settled_finality(client):
    answer = await client.chat("hello", model="echo", finality="settled")
    assert answer.receipt.is_settled


async def test_an_error_is_the_gateways(client, gateway):
    gateway.node.failure = EngineFailure("the engine broke")
    with pytest.raises(avow.errors.AvowError) as raised:
        await client.chat("hello", model="echo")
    assert (raised.value.fields["status"], raised.value.fields["remote_code"]) == (500, "engine_failure")


async def test_a_stream_that_breaks_off_leaves_proof_of_what_came(client, gateway):
    gateway.node.cut = EngineFailure("the engine broke")
    stream = await client.stream("one two three four", model="echo")
    with pytest.raises(avow.errors.AvowError):
        async for _ in stream:
            pass
    assert stream.partial is not None
    await stream.aclose()
