"""The journal: what a crash can leave of it, and what is read back."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.nodes.journal import LEAST_BYTES, Journal


def opened(folder, folded=0):
    """A journal as after a crash, and what it holds beyond `folded`."""
    journal = Journal(folder / "journal", LEAST_BYTES)
    return journal, journal.recover(folded)


def test_what_was_appended_is_read_back_until_it_is_folded(tmp_path):
    journal, found = opened(tmp_path)
    assert found == []
    journal.start(1)
    journal.append([b"one", b""])
    journal.append([b"three"])
    assert journal.turn() == 1
    journal.append([b"four"])
    journal.close()
    journal, found = opened(tmp_path)
    assert found == [(1, [b"one", b"", b"three"]), (2, [b"four"])]
    assert journal.recover(1) == [(2, [b"four"])]
    assert journal.recover(2) == []
    journal.close()


def test_a_file_is_filled_again_only_when_its_generation_was_folded(tmp_path):
    journal, _ = opened(tmp_path)
    journal.start(5)
    assert not journal.has_room([bytes(LEAST_BYTES)])
    for generation in (5, 6):
        assert journal.has_room([b"x"])
        journal.append([b"of %d" % generation])
        assert journal.turn() == generation
    assert not journal.has_room([b"x"]), "both wait to be folded"
    journal.release(5)
    journal.append([b"of 7"])
    assert journal.recover(5) == [(6, [b"of 6"]), (7, [b"of 7"])]
    journal.close()


def test_the_rest_of_an_earlier_filling_is_not_read(tmp_path):
    journal, _ = opened(tmp_path)
    journal.start(1)
    journal.append([b"long " * 100, b"second"])
    journal.release(journal.turn())
    journal.append([b"in the other file"])
    journal.turn()
    journal.append([b"long " * 100])  # ends where a record of the first generation begins
    assert journal.recover(2) == [(3, [b"long " * 100])]
    journal.close()


def test_nothing_is_written_after_a_failure(tmp_path, monkeypatch):
    journal, _ = opened(tmp_path)
    journal.start(1)
    journal.append([b"durable"])
    monkeypatch.setattr("os.pwrite", lambda _file, data, _at: len(data) - 1)
    with pytest.raises(OSError, match="cut short"):
        journal.append([b"not"])
    assert not journal.has_room([b""])
    assert journal.turn() == 1
    assert not journal.has_room([b""])
    journal.close()


def test_a_file_that_becomes_free_after_a_failure_is_not_filled(tmp_path, monkeypatch):
    """The database folds the first generation only when writing the second has failed."""
    journal, _ = opened(tmp_path)
    journal.start(1)
    journal.append([b"of 1"])
    assert journal.turn() == 1
    journal.append([b"of 2"])
    with monkeypatch.context() as failing:
        failing.setattr("os.fdatasync", _no_disk)
        with pytest.raises(OSError, match="no disk"):
            journal.append([b"not known to be durable"])
    journal.release(1)
    assert not journal.has_room([b""])
    assert journal.turn() == 2
    journal.release(2)
    assert not journal.has_room([b""])
    journal.close()
    journal, found = opened(tmp_path, folded=1)
    assert found == [(2, [b"of 2", b"not known to be durable"])]  # whole after all: what lies there is judged now
    journal.start(5)
    assert journal.has_room([b"x"])
    journal.close()


def _no_disk(_file):
    raise OSError("no disk")


def test_a_file_is_filled_to_its_last_byte_and_no_further(tmp_path):
    journal, _ = opened(tmp_path)
    journal.start(1)
    payload = bytes(range(256)) * 4
    while journal.has_room([payload, payload]):
        journal.append([payload])
    first = next(size for size in range(2_000, -1, -1) if journal.has_room([bytes(size)]))
    assert not journal.has_room([bytes(first + 1)])
    assert journal.has_room([bytes(first - 20), b""])
    assert not journal.has_room([bytes(first - 19), b""])
    journal.append([bytes(first)])
    assert (tmp_path / "journal-0").stat().st_size == LEAST_BYTES, "the file did not grow"
    assert not journal.has_room([b""])
    journal.close()
    journal, [(generation, payloads)] = opened(tmp_path)
    assert generation == 1
    assert payloads == [payload] * (len(payloads) - 1) + [bytes(first)]
    journal.close()


@pytest.mark.parametrize("at", range(24))
def test_any_changed_byte_of_a_record_ends_the_file_there(tmp_path, at):
    """Magic, generation, length, checksum, payload: each of them."""
    journal, _ = opened(tmp_path)
    journal.start(7)
    journal.append([b"one!", b"two!", b"three"])
    journal.close()
    with (tmp_path / "journal-0").open("r+b") as file:
        file.seek(24 + at)
        byte = file.read(1)[0]
        file.seek(24 + at)
        file.write(bytes([byte ^ 1]))
    journal, found = opened(tmp_path)
    assert found == [(7, [b"one!"])]
    journal.close()


def test_a_record_of_another_generation_ends_a_file(tmp_path):
    """It is whole, and of an earlier filling or of another file's: not what comes next."""
    for generation in (2, 9):
        journal, _ = opened(tmp_path)
        journal.start(generation)
        journal.append([b"record"])
        journal.close()
        data = (tmp_path / "journal-0").read_bytes()[:26]
        journal, _ = opened(tmp_path)
        journal.start(5)
        journal.append([b"record"])
        journal.close()
        with (tmp_path / "journal-0").open("r+b") as file:
            file.seek(26)
            file.write(data)
        journal, found = opened(tmp_path)
        assert found == [(5, [b"record"])]
        journal.close()


def test_files_that_are_too_small_are_made_whole_and_larger_ones_kept(tmp_path):
    (tmp_path / "journal-0").write_bytes(bytes(LEAST_BYTES - 1))
    (tmp_path / "journal-1").write_bytes(bytes(3 * LEAST_BYTES))
    journal = Journal(tmp_path / "journal", 2 * LEAST_BYTES)
    assert journal.recover(0) == []
    assert [(tmp_path / f"journal-{at}").stat().st_size for at in (0, 1)] == [2 * LEAST_BYTES, 3 * LEAST_BYTES]
    journal.start(1)
    assert journal.has_room([bytes(2 * LEAST_BYTES - 20)])
    assert not journal.has_room([bytes(2 * LEAST_BYTES - 19)]), "the smaller one decides"
    journal.close()


def test_without_room_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((1, 1, 10, 10, 10, 1, 1, 1, 0, 255)))
    with pytest.raises(OSError, match="no room"):
        Journal(tmp_path / "journal")


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=4), min_size=1, max_size=5),
    at=st.integers(0, 4095),
    noise=st.binary(min_size=1, max_size=64),
)
def test_a_torn_write_loses_what_comes_after_it_and_nothing_before(tmp_path_factory, groups, at, noise):
    folder = tmp_path_factory.mktemp("journal")
    journal, _ = opened(folder)
    journal.start(1)
    ends = []
    for group in groups:
        journal.append(group)
        ends += [(len(payload), payload) for payload in group]
    journal.close()
    with (folder / "journal-0").open("r+b") as file:
        file.seek(at)
        file.write(noise)
    whole, position = [], 0
    for length, payload in ends:
        position += 20 + length
        if position > at:
            break
        whole.append(payload)
    journal, found = opened(folder)
    payloads = found[0][1] if found else []
    written = [payload for _, payload in ends]
    assert payloads[: len(whole)] == whole
    assert payloads == written[: len(payloads)], "a changed record is never read, whatever it was changed to"
    journal.close()
