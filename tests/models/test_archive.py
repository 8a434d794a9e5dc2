"""Members of hostile archives: none is written where its name says, none is larger than asked for."""

import io
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.models.archive import member_chunks, member_sizes
from avow.models.errors import UnsafeArchive
from tests.models.builders import archive


def read(path, name, size):
    return b"".join(member_chunks(path, name, size))


@pytest.fixture
def zipped(tmp_path):
    def make(data):
        path = tmp_path / "a.zip"
        path.write_bytes(data)
        return path

    return make


def test_a_member_is_read_by_name_and_size(zipped):
    path = zipped(archive({"data/part.bin": b"x" * 3_000_000, "other": b"y"}))
    assert read(path, "data/part.bin", 3_000_000) == b"x" * 3_000_000
    assert member_sizes(path) == {"data/part.bin": 3_000_000, "other": 1}


@pytest.mark.parametrize(("name", "size"), [("data/part.bin", 4), ("data/part.bin", 6), ("part.bin", 5), ("", 0)])
def test_another_name_or_size_is_refused(zipped, name, size):
    with pytest.raises(UnsafeArchive):
        read(zipped(archive({"data/part.bin": b"12345"})), name, size)


def special(mode=0o644, kind=stat.S_IFREG, flags=0, name="m", compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        info = zipfile.ZipInfo(name)
        info.external_attr = (kind | mode) << 16
        info.compress_type = compression
        opened.writestr(info, b"12345")
    data = bytearray(stream.getvalue())
    if flags:
        data[data.rindex(b"PK\x01\x02") + 8] |= flags
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        special(kind=stat.S_IFLNK),
        special(kind=stat.S_IFIFO),
        special(flags=1),
        special(compression=zipfile.ZIP_BZIP2),
        special(compression=zipfile.ZIP_LZMA),
    ],
)
def test_links_pipes_and_unknown_compressions_are_refused(zipped, data):
    with pytest.raises(UnsafeArchive):
        read(zipped(data), "m", 5)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(zipped):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("m", b"12345")
        opened.writestr("m", b"54321")
    with pytest.raises(UnsafeArchive):
        read(zipped(stream.getvalue()), "m", 5)


def test_a_bomb_gives_no_more_than_was_asked_for(zipped):
    data = bytearray(archive({"m": bytes(50_000_000)}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.rindex(mark) + offset
        data[at : at + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(UnsafeArchive):
        read(zipped(bytes(data)), "m", 1000)


def test_names_that_point_outside_write_nothing(zipped, tmp_path):
    path = zipped(archive({"../../evil": b"x", "/etc/evil": b"y"}))
    assert read(path, "../../evil", 1) == b"x"
    assert [item.name for item in tmp_path.iterdir()] == ["a.zip"]


SOUND = archive({"m": b"12345" * 100, "n": b""})


@given(st.integers(0, len(SOUND) - 1), st.integers(1, 255))
def test_changed_archives_give_the_bytes_or_an_error(tmp_path_factory, position, change):
    data = bytearray(SOUND)
    data[position] ^= change
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(data)
    try:
        found = read(path, "m", 500)
    except UnsafeArchive:
        return
    assert found == b"12345" * 100
