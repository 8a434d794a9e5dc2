"""Networks of validators for tests, on ports that are free."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from avow.consensus.cometbft.binary import find
from avow.consensus.cometbft.errors import CometBFTMissing
from avow.nodes.chain_client import ChainClient
from avow.nodes.net.layout import BLOCK, MAX_VALIDATORS, RELAYS, NetConfig, create
from avow.nodes.net.run import Net
from tests.chain.harness import NAMES, account
from tests.patience import patient_s


@pytest.fixture
def cometbft() -> None:
    try:
        find()
    except CometBFTMissing as missing:
        pytest.skip(f"{missing.detail}: {missing.hint}")


def free_ports() -> int:
    """The first of the ports that a network of up to eight takes."""
    for _ in range(50):
        first = random.randrange(20_000, 30_000, 100)
        wanted = [first + BLOCK * index + offset for index in range(8) for offset in range(3)]
        wanted += [first + RELAYS + MAX_VALIDATORS * a + b for a in range(4) for b in range(4)]
        with contextlib.ExitStack() as stack:
            try:
                for port in wanted:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


class TestNet:
    """A running network and clients of all its validators."""

    __test__ = False

    def __init__(self, home: Path, net: Net) -> None:
        self.home, self.net = home, net
        self.clients = [ChainClient(f"http://127.0.0.1:{place.rpc_port}") for place in net.layout.validators]

    def client(self, index: int, private_key: bytes | None = None) -> ChainClient:
        made = ChainClient(f"http://127.0.0.1:{self.net.layout.validators[index].rpc_port}", private_key)
        self.clients.append(made)
        return made

    async def height(self, index: int) -> int:
        return (await self.clients[index].rpc("avow_status"))["height"]

    async def reach(self, index: int, height: int, timeout_s: float = 60) -> None:
        """Until a validator has a block of this height, whatever happens to it meanwhile."""
        async with asyncio.timeout(patient_s(timeout_s)):
            while True:
                with contextlib.suppress(Exception):
                    if await self.height(index) >= height:
                        return
                await asyncio.sleep(0.1)

    async def standstill(self, index: int, seconds: float = 3.0) -> int:
        """The height at which a validator has stood for so long."""
        async with asyncio.timeout(patient_s(60)):
            while True:
                before = await self.height(index)
                await asyncio.sleep(seconds)
                if before == await self.height(index):
                    return before

    async def app_hashes(self, height: int) -> set[str]:
        """The state after `height`, as each validator has it."""
        for index in range(self.count):
            await self.reach(index, height)
        blocks = [await client.rpc("eth_getBlockByNumber", hex(height), False) for client in self.clients[: self.count]]
        return {(block["hash"], block["stateRoot"], block["receiptsRoot"]) for block in blocks}

    @property
    def count(self) -> int:
        return len(self.net.layout.validators)


@contextlib.asynccontextmanager
async def running(home: Path, *, snapshot_interval: int = 0, **settings) -> AsyncIterator[TestNet]:
    accounts = tuple(account(name) for name in NAMES)
    create(NetConfig(home, port=free_ports(), heartbeat_ms=1_000, accounts=accounts, **settings))
    net = Net(home, snapshot_interval=snapshot_interval)
    made = TestNet(home, net)
    try:
        await net.start()
        yield made
    finally:
        for client in made.clients:
            await client.close()
        await net.stop()


@pytest.fixture
def network(cometbft: None, tmp_path: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[TestNet]]:
    del cometbft
    return lambda **settings: running(tmp_path / "net", **settings)
