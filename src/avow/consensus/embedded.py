"""The embedded engine: one process that orders transactions by itself, blocks on demand.

Rules:
1. A transaction makes a block at once, if the last one is `spacing_ms` old; else as soon as it is. The proof of what a
   block did follows after the same spacing. With nothing to do, a heartbeat makes an empty block.
2. `submit` returns when the transaction is durable: in the pool, or already in a block. Whoever waits at the same moment
   shares one flush to disk.
3. Blocks are made on the event loop's thread; only writing the log back to the database runs beside it.
4. An error while making a block stops the engine: `stopped` then holds it, and everyone who waits gets EngineStopped.
   The supervisor starts the process anew; the chain continues where it is durable.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain import abci
from avow.chain.genesis import Genesis
from avow.chain.state import Store
from avow.consensus.engine import PublishedBlocks
from avow.consensus.errors import EngineStopped
from avow.consensus.home import Lock
from avow.consensus.machine import Index, Machine, no_index, no_probe
from avow.consensus.pool import Dropped

SPACING_MS = 50


class EmbeddedEngine(PublishedBlocks):
    """Orders and executes transactions on one application. Make it, `start` it, `stop` it; not to be started twice."""

    def __init__(
        self,
        application: abci.Application,
        store: Store,
        genesis: Genesis,
        key: Ed25519PrivateKey,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        spacing_ms: int = SPACING_MS,
        heartbeat_ms: int | None = None,
        lock_path: Path | None = None,
        index: Index = no_index,
        probe: Callable[[str], None] = no_probe,
    ) -> None:
        """`store` is the application's own. `heartbeat_ms` is genesis's unless given.

        Raises AlreadyRunning, StateMismatch, NotTheValidator.
        """
        self._lock = None if lock_path is None else Lock(lock_path)
        try:
            self._machine = Machine(application, store, genesis, key, clock_ns, index=index, probe=probe)
        except BaseException:
            self._release()
            raise
        super().__init__(self._machine.blocks, store)
        self._spacing = spacing_ms / 1000
        self._heartbeat = (genesis.heartbeat_ms if heartbeat_ms is None else heartbeat_ms) / 1000
        self._wake = asyncio.Event()
        self._unacknowledged: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._idle_pool = False
        self._last_block_at = 0.0

    # Life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin making blocks; returns when what was durable before (genesis at least) is proven by a block."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        self._last_block_at = loop.time() - self._spacing
        self._task = loop.create_task(self._run(), name="embedded engine")
        if self._machine.proof_due:
            await self.wait_height(self.height + 1)

    async def stop(self) -> None:
        """Finish the block in progress, make the pool durable, give back the lock."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._written_back()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    @property
    def waiting(self) -> int:
        """Transactions in the pool."""
        return len(self._machine.pool)

    # Submitting ----------------------------------------------------------------------------------------------------

    async def submit(self, tx: bytes) -> abci.CheckTxResponse:
        """Rule 2. A code other than 0 is the application's refusal; nothing was kept then.

        Raises PoolFull, TransactionTooLarge, EngineStopped. After EngineStopped it is open whether the transaction is in
        the chain: submit it again, the application refuses what it has.
        """
        self._check_running()
        _, response = self._machine.check(tx)
        if response.code != abci.CODE_OK:
            return response
        self._idle_pool = False
        durable = asyncio.get_running_loop().create_future()
        self._unacknowledged.append(durable)
        self._wake.set()
        await durable
        return response

    def dropped(self, identity: bytes) -> Dropped | None:
        """Why a transaction that was taken is in no block and waits no more (pool.py, rule 3)."""
        return self._machine.pool.dropped(identity)

    def _check_running(self) -> None:
        if self._task is None or self._stopping or self._task.done():
            raise EngineStopped("the engine does not run")

    # The loop ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        assert self._stopped is not None
        try:
            while not self._stopping:
                await self._turn()
            self._machine.store_pool()
            self._acknowledge()
        except asyncio.CancelledError as error:
            self._fail(error)
            self._stopped.cancel()
            raise
        except BaseException as error:
            self._fail(error)
            self._stopped.set_exception(error)
            self._stopped.exception()  # seen: who calls `stopped` gets it, nobody else must
            if not isinstance(error, Exception):
                raise
        else:
            self._fail(None)
            self._stopped.set_result(None)

    async def _turn(self) -> None:
        """One decision: make a block, flush the pool, or wait for a reason."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        since = now - self._last_block_at
        heartbeat = since >= self._heartbeat
        wanted = heartbeat or self._machine.proof_due or (len(self._machine.pool) > 0 and not self._idle_pool)
        if wanted and since >= self._spacing:
            self._make_block(even_empty=heartbeat)
            await asyncio.sleep(0)
        elif self._unacknowledged:
            self._machine.store_pool()
            self._acknowledge()
            await asyncio.sleep(0)
        else:
            self._wake.clear()
            delay = (self._spacing if wanted else self._heartbeat) - since
            timer = loop.call_later(max(delay, 0), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    def _make_block(self, *, even_empty: bool) -> None:
        block = self._machine.step(even_empty=even_empty)
        if block is None:
            self._idle_pool = True  # the application holds all of it back: ask again when something changes
            return
        self._idle_pool = False
        self._last_block_at = asyncio.get_running_loop().time()
        self._acknowledge()
        self._tell((block,))

    def _acknowledge(self) -> None:
        """Everything that waited is durable: every caller of `submit` may go on."""
        waiters, self._unacknowledged = self._unacknowledged, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _fail(self, error: BaseException | None) -> None:
        """Tell everyone who still waits that nothing more comes."""
        reason = "" if error is None else type(error).__name__
        for waiter in self._unacknowledged:
            if not waiter.done():
                waiter.set_exception(EngineStopped("the engine has stopped", reason=reason))
        self._heights.fail(reason)
        self._unacknowledged.clear()
