"""A store of its own for every test."""

import pytest

from avow.models.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, directory=tmp_path / "models")
