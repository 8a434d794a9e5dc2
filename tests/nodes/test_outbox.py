"""The outbox: order, group commit, restart, and a disk that is full."""

import asyncio
import shutil
import sqlite3
import subprocess

import pytest

from avow.nodes.errors import OutboxUnwritable
from avow.nodes.jobs import Signed
from avow.nodes.journal import FILE_BYTES
from avow.nodes.outbox import UNDELIVERED, Outbox
from avow.nodes.outbox_rows import Entry, StoredBatch


def signed(number):
    return Signed(number, number.to_bytes(32), bytes(97), b"private", bytes(32), bytes(32), b"signature %d" % number)


def entry(key_number, number, sealed=b"sealed", created_ms=1000):
    return Entry(key_number, signed(number), None, sealed, created_ms)


async def put(outbox, an_entry):
    future = asyncio.get_running_loop().create_future()
    outbox.put(an_entry, lambda error: future.set_exception(error) if error else future.set_result(None))
    return await future


@pytest.fixture
async def outbox(tmp_path):
    box = Outbox(tmp_path / "outbox.db")
    yield box
    box.close()


async def test_what_was_put_is_there_after_a_restart(tmp_path):
    box = Outbox(tmp_path / "outbox.db")
    key = await box.add_key(b"k" * 32, 2)
    assert key == await box.add_key(b"k" * 32, 2)
    backing = await box.add_backing(b"d" * 32, b"content")
    assert backing == await box.add_backing(b"d" * 32, b"content")
    for number in range(5):
        await put(box, entry(key.key_number, number))
    assert box.durable(key.key_number) == 5
    box.close()
    again = Outbox(tmp_path / "outbox.db")
    assert again.all_keys() == [key]
    assert [row.number for row in again.statements(key.key_number, 2, 10)] == [2, 3, 4]
    row = again.statement(signed(3).id)
    assert row.number == 3
    assert row.signature == signed(3).signature
    assert again.sealed_opening(row.opening) == b"sealed"
    assert again.backing(backing) == b"content"
    await put(again, entry(key.key_number, 5))
    assert again.statement(signed(5).id).opening != row.opening
    again.close()


async def test_answers_that_wait_together_are_committed_together(outbox):
    key = await outbox.add_key(b"k" * 32, 0)
    order = []
    done = asyncio.get_running_loop().create_future()
    for number in range(2000):
        outbox.put(
            entry(key.key_number, number),
            lambda error, number=number: (order.append((number, error)), number == 1999 and done.set_result(None)),
        )
    await done
    assert order == [(number, None) for number in range(2000)]


async def test_a_second_statement_of_one_number_is_refused(outbox):
    key = await outbox.add_key(b"k" * 32, 0)
    await put(outbox, entry(key.key_number, 0))
    with pytest.raises(OutboxUnwritable):
        await put(outbox, entry(key.key_number, 0))


async def test_batches_are_found_by_number_and_their_proof_is_kept(outbox):
    key = await outbox.add_key(b"k" * 32, 2)
    for number in range(10):
        await put(outbox, entry(key.key_number, number))
    batch = StoredBatch(key.key_number, 0, 6, b"h" * 32, b"raw", b"leaves", None)
    await outbox.record_batch(batch)
    assert outbox.batch_of(key.key_number, 5) == batch
    assert outbox.batch_of(key.key_number, 6) is None
    await outbox.record_settled(key.key_number, 0, 6, b"proof")
    assert outbox.all_keys()[0].settled == 6
    assert outbox.batch_of(key.key_number, 0).proof == b"proof"
    await outbox.set_void(key.key_number, [7], 4)
    assert outbox.statements(key.key_number, 7, 1)[0].void == 4


async def test_a_faulty_write_is_its_callers_and_the_writer_goes_on(outbox):
    def fault(_connection):
        raise ValueError("not this")

    with pytest.raises(ValueError, match="not this"):
        await outbox.write(fault)
    assert (await outbox.add_key(b"k" * 32, 2)).settled == 0


async def test_openings_go_after_their_time_and_statements_stay(outbox):
    key = await outbox.add_key(b"k" * 32, 2)
    for number in range(700):
        outbox.put(entry(key.key_number, number, created_ms=number), lambda error: None)
    await put(outbox, entry(key.key_number, 700, created_ms=700))
    await outbox.fold()
    assert await outbox.drop_openings(650) == 650
    assert outbox.sealed_opening(outbox.statement(signed(649).id).opening) is None
    assert outbox.sealed_opening(outbox.statement(signed(650).id).opening) == b"sealed"


def ended(number, at_ms):
    """A statement whose columns say when it ended."""
    return Signed(number, number.to_bytes(32), bytes(89) + at_ms.to_bytes(8), b"p", bytes(32), bytes(32), b"s")


async def test_settled_statements_go_batch_by_batch_and_numbers_go_on(tmp_path):
    box = Outbox(tmp_path / "outbox.db")
    key = (await box.add_key(b"k" * 32, 2)).key_number
    other = (await box.add_key(b"o" * 32, 0)).key_number
    for number in range(12):
        await put(box, Entry(key, ended(number, 100 * number), None, b"sealed", 1000))
    await put(box, Entry(other, ended(0, 5), None, b"", 1000))
    await box.fold()
    for first, count, proof in ((0, 4, b"proof"), (4, 4, b"proof"), (8, 2, None)):
        await box.record_batch(StoredBatch(key, first, count, b"h" * 32, b"raw", b"leaves", None))
        if proof is not None:
            await box.record_settled(key, first, count, proof)
    assert await box.drop_settled(300) == 0, "the last of the first batch ended at 300"
    assert await box.drop_settled(301) == 4
    assert box.batch_of(key, 3) is None
    assert box.statement(ended(3, 0).id) is None
    assert [row.number for row in box.statements(key, 0, 100)] == list(range(4, 12))
    assert await box.drop_settled(1 << 60) == 4, "what is not settled stays, however old"
    assert [row.number for row in box.statements(key, 0, 100)] == [8, 9, 10, 11]
    assert box.batch_of(key, 8).transaction == b"raw"
    assert (box.durable(key), box.durable(other)) == (12, 1)
    await box.record_settled(key, 8, 2, b"proof")
    await box.record_batch(StoredBatch(key, 10, 2, b"h" * 32, b"raw", b"leaves", None))
    await box.record_settled(key, 10, 2, b"proof")
    assert await box.drop_settled(1 << 60) == 4
    box.close()
    again = Outbox(tmp_path / "outbox.db")
    assert (again.durable(key), again.statements(key, 0, 100)) == (12, [])
    await put(again, Entry(key, ended(12, 9999), None, b"sealed", 1000))
    assert again.durable(key) == 13
    again.close()


async def test_a_lone_statement_is_written_at_once_with_what_was_put_before_it(outbox):
    key = (await outbox.add_key(b"k" * 32, 0)).key_number
    order = []
    outbox.put(entry(key, 0), lambda error: order.append((0, error)), alone=True)
    assert order == [(0, None)]
    assert outbox.durable(key) == 1
    outbox.put(entry(key, 1), lambda error: order.append((1, error)))
    assert len(order) == 1, "others may follow within this turn of the loop"
    outbox.put(entry(key, 2), lambda error: order.append((2, error)), alone=True)
    assert order == [(0, None), (1, None), (2, None)]
    again = asyncio.get_running_loop().create_future()
    outbox.put(entry(key, 2), again.set_result, alone=True)
    assert isinstance(await again, OutboxUnwritable), "a number that was given is refused"


async def test_nothing_overtakes_what_the_writer_has(outbox):
    key = (await outbox.add_key(b"k" * 32, 0)).key_number
    order = []
    large = asyncio.get_running_loop().create_future()
    last = asyncio.get_running_loop().create_future()
    outbox.put(entry(key, 0), lambda error: order.append((0, error)), alone=True)
    outbox.put(
        entry(key, 1, sealed=bytes(FILE_BYTES)),
        lambda error: (order.append((1, error)), large.set_result(None)),
        alone=True,
    )
    outbox.put(entry(key, 2), lambda error: (order.append((2, error)), last.set_result(None)), alone=True)
    assert order == [(0, None)], "the journal has no room for the second: it is the writer's, and so is what follows"
    await last
    assert order == [(0, None), (1, None), (2, None)]
    assert large.done()
    outbox.put(entry(key, 3), lambda error: order.append((3, error)), alone=True)
    assert order[-1] == (3, None)
    assert [row.number for row in outbox.statements(key, 0, 10)] == [0, 1, 2, 3]
    assert [row.number for row in outbox.statements(key, 1, 2)] == [1, 2]


def killed(folder, to):
    """The files as a process that is killed now leaves them."""
    to.mkdir()
    for path in folder.iterdir():
        if not path.name.endswith("-shm"):
            shutil.copy(path, to / path.name)
    return to / "outbox.db"


async def test_what_is_in_the_journal_alone_is_there_after_a_crash(tmp_path):
    folder = tmp_path / "first"
    box = Outbox(folder / "outbox.db")
    key = (await box.add_key(b"k" * 32, 2)).key_number
    expected = []
    for round_ in range(4):  # each fills the next file of the journal
        for number in range(10 * round_, 10 * round_ + 10):
            await put(box, entry(key, number, sealed=b"sealed %d" % number))
        expected = list(range(10 * round_ + 10))
        left = Outbox(killed(folder, tmp_path / f"killed {round_}"))
        assert [row.number for row in left.statements(key, 0, 100)] == expected
        assert left.durable(key) == len(expected)
        for number in expected:
            row = left.statement(signed(number).id)
            assert left.sealed_opening(row.opening) == b"sealed %d" % number
        await put(left, entry(key, len(expected)))
        twice = Outbox(killed(tmp_path / f"killed {round_}", tmp_path / f"twice {round_}"))
        assert twice.durable(key) == len(expected) + 1
        twice.close()
        left.close()
        await box.fold()
    box.close()


async def test_what_was_deleted_does_not_come_back_with_the_journal(tmp_path):
    folder = tmp_path / "first"
    box = Outbox(folder / "outbox.db")
    key = (await box.add_key(b"k" * 32, 2)).key_number
    for number in range(3):
        await put(box, Entry(key, ended(number, number), None, b"sealed", 1000))
    await box.fold()
    await box.record_batch(StoredBatch(key, 0, 3, b"h" * 32, b"raw", b"leaves", None))
    await box.record_settled(key, 0, 3, b"proof")
    assert await box.drop_settled(1 << 60) == 3
    again = Outbox(killed(folder, tmp_path / "killed"))
    assert (again.statements(key, 0, 10), again.durable(key)) == ([], 3)
    again.close()
    box.close()


async def test_a_journal_that_fails_leaves_the_rest_to_the_database(outbox, monkeypatch):
    key = (await outbox.add_key(b"k" * 32, 2)).key_number
    await put(outbox, entry(key, 0))

    def fail(*_):
        raise OSError("input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("os.fdatasync", fail)
        await put(outbox, entry(key, 1))
    await put(outbox, entry(key, 2))
    await outbox.fold()
    assert [row.void for row in outbox.statements(key, 0, 10)] == [0, 0, 0]
    assert outbox.writable


async def test_a_full_disk_stops_answers_and_loses_no_number(tmp_path):
    box = Outbox(tmp_path / "outbox.db", max_page_count=40)
    key = await box.add_key(b"k" * 32, 2)
    recovered = asyncio.get_running_loop().create_future()
    box.on_recovered = recovered.set_result
    delivered = 0
    with pytest.raises(OutboxUnwritable) as caught:
        for number in range(1000):
            await put(box, entry(key.key_number, number, sealed=b"x" * 3000))
            delivered += 1
    assert caught.value.http_status == 507
    assert 0 < delivered < 1000
    assert not box.writable
    with pytest.raises(OutboxUnwritable):  # signed while it was full: told at once, kept for later
        await put(box, entry(key.key_number, delivered + 1))
    assert box.durable(key.key_number) == delivered
    box._writer.execute("pragma max_page_count=100000")  # somebody makes room
    kept = await asyncio.wait_for(recovered, 5)
    assert [item.signed.number for item in kept] == [delivered, delivered + 1]
    assert box.writable
    await put(box, entry(key.key_number, delivered + 2))
    rows = box.statements(key.key_number, 0, 1000)
    assert [row.number for row in rows] == list(range(delivered + 3))
    assert [row.void for row in rows] == [0] * delivered + [UNDELIVERED] * 2 + [0]
    box.close()


async def test_a_disk_that_is_really_full(tmp_path):
    """The same on a file system of one megabyte, where one can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        box = Outbox(folder / "outbox.db")
        key = await box.add_key(b"k" * 32, 2)
        recovered = asyncio.get_running_loop().create_future()
        box.on_recovered = recovered.set_result
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(700_000))
        delivered = 0
        with pytest.raises(OutboxUnwritable):
            for number in range(1000):
                await put(box, entry(key.key_number, number, sealed=b"x" * 3000))
                delivered += 1
        assert delivered > 0
        ballast.unlink()
        kept = await asyncio.wait_for(recovered, 5)
        assert [item.signed.number for item in kept] == [delivered]
        assert box.durable(key.key_number) == delivered + 1
        box.close()
        connection = sqlite3.connect(folder / "outbox.db")
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        connection.close()
    finally:
        subprocess.run(["umount", folder], check=True)
