"""Snapshots: the same bytes from the same state, and every piece checked by itself."""

import random
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain.state import MemoryStore, SqliteStore, StaleCandidate
from avow.chain.state import snapshot as snapshots
from avow.chain.state.errors import BadSnapshot
from avow.chain.state.snapshot import Outline
from avow.consensus.cometbft.messages import Applied, Offered
from avow.consensus.cometbft.snapshots import KEPT, SnapshotFolder, make


def fill(store, count: int, *, leaves: int = 0, height: int = 7, seed: int = 1):
    order = list(range(count))
    random.Random(seed).shuffle(order)
    values = [
        (b"key/" + number.to_bytes(4), sha256(number.to_bytes(4)).digest()[: 1 + number % 32]) for number in order
    ]
    store.commit(store.prepare(dict(values), [number.to_bytes(4) for number in range(leaves)]), height)
    return store


def parts(folder) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in folder.iterdir()}


@pytest.fixture
def small(monkeypatch):
    """Chunks and runs so small that there are several."""
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 4_000)
    monkeypatch.setattr(snapshots, "HISTORY_LEAVES", 16)
    monkeypatch.setattr("avow.consensus.cometbft.snapshots.HISTORY_LEAVES", 16)
    monkeypatch.setattr("avow.consensus.cometbft.snapshots._SPILL_BYTES", 3_000)


@pytest.mark.parametrize(("count", "leaves"), [(0, 0), (1, 1), (2, 5), (300, 16), (1_500, 47), (2_000, 64)])
def test_two_nodes_make_the_same_bytes_and_a_third_takes_them(tmp_path, small, count, leaves):
    first = fill(MemoryStore(), count, leaves=leaves)
    second = fill(SqliteStore(str(tmp_path / "chain.db")), count, leaves=leaves, seed=2)
    make(first, tmp_path / "1")
    make(second, tmp_path / "2")
    assert parts(tmp_path / "1") == parts(tmp_path / "2")
    outline = Outline.decoded((tmp_path / "1" / "outline").read_bytes())
    assert outline.committed == first.committed
    assert outline.depth == (1 if count <= 1_024 else 2)
    third = MemoryStore()
    taken = SnapshotFolder(tmp_path / "taking", third, interval=0)
    given = SnapshotFolder(tmp_path / "giving", first, interval=0)
    (tmp_path / "1").rename(tmp_path / "giving" / "7")
    (found,) = given.list()
    assert taken.offer(found, first.committed.app_hash) is Offered.ACCEPT
    for index in range(found.chunks):
        assert taken.apply(index, given.load(7, 1, index), "peer").result is Applied.ACCEPT
    assert third.committed == first.committed
    assert dict(third.iterate(b"")) == dict(first.iterate(b""))
    for index in range(leaves):
        assert third.prove_history(index) == first.prove_history(index)
    third.check()
    second.close()


def test_an_offer_that_is_not_of_the_trusted_state_is_rejected(tmp_path):
    store = fill(MemoryStore(), 50, leaves=3)
    make(store, tmp_path / "given" / "7")
    (found,) = SnapshotFolder(tmp_path / "given", store, interval=0).list()
    taking = SnapshotFolder(tmp_path / "taking", MemoryStore(), interval=0)
    trusted = store.committed.app_hash
    assert taking.apply(0, b"", "peer").result is Applied.ABORT
    for wrong, verdict in (
        (replace(found, format=2), Offered.REJECT_FORMAT),
        (replace(found, height=8), Offered.REJECT),
        (replace(found, chunks=found.chunks + 1), Offered.REJECT),
        (replace(found, hash=bytes(32)), Offered.REJECT),
        (replace(found, metadata=b"\xa0"), Offered.REJECT),
    ):
        assert taking.offer(wrong, trusted) is verdict
    assert taking.offer(found, bytes(32)) is Offered.REJECT
    assert SnapshotFolder(tmp_path / "x", store, interval=0).offer(found, trusted) is Offered.REJECT  # it has a state
    assert taking.offer(found, trusted) is Offered.ACCEPT


@settings(max_examples=150)
@given(st.data())
def test_no_chunk_but_the_right_one_passes(data):
    """Values changed, dropped, doubled, moved, or bytes damaged."""
    store = fill(MemoryStore(), 40, leaves=5)
    pairs = list(store.iterate(b""))
    buckets = [
        [pair for pair in pairs if snapshots.bucket_of(snapshots.sparse_path(pair[0]), 1) == at] for at in range(16)
    ]
    outline = snapshots.outline_of(store.committed, 1, buckets, ())
    right = b"".join(snapshots.write_pairs(bucket) for bucket in buckets)
    outline.check(0, right)
    history = b"".join(store.history_leaf(index) for index in range(5))
    outline.check(1, history)
    index, chunk = data.draw(st.sampled_from([(0, right), (1, history)]))
    damaged = bytearray(chunk)
    how = data.draw(st.sampled_from(["byte", "cut", "add", "swap"]))
    if how == "byte":
        damaged[data.draw(st.integers(0, len(chunk) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del damaged[data.draw(st.integers(0, len(chunk) - 1)) :]
    elif how == "add":
        damaged += data.draw(st.binary(min_size=1, max_size=64))
    else:
        damaged = bytearray(history if index == 0 else right)
    with pytest.raises(BadSnapshot):
        outline.check(index, bytes(damaged))


@settings(max_examples=150)
@given(st.binary(max_size=300), st.integers(0, 2_000), st.integers(1, 255))
def test_an_outline_is_right_or_refused(noise, at, flip):
    store = fill(MemoryStore(), 40, leaves=5)
    pairs = list(store.iterate(b""))
    buckets = [
        [pair for pair in pairs if snapshots.bucket_of(snapshots.sparse_path(pair[0]), 1) == b] for b in range(16)
    ]
    right = snapshots.outline_of(store.committed, 1, buckets, ())
    encoded = right.encoded()
    assert Outline.decoded(encoded) == right
    damaged = bytearray(encoded)
    damaged[at % len(damaged)] ^= flip
    for data in (noise, bytes(damaged)):
        try:
            found = Outline.decoded(data)
        except BadSnapshot:
            continue
        changed = found.committed != right.committed
        assert changed or (found.slots, found.history) == (right.slots, right.history)


def test_a_wrong_chunk_is_fetched_again_from_somebody_else(tmp_path):
    store = fill(MemoryStore(), 50)
    make(store, tmp_path / "given" / "7")
    given = SnapshotFolder(tmp_path / "given", store, interval=0)
    (found,) = given.list()
    taking = SnapshotFolder(tmp_path / "taking", MemoryStore(), interval=0)
    taking.offer(found, store.committed.app_hash)
    answer = taking.apply(0, given.load(7, 1, 0)[:-1], "liar")
    assert (answer.result, answer.refetch_chunks, answer.reject_senders) == (Applied.RETRY, (0,), ("liar",))
    assert taking.apply(5, b"", "liar").result is Applied.RETRY
    assert taking.apply(0, given.load(7, 1, 0), "peer").result is Applied.ACCEPT
    assert given.load(7, 2, 0) == given.load(7, 1, 99) == b""


def test_snapshots_are_made_at_their_heights_of_the_state_as_it_was(tmp_path):
    store = SqliteStore(str(tmp_path / "chain.db"))
    folder = SnapshotFolder(tmp_path / "snapshots", store, interval=2)
    roots = {}
    for height in range(1, 10):
        store.commit(store.prepare({b"n": height.to_bytes(4), b"k" + bytes([height]): b"v"}), height)
        roots[height] = store.committed
        folder.committed(height)
        store.put_records([(b"x", b"y")])
        folder.wait()
    assert [item.height for item in folder.list()] == [8, 6]
    assert len(folder.list()) == KEPT
    assert folder.oldest_needed() == 6
    for item in folder.list():
        assert Outline.decoded(item.metadata).committed == roots[item.height]
    (tmp_path / "snapshots" / "8" / "outline").write_bytes(b"\x00")
    assert [item.height for item in folder.list()] == [6]
    store.close()


def test_a_state_is_not_restored_over_another():
    store = fill(MemoryStore(), 3)
    with pytest.raises(StaleCandidate):
        store.restore(9, [[(b"a", b"b")]], [])


def test_a_state_is_restored_a_part_at_a_time(tmp_path):
    """No more than one part is held: each was let go before the next is read, and memory does not grow with the state."""
    count = 12
    values = [
        [(b"key/" + part.to_bytes(2) + at.to_bytes(2), bytes([part]) * 100) for at in range(500)]
        for part in range(count)
    ]
    held = 0
    most = 0

    def parts():
        nonlocal held, most
        for part in values:
            held += 1
            most = max(most, held)
            yield iter(part)
            held -= 1

    expected = MemoryStore()
    expected.commit(expected.prepare([pair for part in values for pair in part]), 5)
    store = SqliteStore(str(tmp_path / "chain.db"))
    assert store.restore(5, parts(), [[bytes([at]) * 32 for at in range(3)], [b"\x09" * 32]]).height == 5
    assert most == 1
    assert store.committed.state_root == expected.committed.state_root
    assert store.committed.history.size == 4
    store.check()
    store.close()


def test_a_restore_that_breaks_off_leaves_nothing(tmp_path):
    store = SqliteStore(str(tmp_path / "chain.db"))

    def parts():
        yield [(b"a", b"1")]
        raise BadSnapshot("the disk is full of holes")

    with pytest.raises(BadSnapshot):
        store.restore(5, parts(), [])
    assert store.committed.height == 0
    assert list(store.iterate(b"")) == []
    assert store.restore(5, [[(b"a", b"1")]], []).height == 5
    store.check()
    store.close()
