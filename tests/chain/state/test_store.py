"""One conformance suite for every store: values, roots, proofs, transactions, and what a crash leaves."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avow.chain.state import Committed, CorruptState, MemoryStore, SqliteStore, StaleCandidate, Store, StoreFailed
from avow.chain.state import sqlite as sqlite_module
from avow.chain.state.page import decode_page
from avow.chain.state.store import Table
from avow.errors import AvowError
from avow.receipt import merkle
from avow.receipt.headers import app_hash

Reopen = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(str(tmp_path / "state.db"))
    yield made
    made.close()


def model_root(entries: dict[bytes, bytes], depth: int = 0) -> bytes:
    """The sparse tree's rule, bit by bit, over {path: value hash}."""
    if not entries:
        return bytes(32)
    if len(entries) == 1:
        ((path, value_hash),) = entries.items()
        return sha256(b"\0" + path + value_hash).digest()
    sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    for path, value_hash in entries.items():
        sides[path[depth // 8] >> (7 - depth % 8) & 1][path] = value_hash
    return sha256(b"\1" + model_root(sides[0], depth + 1) + model_root(sides[1], depth + 1)).digest()


def expected_root(values: dict[bytes, bytes]) -> bytes:
    return model_root({sha256(key).digest(): sha256(value).digest() for key, value in values.items()})


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.committed == Committed()
    assert store.committed.app_hash == app_hash(bytes(32), merkle.MountainRange().root())
    assert store.get(b"x") is None
    assert list(store.iterate(b"")) == []
    assert merkle.sparse_root(b"x", None, store.prove(b"x")) == store.committed.state_root


def test_what_is_prepared_is_not_there_until_it_is_committed(store: Store) -> None:
    candidate = store.prepare({b"a": b"1", b"b": b"2"}, [b"leaf"])
    assert store.get(b"a") is None
    assert store.committed == Committed()
    assert store.commit(candidate, 1).app_hash == candidate.app_hash == store.committed.app_hash
    assert (store.committed.height, store.get(b"a"), store.committed.history.size) == (1, b"1", 1)


def test_a_candidate_for_another_state_is_refused(store: Store) -> None:
    first, second = store.prepare({b"a": b"1"}), store.prepare({b"a": b"2"})
    store.commit(first, 1)
    with pytest.raises(StaleCandidate):
        store.commit(second, 2)
    with pytest.raises(StaleCandidate):
        store.commit(store.prepare({b"a": b"3"}), 1)
    assert store.get(b"a") == b"1"


def test_roots_change_exactly_when_state_does(store: Store) -> None:
    store.commit(store.prepare({b"a": b"1", b"b": b"2"}), 1)
    before = store.committed.app_hash
    store.commit(store.prepare({}), 2)
    store.commit(store.prepare({b"a": b"1", b"nothing": None}), 3)
    assert store.committed.app_hash == before
    store.commit(store.prepare({b"c": b""}), 4)
    assert store.committed.app_hash != before
    store.commit(store.prepare({b"c": None}), 5)
    assert store.committed.app_hash == before
    store.commit(store.prepare({}, [b"leaf"]), 6)
    assert store.committed.app_hash != before


values = st.dictionaries(st.binary(max_size=3), st.none() | st.binary(max_size=4), max_size=24)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(batches=st.lists(values, max_size=6), asked=st.binary(max_size=3))
def test_any_sequence_of_commits_gives_the_model_and_its_proofs(
    kind: str, batches: list[dict[bytes, bytes | None]], asked: bytes
) -> None:
    store: Store = MemoryStore() if kind == "memory" else SqliteStore(":memory:")
    model: dict[bytes, bytes] = {}
    for height, batch in enumerate(batches, 1):
        store.commit(store.prepare(batch), height)
        for key, value in batch.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
    root = store.committed.state_root
    assert root == expected_root(model)
    assert list(store.iterate(b"")) == sorted(model.items())
    assert list(store.iterate(asked)) == sorted(item for item in model.items() if item[0].startswith(asked))
    for key in [*model, asked]:
        assert merkle.sparse_root(key, model.get(key), store.prove(key)) == root
    store.check()
    rebuilt = MemoryStore()
    rebuilt.commit(rebuilt.prepare(model), 1)
    assert rebuilt.committed.state_root == root
    kept = {key for key, _ in store._scan(Table.PAGE, b"", None)}
    assert kept == {key for key, _ in rebuilt._scan(Table.PAGE, b"", None)}, "no page is left behind"
    store.close()


def ground_paths(bits: int) -> list[bytes]:
    """Keys whose paths share their first bits: what an attacker who grinds hashes can do."""
    wanted: dict[int, list[bytes]] = {}
    for number in itertools.count():
        key = number.to_bytes(4)
        group = wanted.setdefault(int.from_bytes(sha256(key).digest()) >> (256 - bits), [])
        group.append(key)
        if len(group) == 3:
            return group
    raise AssertionError


def test_keys_that_share_a_long_way(store: Store) -> None:
    keys = ground_paths(18)
    values = {key: b"v" + key for key in keys}
    for height, key in enumerate(keys, 1):
        store.commit(store.prepare({key: values[key]}), height)
    root = store.committed.state_root
    assert root == expected_root(values)
    for key in keys:
        proof = store.prove(key)
        assert len(proof.siblings) > 18
        assert merkle.sparse_root(key, values[key], proof) == root
    absent = ground_paths(10)[0]
    assert merkle.sparse_root(absent, values.get(absent), store.prove(absent)) == root
    store.commit(store.prepare(dict.fromkeys(keys[1:])), 9)
    assert store.prove(keys[0]).siblings == ()


def test_iteration_spans_batches_and_odd_prefixes(store: Store) -> None:
    entries = {b"k" + number.to_bytes(2): bytes([number % 256]) for number in range(1_000)}
    entries |= {b"\xff": b"1", b"\xff\xff": b"2", b"\xff\xff\x00": b"3", b"j": b"4", b"l": b"5"}
    store.commit(store.prepare(entries), 1)
    assert list(store.iterate(b"k")) == sorted(item for item in entries.items() if item[0].startswith(b"k"))
    assert [key for key, _ in store.iterate(b"\xff\xff")] == [b"\xff\xff", b"\xff\xff\x00"]
    assert len(list(store.iterate(b""))) == len(entries)
    partial = store.iterate(b"k")
    assert next(partial) == (b"k\x00\x00", b"\x00")
    store.put_records([(b"r", b"written while iterating")])
    assert len(list(partial)) == 999


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=8), st.integers(0, 50))
def test_every_leaf_of_the_history_stays_provable(counts: list[int], seed: int) -> None:
    store, leaves = MemoryStore(), []
    for height, count in enumerate(counts, 1):
        new = [sha256(b"%d %d %d" % (seed, height, number)).digest() for number in range(count)]
        leaves += new
        store.commit(store.prepare({}, new), height)
    root = store.committed.history.root()
    assert store.committed.history.size == len(leaves)
    for index, leaf in enumerate(leaves):
        merkle.verify_history(leaf, index, store.prove_history(index), root)
    for index in (-1, len(leaves)):
        with pytest.raises(IndexError):
            store.prove_history(index)


# --- Records and transactions --------------------------------------------------------------------------------------


def test_records_are_apart_from_state(store: Store) -> None:
    before = store.committed.app_hash
    store.put_records([(b"b/1", b"one"), (b"b/2", b"two"), (b"c", b"three")])
    assert store.record(b"b/1") == b"one"
    assert list(store.records(b"b/")) == [(b"b/1", b"one"), (b"b/2", b"two")]
    assert list(store.records(b"b/", start=b"2")) == [(b"b/2", b"two")]
    store.put_records([(b"b/1", None)])
    assert store.record(b"b/1") is None
    assert (store.committed.app_hash, store.get(b"b/2")) == (before, None)


class Crash(BaseException):
    pass


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    store.commit(store.prepare({b"a": b"1", b"gone": b"x"}, [b"leaf"]), 1)
    before = (store.committed, list(store.iterate(b"")), list(store._scan(Table.PAGE, b"", None)))
    with pytest.raises(Crash), store.transaction():
        store.put_records([(b"r", b"1")])
        with store.transaction():
            store.commit(store.prepare({b"a": b"2", b"gone": None, b"b": b"3"}, [b"more"]), 2)
        assert store.committed.height == 2
        raise Crash
    assert (store.committed, list(store.iterate(b"")), list(store._scan(Table.PAGE, b"", None))) == before
    assert store.record(b"r") is None
    with store.transaction():
        store.put_records([(b"r", b"1")])
        store.commit(store.prepare({b"a": b"2"}), 2)
    assert (store.record(b"r"), store.get(b"a")) == (b"1", b"2")


def test_a_swallowed_failure_still_undoes_the_whole(store: Store) -> None:
    with pytest.raises(StoreFailed), store.transaction():
        store.put_records([(b"r", b"1")])
        with pytest.raises(Crash), store.transaction():
            raise Crash
    assert store.record(b"r") is None
    store.put_records([(b"r", b"2")])
    assert store.record(b"r") == b"2"


def test_what_is_written_unflushed_is_whole_and_stays(store: Store) -> None:
    store.put_records_unflushed([(b"r/1", b"1"), (b"r/2", b"2")])
    store.flush()
    with pytest.raises(Crash), store.transaction():
        store.put_records_unflushed([(b"r/1", None), (b"r/3", b"3")])
        raise Crash
    assert list(store.records(b"r/")) == [(b"r/1", b"1"), (b"r/2", b"2")]
    store.put_records_unflushed([(b"r/1", None)])
    store.flush()
    assert list(store.records(b"r/")) == [(b"r/2", b"2")]


# --- What is particular to SQLite ----------------------------------------------------------------------------------


def test_a_reopened_store_is_the_same(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    store = SqliteStore(path)
    committed = store.commit(store.prepare({b"%d" % n: b"v" for n in range(300)}, [b"leaf"]), 7)
    store.close()
    again = SqliteStore(path)
    assert again.committed == committed
    assert merkle.sparse_root(b"5", b"v", again.prove(b"5")) == committed.state_root
    merkle.verify_history(b"leaf", 0, again.prove_history(0), committed.history.root())
    again.check()
    again.close()


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreFailed):
        SqliteStore(str(text))
    with pytest.raises(StoreFailed):
        SqliteStore(str(tmp_path / "no" / "folder"))
    path = str(tmp_path / "newer.db")
    store = SqliteStore(path)
    store._connection.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreFailed, match="another version"):
        SqliteStore(path)


def test_damage_is_noticed(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "state.db"))
    store.commit(store.prepare({b"%d" % n: b"v" for n in range(300)}, [b"1", b"2"]), 1)
    store._write(Table.STATE, [(b"5", b"other")])
    with pytest.raises(CorruptState):
        store.check()
    child = next(key for key, _ in store._scan(Table.PAGE, b"0", None))
    store._write(Table.PAGE, [(child, None)])
    store._load()  # as after a restart: pages written last are kept in memory
    inside = next(b"%d" % n for n in itertools.count() if sha256(b"%d" % n).hexdigest().startswith(child.decode()))
    with pytest.raises(CorruptState):
        store.prove(inside)
    with pytest.raises(CorruptState):
        store.prepare({inside: b"w"})
    store._write(Table.HISTORY, [(key, None) for key, _ in store._scan(Table.HISTORY, b"", None)])
    with pytest.raises(CorruptState):
        store.prove_history(0)
    store.close()
    with pytest.raises(StoreFailed):
        store.get(b"5")


def test_a_checkpoint_beside_an_open_transaction(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "state.db"))
    store.commit(store.prepare({b"%d" % n: b"v" for n in range(6_000)}), 1)
    assert store.checkpoint_due
    with store.transaction():
        store.commit(store.prepare({b"a": b"1"}), 2)
        store.checkpoint()
    assert not store.checkpoint_due
    assert store.get(b"a") == b"1"
    store.close()


def test_a_flush_is_left_out_only_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(str(tmp_path / "state.db"))

    def level() -> int:
        return store._connection.execute("PRAGMA synchronous").fetchone()[0]

    levels: list[int] = []
    finish = store._finish
    monkeypatch.setattr(store, "_finish", lambda: (levels.append(level()), finish()))
    store.put_records_unflushed([(b"a", b"1")])
    store.put_records([(b"b", b"2")])
    with store.transaction():
        store.put_records_unflushed([(b"c", b"3")])
    assert levels == [1, 2, 2]
    monkeypatch.setattr(store, "put_records", raising)
    with pytest.raises(Crash):
        store.put_records_unflushed([(b"d", b"4")])
    assert level() == 2

    flushed: list[int] = []
    monkeypatch.setattr(sqlite_module, "_flush_file", flushed.append)
    store.flush()
    store.flush()
    assert len(flushed) == 2
    assert len(set(flushed)) == 1
    monkeypatch.setattr(sqlite_module, "_flush_file", no_disk)
    with pytest.raises(StoreFailed):
        store.flush()
    store.close()
    copy = SqliteStore(str(tmp_path / "state.db"))
    assert [key for key, _ in copy.records(b"")][-3:] == [b"a", b"b", b"c"]
    copy.close()


def raising(*_: object) -> None:
    raise Crash


def no_disk(_: int) -> None:
    raise OSError(5, "no disk")


def test_a_full_disk_undoes_the_commit_and_says_so(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "state.db"))
    store.commit(store.prepare({b"a": b"1"}), 1)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFailed) as caught:
        store.commit(store.prepare({b"%d" % n: bytes(500) for n in range(500)}), 2)
    assert caught.value.fields["reason"] == "SQLITE_FULL"
    assert (store.committed.height, store.get(b"a"), store.get(b"5")) == (1, b"1", None)
    store.check()
    store.close()


KILLED = """
import os, sys
from avow.chain.state import SqliteStore
store = SqliteStore(sys.argv[1])
height = store.committed.height
while True:
    height += 1
    with store.transaction():
        store.put_records([(b"height", b"%d" % height)])
        store.commit(store.prepare({b"%d" % n: b"%d" % height for n in range(height % 40)}, [b"%d" % height]), height)
    os.write(1, b"%d\\n" % height)
"""


def test_killed_while_committing(tmp_path: Path) -> None:
    """kill -9 at any moment: every height that was reported is there, whole, and at most one more."""
    path = str(tmp_path / "state.db")
    reported = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(30):
            reported = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split()
        process.wait()
        reported = int(rest[-1]) if rest and rest[-1].isdigit() else reported
        store = SqliteStore(path)
        height = store.committed.height
        assert height in (reported, reported + 1)
        assert store.record(b"height") == b"%d" % height
        assert store.committed.history.size == height
        for number in range(height % 40):
            assert store.get(b"%d" % number) == b"%d" % height
        store.check()
        store.close()


@given(st.binary(max_size=200))
def test_damaged_pages_and_commits_are_refused(data: bytes) -> None:
    try:
        page = decode_page(data)
    except CorruptState:
        pass
    else:
        assert page.encoded() == data
    try:
        decoded = Committed.decoded(data)
    except AvowError:
        return
    assert decoded.encoded() == data


def test_roots_do_not_depend_on_hash_seeds() -> None:
    program = (
        "from avow.chain.state import MemoryStore\n"
        "s = MemoryStore()\n"
        "s.commit(s.prepare({b'%d' % n: b'v' for n in set(range(500))}, [b'l']), 1)\n"
        "print(s.committed.app_hash.hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1", "777")
    }
    assert len(found) == 1
