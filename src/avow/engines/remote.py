"""Relay to an upstream that speaks OpenAI's chat API.

A receipt of this engine proves the relay: what was sent to which address and what came back. It does not prove which model
answered, and the effective parameters say so.

Rules:
1. The address and the model's name are in the manifest, hence under the program id. The key is not: the manifest names an
   environment variable, which must begin with AVOW_REMOTE_, so that a manifest cannot ask for another secret.
2. Plain HTTP is for loopback only; redirects are not followed; proxies and credentials of the environment are not used.
3. Of an answer only the fields of OpenAI's API are kept, each of its type and within limits; the upstream's error texts are
   not passed on.
"""

import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import httpx2
import msgspec
from msgspec import Meta, Struct

from avow.engines.completion import Emit
from avow.engines.errors import EngineClosed, EngineFailed, InvalidOptions, InvalidRequest, UpstreamFailed, WrongKind
from avow.engines.openai import chat_body
from avow.engines.options import Options
from avow.models.store import StoredProgram

MAX_ANSWER = 16 * 1024 * 1024
MAX_LINE = 1024 * 1024
_VARIABLE = re.compile(r"AVOW_REMOTE_[A-Z0-9_]{1,64}")

Count = Annotated[int, Meta(ge=0, le=1 << 40)]


class Usage(Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class FunctionPiece(Struct):
    name: str | None = None
    arguments: str | None = None


class CallPiece(Struct):
    index: Annotated[int, Meta(ge=0, lt=128)] = 0
    id: str | None = None
    function: FunctionPiece | None = None


class TopToken(Struct):
    token: str
    logprob: float
    bytes: list[Annotated[int, Meta(ge=0, le=255)]] | None = None


class Token(Struct):
    token: str
    logprob: float
    bytes: list[Annotated[int, Meta(ge=0, le=255)]] | None = None
    top_logprobs: list[TopToken] = []


class Logprobs(Struct):
    content: list[Token] | None = None


class Piece(Struct):
    """A delta, or a whole message."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[CallPiece], Meta(max_length=128)] | None = None


class Choice(Struct):
    index: Annotated[int, Meta(ge=0, lt=16)] = 0
    delta: Piece | None = None
    message: Piece | None = None
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None


class Answer(Struct):
    """A chat.completion or a chat.completion.chunk."""

    choices: Annotated[list[Choice], Meta(max_length=16)]
    id: Annotated[str, Meta(max_length=256)] = ""
    created: Count = 0
    system_fingerprint: Annotated[str, Meta(max_length=256)] | None = None
    usage: Usage | None = None


class RemoteEngine:
    """One upstream. Thread-safe."""

    name = "remote"
    kind: Literal["chat", "tensor"] = "chat"

    def __init__(self, program: StoredProgram, *, slots: int) -> None:
        options = Options(program.manifest.options, "remote")
        self._program = program
        self._url = _checked_url(options.text("url"))
        self._model = options.text("model")
        variable = options.text("key_variable", "")
        seconds = options.integer("timeout_s", 120, 1, 3600)
        options.end()
        if variable and not _VARIABLE.fullmatch(variable):
            raise InvalidOptions("key_variable must begin with AVOW_REMOTE_", engine="remote", option="key_variable")
        key = os.environ.get(variable) if variable else None
        if variable and not key:
            raise InvalidOptions(
                f"the environment variable {variable} is not set", engine="remote", option="key_variable"
            )
        self.version = f"httpx2-{httpx2.__version__}"
        self.runtime = str(self._url.host)
        self._client: httpx2.Client | None = httpx2.Client(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(seconds, connect=min(seconds, 10)),
            limits=httpx2.Limits(max_connections=slots),
            trust_env=False,
        )

    def effective(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent beside the messages and tools; the rest is the upstream's and unknown. Raises InvalidRequest."""
        chat_body(request)
        sent = self._upstream_body(request, stream=False)
        return {
            "program": self._program.program_id.hex(),
            "engine": {
                "name": self.name,
                "version": self.version,
                "runtime": self.runtime,
                "url": str(self._url),
                "model": self._model,
                "proves": "relay",
            },
            "sent": {name: value for name, value in sent.items() if name not in ("messages", "tools")},
            "defaults": "the upstream's",
        }

    def chat(
        self, request: Mapping[str, Any], effective: Mapping[str, Any], emit: Emit | None = None
    ) -> dict[str, Any]:
        """Relays; blocks. Raises InvalidRequest, UpstreamFailed, EngineClosed, and whatever `emit` raises."""
        body = chat_body(request)
        if effective != self.effective(request):
            raise EngineFailed("the effective parameters are not those of this request on this engine")
        usage = bool(body.stream_options and body.stream_options.include_usage)
        relay = _Relay(self._program.manifest.name, emit=emit, include_usage=usage, logprobs=bool(body.logprobs))
        with self._send(self._upstream_body(request, stream=emit is not None)) as response:
            if emit is None:
                relay.whole(_decode(_limited(response)))
            else:
                for answer in _events(response):
                    relay.chunk(answer)
                    if relay.cancelled:
                        break
        return relay.end()

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002  # the interface's
        raise WrongKind("this program chats: use /v1/chat/completions", program=self._program.manifest.name)

    def close(self) -> None:
        client, self._client = self._client, None
        if client:
            client.close()

    def _upstream_body(self, request: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
        body = {name: value for name, value in request.items() if name not in ("avow", "stream", "stream_options")}
        body["model"] = self._model
        return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body

    @contextmanager
    def _send(self, body: Mapping[str, Any]) -> Iterator[httpx2.Response]:
        client = self._client
        if client is None:
            raise EngineClosed("the engine is shutting down")
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        try:
            with client.stream("POST", self._url, content=json.dumps(body).encode(), headers=headers) as response:
                if response.status_code in (400, 404, 413, 422):
                    detail = "the upstream refused the request"
                    raise InvalidRequest(detail, param=None, upstream_status=response.status_code)
                if response.status_code != 200:
                    raise UpstreamFailed("the upstream did not answer", upstream_status=response.status_code)
                yield response
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise UpstreamFailed("the upstream cannot be reached, or broke off", upstream=self.runtime) from error


class _Relay:
    """Sends on what comes, in OpenAI's strict form, and adds it up to the whole."""

    def __init__(self, model: str, *, emit: Emit | None, include_usage: bool, logprobs: bool) -> None:
        self._head: dict[str, Any] = {"id": "", "created": 0, "model": model, "system_fingerprint": None}
        self._emit, self._include_usage, self._logprobs = emit, include_usage, logprobs
        self._choices: dict[int, _Whole] = {}
        self._usage = Usage()
        self.cancelled = False

    def whole(self, answer: Answer) -> None:
        """A chat.completion."""
        self._note(answer)
        for choice in answer.choices:
            self._choices.setdefault(choice.index, _Whole()).add(choice, choice.message or Piece())

    def chunk(self, answer: Answer) -> None:
        """A chat.completion.chunk."""
        self._note(answer)
        for choice in answer.choices:
            delta, first = choice.delta or Piece(), choice.index not in self._choices
            self._choices.setdefault(choice.index, _Whole()).add(choice, delta)
            view: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None} if first else {}
            view |= {key: value for key, value in msgspec.to_builtins(delta).items() if value is not None}
            if delta.tool_calls:
                view["tool_calls"] = [_call_delta(call) for call in delta.tool_calls]
            self._deliver(
                [
                    {
                        **self._choice_head(choice.index, choice.logprobs),
                        "delta": view,
                        "finish_reason": choice.finish_reason,
                    }
                ]
            )

    def end(self) -> dict[str, Any]:
        """The whole. Raises UpstreamFailed when the upstream gave no answer, or broke one off without being told to."""
        finished = all(whole.finish_reason for whole in self._choices.values())
        if not self.cancelled and (not self._choices or not finished):
            raise UpstreamFailed("the upstream's answer has no end")
        usage = _usage_json(self._usage)
        if self._include_usage and not self.cancelled:
            self._deliver([], usage)
        choices = [
            {
                "index": index,
                "message": whole.message(),
                "logprobs": {"content": whole.tokens, "refusal": None} if self._logprobs else None,
                "finish_reason": whole.finish_reason,
            }
            for index, whole in sorted(self._choices.items())
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _note(self, answer: Answer) -> None:
        if not self._head["id"]:
            fingerprint = answer.system_fingerprint
            self._head |= {"id": answer.id, "created": answer.created, "system_fingerprint": fingerprint}
        if answer.usage:
            self._usage = answer.usage

    def _choice_head(self, index: int, logprobs: Logprobs | None) -> dict[str, Any]:
        tokens = msgspec.to_builtins(logprobs.content) if logprobs and logprobs.content else None
        return {"index": index, "logprobs": {"content": tokens, "refusal": None} if tokens else None}

    def _deliver(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> None:
        if self._emit is None or self.cancelled:
            return
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._include_usage:
            chunk["usage"] = usage
        self.cancelled = bool(self._emit(chunk))


class _Whole:
    """One choice so far."""

    def __init__(self) -> None:
        self.content = ""
        self.refusal: str | None = None
        self.calls: dict[int, dict[str, str]] = {}
        self.tokens: list[dict[str, Any]] = []
        self.finish_reason: str | None = None

    def add(self, choice: Choice, piece: Piece) -> None:
        self.content += piece.content or ""
        if piece.refusal:
            self.refusal = (self.refusal or "") + piece.refusal
        for position, call in enumerate(piece.tool_calls or ()):
            index = call.index if choice.delta else position
            kept = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
            function = call.function or FunctionPiece()
            kept["id"] += call.id or ""
            kept["name"] += function.name or ""
            kept["arguments"] += function.arguments or ""
        if choice.logprobs and choice.logprobs.content:
            self.tokens.extend(msgspec.to_builtins(choice.logprobs.content))
        self.finish_reason = choice.finish_reason or self.finish_reason

    def message(self) -> dict[str, Any]:
        content = self.content if self.content or not (self.calls or self.refusal) else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": self.refusal, "annotations": []}
        if self.calls:
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for _index, c in sorted(self.calls.items())
            ]
        return message


def _call_delta(call: CallPiece) -> dict[str, Any]:
    view: dict[str, Any] = {"index": call.index}
    if call.id is not None:
        view |= {"id": call.id, "type": "function"}
    if call.function:
        function = msgspec.to_builtins(call.function)
        view["function"] = {key: value for key, value in function.items() if value is not None}
    return view


def _usage_json(usage: Usage) -> dict[str, Any]:
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": total,
    }


def _checked_url(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text.rstrip("/") + "/chat/completions")
    except (httpx2.InvalidURL, ValueError) as error:
        raise InvalidOptions("url is not an address", engine="remote", option="url") from error
    secure = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))
    if not secure or not url.host or url.userinfo or url.query or url.fragment:
        detail = "url is https://host/path, the API's base (http for loopback only), without credentials"
        raise InvalidOptions(detail, engine="remote", option="url")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _limited(response: httpx2.Response) -> bytes:
    data = b""
    for part in response.iter_raw():
        data += part
        if len(data) > MAX_ANSWER:
            raise UpstreamFailed("the upstream's answer is too large", limit=MAX_ANSWER)
    return data


def _events(response: httpx2.Response) -> Iterator[Answer]:
    """The data of server-sent events (HTML standard, section 9.2) up to `[DONE]`."""
    buffer, total = b"", 0
    for part in response.iter_raw():
        buffer += part
        total += len(part)
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > MAX_LINE or total > MAX_ANSWER:
            raise UpstreamFailed("the upstream's answer is too large", limit=MAX_ANSWER)
        for line in lines:
            data = line.rstrip(b"\r")
            if not data.startswith(b"data:"):
                continue
            data = data[5:].strip()
            if data == b"[DONE]":
                return
            yield _decode(data)


def _decode(data: bytes) -> Answer:
    try:
        return msgspec.json.decode(data, type=Answer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UpstreamFailed("the upstream's answer is not OpenAI's") from error
