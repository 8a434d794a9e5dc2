"""`avow status`: what runs, and how it is."""

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


def _trust(folder: Path, address: str) -> str | None:
    """The fingerprint of the policy in force, or None."""
    try:
        return fingerprint(Pins(folder).for_url(address))
    except AvowError:
        return None
