"""The whole path: what gateway, node and enclave add to the engine's own time, with a tee receipt that settles.

The network is the real one, with an engine that echoes. Latency includes the group-committed flush to the disk; its floor, a write
and fdatasync on the same file system, is measured in the same run. CPU is that of all processes but the chain's.
"""

import asyncio
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from avow.nodes.up import Network, UpConfig
from benchmarks.report import Benchmark, cpu_us, main, percentile
from benchmarks.stub_engine import CHUNKS, PROGRAM, StubEngine
from benchmarks.support import load
from benchmarks.support.processes import cpu_s

MODULES = {
    "chain": "avow.nodes.full",
    "enclave": "benchmarks.support.enclave_with_stub",
    "node": "benchmarks.support.node_with_stub",
    "gateway": "avow.nodes.gateway",
}
BODY = b'{"model":"stub","messages":[{"role":"user","content":"What is the capital of France? Answer in one word."}]%s}'
ROUNDS = 5
CALLS = 400
STREAMS = 30
SHORT, LONG = 100, 1_100
"""Chunks of a stream. What one chunk costs is the difference between the two, as in stream.py; what a stream costs once is a
figure of its own."""
SETTLED_CALLS = 200


def flush_floor_s(folder: Path) -> float:
    """Median seconds of a 4 KB append with fdatasync."""
    times = []
    with (folder / "floor").open("wb") as file:
        for _ in range(200):
            start = time.perf_counter()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def cpu_floor_us(folder: Path) -> float:
    """CPU of what no implementation can leave out: an ES256 signature, and an append that is flushed."""
    key, algorithm = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    with (folder / "floor").open("wb") as file:

        def once():
            key.sign(b"statement", algorithm)
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())

        return cpu_us(once, rounds=5, calls=100)


def used(state: dict) -> dict[str, float]:
    """CPU seconds by process."""
    return {name: cpu_s(process["pid"]) for name, process in state["processes"].items()}


async def measured(state, request, *, count, clients=1):
    """Latencies, and CPU microseconds per request by process."""
    before = used(state)
    times, _, _ = await asyncio.to_thread(load.run, state["url"], request, count=count, clients=clients)
    await asyncio.sleep(0.5)  # what is settled after the answer counts too
    after = used(state)
    return times, {name: (after[name] - before[name]) / count * 1e6 for name in before}


async def whole_answers(state, bench, floor_s, floor_us):
    for method in ("tee", "vanilla"):
        request = load.request(state["url"], BODY % b"", {"avow-method": method})
        await measured(state, request, count=CALLS)
        rounds = [await measured(state, request, count=CALLS) for _ in range(ROUNDS)]
        p50 = statistics.median([statistics.median(times) for times, _ in rounds]) * 1000
        p99 = statistics.median([percentile(times, 0.99) for times, _ in rounds]) * 1000
        cpu = {name: statistics.median([by[name] for _, by in rounds]) for name in rounds[0][1]}
        path = cpu["gateway"] + cpu["node"] + cpu["enclave"]
        bars = (1.0, 500.0) if method == "tee" else (None, None)
        against = f"write + fdatasync {floor_s * 1e6:.0f} us"
        bench.add(f"{method}: added, p50", p50, "ms", bar=bars[0], peer=against, ratio=p50 / 1000 / floor_s)
        bench.add(f"{method}: added, p99", p99, "ms")
        against = f"signature + fdatasync {floor_us:.0f} us"
        bench.add(
            f"{method}: CPU of gateway, node, enclave", path, "us", bar=bars[1], peer=against, ratio=path / floor_us
        )
        for name in ("gateway", "node", "enclave", "chain"):
            bench.add(f"{method}: CPU of {name}", cpu[name], "us")
        _, by = await measured(state, request, count=4 * CALLS, clients=16)
        bench.add(f"{method}: CPU at 16 callers", by["gateway"] + by["node"] + by["enclave"], "us")


def stub_chunk_us() -> float:
    """CPU of the engine alone for one chunk."""
    engine = StubEngine(LONG)
    request = {"model": "stub", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    found = []
    for _ in range(7):
        start = time.process_time()
        engine.chat(request, {}, lambda _chunk: False)
        found.append((time.process_time() - start) / LONG * 1e6)
    return statistics.median(found)


async def stream_cpu(state, method) -> dict[str, float]:
    """CPU microseconds per stream by process."""
    request = load.request(state["url"], BODY % b',"stream":true', {"avow-method": method})
    await measured(state, request, count=STREAMS)
    rounds = [(await measured(state, request, count=STREAMS))[1] for _ in range(ROUNDS)]
    return {name: statistics.median([by[name] for by in rounds]) for name in rounds[0]}


async def streams(folder: Path, bench) -> None:
    """Chunks in a burst: what each costs over all processes, beyond the engine's own."""
    own = stub_chunk_us()
    bench.add("stream: the engine's own CPU per chunk", own, "us")
    found: dict[tuple[int, str], dict[str, float]] = {}

    async def both(state, chunks: int) -> None:
        for method in ("tee", "vanilla"):
            found[chunks, method] = await stream_cpu(state, method)

    for chunks in (SHORT, LONG):
        await network_with(folder, chunks, partial(both, chunks=chunks))
    for method in ("tee", "vanilla"):
        short, long = found[SHORT, method], found[LONG, method]
        cpu = {name: (long[name] - short[name]) / (LONG - SHORT) for name in ("gateway", "node", "enclave")}
        everything = sum(cpu.values()) - own
        here = own if method == "vanilla" else 0.0  # where the engine runs in the node
        beside = cpu["gateway"] + cpu["node"] - here
        bench.add(f"stream, {method}: CPU per chunk, gateway + node", beside, "us", bar=5.0)
        bench.add(
            f"stream, {method}: CPU per chunk of all", everything, "us", peer="the engine", ratio=everything / own
        )
        once = short["gateway"] + short["node"] + short["enclave"]
        bench.add(f"stream, {method}: a stream of {SHORT} chunks", once, "us")


async def settlement(state, bench):
    """From delivery to the receipt with its settlement, at the caller."""
    headers = {"avow-method": "tee", "avow-finality": "settled"}
    request = load.request(state["url"], BODY % b"", headers)
    times, _ = await measured(state, request, count=SETTLED_CALLS, clients=5)
    bench.add("delivery to settled, p50", statistics.median(times) * 1000, "ms", bar=600.0)
    bench.add("delivery to settled, p99", percentile(times, 0.99) * 1000, "ms", bar=1500.0)


async def network_with(folder: Path, chunks: int, *parts) -> None:
    os.environ[CHUNKS] = str(chunks)
    network = Network(UpConfig(folder, port=0, program_ids=(PROGRAM,), modules=MODULES))
    try:
        state = await network.start()
        for part in parts:
            await part(state)
    finally:
        await network.stop()


async def measure(bench: Benchmark) -> None:
    with tempfile.TemporaryDirectory(prefix="avow-bench-") as folder:
        home = Path(folder)
        floor_s, floor_us = flush_floor_s(home), cpu_floor_us(home)
        await network_with(
            home,
            1,
            lambda state: whole_answers(state, bench, floor_s, floor_us),
            lambda state: settlement(state, bench),
        )
        await streams(home, bench)


def run() -> Benchmark:
    bench = Benchmark("whole_path", "Whole path: gateway, node and enclave around an engine that echoes")
    asyncio.run(measure(bench))
    return bench


if __name__ == "__main__":
    main(run)
