"""`python -m tests.soak_fraud`: fraud planted in every kind of operator of every real model, on a running network, caught by `avow watch`.

Ended and started again it goes on where it was: what was caught stays in HOME/results.jsonl. Ends with 1 if anything was not as it has to be.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median

from avow.cli.progress import progress as bar
from avow.nodes.process import configure_logging
from tests.soak_fraud.campaign import campaign, honest
from tests.soak_fraud.models import MODELS

HOME = Path(__file__).resolve().parents[2] / "build" / "soak_fraud"


def view(tally):
    sizes = sorted(line["proof_bytes"] for line in tally.lines) or [0]
    return {
        "model": tally.model,
        "kinds": len({line["kind"] for line in tally.lines}),
        "lies": len(tally.lines),
        "caught": tally.caught,
        "masked": len(tally.masked),
        "honest": tally.honest,
        "seconds": round(tally.seconds, 1),
        "answer_to_conviction_s": tally.live_s,
        "proof_bytes": {"median": int(median(sizes)), "largest": sizes[-1]},
    }


def row(tally):
    seen = view(tally)
    live = "–" if seen["answer_to_conviction_s"] is None else f"{seen['answer_to_conviction_s']:.1f} s"
    return (
        f"{seen['model']:<28} {seen['kinds']:>3} kinds  {seen['caught']:>3} of {seen['lies']:>3} lies caught  {seen['masked']:>2} masked"
        f"  {seen['honest']:>3} honest unchallenged  {seen['seconds']:>6.0f} s  live {live}"
        f"  proofs {seen['proof_bytes']['median']:,} B, at most {seen['proof_bytes']['largest']:,} B"
    )


def troubles(tally):
    return [
        *(f"{tally.model}: {problem}" for problem in tally.problems),
        *(f"{line['name']}: {problem}" for line in tally.lines for problem in line["problems"]),
    ]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak_fraud", description=__doc__)
    parser.add_argument("--models", help=f"of {', '.join(MODELS)}; separated by commas [all]")
    parser.add_argument("--cases", type=int, help="at most so many lies of each kind [all]")
    parser.add_argument(
        "--honest", type=int, metavar="N", help="no lies: N honest answers of each model, all checked, none challenged"
    )
    parser.add_argument("--home", type=Path, default=HOME, help="store, network and results")
    parser.add_argument("--again", action="store_true", help="do again what is done")
    parser.add_argument("--json", action="store_true", help="the report as one JSON value")
    given = parser.parse_args()
    names = given.models.split(",") if given.models else list(MODELS)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        parser.error(f"no model {unknown[0]!r}: one of {', '.join(MODELS)}")
    configure_logging()
    if given.again and not given.honest:
        (given.home / "results.jsonl").unlink(missing_ok=True)
    began = time.monotonic()

    def report(tally):
        if not given.json:
            print(row(tally), *troubles(tally), sep="\n  ", flush=True)

    with bar(quiet=given.json) as progress:
        if given.honest:
            running = honest(given.home, names, given.honest, progress=progress, report=report)
        else:
            running = campaign(given.home, names, limit=given.cases, progress=progress, report=report)
        tallies = asyncio.run(running)
    wrong = [trouble for tally in tallies for trouble in troubles(tally)]
    whole = {
        "models": [view(tally) for tally in tallies],
        "lies": sum(len(tally.lines) for tally in tallies),
        "caught": sum(tally.caught for tally in tallies),
        "masked": [name for tally in tallies for name in tally.masked],
        "honest": sum(tally.honest for tally in tallies),
        "seconds": round(time.monotonic() - began, 1),
        "problems": wrong,
    }
    if given.json:
        print(json.dumps(whole, indent=2))
    else:
        print(
            f"{whole['caught']} of {whole['lies']} lies caught, {len(whole['masked'])} that change nothing committed,"
            f" {whole['honest']} honest answers unchallenged, {len(wrong)} problems, {whole['seconds']:.0f} s"
        )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
