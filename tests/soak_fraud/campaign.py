"""The campaign: every model's lies, wave after wave, each result kept as soon as it is there.

Rules:
1. HOME/models is the store, HOME/results.jsonl has one line for each lie; what is there for the same program is not done again. HOME/network is the
   network of this run: made anew each time.
2. Each model has a live wave of one lie, then waves of at most PER_WAVE.
3. Masked lies (plan.py, rule 3) are counted apart.
"""

import contextlib
import fcntl
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from dataclasses import replace as changed

from avow.models.store import Store
from avow.nodes.programs import load_programs
from tests.soak_fraud.engines import lying
from tests.soak_fraud.models import MODELS, SMALL
from tests.soak_fraud.network import Failed, Network
from tests.soak_fraud.plan import Honest, candidates, looked_at
from tests.soak_fraud.wave import flood, wave

QUESTIONS = 3
PER_WAVE = 48
WINDOW_MS = 3_600_000


@dataclass
class Tally:
    """Of one model. `problems`: of whole waves; those of single lies are in `lines`."""

    model: str
    lines: list = field(default_factory=list)
    masked: list = field(default_factory=list)
    honest: int = 0
    seconds: float = 0.0
    problems: list = field(default_factory=list)
    live_s: float | None = None

    @property
    def caught(self):
        return sum(not line["problems"] for line in self.lines)


class Results:
    """Rule 1's file."""

    def __init__(self, file):
        self._file = file
        self._known = {}
        if file.exists():
            for text in file.read_text("utf-8").splitlines():
                line = json.loads(text)
                self._known[line["program"], line["name"]] = line

    def known(self, program, case):
        line = self._known.get((program.hex(), case.name))
        return None if line is None or line["problems"] else line

    def add(self, line):
        self._known[line["program"], line["name"]] = line
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def plan_of(model, home, program, limit, progress):
    """The lies to be told of a model, and the masked ones."""
    loaded = load_programs(home, [program.hex()])[program]
    honest = Honest(model, loaded, lying(loaded.engine))
    cases = candidates(honest, QUESTIONS)
    if limit is not None:
        by_kind = defaultdict(list)
        for case in cases:
            by_kind[case.kind].append(case)
        cases = [case for of_kind in by_kind.values() for case in of_kind[:limit]]
    told, masked = [], []
    for at, case in enumerate(cases):
        progress(at, len(cases), f"{model.name}: planned")
        found = looked_at(honest, case)
        (masked if found.slot is None else told).append(found)
    loaded.engine.close()
    return told, masked


async def campaign(home, names, *, limit=None, progress, report):
    """Tallies by model. `limit`: lies of each kind; `report(tally)` as each model is through."""
    tallies = []
    with alone(home):
        results = Results(home / "results.jsonl")
        async with Network(home / "network", home, window_ms=WINDOW_MS) as network:
            for name in names:
                tally = await one_model(network, home, (MODELS | SMALL)[name], results, limit, progress)
                tallies.append(tally)
                report(tally)
    return tallies


@contextlib.contextmanager
def alone(home):
    """No other campaign in this home meanwhile. Raises Failed."""
    (home / "models").mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failed(f"another campaign runs in {home}") from None
        yield


async def honest(home, names, count, *, progress, report):
    """As many honest answers of each of these models, none of them challenged."""
    tallies = []
    with alone(home):
        async with Network(home / "network", home, window_ms=WINDOW_MS) as network:
            for name in names:
                model = (MODELS | SMALL)[name]
                program = model.install(home)
                ran = await flood(network, model, program, count, progress)
                tallies.append(Tally(name, honest=ran.honest, seconds=ran.seconds, problems=ran.problems))
                report(tallies[-1])
    return tallies


async def one_model(network, home, model, results, limit, progress):
    progress(0, None, f"{model.name}: installed")
    program = model.install(home)
    serves = changed(model, name=Store(home).get(program).manifest.name)
    told, masked = plan_of(serves, home, program, limit, progress)
    tally = Tally(model.name, masked=[case.name for case in masked])
    waiting = []
    for case in told:
        line = results.known(program, case)
        if line is None:
            waiting.append(case)
        else:
            tally.lines.append(line)
    waves = [waiting[:1], *(waiting[at : at + PER_WAVE] for at in range(1, len(waiting), PER_WAVE))] if waiting else []
    for number, cases in enumerate(waves):
        began = time.monotonic()
        ran = await wave(network, serves, program, cases, progress, live=number == 0)
        for outcome in ran.outcomes:
            line = {"program": program.hex(), "name": outcome.case.name, "live": number == 0, **outcome.as_json()}
            tally.lines.append(line)
            if not ran.problems:
                results.add(line)
        tally.honest += ran.honest
        tally.seconds += time.monotonic() - began
        tally.problems += ran.problems
    live = [line["seconds"] for line in tally.lines if line["live"]]
    tally.live_s = live[0] if live else None
    return tally
