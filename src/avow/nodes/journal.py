"""The outbox's journal: two files of fixed size that are written in place.

Rules:
1. A file is filled with zeros when it is made. Writing into it changes neither its size nor its place on the disk, so a flush
   (fdatasync) writes data and nothing about the file: less than half of what a database's commit costs.
2. record = "AVJ1" ‖ u64 generation ‖ u32 length ‖ u32 CRC-32 over what stands before it and the payload ‖ payload. The records of a file
   begin at 0 and end before the first that is not whole or is of another generation.
3. A generation is one filling of one file, and greater than all before it. Once the database holds what a generation holds, it says so
   in the same transaction; only then is the file filled again.
4. After a write that failed nothing more is written: what lies there is judged at the next start.
"""

import os
import struct
import zlib
from pathlib import Path

_MAGIC = b"AVJ1"
_HEADER = struct.Struct(">4sQI")
_CRC = struct.Struct(">I")
_OVERHEAD = _HEADER.size + _CRC.size
FILE_BYTES = 1 << 20
LEAST_BYTES = 1 << 16
_SHARE = 16
"""A file takes at most this part of what is free on the disk."""


class Journal:
    """Appended to by one thread at a time."""

    def __init__(self, path: Path, size: int = FILE_BYTES) -> None:
        """`path` plus "-0" and "-1" are the files. Raises OSError where they cannot be made: there is no room, most likely."""
        self._size = 0
        self._files: list[int] = []
        self._free: list[int] = []
        self._current: int | None = None
        self._generation = 0
        self._position = 0
        self._filled: dict[int, int] = {}
        """Generations that are full or were ended, and not released: which file they are in."""
        status = os.statvfs(path.parent)
        for name in (f"{path}-0", f"{path}-1"):
            self._files.append(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            self._size = self._allocate(min(size, status.f_bavail * status.f_frsize // _SHARE))
        except OSError:
            self.close()
            raise

    def _allocate(self, wanted: int) -> int:
        """Rule 1, for files that are not there yet; the size of the smaller."""
        sizes = [os.fstat(file).st_size for file in self._files]
        for place, file in enumerate(self._files):
            if sizes[place] < LEAST_BYTES:
                if wanted < LEAST_BYTES:
                    raise OSError("no room for a journal")
                os.pwrite(file, bytes(wanted - sizes[place]), sizes[place])
                os.fsync(file)
                sizes[place] = wanted
        return min(sizes)

    def close(self) -> None:
        self._current = None
        for file in self._files:
            os.close(file)
        self._files = []

    def recover(self, folded: int) -> list[tuple[int, list[bytes]]]:
        """The generations after `folded` that the files hold, each with its payloads, oldest first."""
        found = [self._read(file) for file in self._files]
        return sorted([item for item in found if item[0] > folded])

    def _read(self, file: int) -> tuple[int, list[bytes]]:
        """A file's generation and payloads; 0 and none where there is no record."""
        data = os.pread(file, os.fstat(file).st_size, 0)
        first, position = 0, 0
        payloads: list[bytes] = []
        while len(data) - position >= _OVERHEAD:
            magic, generation, length = _HEADER.unpack_from(data, position)
            start = position + _OVERHEAD
            if magic != _MAGIC or length > len(data) - start or generation != (first or generation):
                break
            payload = data[start : start + length]
            crc = zlib.crc32(payload, zlib.crc32(data[position : position + _HEADER.size]))
            if _CRC.unpack_from(data, position + _HEADER.size) != (crc,):
                break
            first = generation
            payloads.append(payload)
            position = start + length
        return first, payloads

    def start(self, generation: int) -> None:
        """Fill the files from here on; `generation`: greater than every one that ever was begun. What they hold must be folded."""
        self._generation = generation - 1
        self._free = list(self._files)
        self._next()

    def _next(self) -> None:
        self._position = 0
        self._current = self._free.pop(0) if self._free else None
        self._generation += self._current is not None

    def has_room(self, payloads: list[bytes]) -> bool:
        """Whether `append` would take them."""
        needed = sum(map(len, payloads)) + _OVERHEAD * len(payloads)
        return self._current is not None and self._position + needed <= self._size

    def append(self, payloads: list[bytes]) -> None:
        """Make them durable: one write, one flush. They must have room. Raises OSError (rule 4)."""
        file, generation = self._current, self._generation
        assert file is not None
        pieces: list[bytes] = []
        for payload in payloads:
            head = _HEADER.pack(_MAGIC, generation, len(payload))
            pieces += (head, _CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload)
        data = b"".join(pieces)
        try:
            if os.pwrite(file, data, self._position) != len(data):
                raise OSError("a write was cut short")
            os.fdatasync(file)
        except OSError:
            self._current = None
            self._free = []
            self._filled = {}  # no file becomes free any more
            raise
        self._position += len(data)

    def turn(self) -> int:
        """End the generation that is being filled and begin the next, if a file is free; the one that ended."""
        ended = self._generation
        if self._current is not None:
            self._filled[ended] = self._current
            self._next()
        return ended

    def release(self, generation: int) -> None:
        """The database has it (rule 3)."""
        file = self._filled.pop(generation, None)
        if file is not None:
            self._free.append(file)
            if self._current is None:
                self._next()
