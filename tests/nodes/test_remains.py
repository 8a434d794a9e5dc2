"""What runs leave behind: files, room for them, and what becomes of missing and torn ones."""

import os
import threading
import time

import pytest

from avow.nodes.errors import TraceDiskFull
from avow.nodes.remains import YOUNG_S, Remains

TRACE = bytes(range(32))
PARTS = (memoryview(b"leaves"), memoryview(b""), memoryview(b"caches"))


def kept(remains, trace=TRACE, parts=PARTS):
    room = remains.take(100)
    room.keep(trace, parts)
    room.give_back()
    return remains


def test_what_is_kept_is_read_by_a_later_process_until_it_is_dropped(tmp_path):
    kept(Remains(tmp_path))
    again = Remains(tmp_path)
    data = again.read(TRACE)
    assert bytes(data) == b"leavescaches"
    assert again.used == len(data) + 48
    again.drop([TRACE, bytes(32)])
    assert bytes(data) == b"leavescaches"
    assert again.read(TRACE) is None
    assert again.used == 0
    assert list(tmp_path.iterdir()) == []


def test_room_is_taken_before_and_given_back_after(tmp_path):
    remains = Remains(tmp_path, 1_000)
    rooms = [remains.take(400), remains.take(400)]
    with pytest.raises(TraceDiskFull) as refused:
        remains.take(100)
    assert refused.value.http_status == 503
    assert "--trace-disk-mib" in refused.value.hint
    remains.take(0).keep(TRACE, PARTS)  # nothing was taken, so nothing is kept
    assert remains.read(TRACE) is None
    for room in rooms:
        room.give_back()
        room.give_back()
    assert remains.used == 0
    kept(remains)
    room = remains.take(10)
    room.keep(bytes(32), (memoryview(bytes(11)),))  # more than was taken
    assert remains.read(bytes(32)) is None


def test_a_disk_that_is_nearly_full_takes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("avow.nodes.remains.SPARE", 1 << 62)
    with pytest.raises(TraceDiskFull):
        Remains(tmp_path).take(1)


def test_missing_cut_empty_and_foreign_files_are_nothing(tmp_path):
    remains = kept(Remains(tmp_path))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for data in (b"", whole[:20], whole[:-1], whole + b"x", b"X" + whole[1:], whole[:10] + b"x" + whole[11:]):
        path.write_bytes(data)
        assert Remains(tmp_path).read(TRACE) is None, data
    path.unlink()
    assert remains.read(TRACE) is None
    (tmp_path / (TRACE.hex() + ".new")).write_bytes(whole[:30])  # a process ended here
    (tmp_path / "something").write_bytes(b"else")
    assert Remains(tmp_path).used == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path, caplog):
    remains = Remains(tmp_path / "runs")
    room = remains.take(100)
    (tmp_path / "runs").rmdir()
    room.keep(TRACE, PARTS)
    room.give_back()
    assert "cannot be written" in caplog.text
    assert remains.read(TRACE) is None
    assert remains.used == 0


def test_old_files_without_a_statement_are_swept(tmp_path):
    remains = kept(kept(kept(Remains(tmp_path)), bytes(32)), bytes(31) + b"\1")
    old = time.time() - YOUNG_S - 1
    for trace in (TRACE, bytes(32)):
        os.utime(tmp_path / (trace.hex() + ".run"), (old, old))
    assert remains.kept() == {TRACE, bytes(32)}
    remains.sweep({TRACE})
    assert remains.read(bytes(32)) is None
    assert remains.read(TRACE) is not None
    assert remains.read(bytes(31) + b"\1") is not None


def test_many_threads_take_no_more_than_there_is(tmp_path):
    remains, most = Remains(tmp_path, 20 * 148), []

    def work(at):
        for turn in range(30):
            try:
                room = remains.take(100)
            except TraceDiskFull:
                continue
            most.append(remains.used)
            trace = bytes([at, turn]) * 16
            room.keep(trace, PARTS)
            room.give_back()
            remains.drop([trace])

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < max(most) <= 20 * 148
    assert remains.used == 0
