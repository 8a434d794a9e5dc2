"""The chat request of OpenAI's API: its shape, its limits, and what of it this product honours.

Rules:
1. Sizes are checked before anything is parsed; after parsing, every field has a type and a range.
2. A field that OpenAI's API does not have, or that no program here can honour, is refused by name: nothing that was asked
   for is dropped silently. Fields that cannot influence the answer (`user`, `metadata`, …) are accepted.
3. `ChatRequest.body` is what the caller sent, as decoded JSON; engines read it again through `chat_body`.

Pure: no clock, no randomness, no input or output.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from avow.engines.errors import InvalidRequest, UnknownParameter, UnsupportedParameter
from avow.errors import TooLarge

MAX_BODY = 8 * 1024 * 1024
MAX_TOOL_BYTES = 256 * 1024

Probability = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Text = Annotated[str, Meta(max_length=MAX_BODY)]

NEUTRAL = (
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
"""Accepted and without influence on the answer; `effective` lists those that were given."""


class TextPart(Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: Text


class FunctionCall(Struct, forbid_unknown_fields=True):
    name: Name
    arguments: Text


class ToolCall(Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(max_length=128)]
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class Message(Struct, forbid_unknown_fields=True):
    """One turn. `content` is text, or parts of text; other media are refused."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Meta(min_length=1, max_length=256)] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=128)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=128)] | None = None
    refusal: Text | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Function(Struct, forbid_unknown_fields=True):
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class NamedFunction(Struct, forbid_unknown_fields=True):
    name: Name


class NamedTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    function: NamedFunction


class AllowedTool(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: NamedFunction


class Allowed(Struct, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1, max_length=128)]


class AllowedTools(Struct, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    allowed_tools: Allowed


class JsonSchema(Struct, forbid_unknown_fields=True):
    name: Name
    schema: dict[str, Any] | None = None
    description: Text | None = None
    strict: bool | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(Struct, forbid_unknown_fields=True):
    """The fields that are honoured, and those of `NEUTRAL`."""

    model: Annotated[str, Meta(min_length=1, max_length=128)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: (
        Annotated[str, Meta(min_length=1, max_length=256)]
        | Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=4)]
        | None
    ) = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    avow: dict[str, Any] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    modalities: list[Literal["text"]] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def choices(self) -> int:
        return self.n or 1


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request whose shape was checked. `extension` is the `avow` field; `body` the whole JSON object."""

    body: Mapping[str, Any]
    model: str
    stream: bool
    include_usage: bool
    extension: Mapping[str, Any]


def parse_chat(body: bytes) -> ChatRequest:
    """The request in an HTTP body. Raises TooLarge, InvalidRequest or one of its kinds; the field is `param`."""
    if len(body) > MAX_BODY:
        raise TooLarge("the request is too large", size=len(body), limit=MAX_BODY)
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", param=None) from error
    if not isinstance(decoded, dict):
        raise InvalidRequest("the body is a JSON object", param=None)
    request = chat_body(decoded)
    return ChatRequest(
        body=decoded,
        model=request.model,
        stream=bool(request.stream),
        include_usage=bool(request.stream and request.stream_options and request.stream_options.include_usage),
        extension=request.avow or {},
    )


def chat_body(body: Mapping[str, Any]) -> ChatBody:
    """The typed view of a request's JSON object. Raises InvalidRequest or one of its kinds."""
    try:
        request = msgspec.convert(body, ChatBody)
    except (msgspec.ValidationError, RecursionError) as error:
        raise refusal(str(error)) from error
    _check_messages(request.messages)
    _check_parameters(request)
    _check_tools(request)
    return request


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>.*)`$", re.DOTALL)


def refusal(message: str) -> InvalidRequest:
    """A complaint of msgspec as an error of ours, with OpenAI's `param` ("messages[0].content")."""
    found = _AT.match(message)
    what, path = (found["what"], found["path"] or "") if found else (message, "")
    unknown = _UNKNOWN.match(what)
    if unknown:
        param = f"{path}.{unknown['field']}".lstrip(".")[:128]
        return UnknownParameter(f"unknown parameter: {param}", param=param)
    missing = re.match(r"^Object missing required field `(.*)`$", what)
    if missing:
        param = f"{path}.{missing[1]}".lstrip(".")
        return InvalidRequest(f"missing required parameter: {param}", param=param)
    if re.search(r"\.content\[\d+\]\.type$", path):
        return UnsupportedParameter("this interface takes text content only", param=path)
    return InvalidRequest(what, param=path or None)


def _check_messages(messages: list[Message]) -> None:
    called: set[str] = set()
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        if message.role == "assistant":
            if message.content is None and not message.tool_calls and message.refusal is None:
                raise InvalidRequest("an assistant's message has content or tool calls", param=f"{at}.content")
            called.update(call.id for call in message.tool_calls or ())
            continue
        if message.content is None:
            raise InvalidRequest("a message has content", param=f"{at}.content")
        if message.tool_calls:
            raise InvalidRequest("only an assistant's message calls tools", param=f"{at}.tool_calls")
        if message.role == "tool" and message.tool_call_id not in called:
            raise InvalidRequest("a tool's message answers an earlier tool call", param=f"{at}.tool_call_id")


def _check_parameters(request: ChatBody) -> None:
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs", param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream", param="stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidRequest("give max_completion_tokens or max_tokens", param="max_tokens")
    bias = request.logit_bias or {}
    if len(bias) > 300 or not all(re.fullmatch(r"[0-9]{1,7}", token) for token in bias):
        raise InvalidRequest("logit_bias maps at most 300 token ids to numbers", param="logit_bias")
    form = request.response_format
    if form and (form.type == "json_schema") != (form.json_schema is not None):
        raise InvalidRequest("json_schema goes with type json_schema", param="response_format.json_schema")


def _check_tools(request: ChatBody) -> None:
    names = [tool.function.name for tool in request.tools or ()]
    if len(set(names)) != len(names):
        raise InvalidRequest("two tools have one name", param="tools")
    choice = request.tool_choice
    if not names:
        if choice not in (None, "none"):
            raise InvalidRequest("tool_choice needs tools", param="tool_choice")
        if request.parallel_tool_calls is not None:
            raise InvalidRequest("parallel_tool_calls needs tools", param="parallel_tool_calls")
        return
    if isinstance(choice, NamedTool):
        wanted = [choice.function.name]
    elif isinstance(choice, AllowedTools):
        wanted = [tool.function.name for tool in choice.allowed_tools.tools]
    else:
        wanted = []
    if not set(wanted) <= set(names):
        raise InvalidRequest("tool_choice names a tool that is not in tools", param="tool_choice")
    if len(msgspec.json.encode(request.tools)) > MAX_TOOL_BYTES:
        raise TooLarge("the tools are too large", limit=MAX_TOOL_BYTES, param="tools")
    form = request.response_format
    if form and form.type != "text" and choice != "none":
        raise UnsupportedParameter(
            "response_format other than text goes with tool_choice none", param="response_format"
        )
