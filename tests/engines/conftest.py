"""Real programs, from a store that all test runs share, so that nothing is downloaded twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from avow.engines import load
from avow.engines.llama import LlamaEngine
from avow.models import catalogue
from avow.models.store import Store

CACHE = Path(__file__).resolve().parents[2] / "build" / "model-cache"


@pytest.fixture(scope="session")
def model_store() -> Store:
    return Store(CACHE, directory=CACHE)


@pytest.fixture(scope="session")
def smollm2(model_store: Store) -> Iterator[LlamaEngine]:
    program = model_store.get(catalogue.install(model_store, catalogue.DEFAULT_CHAT))
    engine = load(program, slots=2)
    assert isinstance(engine, LlamaEngine)
    yield engine
    engine.close()
