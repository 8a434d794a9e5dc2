"""What the node's processes have in common: how they start, say that they are ready, and stop."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from avow.errors import AvowError

log = logging.getLogger(__name__)

Ready = Callable[[str], None]


GC_THRESHOLD = 20_000
"""Objects made before the collector looks: answers make no cycles, and looking at all of Python's modules takes milliseconds."""


def settle_in() -> None:
    """To be called once a process is set up: what is there stays, and the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def announce(where: str) -> None:
    """One line on standard output, which the supervisor waits for."""
    sys.stdout.write(f"ready {where}\n")
    sys.stdout.flush()


def configure_logging() -> None:
    """To standard error, a line each; AVOW_LOG sets the level."""
    level = os.environ.get("AVOW_LOG", "warning").upper()
    logging.basicConfig(
        stream=sys.stderr,
        level=level if level in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"} else "WARNING",
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def dump_tasks() -> None:
    """On SIGUSR1: to standard error, what every task waits for."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=6, file=sys.stderr)
    sys.stderr.flush()


async def until_stopped(tasks: list["asyncio.Task[None]"]) -> None:
    """Until SIGTERM or SIGINT, or until one of the tasks ends, whose error is then raised."""
    settle_in()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, dump_tasks)
    asked = loop.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([asked, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        asked.cancel()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a process; an error of ours is one line and exit status 1."""
    import uvloop

    configure_logging()

    async def guarded() -> None:
        await main()

    try:
        uvloop.run(guarded())
    except AvowError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"{error.code}: {error.detail}{hint}\n")
        raise SystemExit(1) from error
