"""What runs leave behind on disk, so that a demand about any of them is answered in milliseconds.

Rules:
1. A file for each run, named by its trace, written when the run is over and before its answer leaves; it goes when the batch is final, or
   when no statement that can be challenged has that trace.
2. Nothing is flushed: a file survives the process, and need not survive the machine. What is missing or torn costs a run of the program, no
   more: readers believe nothing that they read, an answer made of it is checked against what the demand shows.
3. Room is taken before a run, as much as it leaves at most. Beyond the budget, or where the disk is nearly full, the run is refused.
"""

import logging
import mmap
import os
import shutil
import struct
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from avow.nodes.errors import TraceDiskFull

log = logging.getLogger(__name__)

DEFAULT_BUDGET = 8 << 30
SPARE = 256 << 20
"""Bytes of the disk that stay free for what matters more."""
YOUNG_S = 120.0
"""A file without a statement may be younger than its statement."""

_MAGIC = b"AVOWRUN1"
_HEAD = struct.Struct(">8s32sQ")
"""Magic, trace, length of what follows."""
_SUFFIX = ".run"


class Room:
    """Bytes set aside for one run. To be given back whatever happens; more than once does no harm."""

    def __init__(self, remains: "Remains", size: int) -> None:
        self._remains = remains
        self.size = size

    def keep(self, trace: bytes, parts: Sequence[memoryview]) -> None:
        """Write what the run left behind, if there is room for it."""
        if sum(part.nbytes for part in parts) + _HEAD.size <= self.size:
            self._remains.write(trace, parts)

    def give_back(self) -> None:
        self._remains.give_back(self.size)
        self.size = 0


class Remains:
    """One folder, which nobody else writes. All methods may be called from any thread."""

    def __init__(self, folder: Path, budget: int = DEFAULT_BUDGET) -> None:
        """`budget`: bytes of all files; what is there counts. Half-written files of an earlier process are deleted."""
        self._folder = folder
        self._budget = budget
        self._lock = threading.Lock()
        self._taken = 0
        self._sizes: dict[bytes, int] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in folder.iterdir():
            trace = _trace_of(path)
            if trace is None:
                path.unlink(missing_ok=True)
            else:
                self._sizes[trace] = path.stat().st_size

    @property
    def used(self) -> int:
        """Bytes of files, and what is set aside."""
        with self._lock:
            return self._taken + sum(self._sizes.values())

    def take(self, size: int) -> Room:
        """Rule 3. `size` in bytes; 0 takes nothing. Raises TraceDiskFull."""
        if not size:
            return Room(self, 0)
        size += _HEAD.size
        free = shutil.disk_usage(self._folder).free - SPARE
        with self._lock:
            if self._taken + sum(self._sizes.values()) + size > self._budget or self._taken + size > free:
                raise TraceDiskFull(
                    "what answers to challenges are made of has no room on the node's disk",
                    hint="ask again when earlier answers are final; the operator can give it more with --trace-disk-mib",
                    needed=size,
                    budget=self._budget,
                )
            self._taken += size
        return Room(self, size)

    def give_back(self, size: int) -> None:
        with self._lock:
            self._taken -= size

    def write(self, trace: bytes, parts: Sequence[memoryview]) -> None:
        """Rule 1. Where it cannot be written the run will be made again: that is logged, and no error."""
        path = self._path(trace)
        partial = path.with_suffix(".new")
        length = sum(part.nbytes for part in parts)
        try:
            with partial.open("wb", buffering=0) as file:
                for part in (memoryview(_HEAD.pack(_MAGIC, trace, length)), *parts):
                    _write_all(file.fileno(), part)
            partial.rename(path)
        except OSError as error:
            log.error("what a run left behind cannot be written: %s", error)  # noqa: TRY400 - the message says it all
            partial.unlink(missing_ok=True)
            return
        with self._lock:
            self._sizes[trace] = _HEAD.size + length

    def read(self, trace: bytes) -> memoryview | None:
        """What a run left behind; None where it is missing or cut. It stays readable when the file is deleted."""
        try:
            with self._path(trace).open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except (OSError, ValueError):  # there is none, or it is empty
            return None
        if len(data) < _HEAD.size or _HEAD.unpack(data[: _HEAD.size]) != (_MAGIC, trace, len(data) - _HEAD.size):
            log.warning("what a run left behind is cut")
            return None
        return data[_HEAD.size :]

    def drop(self, traces: Iterable[bytes]) -> None:
        for trace in traces:
            with self._lock:
                known = self._sizes.pop(trace, None)
            if known is not None:
                self._path(trace).unlink(missing_ok=True)

    def kept(self) -> frozenset[bytes]:
        """The traces of all files that are old enough to have a statement."""
        before = time.time() - YOUNG_S
        with self._lock:
            traces = list(self._sizes)
        return frozenset(trace for trace in traces if self._is_older(trace, before))

    def sweep(self, live: Collection[bytes]) -> None:
        """Delete the files of traces that are not among `live`, but for young ones."""
        self.drop(self.kept().difference(live))

    def _is_older(self, trace: bytes, before: float) -> bool:
        try:
            return self._path(trace).stat().st_mtime < before
        except OSError:  # it went meanwhile
            return True

    def _path(self, trace: bytes) -> Path:
        return self._folder / (trace.hex() + _SUFFIX)


def _trace_of(path: Path) -> bytes | None:
    try:
        trace = bytes.fromhex(path.stem)
    except ValueError:
        return None
    return trace if path.suffix == _SUFFIX and len(trace) == 32 else None


def _write_all(descriptor: int, data: memoryview) -> None:
    rest = data.cast("B") if data.nbytes else memoryview(b"")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
