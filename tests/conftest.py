"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shared machine is slow now and then: that is no finding of a property test.
settings.register_profile("avow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# What lands is judged by the same inputs every time; fresh ones are for those who can look at what they find.
settings.register_profile("repeatable", settings.get_profile("avow"), derandomize=True, database=None)
settings.load_profile(os.environ.get("AVOW_TEST_PROFILE", "avow"))

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Recorded evidence beside the checkout; a test that needs it is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"recorded evidence is not here: {folder.name} beside the checkout")
    return folder
