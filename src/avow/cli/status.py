"""`avow status`: what runs, and how it is."""

import contextlib
import json
from pathlib import Path
from typing import Any

import click

from avow.cli.connect import url_option
from avow.cli.frame import FAILED, OK, common, mapping, put_json, resolve_home
from avow.client.errors import Unreachable
from avow.client.pins import Pins, fingerprint
from avow.client.saved import SavedReceipts
from avow.client.session import gateway_url, models_of
from avow.errors import AvowError


@click.command()
@url_option
@common
def status(url: str | None, home: Path | None, as_json: bool) -> int:
    """The gateway's health and models, the trust pinned for it, and what is kept here. Exit code 1 when it is not healthy."""
    folder = resolve_home(home)
    address = url or gateway_url(folder)
    view: dict[str, Any] = {
        "home": str(folder),
        "gateway": address,
        **_gateway(address),
        "trust": _trust(folder, address),
    }
    watcher = _watcher(folder)
    if watcher is not None:
        view["watcher"] = watcher
    view["receipts_kept"] = sum(1 for _ in SavedReceipts(folder).folder.glob("*.json"))
    if as_json:
        put_json(view)
    else:
        mapping(
            [
                ("home", view["home"]),
                ("gateway", f"{address}: {view['status']}"),
                ("models", ", ".join(view["models"]) or "none"),
                ("methods", ", ".join(view["methods"]) or "none"),
                *_bonds(view["nodes"]),
                *([] if watcher is None else [("watcher", _words(watcher))]),
                ("trust", view["trust"] or "none pinned"),
                ("receipts kept", str(view["receipts_kept"])),
            ]
        )
        if view["status"] == "unreachable":
            raise Unreachable(f"{address} does not answer", hint="start a network with `avow up`")
    return OK if view["status"] == "ok" else FAILED


def _gateway(address: str) -> dict[str, Any]:
    import httpx2

    from avow.client.pins import is_loopback, origin_of

    origin = origin_of(address)
    try:
        with httpx2.Client(base_url=origin, timeout=10.0, trust_env=not is_loopback(origin)) as http:
            health = http.get("/health").json()
            models = models_of(http.get("/v1/models").content)
    except (httpx2.TransportError, json.JSONDecodeError, UnicodeDecodeError):
        return {"status": "unreachable", "models": [], "methods": [], "nodes": []}
    if not isinstance(health, dict):
        health = {}
    return {
        "status": str(health.get("status", "unknown")),
        "models": [item.name for item in models],
        "methods": sorted({method for item in models for method in item.prices}),
        "nodes": health.get("nodes", []),
    }


def _bonds(nodes: list[Any]) -> list[tuple[str, str]]:
    """What nodes that answer by optimistic have at stake."""
    rows = []
    for node in nodes:
        stake = node.get("optimistic") if isinstance(node, dict) else None
        if isinstance(stake, dict):
            said = f"{stake.get('bond_wei')} wei, {stake.get('locked_wei')} of it locked"
            rows.append(("bond", f"{said} by {stake.get('open_statements')} statements that can be challenged"))
    return rows


def _watcher(folder: Path) -> dict[str, Any] | None:
    """What the journal of this home's watcher holds; None without one."""
    import sqlite3

    file = folder / "watcher" / "journal.db"
    if not file.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            facts = dict(database.execute("select name, value from facts").fetchall())
            cases = dict(database.execute("select state, count(*) from cases group by state").fetchall())
            [(faults,)] = database.execute("select coalesce(sum(count), 0) from faults").fetchall()
    except sqlite3.Error:
        return None
    return {
        "height": int(facts.get("height", 0)),
        "seen": int(facts.get("seen", 0)),
        "cases": cases,
        "own_errors": faults,
    }


def _words(watcher: dict[str, Any]) -> str:
    cases = ", ".join(f"{count} {state}" for state, count in sorted(watcher["cases"].items()))
    errors = watcher["own_errors"]
    return "; ".join(
        [
            f"{watcher['seen']} statements seen up to block {watcher['height']}",
            *([cases] if cases else ["none of them drawn to be run again"] if watcher["seen"] else []),
            *([f"{errors} errors of the watcher itself: `avow watch --status`"] if errors else []),
        ]
    )


def _trust(folder: Path, address: str) -> str | None:
    """The fingerprint of the policy in force, or None."""
    try:
        return fingerprint(Pins(folder).for_url(address))
    except AvowError:
        return None
