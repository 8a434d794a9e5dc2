"""`python -m avow.nodes.watcher`: the process as the supervisor starts it. Each change is a line of JSON in its log."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from avow.nodes.process import announce, run
from avow.nodes.watcher.journal import Case
from avow.nodes.watcher.process import WatchConfig, until_over, watching
from avow.nodes.watcher.report import as_json


def _log(case: Case) -> None:
    sys.stderr.write(json.dumps(as_json(case)) + "\n")
    sys.stderr.flush()


async def _serve(config: WatchConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with watching(config, _log) as made:
        announce("0x" + made.address.hex())
        await until_over(made.watcher, stop, once=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="avow watch", description="Run optimistic answers again, challenge wrong ones."
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--chain", required=True, help="the chain's JSON-RPC URL; several, separated by commas")
    parser.add_argument("--gateway", action="append", required=True, help="URL; may be repeated")
    parser.add_argument(
        "--rate-ppm", type=int, help="millionths of the statements to check; else what the network posts"
    )
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    config = WatchConfig(given.home, given.chain, tuple(given.gateway), given.rate_ppm, threads=given.threads)
    run(lambda: _serve(config))


if __name__ == "__main__":
    main()
