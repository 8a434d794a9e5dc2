"""What an optimistic node takes on, and what it keeps of it until nobody can challenge it."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from avow.engines import load
from avow.engines.inference_protocol import parse_infer
from avow.engines.interface import Cost
from avow.exact import descent
from avow.exact.descent import Demand, check_answer
from avow.exact.hashing import INPUT_SLOT, Header
from avow.models.store import Store
from avow.nodes.errors import CannotAnswerInTime, EngineFailure, RunTooLong, TraceDiskFull
from avow.nodes.keeping import AT_ONCE, Keeping
from avow.nodes.loaded import Loaded
from avow.nodes.openings import Openings
from avow.nodes.outbox_rows import StoredStatement
from avow.nodes.remains import Remains
from avow.nodes.runner import Runner
from avow.nodes.signer import Signer
from avow.receipt.statement import Columns, Method
from tests.nodes.conftest import CHAIN, OPERATOR, PROGRAM, TERMS, RecordingSink, job
from tests.nodes.optimistic import body_of, install, small_program


def test_a_program_too_slow_for_the_chain_s_time_is_named(tmp_path, caplog):
    keeping = Keeping(Remains(tmp_path))
    keeping.check("slow", Cost(1e9, 1e9))  # the rules are not known yet
    keeping.heed(1_600)
    keeping.check("quick", Cost(100, 700))
    assert not caplog.records
    with pytest.raises(CannotAnswerInTime) as refused:
        keeping.check("slow", Cost(101, 101))
    assert refused.value.fields == {"takes_ms": 101, "limit_ms": 1_600 // AT_ONCE}
    assert "slow" in refused.value.detail
    keeping.check("long", Cost(100, 900))
    assert "is lost" in caplog.text


def test_a_run_is_taken_on_if_answers_about_it_are_quick_and_have_room(tmp_path):
    keeping = Keeping(Remains(tmp_path, 1_000))
    keeping.heed(1_600)

    def engine(answer_ms, kept):
        return SimpleNamespace(answer_ms=lambda _request: answer_ms, kept_bytes=lambda _request, _effective: kept)

    room = keeping.admit(engine(100, 900), {}, {})
    with pytest.raises(TraceDiskFull):
        keeping.admit(engine(0, 900), {}, {})
    room.give_back()
    with pytest.raises(RunTooLong) as refused:
        keeping.admit(engine(101, 0), {}, {})
    assert refused.value.http_status == 400
    keeping.admit(engine(0, 900), {}, {})


class Kept:
    """An outbox of one key, as openings.py reads it."""

    def __init__(self):
        self._results = {}

    def add(self, result):
        signed = result.signed
        self._results[signed.number] = result
        return StoredStatement(
            1, signed.number, signed.id, signed.columns, signed.private, signed.previous_head, signed.signature, None, None, None,
            signed.number, 0,
        )  # fmt: skip

    def traced(self, _key, number):
        return self._results[number].seed, self._results[number].header

    def sealed_opening(self, number):
        return self._results[number].sealed


@dataclass
class Node:
    """A runner of optimistic jobs, and who answers about them. `replays`: how many runs were made again."""

    remains: Remains
    runner: Runner
    openings: Openings
    outbox: Kept
    program: Any
    replays: list = field(default_factory=list)

    async def ask(self, seed):
        sink = RecordingSink()
        body = body_of(self.program, seed, 3)
        self.runner.start(job(body, endpoint="POST /v2/models/small-exact/infer", method=1), TERMS, sink)
        return self.outbox.add(await sink.over)

    async def demand(self, row):
        """The root's nodes and an input's chunks, answered rightly."""
        trace, encoded = Columns.unpack(row.columns).trace, self.outbox.traced(1, row.number)[1]
        header = Header.parse(encoded)
        top = descent.Node(descent.height(header.leaves), 0, header.root, ())
        for demand in (Demand(encoded, top), Demand(encoded, None, INPUT_SLOT, header.inputs[0])):
            assert check_answer(demand, await self.openings.answer_of(row, demand), trace)


@pytest.fixture
def make(tmp_path, monkeypatch):
    made = []

    def build(budget=1 << 20):
        program = small_program()
        engine = load(Store(tmp_path).get(install(tmp_path, program)))
        exact = Loaded(PROGRAM, "small-exact", "tensor", engine, lambda body: parse_infer(body).body)
        remains, outbox = Remains(tmp_path / "runs", budget), Kept()
        runner = Runner({PROGRAM: exact}, Signer(CHAIN, OPERATOR, Method.OPTIMISTIC), Keeping(remains))
        openings = Openings(CHAIN, outbox, None, {PROGRAM: exact}, lambda: (), remains)
        node = Node(remains, runner, openings, outbox, program)
        replay = engine.replay
        monkeypatch.setattr(engine, "replay", lambda *of, **more: node.replays.append(of) or replay(*of, **more))
        made.append(node)
        return node

    monkeypatch.setattr("avow.engines.exact.KEPT_FROM_MS", 0.0)
    yield build
    for node in made:
        node.runner.close()
        node.openings.close()


def file_of(node, row):
    return node.remains._path(Columns.unpack(row.columns).trace)


async def test_a_run_leaves_a_file_that_answers_whether_it_is_whole_or_not(make, caplog):
    node = make()
    rows = [await node.ask(seed) for seed in range(5)]
    kept, lost, cut, torn, other = (file_of(node, row) for row in rows)
    await node.demand(rows[0])
    assert kept.exists()
    assert not node.replays
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    torn.write_bytes(torn.read_bytes()[:48] + bytes(torn.stat().st_size - 48))
    other.write_bytes(other.read_bytes()[:48] + kept.read_bytes()[48:])
    for row in rows[1:]:
        await asyncio.gather(*(node.demand(row) for _ in range(3)))
    assert len(node.replays) == 4, "once for each, whatever is asked"
    assert not torn.exists()
    assert not other.exists()


async def test_without_room_an_answer_is_refused_before_it_is_made(make, monkeypatch):
    node = make(budget=100)
    with pytest.raises(TraceDiskFull):
        await node.ask(1)
    monkeypatch.setattr("avow.engines.exact.KEPT_FROM_MS", 1e9)  # what takes no time leaves nothing
    row = await node.ask(2)
    assert not file_of(node, row).exists()
    await node.demand(row)
    assert len(node.replays) == 1
    assert node.remains.used == 0


async def test_room_of_a_run_that_fails_is_given_back(make, monkeypatch):
    node = make()

    def broken(*_):
        raise RuntimeError

    monkeypatch.setattr(node.runner.programs[PROGRAM].engine, "traced_infer", broken)
    with pytest.raises(EngineFailure):
        await node.ask(1)
    assert node.remains.used == 0
