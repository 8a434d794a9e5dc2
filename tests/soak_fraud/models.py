"""The real models of the campaign, and honest questions for each of them."""

import hashlib
import json
import math
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from avow.client.session import bytes_tensor
from avow.exact import files
from avow.exact.compile.onnx import Options, compile_onnx
from avow.models import catalogue
from avow.models.exact import add_exact
from avow.models.manifest import File, Manifest
from avow.models.store import Store, hash_file
from tests.exact import language_model
from tests.nodes.optimistic import NAME, body_of, install, small_program
from tools import train_examples

CACHE = Path(__file__).resolve().parents[2] / "build" / "model-cache" / "trained"


@dataclass(frozen=True)
class Model:
    """`install(home)` puts it into a home's store; `question(number)` is the body of a request but for its model and its lie."""

    name: str
    install: Any
    question: Any
    chats: bool = False

    def body(self, number: int, said: str = "") -> dict[str, Any]:
        """The members of a request, with what it says beside the question."""
        extra = {"user" if self.chats else "id": said} if said else {}
        return {**self.question(number), **extra}


def tensor(name: str, values: Any) -> dict[str, Any]:
    rounded = [round(float(value), 3) for value in values.reshape(-1)]
    return {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": rounded}


def inputs(*tensors: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": list(tensors)}


# --- From the catalogue ----------------------------------------------------------------------------------------------


def from_catalogue(name: str) -> Any:
    return lambda home: catalogue.install(Store(home), name)


def file(number: int) -> dict[str, Any]:
    source = Path(__file__).read_bytes()
    first = 97 * number % (len(source) // 2)
    return inputs(bytes_tensor("file", source[first : first + 3_000]))


def line(width: int) -> Any:
    """A dark line of strokes on light paper, with noise: [1, 3, 48, width]."""

    def question(number: int) -> dict[str, Any]:
        random = np.random.default_rng(number)
        picture = np.full((48, width), 0.9)
        for at in range(6, width - 12, 9):
            top, high = random.integers(8, 20), random.integers(8, 22)
            picture[top : top + high, at : at + random.integers(2, 6)] = -0.9
        pixels = np.stack([picture] * 3)[None] + random.normal(0, 0.05, (1, 3, 48, width))
        return inputs(tensor("x", pixels.clip(-1, 1)))

    return question


def audio(number: int, frames: int = 9) -> dict[str, Any]:
    """A voice-like tone that comes and goes, with noise."""
    random = np.random.default_rng(number)
    at = np.arange(512 * frames) / 16_000
    tone = sum(np.sin(2 * math.pi * (110 + 20 * number) * harmonic * at) / harmonic for harmonic in range(1, 9))
    wave = 0.2 * tone * np.sin(2 * math.pi * 3 * at) ** 2 + random.normal(0, 0.01, len(at))
    return inputs(tensor("audio", wave.clip(-1, 1)))


QUESTIONS = ("Name a colour.", "Is water wet?", "Count to three.", "What is a cat?", "Say hello.")


def chat(number: int) -> dict[str, Any]:
    content = QUESTIONS[number % len(QUESTIONS)]
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "max_tokens": 3, "temperature": 0.9, "seed": number}


# --- Trained here ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """Of a model that tools/train_examples.py trains: ONNX bytes, its input's name, samples to calibrate with and to ask about."""

    model: bytes
    input: str
    training: Any
    test: Any


@cache
def trained(name: str) -> Trained:
    """Trained once; kept under build/model-cache for as long as the tool is as it was."""
    tool = Path(train_examples.__file__).read_bytes()
    file = CACHE / f"{name}-{hashlib.sha256(tool).hexdigest()[:16]}.npz"
    if not file.exists():
        example = train_examples.EXAMPLES[name]()
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".tmp.npz")
        model = np.frombuffer(example.model, np.uint8)
        np.savez(unfinished, model=model, input=example.input, training=example.training[:300], test=example.test)
        unfinished.replace(file)
    found = np.load(file)
    return Trained(found["model"].tobytes(), str(found["input"]), found["training"], found["test"])


def from_training(name: str) -> Any:
    def into(home: Path) -> bytes:
        store = Store(home)
        example = trained(name)
        sequences = [[{example.input: row}] for row in example.training]
        program = compile_onnx(example.model, Options(name=name, bits=8), sequences=sequences).program
        store.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store.directory) as scratch:
            path = Path(scratch) / "program.exact"
            files.save(program, path)
            return add_exact(store, path, name=name, root=program.root, licence="Apache-2.0")

    return into


def rows(name: str) -> Any:
    """Three samples of the test data."""

    def question(number: int) -> dict[str, Any]:
        example = trained(name)
        first = 3 * number % (len(example.test) - 3)
        return inputs(tensor(example.input, example.test[first : first + 3]))

    return question


# --- Small ones, for the ordinary tests ------------------------------------------------------------------------------


def small(number: int) -> dict[str, Any]:
    return json.loads(body_of(small_program(), number, 2))  # type: ignore[no-any-return]


def small_chat(home: Path) -> bytes:
    """A random model of the Llama family."""
    exact = language_model.program(context=200)
    store = Store(home)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files.save(exact, folder / "program.exact")
        (folder / "tokeniser.cbor").write_bytes(language_model.vocabulary().encoded())
        listed = tuple(File(name, *hash_file(folder / name)) for name in ("program.exact", "tokeniser.cbor"))
        options = {"root": exact.root.hex(), "program": "program.exact", "tokeniser": "tokeniser.cbor"}
        manifest = Manifest("small-chat", "exact", "exact", listed, options, "Apache-2.0", "test")
        store.directory.mkdir(parents=True, exist_ok=True)
        return store.add(manifest, {file.path: folder / file.path for file in listed})


MODELS = {
    model.name: model
    for model in (
        Model("digits-mlp", from_training("digits-mlp"), rows("digits-mlp")),
        Model("digits-lenet", from_training("digits-lenet"), rows("digits-lenet")),
        Model("risk", from_training("risk"), rows("risk")),
        Model("magika-exact", from_catalogue("magika-exact"), file),
        Model("ppocr-cls-exact", from_catalogue("ppocr-cls-exact"), line(192)),
        Model("ppocr-rec-exact", from_catalogue("ppocr-rec-exact"), line(320)),
        Model("silero-vad-exact", from_catalogue("silero-vad-exact"), audio),
        Model("smollm2-135m-instruct-exact", from_catalogue("smollm2-135m-instruct-exact"), chat, chats=True),
    )
}
SMALL = {
    model.name: model
    for model in (
        Model(NAME, lambda home: install(home, small_program()), small),
        Model("small-chat", small_chat, chat, chats=True),
    )
}
