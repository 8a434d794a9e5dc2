"""`avow watch`: run optimistic answers again, and challenge those that are wrong."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import click

from avow.cli.frame import FAILED, INTERRUPTED, OK, common, mapping, put, put_json, resolve_home, say
from avow.cli.network import node_module
from avow.client.accounts import Accounts, checksummed
from avow.client.session import gateway_url
from avow.errors import InputError


@click.command()
@click.option(
    "--chain", metavar="URL", help="The chain's JSON-RPC; several, separated by commas [the local network's]."
)
@click.option("--gateway", "gateways", multiple=True, metavar="URL", help="Where openings are asked for (repeatable).")
@click.option(
    "--rate", type=click.FloatRange(0, 1), help="Share of the statements to check [the rate that the network posts]."
)
@click.option(
    "--account", metavar="NAME", help="Account of `avow key` that signs, pays bonds and is rewarded [HOME/watcher/key]."
)
@click.option(
    "--journal", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="[HOME/watcher/journal.db]"
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads per run.")
@click.option(
    "--once", is_flag=True, help="Check what can still be challenged, then stop; exit code 1 if anything was wrong."
)
@click.option("--status", "only_status", is_flag=True, help="Show what the journal holds, and stop.")
@common
def watch(
    chain: str | None,
    gateways: tuple[str, ...],
    rate: float | None,
    account: str | None,
    journal: Path | None,
    threads: int,
    once: bool,
    only_status: bool,
    home: Path | None,
    as_json: bool,
) -> int:
    """Follow a network's optimistic statements, run the chosen ones again, and challenge what is wrong.

    Anyone can: the programs must be in the store (`avow model add`), and the account must hold enough for the bond of a challenge. A
    statement is challenged only when this machine gives the same other result twice and its own referee convicts. With --json each change
    is a line. Runs until Ctrl-C; what it had begun goes on when it is started again.
    """
    folder = resolve_home(home)
    process = node_module("avow.nodes.watcher.process")
    file = journal or process.journal_file(folder)
    if only_status:
        return _status(file, as_json=as_json)
    node_module("avow.nodes.process").configure_logging()
    config = process.WatchConfig(
        folder,
        chain or _local_chain(folder),
        gateways or (gateway_url(folder),),
        None if rate is None else round(rate * 1_000_000),
        None if account is None else Accounts(folder).load(account).private_key,
        file,
        threads,
    )
    return asyncio.run(_watch(process, config, once=once, as_json=as_json))


def _local_chain(home: Path) -> str:
    try:
        found = json.loads((home / "network.json").read_bytes())["chain"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            "which chain?", hint="name its JSON-RPC with --chain, or start a network with `avow up`"
        ) from None
    return str(found)


async def _watch(process: Any, config: Any, *, once: bool, as_json: bool) -> int:
    report = node_module("avow.nodes.watcher.report")
    stop, wrong = asyncio.Event(), 0

    def changed(case: Any) -> None:
        nonlocal wrong
        alarm = report.is_alarm(case)
        wrong += alarm
        try:
            if as_json:
                put(json.dumps(report.as_json(case)))
            else:
                put(click.style(report.as_line(case), fg="red" if alarm else None))
        except BrokenPipeError:  # nobody reads any more: as Ctrl-C
            stop.set()

    def asked() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # the second time: at once
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    async with process.watching(config, changed) as made:
        if not as_json:
            _introduce(made, config)
        await process.until_over(made.watcher, stop, once=once)
        counts, errors = made.journal.counts(), made.watcher.own_errors
    say("stopped: " + (", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing was chosen"))
    if errors:
        told = f"{errors} errors of the watcher itself: see the log above, and `avow watch --status`"
        say(click.style(told, fg="red"))
    return FAILED if once and (wrong or errors) else OK


def _introduce(made: Any, config: Any) -> None:
    parameters = made.parameters
    rate = parameters.audit_ppm if config.rate_ppm is None else config.rate_ppm
    role = "appointed" if made.appointed else "not appointed: it sees what is public or names it"
    mapping(
        [
            ("network", made.chain_id),
            ("account", f"{checksummed(made.address)}, {made.balance} wei ({role})"),
            ("checks", f"{rate / 10_000:g} % of the statements"),
            ("challenge", f"bond {parameters.challenge_bond} wei; window {parameters.window_ms / 1000:g} s"),
            ("gateways", ", ".join(config.gateways)),
        ]
    )


def _status(file: Path, *, as_json: bool) -> int:
    summary = node_module("avow.nodes.watcher.journal").read_summary(file)
    view = {str(state): count for state, count in summary.cases.items()}
    faults = [fault.as_json() for fault in summary.faults]
    if as_json:
        put_json(
            {"journal": str(file), "height": summary.height, "seen": summary.seen, "cases": view, "faults": faults}
        )
        return OK
    mapping(
        [
            ("journal", str(file)),
            ("read up to block", str(summary.height)),
            ("statements seen", str(summary.seen)),
            *[(state, str(count)) for state, count in view.items()],
            *[
                ("error of the watcher", f"{_subject(fault)}: {fault['detail']} ({fault['count']} times)")
                for fault in faults
            ],
        ]
    )
    return OK


def _subject(fault: dict[str, Any]) -> str:
    return str(fault.get("statement", ""))[:16] or str(fault["what"])
