"""Validators on one machine, under CometBFT: how long from a submitted transaction to its block, idle and under load.

Transfers from several accounts over JSON-RPC, signed beforehand and spread over all validators, a request for each; a follower of
each block says when it was there. First one at a time with pauses, then RATE a second; then silence, in which the heartbeat alone makes
blocks. VALIDATORS, RATE and SECONDS are read from the environment. All processes share this machine, so throughput is a floor and
latency an upper bound; the floor beside it is a signed transfer's round trip to one validator's RPC.
"""

import asyncio
import hashlib
import math
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

from avow.chain.transaction import address_of_private_key, sign_transaction, transaction_hash
from avow.consensus.cometbft.binary import find
from avow.consensus.cometbft.errors import CometBFTMissing
from avow.nodes.chain_client import ChainClient
from avow.nodes.net.layout import HEARTBEAT_MS, NetConfig, create
from avow.nodes.net.run import Net
from benchmarks.load_generator import Connection, post
from benchmarks.report import Benchmark, main, percentile

VALIDATORS = int(os.environ.get("VALIDATORS", "4"))
RATE = float(os.environ.get("RATE", "200"))
SECONDS = float(os.environ.get("SECONDS", "20"))
SINGLES = 40
IDLE_S = 12.0
ACCOUNTS = [hashlib.sha256(b"network benchmark" + bytes([number])).digest() for number in range(16)]


class Sender:
    """One account on one validator, over a connection of its own: sends in the order of its nonces what was signed before."""

    def __init__(self, key: bytes, port: int, eip155: int, count: int) -> None:
        self.connection = Connection(port)
        signed = [_transfer(key, eip155, nonce) for nonce in range(count)]
        self.work = iter([(transaction_hash(tx), post([tx], "eth_sendRawTransaction").request) for tx in signed])
        self.lock = asyncio.Lock()

    async def send(self, sent: dict[bytes, float]) -> float:
        """Milliseconds until the validator has taken a transfer into custody."""
        async with self.lock:
            digest, request = next(self.work)
            start = sent[digest] = time.perf_counter()
            answer = await self.connection.send(request)
            if b'"error"' in answer:
                raise SystemExit(f"a transfer was refused: {answer[:400].decode(errors='replace')}")
            return (time.perf_counter() - start) * 1e3


def _transfer(key: bytes, eip155: int, nonce: int) -> bytes:
    to = hashlib.sha256(key + nonce.to_bytes(4)).digest()[:20]
    return sign_transaction(key, chain_id=eip155, nonce=nonce, to=to, value=1, gas_limit=30_000, max_fee=2 * 10**9)


class Follower:
    """What each block held, and when it was there."""

    def __init__(self, client: ChainClient) -> None:
        self.client = client
        self.found: dict[bytes, float] = {}
        self.lag_s: list[float] = []
        self.height = 0

    async def run(self) -> None:
        self.height = (await self.client.rpc("avow_status"))["height"]
        while True:
            newest = await self.client.rpc("avow_waitForHeight", self.height + 1, 20_000, extra_s=20)
            now = time.perf_counter()
            self.lag_s.append(time.time() - (await self.client.rpc("avow_status"))["time_ms"] / 1000)
            for height in range(self.height + 1, newest + 1):
                block = await self.client.rpc("eth_getBlockByNumber", hex(height), False)
                for digest in block["transactions"]:
                    self.found[bytes.fromhex(digest[2:])] = now
            self.height = newest


async def drain(sent: dict[bytes, float], follower: Follower) -> list[float]:
    """Milliseconds from submission to block of everything sent. Fails when something is lost."""
    deadline = time.perf_counter() + 30
    while any(digest not in follower.found for digest in sent):
        if time.perf_counter() > deadline:
            raise SystemExit(f"{sum(digest not in follower.found for digest in sent)} transfers are in no block")
        await asyncio.sleep(0.05)
    return [(follower.found[digest] - start) * 1e3 for digest, start in sent.items()]


async def load(senders: list[Sender], follower: Follower) -> list[float]:
    sent: dict[bytes, float] = {}
    tasks = []
    start = time.perf_counter()
    for number in range(int(RATE * SECONDS)):
        tasks.append(asyncio.create_task(senders[number % len(senders)].send(sent)))
        await asyncio.sleep(max(0.0, start + (number + 1) / RATE - time.perf_counter()))
    await asyncio.gather(*tasks)
    return await drain(sent, follower)


def cpu_seconds(net: Net) -> tuple[float, float]:
    """Of the chain processes and of the CometBFT processes."""
    pids = [net.pids(place) for place in net.layout.validators]
    return tuple(sum(own_cpu_s(found[name]) for found in pids) for name in ("chain", "cometbft"))  # type: ignore[return-value]


def own_cpu_s(pid: int | None) -> float:
    """User and system time of one process, as proc(5) counts it."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return min(found.getsockname()[1], 60_000)


async def measure(home: Path, benchmark: Benchmark) -> None:
    addresses = tuple(address_of_private_key(key) for key in ACCOUNTS)
    layout = create(NetConfig(home, VALIDATORS, free_port(), accounts=addresses))
    net = Net(home)
    await net.start()
    clients = [ChainClient(f"http://127.0.0.1:{place.rpc_port}") for place in layout.validators]
    try:
        eip155 = (await clients[0].rpc("avow_status"))["eip155"]
        count = math.ceil((SINGLES + RATE * SECONDS) / len(ACCOUNTS)) + 1
        ports = [place.rpc_port for place in layout.validators]
        senders = [Sender(key, ports[at % len(ports)], eip155, count) for at, key in enumerate(ACCOUNTS)]
        follower = Follower(clients[0])
        following = asyncio.create_task(follower.run())
        await asyncio.sleep(2)
        await figures(benchmark, net, senders, follower)
        following.cancel()
    finally:
        for client in clients:
            await client.close()
        await net.stop()


async def figures(benchmark: Benchmark, net: Net, senders: list[Sender], follower: Follower) -> None:
    sent: dict[bytes, float] = {}
    acknowledged = []
    for number in range(SINGLES):
        acknowledged.append(await senders[number % len(senders)].send(sent))
        await asyncio.sleep(0.35)
    single = await drain(sent, follower)
    floor = statistics.median(acknowledged)
    benchmark.add(
        f"{VALIDATORS} validators, submit to block, p50, idle",
        statistics.median(single),
        "ms",
        bar=100,
        peer="round trip to the RPC",
        ratio=statistics.median(single) / floor,
    )
    benchmark.add("the same, p90", percentile(single, 0.9), "ms")
    benchmark.add("submit to custody, p50", floor, "ms")
    height, start, cpu, own = follower.height, time.perf_counter(), cpu_seconds(net), time.process_time()
    loaded = await load(senders, follower)
    wall = time.perf_counter() - start
    used = [after - before for before, after in zip(cpu, cpu_seconds(net), strict=True)]
    own_used = time.process_time() - own
    benchmark.add(f"submit to block, p50, {RATE:g} tx/s", statistics.median(loaded), "ms", bar=300)
    benchmark.add("the same, p90", percentile(loaded, 0.9), "ms")
    benchmark.add("transfers in blocks", len(loaded) / wall, "tx/s")
    benchmark.add("blocks under load", (follower.height - height) / wall, "1/s")
    benchmark.add("CPU of all chain processes under load", used[0] / wall, "cores")
    benchmark.add("CPU of all CometBFT processes under load", used[1] / wall, "cores")
    benchmark.add("CPU of the load generator", own_used / wall, "cores")
    await asyncio.sleep(2)
    height, start = follower.height, time.perf_counter()
    follower.lag_s.clear()
    await asyncio.sleep(IDLE_S)
    benchmark.add("blocks when idle", (follower.height - height) / (time.perf_counter() - start), "1/s", bar=0.6)
    benchmark.add(
        "block time behind the clock, worst, idle", max(follower.lag_s, default=0.0), "s", bar=HEARTBEAT_MS / 1000
    )


def run() -> Benchmark:
    try:
        find()
    except CometBFTMissing as missing:
        print(f"not measured: {missing.detail}; {missing.hint}")
        raise SystemExit(0) from None
    benchmark = Benchmark("network", f"{VALIDATORS} validators on one machine, CometBFT")
    with tempfile.TemporaryDirectory(prefix="avow-net-") as name:
        asyncio.run(measure(Path(name), benchmark))
    return benchmark


if __name__ == "__main__":
    main(run)
