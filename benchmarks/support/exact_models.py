"""The real exact programs: the catalogue's, where they are installed in the tests' cache, and those that are trained and compiled here."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from avow.exact import files
from avow.exact.compile.onnx import Options, compile_onnx
from avow.exact.program import Program
from avow.models import catalogue
from avow.models.exact import PROGRAM_FILE
from benchmarks.support.exact_data import NotHere
from tests.exact import language_model
from tools.train_examples import Example, lenet, mlp, risk

MODEL_CACHE = Path(__file__).resolve().parents[2] / "build" / "model-cache"


def trained(make: Callable[[], Example]) -> Program:
    example = make()
    sequences = [[{example.input: row}] for row in example.training[:300]]
    return compile_onnx(example.model, Options(name=example.name, bits=8), sequences=sequences).program


def installed(name: str) -> Program:
    """A program of the catalogue. Raises NotHere where it is not installed."""
    manifest = catalogue.entry(name).manifest
    file = next(file for file in manifest.files if file.path == PROGRAM_FILE)
    path = MODEL_CACHE / "files" / file.sha256.hex()
    if not path.exists():
        raise NotHere(f"{name} is not in {MODEL_CACHE}")
    return files.load(path)


MODELS: dict[str, Callable[[], Program]] = {
    "small": language_model.program,
    "mlp": lambda: trained(mlp),
    "lenet": lambda: trained(lenet),
    "risk": lambda: trained(risk),
    "magika": lambda: installed("magika-exact"),
    "cls": lambda: installed("ppocr-cls-exact"),
    "rec": lambda: installed("ppocr-rec-exact"),
    "silero": lambda: installed("silero-vad-exact"),
    "smollm2": lambda: installed("smollm2-135m-instruct-exact"),
}


def programs(default: Sequence[str]) -> list[Program]:
    """What the command line asks for: `--models a,b | all`, files; else the default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--models", default="")
    parser.add_argument("files", nargs="*", type=Path)
    asked = parser.parse_args()
    names = list(MODELS) if asked.models == "all" else [name for name in asked.models.split(",") if name]
    found = [files.load(path) for path in asked.files]
    for name in names or ([] if found else default):
        try:
            found.append(MODELS[name]())
        except NotHere as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found
