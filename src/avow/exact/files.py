"""Exact programs on disk: written whole or not at all, read by mapping.

A mapped program's constants are views of the file: whoever holds the Program keeps the map. The file must not change meanwhile; the
store of models gives files that nobody writes to.
"""

import mmap
import os
import tempfile
from pathlib import Path

from avow.errors import TooLarge
from avow.exact.errors import BadProgram
from avow.exact.program import MAGIC, MAX_FILE_BYTES, MAX_HEADER_BYTES, Program


def save(program: Program, path: Path) -> None:
    """Write the program's file, replacing `path` at once. Raises TooLarge, OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            for part in program.parts():
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path) -> Program:
    """The program of a file: structure and digests hold, bounds are `specification.bounds.check`'s to prove.

    Raises BadProgram, EncodingError, TooLarge, UnknownVersion, OSError.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise TooLarge("the program is too large", size=size, limit=MAX_FILE_BYTES)
        if not size:
            raise BadProgram("the file is empty")
        return Program.parse(memoryview(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ)))


def load_header(path: Path) -> bytes:
    """The header of a program's file, as a chain takes it (outline.py). Raises BadProgram, TooLarge, OSError."""
    with path.open("rb") as stream:
        start = stream.read(len(MAGIC) + 8)
        if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 8:
            raise BadProgram("the file is not an exact program")
        length = int.from_bytes(start[len(MAGIC) :])
        if length > MAX_HEADER_BYTES:
            raise TooLarge("the program's header is too large", size=length, limit=MAX_HEADER_BYTES)
        return stream.read(length)
