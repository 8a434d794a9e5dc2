"""From a JSON Schema to a grammar (llama.cpp's GBNF) that admits only JSON texts valid under it.

Rules:
1. Sound: every text of the grammar is JSON and satisfies the schema, but for the constraints listed as not enforced.
   Not complete: properties come in the schema's order, undeclared ones are not added to declared ones, and white space is at
   most one space after ':' and ','.
2. With `strict`, a keyword that cannot be enforced is refused (InvalidSchema names where); without, it is listed.
3. The grammar is a function of the schema alone, its size is bounded, and it has no left recursion.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from avow.engines.errors import InvalidSchema
from avow.engines.integer_range import integer_range
from avow.engines.prompt import spaced_json

MAX_DEPTH = 24
MAX_RULES = 4_000
MAX_GRAMMAR = 512 * 1024
MAX_REPEAT = 1_000
"""Longest bounded repetition that is enforced: the engine expands each into as many rules."""

Schema = Mapping[str, Any]
_Chain = frozenset[str]

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"}
)
_STRUCTURE = frozenset({"$ref", "$defs", "definitions", "type", "enum", "const", "anyOf", "oneOf", "allOf"})
_BY_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
_ALL_BY_TYPE = frozenset[str]().union(*_BY_TYPE.values())

_HEX = "[0-9a-fA-F]"
_BASE = {
    "sp": '" "?',
    "character": (
        r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" ([0-9a-ce-fA-CE-F] hex hex hex | [dD] [0-7] hex hex))'
    ),
    "hex": _HEX,
    "string": r'"\"" character* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "object": r'"{" (string ":" sp value ("," sp string ":" sp value)*)? "}"',
    "array": '"[" (value ("," sp value)*)? "]"',
    "value": "object | array | string | number | boolean | null",
}
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? ("Z" | [+-] [01] [0-9] ":" [0-5] [0-9])'
)
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}',
}


@dataclass(frozen=True, slots=True)
class Grammar:
    """GBNF text with the rule `root`, and the places of constraints that it leaves unenforced."""

    text: str
    unenforced: tuple[str, ...] = ()


def any_object() -> Grammar:
    """The grammar of response_format json_object."""
    writer = GrammarWriter(strict=False)
    return writer.finish("object")


def schema_grammar(schema: Schema, *, strict: bool, param: str) -> Grammar:
    """The grammar of a schema's texts. `param` is the request field it came in. Raises InvalidSchema."""
    writer = GrammarWriter(strict=strict)
    return writer.finish(writer.schema(schema, param))


def literal(text: str) -> str:
    """A GBNF terminal for exactly this text."""
    return '"' + "".join(_ESCAPES.get(char) or _escape(char) for char in text) + '"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(char: str) -> str:
    return f"\\x{ord(char):02X}" if char < " " or char == "\x7f" else char


class GrammarWriter:
    """Rules by name, written once each. One writer serves several schemas that share a root (tools)."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self._rules: dict[str, str] = {}
        self._size = 0
        self._unenforced: list[str] = []

    def rule(self, body: str, name: str = "") -> str:
        """Adds a rule; its name."""
        name = name or f"r{len(self._rules)}"
        self._rules[name] = body
        self._size += len(body) + len(name) + 6
        if len(self._rules) > MAX_RULES or self._size > MAX_GRAMMAR:
            raise InvalidSchema("the schema is too large to be enforced", param=None)
        return name

    def finish(self, root: str) -> Grammar:
        """The grammar whose texts are those of `root`, an expression over rule names."""
        lines = [f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._rules.items())]
        lines.extend(f"{name} ::= {body}" for name, body in _BASE.items())
        return Grammar("\n".join(lines) + "\n", tuple(self._unenforced))

    def schema(self, schema: Schema, param: str) -> str:
        """The name of the rule for a whole schema, whose `$ref`s point into itself."""
        return _Compiler(self, schema, param).root()

    def loosen(self, where: str, why: str) -> None:
        """Notes what is not enforced, or refuses it when strict."""
        if self.strict:
            raise InvalidSchema(f"{why} ({where})", param=where[:256])
        if len(self._unenforced) < 256:
            self._unenforced.append(where[:256])


class _Compiler:
    """One schema document.

    `where` is a path for messages; `chain` holds the references passed without consuming a character, so that a schema
    that is only itself is noticed.
    """

    def __init__(self, writer: GrammarWriter, document: Schema, param: str) -> None:
        self.writer = writer
        self.document = document
        self.param = param
        self.references: dict[str, str] = {}

    def root(self) -> str:
        return self.visit(self.document, self.param, frozenset(), 0)

    def fail(self, where: str, why: str) -> InvalidSchema:
        return InvalidSchema(f"{why} ({where})", param=where[:256])

    def visit(self, schema: object, where: str, chain: _Chain, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise self.fail(where, "the schema is nested too deep")
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise self.fail(where, "a schema is an object, or true")
        if "$ref" in schema:
            self.alone(schema, where, "$ref")
            return self.reference(schema["$ref"], where, chain, depth)
        for keyword, branch in (("anyOf", self.union), ("oneOf", self.union), ("allOf", self.intersection)):
            if keyword in schema:
                self.alone(schema, where, keyword)
                return branch(schema[keyword], f"{where}.{keyword}", chain, depth)
        if "const" in schema or "enum" in schema:
            return self.constants(schema, where)
        return self.typed(schema, where, depth)

    def alone(self, schema: Schema, where: str, *keywords: str) -> None:
        """What stands beside these keywords says more than they do, and is not enforced."""
        self.unknown(schema, where, frozenset(keywords))

    def unknown(self, schema: Schema, where: str, known: frozenset[str]) -> None:
        for keyword in schema:
            if keyword not in known and keyword not in _ANNOTATIONS and keyword not in ("$defs", "definitions"):
                self.writer.loosen(f"{where}.{keyword}", "this keyword cannot be enforced here")

    def reference(self, target: object, where: str, chain: _Chain, depth: int) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            raise self.fail(where, "a $ref points into its own schema ('#/$defs/…')")
        if target in chain:
            raise self.fail(where, "a $ref leads back to itself")
        if target in self.references:
            # A rule in the making is closed through an object or an array: its chain was reset there.
            return self.references[target]
        name = self.writer.rule("")
        self.references[target] = name
        body = self.visit(self.resolve(target, where), target, chain | {target}, depth + 1)
        self.writer.rule(body, name)
        return name

    def resolve(self, target: str, where: str) -> object:
        found: object = self.document
        for part in target[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise self.fail(where, "a $ref points to nothing")
            found = found[key]
        return found

    def union(self, branches: object, where: str, chain: _Chain, depth: int) -> str:
        if not isinstance(branches, list) or not branches:
            raise self.fail(where, "alternatives are a list with at least one schema")
        if where.endswith(".oneOf") and len(branches) > 1:
            self.writer.loosen(where, "that exactly one alternative holds cannot be enforced")
        names = [self.visit(branch, f"{where}[{index}]", chain, depth + 1) for index, branch in enumerate(branches)]
        return self.writer.rule(" | ".join(dict.fromkeys(names)))

    def intersection(self, parts: object, where: str, chain: _Chain, depth: int) -> str:
        if not isinstance(parts, list) or not parts:
            raise self.fail(where, "allOf is a list with at least one schema")
        if len(parts) > 1:
            self.writer.loosen(where, "allOf of several schemas cannot be enforced")
            return "value"
        return self.visit(parts[0], f"{where}[0]", chain, depth + 1)

    def constants(self, schema: Schema, where: str) -> str:
        """The values of enum and const that are also of the type, if one is given."""
        self.alone(schema, where, "enum", "const", "type")
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list) or not 0 < len(values) <= MAX_REPEAT:
            raise self.fail(f"{where}.enum", f"enum is a list of 1 to {MAX_REPEAT} values")
        kinds = self.kinds(schema, where) if "type" in schema else None
        try:
            texts = [spaced_json(value) for value in values if kinds is None or any(_is(value, kind) for kind in kinds)]
            if "enum" in schema and "const" in schema:
                texts = [text for text in texts if text == spaced_json(schema["const"])]
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise self.fail(where, "a constant is not a JSON value") from error
        if not texts:
            raise self.fail(where, "no value is left")
        return self.writer.rule(" | ".join(literal(text) for text in dict.fromkeys(texts)))

    def kinds(self, schema: Schema, where: str) -> list[str]:
        kinds = schema["type"]
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not kinds or not all(isinstance(k, str) and k in _BY_TYPE for k in kinds):
            raise self.fail(f"{where}.type", "a type is object, array, string, number, integer, boolean or null")
        return list(dict.fromkeys(kinds))

    def typed(self, schema: Schema, where: str, depth: int) -> str:
        if "type" in schema:
            kinds = self.kinds(schema, where)
        else:
            # Without a type, keywords of one type bind values of that type only; such values are what is given.
            kinds = [kind for kind, words in _BY_TYPE.items() if words and not words.isdisjoint(schema)][:1]
            if not kinds:
                self.unknown(schema, where, _STRUCTURE)
                return "value"
        # A keyword of another type says nothing about values of these types (JSON Schema validation, section 4).
        known = _ALL_BY_TYPE - _BY_TYPE["integer"] if "number" in kinds else _ALL_BY_TYPE
        self.unknown(schema, where, known | {"type"})
        makers = {"object": self.object, "array": self.array, "string": self.string, "integer": self.integer}
        names = [makers[kind](schema, where, depth) if kind in makers else kind for kind in kinds]
        return names[0] if len(names) == 1 else self.writer.rule(" | ".join(names))

    def object(self, schema: Schema, where: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        names = isinstance(required, list) and all(isinstance(name, str) for name in required)
        if not isinstance(properties, Mapping) or not names:
            raise self.fail(where, "properties is an object and required a list of names")
        extra = schema.get("additionalProperties", True)
        missing = [name for name in dict.fromkeys(required) if name not in properties]
        if missing and extra is False:
            raise self.fail(f"{where}.required", "a required property is not declared and none may be added")
        if not properties and not missing:
            if extra is False:
                return self.writer.rule(literal("{}"))
            value = self.visit(extra, f"{where}.additionalProperties", frozenset(), depth + 1)
            return self.writer.rule(f'"{{" (string ":" sp {value} ("," sp string ":" sp {value})*)? "}}"')
        if self.writer.strict and extra is not False:
            raise self.fail(f"{where}.additionalProperties", "a strict schema sets additionalProperties to false")
        members: list[tuple[str, bool]] = []
        for name, value in [*properties.items(), *((name, True) for name in missing)]:
            rule = self.visit(value, f"{where}.properties.{name}", frozenset(), depth + 1)
            members.append((f'{literal(_key(name))} ":" sp {rule}', name in required))
        return self.writer.rule(f'"{{" {self.members(members)} "}}"')

    def members(self, members: Sequence[tuple[str, bool]]) -> str:
        """Members in order, the optional ones left out at will. `rest` follows a member, `first` follows none."""
        rest, first = '""', '""'
        for member, required in reversed(members):
            with_comma = f'"," sp {member} {rest}'
            begun = f"{member} {rest}"
            first = self.writer.rule(begun if required else f"{begun} | {first}")
            rest = self.writer.rule(with_comma if required else f"{with_comma} | {rest}")
        return first

    def array(self, schema: Schema, where: str, depth: int) -> str:
        least, most = self.bounds(schema, where, "minItems", "maxItems")
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list):
            raise self.fail(f"{where}.prefixItems", "prefixItems is a list")
        heads = [
            self.visit(item, f"{where}.prefixItems[{index}]", frozenset(), depth + 1)
            for index, item in enumerate(prefix[: most if most is not None else None])
        ]
        items = schema.get("items", True)
        item = None if items is False else self.visit(items, f"{where}.items", frozenset(), depth + 1)
        if item is None and least > len(heads):
            raise self.fail(f"{where}.minItems", "there are fewer items than minItems")
        if heads:
            more = (
                "" if item is None else f'("," sp {item}){_repeat(max(0, least - len(heads)), _less(most, len(heads)))}'
            )
            return self.writer.rule('"[" ' + ' "," sp '.join(heads) + f' {more} "]"')
        if item is None or most == 0:
            return self.writer.rule(literal("[]"))
        body = f'{item} ("," sp {item}){_repeat(max(0, least - 1), _less(most, 1))}'
        return self.writer.rule(f'"[" {body} "]"' if least else f'"[" ({body})? "]"')

    def string(self, schema: Schema, where: str, _depth: int) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in _FORMATS and "minLength" not in schema and "maxLength" not in schema:
            return self.writer.rule(rf'"\"" {_FORMATS[form]} "\""')
        if form is not None:
            self.writer.loosen(f"{where}.format", "this format cannot be enforced")
        least, most = self.bounds(schema, where, "minLength", "maxLength")
        if least == 0 and most is None:
            return "string"
        return self.writer.rule(rf'"\"" character{_repeat(least, most)} "\""')

    def integer(self, schema: Schema, where: str, _depth: int) -> str:
        lower, upper = self.limit(schema, where, "inimum", 1), self.limit(schema, where, "aximum", -1)
        if lower is None and upper is None:
            return "integer"
        if lower is not None and upper is not None and lower > upper:
            raise self.fail(where, "no integer is in this range")
        return self.writer.rule(integer_range(lower, upper))

    def limit(self, schema: Schema, where: str, stem: str, step: int) -> int | None:
        """The inclusive bound out of minimum/exclusiveMinimum (step 1) or maximum/exclusiveMaximum (step -1)."""
        found: list[int] = []
        for keyword, add in (("m" + stem, 0), ("exclusiveM" + stem, step)):
            value = schema.get(keyword)
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if type(value) is not int or abs(value) >= 10**15:
                raise self.fail(f"{where}.{keyword}", "a bound of an integer is an integer below 10^15")
            found.append(value + add)
        return (max if step > 0 else min)(found, default=None)

    def bounds(self, schema: Schema, where: str, low: str, high: str) -> tuple[int, int | None]:
        least, most = schema.get(low, 0), schema.get(high)
        if type(least) is not int or least < 0 or (most is not None and (type(most) is not int or most < least)):
            raise self.fail(f"{where}.{high}", f"{low} and {high} are counts, the first not above the second")
        if least > MAX_REPEAT:
            raise self.fail(f"{where}.{low}", f"at most {MAX_REPEAT} can be enforced")
        if most is not None and most > MAX_REPEAT:
            self.writer.loosen(f"{where}.{high}", f"at most {MAX_REPEAT} can be enforced")
            most = None
        return least, most


def _is(value: object, kind: str) -> bool:
    """Whether a JSON value is of a JSON Schema type."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float):
        return kind == "number" or (kind == "integer" and value.is_integer())
    names: dict[type, tuple[str, ...]] = {
        int: ("integer", "number"),
        str: ("string",),
        list: ("array",),
        dict: ("object",),
    }
    return kind in names.get(type(value), ("null",))


def _key(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidSchema("a property's name is a text", param=None)
    return msgspec.json.encode(name).decode()


def _less(most: int | None, count: int) -> int | None:
    return None if most is None else max(0, most - count)


def _repeat(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"
