"""`python -m tests.soak_fraud.node`: an inference node as users start it, but with engines that lie when they are told to."""

import argparse
from dataclasses import replace
from pathlib import Path

from avow.nodes import openings
from avow.nodes.inference import main
from avow.nodes.programs import load_programs
from tests.soak_fraud.engines import LyingCommitment, lying


def programs():
    """Those that the node's own arguments name, with lying engines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--program", action="append", default=[])
    given, _ = parser.parse_known_args()
    loaded = load_programs(given.home, given.program)
    return {program: replace(item, engine=lying(item.engine)) for program, item in loaded.items()}


if __name__ == "__main__":
    openings.CommittedRun = LyingCommitment
    main(programs())
