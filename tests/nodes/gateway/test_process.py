"""The process: how it starts, what it says, how it stops; nodes that offer what is not known here; the trust policy's source."""

import asyncio
import json
import signal
import socket
import sys

import httpx2
import pytest

from avow.errors import Unavailable
from avow.nodes.chain_client import ChainUnavailable
from avow.nodes.gateway import GatewayConfig, running_gateway
from avow.nodes.gateway import protocol as protocol_module
from avow.nodes.gateway.account import PayerAccount, account_address
from avow.nodes.gateway.errors import AddressInUse
from avow.nodes.gateway.trust import NetworkTrust
from avow.nodes.jobs import NodeDescription
from tests.nodes.gateway.simulated_node import SimulatedNode, chat


async def test_the_process_says_where_it_is_and_stops_when_told(tmp_path):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avow.nodes.gateway", "--home", str(tmp_path), "--port", "0"),
        *("--node", f"unix:{tmp_path}/absent.sock"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        url = (await process.stdout.readline()).decode().removeprefix("ready ").strip()
    state = json.loads((tmp_path / "gateway" / "state.json").read_text())
    assert state["url"] == url
    assert state["payer"] == "0x" + account_address(tmp_path / "gateway" / "key").hex()
    async with httpx2.AsyncClient(base_url=url) as http:
        health = await http.get("/health")
        assert (health.status_code, health.json()["nodes"][0]["connected"]) == (503, False)
        refused = await http.post("/v1/chat/completions", content=chat(), headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_node")
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(15):
        _, errors = await process.communicate()
    assert process.returncode == 0
    assert not errors


async def test_a_port_that_is_taken_is_said_in_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = GatewayConfig(home=tmp_path, nodes=(), port=taken.getsockname()[1])
        with pytest.raises(AddressInUse):
            async with running_gateway(config, SimulatedNode().client, PayerAccount(b"\x01" * 20, None)):
                pass


async def test_methods_and_prices_that_are_not_known_here_are_left_out(make_gateway):
    node = SimulatedNode()
    describe = type(node.client()).describe

    class Newer(type(node.client())):
        async def describe(self):
            known = await describe(self)
            programs = [
                type(program)(
                    program.name, program.program, program.kind, [0, 9, 2], ["10", "10", "-1"], [1, 1, 1], "new", "2"
                )
                for program in known.programs
            ]
            return NodeDescription(known.chain_id, known.operator, programs, known.keys)

    node.client = lambda: Newer(node)
    async with make_gateway(node) as gateway:
        assert set((await gateway.http.get("/v1/models/echo")).json()["avow"]["methods"]) == {"vanilla"}
        assert (await gateway.chat(chat())).status_code == 200


async def test_a_head_that_does_not_come_costs_the_connection(node, make_gateway, monkeypatch):
    monkeypatch.setattr(protocol_module, "HEAD_TIMEOUT_S", 0.2)
    async with make_gateway(node) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        for begun in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: local"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(begun)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()


async def test_a_connection_is_kept_while_it_is_used_and_closed_when_it_is_idle(node, make_gateway, monkeypatch):
    made = protocol_module.LimitedProtocol.__init__

    def impatient(self, *arguments, **named):
        made(self, *arguments, **named)
        self.timeout_keep_alive = 0.3

    monkeypatch.setattr(protocol_module.LimitedProtocol, "__init__", impatient)
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s"
    body = chat()
    async with make_gateway(node) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")

        async def answer(reader):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            lines = head.lower().split(b"\r\n")
            [length] = [line for line in lines if line.startswith(b"content-length: ")]
            assert json.loads(await reader.readexactly(int(length[16:])))["avow"]["id"]
            return lines

        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, int(port))
            whole = request % (len(body), b"", body)
            for _ in range(3):  # longer in all than an idle connection lives
                writer.write(whole)
                assert b"connection: close" not in await answer(reader)
                await asyncio.sleep(0.15)
            writer.write(whole + whole)  # pipelined
            await answer(reader)
            await answer(reader)
            assert await reader.read() == b"", "idle for too long"
            writer.close()
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request % (len(body), b"connection: close\r\n", body))
            assert b"connection: close" in await answer(reader)
            assert await reader.read() == b""
            writer.close()


class Chain:
    """What `proven` opens: itself."""

    def __init__(self, policy):
        self.found = policy
        self.asked = 0

    async def open(self):
        return self

    async def policy(self):
        self.asked += 1
        if self.found is None:
            raise ChainUnavailable("the chain does not answer")
        return self.found


async def test_the_policy_is_the_chains_and_is_kept_for_a_while(tmp_path):
    policy = SimulatedNode().network.trust()
    chain = Chain(policy)
    trust = NetworkTrust(chain.open, tmp_path / "trust.json")
    assert await trust.policy() == policy.to_json()
    assert await trust.current() == policy
    assert chain.asked == 1


async def test_the_file_stands_in_for_a_chain_that_is_away(tmp_path):
    policy = SimulatedNode().network.trust()
    trust = NetworkTrust(Chain(None).open, tmp_path / "trust.json")
    with pytest.raises(Unavailable):
        await trust.policy()
    (tmp_path / "trust.json").write_bytes(policy.to_json())
    assert await trust.policy() == policy.to_json()
