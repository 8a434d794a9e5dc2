"""From a conversation in OpenAI's form to the plain turns that a program's template renders.

Rules:
1. A template sees `role` and `content` alone. Tools and their calls are written into the text by the convention that the
   program's options name ("hermes": Nous Research's function-calling format, which Qwen2.5's own template uses too).
2. What is added to the caller's words comes from the program's options and from this module only, and `added_digest`
   of it goes into the effective parameters.

Pure: no clock, no randomness, no input or output.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from avow.engines.errors import InvalidRequest
from avow.engines.openai import Message, TextPart, Tool, ToolCall

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"

_HERMES = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)

Turn = dict[str, str]


def turns(messages: Sequence[Message], tools: Sequence[Tool], system: str) -> list[Turn]:
    """The turns to render. `system` is said first where the caller says nothing of the kind; tools follow it."""
    instructions, rest = _leading_instructions(messages)
    opening = "\n\n".join(text for text in (instructions or system, tools_text(tools)) if text)
    result: list[Turn] = [{"role": "system", "content": opening}] if opening else []
    for message in rest:
        if message.role == "tool":
            answer = f"<tool_response>\n{text_of(message)}\n</tool_response>"
            if result and result[-1]["role"] == "user" and result[-1]["content"].endswith("</tool_response>"):
                result[-1]["content"] += "\n" + answer
            else:
                result.append({"role": "user", "content": answer})
        else:
            role = "system" if message.role == "developer" else message.role
            result.append({"role": role, "content": _content(message)})
    _check_text(result)
    return result


def text_of(message: Message) -> str:
    """A message's text; parts are put on lines of their own."""
    if isinstance(message.content, list):
        parts: list[TextPart] = message.content
        return "\n".join(part.text for part in parts)
    return message.content or message.refusal or ""


def tools_text(tools: Sequence[Tool]) -> str:
    """How the tools are told to the model; empty without tools."""
    if not tools:
        return ""
    lines = [spaced_json(_signature(tool)) for tool in tools]
    return _HERMES.format(tools="\n".join(lines))


def added_digest(text: str) -> str:
    """SHA-256 in hex of what was added to the caller's words."""
    return hashlib.sha256(text.encode()).hexdigest()


def spaced_json(value: object) -> str:
    """JSON as language models were shown it: a space after ':' and ','."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _signature(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.function.name}
    if tool.function.description:
        function["description"] = tool.function.description
    function["parameters"] = tool.function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _leading_instructions(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    count = 0
    while count < len(messages) and messages[count].role in ("system", "developer"):
        count += 1
    return "\n\n".join(text_of(message) for message in messages[:count]), messages[count:]


def _content(message: Message) -> str:
    calls = [_call_text(call) for call in message.tool_calls or ()]
    return "\n".join(text for text in (text_of(message), *calls) if text)


def _call_text(call: ToolCall) -> str:
    name = spaced_json(call.function.name)
    return f'{CALL_OPEN}\n{{"name": {name}, "arguments": {call.function.arguments or "{}"}}}\n{CALL_CLOSE}'


def _check_text(rendered: Sequence[Turn]) -> None:
    for turn in rendered:
        try:
            turn["content"].encode()
        except UnicodeEncodeError:
            raise InvalidRequest("a text holds half of a character (a lone surrogate)", param="messages") from None
        if "\x00" in turn["content"]:
            raise InvalidRequest("a text holds a null character", param="messages")
