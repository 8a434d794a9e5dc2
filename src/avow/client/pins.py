"""Which trust policy is pinned for which gateway.

Rules:
1. A gateway on this machine (a loopback address) is judged by HOME/trust.json, which the local network writes.
2. Any other gateway needs a policy that was pinned for its address, HOME/pins/<address>.json; without one nothing is asked of it.
   Nothing that a gateway says pins itself: `avow trust pin` shows what it would pin, and a person decides.
3. A receipt without a gateway is judged by the policy of its chain id, among these.
"""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from avow.errors import EncodingError, InputError, TrustNotPinned
from avow.home import write_private
from avow.receipt.encoding import tagged_hash
from avow.receipt.trust import MAX_POLICY, TrustPolicy

LOCAL_POLICY = "trust.json"
PIN_FOLDER = "pins"
_PIN_HINT = "`avow trust pin URL` shows the network's policy and pins it"


def origin_of(url: str) -> str:
    """Scheme, host and port, in one form. Raises InputError for what is no http(s) address."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        raise InputError(f"not an http or https address: {url!r}") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[^A-Za-z0-9.:_-]", host):
        raise InputError(f"not an http or https address: {url!r}")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(url: str) -> bool:
    """Whether the address can only be this machine: localhost, or a loopback IP address. Names are not looked up."""
    host = (urlsplit(origin_of(url)).hostname or "").rstrip(".")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def fingerprint(policy: TrustPolicy) -> str:
    """A short name of what a policy trusts, for comparison by eye: four groups of eight hex digits."""
    digest = tagged_hash(b"avow/policy/1", policy.to_json()).hex()
    return "-".join(digest[at : at + 8] for at in range(0, 32, 8))


def read_policy(path: Path) -> TrustPolicy:
    """The policy in a file. Raises InputError when it cannot be read, BadPolicy when it is none."""
    try:
        with path.open("rb") as file:
            return TrustPolicy.from_json(file.read(MAX_POLICY + 1))
    except OSError as error:
        raise InputError(f"cannot read the trust policy {path}: {error.strerror}") from error


class Pins:
    """The policies under one HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def path(self, url: str) -> Path:
        """Where the policy for the gateway at `url` is or would be."""
        origin = origin_of(url)
        return self.home / PIN_FOLDER / (re.sub(r"[^A-Za-z0-9.-]+", "_", origin) + ".json")

    def for_url(self, url: str) -> TrustPolicy:
        """Rules 1 and 2. Raises TrustNotPinned."""
        return read_policy(self.file_for(url))

    def file_for(self, url: str) -> Path:
        """The file whose policy is in force for the gateway at `url`. Raises TrustNotPinned."""
        path = self.path(url)
        if path.exists():
            return path
        if is_loopback(url):
            local = self.home / LOCAL_POLICY
            if local.exists():
                return local
            raise TrustNotPinned(
                f"no network has run here: there is no {local}",
                hint="start one with `avow up`, or name its home with --home",
            )
        raise TrustNotPinned(f"no trust policy is pinned for {origin_of(url)}", hint=_PIN_HINT)

    def for_chain(self, chain_id: str) -> TrustPolicy | None:
        """Rule 3: the newest policy with that chain id, or None."""
        found = [policy for _, policy in self.all() if policy.chain_id == chain_id]
        return max(found, key=lambda policy: policy.time_ms, default=None)

    def all(self) -> list[tuple[Path, TrustPolicy]]:
        """Every policy under HOME; files that are none are passed over."""
        paths = [self.home / LOCAL_POLICY, *sorted((self.home / PIN_FOLDER).glob("*.json"))]
        found: list[tuple[Path, TrustPolicy]] = []
        for path in paths:
            try:
                found.append((path, read_policy(path)))
            except (InputError, EncodingError):
                continue
        return found

    def pin(self, url: str, policy: TrustPolicy) -> Path:
        """Pin `policy` for the gateway at `url`; the file's path."""
        path = self.path(url)
        write_private(path, policy.to_json())
        return path
