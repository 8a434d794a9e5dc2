"""Where a validator's processor time goes, for each transfer of 250 bytes: our process under CometBFT, stage by stage.

One validator's whole work (driven.py) over blocks of 500 transfers to accounts that are new. CPU time of this thread, so that the figures
stand on a busy machine too. The floor beside the sum is what no Python can save: recovering the signer (libsecp256k1), and hashes.
"""

import hashlib
import tempfile
from pathlib import Path

from avow.chain import transaction as transaction_module
from benchmarks.driven import Node, Stages, per_transfer, staged
from benchmarks.load_generator import SIZE, transfers
from benchmarks.report import Benchmark, cpu_us, main

BLOCKS = 14
SKIPPED = 2
TRANSFERS = 500
BAR_US = 300


def measure(folder: Path) -> tuple[dict[str, float], bytes]:
    """Microseconds of CPU for each transfer by stage (medians over blocks), and the last app hash."""
    stages = Stages()
    runs: list[dict[str, int]] = []
    with staged(stages):
        node = Node(folder, stages)
        txs = transfers(node.genesis.eip155, BLOCKS * TRANSFERS)
        for number in range(BLOCKS):
            stages.spent.clear()
            node.block(txs[number * TRANSFERS : (number + 1) * TRANSFERS])
            runs.append(dict(stages.spent))
        app_hash = node.store.committed.app_hash
        node.store.close()
    return per_transfer(runs[SKIPPED:], TRANSFERS), app_hash


def floor_us() -> float:
    """Recovering one signer, and six hashes: its digest, the leaves of its two accounts and its result."""
    digest = hashlib.sha256(b"floor").digest()
    signature = transaction_module.PrivateKey(digest).sign_recoverable(digest, hasher=None)
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
    raw = bytes(SIZE)

    def work() -> None:
        transaction_module._recover(digest, signature[64], r, s)
        for _ in range(6):
            hashlib.sha256(raw).digest()

    return cpu_us(work)


def run() -> Benchmark:
    title = f"A validator's CPU time for each transfer of {SIZE} bytes, without CometBFT's"
    benchmark = Benchmark("network_profile", title)
    with tempfile.TemporaryDirectory(prefix="avow-profile-") as name:
        found, _ = measure(Path(name))
    total = sum(found.values())
    floor = floor_us()
    for stage, spent in sorted(found.items(), key=lambda item: -item[1]):
        benchmark.add(stage, spent, "us", peer="the sum", ratio=spent / total)
    benchmark.add("sum", total, "us", bar=BAR_US, peer="recovery and hashes alone", ratio=total / floor)
    return benchmark


if __name__ == "__main__":
    main(run)
