"""A chain with its RPC application, in the test's own loop."""

import pytest

from avow.nodes.full import FullNodeConfig, create_network, running_chain
from tests.chain.harness import ETHER, NAMES, account


@pytest.fixture
def home(tmp_path):
    accounts = [(account(name), 1_000 * ETHER) for name in NAMES]
    create_network(tmp_path, governance=account("governance"), accounts=accounts)
    return tmp_path


@pytest.fixture
async def running(home):
    async with running_chain(FullNodeConfig(home)) as chain:
        yield chain
