"""The watcher put together, as a process of its own or under `avow up`.

HOME holds its account (watcher/key), its journal (watcher/journal.db) and the programs that it can run again (models/).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from avow.home import private_folder
from avow.nodes.chain_client import ChainClient, ChainRejected, ChainUnavailable, Network
from avow.nodes.gateway.account import account_key
from avow.nodes.headers import header_trust
from avow.nodes.watcher.gateways import Gateways
from avow.nodes.watcher.journal import Case, Journal
from avow.nodes.watcher.programs import Programs
from avow.nodes.watcher.settlements import Settlements
from avow.nodes.watcher.watcher import Watcher
from avow.receipt.finality import OptimisticParameters

log = logging.getLogger(__name__)

FOLDER = "watcher"
KEY = "key"
JOURNAL = "journal.db"

OnChange = Callable[[Case], None]


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """`chain`: JSON-RPC URLs, separated by commas. `rate_ppm` None: the network's. `key` and `journal` None: HOME's own."""

    home: Path
    chain: str
    gateways: tuple[str, ...]
    rate_ppm: int | None = None
    key: bytes | None = None
    journal: Path | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Watching:
    """A watcher that is ready to run. `balance` in wei; `appointed`: whether the network's audience includes it by default."""

    watcher: Watcher
    journal: Journal
    chain_id: str
    address: bytes
    balance: int
    parameters: OptimisticParameters

    @property
    def appointed(self) -> bool:
        return self.address in self.parameters.watchers


def journal_file(home: Path) -> Path:
    return home / FOLDER / JOURNAL


def watcher_key(home: Path) -> bytes:
    """The account of a home's watcher, made when it is not there yet."""
    return account_key(private_folder(home / FOLDER) / KEY)


@contextlib.asynccontextmanager
async def watching(config: WatchConfig, on_change: OnChange) -> AsyncIterator[Watching]:
    """Raises ChainUnavailable, OtherNetwork, JournalBusy, OtherJournal."""
    key = config.key or watcher_key(config.home)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(ChainClient(config.chain, key))
        network = await _network(client, config.chain)
        gateways = await stack.enter_async_context(Gateways(config.gateways, key, network.chain_id))
        for url in await gateways.check():
            log.warning("the gateway %s does not answer: what it does not show is demanded on chain in time", url)
        programs = Programs(config.home, threads=config.threads)
        stack.callback(programs.close)
        journal = stack.enter_context(Journal(config.journal or journal_file(config.home), network.chain_id))
        now_ms = time.time_ns() // 1_000_000
        headers = header_trust(
            config.home, config.chain, network.chain_id, given=None, now_ms=now_ms, name="watcher/headers"
        )
        settlements = Settlements(client, network.chain_id, headers)
        parameters = (await settlements.rules()).parameters
        watcher = Watcher(settlements, gateways, programs, journal, rate_ppm=config.rate_ppm, on_change=on_change)
        balance = await settlements.balance()
        if balance < parameters.challenge_bond + parameters.demand_bond:
            log.warning(
                "the account 0x%s holds %d wei and cannot pay a bond: what it finds is not challenged until it holds more than %d",
                *(client.address.hex(), balance, parameters.challenge_bond + parameters.demand_bond),
            )
        yield Watching(watcher, journal, network.chain_id, client.address, balance, parameters)


async def _network(client: ChainClient, chain: str) -> Network:
    """Raises ChainUnavailable, which says what to do."""
    hint = "start it (`avow up`), or name its JSON-RPC address with --chain"
    try:
        return await client.network()
    except ChainRejected as error:
        raise ChainUnavailable(f"what answers there is no chain: {error.detail}", hint=hint, chain=chain) from error
    except ChainUnavailable as error:
        raise ChainUnavailable(error.detail, hint=hint, **{"chain": chain, **error.fields}) from error


async def until_over(watcher: Watcher, stop: asyncio.Event, *, once: bool) -> None:
    """Run until `stop`, or with `once` until there is nothing left to do; raises what ends it."""
    working = asyncio.create_task(watcher.drain() if once else watcher.run(), name="watching")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
