"""What all tests share."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Recorded evidence beside the checkout; a test that needs it is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"recorded evidence is not here: {folder.name} beside the checkout")
    return folder
