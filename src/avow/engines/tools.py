"""Tool calls in a model's text: the grammar that makes them well-formed, and the parser that takes them out as they come.

The text of a call is exactly
    <tool_call>⏎{"name": "NAME", "arguments": ARGUMENTS}⏎</tool_call>
with ARGUMENTS a JSON object under the tool's schema; several calls stand one line apart. Where the model may also answer in
words (tool_choice auto), the words come first and end where `<tool_call>` begins. JSON texts of our grammar hold no line
breaks, so that the first `}⏎</tool_call>` ends a call.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from avow.engines.grammar import Grammar, GrammarWriter, literal
from avow.engines.openai import AllowedTools, ChatBody, NamedTool, Tool
from avow.engines.prompt import CALL_CLOSE, CALL_OPEN, spaced_json

MAX_CALLS = 16

Mode = Literal["none", "auto", "required"]
_OPEN = CALL_OPEN + '\n{"name": "'
_ARGUMENTS = '", "arguments": '
_CLOSE = "}\n" + CALL_CLOSE


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
    lenient, strict = GrammarWriter(strict=False), GrammarWriter(strict=True)
    bodies: list[str] = []
    for index, tool in enumerate(plan.callable):
        # Written by one writer, so that rules are numbered once; a strict tool is checked by the strict one first.
        schema = tool.function.parameters or {"type": "object", "properties": {}}
        if tool.function.strict:
            strict.schema(schema, f"tools[{index}].function.parameters")
        arguments = lenient.schema({"type": "object", **schema}, f"tools[{index}].function.parameters")
        head = literal("\n{" + f'"name": {spaced_json(tool.function.name)}' + ', "arguments": ')
        bodies.append(lenient.rule(f"{head} {arguments} {literal(_CLOSE)}"))
    body = lenient.rule(" | ".join(bodies))
    more = f' ("\\n" {literal(CALL_OPEN)} {body}){{0,{MAX_CALLS - 1}}}' if plan.parallel else ""
    calls = lenient.rule(f"{body}{more}")
    if plan.mode == "required":
        return lenient.finish(f"{literal(CALL_OPEN)} {calls}")
    return lenient.finish(_words_then(lenient, calls))


def _words_then(writer: GrammarWriter, calls: str) -> str:
    """Any text without `<tool_call>`, which may end in it and then goes on with `calls`.

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
    return states[0]


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

    Never fails: a call that was cut off stays as far as it came.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._state: Literal["words", "name", "arguments"] = "words"
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
        if self._state == "words" and held and not self.calls:
            yield Words(held)
        elif self._state == "arguments" and held:
            yield CallArguments(self.calls - 1, held)

    def _step(self) -> Iterator[Event]:
        if self._state == "words":
            yield from self._words()
        elif self._state == "name":
            name, found, rest = self._buffer.partition(_ARGUMENTS)
            if found:
                self._state, self._buffer = "arguments", rest
                self.calls += 1
                yield CallBegins(self.calls - 1, name)
        else:
            arguments, found, rest = self._buffer.partition(_CLOSE)
            if found:
                self._state, self._buffer = "words", rest
            else:
                arguments, self._buffer = _split_at_prefix(self._buffer, _CLOSE)
            if arguments:
                yield CallArguments(self.calls - 1, arguments)

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


def _split_at_prefix(text: str, mark: str) -> tuple[str, str]:
    """`text` without, and with only, its longest ending with which `mark` may begin."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return text[:-length], text[-length:]
    return text, ""
