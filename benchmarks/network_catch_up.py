"""How fast a validator catches up: one that was down, a new one from the first block, a new one from a snapshot.

Four validators on one machine. One is stopped; the others make some hundred blocks of transfers; then it returns. Then two nodes join, one
after another. Time counts from the start of a process until it has the height that the network had then; what it takes to begin
(interpreter, CometBFT, the search for peers and snapshots) stands beside the rate from its first new block to its last.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avow.errors import AvowError
from avow.nodes.chain_client import ChainClient
from avow.nodes.net import control, grow
from benchmarks.load_generator import Network, avow_network, drive, require_cometbft, spread, transfers
from benchmarks.report import Benchmark, main

VALIDATORS = 4
STOPPED = 3
TRANSFERS = 6_000
BATCH = 10
PAUSE_S = 0.15
SNAPSHOT_INTERVAL = 20
POLL_S = 0.02
LIMIT_S = 180.0


@dataclass(slots=True)
class CaughtUp:
    """Seconds from the start to its first new block, from there to the network's height, and how many blocks that was."""

    begin_s: float
    catch_up_s: float
    blocks: int


async def height(client: ChainClient) -> int:
    """0 while it does not answer."""
    with contextlib.suppress(AvowError):
        found: dict[str, Any] = await client.rpc("avow_status")
        return int(found["height"])
    return 0


async def follow(port: int, target: int, before: int, started: float) -> CaughtUp:
    """Until the node at `port` has height `target`; it had `before`."""
    first: tuple[float, int] | None = None
    async with ChainClient(f"http://127.0.0.1:{port}", timeout_s=2.0) as client:
        while True:
            now = time.perf_counter()
            at = await height(client)
            if first is None and at > before:
                first = (now, at)
            if at >= target:
                begun, begun_at = first or (now, at)
                return CaughtUp(begun - started, now - begun, at - begun_at)
            if now - started > LIMIT_S:
                raise SystemExit(f"the node is at height {at} and not at {target} after {LIMIT_S:g} s")
            await asyncio.sleep(POLL_S)


async def joined(network: Network, start: Callable[[], Awaitable[int]], before: int) -> tuple[CaughtUp, int]:
    """Start a node, whose RPC port `start` gives, and wait until it is where the network was; that height too."""
    async with ChainClient(f"http://127.0.0.1:{network.places[0].rpc_port}") as first:
        target = await height(first)
    started = time.perf_counter()
    port = await start()
    return await follow(port, target, before, started), target


def show(benchmark: Benchmark, name: str, found: CaughtUp, txs_per_block: float) -> None:
    rate = found.blocks / found.catch_up_s if found.catch_up_s else 0.0
    benchmark.add(f"{name}: blocks", rate, "blocks/s")
    benchmark.add(f"{name}: transfers", rate * txs_per_block, "tx/s")
    benchmark.add(f"{name}: start to first block", found.begin_s, "s")
    benchmark.add(f"{name}: start to the network's height", found.begin_s + found.catch_up_s, "s")


async def measure(home: Path, benchmark: Benchmark) -> None:
    async with avow_network(home, VALIDATORS, snapshot_interval=SNAPSHOT_INTERVAL) as network:
        place = network.places[STOPPED]
        async with ChainClient(f"http://127.0.0.1:{place.rpc_port}") as client:
            missed_from = await height(client)
        await control.ask(home, "stop", validator=place.name)
        running = Network(
            network.places[:STOPPED], network.method, network.ports[:STOPPED], network.genesis, list, network.net
        )
        work = spread(running, transfers(network.genesis.eip155, TRANSFERS), BATCH)
        made = await drive(running, work, outstanding=TRANSFERS, pause_s=PAUSE_S)
        txs_per_block = made.count / len(made.blocks)

        async def returns() -> int:
            await control.ask(home, "start", validator=place.name)
            return place.rpc_port

        async def joins() -> int:
            return (await grow.add_node(home)).rpc_port

        async def joins_from_snapshot() -> int:
            return (await grow.add_node(home, from_snapshot=True)).rpc_port

        found, target = await joined(network, returns, missed_from)
        benchmark.add("blocks missed", target - missed_from, "blocks")
        benchmark.add("transfers in a block", txs_per_block, "tx")
        show(benchmark, "a validator that was down", found, txs_per_block)
        found, _ = await joined(network, joins, 0)
        show(benchmark, "a new node, from the first block", found, txs_per_block)
        found, _ = await joined(network, joins_from_snapshot, 0)
        benchmark.add(
            "a new node, from a snapshot: start to the network's height", found.begin_s + found.catch_up_s, "s"
        )


def run() -> Benchmark:
    require_cometbft()
    title = f"Catching up with {VALIDATORS} validators on one machine"
    benchmark = Benchmark("network_catch_up", title)
    with tempfile.TemporaryDirectory(prefix="avow-net-") as name:
        asyncio.run(measure(Path(name) / "net", benchmark))
    return benchmark


if __name__ == "__main__":
    main(run)
