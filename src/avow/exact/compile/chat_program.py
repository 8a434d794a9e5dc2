"""A GGUF file becomes a program that chats: the exact program and its tokeniser, as files of a manifest.

The calibration text that belongs to this package, and everything else that decides a bit, is fixed: one GGUF and one setting give one
program.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from avow.exact import files
from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.gguf_model import Model, read_model
from avow.exact.compile.llama import Settings, compile_llama
from avow.exact.compile.llama_float import Tokens
from avow.exact.kernels.statistics import FastStatistics
from avow.exact.program import Program
from avow.exact.specification import bounds
from avow.exact.tokeniser import BadTokeniser, Tokeniser
from avow.models.manifest import File, Manifest
from avow.models.store import Progress, Store, no_progress
from avow.receipt.encoding import Value

PROGRAM = "program.exact"
TOKENISER = "tokeniser.cbor"
SEPARATOR = "=====\n"
"""Between calibration texts: each is run by itself."""
MAX_TEXT = 1 << 20
_MARK = re.compile(r"(<\|[a-z_]+\|>)")


@dataclass(frozen=True, slots=True)
class ChatProgram:
    """What compiling gave: the program, its files, and the manifest's options for the engine."""

    program: Program
    model: Model = field(repr=False)
    tokeniser: Tokeniser = field(repr=False)
    files: dict[str, Path]
    options: dict[str, Value]
    accumulator: int
    """The largest that any accumulator of the program can become; < 2^30."""

    def manifest(self, *, name: str, licence: str, source: str) -> Manifest:
        """The manifest that names these files."""
        listed = []
        for path, place in sorted(self.files.items()):
            data = place.read_bytes()
            listed.append(File(path, len(data), sha256(data).digest()))
        return Manifest(name, "exact", "exact", tuple(listed), self.options, licence, source)


def calibration_text() -> str:
    """The text that programs are calibrated with unless another is given."""
    return (Path(__file__).parent / "calibration.txt").read_text(encoding="utf-8")


def windows(tokeniser: Tokeniser, text: str, context: int) -> list[Tokens]:
    """Calibration texts as tokens, each cut to the context. Marks like <|im_start|> are special tokens where the vocabulary has them."""
    found = []
    for part in text.split(SEPARATOR):
        tokens = np.fromiter(_marked(tokeniser, part), np.int64)[:context]
        if len(tokens) > 1:
            found.append(tokens)
    return found


def _marked(tokeniser: Tokeniser, text: str) -> Iterator[int]:
    for piece in _MARK.split(text):
        if _MARK.fullmatch(piece):
            try:
                yield tokeniser.special(piece)
            except BadTokeniser:
                continue
        else:
            yield from tokeniser.encode(piece)


def compile_gguf(
    path: Path,
    folder: Path,
    *,
    settings: Settings | None = None,
    text: str | None = None,
    defaults: dict[str, Value] | None = None,
    system: str = "",
    progress: Progress = no_progress,
) -> ChatProgram:
    """Compiles the model in a GGUF file into two files in `folder`, calibrated with `text`.

    `defaults` and `system` are the engine's. Raises UnsafeModel, UnsupportedOperators, CannotCompile, BadProgram.
    """
    chosen = settings or Settings()
    if text is not None and len(text) > MAX_TEXT:
        raise CannotCompile("the calibration text is too long", limit=MAX_TEXT)
    model = read_model(path)
    tokeniser = Tokeniser(model.vocabulary)
    for mark in ("<|im_start|>", "<|im_end|>"):
        try:
            tokeniser.special(mark)
        except BadTokeniser:
            raise CannotCompile(
                "the vocabulary lacks the marks of ChatML, the one template known here", token=mark
            ) from None
    cut = windows(tokeniser, calibration_text() if text is None else text, chosen.context)
    program = compile_llama(model, cut, chosen, progress)
    accumulator = max(bounds.check(program, FastStatistics()))
    written = {PROGRAM: folder / PROGRAM, TOKENISER: folder / TOKENISER}
    files.save(program, written[PROGRAM])
    written[TOKENISER].write_bytes(model.vocabulary.encoded())
    options: dict[str, Value] = {
        "root": program.root.hex(),
        "program": PROGRAM,
        "tokeniser": TOKENISER,
        "template": "chatml",
        "system": system,
        "defaults": defaults or {},
    }
    return ChatProgram(program, model, tokeniser, written, options, accumulator)


def add_chat_program(
    store: Store, compiled: ChatProgram, *, name: str, licence: str, source: str, progress: Progress = no_progress
) -> bytes:
    """Adds a compiled program to the store; its id."""
    return store.add(compiled.manifest(name=name, licence=licence, source=source), compiled.files, progress)


def report(compiled: ChatProgram) -> list[tuple[str, str]]:
    """What an author wants to know of a compiled program."""
    program = compiled.program
    kinds: dict[str, int] = {}
    for operator in program.operators:
        kinds[operator.kind] = kinds.get(operator.kind, 0) + 1
    size = sum(place.stat().st_size for place in compiled.files.values())
    return [
        ("program root", program.root.hex()),
        ("size", f"{size / 1e6:.1f} MB"),
        ("context", f"{program.context} tokens"),
        (
            "operators",
            f"{len(program.operators)} a step: "
            + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
        ),
        ("largest accumulator", f"{compiled.accumulator} of at most {(1 << 30) - 1}, proven for every operator"),
    ]


def joined(texts: Sequence[str]) -> str:
    """Several calibration texts as one."""
    return SEPARATOR.join(texts)
