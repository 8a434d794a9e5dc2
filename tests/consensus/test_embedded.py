"""The engine as a network sees it: submit, wait, prove; spacing, heartbeats, stopping and failing."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from avow.chain.state import SqliteStore, StoreFailed
from avow.consensus.block import Decided
from avow.consensus.embedded import EmbeddedEngine
from avow.consensus.errors import AlreadyRunning, EngineStopped, NoSuchBlock
from avow.receipt import light, merkle

from .conftest import Chain

Until = Callable[[Callable[[], bool]], Any]


async def test_from_submission_to_proof(chain: Chain) -> None:
    engine = chain.engine()
    await engine.start()
    assert engine.height == 1
    response = await engine.submit(b"a=1")
    assert response.code == 0
    await engine.wait_height(3)
    assert engine.block(2).txs == (b"a=1",)
    (result,) = engine.results(2)
    following = engine.signed_header(3)
    light.verify_commit(chain.genesis.chain_id, engine.validators(3), following)
    light.verify_result(result.deterministic(), 0, 1, [], following.header)
    root = merkle.sparse_root(b"kv/a", b"1", chain.store.prove(b"kv/a"))
    assert light.app_hash(root, merkle.MountainRange().root()) == following.header.app_hash
    assert light.SignedBlock.from_value(engine.signed_block(3).to_value()) == engine.signed_block(3)
    await engine.stop()
    await engine.stopped()


async def test_refusals_come_back_at_once(chain: Chain) -> None:
    engine = chain.engine()
    await engine.start()
    assert (await engine.submit(b"nothing")).code == 9
    assert engine.waiting == 0
    with pytest.raises(NoSuchBlock):
        engine.block(2)
    await engine.stop()


async def test_an_idle_chain_makes_no_blocks_but_heartbeats(chain: Chain) -> None:
    engine = chain.engine(heartbeat_ms=150)
    await engine.start()
    started = time.monotonic()
    await engine.wait_height(4)
    assert 0.3 < time.monotonic() - started < 3
    assert [engine.block(height).txs for height in (2, 3, 4)] == [(), (), ()]
    assert len({engine.block(height).header.app_hash for height in (2, 3, 4)}) == 1
    await engine.stop()
    quiet = chain.engine()
    await quiet.start()
    height = quiet.height
    await asyncio.sleep(0.2)
    assert quiet.height == height
    await quiet.submit(b"hold=1")
    await asyncio.sleep(0.2)
    assert (quiet.height, quiet.waiting) == (height, 1), "what the application holds back makes no storm of blocks"
    await quiet.stop()


async def test_blocks_keep_their_distance_and_share_it(chain: Chain) -> None:
    engine = chain.engine(spacing_ms=60)
    made: list[tuple[float, int]] = []
    engine.on_block(lambda block: made.append((time.monotonic(), len(block.txs))))
    await engine.start()
    await asyncio.sleep(0.08)
    for number in range(30):
        await engine.submit(b"%d=1" % number)
        await asyncio.sleep(0.005)
    while sum(count for _, count in made) < 30:
        await asyncio.sleep(0.01)
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(made)]
    assert min(gaps) >= 0.055
    assert made[1][1] == 1, "the first transaction after a pause is not kept waiting"
    assert len(made) <= 10
    await engine.stop()


async def test_a_submission_is_durable_when_it_returns(chain: Chain) -> None:
    engine = chain.engine(spacing_ms=10_000)
    await engine.start()
    await asyncio.gather(*(engine.submit(b"%d=1" % number) for number in range(50)))
    assert engine.height == 1
    other = SqliteStore(str(chain.path / "chain.db"))  # what another process would find now
    assert len(list(other.records(b"pool/"))) == 50
    other.close()
    await engine.stop()
    again = chain.engine()
    await again.start()
    await again.wait_height(2)
    assert sum(len(again.block(height).txs) for height in range(1, again.height + 1)) == 50
    await again.stop()


async def test_submissions_at_one_moment_share_one_flush(chain: Chain) -> None:
    flushes: list[str] = []
    engine = chain.engine(spacing_ms=10_000, probe=flushes.append)
    await engine.start()
    flushes.clear()
    await asyncio.gather(*(engine.submit(b"%d=1" % number) for number in range(200)))
    assert flushes.count("pool: durable") == 1
    await engine.stop()


async def test_the_same_transaction_twice_at_once(chain: Chain) -> None:
    engine = chain.engine()
    await engine.start()
    first, second = await asyncio.gather(engine.submit(b"a=1"), engine.submit(b"a=1"))
    assert first.code == second.code == 0
    await engine.wait_height(3)
    assert sum(len(engine.block(height).txs) for height in range(1, engine.height + 1)) == 1
    await engine.stop()


async def test_an_index_is_written_with_its_block(chain: Chain) -> None:
    def index(block: Decided) -> list[tuple[bytes, bytes | None]]:
        return [(b"index/" + tx, block.height.to_bytes(8)) for tx in block.txs]

    engine = chain.engine(index=index)
    await engine.start()
    await engine.submit(b"a=1")
    await engine.wait_height(3)
    assert chain.store.record(b"index/a=1") == (2).to_bytes(8)
    await engine.stop()


# --- Stopping, failing, waiting ------------------------------------------------------------------------------------


async def test_an_engine_that_does_not_run_says_so(chain: Chain) -> None:
    engine = chain.engine()
    with pytest.raises(EngineStopped):
        await engine.submit(b"a=1")
    with pytest.raises(EngineStopped):
        await engine.stopped()
    await engine.stop()
    running = chain.engine()
    await running.start()
    waiter = asyncio.create_task(running.wait_height(10**9))
    await asyncio.sleep(0)
    await running.stop()
    with pytest.raises(EngineStopped):
        await waiter
    for call in (running.submit(b"a=1"), running.wait_height(10**9)):
        with pytest.raises(EngineStopped):
            await call
    await running.wait_height(1)


async def test_an_error_stops_the_engine_and_reopening_continues(chain: Chain) -> None:
    engine = chain.engine()
    await engine.start()
    await engine.submit(b"a=1")
    await engine.wait_height(3)
    waiter = asyncio.create_task(engine.wait_height(10**9))
    await asyncio.sleep(0)
    assert (await engine.submit(b"boom=1")).code == 0, "it is durable before it is executed"
    with pytest.raises(EngineStopped):
        await waiter
    with pytest.raises(ZeroDivisionError):
        await engine.stopped()
    with pytest.raises(EngineStopped):
        await engine.submit(b"b=1")
    await engine.stop()
    again = chain.engine()
    await again.start()
    assert again.block(2).txs == (b"a=1",)
    assert (await again.submit(b"b=1")).code == 0
    await again.wait_height(5)
    assert again.block(4).txs == (b"b=1",)
    await again.stop()


async def test_a_full_disk_stops_the_engine_with_its_reason(chain: Chain) -> None:
    engine = chain.engine()
    await engine.start()
    assert isinstance(chain.store, SqliteStore)
    pages = chain.store._connection.execute("PRAGMA page_count").fetchone()[0]
    chain.store._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(EngineStopped) as caught:
        await engine.submit(b"big=" + bytes(200_000))
    assert caught.value.fields["reason"] == "StoreFailed"
    with pytest.raises(StoreFailed):
        await engine.stopped()
    await engine.stop()
    again = chain.engine()
    await again.start()
    assert again.waiting == 0
    await again.submit(b"small=1")
    await again.stop()


async def test_cancelled_waiters_are_forgotten(chain: Chain) -> None:
    engine = chain.engine()
    await engine.start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.wait_height(50), 0.02)
    assert engine._heights._waiting == {}
    submission = asyncio.create_task(engine.submit(b"a=1"))
    await asyncio.sleep(0)
    submission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submission
    await engine.wait_height(3)
    await engine.stop()


async def test_cancelling_the_loop_ends_the_engine(chain: Chain) -> None:
    engine = chain.engine()
    await engine.start()
    assert engine._task is not None
    engine._task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await engine.stopped()
    with pytest.raises(EngineStopped):
        await engine.submit(b"a=1")
    await engine.stop()


async def test_one_process_per_chain(chain: Chain) -> None:
    assert chain.path is not None
    lock = chain.path / "lock"
    engine = chain.engine(lock_path=lock)
    await engine.start()
    store = chain.store
    with pytest.raises(AlreadyRunning):
        EmbeddedEngine(object(), store, chain.genesis, chain.key, lock_path=lock)  # type: ignore[arg-type]
    await engine.stop()
    again = chain.engine(lock_path=lock)
    await again.start()
    await again.stop()


async def test_the_log_is_written_back_beside_the_loop(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avow.chain.state.sqlite.CHECKPOINT_ROWS", 20)
    engine = chain.engine(spacing_ms=0)
    await engine.start()
    for number in range(100):
        await engine.submit(b"%d=1" % number)
    await asyncio.sleep(0.05)
    await engine.stop()
    assert chain.path is not None
    assert (chain.path / "chain.db").stat().st_size > 20_000
    assert chain.store._rows_since_checkpoint < 60  # type: ignore[attr-defined]
    chain.store.check()
