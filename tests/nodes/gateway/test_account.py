"""The gateway's account: its key, and the allowances that it keeps open for nodes."""

import asyncio
import stat
import time

import pytest
from coincurve import PrivateKey

from avow.errors import EncodingError
from avow.nodes.chain_client import ChainUnavailable
from avow.nodes.gateway.account import ALLOWANCE_MS, ALLOWANCE_WEI, PayerAccount, account_address, account_key
from avow.nodes.gateway.directory import Directory
from avow.receipt.requester import address_of
from avow.receipt.statement import Method
from tests.nodes.gateway.simulated_node import SimulatedNode


class Bank:
    def __init__(self, remaining=0, expiry_ms=0):
        self.held = (remaining, expiry_ms)
        self.allowed = []
        self.away = False
        self.asked = 0

    async def allowance(self, payer, node):
        self.asked += 1
        if self.away:
            raise ChainUnavailable("the chain does not answer")
        return self.held

    async def allow(self, node, cap, expiry_ms):
        self.allowed.append(node)
        self.held = (cap, expiry_ms)


def test_the_key_is_made_once_and_is_the_owners_alone(tmp_path):
    file = tmp_path / "gateway" / "key"
    address = account_address(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert account_address(file) == address
    assert address == address_of(PrivateKey(account_key(file)).public_key.format(compressed=False))


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33])
def test_a_file_without_a_key_is_refused(tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(EncodingError):
        account_key(tmp_path / "key")


async def until(condition):
    for _ in range(300):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")


@pytest.fixture
async def directory():
    node = SimulatedNode()
    made = Directory(["unix:/simulated"], node.client, 4, Method.VANILLA)
    task = asyncio.create_task(made.links[0].run())
    await until(lambda: made.links[0].connected)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def kept(bank, directory, condition):
    task = asyncio.create_task(PayerAccount(b"\x01" * 20, bank).keep_allowances(directory))
    try:
        await until(condition)
        await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_allowance_is_opened_for_each_connected_node(directory):
    bank = Bank()
    await kept(bank, directory, lambda: bank.allowed)
    assert bank.allowed == [directory.links[0].description.operator]
    assert bank.held[0] == ALLOWANCE_WEI
    assert abs(bank.held[1] - time.time() * 1000 - ALLOWANCE_MS) < 60_000


@pytest.mark.parametrize(
    ("remaining", "left_ms", "renewed"),
    [
        (ALLOWANCE_WEI, ALLOWANCE_MS, False),
        (ALLOWANCE_WEI // 4 - 1, ALLOWANCE_MS, True),
        (ALLOWANCE_WEI, ALLOWANCE_MS // 4 - 60_000, True),
    ],
)
async def test_it_is_renewed_before_it_is_used_up_or_over(directory, remaining, left_ms, renewed):
    bank = Bank(remaining, int(time.time() * 1000) + left_ms)
    await kept(bank, directory, lambda: bank.asked)
    assert bool(bank.allowed) == renewed


async def test_a_chain_that_is_away_is_tried_again(directory, monkeypatch):
    monkeypatch.setattr("avow.nodes.gateway.account.RETRY_S", 0.01)
    bank = Bank()
    bank.away = True
    task = asyncio.create_task(PayerAccount(b"\x01" * 20, bank).keep_allowances(directory))
    await asyncio.sleep(0.1)
    assert not task.done()
    bank.away = False
    await until(lambda: bank.allowed)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
