"""Looks at every block of every validator while a network runs, and says at once when two do not agree.

Rules, checked on every height of every validator that serves it:
1. Block hash, state root (the application's hash) and receipts root are those that the first validator showed.
2. A transaction is in one block, once.
"""

import asyncio
import contextlib

from avow.errors import AvowError
from avow.nodes.chain_client import ChainClient
from tests.patience import patient_s

POLL_S = 0.4
AT_ONCE = 40


class Diverged(AssertionError):
    """Two validators disagree, or a transaction is in the chain twice."""


class Watch:
    """`start`, `until` a height on all validators, `stop`."""

    def __init__(self, urls: list[str]) -> None:
        self.clients = [ChainClient(url, timeout_s=3.0) for url in urls]
        self.blocks: dict[int, tuple[str, str, str]] = {}
        self.places: dict[bytes, tuple[int, int]] = {}
        self.heights = [0] * len(urls)
        self.checked = [0] * len(urls)
        self.compared = 0
        self.diverged: Diverged | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._follow(index)) for index in range(len(self.clients))]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self.clients:
            await client.close()

    def check(self) -> None:
        if self.diverged is not None:
            raise self.diverged
        for task in self._tasks:
            if task.done():
                task.result()

    async def until(self, height: int, timeout_s: float = 60) -> None:
        """Every validator's blocks are compared up to `height`."""
        async with asyncio.timeout(patient_s(timeout_s)):
            while min(self.checked) < height:
                self.check()
                await asyncio.sleep(0.1)

    async def _follow(self, index: int) -> None:
        client = self.clients[index]
        while self.diverged is None:
            with contextlib.suppress(AvowError):
                status = await client.status()
                self.heights[index] = status["height"]
                self.checked[index] = max(self.checked[index], status["base"] - 1)
                last = min(status["height"], self.checked[index] + AT_ONCE)
                for height in range(self.checked[index] + 1, last + 1):
                    self._compare(index, height, await client.rpc("eth_getBlockByNumber", hex(height), False))
                    self.checked[index] = height
            await asyncio.sleep(POLL_S)

    def _compare(self, index: int, height: int, block: dict) -> None:
        found = (block["hash"], block["stateRoot"], block["receiptsRoot"])
        known = self.blocks.setdefault(height, found)
        self.compared += 1
        if known != found:
            self.diverged = Diverged(f"validator{index} has {found} at height {height}, another has {known}")
            return
        for at, digest in enumerate(block["transactions"]):
            place = self.places.setdefault(bytes.fromhex(digest[2:]), (height, at))
            if place != (height, at):
                self.diverged = Diverged(f"transaction {digest} is at {place} and at {(height, at)}")
