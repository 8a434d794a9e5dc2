"""Whether exact programs say what their float models say, on real data.

`--calibrate` makes the catalogue's recipes anew: ranges from real data, and prints size, digest and root for models/exact.py.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from avow.engines.speech import frames
from avow.exact.compile.onnx import Compiled, Options, compile_onnx, options_of
from avow.exact.compile.ranges import Ranges
from avow.exact.compile.report import worst_openings
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.ports import ports
from avow.models.exact import MAGIKA, OCR_DIRECTION, OCR_TEXT, RECIPES, SPEECH, Recipe, ranges_of
from benchmarks.report import Benchmark
from benchmarks.support import exact_data
from benchmarks.support.exact_data import NotHere
from tools.train_examples import Example, lenet, mlp, risk

RECIPE_FILES = Path(__file__).resolve().parent.parent / "src" / "avow" / "exact" / "compile" / "recipes"


class Pair:
    """An exact program and its float model, and how long each took on one thread."""

    def __init__(self, model: bytes, compiled: Compiled) -> None:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self.machine = Machine(compiled.program)
        self.inputs, self.outputs = ports(compiled.program)
        self.compiled = compiled
        self.exact_s = self.float_s = 0.0

    def exact(self, *values: Any) -> list[Any]:
        start = time.process_time()
        arrays = [port.to_integers(value) for port, value in zip(self.inputs, values, strict=True)]
        found = self.machine.run(arrays)
        self.exact_s += time.process_time() - start
        return [port.to_floats(array) for port, array in zip(self.outputs, found, strict=True)]

    def real(self, feeds: dict[str, Any]) -> list[Any]:
        start = time.process_time()
        found = self.session.run(None, feeds)
        self.float_s += time.process_time() - start
        return list(found)


def recipe_pair(recipe: Recipe, sequences: Any = None) -> Pair:
    """A recipe's program: by its pinned ranges, or calibrated on these samples."""
    model = exact_data.model_bytes(recipe)
    if sequences is not None:
        return Pair(model, compile_onnx(model, options_of(recipe), sequences=sequences))
    compiled = compile_onnx(model, options_of(recipe), ranges=Ranges.from_json(ranges_of(recipe)))
    if compiled.program.root.hex() != recipe.root:
        raise SystemExit(f"{recipe.name}: the root is not the pinned one")
    return Pair(model, compiled)


# --- Data for calibration ------------------------------------------------------------------------------------------


def _tokens(contents: list[bytes]) -> list[Any]:
    """What magika's processor gives the model (engines/magika.py)."""
    found = []
    for content in contents:
        begin, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        if len(begin) >= 8:
            found.append(np.array([*begin, *[256] * (1024 - len(begin)), *[256] * (1024 - len(end)), *end], np.int32))
    return found


def calibration(recipe: Recipe) -> Any:
    if recipe is MAGIKA:
        return [[{"bytes": row}] for row in _tokens(exact_data.real_files(96, seed=1))]
    if recipe is SPEECH:
        return [[{"input": row} for row in frames(clip)] for clip in exact_data.speech()[::2]]
    width = recipe.shapes["x"][3]
    lines = exact_data.text_lines(128, seed=1, width=width, turned=recipe is OCR_DIRECTION)
    return [[{"x": picture}] for _, picture in lines]


def calibrate() -> int:
    """Writes every recipe's ranges and root."""
    RECIPE_FILES.mkdir(exist_ok=True)
    for recipe in RECIPES:
        compiled = recipe_pair(recipe, calibration(recipe)).compiled
        (RECIPE_FILES / f"{recipe.name}.json").write_text(compiled.ranges.to_json(), encoding="utf-8")
        parts = b"".join(bytes(part) for part in compiled.program.parts())
        print(
            recipe.name, f"{len(parts):_}", hashlib.sha256(parts).hexdigest(), compiled.program.root.hex(), flush=True
        )
    return 0


# --- Agreement -----------------------------------------------------------------------------------------------------


def magika(bench: Benchmark) -> None:
    pair = recipe_pair(MAGIKA)
    rows = _tokens(exact_data.real_files(420, seed=2))[:400]
    same = 0
    for row in rows:
        (exact,), (real,) = pair.exact(row[None]), pair.real({"bytes": row[None]})
        same += int(exact.argmax() == real.argmax())
    figures(bench, "magika", pair, f"same kind, {len(rows)} files", same / len(rows), 0.99)


def direction(bench: Benchmark) -> None:
    pair = recipe_pair(OCR_DIRECTION)
    same = count = 0
    for _, picture in exact_data.text_lines(240, seed=2, width=192, turned=True):
        (exact,), (real,) = pair.exact(picture[None]), pair.real({"x": picture[None]})
        same += int(exact.argmax() == real.argmax())
        count += 1
    figures(bench, "PP-OCR cls", pair, f"same direction, {count} lines", same / count, 0.98)


def text(bench: Benchmark) -> None:
    pair = recipe_pair(OCR_TEXT)
    characters = exact_data.characters_of(exact_data.model_bytes(OCR_TEXT))
    same = count = right = inner = 0
    for truth, picture in exact_data.text_lines(300, seed=2, width=320):
        (exact,), (real,) = pair.exact(picture[None]), pair.real({"x": picture[None]})
        read = exact_data.read_text(real[0], characters)
        found = exact_data.read_text(exact[0], characters)
        same += int(found == read)
        inner += int(found.strip() == read.strip())
        right += int(read.replace(" ", "") == truth.replace(" ", ""))
        count += 1
    figures(bench, "PP-OCRv4 rec", pair, f"same text, {count} lines", same / count, 0.98)
    bench.add("PP-OCRv4 rec: same text but for a space at an end", inner / count * 100, "%")
    bench.add("PP-OCRv4 rec: the float model reads it right, but for spaces", right / count, "of lines")


def speech(bench: Benchmark) -> None:
    pair = recipe_pair(SPEECH)
    same = count = 0
    clips = exact_data.speech()
    for clip in clips[1::2] + clips[::2]:
        rows = frames(clip)
        (exact,) = pair.exact(rows)
        state = np.zeros((2, 1, 128), np.float32)
        for row, found in zip(rows, exact.reshape(-1), strict=True):
            real, state = pair.real({"input": row[None], "state": state, "sr": np.array(16_000)})
            same += int((found >= 0.5) == (real[0, 0] >= 0.5))
            count += 1
    figures(bench, "Silero VAD", pair, f"same decision, {count} frames", same / count, 0.99)


def trained(bench: Benchmark, make: Callable[[], Example], bits: int) -> None:
    example = make()
    sequences = [[{example.input: row}] for row in example.training[:300]]
    pair = Pair(example.model, compile_onnx(example.model, Options(name=example.name, bits=bits), sequences=sequences))
    exact = np.stack([pair.exact(row[None])[-1].reshape(-1) for row in example.test])
    real = np.stack([pair.real({example.input: row[None]})[-1].reshape(-1) for row in example.test])
    if exact.shape[1] == 1:
        answers = (exact[:, 0] >= 0.5).astype(int), (real[:, 0] >= 0.5).astype(int)
    else:
        answers = exact.argmax(1), real.argmax(1)
    accuracy = [float((answer == example.labels).mean()) for answer in answers]
    bench.add(f"{example.name}: accuracy lost", max(0.0, accuracy[1] - accuracy[0]) * 100, "%", bar=1.0)
    figures(
        bench, example.name, pair, f"same answer, {len(real)} samples", float((answers[0] == answers[1]).mean()), 0.99
    )


def figures(bench: Benchmark, name: str, pair: Pair, what: str, share: float, bar: float) -> None:
    program = pair.compiled.program
    bench.add(f"{name}: {what}", share * 100, "%", bar=bar * 100, lower=False)
    bench.add(
        f"{name}: CPU time of all", pair.exact_s * 1000, "ms", peer="onnxruntime fp32, one thread",
        ratio=pair.exact_s / max(pair.float_s, 1e-9),
    )  # fmt: skip
    bench.add(f"{name}: size of the program", sum(len(part) for part in program.parts()) / 1024, "KiB")
    bench.add(f"{name}: largest proof of one value", max(worst_openings(program).values()) / 1024, "KiB", bar=60)


PARTS: dict[str, Callable[[Benchmark], None]] = {
    "digits-mlp": lambda bench: trained(bench, mlp, 8),
    "digits-lenet": lambda bench: trained(bench, lenet, 8),
    "risk": lambda bench: trained(bench, risk, 8),
    "magika": magika,
    "cls": direction,
    "rec": text,
    "speech": speech,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--calibrate", action="store_true", help="make the catalogue's recipes anew")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    chosen = parser.parse_args()
    if chosen.calibrate:
        return calibrate()
    bench = Benchmark("exact_agreement", "Exact programs and their float models, on real data")
    for name in chosen.parts or PARTS:
        try:
            PARTS[name](bench)
        except NotHere as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
