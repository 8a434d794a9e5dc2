"""What the end-to-end tests share."""

import pytest

from avow.consensus.cometbft.binary import find
from avow.consensus.cometbft.errors import CometBFTMissing
from tests.conftest import REPOSITORY


@pytest.fixture
def cometbft() -> None:
    try:
        find()
    except CometBFTMissing as missing:
        pytest.skip(f"{missing.detail}: {missing.hint}")


@pytest.fixture
def faulty(cometbft: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validators are those of faulty.py: honest until told otherwise."""
    del cometbft
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr("avow.nodes.net.run.MODULE", "tests.e2e.faulty")
