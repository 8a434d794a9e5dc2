"""Grammars from JSON Schemas: whatever an unhelpful model says under them is valid; judged by the jsonschema package."""

import json
import random
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.engines.errors import InvalidSchema
from avow.engines.grammar import any_object, schema_grammar
from avow.engines.integer_range import integer_range
from tests.engines.gbnf import Generator

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}

SCHEMAS = [
    {},
    True,
    TREE,
    {"type": "string"},
    {"type": "string", "minLength": 2, "maxLength": 3},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "integer"},
    {"type": "integer", "minimum": -12, "maximum": 345},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "minimum": 7.0},
    {"type": "number"},
    {"type": ["string", "null"], "maxLength": 1},
    {"type": "boolean"},
    {"enum": ["a", 1, None, {"x": [1.5, "é"]}, 'quo"te\n']},
    {"const": "line\nbreak\x01\x7f\\"},
    {"type": "array"},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"type": "null"}, "maxItems": 1},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
    {"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "string"}, "minItems": 3, "maxItems": 4},
    {"type": "object"},
    {"type": "object", "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["b"], "additionalProperties": False},
    {"properties": {'quo"te': {"type": "null"}}, "required": ['quo"te', "undeclared"]},
    {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}]},
    {"allOf": [{"type": "integer"}]},
    {"type": "array", "items": TREE["$defs"]["node"] | {"properties": {"value": {"type": "integer"}, "next": {}}}},
    {
        "title": "X",
        "description": "y",
        "type": "object",
        "properties": {"e": {"$ref": "#/definitions/E"}},
        "definitions": {"E": {"enum": ["p", "q"]}},
        "required": ["e"],
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_every_text_of_the_grammar_is_valid(schema):
    grammar = schema_grammar({"anyOf": [schema]} if schema is True else schema, strict=False, param="s")
    assert grammar.unenforced == ()
    generator = Generator(grammar.text, random.Random(5))
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for _ in range(60):
        text = generator.text()
        assert "\n" not in text
        checker.validate(json.loads(text))


def test_json_object_mode_gives_objects():
    generator = Generator(any_object().text, random.Random(3))
    assert all(isinstance(json.loads(generator.text()), dict) for _ in range(50))


def test_the_grammar_says_all_that_the_schema_allows_of_optional_members():
    schema = {"type": "object", "properties": {name: {"const": 1} for name in "abc"}, "additionalProperties": False}
    generator = Generator(schema_grammar(schema, strict=True, param="s").text, random.Random(1))
    found = {tuple(json.loads(generator.text())) for _ in range(400)}
    assert found == {tuple(c for c in "abc" if mask >> "abc".index(c) & 1) for mask in range(8)}


STRICT_REFUSES = [
    ({"type": "number", "minimum": 3}, "s.minimum"),
    ({"type": "integer", "multipleOf": 3}, "s.multipleOf"),
    ({"type": "string", "pattern": "a+"}, "s.pattern"),
    ({"type": "string", "format": "hostname"}, "s.format"),
    ({"type": "string", "maxLength": 100_000}, "s.maxLength"),
    ({"type": "array", "uniqueItems": True}, "s.uniqueItems"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "s.oneOf"),
    ({"allOf": [{}, {}]}, "s.allOf"),
    ({"not": {}}, "s.not"),
    ({"if": {}, "then": {}}, "s.if"),
    ({"anyOf": [{}], "not": {}}, "s.not"),
]


@pytest.mark.parametrize(("schema", "where"), STRICT_REFUSES)
def test_what_cannot_be_enforced_is_named_or_refused(schema, where):
    with pytest.raises(InvalidSchema) as refused:
        schema_grammar(schema, strict=True, param="s")
    assert refused.value.fields["param"] == where
    assert where in schema_grammar(schema, strict=False, param="s").unenforced


def deep(depth):
    schema = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


IMPOSSIBLE = [
    {"type": "text"},
    {"type": []},
    {"type": 5},
    {"type": "object", "properties": []},
    {"type": "object", "required": "a"},
    {"type": "object", "required": ["a"], "additionalProperties": False},
    {"type": "array", "minItems": 5, "maxItems": 4},
    {"type": "array", "minItems": -1},
    {"type": "array", "minItems": True},
    {"type": "array", "minItems": 100_000},
    {"type": "array", "prefixItems": [{}], "items": False, "minItems": 2},
    {"type": "integer", "minimum": 5, "maximum": 4},
    {"type": "integer", "minimum": 10**30},
    {"type": "integer", "minimum": 0.5},
    {"enum": []},
    {"enum": "abc"},
    {"enum": list(range(5000))},
    {"anyOf": []},
    {"anyOf": {}},
    {"properties": {"x": False}},
    {"properties": {"x": 5}},
    {"$ref": "https://elsewhere/schema"},
    {"$ref": "#/$defs/nothing"},
    {"$ref": 5},
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    deep(60),
    {"type": "object", "properties": {f"p{n}": {"type": "array", "items": {"const": n}} for n in range(3000)}},
    {"const": "x" * 600_000},
]


@pytest.mark.parametrize("schema", IMPOSSIBLE, ids=lambda schema: json.dumps(schema)[:40])
def test_schemas_that_make_no_sense_are_refused(schema):
    with pytest.raises(InvalidSchema):
        schema_grammar(schema, strict=False, param="s")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "required",
        "enum",
        "anyOf",
        "$ref",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "additionalProperties",
        "minLength",
        "const",
        "allOf",
        "format",
        "prefixItems",
        "pattern",
    ]
)
VALUES = JSON | st.sampled_from(["object", "array", "string", "integer", "number", "null", "boolean", "#", "date"])
WILD = st.recursive(
    st.dictionaries(KEYWORDS, VALUES, max_size=3),
    lambda inner: st.dictionaries(
        KEYWORDS,
        VALUES | inner | st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_size=3,
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(WILD, st.booleans())
def test_any_schema_gives_a_sound_grammar_or_an_error(schema, strict):
    try:
        grammar = schema_grammar(schema, strict=strict, param="s")
    except InvalidSchema:
        return
    generator = Generator(grammar.text, random.Random(1))
    for _ in range(5):
        value = json.loads(generator.text())
        if not grammar.unenforced:
            try:
                jsonschema.Draft202012Validator(schema).validate(value)
            except (jsonschema.exceptions.SchemaError, TypeError, AttributeError, re.error):
                pass  # no schema at all: the package does not check before it validates


@given(st.integers(-(10**15), 10**15), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_integer_ranges_are_exact(low, width, source):
    high = low + width
    generator = Generator(f"root ::= {integer_range(low, high)}\n", source)
    for _ in range(10):
        text = generator.text()
        assert str(int(text)) == text
        assert low <= int(text) <= high


@pytest.mark.parametrize(("low", "high"), [(-3, 12), (0, 0), (5, 5), (8, 101), (-21, -9), (0, 130)])
def test_integer_ranges_are_complete(low, high):
    generator = Generator(f"root ::= {integer_range(low, high)}\n", random.Random(2))
    assert {int(generator.text()) for _ in range(6000)} == set(range(low, high + 1))


def test_open_ranges():
    assert Generator(f"root ::= {integer_range(None, -1)}\n", random.Random(1)).text().startswith("-")
    assert int(Generator(f"root ::= {integer_range(5, None)}\n", random.Random(1)).text()) >= 5
