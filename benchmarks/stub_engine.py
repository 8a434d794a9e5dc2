"""An engine that costs next to nothing: it echoes the last message, in as many chunks as it is told.

Benchmarks and process tests use it to see what everything around an engine costs. It is reachable from code alone.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from avow.errors import InputError
from avow.nodes.loaded import Loaded


class StubEngine:
    """Deterministic. `chunks`: how many pieces a streamed answer has; `delay_s`: pause before each."""

    name = "stub"
    version = "1"
    runtime = "python"
    kind = "chat"

    def __init__(self, chunks: int = 3, delay_s: float = 0.0) -> None:
        self.chunks = chunks
        self.delay_s = delay_s

    def effective(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"seed": request.get("seed", 0), "temperature": 0, "max_tokens": self.chunks}

    def chat(
        self,
        request: Mapping[str, Any],
        effective: dict[str, Any],  # noqa: ARG002
        emit: Callable[[dict[str, Any]], bool | None] | None,
    ) -> dict[str, Any]:
        text = str(request["messages"][-1]["content"])
        usage = {"prompt_tokens": len(text), "completion_tokens": self.chunks, "total_tokens": len(text) + self.chunks}
        base = {"id": "chatcmpl-stub", "created": 1, "model": request.get("model", "stub")}
        if request.get("stream") and emit is not None:
            for index in range(self.chunks):
                if self.delay_s:
                    time.sleep(self.delay_s)
                delta: dict[str, Any] = {"content": f"{text[:16]} {index}"}
                if index == 0:
                    delta["role"] = "assistant"
                finish = "stop" if index == self.chunks - 1 else None
                choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
                if emit({**base, "object": "chat.completion.chunk", "choices": [choice]}):
                    break
        elif self.delay_s:
            time.sleep(self.delay_s)
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**base, "object": "chat.completion", "choices": [choice], "usage": usage}

    def infer(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        raise InputError("the stub is a chat program")

    def close(self) -> None:
        """Nothing to let go."""


def prepare(body: bytes) -> dict[str, Any]:
    """The body as a mapping with at least one message; raises InputError."""
    request = json.loads(body)
    if not isinstance(request.get("messages"), list) or not request["messages"]:
        raise InputError("messages must be a list with at least one element", param="messages")
    return request


PROGRAM = bytes(range(32))
CHUNKS = "AVOW_STUB_CHUNKS"
DELAY_S = "AVOW_STUB_DELAY_S"


def programs() -> dict[bytes, Loaded]:
    """The stub as the one program of a process; its chunks and delay come from the environment of a benchmark or test."""
    engine = StubEngine(int(os.environ.get(CHUNKS, "3")), float(os.environ.get(DELAY_S, "0")))
    return {PROGRAM: Loaded(PROGRAM, "stub", "chat", engine, prepare, slots=8)}
