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
