"""The answer in OpenAI's form, built piece by piece: each piece as a chunk for streams, and the whole at the end.

The strict fields are all there: `refusal`, `logprobs` (null or an object), `annotations`, `finish_reason`, usage with
details. The whole is what the chunks add up to, whether or not anybody streamed.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from avow.engines.tools import CallArguments, CallBegins, Event, Words

Chunk = dict[str, Any]
Emit = Callable[[Chunk], bool | None]
"""Takes a chunk; True means that nobody listens any more."""


@dataclass(slots=True)
class Choice:
    """One answer of several: text, calls (name, id, arguments) and log-probabilities so far."""

    content: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, list[str]]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    finish_reason: str | None = None


@dataclass(slots=True)
class Usage:
    """Tokens: of the prompt, once; of all answers together."""

    prompt: int = 0
    completion: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


class Completion:
    """Collects an answer; sends it on as chunks where somebody listens. `created` is in seconds since the epoch."""

    def __init__(
        self, *, model: str, fingerprint: str, created: int, logprobs: bool, emit: Emit | None, include_usage: bool
    ) -> None:
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._logprobs = logprobs
        self._emit = emit
        self._include_usage = include_usage
        self._choices: list[Choice] = []
        self.usage = Usage()
        self.cancelled = False

    def begin_choice(self) -> bool:
        """The next choice begins; whether anybody is there to take it."""
        self._choices.append(Choice(logprobs=[] if self._logprobs else None))
        self._send({"role": "assistant", "content": "", "refusal": None})
        return not self.cancelled

    def take(self, event: Event, logprobs: list[dict[str, Any]] | None = None) -> None:
        """A piece of the present choice."""
        choice = self._choices[-1]
        if isinstance(event, Words):
            choice.content.append(event.text)
            if choice.logprobs is not None and logprobs:
                choice.logprobs.extend(logprobs)
            self._send({"content": event.text}, logprobs=logprobs)
        elif isinstance(event, CallBegins):
            call_id = f"call_{secrets.token_hex(12)}"
            choice.calls.append((event.name, call_id, []))
            function = {"name": event.name, "arguments": ""}
            call = {"index": event.index, "id": call_id, "type": "function", "function": function}
            self._send({"tool_calls": [call]})
        elif isinstance(event, CallArguments):
            choice.calls[event.index][2].append(event.text)
            self._send({"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]})

    def end_choice(self, finish_reason: str) -> None:
        """The present choice ended by itself: stop, length or (with calls) tool_calls."""
        choice = self._choices[-1]
        choice.finish_reason = "tool_calls" if choice.calls and finish_reason == "stop" else finish_reason
        self._send({}, finish_reason=choice.finish_reason)

    def end(self) -> dict[str, Any]:
        """The whole answer. Choices that were cut off because nobody listened have `finish_reason` null."""
        usage = self.usage.as_json()
        if self._include_usage and self._emit and not self.cancelled:
            self._deliver({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        choices = [_choice_json(index, choice) for index, choice in enumerate(self._choices)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _send(
        self,
        delta: Mapping[str, Any],
        *,
        logprobs: list[dict[str, Any]] | None = None,
        finish_reason: str | None = None,
    ) -> None:
        if self._emit is None or self.cancelled:
            return
        choice: dict[str, Any] = {
            "index": len(self._choices) - 1,
            "delta": dict(delta),
            "logprobs": {"content": logprobs, "refusal": None} if self._logprobs and logprobs else None,
            "finish_reason": finish_reason,
        }
        chunk: Chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        self._deliver(chunk)

    def _deliver(self, chunk: Chunk) -> None:
        if self._emit is not None and self._emit(chunk):
            self.cancelled = True


def _choice_json(index: int, choice: Choice) -> dict[str, Any]:
    content = "".join(choice.content)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not choice.calls else None,
        "refusal": None,
        "annotations": [],
    }
    if choice.calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
            for name, call_id, arguments in choice.calls
        ]
    logprobs = None if choice.logprobs is None else {"content": choice.logprobs, "refusal": None}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}
