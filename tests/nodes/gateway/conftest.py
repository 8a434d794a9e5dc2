"""A gateway on a real socket in front of a simulated node."""

import json
import sys
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from avow.nodes.gateway import GatewayConfig, running_gateway
from avow.nodes.gateway.account import PayerAccount
from tests.nodes.gateway.simulated_node import SimulatedNode

JSON = {"content-type": "application/json"}


class Gateway:
    def __init__(self, url, node, home):
        self.url = url
        self.node = node
        self.home = home
        self.http = httpx2.AsyncClient(base_url=url, timeout=20)

    async def chat(self, body, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/v1/chat/completions", content=body, headers=JSON | named)

    async def wait_for_model(self):
        for _ in range(200):
            if (await self.http.get("/v2/health/ready")).status_code == 200:
                return
            import asyncio

            await asyncio.sleep(0.01)
        raise AssertionError("the gateway never found its node")


@pytest.fixture
def node():
    return SimulatedNode()


@pytest.fixture
def make_gateway(tmp_path):
    """An async context manager: a running gateway in front of `node`."""
    import contextlib

    @contextlib.asynccontextmanager
    async def make(node, bank=None, **changes):
        config = GatewayConfig(home=tmp_path, nodes=("unix:/simulated",), port=0, **changes)
        (tmp_path / "trust.json").write_bytes(node.network.trust().to_json())
        async with running_gateway(config, node.client, PayerAccount(node.network.payer, bank)) as running:
            gateway = Gateway(running.url, node, tmp_path)
            await gateway.wait_for_model()
            try:
                yield gateway
            finally:
                await gateway.http.aclose()

    return make


@pytest.fixture
async def gateway(node, make_gateway):
    async with make_gateway(node) as running:
        yield running


def events(text):
    """The data of a stream's events and, apart, its comment lines."""
    data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    comments = [line for line in text.split("\n") if line.startswith(":")]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]], comments
