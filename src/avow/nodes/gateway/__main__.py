"""`python -m avow.nodes.gateway`: the process as the supervisor starts it."""

import argparse
from pathlib import Path

from avow.nodes.gateway.config import GatewayConfig, Limits
from avow.nodes.gateway.server import run_gateway
from avow.nodes.pin import TRUST_HELP
from avow.receipt.statement import Method


def main() -> None:
    parser = argparse.ArgumentParser(prog="avow gateway", description="Serve answers with receipts.")
    parser.add_argument("--home", type=Path, required=True, help="with the gateway's account and the trust policy")
    parser.add_argument("--node", action="append", required=True, help="unix:PATH or tcp:HOST:PORT; may be repeated")
    parser.add_argument("--chain", help="the chain's JSON-RPC URL; several, separated by commas, are followed")
    parser.add_argument("--trust", metavar="PIN", help=TRUST_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="where HTTP listens")
    parser.add_argument("--port", type=int, default=8600, help="0 picks one")
    parser.add_argument(
        "--method",
        choices=[method.label for method in Method],
        default=Method.VANILLA.label,
        help="for callers who name none",
    )
    parser.add_argument(
        "--allowed-host", action="append", default=[], help="a name that it answers for; may be repeated"
    )
    parser.add_argument("--max-body", type=int, default=Limits().body_bytes, help="bytes")
    given = parser.parse_args()
    run_gateway(
        GatewayConfig(
            home=given.home,
            nodes=tuple(given.node),
            chain=given.chain,
            trust=given.trust,
            host=given.host,
            port=given.port,
            default_method=next(method for method in Method if method.label == given.method),
            allowed_hosts=tuple(given.allowed_host),
            limits=Limits(body_bytes=given.max_body),
        )
    )


if __name__ == "__main__":
    main()
