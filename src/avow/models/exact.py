"""Exact programs in the store: a compiled program's manifest, and the catalogue's recipes.

A recipe names a pinned model of the Python index and the ranges that it was calibrated with (data of this package): compiled anywhere,
they give one file, whose digest and root are pinned too.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

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
    """How a catalogue's exact program is made: from which wheel's files, with which options of the compiler; what comes out."""

    name: str
    description: str
    licence: str
    wheel: Wheel
    model: str
    """The wheel's member that is compiled."""
    program: File
    root: str
    bits: int
    weight_bits: int = 8
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    steps: int = 64
    processor: str = "none"
    beside: Mapping[str, tuple[str, File]] = field(default_factory=dict)
    """What the processor reads: path → the wheel's member, and the file that it is."""

    @property
    def manifest(self) -> Manifest:
        files = sorted([self.program, *(file for _, file in self.beside.values())], key=lambda file: file.path)
        options: dict[str, Value] = {"program": PROGRAM_FILE, "root": self.root, "processor": self.processor}
        source = f"pypi:{self.wheel.package}=={self.wheel.version}, compiled"
        return Manifest(self.name, "exact", "exact", tuple(files), options, self.licence, source)


def _program(size: int, digest: str) -> File:
    return File(PROGRAM_FILE, size, bytes.fromhex(digest))


def _magika_file(path: str, size: int, digest: str, member: str) -> tuple[str, tuple[str, File]]:
    return path, (member, File(path, size, bytes.fromhex(digest)))


MAGIKA = Recipe(
    name="magika-exact",
    description="Tells what kind of file some bytes are, in integers: the same bits on every machine",
    licence="Apache-2.0",
    wheel=Wheel("magika", "1.0.3", "938d8e033953f2ddeb8c35dc423aa289ca116bfa7a71a778f6e77460f9025803", 2_969_548),
    model="magika/models/standard_v3_3/model.onnx",
    program=_program(1_725_954, "57d1aac79dcc50ee0967627ba2949e39094b5af969fdf5aa4e64b1381c67affd"),
    root="3bf98bc0aacd061c6a1710f6c69776445457ef7f130c3e1f248efcd2efb8d41d",
    bits=14,
    weight_bits=12,
    integers={"bytes": (0, 256)},
    processor="magika",
    beside=dict(
        [
            _magika_file(
                "config.json",
                2_141,
                "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
                "magika/models/standard_v3_3/config.min.json",
            ),
            _magika_file(
                "content_types.json",
                44_768,
                "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d",
                "magika/config/content_types_kb.min.json",
            ),
        ]
    ),
)
_OCR = Wheel(
    "rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf", 14_915_192
)
OCR_DIRECTION = Recipe(
    name="ppocr-cls-exact",
    description="Tells whether a line of text is upside down (PP-OCR, 48 x 192 pixels), in integers",
    licence="Apache-2.0",
    wheel=_OCR,
    model="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    program=_program(429_954, "7b6158ba059a9a9084af11704515e0f103536aed094178b66992e52ee11284b9"),
    root="2bf1d5493d63a664dcac59bb9e0986d9665928b9db38584e3d1ab3d74823ff4b",
    bits=12,
    shapes={"x": (1, 3, 48, 192)},
)
OCR_TEXT = Recipe(
    name="ppocr-rec-exact",
    description="Reads a line of text (PP-OCRv4, 48 x 320 pixels), in integers",
    licence="Apache-2.0",
    wheel=_OCR,
    model="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    program=_program(10_424_228, "bfa9a59ad7883e4841aa820173b197b9e0cf9a60a7a904a122b68ed95c072860"),
    root="d29be8cff0ec92341d6fa3613b839ca125348af22571a2c98783351f066da4bb",
    bits=16,
    weight_bits=16,
    shapes={"x": (1, 3, 48, 320)},
    steps=16,
)
SPEECH = Recipe(
    name="silero-vad-exact",
    description="Tells where speech is in a recording (Silero VAD, 16 kHz), in integers",
    licence="MIT",
    wheel=Wheel("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", 11_317_527),
    model="silero_vad/data/silero_vad_16k_op15.onnx",
    program=_program(1_160_958, "8627b7621145710caae10d4641045227f3278c471d2f9abe463d8488a3302586"),
    root="c96dc5aaf9d7a047ede49975e87e4e2e2089aa6a10dd69f528acef4c2d0f3e39",
    bits=16,
    weight_bits=12,
    shapes={"input": (1, 576), "state": (2, 1, 128)},
    fixed={"sr": 16_000},
    states={"state": "stateN"},
    steps=20_000,
    processor="speech",
)
RECIPES = (MAGIKA, OCR_DIRECTION, OCR_TEXT, SPEECH)


def ranges_of(recipe: Recipe) -> str:
    """The ranges that a recipe was calibrated with, as text."""
    return resources.files("avow.exact.compile").joinpath("recipes", f"{recipe.name}.json").read_text("utf-8")


def make(store: Store, recipe: Recipe, progress: Progress = no_progress) -> bytes:
    """Fetches a recipe's model, compiles it and adds it; the program's id.

    Raises ImportFailed, UnsafeArchive, as the compiler, and DigestMismatch where this machine compiles something else.
    """
    from avow.exact import files
    from avow.exact.compile.onnx import compile_onnx, options_of
    from avow.exact.compile.ranges import Ranges

    store.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.directory, prefix="compile-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        pieces = [Piece(recipe.wheel, recipe.model, 0, "model.onnx")]
        pieces += [Piece(recipe.wheel, member, file.size, file.path) for member, file in recipe.beside.values()]
        unpack(pieces, folder, progress)
        progress(0, None, f"compiling {recipe.name}")
        ranges = Ranges.from_json(ranges_of(recipe))
        compiled = compile_onnx((folder / "model.onnx").read_bytes(), options_of(recipe), ranges=ranges)
        files.save(compiled.program, folder / PROGRAM_FILE)
        paths = {file.path: folder / file.path for file in recipe.manifest.files}
        return store.add(recipe.manifest, paths, progress)
