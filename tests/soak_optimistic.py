"""`python -m tests.soak_optimistic`: many honest statements, none of them ever challenged; and lies, each of them convicted.

In one process and without sockets: the real engine answers, its node's openings and answers to demands are what a watcher gets, and the
watcher's own check (nodes/watcher/check.py) judges them with the real referee.
"""

import argparse
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from avow.engines.exact import load_program
from avow.engines.interface import TracedEngine
from avow.exact import descent
from avow.exact.committed import CommittedRun
from avow.exact.descent import Demand
from avow.exact.hashing import Header, trace_of
from avow.exact.program import Program
from avow.exact.tensors import size_of
from avow.models.store import Store
from avow.nodes.loaded import Loaded
from avow.nodes.openings import Shown
from avow.nodes.programs import load_programs
from avow.nodes.watcher.answers import Finding
from avow.nodes.watcher.check import Runnable, examine
from avow.nodes.watcher.states import Event
from avow.receipt.commitment import response_body
from tests.nodes.liars import Lie, LyingEngine
from tests.nodes.optimistic import body_of, install, small_program


@dataclass
class Answered:
    """One statement as far as a check sees it, and the node that answers demands about it."""

    shown: Shown
    trace: bytes
    node: CommittedRun
    asked: int = 0

    def ask(self, demand: Demand) -> bytes | None:
        descent.check(demand, self.trace)
        self.asked += 1
        return self.node.ask(demand)


def answered(loaded: Loaded, engine: Any, body: bytes) -> Answered:
    """What a node with this engine answers, commits to and shows."""
    seed = secrets.token_bytes(32)
    request = loaded.prepare(body)
    effective = engine.effective(request)
    answer, trace = engine.traced_infer(request, seed)
    response, _ = response_body(answer)
    shown = Shown(b"", b"", seed, "", body, msgspec.json.encode(effective), response, b"", trace.header)

    class Later:
        """The node runs again only when it is asked."""

        def ask(self, demand: Demand) -> bytes | None:
            run = engine.replay(request, effective, seed, Header.parse(trace.header))
            return CommittedRun(trace.header, run, seed).ask(demand)

    return Answered(shown, trace_of(trace.header), Later())  # type: ignore[arg-type]


def runnable_of(home: Path, program: Program) -> Runnable:
    identity = install(home, program)
    loaded = load_programs(home, [identity.hex()])[identity]
    engine: TracedEngine = loaded.engine  # type: ignore[assignment]
    return Runnable(loaded, engine, load_program(Store(home).get(identity)))


def judged(runnable: Runnable, statement: Answered) -> Finding:
    return examine(runnable, statement.shown, statement.trace, statement)


def lie_of(program: Program, random: Random, steps: int) -> Lie:
    """A changed value at a random place."""
    number = random.randrange(len(program.operators))
    index = random.randrange(size_of(program.operators[number].shape))
    return Lie(random.randrange(steps), number, index, goes_on=random.random() < 0.5)


def soak(statements: int, lies: int, seed: int, programs: int = 4) -> Counter[str]:
    """Raises AssertionError at the first honest statement that is not agreed to, or lie that is not convicted."""
    random = Random(seed)
    tally: Counter[str] = Counter()
    with TemporaryDirectory(prefix="avow-soak-") as folder:
        made = [
            runnable_of(
                Path(folder) / str(at), small_program(random.randrange(1 << 30), random.choice(("once", "sequence")))
            )
            for at in range(programs)
        ]
        for number in range(statements):
            runnable = made[number % programs]
            body = body_of(runnable.exact, random.randrange(1 << 40), random.randint(1, min(3, runnable.exact.context)))
            statement = answered(runnable.loaded, runnable.engine, body)
            found = judged(runnable, statement)
            assert found.event is Event.SAME_RUN, (seed, number, found)
            assert not statement.asked, (seed, number)
            tally["agreed"] += 1
        for number in range(lies):
            runnable = made[number % programs]
            steps = random.randint(1, min(3, runnable.exact.context))
            liar = LyingEngine(runnable.engine, [lie_of(runnable.exact, random, steps)])
            body = body_of(runnable.exact, random.randrange(1 << 40), steps)
            statement = answered(runnable.loaded, liar, body)
            told = liar.told
            found = judged(runnable, statement)
            if not told:  # a value that can be no other
                assert found.event is Event.SAME_RUN
                continue
            assert found.event is Event.FAULT_SHOWN, (seed, number, liar.lies, found)
            tally["convicted"] += 1
            tally["demands"] += statement.asked
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak_optimistic", description=__doc__)
    parser.add_argument("--statements", type=int, default=10_000)
    parser.add_argument("--lies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    tally = soak(given.statements, given.lies, seed, programs=16)
    took = time.monotonic() - began
    print(
        f"{tally['agreed']} honest statements, none challenged; {tally['convicted']} lies, all convicted,"
        f" by {tally['demands']} demands; {took:.0f} s"
    )


if __name__ == "__main__":
    main()
