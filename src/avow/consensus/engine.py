"""What an engine is to those who stand on it: ordered blocks with their proofs, and a way in for transactions.

Rules:
1. A height that `height` names is durable here with header, commit, validators and results. The application's committed state is
   never behind it; with a distributed engine it may be a block or two ahead for the moment that a commit takes to arrive.
2. `submit` returns when the transaction is durable; a code other than 0 is the application's refusal.
3. Everything happens on one event loop's thread.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from avow.chain import abci
from avow.chain.state import SqliteStore, Store
from avow.consensus.block import Decided
from avow.consensus.blockstore import BlockStore
from avow.consensus.errors import EngineStopped
from avow.consensus.pool import Dropped
from avow.receipt.headers import SignedBlock, SignedHeader, Validator

OnBlock = Callable[[Decided], None]


class Engine(Protocol):
    """`EmbeddedEngine` and `CometBFTEngine`."""

    @property
    def height(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def block(self, height: int) -> Decided: ...
    def signed_header(self, height: int) -> SignedHeader: ...
    def signed_block(self, height: int) -> SignedBlock: ...
    def validators(self, height: int) -> Sequence[Validator]: ...
    def results(self, height: int) -> Sequence[abci.ExecTxResult]: ...
    def on_block(self, listener: OnBlock) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def stopped(self) -> None: ...
    async def wait_height(self, height: int) -> None: ...
    async def submit(self, tx: bytes) -> abci.CheckTxResponse: ...
    def dropped(self, identity: bytes) -> Dropped | None: ...


class HeightWaiters:
    """Those who wait for a height."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], int] = {}

    async def wait(self, height: int) -> None:
        """Returns when `reached` is told a height so great. Raises what `fail` is told. Cancelling is fine."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = height
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    def reached(self, height: int) -> None:
        for waiter, wanted in list(self._waiting.items()):
            if wanted <= height and not waiter.done():
                waiter.set_result(None)

    def fail(self, reason: str) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(EngineStopped("the engine has stopped", reason=reason))


class PublishedBlocks(ABC):
    """What both engines have of their blocks: reading them, those who wait for the next, and the store's log written back beside it all."""

    def __init__(self, blocks: BlockStore, store: Store) -> None:
        self._blocks = blocks
        self._store = store
        self._heights = HeightWaiters()
        self._listeners: list[OnBlock] = []
        self._checkpoint: asyncio.Task[None] | None = None
        self._stopped: asyncio.Future[None] | None = None

    @property
    def height(self) -> int:
        """The last published block's height; 0 before the first."""
        return self._blocks.position.height

    @property
    def base(self) -> int:
        """The lowest height whose block is kept."""
        return self._blocks.position.base

    def block(self, height: int) -> Decided:
        """Raises NoSuchBlock."""
        return self._blocks.load(height)

    def signed_header(self, height: int) -> SignedHeader:
        """Raises NoSuchBlock."""
        return self.block(height).signed_block.signed_header

    def signed_block(self, height: int) -> SignedBlock:
        """What receipts carry of a block. Raises NoSuchBlock."""
        return self.block(height).signed_block

    def validators(self, height: int) -> Sequence[Validator]:
        """Raises NoSuchBlock."""
        return self.block(height).validators

    def results(self, height: int) -> Sequence[abci.ExecTxResult]:
        """Raises NoSuchBlock."""
        return self.block(height).results

    async def wait_height(self, height: int) -> None:
        """Returns when block `height` is published. Raises EngineStopped. Cancelling is fine."""
        if self.height >= height:
            return
        self._check_running()
        await self._heights.wait(height)

    def on_block(self, listener: OnBlock) -> None:
        """Call `listener` with each block once it is published, in order, on the loop's thread. It must not raise."""
        self._listeners.append(listener)

    async def stopped(self) -> None:
        """Returns when the engine was stopped; raises the error that stopped it."""
        if self._stopped is None:
            raise EngineStopped("the engine was never started")
        await asyncio.shield(self._stopped)

    @abstractmethod
    def _check_running(self) -> None:
        """Raises EngineStopped."""

    def _tell(self, blocks: Sequence[Decided]) -> None:
        """These are durable now, in order: everyone who waits for one hears of it."""
        self._heights.reached(blocks[-1].height)
        for listener in self._listeners:
            for block in blocks:
                listener(block)
        self._write_back()

    def _write_back(self) -> None:
        """Keep the log short without making a block wait for it. Raises what the last time raised: a disk that failed there."""
        store = self._store
        if not isinstance(store, SqliteStore) or not store.checkpoint_due:
            return
        if self._checkpoint is not None and self._checkpoint.done():
            self._checkpoint.result()
            self._checkpoint = None
        if self._checkpoint is None:
            self._checkpoint = asyncio.get_running_loop().create_task(asyncio.to_thread(store.checkpoint))

    async def _written_back(self) -> None:
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint])
