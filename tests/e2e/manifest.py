"""What a run is made of, drawn from a seed alone: the network, the load on it, and what befalls it, step by step.

After the idea of CometBFT's own end-to-end manifests (its test/e2e): a seeded generator, four kinds of perturbation, each at
P = 0.1 for each validator in each step, one after another; and after each the validator must be back within RETURN_S, whatever else the
machine does.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

P = 0.1
AWAY_S = 10.0
RETURN_S = 20.0


class Kind(StrEnum):
    KILL = "kill"
    PAUSE = "pause"
    DISCONNECT = "disconnect"
    RESTART = "restart"


@dataclass(frozen=True)
class Perturbation:
    """`process`: which of a validator's two processes a kill or a pause hits ("chain", "cometbft" or "both")."""

    kind: Kind
    validator: int
    process: str = "both"

    def __str__(self) -> str:
        part = f" {self.process}" if self.kind in (Kind.KILL, Kind.PAUSE) else ""
        return f"{self.kind}{part} validator{self.validator}"


@dataclass(frozen=True)
class Manifest:
    """`senders`: accounts that send transfers; `batch`: the most statements that are settled at once."""

    seed: int
    validators: int
    mempool: str
    heartbeat_ms: int
    retain_blocks: int
    snapshot_interval: int
    senders: int
    batch: int

    def to_value(self) -> dict[str, Any]:
        return asdict(self)

    def steps(self) -> Iterator[list[Perturbation]]:
        """Without end; the same for the same manifest."""
        chance = random.Random(f"steps {self.seed}")
        kinds = [kind for kind in Kind if kind is not Kind.DISCONNECT or self.validators > 1]
        while True:
            step = []
            for validator in range(self.validators):
                for kind in kinds:
                    happens, process = chance.random() < P, chance.choice(["chain", "cometbft", "both"])
                    if happens:
                        step.append(Perturbation(kind, validator, process))
            chance.shuffle(step)
            yield step


def generate(seed: int, *, long: bool = False) -> Manifest:
    """One to four validators; in the long form up to seven."""
    chance = random.Random(f"manifest {seed}")
    return Manifest(
        seed=seed,
        validators=chance.choice([1, 2, 3, 4, 4, 4, 7] if long else [1, 2, 3, 4]),
        mempool=chance.choices(["flood", "app"], [5, 1])[0],
        heartbeat_ms=chance.choice([1_000, 2_000]),
        retain_blocks=chance.choice([0, 0, 500]),
        snapshot_interval=chance.choice([0, 20]),
        senders=chance.randint(2, 4),
        batch=chance.choice([1, 8, 20]),
    )
