"""The gateway process: everything put together, on one event loop."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import uvicorn

from avow.home import private_folder, write_private
from avow.nodes.chain_client import ChainClient
from avow.nodes.gateway.account import PayerAccount
from avow.nodes.gateway.application import LOOPBACK_NAMES, GatewayApplication
from avow.nodes.gateway.config import GatewayConfig
from avow.nodes.gateway.control import Control
from avow.nodes.gateway.direct import Direct
from avow.nodes.gateway.directory import Directory, Node
from avow.nodes.gateway.errors import AddressInUse
from avow.nodes.gateway.inference import Inference
from avow.nodes.gateway.metrics import GatewayMetrics
from avow.nodes.gateway.protocol import LimitedProtocol
from avow.nodes.gateway.settled import TrustGap, watch_settlements
from avow.nodes.gateway.trust import NetworkTrust
from avow.nodes.node_client import NodeClient
from avow.nodes.pin import find_pin
from avow.nodes.process import Ready, announce, run, until_stopped
from avow.nodes.proven import ProvenState, open_proven

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
    """A listening socket; port 0 picks a free one. Raises AddressInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressInUse(
            f"cannot listen at {host}:{port}: {error.strerror}", hint="--port chooses another"
        ) from error
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _hosts(config: GatewayConfig) -> frozenset[bytes]:
    if config.allowed_hosts:
        return frozenset(host.lower().encode() for host in config.allowed_hosts)
    if config.host.startswith("127.") or config.host in ("localhost", "::1"):
        return LOOPBACK_NAMES
    return frozenset()


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves at `url`; none of its `tasks` ends by itself unless something is wrong."""

    url: str
    tasks: list[asyncio.Task[None]]


@contextlib.asynccontextmanager
async def running_gateway(
    config: GatewayConfig, connect: Callable[[], Node], payer: PayerAccount
) -> AsyncIterator[Running]:
    """A gateway that serves for as long as the context is open. Raises AddressInUse."""
    limits = config.limits
    metrics = GatewayMetrics()
    gap = TrustGap(metrics)
    directory = Directory(config.nodes, connect, limits.in_flight_per_node, config.default_method)
    async with contextlib.AsyncExitStack() as stack:
        chain = await _chain(config, stack)
        control = Control(directory, metrics, NetworkTrust(_proven(config, chain), config.home / "trust.json"), chain)
        inference = Inference(directory, metrics, gap, payer, limits)
        application = GatewayApplication(inference, control, _hosts(config))
        listener = stack.enter_context(listen(config.host, config.port))
        direct = Direct(inference, application.host_allowed, limits.deadline_ms)
        server = _Server(_uvicorn_config(application, direct, config))
        jobs = {
            "http": server.serve([listener]),
            "settlements": watch_settlements(directory, gap, metrics),
            "allowances": payer.keep_allowances(directory),
            **{f"link {link.address}": link.run() for link in directory.links},
        }
        tasks = [asyncio.create_task(job, name=name) for name, job in jobs.items()]
        try:
            await _until_listening(server, tasks[0])
            host, port = listener.getsockname()[:2]
            yield Running(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", tasks)
        finally:
            server.should_exit = True
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _chain(config: GatewayConfig, stack: AsyncExitStack) -> ChainClient | None:
    """Who is asked about the chain. Raises TrustNotPinned, InputError."""
    if config.chain is None:
        return None
    find_pin(config.home, config.chain, config.trust)  # what cannot begin to trust does not begin at all
    return await stack.enter_async_context(ChainClient(config.chain, timeout_s=CHAIN_TIMEOUT_S))


def _proven(config: GatewayConfig, client: ChainClient | None) -> Callable[[], Awaitable[ProvenState]] | None:
    """How the chain's state is reached."""
    chain = config.chain
    if chain is None or client is None:
        return None
    return lambda: open_proven(client, config.home, chain, config.trust, name="gateway/headers")


async def _until_listening(server: _Server, serving: asyncio.Task[None]) -> None:
    listening = asyncio.create_task(server.listening.wait())
    done, _ = await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
    if serving in done:
        listening.cancel()
        serving.result()


def _uvicorn_config(application: GatewayApplication, direct: Direct, config: GatewayConfig) -> uvicorn.Config:
    settings = {"header_limit": config.limits.header_bytes, "direct": direct}
    protocol = type("GatewayProtocol", (LimitedProtocol,), settings)
    return uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=config.limits.connections,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_GRACE_S,
        backlog=1024,
    )


async def serve_gateway(config: GatewayConfig, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called once with the URL, which HOME/gateway/state.json then holds too.

    Raises what ends the process.
    """
    private_folder(config.home / "gateway")
    async with (
        PayerAccount.open(config.home / "gateway" / "key", config.chain, home=config.home, trust=config.trust) as payer,
        running_gateway(config, NodeClient, payer) as gateway,
    ):
        state = {"url": gateway.url, "pid": os.getpid(), "payer": "0x" + payer.address.hex()}
        write_private(config.home / "gateway" / "state.json", json.dumps(state).encode() + b"\n")
        ready(gateway.url)
        await until_stopped(gateway.tasks)


def run_gateway(config: GatewayConfig, ready: Ready = announce) -> None:
    """The process: blocks until it is told to stop."""
    run(lambda: serve_gateway(config, ready))
