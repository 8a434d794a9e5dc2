"""What the RPC methods stand on: engine, application and index of one process, on one event loop.

Rules:
1. All of it is read on the engine's own thread, between blocks: what one call reads belongs together.
2. A proof from the state needs the header that comes after it. It is taken at the committed state, and waits for that header:
   the last block's when nothing changed since, else that of the height after the committed one.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from avow.chain.application import Application
from avow.chain.errors import TransactionRefused
from avow.chain.genesis import Genesis
from avow.chain.state import Store
from avow.chain.transaction import Transaction, transaction_hash
from avow.chain.views import BlockView, Executed
from avow.consensus.block import Decided
from avow.consensus.engine import Engine
from avow.consensus.pool import Dropped
from avow.errors import Unavailable
from avow.nodes.rpc.index import Index
from avow.receipt.headers import SignedBlock

MAX_PENDING = 4_096
PROOF_TIMEOUT_S = 10.0

T = TypeVar("T")


@dataclass
class ChainNode:
    """One chain process, as its RPC methods see it."""

    engine: Engine
    application: Application
    store: Store
    genesis: Genesis
    clock_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)

    def __post_init__(self) -> None:
        self.index = Index(self.store)
        self._pending: dict[bytes, bytes] = {}

    # --- Blocks -----------------------------------------------------------------------------------------------------

    def view(self, block: Decided) -> BlockView:
        executed = []
        for raw, result in zip(block.txs, block.results, strict=True):
            executed.append(Executed(transaction_hash(raw), raw, self.decode(raw), result))
        return BlockView(self.genesis, block.header, block.app_hash, tuple(executed))

    def decode(self, raw: bytes) -> Transaction | None:
        try:
            return self.application.decode(raw)
        except TransactionRefused:
            return None

    def next_block_ms(self) -> int:
        """The time that a block made now would have."""
        last_ms = self.engine.block(self.engine.height).header.time_ns // 1_000_000
        return max(self.clock_ms(), last_ms + 1)

    # --- Transactions -----------------------------------------------------------------------------------------------

    def remember(self, digest: bytes, raw: bytes) -> None:
        """Keep what was submitted, so that it can be shown while it waits."""
        while len(self._pending) >= MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
        self._pending[digest] = raw

    def waiting(self, digest: bytes) -> Transaction | None:
        if self.dropped(digest) is not None:
            self._pending.pop(digest, None)
        raw = self._pending.get(digest)
        return None if raw is None else self.decode(raw)

    def dropped(self, digest: bytes) -> Dropped | None:
        """Why a transaction that was submitted here will come into no block from here; None for what waits, or is in one."""
        return None if self.found(digest) is not None else self.engine.dropped(digest)

    def found(self, digest: bytes) -> tuple[int, int] | None:
        """Height and place of a transaction that is in a block."""
        place = self.index.transaction(digest)
        if place is not None:
            self._pending.pop(digest, None)
        return place

    async def wait_found(self, digest: bytes, timeout_s: float) -> tuple[int, int] | None:
        """The same, waiting for it; None when the time is over, or it was dropped."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (place := self.found(digest)) is None:
            if self.engine.dropped(digest) is not None:
                return None
            if not await self.wait_height(self.engine.height + 1, deadline - asyncio.get_running_loop().time()):
                return None
        return place

    async def wait_height(self, height: int, timeout_s: float) -> bool:
        """Whether the chain reached `height` in time."""
        if self.engine.height >= height:
            return True
        if timeout_s <= 0:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self.engine.wait_height(height)
        except TimeoutError:
            return False
        return True

    # --- Proofs -----------------------------------------------------------------------------------------------------

    async def proven(self, read: Callable[[], T]) -> tuple[T, SignedBlock]:
        """Rule 2: what `read` gives of the committed state, and the signed block whose app hash is that state's.

        Raises Unavailable.
        """
        committed = self.store.committed
        value = read()
        height = self.engine.height
        if self.engine.block(height).header.app_hash != committed.app_hash:
            height = committed.height + 1
            if not await self.wait_height(height, PROOF_TIMEOUT_S):
                raise Unavailable("the block that proves the state does not come")
        block = self.engine.signed_block(height)
        if block.header.app_hash != committed.app_hash:
            raise Unavailable("the next block does not prove the state")
        return value, block
