"""Chains that tests begin with."""

import pytest

from avow.receipt.statement import Method
from tests.chain.harness import Chain


@pytest.fixture
def chain():
    return Chain()


@pytest.fixture
def node(chain):
    """A vanilla key that can settle: registered, program published, price set, the payer's allowance open."""
    return chain.node(Method.VANILLA)
