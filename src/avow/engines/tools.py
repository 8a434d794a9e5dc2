"""Tool calls in a model's text: the grammar that makes them well-formed, and the parser that takes them out as they come.

The text of a call is exactly
    <tool_call>⏎{"name": "NAME", "arguments": ARGUMENTS}⏎</tool_call>
with ARGUMENTS a JSON object under the tool's schema; several calls stand one line apart. Where the model may also answer in
words (tool_choice auto), the words come first and end where `<tool_call>` begins.

Models that forget the tags (Qwen2.5-Coder does) begin their answer with the bare object, or with it in a fence: `BARE` lists
these forms. An answer in auto mode that begins like one, up to a tool's own name and `"arguments": `, is that one call, and
cannot go on as anything else; every other beginning is words.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from avow.engines.errors import InvalidSchema
from avow.engines.grammar import Grammar, GrammarWriter, literal
from avow.engines.openai import AllowedTools, ChatBody, NamedTool, Tool
from avow.engines.prompt import CALL_CLOSE, CALL_OPEN

MAX_CALLS = 16

Mode = Literal["none", "auto", "required"]
_OPEN = CALL_OPEN + '\n{"name": "'
_ARGUMENTS = '", "arguments": '
_CLOSE = "}\n" + CALL_CLOSE

BARE = (
    ('{"name": "', '", "arguments": ', "}"),
    ('```json\n{"name": "', '", "arguments": ', "}\n```"),
    ('```json\n{\n  "name": "', '",\n  "arguments": ', "\n}\n```"),
)
"""What stands before a tool's name, between it and its arguments, and after them, in calls without tags."""


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """What tool_choice comes down to: the tools that are told, those that may be called, and whether one must be."""

    told: tuple[Tool, ...] = ()
    callable: tuple[Tool, ...] = ()
    mode: Mode = "none"
    parallel: bool = True


def plan_tools(request: ChatBody) -> ToolPlan:
    """The plan of a checked request."""
    tools, choice = tuple(request.tools or ()), request.tool_choice
    parallel = request.parallel_tool_calls is not False
    if not tools or choice == "none":
        return ToolPlan()
    if isinstance(choice, NamedTool):
        named = tuple(tool for tool in tools if tool.function.name == choice.function.name)
        return ToolPlan(tools, named, "required", parallel=False)
    if isinstance(choice, AllowedTools):
        names = {tool.function.name for tool in choice.allowed_tools.tools}
        allowed = tuple(tool for tool in tools if tool.function.name in names)
        return ToolPlan(tools, allowed, choice.allowed_tools.mode, parallel)
    return ToolPlan(tools, tools, "required" if choice == "required" else "auto", parallel)


def tool_grammar(plan: ToolPlan) -> Grammar:
    """The grammar of an answer under `plan` (mode auto or required). Raises InvalidSchema."""
    writer = GrammarWriter(strict=False)
    arguments: dict[str, str] = {}
    for index, tool in enumerate(plan.callable):
        arguments[tool.function.name] = _arguments(writer, tool, f"tools[{index}].function.parameters")
    bodies = [
        writer.rule(f"{literal(_OPEN[len(CALL_OPEN) :] + name + _ARGUMENTS)} {rule} {literal(_CLOSE)}")
        for name, rule in arguments.items()
    ]
    body = writer.rule(" | ".join(bodies))
    more = f' ("\\n" {literal(CALL_OPEN)} {body}){{0,{MAX_CALLS - 1}}}' if plan.parallel else ""
    calls = writer.rule(f"{body}{more}")
    if plan.mode == "required":
        return writer.finish(f"{literal(CALL_OPEN)} {calls}")
    words = _words_then(writer, calls)
    bare = {
        before + name + between: f"{rule} {literal(after)}"
        for name, rule in arguments.items()
        for before, between, after in BARE
    }
    return writer.finish(_beginning(writer, bare, words))


def bare_prefixes(plan: ToolPlan) -> tuple[str, ...]:
    """How an answer begins that is a call without tags: all that `tool_grammar` turns into one."""
    if plan.mode != "auto":
        return ()
    return tuple(before + tool.function.name + between for tool in plan.callable for before, between, _after in BARE)


_COMBINED = frozenset({"$ref", "anyOf", "oneOf", "allOf", "enum", "const"})


def _arguments(writer: GrammarWriter, tool: Tool, where: str) -> str:
    """The rule for a tool's arguments, which are an object in any case."""
    schema = tool.function.parameters or {"type": "object", "properties": {}}
    combined = schema.get("type", "object") != "object" or not _COMBINED.isdisjoint(schema)
    if tool.function.strict:
        if combined:
            raise InvalidSchema(f"a strict tool's parameters are one plain object schema ({where})", param=where)
        # Judged by a strict writer, written by the shared one: rules are numbered once.
        GrammarWriter(strict=True).schema(schema, where)
    if combined:
        writer.loosen(where, "parameters that are not one plain object schema cannot be enforced")
        return "object"
    return writer.schema({"type": "object", **schema}, where)


def _words_then(writer: GrammarWriter, calls: str) -> list[str]:
    """States of any text without `<tool_call>`, which may end in it and then goes on with `calls`; the first begins.

    The automaton of Knuth, Morris and Pratt for the mark, as right-linear rules.
    """
    states = [f"words-{index}" for index in range(len(CALL_OPEN))]
    letters = "".join(dict.fromkeys(CALL_OPEN))
    for index, state in enumerate(states):
        ways, moving = ['""'], ""
        for letter in letters:
            seen = CALL_OPEN[:index] + letter
            reached = next(n for n in range(len(seen), -1, -1) if CALL_OPEN[:n] == seen[len(seen) - n :])
            if reached:
                moving += letter
                ways.append(f"{literal(letter)} {calls if reached == len(CALL_OPEN) else states[reached]}")
        ways.append(f"[^{moving}] {states[0]}")
        writer.rule(" | ".join(ways), state)
    return states


def _beginning(writer: GrammarWriter, bare: Mapping[str, str], words: list[str]) -> str:
    """The rule for an answer: it follows the prefixes of `bare` as long as it begins like one, else it is words.

    No prefix holds the first letter of `<tool_call>`, so that leaving one leads to the first or second state of `words`.
    """

    def node(prefix: str) -> str:
        if prefix in bare:
            return bare[prefix]
        following = sorted({text[len(prefix)] for text in bare if text.startswith(prefix) and text != prefix})
        ways = ['""', *(f"{literal(letter)} {node(prefix + letter)}" for letter in following)]
        ways.append(f"{literal(CALL_OPEN[0])} {words[1]}")
        others = "".join(f"\\x{ord(letter):02X}" for letter in (*following, CALL_OPEN[0]))
        return writer.rule(" | ".join([*ways, f"[^{others}] {words[0]}"]))

    return node("")


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of the answer in words."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A tool call begins; `index` counts from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of the call's arguments."""

    index: int
    text: str


Event = Words | CallBegins | CallArguments


class ToolCallParser:
    """Takes the model's text as it comes, gives events as soon as they are certain.

    `bare` are the beginnings of calls without tags. Never fails: a call that was cut off stays as far as it came.
    """

    def __init__(self, bare: Collection[str] = ()) -> None:
        self._buffer = ""
        self._bare = bare
        self._state: Literal["beginning", "words", "name", "arguments", "over"] = "beginning" if bare else "words"
        self._object = _ObjectScanner()
        self._tagged = True
        self.calls = 0

    def feed(self, text: str) -> Iterator[Event]:
        """What the text so far adds."""
        self._buffer += text
        while True:
            before = self._state, len(self._buffer)
            yield from self._step()
            if (self._state, len(self._buffer)) == before:
                return

    def finish(self) -> Iterator[Event]:
        """What was held back, once no more text comes."""
        held, self._buffer = self._buffer, ""
        if self._state in ("beginning", "words") and held and not self.calls:
            yield Words(held)

    def _step(self) -> Iterator[Event]:
        if self._state == "beginning":
            yield from self._beginning()
        elif self._state == "words":
            yield from self._words()
        elif self._state == "name":
            name, found, rest = self._buffer.partition(_ARGUMENTS)
            if found:
                self._buffer = rest
                yield self._begin(name)
        elif self._state == "arguments":
            end = self._object.scan(self._buffer)
            arguments, self._buffer = self._buffer[:end], self._buffer[end:]
            if arguments:
                yield CallArguments(self.calls - 1, arguments)
            if self._object.complete:
                self._state = "words" if self._tagged else "over"
        else:
            self._buffer = ""

    def _begin(self, name: str) -> CallBegins:
        self._state, self._object = "arguments", _ObjectScanner()
        self.calls += 1
        return CallBegins(self.calls - 1, name)

    def _beginning(self) -> Iterator[Event]:
        for prefix in self._bare:
            if self._buffer.startswith(prefix):
                self._buffer = self._buffer[len(prefix) :]
                self._tagged = False
                yield self._begin(prefix.split('"')[3])
                return
        if not any(prefix.startswith(self._buffer) for prefix in self._bare):
            self._state = "words"

    def _words(self) -> Iterator[Event]:
        words, found, rest = self._buffer.partition(_OPEN)
        if found:
            self._state, self._buffer = "name", rest
            words = words.rstrip()
        else:
            words, self._buffer = _split_at_prefix(self._buffer, _OPEN)
            kept = words.rstrip()
            words, self._buffer = kept, words[len(kept) :] + self._buffer
        if words and not self.calls:
            yield Words(words)


class _ObjectScanner:
    """Finds the end of a JSON object in pieces of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._escaped = False
        self.complete = False

    def scan(self, text: str) -> int:
        """How many characters of `text` belong to the object."""
        for position, char in enumerate(text):
            if self._in_text:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_text = False
            elif char == '"':
                self._in_text = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.complete = True
                    return position + 1
        return len(text)


def _split_at_prefix(text: str, mark: str) -> tuple[str, str]:
    """`text` without, and with only, its longest ending with which `mark` may begin."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return text[:-length], text[-length:]
    return text, ""
