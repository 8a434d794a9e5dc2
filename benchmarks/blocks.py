"""How long the embedded engine takes: from a submitted transaction to its block, and to the block that proves it.

Transfers one at a time on the real application, a pause between them; then as many at once as fit. The floor of the same run is one
append and fsync on the same disk: a block costs two of them (itself and its proof), a submission none beyond the block's.
"""

import asyncio
import hashlib
import os
import statistics
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.application import Application
from avow.chain.genesis import Genesis
from avow.chain.state import SqliteStore
from avow.chain.transaction import address_of_private_key, sign_transaction
from avow.consensus.embedded import SPACING_MS, EmbeddedEngine
from benchmarks.report import Benchmark, main, percentile

SENDER = hashlib.sha256(b"benchmark").digest()
SINGLES = 60
BURST = 1_000


def transfer(genesis: Genesis, nonce: int) -> bytes:
    return sign_transaction(
        SENDER,
        chain_id=genesis.eip155,
        nonce=nonce,
        to=hashlib.sha256(nonce.to_bytes(4)).digest()[:20],
        value=1,
        gas_limit=30_000,
        max_fee=2 * 10**9,
    )


def fsync_ms(folder: Path) -> float:
    with (folder / "floor").open("ab") as file:
        start = time.perf_counter()
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
        return (time.perf_counter() - start) * 1e3


async def measure(folder: Path, benchmark: Benchmark) -> None:
    genesis = Genesis(
        time_ms=time.time_ns() // 10**6,
        governance=bytes(20),
        treasury=bytes(19) + b"\x01",
        accounts=((address_of_private_key(SENDER), 10**24),),
    )
    store = SqliteStore(str(folder / "chain.db"))
    engine = EmbeddedEngine(Application(store, genesis), store, genesis, Ed25519PrivateKey.generate())
    await engine.start()
    included: list[float] = []
    proven: list[float] = []
    cpu = time.process_time()
    for nonce in range(SINGLES):
        tx = transfer(genesis, nonce)
        await asyncio.sleep(2.5 * SPACING_MS / 1e3)
        height, start = engine.height + 1, time.perf_counter()
        await engine.submit(tx)
        await engine.wait_height(height)
        included.append((time.perf_counter() - start) * 1e3)
        await engine.wait_height(height + 1)
        proven.append((time.perf_counter() - start) * 1e3)
    cpu = (time.process_time() - cpu) / SINGLES
    txs = [transfer(genesis, SINGLES + number) for number in range(BURST)]
    start, burst_cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(engine.submit(tx) for tx in txs))
    while engine.waiting:
        await engine.wait_height(engine.height + 1)
    burst, burst_cpu = time.perf_counter() - start, time.process_time() - burst_cpu
    await engine.stop()
    store.close()
    floor = statistics.median(fsync_ms(folder) for _ in range(30))
    benchmark.add(
        "submit to block, p50",
        statistics.median(included),
        "ms",
        bar=50,
        peer="one fsync",
        ratio=statistics.median(included) / floor,
    )
    benchmark.add("submit to block, p99", percentile(included, 0.99), "ms", bar=300)
    benchmark.add(
        "submit to proof, p50",
        statistics.median(proven),
        "ms",
        bar=200,
        peer="the spacing",
        ratio=statistics.median(proven) / SPACING_MS,
    )
    benchmark.add("submit to proof, p99", percentile(proven, 0.99), "ms", bar=600)
    benchmark.add("CPU of one transfer, its block and its proof", cpu * 1e3, "ms", bar=20)
    benchmark.add(f"{BURST} transfers at once, rate", BURST / burst, "tx/s")
    benchmark.add(f"{BURST} transfers at once, CPU each", burst_cpu / BURST * 1e6, "us")


def run() -> Benchmark:
    benchmark = Benchmark("blocks", "The embedded engine with the real application")
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(Path(name), benchmark))
    return benchmark


if __name__ == "__main__":
    main(run)
