"""Tool calls: the grammar admits well-formed ones only, and the parser takes them out however the text is cut."""

import json
import random
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.engines.errors import InvalidSchema
from avow.engines.openai import chat_body
from avow.engines.prompt import CALL_OPEN, turns
from avow.engines.tools import (
    CallArguments,
    CallBegins,
    ToolCallParser,
    Words,
    bare_prefixes,
    plan_tools,
    tool_grammar,
)
from tests.engines.gbnf import Generator

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = {"get_weather": WEATHER, "now": {"type": "object", "properties": {}, "additionalProperties": False}}


def tool(name, strict=False, **more):
    return {"type": "function", "function": {"name": name, "parameters": TOOLS[name], "strict": strict, **more}}


def request(**fields):
    tools = [tool("get_weather"), tool("now")]
    return chat_body({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools, **fields})


def parsed(texts, bare=()):
    """Words, and (name, arguments) of each call."""
    parser, words, calls = ToolCallParser(bare), "", []
    events = [event for text in texts for event in parser.feed(text)]
    for event in [*events, *parser.finish()]:
        if isinstance(event, Words):
            words += event.text
        elif isinstance(event, CallBegins):
            assert event.index == len(calls)
            calls.append([event.name, ""])
        elif isinstance(event, CallArguments):
            calls[event.index][1] += event.text
    return words, [tuple(call) for call in calls]


NAMED = {"type": "function", "function": {"name": "now"}}


def allowed(mode):
    tools = [{"type": "function", "function": {"name": "now"}}]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "names", "must"),
    [
        ("required", {"get_weather", "now"}, True),
        ("auto", {"get_weather", "now"}, False),
        (None, {"get_weather", "now"}, False),
        (NAMED, {"now"}, True),
        (allowed("required"), {"now"}, True),
        (allowed("auto"), {"now"}, False),
    ],
)
def test_whatever_the_model_says_is_words_or_valid_calls(choice, names, must):
    plan = plan_tools(request(tool_choice=choice))
    generator = Generator(tool_grammar(plan).text, random.Random(7))
    seen = set()
    for attempt in range(300):
        # Chance alone hardly ever writes the whole mark: every other text begins one letter before its end.
        begun = not must and attempt % 2
        text = (
            CALL_OPEN[:-1] + generator.text(f"words-{len(CALL_OPEN) - 1}", 40) if begun else generator.text(budget=40)
        )
        words, calls = parsed([text], bare_prefixes(plan))
        seen.add(bool(calls))
        assert CALL_OPEN not in words
        assert not must or (calls and not words)
        for name, arguments in calls:
            assert name in names
            jsonschema.validate(json.loads(arguments), TOOLS[name])
    assert True in seen


@pytest.mark.parametrize("fields", [{"tool_choice": NAMED}, {"tool_choice": "required", "parallel_tool_calls": False}])
def test_one_call_where_one_is_asked_for(fields):
    generator = Generator(tool_grammar(plan_tools(request(**fields))).text, random.Random(7))
    assert all(len(parsed([generator.text(budget=40)])[1]) == 1 for _ in range(50))


def test_no_tools_no_plan():
    assert plan_tools(request(tool_choice="none")).mode == "none"
    assert plan_tools(chat_body({"model": "m", "messages": [{"role": "user", "content": "x"}]})).mode == "none"


def test_a_strict_tool_is_judged_strictly():
    loose = {"type": "object", "properties": {"x": {"type": "string", "pattern": "a"}}, "additionalProperties": False}
    definition = {"type": "function", "function": {"name": "f", "parameters": loose}}
    assert tool_grammar(plan_tools(request(tools=[definition]))).unenforced
    definition["function"]["strict"] = True
    with pytest.raises(InvalidSchema):
        tool_grammar(plan_tools(request(tools=[definition])))


TEXTS = [
    "",
    "plain words",
    " words with a < b and <tool_ca and white space \n",
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "}</tool_call>"}}\n</tool_call>',
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par',
    '<tool_call>\n{"name": "get_we',
]


ARGUMENTS = '{"city": "a}\\"{", "days": 3}'
BARE = [
    f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}',
    f'```json\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n```',
    f'```json\n{{\n  "name": "get_weather",\n  "arguments": {ARGUMENTS}\n}}\n```',
]
PREFIXES = bare_prefixes(plan_tools(request()))


@pytest.mark.parametrize("text", BARE)
def test_calls_without_tags_are_taken_out_where_the_grammar_makes_them(text):
    assert parsed([text], PREFIXES) == ("", [("get_weather", ARGUMENTS)])
    assert parsed(list(text), PREFIXES) == ("", [("get_weather", ARGUMENTS)])
    assert parsed([text]) == (text, [])
    cut = text[: text.index("days")]
    assert parsed([cut], PREFIXES) == ("", [("get_weather", '{"city": "a}\\"{", "')])


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather"}',
        '{"name": "Bob", "arguments": {}}',
        '```json\n{"name": "Bob"}\n```',
        'So: {"name": "get_weather", "arguments": {}}',
        '{"name": "get_wea',
    ],
)
def test_what_only_looks_like_a_call_is_words(text):
    assert parsed([text], PREFIXES) == (text, [])
    assert parsed(list(text), PREFIXES) == (text, [])


def test_the_grammar_follows_the_beginning_of_a_call_and_of_everything_else():
    """Random texts hardly ever begin like a call: the rules are walked letter by letter here."""
    grammar = tool_grammar(plan_tools(request())).text
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
    for text in PREFIXES:
        rule = rules["root"]
        for position, letter in enumerate(text):
            ways = dict(re.findall(r'"((?:\\.|[^"\\])+)" (.+?)(?: \| |$)', rules[rule].removeprefix('"" | ')))
            shown = {"\n": "\\n", '"': '\\"'}.get(letter, letter)
            assert ways["<"] == "words-1"
            assert rules[rule].endswith(" words-0")
            rule = ways[shown]
            if position < len(text) - 1:
                assert rule in rules
        value = Generator(grammar, random.Random(3))
        value.rules["made"] = value.rules["root"]
        found = re.match(r"(r\d+) ", rule)
        jsonschema.validate(json.loads(value.text(found[1])), TOOLS["now" if "now" in text else "get_weather"])


@pytest.mark.parametrize(
    "parameters", [{"type": "string"}, {"anyOf": [{"type": "null"}]}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}]
)
def test_arguments_are_an_object_whatever_the_schema_says(parameters):
    definition = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    plan = plan_tools(request(tools=[definition], tool_choice="required"))
    assert tool_grammar(plan).unenforced == ("tools[0].function.parameters",)
    ((_name, arguments),) = parsed([Generator(tool_grammar(plan).text, random.Random(1)).text()])[1][:1]
    assert isinstance(json.loads(arguments), dict)
    definition["function"]["strict"] = True
    with pytest.raises(InvalidSchema):
        tool_grammar(plan_tools(request(tools=[definition])))


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
@settings(max_examples=40)
def test_how_the_text_is_cut_does_not_matter(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parsed(pieces) == parsed([text])
    assert parsed(pieces, PREFIXES) == parsed([text], PREFIXES)


def test_names_with_dashes_make_no_ranges_of_letters():
    names = ["a-z", "a_z", "a0", "aZ"]
    tools = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in names]
    grammar = tool_grammar(plan_tools(request(tools=tools))).text
    sets = [
        found
        for line in grammar.splitlines()
        if "words-0" in line
        for found in re.findall(r"\[\^[^\]]*\] words-0", line)
    ]
    assert not any("-" in found.removesuffix(" words-0") for found in sets)


def test_what_the_parser_takes_out():
    assert parsed([TEXTS[2]]) == (TEXTS[2], [])
    assert parsed([TEXTS[4]]) == ("Let me see.", [("get_weather", '{"city": "}</tool_call>"}')])
    assert parsed([TEXTS[5]]) == ("", [("now", "{}"), ("now", "{}")])
    assert parsed([TEXTS[6]]) == ("", [("get_weather", '{"city": "Par')])
    assert parsed([TEXTS[7]]) == ("", [])


@given(st.lists(st.text(alphabet='<>tol_ca/l{}"\n n:argumes', max_size=12), max_size=8))
def test_any_text_is_taken(pieces):
    parsed(pieces)
    parsed(pieces, PREFIXES)


def test_words_come_as_soon_as_they_are_certain():
    parser = ToolCallParser()
    assert list(parser.feed("Hello")) == [Words("Hello")]
    assert list(parser.feed(" <tool")) == []
    assert list(parser.feed("box> is")) == [Words(" <toolbox> is")]


def test_a_conversation_is_rendered_by_the_convention():
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    again = {**call, "id": "2"}
    asked = request(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "Sure.", "tool_calls": [call, again]},
            {"role": "tool", "tool_call_id": "1", "content": "noon"},
            {"role": "tool", "tool_call_id": "2", "content": "noon"},
            {"role": "developer", "content": "Now answer."},
        ]
    )
    rendered = turns(asked.messages, asked.tools, "never used")
    assert [turn["role"] for turn in rendered] == ["system", "user", "assistant", "user", "system"]
    assert rendered[0]["content"].startswith("Be brief.\n\n# Tools\n")
    assert '{"type": "function", "function": {"name": "now"' in rendered[0]["content"]
    assert rendered[1]["content"] == "a\nb"
    one = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert rendered[2]["content"] == f"Sure.\n{one}\n{one}"
    assert rendered[3]["content"].count("<tool_response>\nnoon\n</tool_response>") == 2
    assert turns(asked.messages[1:2], (), "Default.")[0] == {"role": "system", "content": "Default."}
    assert turns(asked.messages[1:2], (), "")[0]["role"] == "user"
