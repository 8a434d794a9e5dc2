"""Planted fraud on a running network of processes, caught by `avow watch`: the short form of `python -m tests.soak_fraud`."""

import pytest

from tests.soak_fraud.campaign import campaign

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.xdist_group("network"), pytest.mark.timeout(900)]


@pytest.mark.parametrize("model", ["digits-mlp", "digits-lenet", "risk", "small-chat"])
async def test_a_lie_of_each_kind_is_caught_and_honest_answers_are_not(model, tmp_path):
    [tally] = await campaign(tmp_path, [model], limit=1, progress=lambda *_: None, report=lambda _: None)
    assert not tally.problems
    assert [(line["name"], line["problems"]) for line in tally.lines if line["problems"]] == []
    assert tally.caught >= 3
    assert tally.honest >= 3
    assert tally.live_s is not None
