"""What a block costs a validator as accounts grow from a thousand to a million, and as history grows.

One validator's whole work without CometBFT (driven.py), CPU time, blocks of 500 transfers among accounts that are there already: receivers
drawn from all of them, senders from a thousand. The tree over the accounts is log16 deep in pages; in a small state the transfers of a
block share most of these, in a great one hardly any. For history: many small blocks, and then the same blocks of 500 again.
NETWORK_ACCOUNTS ("1000,10000,100000,1000000") is read from the environment.
"""

import os
import random
import statistics
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from avow.chain.host import ACCOUNT_PREFIX
from avow.chain.transaction import address_of_private_key, sign_transaction
from benchmarks.driven import Node, Stages, per_transfer, staged
from benchmarks.load_generator import GAS, SIZE
from benchmarks.report import Benchmark, main

GROWTH = tuple(int(item) for item in os.environ.get("NETWORK_ACCOUNTS", "1000,10000,100000,1000000").split(","))
TRANSFERS = 500
BLOCKS = 7
SKIPPED = 2
SIGNERS = 1_000
"""Accounts whose keys are known; they stand among the others."""
ACCOUNTS_OF_HISTORY = 10_000
HISTORY_BLOCKS = 1_500
HISTORY_TRANSFERS = 4
MOST_GROWTH = 3.0
"""Of a thousand times as many accounts."""
MOST_OF_HISTORY = 1.25
SHOWN = ("state tree", "SQLite")


class Population:
    """The accounts of a chain, and transfers among them."""

    def __init__(self, folder: Path, accounts: int, stages: Stages) -> None:
        self.keys = [sha256(b"signer" + number.to_bytes(4)).digest() for number in range(SIGNERS)]
        self.node = Node(folder, stages, keys=self.keys)
        self.others = [sha256(b"account" + number.to_bytes(8)).digest()[:20] for number in range(accounts - SIGNERS)]
        self.everyone = [*self.others, *map(address_of_private_key, self.keys)]
        record = bytes(8) + (10**18).to_bytes(32)
        self.node.fill([(ACCOUNT_PREFIX + address, record) for address in self.others])
        self.nonces = [0] * SIGNERS
        self.random = random.Random(1)

    def transfers(self, count: int) -> list[bytes]:
        made = []
        for signer in (self.random.randrange(SIGNERS) for _ in range(count)):
            made.append(
                sign_transaction(
                    self.keys[signer],
                    chain_id=self.node.genesis.eip155,
                    nonce=self.nonces[signer],
                    to=self.random.choice(self.everyone),
                    value=1,
                    gas_limit=GAS,
                    max_fee=2 * 10**9,
                    data=b"\x5a" * (SIZE - 112),
                )
            )
            self.nonces[signer] += 1
        return made

    def cost(self) -> tuple[float, dict[str, float]]:
        """Microseconds of CPU for each transfer: in all, and by stage."""
        runs = []
        totals = []
        for _ in range(BLOCKS):
            txs = self.transfers(TRANSFERS)
            self.node.stages.spent.clear()
            self.node.block(txs)
            runs.append(dict(self.node.stages.spent))
            totals.append(sum(runs[-1].values()) / TRANSFERS / 1e3)
        return statistics.median(totals[SKIPPED:]), per_transfer(runs[SKIPPED:], TRANSFERS)


def growth(benchmark: Benchmark, folder: Path) -> None:
    first = 0.0
    for accounts in GROWTH:
        stages = Stages()
        started = time.perf_counter()
        with staged(stages):
            population = Population(folder / str(accounts), accounts, stages)
            filled = time.perf_counter() - started
            spent, parts = population.cost()
        first = first or spent
        last = accounts == GROWTH[-1]
        benchmark.add(
            f"{accounts:,} accounts: CPU of a transfer",
            spent,
            "us",
            bar=MOST_GROWTH * first if last else None,
            peer=f"{GROWTH[0]:,} accounts",
            ratio=spent / first,
        )
        for part in SHOWN:
            benchmark.add(f"{accounts:,} accounts: of it {part}", parts.get(part, 0.0), "us")
        population.node.store.close()
        if last:
            benchmark.add(f"{accounts:,} accounts: to fill the state", filled, "s")


def history(benchmark: Benchmark, folder: Path) -> None:
    stages = Stages()
    with staged(stages):
        population = Population(folder / "history", ACCOUNTS_OF_HISTORY, stages)
        early, _ = population.cost()
        for _ in range(HISTORY_BLOCKS):
            population.node.block(population.transfers(HISTORY_TRANSFERS))
        late, _ = population.cost()
    population.node.store.close()
    benchmark.add(f"CPU of a transfer, {BLOCKS} blocks of history", early, "us")
    benchmark.add(
        f"the same, {HISTORY_BLOCKS + 2 * BLOCKS:,} blocks of history",
        late,
        "us",
        bar=MOST_OF_HISTORY * early,
        peer="the same before",
        ratio=late / early,
    )


def run() -> Benchmark:
    benchmark = Benchmark("network_accounts", f"A validator's CPU time for each transfer, blocks of {TRANSFERS}")
    with tempfile.TemporaryDirectory(prefix="avow-accounts-") as name:
        for part in (*map(str, GROWTH), "history"):
            (Path(name) / part).mkdir()
        growth(benchmark, Path(name))
        history(benchmark, Path(name))
    return benchmark


if __name__ == "__main__":
    main(run)
