"""The content store: manifests by program id, files by SHA-256.

Layout under the store's directory:
  programs/<program id>.cbor   a manifest, byte for byte as its id hashes it
  files/<sha256>               a file, read-only once it is there
  partial/<sha256>             the beginning of a file that is still arriving

Rules:
1. A name appears under `files` or `programs` only by an atomic rename of bytes that were hashed and flushed.
2. What is interrupted resumes: the length of a partial file says how far it came; its digest is checked as a whole at
   the end.
3. A name is no proof: `StoredProgram.verify` hashes again, and engines are given nothing that was not verified.
4. Writers hold the lock file; readers need none.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from avow.errors import TooLarge
from avow.models.errors import DigestMismatch, ManifestError, UnknownProgram
from avow.models.manifest import MAX_MANIFEST, File, Manifest, parse_manifest

Progress = Callable[[int, int | None, str], None]
"""Called with bytes done, bytes in all (None: not known), and what is being done."""

_CHUNK = 1 << 20


def no_progress(_done: int, _total: int | None, _label: str) -> None:
    """For callers that do not watch."""


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A program and where its files lie. The paths' contents are unproven until `verify`."""

    program_id: bytes
    manifest: Manifest
    paths: Mapping[str, Path]

    def verify(self, progress: Progress = no_progress) -> None:
        """Hashes every file. Raises DigestMismatch for the first that is not what the manifest says."""
        for file in self.manifest.files:
            _check_digest(self.paths[file.path], file, progress)

    def read(self, path: str, *, limit: int) -> bytes:
        """A file's verified bytes. Raises TooLarge beyond `limit`, DigestMismatch, ManifestError for no such file."""
        file = self.manifest.file(path)
        if file.size > limit:
            raise TooLarge("the program's file is too large to be held in memory", size=file.size, limit=limit)
        with _open(self.paths[path], file) as stream:
            data = stream.read(file.size + 1)
        if len(data) != file.size or hashlib.sha256(data).digest() != file.sha256:
            raise DigestMismatch("a stored file was changed", path=path, hint="remove the program and add it again")
        return data


class Store:
    """Programs and their files, under `home`/models or the directory that AVOW_MODELS names."""

    def __init__(self, home: Path, *, directory: Path | None = None) -> None:
        named = os.environ.get("AVOW_MODELS")
        self.directory = directory or (Path(named) if named else home / "models")
        self._programs = self.directory / "programs"
        self._files = self.directory / "files"
        self._partial = self.directory / "partial"

    def add(self, manifest: Manifest, files: Mapping[str, Path], progress: Progress = no_progress) -> bytes:
        """Copies the files (path in the manifest → where it lies now) and records the program; its id.

        Raises DigestMismatch when a file is not what the manifest says, ManifestError when one is missing.
        """
        with self.locked():
            for file in manifest.files:
                if self.has(file):
                    continue
                if file.path not in files:
                    raise ManifestError("no source is given for a file", path=file.path)
                with files[file.path].open("rb") as source:
                    self.receive(file, source, progress)
            return self.record(manifest)

    def get(self, program_id: bytes) -> StoredProgram:
        """The program. Raises UnknownProgram, or DigestMismatch when its manifest was changed."""
        path = self._programs / f"{program_id.hex()}.cbor"
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_MANIFEST + 1)
        except FileNotFoundError:
            raise UnknownProgram("no such program here", program=program_id.hex()) from None
        manifest = parse_manifest(data)
        if manifest.program_id != program_id:
            raise DigestMismatch("a stored manifest was changed", program=program_id.hex())
        return StoredProgram(program_id, manifest, {file.path: self.path(file) for file in manifest.files})

    def find(self, name: str) -> StoredProgram:
        """The program with this id in hex, else the one of this name that was added last. Raises UnknownProgram."""
        found = [item for item in self.list() if name in (item.manifest.name, item.program_id.hex())]
        if not found:
            raise UnknownProgram("no such program here", name=name[:96], hint="`avow model list` shows what is there")
        return max(found, key=lambda item: (item.program_id.hex() == name, self._added_ns(item.program_id)))

    def list(self) -> list[StoredProgram]:
        """All programs, by name."""
        if not self._programs.is_dir():
            return []
        found = [self.get(bytes.fromhex(path.stem)) for path in self._programs.glob("?" * 64 + ".cbor")]
        return sorted(found, key=lambda item: (item.manifest.name, item.program_id))

    def touch(self, program_id: bytes) -> None:
        """Makes a program the one that its name means."""
        os.utime(self._programs / f"{program_id.hex()}.cbor")

    def _added_ns(self, program_id: bytes) -> int:
        return (self._programs / f"{program_id.hex()}.cbor").stat().st_mtime_ns

    def remove(self, program_id: bytes) -> int:
        """Forgets a program and the files that no other program names; the bytes freed. Raises UnknownProgram."""
        with self.locked():
            gone = self.get(program_id)
            (self._programs / f"{program_id.hex()}.cbor").unlink()
            kept = {file.sha256 for item in self.list() for file in item.manifest.files}
            freed = 0
            for file in {file.sha256: file for file in gone.manifest.files if file.sha256 not in kept}.values():
                freed += file.size
                self.path(file).unlink(missing_ok=True)
            return freed

    # What importers use, holding the lock.

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Sole writer among all processes. Not re-entrant."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def path(self, file: File) -> Path:
        return self._files / file.sha256.hex()

    def has(self, file: File) -> bool:
        """Whether a file of this digest and size is there (not whether its bytes are still right: rule 3)."""
        try:
            return self.path(file).stat().st_size == file.size
        except FileNotFoundError:
            return False

    def arrived(self, file: File) -> int:
        """How many bytes of `file` have arrived."""
        try:
            return (self._partial / file.sha256.hex()).stat().st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def arriving(self, file: File, offset: int) -> Iterator[BinaryIO]:
        """The partial file, cut to `offset` bytes, open for appending; flushed to disk at the end, even of a failure."""
        self._partial.mkdir(parents=True, exist_ok=True)
        with (self._partial / file.sha256.hex()).open("ab") as stream:
            stream.truncate(offset)
            try:
                yield stream
            finally:
                stream.flush()
                os.fsync(stream.fileno())

    def finish(self, file: File, progress: Progress = no_progress) -> None:
        """Admits what arrived. Raises DigestMismatch, and forgets it, when it is something else."""
        partial = self._partial / file.sha256.hex()
        try:
            _check_digest(partial, file, progress)
        except DigestMismatch:
            partial.unlink(missing_ok=True)
            raise
        partial.chmod(0o444)
        self._files.mkdir(parents=True, exist_ok=True)
        partial.rename(self.path(file))
        _flush_directory(self._files)

    def receive(self, file: File, source: BinaryIO, progress: Progress = no_progress) -> None:
        """Takes `file` from a seekable stream, resuming where an earlier attempt stopped."""
        offset = min(self.arrived(file), file.size)
        source.seek(offset)
        with self.arriving(file, offset) as target:
            while offset <= file.size and (chunk := source.read(_CHUNK)):
                target.write(chunk)
                offset += len(chunk)
                progress(offset, file.size, f"copying {file.path}")
        self.finish(file, progress)

    def record(self, manifest: Manifest) -> bytes:
        """Records a program whose files are all there; its id. Raises DigestMismatch when one is not."""
        for file in manifest.files:
            if not self.has(file):
                raise DigestMismatch("a file of the program is missing", path=file.path)
        self._programs.mkdir(parents=True, exist_ok=True)
        program_id = manifest.program_id
        temporary = self._programs / f".{program_id.hex()}"
        with temporary.open("wb") as stream:
            stream.write(manifest.encoded())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(self._programs / f"{program_id.hex()}.cbor")
        _flush_directory(self._programs)
        return program_id


def hash_file(path: Path, label: str = "", progress: Progress = no_progress) -> tuple[int, bytes]:
    """Size and SHA-256 of a file, read once."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total, label or f"hashing {path.name}")
    return done, digest.digest()


def _open(path: Path, file: File) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DigestMismatch("a stored file is missing", path=file.path, hint="add the program again") from None


def _check_digest(path: Path, file: File, progress: Progress) -> None:
    with _open(path, file):
        pass
    size, digest = hash_file(path, f"checking {file.path}", progress)
    if size != file.size or digest != file.sha256:
        raise DigestMismatch(
            "a file is not the one that its digest names",
            path=file.path,
            expected=file.sha256.hex(),
            found=digest.hex(),
            expected_size=file.size,
            found_size=size,
        )


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
