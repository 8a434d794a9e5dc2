"""Exact programs in the store: a compiled program's manifest, and the catalogue's recipes.

A recipe names a pinned model of the Python index and the ranges that it was calibrated with (data of this package): compiled anywhere,
they give one program, whose root is pinned too.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from avow.models.errors import ImportFailed, UnknownProgram
from avow.models.index import Piece, Wheel, unpack
from avow.models.manifest import File, Manifest
from avow.models.store import Progress, Store, hash_file, no_progress
from avow.receipt.encoding import Value

PROGRAM_FILE = "program.exact"


def add_exact(
    store: Store,
    program: Path,
    *,
    name: str,
    root: bytes,
    licence: str = "unknown",
    source: str = "",
    processor: str = "none",
    beside: Mapping[str, Path] | None = None,
    progress: Progress = no_progress,
) -> bytes:
    """Adds a program's file, and what its processor reads, to the store; the program's id."""
    paths = {PROGRAM_FILE: program, **(beside or {})}
    listed = []
    for path, file in sorted(paths.items()):
        size, digest = hash_file(file, f"hashing {path}", progress)
        listed.append(File(path, size, digest))
    options: dict[str, Value] = {"program": PROGRAM_FILE, "root": root.hex(), "processor": processor}
    manifest = Manifest(name, "exact", "exact", tuple(listed), options, licence, source[:1024])
    return store.add(manifest, paths, progress)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a catalogue's exact program is made: from which wheel's files, with which options of the compiler."""

    name: str
    description: str
    licence: str
    wheel: Wheel
    members: Mapping[str, str]
    """File → the wheel's member that it is; "model.onnx" is compiled, the others go with the program."""
    bits: int
    weight_bits: int = 8
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    processor: str = "none"
    steps: int = 64

    @property
    def source(self) -> str:
        return f"pypi:{self.wheel.package}=={self.wheel.version}, compiled"


MAGIKA = Recipe(
    name="magika-exact",
    description="Tells what kind of file some bytes are, in integers: the same bits everywhere",
    licence="Apache-2.0",
    wheel=Wheel("magika", "1.0.3", "938d8e033953f2ddeb8c35dc423aa289ca116bfa7a71a778f6e77460f9025803", 2_969_548),
    members={
        "config.json": "magika/models/standard_v3_3/config.min.json",
        "content_types.json": "magika/config/content_types_kb.min.json",
        "model.onnx": "magika/models/standard_v3_3/model.onnx",
    },
    bits=12,
    integers={"bytes": (0, 256)},
    processor="magika",
)
_OCR = Wheel(
    "rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf", 14_915_192
)
OCR_DIRECTION = Recipe(
    name="ppocr-cls-exact",
    description="Tells whether a line of text is upside down (PP-OCR, 48 x 192 pixels), in integers",
    licence="Apache-2.0",
    wheel=_OCR,
    members={"model.onnx": "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"},
    bits=12,
    shapes={"x": (1, 3, 48, 192)},
)
OCR_TEXT = Recipe(
    name="ppocr-rec-exact",
    description="Reads a line of text (PP-OCRv4, 48 x 320 pixels), in integers",
    licence="Apache-2.0",
    wheel=_OCR,
    members={"model.onnx": "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"},
    bits=14,
    weight_bits=12,
    shapes={"x": (1, 3, 48, 320)},
    steps=16,
)
SPEECH = Recipe(
    name="silero-vad-exact",
    description="Tells where speech is in a recording (Silero VAD, 16 kHz), in integers",
    licence="MIT",
    wheel=Wheel("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", 11_317_527),
    members={"model.onnx": "silero_vad/data/silero_vad_16k_op15.onnx"},
    bits=12,
    weight_bits=12,
    shapes={"input": (1, 576), "state": (2, 1, 128)},
    fixed={"sr": 16_000},
    states={"state": "stateN"},
    processor="speech",
    steps=20_000,
)
RECIPES = (MAGIKA, OCR_DIRECTION, OCR_TEXT, SPEECH)


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UnknownProgram."""
    for item in RECIPES:
        if item.name == name:
            return item
    raise UnknownProgram("the catalogue has no such exact program", name=name[:96])


def pinned(item: Recipe) -> tuple[str, str]:
    """The root that a recipe gives, in hex, and its ranges as text."""
    text = resources.files("avow.exact.compile").joinpath("recipes", f"{item.name}.json").read_text("utf-8")
    found = json.loads(text)
    return str(found["root"]), json.dumps(found["ranges"])


def install(store: Store, name: str, progress: Progress = no_progress) -> bytes:
    """Fetches a recipe's model, compiles it and adds it; the program's id.

    Raises ImportFailed (the index, or a root that is not the pinned one), UnsafeArchive, and as the compiler.
    """
    from avow.exact import files
    from avow.exact.compile.onnx import compile_onnx, options_of
    from avow.exact.compile.ranges import Ranges

    item = recipe(name)
    root, ranges = pinned(item)
    store.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.directory, prefix="compile-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        unpack([Piece(item.wheel, member, 0, path) for path, member in item.members.items()], folder, progress)
        data = (folder / "model.onnx").read_bytes()
        progress(0, None, f"compiling {item.name}")
        program = compile_onnx(data, options_of(item), ranges=Ranges.from_json(ranges)).program
        if program.root.hex() != root:
            raise ImportFailed("the model compiled to another program than the pinned one", found=program.root.hex())
        target = Path(scratch) / PROGRAM_FILE
        files.save(program, target)
        beside = {path: folder / path for path in item.members if path != "model.onnx"}
        return add_exact(
            store,
            target,
            name=item.name,
            root=program.root,
            licence=item.licence,
            source=item.source,
            processor=item.processor,
            beside=beside,
            progress=progress,
        )
