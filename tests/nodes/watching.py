"""A watcher beside a network of tests/nodes/optimistic.py."""

import contextlib

from avow.nodes.chain_client import ChainClient
from avow.nodes.watcher.gateways import Gateways
from avow.nodes.watcher.journal import Journal
from avow.nodes.watcher.programs import Programs
from avow.nodes.watcher.settlements import Settlements
from avow.nodes.watcher.watcher import Watcher


@contextlib.asynccontextmanager
async def watcher_of(network, *, key=None, home=None, rate_ppm=1_000_000, gateways=None, journal=None, watcher=Watcher):
    """A watcher that is not running yet; its `journal` and `changes` are at hand."""
    home = home or network.home
    changes = []
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(ChainClient(network.url, key or network.watcher))
        chain_id = (await client.network()).chain_id
        asked = await stack.enter_async_context(
            Gateways(gateways or [network.gateway], key or network.watcher, chain_id)
        )
        programs = Programs(home)
        stack.callback(programs.close)
        kept = stack.enter_context(Journal(journal or home / "watcher" / "journal.db", chain_id))
        made = watcher(
            Settlements(client, chain_id), asked, programs, kept, rate_ppm=rate_ppm, on_change=changes.append
        )
        made.journal, made.changes, made.client = kept, changes, client
        yield made
