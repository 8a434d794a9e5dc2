"""Reading what llama.cpp's handlers answer: their stream, their errors, and tokens beside text.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from avow.engines.completion import Completion
from avow.engines.errors import ContextTooLong, EngineFailed, InvalidRequest


class StreamReader:
    """Reads the library's stream: texts, token counts, the end."""

    def __init__(self, completion: Completion) -> None:
        self._usage = completion.usage
        self._before = completion.usage.completion
        self._reason: str | None = None

    def read(self, piece: dict[str, Any]) -> Iterator[str]:
        if "error" in piece:
            raise refused(piece["error"])
        timings = piece.get("timings")
        if timings:
            self._usage.prompt = timings["prompt_n"] + timings["cache_n"]
            self._usage.completion = self._before + timings["predicted_n"]
        for choice in piece["choices"]:
            self._reason = choice["finish_reason"] or self._reason
            text = choice["delta"].get("content")
            if text:
                yield text

    def finish_reason(self) -> str:
        if self._reason is None:
            raise EngineFailed("the engine stopped without an end")
        return self._reason


def refused(error: Mapping[str, Any]) -> InvalidRequest | EngineFailed:
    """The library's error as ours. Its text is not passed on, but for the token counts."""
    if error.get("type") == "exceed_context_size_error":
        return ContextTooLong(
            f"the prompt has {error.get('n_prompt_tokens')} tokens, the context {error.get('n_ctx')}",
            param="messages",
            context=int(error.get("n_ctx", 0)),
        )
    return EngineFailed("the engine refused the request", engine_code=int(error.get("code", 0)))


def by_character(text: str, entries: list[dict[str, Any]], top: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Splits `text` along its tokens, keeping tokens together that share a character.

    Tokens beyond the text (a stop text, the end mark) are left out.
    """
    data, start, end = text.encode(), 0, 0
    held: list[dict[str, Any]] = []
    for entry in entries:
        if end >= len(data):
            break
        end += len(entry["bytes"])
        held.append(_logprob(entry, top))
        piece = data[start:end]
        try:
            words = piece.decode()
        except UnicodeDecodeError:
            continue
        if words:
            yield words, held
            start, held = end, []
    if start < len(data):
        yield data[start:].decode(errors="replace"), held


def _logprob(entry: dict[str, Any], top: int) -> dict[str, Any]:
    fields = {name: entry[name] for name in ("token", "logprob", "bytes")}
    best = [{name: other[name] for name in ("token", "logprob", "bytes")} for other in entry["top_logprobs"][:top]]
    return {**fields, "top_logprobs": best}
