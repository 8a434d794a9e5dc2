"""What every engine does, and the choice of one for a program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from avow.engines.completion import Emit
from avow.engines.errors import InvalidOptions
from avow.exact.hashing import Header, Salts, Trace
from avow.exact.prover import OwnRun
from avow.models.store import Progress, StoredProgram, no_progress

ENGINES: Mapping[str, tuple[str, ...]] = {
    "llama": ("gguf",),
    "onnx": ("onnx",),
    "exact": ("exact",),
    "remote": ("none",),
}
"""The engines, each with the formats that it runs."""


class Engine(Protocol):
    """A loaded program. All methods may be called from several threads at once."""

    name: str
    """Goes into statements, as do `version` and `runtime`: what the bits of an answer depend on."""
    version: str
    runtime: str
    kind: Literal["chat", "tensor"]

    def effective(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """All effective parameters of a request, as JSON: they and the program fully determine what is run."""
        ...

    def chat(
        self, request: Mapping[str, Any], effective: Mapping[str, Any], emit: Emit | None = None
    ) -> dict[str, Any]:
        """OpenAI's chat request → chat.completion; blocks. Chunks go to `emit` as they come; True from it cancels."""
        ...

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Open Inference Protocol v2 request → response; blocks."""
        ...

    def close(self) -> None:
        """Frees the engine once running answers are done."""
        ...


class TracedEngine(Engine, Protocol):
    """An engine of exact programs: the same answers with the trace that the method optimistic commits to."""

    def traced_chat(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        seed: bytes,
        emit: Emit | None = None,
        *,
        said: str = "",
    ) -> tuple[dict[str, Any], Trace]:
        """`chat`, and its trace salted from the opening's 32-byte seed. A cancelled run ends with `finish` "text".

        `said`: what somebody answered already; the right words make the run several times cheaper, wrong ones change nothing.
        """
        ...

    def traced_infer(self, request: Mapping[str, Any], seed: bytes) -> tuple[dict[str, Any], Trace]:
        """`infer`, and its trace."""
        ...

    def replay(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        salts: Salts,
        header: Header,
        *,
        said: str = "",
    ) -> OwnRun:
        """The honest run of as many steps as `header` claims, kept whole: for who watches, and to answer demands."""
        ...


@runtime_checkable
class Kept(Protocol):
    """A trace of which more than the header is worth keeping until nobody can challenge it any more."""

    @property
    def parts(self) -> Sequence[memoryview]:
        """Joined, what `KeepingEngine.restore` takes."""
        ...


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds that one answer about a run takes at most where what it left behind is there, and that the longest run takes again."""

    answer_ms: float
    replay_ms: float


@runtime_checkable
class KeepingEngine(Protocol):
    """An engine whose traced runs leave something behind: their traces are `Kept`, where running again takes longer than reading."""

    def kept_bytes(self, request: Mapping[str, Any], effective: Mapping[str, Any]) -> int:
        """How much a run leaves behind, at most; 0: nothing. Known before it is run."""
        ...

    def restore(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        salts: Salts,
        header: bytes,
        data: memoryview,
    ) -> OwnRun:
        """The run that left `data` behind. Raises BadRun for data that cannot be its; what it says is for the caller to check."""
        ...

    def cost(self) -> Cost:
        """Measured now, on this machine."""
        ...

    def answer_ms(self, request: Mapping[str, Any]) -> float:
        """What one answer takes beyond `Cost.answer_ms` for a request as long as this one."""
        ...


def load(program: StoredProgram, *, threads: int = 1, slots: int = 4, progress: Progress = no_progress) -> Engine:
    """Checks the program's files against their digests and loads it.

    `threads` per job, `slots` jobs at once. Raises DigestMismatch, UnsafeModel, InvalidOptions, EngineFailed.
    """
    manifest = program.manifest
    if manifest.format not in ENGINES.get(manifest.engine, ()):
        raise InvalidOptions("no such engine runs this format", engine=manifest.engine, format=manifest.format)
    program.verify(progress)
    if manifest.engine == "llama":
        from avow.engines.llama import LlamaEngine

        return LlamaEngine(program, threads=threads, slots=slots)
    if manifest.engine == "onnx":
        from avow.engines.onnx import OnnxEngine

        return OnnxEngine(program, threads=threads, slots=slots)
    if manifest.engine == "exact":
        from avow.engines.exact import load_exact

        engine: Engine = load_exact(program, threads=threads, slots=slots)
        return engine
    from avow.engines.remote import RemoteEngine

    return RemoteEngine(program, slots=slots)
