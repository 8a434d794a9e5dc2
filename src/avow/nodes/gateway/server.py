"""The gateway process: everything put together, on one event loop."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

from avow.home import private_folder, write_private
from avow.nodes.chain_client import ChainClient
from avow.nodes.gateway.account import PayerAccount
from avow.nodes.gateway.application import LOOPBACK_NAMES, GatewayApplication
from avow.nodes.gateway.config import GatewayConfig
from avow.nodes.gateway.control import Control
from avow.nodes.gateway.directory import Directory, Node
from avow.nodes.gateway.inference import Inference
from avow.nodes.gateway.metrics import GatewayMetrics
from avow.nodes.gateway.protocol import LimitedProtocol
from avow.nodes.gateway.settled import TrustGap, watch_settlements
from avow.nodes.gateway.trust import NetworkTrust

CHAIN_TIMEOUT_S = 5.0
STOP_GRACE_S = 5
"""How long running requests may finish when the gateway is asked to stop."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process decides when to stop. `listening` is set once it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _hosts(config: GatewayConfig) -> frozenset[bytes]:
    if config.allowed_hosts:
        return frozenset(host.lower().encode() for host in config.allowed_hosts)
    if config.host.startswith("127.") or config.host in ("localhost", "::1"):
        return LOOPBACK_NAMES
    return frozenset()


@contextlib.asynccontextmanager
async def running_gateway(
    config: GatewayConfig, connect: Callable[[], Node], payer: PayerAccount
) -> AsyncIterator[str]:
    """A gateway that serves for as long as the context is open; gives its URL."""
    limits = config.limits
    metrics = GatewayMetrics()
    gap = TrustGap(metrics)
    directory = Directory(config.nodes, connect, limits.in_flight_per_node, config.default_method)
    chain = None if config.chain is None else ChainClient(config.chain, timeout_s=CHAIN_TIMEOUT_S)
    trust = NetworkTrust(chain, config.home / "trust.json")
    application = GatewayApplication(
        Inference(directory, metrics, gap, payer.address, limits), Control(directory, metrics, trust), _hosts(config)
    )
    listener = listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    server = _Server(_uvicorn_config(application, config))
    tasks = [
        asyncio.create_task(watch_settlements(directory, gap, metrics), name="settlements"),
        asyncio.create_task(payer.keep_allowances(directory), name="allowances"),
    ]
    async with directory.running():
        serving = asyncio.create_task(server.serve([listener]), name="http")
        try:
            listening = asyncio.create_task(server.listening.wait())
            await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            server.should_exit = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(serving, *tasks, return_exceptions=True)
            listener.close()
            if chain is not None:
                await chain.close()


def _uvicorn_config(application: GatewayApplication, config: GatewayConfig) -> uvicorn.Config:
    protocol = type("GatewayProtocol", (LimitedProtocol,), {"header_limit": config.limits.header_bytes})
    return uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=config.limits.connections,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_GRACE_S,
        backlog=1024,
    )


async def serve_gateway(config: GatewayConfig, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called once with the URL."""
    from avow.nodes.node_client import NodeClient

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    private_folder(config.home / "gateway")
    async with (
        PayerAccount.open(config.home / "gateway" / "key", config.chain) as payer,
        running_gateway(config, NodeClient, payer) as url,
    ):
        state = {"url": url, "pid": os.getpid(), "payer": "0x" + payer.address.hex()}
        write_private(config.home / "gateway" / "state.json", json.dumps(state).encode() + b"\n")
        ready(url)
        await stop.wait()


def _announce(url: str) -> None:
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()


def run_gateway(config: GatewayConfig, ready: Callable[[str], None] = _announce) -> None:
    """The process: blocks until it is told to stop."""
    import uvloop

    uvloop.run(serve_gateway(config, ready))
