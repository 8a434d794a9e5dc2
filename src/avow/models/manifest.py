"""The manifest: everything that says which program is run. Its hash is the program's id.

Rules:
1. A manifest is one deterministic CBOR map (receipt/encoding.py) with exactly the keys of version 1; another version
   is refused.
2. `program_id` = H("avow/program/1", the encoding): two manifests with one id are the same bytes.
3. Files are named by relative POSIX paths that stay inside the program, in ascending order, without two that differ in
   case only.
4. Options hold integers, truth values and texts, nested in maps and lists; a fraction is a decimal text ("0.2").

Pure: no clock, no network, no files.
"""

import re
from dataclasses import dataclass
from typing import Literal, cast

from avow.errors import EncodingError, TooLarge
from avow.models.errors import ManifestError
from avow.receipt.encoding import Value, decode, encode, tagged_hash

Format = Literal["gguf", "onnx", "exact", "none"]

VERSION = 1
MAX_MANIFEST = 256 * 1024
MAX_FILES = 256
MAX_FILE_SIZE = 1 << 42
MAX_TEXT = 64 * 1024
FORMATS: frozenset[str] = frozenset({"gguf", "onnx", "exact", "none"})
"""`none`: a program without files of its own, such as the relay to an upstream."""

_TAG = b"avow/program/1"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_ENGINE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_KEYS = ("engine", "files", "format", "licence", "name", "options", "source", "version")


@dataclass(frozen=True, slots=True)
class File:
    """One file: where the engine looks for it, its size in bytes, its SHA-256 (32 bytes)."""

    path: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """A runnable model. `options` belongs to the engine that `engine` names, which checks it."""

    name: str
    format: Format
    engine: str
    files: tuple[File, ...]
    options: dict[str, Value]
    licence: str
    source: str

    def __post_init__(self) -> None:
        _check(self)

    @property
    def program_id(self) -> bytes:
        """The id that statements, prices and registrations name; 32 bytes."""
        return tagged_hash(_TAG, self.encoded())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def encoded(self) -> bytes:
        return encode(self.to_value())

    def to_value(self) -> dict[str, Value]:
        files: list[Value] = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files]
        return {
            "version": VERSION,
            "name": self.name,
            "format": self.format,
            "engine": self.engine,
            "files": files,
            "options": self.options,
            "licence": self.licence,
            "source": self.source,
        }

    def file(self, path: str) -> File:
        """The file at `path`. Raises ManifestError when the program has none there."""
        for file in self.files:
            if file.path == path:
                return file
        raise ManifestError("the program has no such file", path=path[:128])


def parse_manifest(data: bytes) -> Manifest:
    """The manifest whose one encoding is `data`. Raises ManifestError, whatever the bytes."""
    try:
        value = decode(data, max_bytes=MAX_MANIFEST)
    except (EncodingError, TooLarge) as error:
        raise ManifestError(f"not a manifest: {error.detail}") from error
    if not isinstance(value, dict) or value.get("version") != VERSION or type(value.get("version")) is not int:
        raise ManifestError("not a manifest of a version that is known here", known=VERSION)
    if sorted(value) != list(_KEYS):
        raise ManifestError("a manifest has exactly the keys of its version")
    files, options = value["files"], value["options"]
    if not isinstance(files, list) or not isinstance(options, dict):
        raise ManifestError("files is a list and options is a map")
    if len(files) > MAX_FILES:
        raise ManifestError("too many files", limit=MAX_FILES)
    return Manifest(
        name=_text(value, "name"),
        format=cast("Format", _text(value, "format")),
        engine=_text(value, "engine"),
        files=tuple(_file(item) for item in files),
        options=options,
        licence=_text(value, "licence"),
        source=_text(value, "source"),
    )


def check_path(path: str) -> None:
    """Rule 3 for one path. Raises ManifestError."""
    segments = path.split("/")
    if len(path) > 255 or len(segments) > 8 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise ManifestError("a file's path is relative, plain ASCII, and stays inside the program", path=path[:128])


def _text(value: dict[str, Value], key: str) -> str:
    text = value[key]
    if not isinstance(text, str):
        raise ManifestError(f"{key} is a text")
    return text


def _file(item: Value) -> File:
    if not isinstance(item, dict) or sorted(item) != ["path", "sha256", "size"]:
        raise ManifestError("a file has a path, a size and a sha256")
    path, size, sha256 = item["path"], item["size"], item["sha256"]
    if not isinstance(path, str) or type(size) is not int or not isinstance(sha256, bytes):
        raise ManifestError("a file has a path, a size and a sha256")
    return File(path, size, sha256)


def _check(manifest: Manifest) -> None:
    if not _NAME.fullmatch(manifest.name):
        raise ManifestError(
            "a name is lower-case letters, digits, '.', '_' and '-', at most 96", name=manifest.name[:96]
        )
    if manifest.format not in FORMATS:
        raise ManifestError("unknown format", format=str(manifest.format)[:32])
    if not _ENGINE.fullmatch(manifest.engine):
        raise ManifestError("unknown engine name", engine=manifest.engine[:32])
    if len(manifest.licence) > 128 or len(manifest.source) > 1024:
        raise ManifestError("licence or source is too long")
    if len(manifest.files) > MAX_FILES:
        raise ManifestError("too many files", limit=MAX_FILES)
    if (manifest.format == "none") != (not manifest.files):
        raise ManifestError("a program has files exactly when it has a format")
    for file in manifest.files:
        check_path(file.path)
        if not 0 <= file.size <= MAX_FILE_SIZE or len(file.sha256) != 32:
            raise ManifestError("a file's size or digest is out of range", path=file.path)
    paths = [file.path for file in manifest.files]
    folded = {path.lower() for path in paths}
    if paths != sorted(paths) or len(folded) != len(paths):
        raise ManifestError("files are in ascending order, each path once")
    if any(path.startswith(other + "/") for path in folded for other in folded):
        raise ManifestError("a file's path is also a folder's")
    _check_options(manifest.options, 0)
    try:
        size = len(encode(manifest.to_value()))
    except EncodingError as error:
        raise ManifestError(f"options cannot be encoded: {error.detail}") from error
    if size > MAX_MANIFEST:
        raise ManifestError("the manifest is too large", size=size, limit=MAX_MANIFEST)


def _check_options(value: Value, depth: int) -> None:
    if depth > 6:
        raise ManifestError("options are nested too deep")
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ManifestError("a text in options is too long", limit=MAX_TEXT)
    elif isinstance(value, list):
        for item in value:
            _check_options(item, depth + 1)
    elif isinstance(value, dict):
        for item in value.values():
            _check_options(item, depth + 1)
    elif value is None or not isinstance(value, int):
        raise ManifestError("options hold integers, truth values, texts, lists and maps")
