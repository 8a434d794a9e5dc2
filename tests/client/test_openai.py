"""The unmodified openai package, plain and streaming, over the verifying transports."""

import openai
import pytest

import avow
from avow.client.errors import StreamCut
from avow.client.transport import NotVerifiable
from avow.errors import TrustNotPinned
from avow.receipt.encoding import from_base64url
from avow.receipt.statement import Method
from tests.simulated_gateway import SimulatedGateway, begin_part, event_parts
from tests.simulator import Simulator

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def network():
    network = Simulator()
    network.register(Method.TEE)
    return network


@pytest.fixture
def gateway(network):
    with SimulatedGateway(network) as gateway:
        yield gateway


def settings(network, home, **more):
    return {"trust": network.trust(), "home": home, "clock_ms": lambda: network.now_ms, **more}


@pytest.fixture
def client(network, gateway, tmp_path):
    http = openai.DefaultHttpxClient(transport=avow.openai_transport(**settings(network, tmp_path, method="tee")))
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http, max_retries=0) as client:
        yield client


def receipt_of(completion):
    return avow.Receipt.from_bytes(from_base64url(completion.avow["receipt"]))


def test_a_completion(client, network):
    completion = client.chat.completions.create(model="echo", messages=MESSAGES)
    assert completion.choices[0].message.content == "You said: hello"
    assert completion.avow["method"] == "tee"
    assert completion.avow["finality"] == "instant"
    assert "elsewhere" not in str(completion.avow)  # what only the gateway says is not repeated
    assert avow.verify(receipt_of(completion), network.trust(), now_ms=network.now_ms).ok


def test_a_stream(client, network):
    stream = client.chat.completions.create(
        model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: hello "
    assert chunks[-2].usage.prompt_tokens == 3
    assert chunks[-1].choices == []
    assert avow.verify(receipt_of(chunks[-1]), network.trust(), now_ms=network.now_ms).ok


def test_the_helper_that_accumulates_a_stream(client):
    with client.chat.completions.stream(model="echo", messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == "You said: hello "


def test_method_and_finality_by_header_and_body(client):
    by_header = client.chat.completions.create(
        model="echo", messages=MESSAGES, extra_headers={"avow-method": "vanilla", "avow-finality": "settled"}
    )
    assert by_header.avow["method"] == "vanilla"
    assert by_header.avow["finality"] == "settled"
    by_body = client.chat.completions.create(
        model="echo", messages=MESSAGES, extra_body={"avow": {"method": "vanilla"}}
    )
    assert by_body.avow["method"] == "vanilla"


def test_listing_passes_and_what_cannot_be_checked_does_not(client, gateway):
    assert [model.id for model in client.models.list()] == ["echo", "length"]
    with pytest.raises(NotVerifiable):
        client.embeddings.create(model="echo", input="hello")
    assert [path for path, _, _ in gateway.requests] == []


def test_the_gateways_refusals_are_openais_errors(client, gateway):
    gateway.refusal = (400, b'{"error":{"message":"no","type":"invalid_request_error","param":"n","code":"bad"}}')
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="echo", messages=MESSAGES, n=0)
    assert raised.value.param == "n"


def test_receipts_reach_the_callback_and_the_folder(network, gateway, tmp_path):
    seen = []
    transport = avow.openai_transport(**settings(network, tmp_path, save=True, on_receipt=seen.append))
    http = openai.DefaultHttpxClient(transport=transport)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http) as client:
        client.chat.completions.create(model="echo", messages=MESSAGES)
        list(client.chat.completions.create(model="echo", messages=MESSAGES, stream=True))
    assert len(seen) == len(list((tmp_path / "receipts").iterdir())) == 2
    for receipt in seen:
        assert avow.verify(receipt, network.trust(), now_ms=network.now_ms, require=("opened",)).ok


def test_a_cut_stream_carries_its_receipt_through_openai(network, tmp_path):
    def events(streamed):
        yield begin_part(streamed)
        yield event_parts(streamed.events[0])
        yield None

    with SimulatedGateway(network, events=events) as gateway:
        http = openai.DefaultHttpxClient(transport=avow.openai_transport(**settings(network, tmp_path)))
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http) as client:
            with pytest.raises(StreamCut) as raised:
                list(client.chat.completions.create(model="echo", messages=MESSAGES, stream=True))
            assert raised.value.receipt.chunks == 1


def test_without_trust_nothing_is_sent(gateway, tmp_path):
    http = openai.DefaultHttpxClient(transport=avow.openai_transport(home=tmp_path))
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http) as client,
        pytest.raises(TrustNotPinned),
    ):
        client.chat.completions.create(model="echo", messages=MESSAGES)
    assert gateway.requests == []


async def test_the_asynchronous_client(network, gateway, tmp_path):
    transport = avow.openai_async_transport(**settings(network, tmp_path, method="tee"))
    http = openai.DefaultAsyncHttpxClient(transport=transport)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http) as client:
        completion = await client.chat.completions.create(model="echo", messages=MESSAGES)
        assert completion.avow["method"] == "tee"
        stream = await client.chat.completions.create(model="echo", messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: hello "
        assert avow.verify(receipt_of(chunks[-1]), network.trust(), now_ms=network.now_ms).ok
        assert len((await client.models.list()).data) == 2


def test_leaving_a_stream_early_hangs_up(network, tmp_path):
    import threading

    from avow.errors import AvowError

    gone = threading.Event()

    def events(streamed):
        yield begin_part(streamed)
        try:
            for event in streamed.events * 200:
                yield event_parts(event)
        finally:
            gone.set()

    with SimulatedGateway(network, events=events) as gateway:
        http = openai.DefaultHttpxClient(transport=avow.openai_transport(**settings(network, tmp_path)))
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http) as client:
            for leave in (0, 2):
                gone.clear()
                with client.chat.completions.create(model="echo", messages=MESSAGES, stream=True) as stream:
                    for _ in range(leave):
                        next(stream)
                assert gone.wait(5)
            with pytest.raises(AvowError):  # read to its end it is refused: the chunks repeat
                list(client.chat.completions.create(model="echo", messages=MESSAGES, stream=True))
