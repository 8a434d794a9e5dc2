"""The short form: one manifest of four validators, with one perturbation of each kind."""

import itertools

import pytest

from avow.consensus.cometbft.binary import find
from avow.consensus.cometbft.errors import CometBFTMissing
from tests.e2e import manifest as manifests
from tests.e2e.manifest import Kind, Manifest, Perturbation
from tests.e2e.runner import Run

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("cometbft network")]


@pytest.fixture(autouse=True)
def cometbft():
    try:
        find()
    except CometBFTMissing as missing:
        pytest.skip(f"{missing.detail}: {missing.hint}")


async def test_four_validators_survive_one_perturbation_of_each_kind(tmp_path, monkeypatch):
    course = [
        [Perturbation(Kind.KILL, 1, "chain"), Perturbation(Kind.PAUSE, 2, "both")],
        [Perturbation(Kind.DISCONNECT, 3), Perturbation(Kind.RESTART, 0)],
    ]
    monkeypatch.setattr(Manifest, "steps", lambda _self: itertools.chain(course, itertools.repeat([])))
    monkeypatch.setattr("tests.e2e.runner.AWAY_S", 5.0)
    monkeypatch.setattr("tests.e2e.runner.BETWEEN_S", 0.5)
    manifest = Manifest(7, 4, "flood", 1_000, 0, 20, 2, 8)
    outcome = await Run(manifest, tmp_path).run(steps=2)
    assert outcome.violations == []
    assert {done.what.kind for done in outcome.done} == set(Kind)
    assert outcome.figures["transactions"] > 20
    assert outcome.figures["receipts_verified"] == outcome.figures["statements_settled"] > 0
    assert manifests.RETURN_S == 20.0
