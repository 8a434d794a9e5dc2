"""What a block costs the store: state root, tree, values and the flush to disk, against the least that could do it.

A store of 200,000 keys; blocks of 1, 100 and 1,000 changed keys of 100 bytes; then one key again after 500 blocks of history.
Two floors of the same run stand beside each figure: SHA-256 over the same number of nodes that a binary tree must rehash, and a
durable write (append and fsync) of the changed values alone.
"""

import math
import os
import random
import statistics
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from avow.chain.state import SqliteStore
from benchmarks.report import Benchmark, main

KEYS = 200_000
VALUE = 100
ROUNDS = 15
CPU_BARS_MS = {1: 2.0, 100: 30.0, 1_000: 200.0}


def value() -> bytes:
    return os.urandom(VALUE)


def fill(store: SqliteStore) -> None:
    for height, start in enumerate(range(0, KEYS, 10_000), 1):
        store.commit(store.prepare({b"key/%d" % number: value() for number in range(start, start + 10_000)}), height)
    store.checkpoint()


def block(store: SqliteStore, count: int) -> tuple[float, float, float]:
    """Milliseconds: whole, for the root alone, of CPU."""
    changes = {b"key/%d" % number: value() for number in random.sample(range(KEYS), count)}
    cpu, start = time.process_time(), time.perf_counter()
    candidate = store.prepare(changes)
    prepared = time.perf_counter()
    store.commit(candidate, store.committed.height + 1)
    done = time.perf_counter()
    spent = time.process_time() - cpu
    if store.checkpoint_due:
        store.checkpoint()
    return (done - start) * 1e3, (prepared - start) * 1e3, spent * 1e3


def hash_floor(count: int) -> float:
    """Milliseconds to hash the leaves and the distinct nodes above `count` random keys of KEYS."""
    depth = math.ceil(math.log2(KEYS))
    nodes = count + sum(round(2**level * (1 - (1 - 2.0**-level) ** count)) for level in range(depth))
    start = time.perf_counter()
    data = bytes(65)
    for _ in range(nodes):
        sha256(data).digest()
    return (time.perf_counter() - start) * 1e3


def disk_floor(folder: Path, count: int) -> float:
    data = os.urandom(count * VALUE)
    with (folder / "floor").open("ab") as file:
        start = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return (time.perf_counter() - start) * 1e3


def run() -> Benchmark:
    benchmark = Benchmark("state", f"Committing a block to a store of {KEYS:,} keys (medians of {ROUNDS})")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = SqliteStore(str(folder / "state.db"))
        fill(store)
        for count, bar in CPU_BARS_MS.items():
            runs = [block(store, count) for _ in range(ROUNDS)]
            whole, root, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
            hashing = statistics.median(hash_floor(count) for _ in range(5))
            disk = statistics.median(disk_floor(folder, count) for _ in range(ROUNDS))
            floor = hashing + disk
            benchmark.add(f"{count} keys, durable", whole, "ms", peer="hashing + one fsync", ratio=whole / floor)
            benchmark.add(f"{count} keys, root alone", root, "ms", peer="hashing", ratio=root / hashing)
            benchmark.add(f"{count} keys, CPU", cpu, "ms", bar=bar, peer="hashing", ratio=cpu / hashing)
        early = statistics.median(block(store, 1)[2] for _ in range(ROUNDS * 5))
        for _ in range(500):
            block(store, 10)
        late = statistics.median(block(store, 1)[2] for _ in range(ROUNDS * 5))
        benchmark.add(
            "1 key, CPU, 500 blocks later", late, "ms", bar=early * 1.5, peer="the same before", ratio=late / early
        )
        proofs = []
        for number in range(500):
            start = time.perf_counter()
            store.prove(b"key/%d" % number)
            proofs.append((time.perf_counter() - start) * 1e6)
        benchmark.add("one proof", statistics.median(proofs), "us")
        store.close()
    return benchmark


if __name__ == "__main__":
    main(run)
