"""The chat request: shape, limits, and nothing dropped silently."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.engines.errors import InvalidRequest, UnknownParameter, UnsupportedParameter
from avow.engines.openai import MAX_BODY, chat_body, parse_chat
from avow.errors import AvowError, TooLarge

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def body(**fields):
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


def encoded(**fields):
    return json.dumps(body(**fields)).encode()


def messages(*turns):
    return {"messages": list(turns)}


def test_a_request_is_read_and_kept_whole():
    request = parse_chat(encoded(stream=True, stream_options={"include_usage": True}, avow={"method": "tee"}, seed=3))
    assert (request.model, request.stream, request.include_usage) == ("m", True, True)
    assert request.extension == {"method": "tee"}
    assert request.body["seed"] == 3
    assert not parse_chat(encoded()).stream


ACCEPTED = [
    {"temperature": 0, "top_p": 1, "frequency_penalty": -2, "presence_penalty": 2, "seed": -1},
    {"max_completion_tokens": 5, "n": 2, "stop": "x", "logit_bias": {"12": -100}},
    {"stop": ["a", "b"], "logprobs": True, "top_logprobs": 0},
    {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "modalities": ["text"]},
    {"temperature": None, "stop": None, "tools": None, "response_format": None, "stream": None},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
    {
        "tools": [TOOL],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
        },
    },
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
    messages(
        {"role": "developer", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    ),
    messages(
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
    ),
    messages(
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y", "refusal": None, "annotations": [], "audio": None, "function_call": None},
    ),
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=lambda f: ",".join(f)[:40])
def test_what_the_api_has_is_accepted(fields):
    assert parse_chat(encoded(**fields)).model == "m"


REFUSED = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 1 << 70}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"parallel_tool_calls": True}, "parallel_tool_calls"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
    (messages({"role": "robot", "content": "x"}), "messages[0].role"),
    (messages({"role": "user"}), "messages[0].content"),
    (messages({"role": "user", "content": []}), "messages[0].content"),
    (messages({"role": "assistant"}), "messages[0].content"),
    (messages({"role": "tool", "content": "x", "tool_call_id": "c1"}), "messages[0].tool_call_id"),
    (messages({"role": "user", "content": "x", "tool_calls": [CALL]}), "messages[0].tool_calls"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda x: str(x)[:40])
def test_what_is_wrong_is_refused_by_name(fields, param):
    with pytest.raises(InvalidRequest) as refused:
        parse_chat(encoded(**fields))
    assert refused.value.fields["param"] == param
    assert refused.value.http_status == 400


@pytest.mark.parametrize(("fields", "param"), [
    ({"top_k": 3}, "top_k"),
    ({"functions": []}, "functions"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    (messages({"role": "user", "content": "x", "reasoning": "y"}), "messages[0].reasoning"),
])  # fmt: skip
def test_an_unknown_field_is_refused_by_name(fields, param):
    with pytest.raises(UnknownParameter) as refused:
        parse_chat(encoded(**fields))
    assert refused.value.fields["param"] == param


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_other_media_are_refused_as_not_supported(kind):
    with pytest.raises(UnsupportedParameter):
        parse_chat(encoded(**messages({"role": "user", "content": [{"type": kind, kind: {}}]})))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 200_000, b'{"model": 1e999}', b'{"a":"\\ud800"}']
)
def test_what_is_no_json_object_is_refused(data):
    with pytest.raises(InvalidRequest):
        parse_chat(data)


def test_sizes_are_checked_first():
    with pytest.raises(TooLarge):
        parse_chat(bytes(MAX_BODY + 1))
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 300_000}}
    with pytest.raises(TooLarge):
        parse_chat(encoded(tools=[tool]))


NAMES = st.sampled_from(["model", "messages", "role", "content", "type", "text", "tools", "function", "name", "stop", "n",
                         "tool_calls", "id", "arguments", "stream", "response_format", "json_schema", "schema"])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
    | st.sampled_from(["user", "assistant", "tool", "text", "function", "auto", "json_schema"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300)
@given(JSON)
def test_any_json_gives_a_request_or_a_typed_error(value):
    try:
        parse_chat(json.dumps(value).encode())
    except AvowError as error:
        assert error.http_status in (400, 413)


@settings(max_examples=300)
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_any_fields_beside_sound_ones_do_too(fields):
    try:
        chat_body({**body(), **fields})
    except InvalidRequest:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_do_too(data):
    with pytest.raises(InvalidRequest):
        parse_chat(data)
