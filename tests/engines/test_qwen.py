"""The larger chat model: good answers, and tools called of its own accord. Only where it was added to the shared store."""

import json

import pytest

from avow.engines import load
from avow.errors import AvowError
from avow.models import catalogue

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.xdist_group("qwen")]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The present weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def qwen(model_store):
    entry = catalogue.entry("qwen2.5-coder-1.5b-instruct")
    try:
        program = model_store.get(entry.manifest.program_id)
    except AvowError:
        pytest.skip("1.1 GB that nobody has added to build/model-cache yet")
    engine = load(program, slots=1)
    yield engine
    engine.close()


def ask(engine, text, emit=None, **fields):
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 48,
        **fields,
    }
    return engine.chat(request, engine.effective(request), emit)["choices"][0]


def test_it_knows_the_capital_of_france(qwen):
    assert "Paris" in ask(qwen, "What is the capital of France?")["message"]["content"]


def test_it_calls_a_tool_when_that_helps_and_not_otherwise(qwen):
    called = ask(qwen, "What is the weather in Paris right now, in celsius?", tools=[WEATHER])
    assert called["finish_reason"] == "tool_calls"
    (call,) = called["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["city"] == "Paris"
    words = ask(qwen, "Say good morning in French.", tools=[WEATHER])
    assert words["message"]["content"]
    assert "tool_calls" not in words["message"]


def test_it_uses_a_tools_answer(qwen):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"temperature": 21, "sky": "sunny"}'},
    ]
    assert "21" in ask(qwen, "", messages=turns, tools=[WEATHER], tool_choice="none")["message"]["content"]
