"""`avow compile`: an exact program from a float model, and a report of what it cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from avow.cli.frame import common, mapping, put, put_json, resolve_home, say, table
from avow.cli.model import size_text
from avow.cli.model_files import is_gguf, not_sound
from avow.cli.progress import progress
from avow.errors import InputError, NotFound, TooLarge
from avow.models.errors import UnknownProgram, UnsafeModel
from avow.models.exact import PROGRAM_FILE, add_exact
from avow.models.store import Store

MAX_RANGES = 16 * 1024 * 1024


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--bits", type=click.IntRange(8, 16), default=8, show_default=True, help="Of what goes into products: 8, 12, 16."
)
@click.option("--weight-bits", type=click.IntRange(8, 16), default=8, show_default=True, help="Of the weights.")
@click.option(
    "--calibrate", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="DATA",
    help="Samples to take ranges from: .npz with an array for each input, or .npy (a GGUF: a text).",
)  # fmt: skip
@click.option(
    "--compare", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="DATA",
    help="Samples to compare with the float model on; by default those of --calibrate.",
)  # fmt: skip
@click.option(
    "--ranges", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Ranges of an earlier calibration, instead of --calibrate.",
)  # fmt: skip
@click.option("--save-ranges", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--shape", "shapes", multiple=True, metavar="INPUT=1,3,48,320", help="An input's shape, if it is open.")
@click.option("--set", "fixed", multiple=True, metavar="INPUT=NUMBER", help="An input that becomes a constant.")
@click.option(
    "--state", "states", multiple=True, metavar="INPUT:OUTPUT", help="An input that is the last step's output."
)
@click.option("--integers", multiple=True, metavar="INPUT=0:255", help="What an integer input can be.")
@click.option(
    "--steps", type=click.IntRange(1, 65_536), default=1024, show_default=True, help="Samples or steps in a run."
)
@click.option(
    "--context", type=click.IntRange(64, 1 << 20), default=2048, show_default=True, help="Of a language model."
)
@click.option("--name", help="The program's name; by default the model's, and -exact.")
@click.option("--licence", default="unknown", show_default=True)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the program to FILE."
)
@click.option("--add/--no-add", default=True, show_default=True, help="Add it to the models on this machine.")
@common
def compile(  # noqa: A001  # the command's name
    model: str,
    home: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Compile MODEL, a file or the name of a model on this machine, into integers that are the same on every machine."""
    store = Store(resolve_home(home))
    path = _file(store, model)
    name = given["name"] or f"{_short(path, model)}-exact"
    if is_gguf(path):
        _chat(store, path, name, given, as_json=as_json)
        return
    with progress(quiet=as_json) as callback:
        callback(0, None, f"compiling {name}")
        report, program, ranges = _compile(path, name, given)
        found = report.to_json()
        if given["save_ranges"]:
            given["save_ranges"].write_text(ranges.to_json(), encoding="utf-8")
        _keep(store, program, name, given, found, callback)
    if as_json:
        put_json(found)
    else:
        _show(found)


def _chat(store: Store, path: Path, name: str, given: dict[str, Any], *, as_json: bool) -> None:
    """A chat model of the Llama family: what decides is its context and, if given, a calibration text."""
    import shutil
    import tempfile

    from avow.exact.compile import chat_program
    from avow.exact.compile.llama import Settings

    settings = Settings(context=given["context"])
    if given["calibrate"] and given["calibrate"].stat().st_size > 4 * chat_program.MAX_TEXT:
        raise TooLarge("the calibration text is too long", limit=chat_program.MAX_TEXT)
    text = given["calibrate"].read_text("utf-8") if given["calibrate"] else None
    store.directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=store.directory, prefix="compile-") as scratch,
        progress(quiet=as_json) as callback,
    ):
        compiled = chat_program.compile_gguf(path, Path(scratch), settings=settings, text=text, progress=callback)
        found = dict(chat_program.report(compiled))
        if given["output"]:
            shutil.copyfile(compiled.files[chat_program.PROGRAM], given["output"])
        if given["add"]:
            added = chat_program.add_chat_program(
                store, compiled, name=name, licence=given["licence"], source="avow compile", progress=callback
            )
            found["program"] = added.hex()
    if as_json:
        put_json(found)
    else:
        mapping(list(found.items()))


def _file(store: Store, model: str) -> Path:
    path = Path(model)
    if path.is_file():
        return path
    try:
        stored = store.find(model)
    except UnknownProgram as error:
        detail = f"there is neither a file nor a model of this machine called {model[:256]!r}"
        raise NotFound(detail, hint="`avow model list` shows the models") from error
    files = [stored.paths[each.path] for each in stored.manifest.files if each.path.endswith((".onnx", ".gguf"))]
    if len(files) != 1:
        raise InputError("the model has not one ONNX file", model=model[:96])
    stored.verify()
    return files[0]


def _short(path: Path, model: str) -> str:
    import re

    text = path.stem if path.suffix else model
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:80] or "program"


def _compile(path: Path, name: str, given: dict[str, Any]) -> Any:
    """Report, program and ranges."""
    import numpy as np

    from avow.exact.compile.data import read_data
    from avow.exact.compile.onnx import Options, compile_onnx, flat_inputs
    from avow.exact.compile.ranges import Ranges
    from avow.exact.compile.report import Report, compare

    options = Options(
        name=name,
        bits=given["bits"],
        weight_bits=given["weight_bits"],
        shapes={key: _integers(value, ",") for key, value in _pairs(given["shapes"], "=")},
        fixed={key: np.array(_number(value)) for key, value in _pairs(given["fixed"], "=")},
        states=dict(_pairs(given["states"], ":")),
        steps=given["steps"],
        integers={key: _two(_integers(value, ":")) for key, value in _pairs(given["integers"], "=")},
    )
    data = path.read_bytes()
    try:
        inputs = flat_inputs(data, options)
    except UnsafeModel as error:
        raise not_sound(path, error) from error
    samples = read_data(given["calibrate"], inputs) if given["calibrate"] else None
    ranges = None
    if given["ranges"]:
        if given["ranges"].stat().st_size > MAX_RANGES:
            raise TooLarge("the ranges are too large", limit=MAX_RANGES)
        ranges = Ranges.from_json(given["ranges"].read_text("utf-8"))
    compiled = compile_onnx(data, options, sequences=_sequences(samples, options.states), ranges=ranges)
    looked = read_data(given["compare"], inputs) if given["compare"] else samples
    if looked is None or not compiled.flat.outputs:
        return Report(compiled.program, compiled.accumulators), compiled.program, compiled.ranges
    limit = compiled.program.context
    return compare(compiled, _sequences(looked[:limit], options.states) or []), compiled.program, compiled.ranges


def _sequences(samples: Sequence[Any] | None, states: Any) -> Any:
    """One sequence of all samples for a model with states, else sequences of one."""
    if samples is None:
        return None
    return [samples] if states else [[sample] for sample in samples]


def _keep(store: Store, program: Any, name: str, given: dict[str, Any], found: dict[str, Any], callback: Any) -> None:
    import tempfile

    from avow.exact import files

    if given["output"]:
        files.save(program, given["output"])
        found["file"] = str(given["output"])
    if given["add"]:
        store.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store.directory, prefix="compile-") as scratch:
            target = Path(scratch) / PROGRAM_FILE
            files.save(program, target)
            added = add_exact(
                store,
                target,
                name=name,
                root=program.root,
                licence=given["licence"],
                source="avow compile",
                progress=callback,
            )
        found["program"] = added.hex()


def _pairs(texts: Sequence[str], between: str) -> list[tuple[str, str]]:
    pairs = [text.rpartition(between) for text in texts]
    if any(not name or not value for name, _, value in pairs):
        raise InputError(f"an option is written NAME{between}VALUE", given=texts[0][:96])
    return [(name, value) for name, _, value in pairs]


def _number(text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError as error:
        raise InputError("not a number", given=text[:32]) from error


def _integers(text: str, between: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(between))
    except ValueError as error:
        raise InputError("not a list of integers", given=text[:64]) from error


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    if len(values) != 2:
        raise InputError("an integer input has a least and a most: NAME=LOW:HIGH")
    return values[0], values[1]


def _show(found: dict[str, Any]) -> None:
    """The report for people."""
    pairs = [
        ("name", found["name"]),
        ("root", found["root"]),
        ("size", size_text(found["size"])),
        (
            "operators",
            f"{found['operators']} ({', '.join(f'{count} {kind}' for kind, count in found['kinds'].items())})",
        ),
        ("largest sum", f"{found['largest_accumulator']:,} of 1,073,741,824"),
        (
            "largest proof",
            f"{size_text(max(found['openings'].values()))} ({max(found['openings'], key=found['openings'].get)})",
        ),
    ]
    mapping(pairs)
    rows = [
        [
            output["name"],
            f"{output['largest_error']:.3g}",
            f"{output['relative_error']:.3g}",
            "" if output["same_largest"] is None else f"{output['same_largest'] * 100:.2f} %",
        ]
        for output in found["outputs"]
    ]
    if rows:
        title = f"against the float model, {found['samples']} samples"
        table(["output", "largest error", "relative error", "same largest"], rows, title=title)
    if "program" in found:
        put(found["program"])
        say(f"added {found['name']}")
