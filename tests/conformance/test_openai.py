"""The unmodified openai package against a running network: what it sends is understood, what it gets is what it expects."""

import json

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from avow.receipt.encoding import from_base64url
from avow.receipt.receipt import Receipt

pytestmark = [pytest.mark.network, pytest.mark.model, pytest.mark.xdist_group("network")]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(network):
    with openai.OpenAI(base_url=f"{network.url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def ask(client, network):
    def ask(messages=QUESTION, **options):
        return client.chat.completions.create(
            model=network.chat_model, messages=messages, **{"max_tokens": 24, **options}
        )

    return ask


def strictly(answer):
    """The answer again by the package's own types, nothing coerced: every field is there with its type."""
    kind = ChatCompletionChunk if answer.object == "chat.completion.chunk" else ChatCompletion
    kind.model_validate_json(answer.model_dump_json(exclude_unset=True), strict=False)
    raw = answer.model_dump(exclude_unset=True)
    for choice in raw["choices"]:
        assert "logprobs" in choice
        assert "finish_reason" in choice
        if "message" in choice:
            assert {"role", "content", "refusal"} <= set(choice["message"])
    return answer


def receipt_in(answer):
    member = answer.model_extra["avow"]
    receipt = Receipt.from_bytes(from_base64url(member["receipt"]))
    assert receipt.id == member["id"]
    return receipt


def test_a_plain_answer(ask, network):
    answer = strictly(ask())
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.model == network.chat_model
    assert receipt_in(answer).statement.columns.method.label == "vanilla"


@pytest.mark.parametrize("how", ["header", "body"])
def test_the_method_is_chosen_through_the_package(ask, how):
    options = {"header": {"extra_headers": {"avow-method": "tee"}}, "body": {"extra_body": {"avow": {"method": "tee"}}}}
    assert receipt_in(ask(**options[how])).statement.columns.method.label == "tee"


def test_settled_finality_through_the_package(ask):
    assert receipt_in(ask(extra_body={"avow": {"finality": "settled"}})).settlement is not None


def test_the_receipts_headers_are_there(client, network):
    raw = client.chat.completions.with_raw_response.create(model=network.chat_model, messages=QUESTION, max_tokens=4)
    assert raw.headers["avow-receipt-id"] == raw.parse().model_extra["avow"]["id"]
    assert len(from_base64url(raw.headers["avow-secret"])) == 32


def test_a_stream_with_usage(ask):
    chunks = [strictly(chunk) for chunk in ask(stream=True, stream_options={"include_usage": True})]
    *words, usage, last = chunks
    assert words[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in words)
    assert [chunk.choices[0].finish_reason for chunk in words][-1] in ("stop", "length")
    assert all(chunk.usage is None for chunk in words)
    assert usage.choices == []
    assert usage.usage.completion_tokens > 0
    assert last.choices == []
    assert len({chunk.id for chunk in chunks}) == 1
    assert receipt_in(last).statement.private.stream.chunks == len(chunks) - 1


def test_a_stream_that_is_left_early_does_no_harm(ask):
    with ask([{"role": "user", "content": "Count to one hundred."}], stream=True, max_tokens=400) as stream:
        next(iter(stream))
    assert ask().choices[0].message.content


def test_the_streaming_helper_of_the_package(client, network):
    with client.chat.completions.stream(model=network.chat_model, messages=QUESTION, max_tokens=16) as stream:
        assert [event for event in stream if event.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.content


async def test_the_asynchronous_client(network):
    async with openai.AsyncOpenAI(base_url=f"{network.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        answer = await client.chat.completions.create(model=network.chat_model, messages=QUESTION, max_tokens=8)
        assert strictly(answer).choices[0].message.content
        stream = await client.chat.completions.create(
            model=network.chat_model, messages=QUESTION, max_tokens=8, stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].model_extra["avow"]["id"]


def test_several_choices(ask):
    answer = strictly(ask(n=3, temperature=1.0, seed=5))
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    chunks = list(ask(n=2, stream=True, max_tokens=6))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def test_stop(ask):
    answer = ask([{"role": "user", "content": "Count: one two three four five"}], stop=["three", "\n"], max_tokens=40)
    assert "three" not in answer.choices[0].message.content


def test_the_same_seed_gives_the_same_text(ask):
    texts = {ask(seed=11, temperature=0.9).choices[0].message.content for _ in range(2)}
    assert len(texts) == 1


def test_log_probabilities(ask):
    answer = strictly(ask(logprobs=True, top_logprobs=3, max_tokens=5))
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens or answer.choices[0].finish_reason == "stop"
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert bytes(entry.bytes).decode(errors="replace")
    chunks = list(ask(logprobs=True, max_tokens=5, stream=True))
    assert any(chunk.choices and chunk.choices[0].logprobs for chunk in chunks)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_is_called_when_it_must_be(ask, choice):
    answer = strictly(
        ask(
            [{"role": "user", "content": "What is the weather in Paris?"}],
            tools=TOOLS,
            tool_choice=choice,
            max_tokens=200,
        )
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_a_tool_call_is_streamed_in_pieces(ask):
    stream = ask(
        [{"role": "user", "content": "What is the weather in Rome?"}],
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=200,
        stream=True,
    )
    pieces = [
        call
        for chunk in stream
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
        if call.index == 0
    ]
    assert pieces[0].function.name == "get_weather"
    assert len(pieces) > 2
    assert json.loads("".join(piece.function.arguments or "" for piece in pieces))["city"] in ("Paris", "Rome")


def test_no_tool_is_called_when_none_may_be(ask):
    answer = ask(tools=TOOLS, tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content


def test_a_tools_result_is_taken_back(ask):
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    assert strictly(ask(messages, tools=TOOLS, tool_choice="none")).choices[0].message.content


def test_json_schema(ask):
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "size": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["city", "size"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}
    answer = strictly(ask([{"role": "user", "content": "Name a city."}], response_format=wanted, max_tokens=120))
    assert answer.choices[0].finish_reason == "stop"
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"city", "size"}
    assert 0 <= found["size"] <= 99


def test_json_object(ask):
    answer = ask(
        [{"role": "user", "content": "Answer with a JSON object."}],
        response_format={"type": "json_object"},
        max_tokens=400,
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_the_packages_own_parsing_of_a_schema(client, network):
    import pydantic

    class City(pydantic.BaseModel):
        city: str

    answer = client.chat.completions.parse(
        model=network.chat_model, messages=QUESTION, response_format=City, max_tokens=200
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(answer.choices[0].message.parsed, City)


def test_models(client, network):
    assert {model.id for model in client.models.list()} == {network.chat_model, network.classifier, "magika-exact"}
    assert client.models.retrieve(network.chat_model).owned_by == "avow"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        ({"model": "none"}, openai.NotFoundError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"n": 0}, openai.BadRequestError, "n"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
        ({"top_logprobs": 3}, openai.BadRequestError, "top_logprobs"),
        ({"extra_body": {"avow": {"method": "magic"}}}, openai.BadRequestError, "avow.method"),
        (
            {"extra_headers": {"avow-method": "tee"}, "extra_body": {"avow": {"method": "vanilla"}}},
            openai.BadRequestError,
            "avow.method",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_packages_own(client, network, options, kind, param, stream):
    request = {"model": network.chat_model, "messages": QUESTION, "max_tokens": 4, "stream": stream} | options
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**request)
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"
    assert raised.value.code
    assert raised.value.body["message"]
