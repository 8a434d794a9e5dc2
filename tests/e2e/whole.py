"""`python -m tests.e2e.whole`: everything that `make e2e` is, in parts, in one report that is gone on with.

The parts: the long form of each end-to-end test, PERTURBATIONS perturbations of four validators, RANDOM of random manifests. The report
(--report) is written after each part and after each seed. Asked again, what has passed in it is not done again, as long as it is of the same
source: another one begins a new report. `--minutes`: begin nothing new after so long; a part under way is given its own time.

Ends with 0 when all is done and nothing failed, 1 when something failed, 3 when something is left to do.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.e2e.__main__ import RUN_STEPS, one, say

PERTURBATIONS = 200
RANDOM = 60
RANDOM_SEED = 100
RANDOM_STEPS = 6
PART_S = 1_800.0
SOURCE = ("src", "tests/e2e", "tests/chain/harness.py", "tests/chain/optimistic.py")
DONE, FAILED, LEFT = 0, 1, 3


def source_digest() -> str:
    """Of all that is run: two runs of one digest may be added up."""
    digest = hashlib.sha256()
    for name in SOURCE:
        place = REPOSITORY / name
        files = [place] if place.is_file() else sorted(place.rglob("*.py")) + sorted(place.rglob("*.sol"))
        for file in files:
            digest.update(f"{file.relative_to(REPOSITORY)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


class Report:
    """The file, and what is done according to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        fresh: dict[str, Any] = {"source": source_digest(), "tests": {}, "perturbed": [], "random": []}
        try:
            found = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            found = fresh
        if found.get("source") != fresh["source"]:
            say("the report is of another source: a new one begins")
            found = fresh
        self.value = found

    def passed(self, test: str) -> bool:
        return bool(self.value["tests"].get(test, {}).get("passed"))

    def perturbations(self, part: str) -> int:
        return sum(run["perturbations"] for run in self.value[part])

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.value, indent=1) + "\n")
        part.replace(self.path)

    def failures(self) -> list[str]:
        tests = [name for name, found in self.value["tests"].items() if not found["passed"]]
        runs = [*self.value["perturbed"], *self.value["random"]]
        return tests + [violation for run in runs for violation in run["violations"]]


def environment() -> dict[str, str]:
    return os.environ | {"AVOW_E2E_LONG": "1", "AVOW_E2E_BLOCKS": os.environ.get("AVOW_E2E_BLOCKS", "10000")}


def collect() -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/e2e"]
    shown = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True)
    return [line for line in shown.stdout.splitlines() if line.startswith("tests/") and "::" in line]


def run_test(test: str) -> dict[str, Any]:
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", test]
    try:
        shown = subprocess.run(
            command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=PART_S, check=False
        )
        passed, tail = shown.returncode == 0, shown.stdout.splitlines()[-12:]
    except subprocess.TimeoutExpired:
        passed, tail = False, [f"not done after {PART_S:g} s"]
    load = round(os.getloadavg()[0], 1)
    found = {"passed": passed, "seconds": round(time.monotonic() - started, 1), "load_average": load}
    return found if passed else found | {"output": tail}


def perturb(report: Report, part: str, wanted: int, until_s: float, **given: Any) -> None:
    """Seed after seed, until so many perturbations are in the report."""
    while (left := wanted - report.perturbations(part)) > 0 and time.monotonic() < until_s:
        seed = given["seed"] + len(report.value[part])
        options = argparse.Namespace(keep=None, **{**given, "seed": seed})
        outcome = one(seed, options, left, until_s)
        report.value[part].append(outcome.to_value())
        report.write()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.whole", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="begin nothing new after so long; 0: no limit")
    parser.add_argument("--report", type=Path, default=REPOSITORY / "build" / "e2e" / "report.json")
    given = parser.parse_args()
    until_s = time.monotonic() + given.minutes * 60 if given.minutes else float("inf")
    report = Report(given.report)
    tests = collect()
    for test in tests:
        if not report.passed(test) and time.monotonic() < until_s:
            say(test)
            report.value["tests"][test] = run_test(test)
            say("passed" if report.passed(test) else "failed")
            report.write()
    perturb(report, "perturbed", PERTURBATIONS, until_s, seed=1, steps=RUN_STEPS, validators=4, long=False)
    perturb(report, "random", RANDOM, until_s, seed=RANDOM_SEED, steps=RANDOM_STEPS, validators=None, long=True)
    return verdict(report, tests)


def verdict(report: Report, tests: list[str]) -> int:
    done = [report.perturbations(part) for part in ("perturbed", "random")]
    passed = sum(report.passed(test) for test in tests)
    failures = report.failures()
    say(f"{passed} of {len(tests)} tests, {done[0]} of {PERTURBATIONS} and {done[1]} of {RANDOM} perturbations")
    for failure in failures:
        say(f"failed: {failure}")
    if failures:
        return FAILED
    whole = passed == len(tests) and done[0] >= PERTURBATIONS and done[1] >= RANDOM
    if not whole:
        say(f"the rest goes on from {report.path} when it is asked for again")
    return DONE if whole else LEFT


if __name__ == "__main__":
    sys.exit(main())
