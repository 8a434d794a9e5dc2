"""`python -m tests.soak`: kill processes at random under load for a while, and check that nothing was lost."""

import argparse
import asyncio
import secrets
import tempfile
from pathlib import Path

from avow.nodes.process import configure_logging
from tests.soak.soak import soak


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, help="a folder to keep the network's home in")
    given = parser.parse_args()
    configure_logging()
    for _ in range(given.rounds):
        seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
        print(f"seed {seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="avow-soak-") as folder:
            home = given.keep or Path(folder)
            tally = asyncio.run(soak(home, seconds=given.seconds, seed=seed, callers=given.callers))
        print(
            f"kills {tally.kills}\ndelivered {len(tally.delivered)}, all settled once and verified;"
            f" statements settled {tally.settled}, void {tally.voided}\nfailed calls {tally.failed}\n"
            f"both methods answered {max(tally.recovered_s):.1f} s after the last kill",
            flush=True,
        )


if __name__ == "__main__":
    main()
