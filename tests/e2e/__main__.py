"""`python -m tests.e2e`: networks of validators under load, killed, paused, parted and restarted, and audited; a report at the end.

Ends with status 1 when a run had violations. `--perturbations` goes on with the next seed until so many are done.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from avow.consensus.cometbft.binary import find
from avow.consensus.cometbft.errors import CometBFTMissing
from tests.e2e.manifest import generate
from tests.e2e.runner import Outcome, Run

RUN_STEPS = 25


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def one(seed: int, given: argparse.Namespace, wanted: int, until_s: float) -> Outcome:
    manifest = generate(seed, long=given.long)
    if given.validators:
        manifest = replace(manifest, validators=given.validators)
    say(f"seed {seed}: {manifest.to_value()}")
    with tempfile.TemporaryDirectory(prefix="avow-e2e-", ignore_cleanup_errors=True) as folder:
        home = Path(folder if given.keep is None else given.keep / f"seed{seed}")
        outcome = asyncio.run(perturbed(Run(manifest, home, say), given.steps, wanted, until_s))
    say(json.dumps(outcome.to_value(), indent=1))
    return outcome


async def perturbed(run: Run, steps: int, wanted: int, until_s: float) -> Outcome:
    return await run.run(lambda: run.steps(steps, wanted, until_s))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="steps of each seed's manifest")
    parser.add_argument("--validators", type=int, help="instead of the manifest's number")
    parser.add_argument("--perturbations", type=int, default=0, help="go on with further seeds until so many are done")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin nothing new after so long")
    parser.add_argument("--long", action="store_true", help="manifests of up to seven validators")
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--keep", type=Path, help="a folder to keep the networks' homes in")
    given = parser.parse_args()
    try:
        find()
    except CometBFTMissing as missing:
        sys.exit(f"{missing.detail}; {missing.hint}")
    until_s = time.monotonic() + given.minutes * 60 if given.minutes else 0.0
    outcomes: list[Outcome] = []
    seed = given.seed
    while True:
        done = sum(len(outcome.done) for outcome in outcomes)
        outcomes.append(one(seed, given, max(0, given.perturbations - done), until_s))
        seed += 1
        report(outcomes, given.report)
        done += len(outcomes[-1].done)
        if done >= given.perturbations or (until_s and time.monotonic() > until_s):
            break
    violations = [violation for outcome in outcomes for violation in outcome.violations]
    say(f"{done} perturbations, {len(violations)} violations")
    sys.exit(1 if violations else 0)


def report(outcomes: list[Outcome], path: Path | None) -> None:
    """Written after every seed: what was measured is not lost with a run that is cut short."""
    if path is not None:
        total = sum(len(outcome.done) for outcome in outcomes)
        value = {"perturbations": total, "runs": [outcome.to_value() for outcome in outcomes]}
        path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
