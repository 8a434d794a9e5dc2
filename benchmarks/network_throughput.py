"""Transfers a second, block time and time to finality at 1, 4 and 7 validators on one machine, beside CometBFT's own kvstore.

Three networks for each size, one after another, by one load generator (load_generator.py), 250 bytes a transaction:
  kvstore   CometBFT with the application that is built into it, in its own process and in memory: the ceiling of this machine
  ours      transactions to the chain processes' JSON-RPC (eth_sendRawTransaction), which gossip them in bundles
  by CometBFT's RPC   ours, by the very requests that the kvstore gets (broadcast_tx_async), each gossiped by itself
All processes share the machine, so every figure is CPU: the CPU of one transaction on one validator, its chain process and its CometBFT,
stands beside the rate. NETWORK_SIZES ("1,4,7") is read from the environment.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from benchmarks.load_generator import (
    SIZE,
    Network,
    Run,
    avow_network,
    drive,
    kvstore_network,
    pairs,
    require_cometbft,
    spread,
    transfers,
)
from benchmarks.report import Benchmark, main

SIZES = tuple(int(item) for item in os.environ.get("NETWORK_SIZES", "1,4,7").split(","))
COUNTS = {1: 8_000, 4: 6_000, 7: 4_000}
KVSTORE_MORE = 2
"""It is faster, so it gets so many times as much: a few seconds for each."""
BATCH = 50
OUTSTANDING = 3_000
LIGHT, LIGHT_PAUSE_S = 30, 0.15
SHARE = 50
"""Per cent of the kvstore's rate that ours is to reach."""


async def light_and_full(network: Network, txs: Sequence[bytes]) -> tuple[Run, Run]:
    """One transaction at a time with pauses; then as many as go."""
    await asyncio.sleep(1)
    one = spread(network, txs[:LIGHT], 1)
    few = await drive(
        network, [[post for posts in one for post in posts]], outstanding=OUTSTANDING, pause_s=LIGHT_PAUSE_S
    )
    return few, await drive(network, spread(network, txs[LIGHT:], BATCH), outstanding=OUTSTANDING)


async def measure(
    make: Callable[[Path], AbstractAsyncContextManager[Network]], count: int, *, ours: bool
) -> tuple[Run, Run]:
    with tempfile.TemporaryDirectory(prefix="avow-net-") as name:
        async with make(Path(name) / "net") as network:
            made = LIGHT + count
            txs = transfers(network.genesis.eip155, made) if ours else pairs(made)
            return await light_and_full(network, txs)


def cpu_us(run: Run, validators: int) -> tuple[float, float]:
    """Of one transaction on one validator: the chain process, CometBFT."""
    each = run.count * validators / 1e6
    return run.chain_cpu_s / each, run.comet_cpu_s / each


def show(benchmark: Benchmark, name: str, validators: int, light: Run, full: Run, peer: Run | None) -> None:
    at = f"{validators} validators, {name}:" if validators > 1 else f"1 validator, {name}:"
    if peer is None:
        benchmark.add(f"{at} rate", full.rate, "tx/s")
    else:
        ratio = full.rate / peer.rate
        benchmark.add(f"{at} rate", full.rate, "tx/s", peer="kvstore", ratio=ratio)
    benchmark.add(f"{at} submit to final, single, p50", light.final_ms(0.5), "ms")
    benchmark.add(f"{at} submit to final, full load, p50", full.final_ms(0.5), "ms")
    benchmark.add(f"{at} block time, full load, p50", full.block_s * 1e3, "ms")
    chain, comet = cpu_us(full, validators)
    if chain:
        benchmark.add(f"{at} CPU of a transaction, chain process", chain, "us")
    benchmark.add(f"{at} CPU of a transaction, CometBFT", comet, "us")
    benchmark.add(f"{at} CPU of a transaction, load generator", full.own_cpu_s / full.count * 1e6, "us")


async def size(benchmark: Benchmark, validators: int) -> None:
    count = COUNTS.get(validators, 4_000)
    peer_light, peer = await measure(lambda home: kvstore_network(home, validators), KVSTORE_MORE * count, ours=False)
    show(benchmark, "kvstore", validators, peer_light, peer, None)
    light, full = await measure(lambda home: avow_network(home, validators), count, ours=True)
    show(benchmark, "ours", validators, light, full, peer)
    share = 100 * full.rate / peer.rate
    benchmark.add(
        f"{validators}: ours of the kvstore's rate", share, "%", bar=SHARE if validators > 1 else None, lower=False
    )
    light, full = await measure(lambda home: avow_network(home, validators, own_rpc=False), count // 2, ours=True)
    show(benchmark, "by CometBFT's RPC", validators, light, full, peer)


def run() -> Benchmark:
    require_cometbft()
    benchmark = Benchmark("network_throughput", f"Transactions of {SIZE} bytes through whole networks on this machine")
    for validators in SIZES:
        asyncio.run(size(benchmark, validators))
    return benchmark


if __name__ == "__main__":
    main(run)
