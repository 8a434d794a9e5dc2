"""What a gateway is started with."""

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from avow.receipt.statement import Method

VERSION = version("avow")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one caller may take up."""

    body_bytes: int = 8 * 1024 * 1024
    header_bytes: int = 32 * 1024
    connections: int = 4_096
    in_flight_per_node: int = 256
    deadline_ms: int = 600_000
    settled_timeout_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """`nodes` are addresses as NodeClient takes them; `chain` is the chain's JSON-RPC address, `trust` as --trust gives it (pin.py).

    `port` 0 picks a free one. `allowed_hosts` are the names that a Host header may hold; where empty, a gateway on a loopback
    address answers for loopback names alone (a web page cannot reach it under a name of its own), any other for all names.
    """

    home: Path
    nodes: tuple[str, ...]
    chain: str | None = None
    trust: str | None = None
    host: str = "127.0.0.1"
    port: int = 8600
    default_method: Method = Method.VANILLA
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
