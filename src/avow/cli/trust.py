"""`avow trust`: the policies that are pinned. Nothing pins itself: a person compares a fingerprint and decides."""

from pathlib import Path
from typing import Any

import click

from avow.cli.frame import Group, common, mapping, put, put_json, resolve_home, say
from avow.cli.show import moment
from avow.client.pins import Pins, fingerprint, origin_of, read_policy
from avow.client.session import gateway_url
from avow.errors import InputError, TrustNotPinned
from avow.receipt.trust import MAX_POLICY, TrustPolicy


@click.group(cls=Group)
def trust() -> None:
    """Whom you trust: chain, validators, attestation roots, methods."""


@trust.command()
@click.argument("url", required=False)
@common
def show(url: str | None, home: Path | None, as_json: bool) -> None:
    """The policy in force for the gateway at URL, or all that are pinned."""
    pins = Pins(resolve_home(home))
    found = pins.all() if url is None else [(pins.file_for(url), pins.for_url(url))]
    if as_json:
        put_json([_view(policy) | {"file": str(path)} for path, policy in found])
        return
    if not found:
        raise TrustNotPinned(
            "no trust policy is pinned here", hint="`avow up` starts a network, `avow trust pin URL` pins one"
        )
    for path, policy in found:
        put(click.style(str(path), bold=True))
        _put(policy)


@trust.command()
@click.argument("url", required=False)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pin this file, and ask the gateway nothing.",
)
@click.option(
    "--fingerprint", "expected", metavar="HEX", help="Pin without asking if this is the policy's fingerprint."
)
@click.option("--yes", is_flag=True, help="Pin without asking: trust what the gateway says, this once.")
@common
def pin(
    url: str | None, policy: Path | None, expected: str | None, yes: bool, home: Path | None, as_json: bool
) -> None:
    """Pin the policy by which the gateway at URL is judged from now on.

    Without --policy the gateway is asked for its network's policy; compare the fingerprint with one that you have from elsewhere.
    """
    folder = resolve_home(home)
    address = url or gateway_url(folder)
    found = fetch_policy(address) if policy is None else read_policy(policy)
    name = fingerprint(found)
    if expected is not None and expected.replace("-", "").lower() != name.replace("-", ""):
        raise TrustNotPinned(f"the policy's fingerprint is {name}, not {expected}: nothing is pinned")
    if not as_json:
        _put(found)
    if expected is None and policy is None and not yes:
        if as_json:
            raise TrustNotPinned("nothing is pinned", hint=f"confirm with --fingerprint {name}")
        if not click.confirm(f"Pin this for {origin_of(address)}?", err=True):
            raise TrustNotPinned("nothing is pinned")
    path = Pins(folder).pin(address, found)
    if as_json:
        put_json(_view(found) | {"file": str(path), "pinned": True})
    else:
        say(f"pinned in {path}")


def fetch_policy(url: str) -> TrustPolicy:
    """The policy that a gateway offers. Raises Unreachable, RemoteError, BadPolicy."""
    import httpx2

    from avow.client.pins import is_loopback
    from avow.client.session import remote_error, unreachable
    from avow.client.sync import read_all

    origin = origin_of(url)
    try:
        with httpx2.Client(timeout=30.0, trust_env=not is_loopback(origin)) as http:
            request = http.build_request("GET", f"{origin}/trust", headers={"accept-encoding": "identity"})
            response = http.send(request, stream=True)
            body = read_all(response)
    except httpx2.TransportError as error:
        raise unreachable(origin, error) from error
    if response.status_code != 200:
        raise remote_error(response.status_code, body)
    if len(body) > MAX_POLICY:
        raise InputError("the gateway's policy is too large")
    return TrustPolicy.from_json(body)


def _view(policy: TrustPolicy) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint(policy),
        "chain_id": policy.chain_id,
        "height": policy.height,
        "time_ms": policy.time_ms,
        "validators": [{"public_key": item.public_key.hex(), "power": item.power} for item in policy.validators],
        "methods": [method.label for method in policy.methods],
        "attestation_roots": [{"name": root.name, "kind": root.kind} for root in policy.attestation_roots],
        "measurements": [item.hex() for item in policy.measurements],
        "programs": [item.hex() for item in policy.programs],
    }


def _put(policy: TrustPolicy) -> None:
    days = policy.trusting_period_ms // 86_400_000
    validators = ", ".join(f"{item.public_key.hex()[:16]}… ({item.power})" for item in policy.validators[:8])
    roots = ", ".join(
        root.name + ("" if root.kind != "development" else " (not hardware)") for root in policy.attestation_roots
    )
    mapping(
        [
            ("fingerprint", fingerprint(policy)),
            ("chain", policy.chain_id),
            ("pinned at", f"height {policy.height}, {moment(policy.time_ms)}, for {days} days"),
            ("validators", f"{len(policy.validators)}: {validators}"),
            ("methods", ", ".join(method.label for method in policy.methods)),
            ("attestation roots", roots or "none"),
            ("measurements", str(len(policy.measurements)) if policy.measurements else "any that the chain allows"),
            ("programs", str(len(policy.programs)) if policy.programs else "any"),
        ]
    )
