"""The distributed engine: our application under CometBFT, seen as an `Engine`.

Rules:
1. The application is ours and lives in this process; CometBFT is a child process (process.py) that asks it over a Unix socket
   (server.py) and is asked over its RPC for what only it has: commits and validator sets.
2. A block is published here once its header and commit are durable beside its results. CometBFT is asked for them as soon as the
   block is executed: they are often here when the application commits, else a few milliseconds later. What comes from CometBFT's
   RPC must fit what the application was asked to execute: the header's hash, the commit's block, the hash of the validator set.
3. `submit` returns when the transaction is durable in our own pool or in a block; then it is offered to CometBFT, and offered again
   after every restart of CometBFT and as long as it waits.
4. An error of the application's or of the store stops the engine; CometBFT is ended with it. The supervisor starts the process
   anew.
5. Liveness is judged by height alone: `silent_s` says since when no block came.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avow.chain import abci
from avow.chain.genesis import Genesis
from avow.chain.state import Store
from avow.consensus.block import Decided
from avow.consensus.blockstore import Executed
from avow.consensus.cometbft.binary import Binary
from avow.consensus.cometbft.bundle import encode_bundles
from avow.consensus.cometbft.configuration import Folder, empty_block_ms, read_config
from avow.consensus.cometbft.driver import Driver, Snapshots
from avow.consensus.cometbft.errors import RpcFailed
from avow.consensus.cometbft.process import CometProcess
from avow.consensus.cometbft.rpc import CallRefused, CometRpc
from avow.consensus.cometbft.server import AbciServer
from avow.consensus.engine import PublishedBlocks
from avow.consensus.errors import EngineStopped, StateMismatch
from avow.consensus.home import Lock
from avow.consensus.machine import Index, no_index
from avow.consensus.pool import Dropped
from avow.receipt.headers import (
    Commit,
    Header,
    Validator,
    validators_hash,
)

log = logging.getLogger(__name__)

PUBLISH_AT_ONCE = 64
OFFER_AT_ONCE = 4_096
OFFER_SPACING_S = 0.07
"""Bundles are so far apart: the first transaction goes at once, those that follow share the next bundle. A bundle costs each
validator a message to every peer and a check, whatever it holds.
"""
OFFER_HOLD_S = 0.2
"""While a proposal that we voted for becomes a block, no other is made, and what comes waits and shares a bundle, for so long at most."""
OFFER_AGAIN_S = 5.0
_RETRY_S = 0.05
_LONGEST_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Early:
    """A block's header and commit, asked for before it is committed."""

    height: int
    task: asyncio.Task[list[tuple[Header, Commit]]]

    @property
    def ready(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None


class CometBFTEngine(PublishedBlocks):
    """Make it, `start` it, `stop` it; not to be started twice."""

    def __init__(
        self,
        application: abci.Application,
        store: Store,
        genesis: Genesis,
        folder: Folder,
        binary: Binary,
        *,
        snapshots: Snapshots | None = None,
        lock_path: Path | None = None,
        index: Index = no_index,
    ) -> None:
        """`folder` is written already (configuration.py). Raises AlreadyRunning, StateMismatch, BadConfiguration."""
        self._lock = None if lock_path is None else Lock(lock_path)
        try:
            configured = read_config(folder)
            self._driver = Driver(
                application,
                store,
                genesis,
                snapshots=snapshots,
                on_accepted=self._accepted,
                on_finalized=self._finalized,
                on_commit=self._committed,
                decided=self._decided_early,
                index=index,
            )
        except BaseException:
            self._release()
            raise
        super().__init__(self._driver.blocks, store)
        self._genesis = genesis
        self._index = index
        self._offers = configured.mempool_type == "flood"
        options = ["--proxy_app", f"unix://{folder.abci_socket}", "--abci", "socket"]
        if self._offers:
            options += [
                "--consensus.create_empty_blocks=false",
                f"--consensus.create_empty_blocks_interval={empty_block_ms(genesis)}ms",
            ]
        self.process = CometProcess(binary, folder, options)
        self.rpc = CometRpc(f"unix://{folder.rpc_socket}")
        self._server = AbciServer(
            folder.abci_socket, self._driver.answer, on_fault=self._fault, on_connections=self._connections
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._new_block = asyncio.Event()
        self._new_offer = asyncio.Event()
        self._to_offer: dict[bytes, None] = {}
        self._may_offer = asyncio.Event()
        self._may_offer.set()
        self._hold: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._next_flush: asyncio.Task[None] | None = None
        self._early: _Early | None = None
        self._known: tuple[bytes, tuple[Validator, ...]] = (b"", ())
        self._unacknowledged: dict[bytes, None] = {}
        self._stopping = False
        self._last_block_at = 0.0

    # --- Life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to serve and to publish; returns when there is a block: at once for a chain that has some."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        self._last_block_at = loop.time()
        await self._server.start()
        for work in (self.process.keep(), self._publish(), self._offer(), self._offer_again()):
            task = loop.create_task(work)
            task.add_done_callback(self._ended)
            self._tasks.append(task)
        self._new_block.set()
        self._connections(0)
        if not self._has_block:
            await self.wait_height(self.height + 1)

    @property
    def _has_block(self) -> bool:
        position = self._driver.blocks.position
        return position.height >= position.base

    async def stop(self) -> None:
        """CometBFT first, so that it is never without its application; then the rest."""
        self._stopping = True
        await self.process.stop()
        for task in self._tasks:
            task.cancel()
        early = [] if self._early is None else [self._early.task]
        flushes = [task for task in (self._flushing, self._next_flush) if task is not None]
        await asyncio.gather(*self._tasks, *early, *flushes, return_exceptions=True)
        await self._server.stop()
        await self.rpc.close()
        await self._written_back()
        self._finish(None)
        self._release()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._finish(error)

    def _fault(self, error: Exception) -> None:
        """Rule 4."""
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        if self._stopped is not None and not self._stopped.done():
            if error is None:
                self._stopped.set_result(None)
            else:
                self._stopped.set_exception(error)
                self._stopped.exception()  # seen: who calls `stopped` gets it, nobody else must
        self._heights.fail("" if error is None else type(error).__name__)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _connections(self, count: int) -> None:
        self.process.connections(count)
        if count:
            self._to_offer = dict.fromkeys([digest for digest, _ in self._driver.pool])
            self._new_offer.set()

    def _check_running(self) -> None:
        if self._stopped is None or self._stopping or self._stopped.done():
            raise EngineStopped("the engine does not run")

    @property
    def waiting(self) -> int:
        return len(self._driver.pool)

    @property
    def silent_s(self) -> float:
        """Seconds since the last block was committed here (or since the start)."""
        return asyncio.get_running_loop().time() - self._last_block_at

    # --- Submitting -------------------------------------------------------------------------------------------------

    async def submit(self, tx: bytes) -> abci.CheckTxResponse:
        """Rule 3. Raises PoolFull, TransactionTooLarge, EngineStopped."""
        self._check_running()
        digest, response = self._driver.accept(tx)
        if response.code != abci.CODE_OK:
            return response
        self._unacknowledged[digest] = None
        self._to_offer[digest] = None
        self._new_offer.set()
        if self._next_flush is None:
            self._next_flush = asyncio.get_running_loop().create_task(self._flush(self._flushing))
        await asyncio.shield(self._next_flush)
        return response

    def dropped(self, identity: bytes) -> Dropped | None:
        """Why a transaction that was taken is in no block and waits no more here (pool.py, rule 3)."""
        return self._driver.pool.dropped(identity)

    async def _flush(self, before: asyncio.Task[None] | None) -> None:
        """Everyone who handed something in during this turn of the loop, or while the flush before it went on, shares one."""
        await asyncio.sleep(0)
        if before is not None:
            await asyncio.wait([before])
        digests, self._unacknowledged = self._unacknowledged, {}
        self._flushing, self._next_flush = self._next_flush, None
        try:
            self._driver.store_waiting(digests)
            await asyncio.to_thread(self._store.flush)
        except Exception as error:
            self._fault(error)
            raise

    async def _offer(self) -> None:
        """Hand what waits to CometBFT in bundles, which it gossips, and which wake the chain."""
        retry_s = _RETRY_S
        while True:
            await self._new_offer.wait()
            self._new_offer.clear()
            while self._offers and self._to_offer:
                await self._may_offer.wait()
                next_s = asyncio.get_running_loop().time() + OFFER_SPACING_S
                digests = list(self._to_offer)[:OFFER_AT_ONCE]
                waiting = [tx for digest in digests if (tx := self._driver.pool.get(digest)) is not None]
                try:
                    answers = await self.rpc.broadcast(list(encode_bundles(waiting))) if waiting else []
                except RpcFailed:
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                    continue
                retry_s = _RETRY_S
                for digest in digests:
                    self._to_offer.pop(digest, None)
                refused = [answer for answer in answers if isinstance(answer, CallRefused)]
                if refused:
                    log.debug("%d items are not taken now: %s", len(refused), refused[0].fields)
                await asyncio.sleep(max(0.0, next_s - asyncio.get_running_loop().time()))

    async def _offer_again(self) -> None:
        """What waited through a whole pause may have been lost on the way."""
        before: set[bytes] = set()
        while True:
            await asyncio.sleep(OFFER_AGAIN_S)
            waiting = dict.fromkeys([digest for digest, _ in self._driver.pool])
            late = [digest for digest in waiting if digest in before]
            before = set(waiting)
            if late:
                self._to_offer |= dict.fromkeys(late)
                self._new_offer.set()
                self._driver.reap_again()

    # --- Blocks -----------------------------------------------------------------------------------------------------

    def _accepted(self) -> None:
        self._may_offer.clear()
        self._release_offers(asyncio.get_running_loop().call_later(OFFER_HOLD_S, self._may_offer.set))

    def _release_offers(self, hold: asyncio.TimerHandle | None) -> None:
        if self._hold is not None:
            self._hold.cancel()
        self._hold = hold
        if hold is None:
            self._may_offer.set()

    def _finalized(self, height: int) -> None:
        """CometBFT keeps header and commit of what it has decided: ask while it goes on to Commit."""
        self._release_offers(None)
        if height == self.height + 1 and (self._early is None or self._early.task.done()):
            self._early = _Early(height, asyncio.get_running_loop().create_task(self.rpc.signed_headers([height])))

    def _decided_early(self, executed: Executed) -> Decided | None:
        """The block that is being committed, if all of it is here."""
        early = self._early
        if early is None or early.height != executed.height or executed.height != self.height + 1 or not early.ready:
            return None
        ((header, commit),) = early.task.result()
        validators = self._known_set(header.validators_hash)
        return None if validators is None else _decided(header, commit, validators, executed)

    def _committed(self, height: int) -> None:
        self._last_block_at = asyncio.get_running_loop().time()
        if height == self.height:
            self._tell([self.block(height)])
        else:
            self._new_block.set()

    async def _publish(self) -> None:
        """Rule 2, for every block that the application committed."""
        retry_s = _RETRY_S
        while True:
            await self._new_block.wait()
            self._new_block.clear()
            while self.height < self._store.committed.height:
                first = self.height + 1
                heights = range(first, min(first + PUBLISH_AT_ONCE, self._store.committed.height + 1))
                try:
                    blocks = await self._fetch(heights)
                except RpcFailed:
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                    continue
                retry_s = _RETRY_S
                self._append(blocks)

    async def _fetch(self, heights: Sequence[int]) -> list[Decided]:
        blocks: list[Decided] = []
        for height, (header, commit) in zip(heights, await self._signed_headers(heights), strict=True):
            validators = self._known_set(header.validators_hash)
            if validators is None:
                validators = await self.rpc.validators(height)
                self._known = (header.validators_hash, validators)
            blocks.append(_decided(header, commit, validators, self._driver.blocks.executed(height)))
        return blocks

    async def _signed_headers(self, heights: Sequence[int]) -> list[tuple[Header, Commit]]:
        """What was asked for already is not asked for again."""
        early = self._early
        if early is not None and list(heights) == [early.height]:
            with contextlib.suppress(RpcFailed):
                return await early.task
        return await self.rpc.signed_headers(heights)

    def _known_set(self, set_hash: bytes) -> tuple[Validator, ...] | None:
        """The validators with this hash, as far as they were met."""
        if self._known[0] != set_hash:
            found = self._driver.blocks.validators(set_hash)
            if found is None:
                return None
            self._known = (set_hash, found)
        return self._known[1]

    def _append(self, blocks: Sequence[Decided]) -> None:
        retain = self._genesis.retain_blocks
        last = blocks[-1].height
        with self._store.transaction():
            self._driver.blocks.append_executed(blocks, retain_height=max(0, last - retain) if retain else 0)
            self._store.put_records([record for block in blocks for record in self._index(block)])
        self._tell(blocks)

    async def status(self) -> dict[str, Any]:
        """What CometBFT says of itself, and we of it; empty where it does not answer."""
        with contextlib.suppress(RpcFailed):
            return await self.rpc.status()
        return {}


def _decided(header: Header, commit: Commit, validators: tuple[Validator, ...], executed: Executed) -> Decided:
    """Raises StateMismatch when CometBFT and the application speak of different blocks."""
    fits = (
        header.height == commit.height == executed.height
        and header.hash == commit.block_id.hash == executed.hash
        and validators_hash(validators) == header.validators_hash
    )
    if not fits:
        raise StateMismatch("CometBFT's block is not the one that was executed", height=executed.height)
    return Decided(header, commit, executed.txs, executed.results, executed.app_hash, validators)
