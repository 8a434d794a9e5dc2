"""Programs made ready to run: from the content store, digests checked, with the check of a body's shape that fits."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from avow.engines.inference_protocol import parse_infer
from avow.engines.interface import Engine, load
from avow.engines.openai import parse_chat
from avow.exact.files import load_header
from avow.models.store import Progress, Store, StoredProgram, no_progress
from avow.nodes.loaded import Loaded


@runtime_checkable
class Described(Protocol):
    """An engine that knows the inputs and outputs of its program."""

    def metadata(self) -> dict[str, Any]: ...


log = logging.getLogger(__name__)

DEFAULT_SLOTS = 4


def load_programs(
    home: Path,
    names: Iterable[str],
    *,
    threads: int = 1,
    slots: int = DEFAULT_SLOTS,
    progress: Progress = no_progress,
) -> dict[bytes, Loaded]:
    """Load programs by name or by id (64 hex digits). Raises what the store and the engines raise."""
    store = Store(home)
    loaded = {}
    for name in names:
        program = _find(store, name)
        loaded[program.program_id] = _load(program, threads, slots, progress)
        log.info("loaded %s", program.manifest.name)
    return loaded


def _find(store: Store, name: str) -> StoredProgram:
    if len(name) == 64 and not set(name) - set("0123456789abcdef"):
        return store.get(bytes.fromhex(name))
    return store.find(name)


def _load(program: StoredProgram, threads: int, slots: int, progress: Progress) -> Loaded:
    engine = load(program, threads=threads, slots=slots, progress=progress)
    manifest = program.manifest
    return Loaded(
        program=program.program_id,
        name=manifest.name,
        kind=engine.kind,
        engine=engine,
        prepare=_chat if engine.kind == "chat" else _tensors,
        slots=slots,
        manifest=manifest.encoded(),
        metadata=_metadata(engine),
        outline=outline_of(program) if manifest.engine == "exact" else b"",
    )


def outline_of(program: StoredProgram) -> bytes:
    """The header of an exact program's file (exact/outline.py)."""
    from avow.engines.exact import program_file

    return load_header(program_file(program))


def _metadata(engine: Engine) -> bytes:
    """The Open Inference Protocol's model metadata, JSON, where the engine has it."""
    return msgspec.json.encode(engine.metadata()) if isinstance(engine, Described) else b""


def _chat(body: bytes) -> Any:
    return parse_chat(body).body


def _tensors(body: bytes) -> Any:
    return parse_infer(body).body
