"""A payer demands of sixteen statements at once, through real processes (the long form: `python -m tests.soak_demands`)."""

import pytest

from tests.soak_demands import TEXT, burst
from tests.soak_fraud.models import SMALL

BODY = {"messages": [{"role": "user", "content": TEXT[:40]}], "max_tokens": 60}


@pytest.mark.slow
@pytest.mark.parametrize("lose", [False, True], ids=["killed and started again", "and what runs left behind is lost"])
async def test_every_demand_of_a_burst_is_answered_well_in_time(tmp_path, lose):
    figures = await burst(
        tmp_path / "network", SMALL["small-chat"], count=16, kill=True, lose=lose, body=BODY, store=tmp_path
    )
    assert figures.problems == []
    assert len(figures.answered_ms) == 16
    assert figures.kept_bytes > 16 * 40_000
