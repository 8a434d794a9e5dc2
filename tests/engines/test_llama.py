"""The chat engine on its real model."""

import json
import threading

import pytest

from avow.engines.errors import ContextTooLong, EngineFailed, InvalidRequest, InvalidSchema

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("smollm2")]

PARIS = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def ask(engine, emit=None, **fields):
    request = {"model": "smollm2", "messages": PARIS, "temperature": 0, "max_tokens": 32, **fields}
    return engine.chat(request, engine.effective(request), emit)


def text_of(answer, index=0):
    return answer["choices"][index]["message"]["content"]


def test_the_small_model_knows_the_capital_of_france(smollm2):
    answer = ask(smollm2)
    assert "Paris" in text_of(answer)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "smollm2-135m-instruct"
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    assert choice["message"]["refusal"] is None
    assert choice["message"]["annotations"] == []
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_default_sampling_answers_paris_too(smollm2):
    request = {"model": "m", "messages": PARIS, "seed": 11, "max_tokens": 32}
    assert "Paris" in text_of(smollm2.chat(request, smollm2.effective(request)))


def test_a_stream_adds_up_to_the_whole(smollm2):
    chunks = []
    answer = ask(smollm2, chunks.append, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == text_of(answer)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == answer["usage"]
    assert {chunk["id"] for chunk in chunks} == {answer["id"]}
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)


def test_effective_parameters_repeat_the_answer(smollm2):
    request = {"model": "m", "messages": PARIS, "temperature": 1.5, "max_tokens": 24}
    effective = json.loads(json.dumps(smollm2.effective(request)))
    first = smollm2.chat(request, effective)
    assert text_of(smollm2.chat(request, effective)) == text_of(first)


def test_without_a_seed_another_is_drawn_each_time(smollm2):
    request = {"model": "m", "messages": PARIS}
    assert smollm2.effective(request)["seed"] != smollm2.effective(request)["seed"]
    assert smollm2.effective({**request, "seed": -7})["seed"] == smollm2.effective({**request, "seed": -7})["seed"]


def test_effective_parameters_of_another_request_are_refused(smollm2):
    plain = {"model": "m", "messages": PARIS}
    forced = {**plain, "tools": [WEATHER], "tool_choice": "required"}
    with pytest.raises(EngineFailed):
        smollm2.chat(forced, smollm2.effective(plain))


def test_several_choices_are_sampled_with_seeds_of_their_own(smollm2):
    pair = ask(smollm2, temperature=1.8, seed=5, n=2, max_tokens=16)
    assert text_of(ask(smollm2, temperature=1.8, seed=6, max_tokens=16)) == text_of(pair, 1)
    assert text_of(ask(smollm2, temperature=1.8, seed=5, max_tokens=16)) == text_of(pair, 0)
    assert text_of(pair, 0) != text_of(pair, 1)
    assert [choice["index"] for choice in pair["choices"]] == [0, 1]


def test_stop_and_length(smollm2):
    stopped = ask(smollm2, stop=["Paris"])
    assert text_of(stopped) == "The capital of France is "
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert ask(smollm2, max_tokens=3)["choices"][0]["finish_reason"] == "length"
    assert ask(smollm2, max_tokens=None, max_completion_tokens=3)["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("top", [0, 3])
def test_log_probabilities_cover_every_token(smollm2, top):
    chunks = []
    answer = ask(smollm2, chunks.append, stream=True, logprobs=True, top_logprobs=top)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == text_of(answer)
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == top for entry in entries)
    streamed = [e for c in chunks if c["choices"][0]["logprobs"] for e in c["choices"][0]["logprobs"]["content"]]
    assert streamed == entries


def test_log_probabilities_of_characters_made_of_several_tokens(smollm2):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "🦜é日"}}}
    answer = ask(smollm2, response_format=wanted, logprobs=True, top_logprobs=1)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert text_of(answer) == '"🦜é日"'
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == text_of(answer)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_required_tool_is_called_with_valid_arguments(smollm2, choice, stream):
    chunks = []
    tools = [WEATHER, CLOCK] if isinstance(choice, dict) else [WEATHER]
    answer = ask(
        smollm2,
        chunks.append if stream else None,
        stream=stream,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=False,
        max_tokens=100,
    )
    message = answer["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert message["content"] is None
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    arguments = json.loads(call["function"]["arguments"])
    assert set(arguments) <= {"city", "unit"}
    assert isinstance(arguments["city"], str)
    if stream:
        pieces = [
            c["choices"][0]["delta"]["tool_calls"][0] for c in chunks if c["choices"][0]["delta"].get("tool_calls")
        ]
        assert pieces[0]["id"] == call["id"]
        assert "".join(piece["function"]["arguments"] for piece in pieces) == call["function"]["arguments"]


def test_tools_that_need_not_be_called_leave_room_for_words(smollm2):
    answer = ask(smollm2, tools=[CLOCK], messages=[{"role": "user", "content": "Say hello."}])
    message = answer["choices"][0]["message"]
    assert message["content"] or message["tool_calls"]
    none = ask(smollm2, tools=[WEATHER], tool_choice="none")
    assert "tool_calls" not in none["choices"][0]["message"]
    assert none["usage"]["prompt_tokens"] == ask(smollm2)["usage"]["prompt_tokens"]


def test_a_conversation_with_a_tool_result_is_read(smollm2):
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees."},
    ]
    answer = ask(smollm2, messages=turns, tools=[WEATHER], max_tokens=40)
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_a_schema_is_enforced(smollm2):
    schema = {
        "type": "object",
        "properties": {
            "capital": {"type": "string", "maxLength": 12},
            "population": {"type": "integer", "minimum": 1000, "maximum": 99_999_999},
            "tags": {"type": "array", "items": {"enum": ["old", "large"]}, "minItems": 1, "maxItems": 2},
        },
        "required": ["capital", "population", "tags"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    value = json.loads(text_of(ask(smollm2, response_format=form, max_tokens=80)))
    assert list(value) == ["capital", "population", "tags"]
    assert 1000 <= value["population"] <= 99_999_999
    assert len(value["capital"]) <= 12


def test_json_object_mode_gives_an_object(smollm2):
    answer = ask(smollm2, response_format={"type": "json_object"}, max_tokens=200)
    if answer["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(text_of(answer)), dict)


def test_a_schema_that_cannot_be_enforced_is_refused_when_strict_and_named_when_not(smollm2):
    schema = {"type": "object", "properties": {"x": {"type": "number", "multipleOf": 7}}, "required": ["x"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    request = {"model": "m", "messages": PARIS, "response_format": form}
    with pytest.raises(InvalidSchema) as refused:
        smollm2.effective(request)
    assert refused.value.fields["param"] == "response_format.json_schema.schema.properties.x.multipleOf"
    form["json_schema"]["strict"] = False
    assert smollm2.effective(request)["not_enforced"] == [refused.value.fields["param"]]


def test_who_stops_listening_stops_the_work(smollm2):
    seen = []

    def listen(chunk):
        seen.append(chunk)
        return len(seen) >= 4

    answer = ask(
        smollm2, listen, stream=True, messages=[{"role": "user", "content": "Tell a long story."}], max_tokens=500
    )
    assert len(seen) == 4
    assert answer["choices"][0]["finish_reason"] is None
    assert text_of(answer) == "".join(chunk["choices"][0]["delta"]["content"] for chunk in seen)
    assert answer["usage"]["completion_tokens"] < 10


def test_an_error_of_the_listener_comes_out(smollm2):
    def listen(_chunk):
        if len(seen := listen.seen) >= 2:
            raise ConnectionResetError("gone")
        seen.append(1)

    listen.seen = []
    with pytest.raises(ConnectionResetError):
        ask(smollm2, listen, stream=True)


def test_a_prompt_beyond_the_context_is_refused(smollm2):
    with pytest.raises(ContextTooLong) as refused:
        ask(smollm2, messages=[{"role": "user", "content": "word " * 9000}])
    assert refused.value.fields["context"] == 2048


@pytest.mark.parametrize("text", ["\ud800", "a\x00b"])
def test_texts_that_cannot_be_rendered_are_refused(smollm2, text):
    with pytest.raises(InvalidRequest):
        ask(smollm2, messages=[{"role": "user", "content": text}])


def test_answers_at_once_are_those_one_by_one_would_be(smollm2):
    """Greedy answers of a few tokens: batching may change bits in principle, so only the sense is compared."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(text_of(ask(smollm2)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 5
    assert all("Paris" in text for text in answers)


def test_nothing_is_cached_between_requests(smollm2):
    for _ in range(2):
        assert ask(smollm2)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
