"""A program that is ready to run, and what is needed of the engine that runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from avow.exact.hashing import Header, Salts, Trace
from avow.exact.prover import OwnRun


class Engine(Protocol):
    """What a runner needs of an engine; engines/ has the whole protocol."""

    name: str
    version: str
    runtime: str

    def effective(self, request: Any) -> dict[str, Any]: ...
    def chat(
        self, request: Any, effective: dict[str, Any], emit: Callable[[dict[str, Any]], bool | None] | None
    ) -> dict[str, Any]: ...
    def infer(self, request: Any) -> dict[str, Any]: ...
    def close(self) -> None: ...


@runtime_checkable
class Traced(Protocol):
    """What a runner of optimistic jobs needs beside it (engines/interface.py, TracedEngine)."""

    def traced_chat(
        self, request: Any, effective: dict[str, Any], seed: bytes, emit: Callable[[dict[str, Any]], bool | None] | None
    ) -> tuple[dict[str, Any], Trace]: ...
    def traced_infer(self, request: Any, seed: bytes) -> tuple[dict[str, Any], Trace]: ...
    def replay(
        self, request: Any, effective: dict[str, Any], salts: Salts, header: Header, *, said: str = ""
    ) -> OwnRun: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program that is ready to run. `prepare` checks a body's shape and gives what the engine takes.

    `outline`: of an exact program, the header of its file, as the chain wants it declared.
    """

    program: bytes
    name: str
    kind: str
    engine: Engine
    prepare: Callable[[bytes], Any]
    slots: int = 1
    manifest: bytes = b""
    metadata: bytes = b""
    outline: bytes = b""
