"""The gateway: OpenAI's API and the Open Inference Protocol in front of inference nodes, with a receipt on every answer."""

from avow.nodes.gateway.account import account_address
from avow.nodes.gateway.config import GatewayConfig, Limits
from avow.nodes.gateway.server import run_gateway, running_gateway, serve_gateway

__all__ = ["GatewayConfig", "Limits", "account_address", "run_gateway", "running_gateway", "serve_gateway"]
