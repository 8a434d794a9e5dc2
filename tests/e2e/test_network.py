"""The short form: one manifest of four validators, with one perturbation of each kind."""

import asyncio
import itertools
import json
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.e2e import other_python
from tests.e2e.circumstances import NO_VECTORS, other_pythons
from tests.e2e.manifest import RETURN_S, Kind, Manifest, Perturbation
from tests.e2e.runner import Run
from tests.patience import patient_s

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.xdist_group("cometbft network"),
    pytest.mark.usefixtures("cometbft"),
    pytest.mark.timeout(1_200),
]


async def standstill(run, index, seconds=3.0):
    """The height at which a validator has stood for so long."""
    async with asyncio.timeout(patient_s(60)):
        while True:
            before = await run.height(index)
            await asyncio.sleep(seconds)
            if before is not None and before == await run.height(index):
                return before


async def test_four_validators_survive_one_perturbation_of_each_kind(tmp_path, monkeypatch):
    course = [
        [Perturbation(Kind.KILL, 1, "chain"), Perturbation(Kind.PAUSE, 2, "both")],
        [Perturbation(Kind.DISCONNECT, 3), Perturbation(Kind.RESTART, 0)],
    ]
    monkeypatch.setattr(Manifest, "steps", lambda _self: itertools.chain(course, itertools.repeat([])))
    monkeypatch.setattr("tests.e2e.runner.AWAY_S", 5.0)
    monkeypatch.setattr("tests.e2e.runner.BETWEEN_S", 0.5)
    manifest = Manifest(7, 4, "flood", 1_000, 0, 20, 2, 8)
    run = Run(manifest, tmp_path)
    outcome = await run.run(lambda: run.steps(2))
    assert outcome.violations == []
    assert {done.what.kind for done in outcome.done} == set(Kind)
    assert outcome.figures["transactions"] > 20
    assert outcome.figures["receipts_verified"] == outcome.figures["statements_settled"] > 0


async def test_two_of_four_down_and_nothing_is_decided_until_one_is_back(tmp_path):
    run = Run(Manifest(8, 4, "flood", 1_000, 0, 0, 2, 8), tmp_path)

    async def course():
        for index in (1, 3):
            await run.command("stop", index)
        halted = await standstill(run, 0)
        await asyncio.sleep(4.0)
        assert await run.height(0) == halted
        assert await run.height(2) <= halted + 1  # what it has of the other's last block
        await run.command("start", 1)
        assert (await run.returns(1))[1] < RETURN_S
        assert await run.height(0) > halted
        await run.command("start", 3)
        assert (await run.returns(3))[1] < RETURN_S

    assert (await run.run(course)).violations == []


async def test_validators_of_other_circumstances_agree(tmp_path, monkeypatch):
    """Each validator is another Python, or has another hash seed or processor, as far as they are here."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr("avow.nodes.net.run.MODULE", "tests.e2e.other_python")
    run = Run(Manifest(9, 4, "flood", 1_000, 0, 0, 3, 8), tmp_path)
    pythons = (other_pythons("avow.nodes.full") + [sys.executable] * 4)[:4]
    environments = [{"PYTHONHASHSEED": "random"}, {"PYTHONHASHSEED": "1"}, NO_VECTORS, {"PYTHONOPTIMIZE": "1"}]
    for index, (python, environment) in enumerate(zip(pythons, environments, strict=True)):
        found = {"python": python, "environment": environment}
        (tmp_path / f"validator{index}" / other_python.FILE).write_text(json.dumps(found))

    async def course():
        await asyncio.sleep(patient_s(12.0))

    assert (await run.run(course)).violations == []
    assert run.outcome.figures["receipts_verified"] > 0
