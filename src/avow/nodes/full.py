"""The chain process: state, engine and JSON-RPC server in one process on one event loop.

Rules:
1. HOME/chain holds all of it: genesis.cbor, validator.key (mode 0600), chain.db, the lock of the running process, and with the
   engine `cometbft` that program's folder, cometbft/. CometBFT itself is a child process.
2. The process ends when its engine stops on an error; whoever supervises it starts it anew, and it goes on where it is durable.
3. It listens on loopback unless told otherwise. What it serves is public: nothing secret is ever asked of it.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.application import Application
from avow.chain.genesis import AllowedMeasurement, Genesis
from avow.chain.state import SqliteStore
from avow.consensus.cometbft.binary import find
from avow.consensus.cometbft.configuration import Folder as CometFolder
from avow.consensus.cometbft.engine import CometBFTEngine
from avow.consensus.cometbft.snapshots import SnapshotFolder
from avow.consensus.embedded import EmbeddedEngine
from avow.consensus.engine import Engine
from avow.consensus.home import load_or_create_key
from avow.errors import AvowError, NotFound, Unavailable
from avow.home import private_folder, write_private
from avow.nodes.rpc.index import block_records
from avow.nodes.rpc.node import ChainNode
from avow.nodes.rpc.server import RpcApplication
from avow.receipt.finality import OptimisticParameters

FOLDER = "chain"
GENESIS = "genesis.cbor"
VALIDATOR_KEY = "validator.key"
DATABASE = "chain.db"
LOCK = "lock"
SNAPSHOTS = "snapshots"
STOP_GRACE_S = 3
EMBEDDED, COMETBFT = "embedded", "cometbft"
ENGINES = (EMBEDDED, COMETBFT)
COLLECT_AFTER = (50_000, 20, 50)
"""Python's collector looks for cycles after so many new objects (gc.set_threshold). With its own figures, made for small programs, it
goes through everything alive every few blocks.
"""


@dataclass(frozen=True, slots=True)
class FullNodeConfig:
    """`home` is the network's folder. Port 0 picks a free one. `hosts`, `origins`: rpc/server.py, rule 4.

    `engine`: one of ENGINES. `snapshot_interval`: a snapshot for state sync every so many blocks, 0 for none (cometbft alone).
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 0
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    engine: str = EMBEDDED
    snapshot_interval: int = 0


def create_network(
    home: Path,
    *,
    governance: bytes,
    accounts: Sequence[tuple[bytes, int]],
    attestation_roots: Sequence[bytes] = (),
    measurements: Sequence[AllowedMeasurement] = (),
    treasury: bytes | None = None,
    heartbeat_ms: int = 10_000,
    time_ms: int | None = None,
    optimistic: OptimisticParameters | None = None,
) -> Genesis:
    """The genesis in HOME, made now when there is none yet: an existing network keeps the one it has."""
    folder = private_folder(home / FOLDER)
    file = folder / GENESIS
    if file.exists():
        return Genesis.from_bytes(file.read_bytes())
    validator = load_or_create_key(folder / VALIDATOR_KEY).public_key().public_bytes_raw()
    genesis = Genesis(
        time_ms=time.time_ns() // 1_000_000 if time_ms is None else time_ms,
        governance=governance,
        treasury=governance if treasury is None else treasury,
        accounts=tuple(sorted(dict(accounts).items())),
        validators=((validator, 1),),
        validators_fixed=True,
        attestation_roots=tuple(attestation_roots),
        measurements=tuple(measurements),
        heartbeat_ms=heartbeat_ms,
        optimistic=optimistic or OptimisticParameters(),
    )
    write_private(file, genesis.to_bytes())
    return genesis


def load_genesis(home: Path) -> Genesis:
    """Raises NotFound when no network was made in HOME, BadGenesis for a damaged file."""
    try:
        data = (home / FOLDER / GENESIS).read_bytes()
    except FileNotFoundError:
        raise NotFound("there is no network here yet", hint="`avow up` makes one", home=str(home)) from None
    return Genesis.from_bytes(data)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers. `listening` is set once it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A chain that runs, and where its JSON-RPC is."""

    node: ChainNode
    url: str


@contextlib.asynccontextmanager
async def running_chain(config: FullNodeConfig) -> AsyncIterator[RunningNode]:
    """A chain that makes blocks and serves for as long as the context is open."""
    folder = private_folder(config.home / FOLDER)
    genesis = load_genesis(config.home)
    key = load_or_create_key(folder / VALIDATOR_KEY)
    store = SqliteStore(str(folder / DATABASE))
    with contextlib.closing(store):
        application = Application(store, genesis)
        engine = _engine(config, application, store, genesis, key)
        node = ChainNode(engine, application, store, genesis)
        try:
            await engine.start()
            async with _serving(RpcApplication(node, hosts=config.hosts, origins=config.origins), config) as url:
                yield RunningNode(node, url)
        finally:
            await engine.stop()


def _engine(
    config: FullNodeConfig, application: Application, store: SqliteStore, genesis: Genesis, key: Ed25519PrivateKey
) -> Engine:
    """Raises AlreadyRunning, StateMismatch, NotTheValidator; with CometBFT also CometBFTMissing and BadConfiguration."""
    folder = config.home / FOLDER
    lock = folder / LOCK
    if config.engine == EMBEDDED:
        return EmbeddedEngine(application, store, genesis, key, lock_path=lock, index=block_records)
    comet = CometFolder(folder / COMETBFT)
    snapshots = SnapshotFolder(
        folder / SNAPSHOTS, store, interval=config.snapshot_interval, on_restored=application.restored
    )
    return CometBFTEngine(
        application, store, genesis, comet, find(), snapshots=snapshots, lock_path=lock, index=block_records
    )


@contextlib.asynccontextmanager
async def _serving(application: RpcApplication, config: FullNodeConfig) -> AsyncIterator[str]:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            detail = f"cannot listen on {config.host} port {config.port} ({error.strerror})"
            raise Unavailable(detail, host=config.host, port=config.port) from error
        listener.listen(1024)
        listener.setblocking(False)
        host, port = listener.getsockname()[:2]
        server = _Server(
            uvicorn.Config(
                application,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=STOP_GRACE_S,
            )
        )
        serving = asyncio.create_task(server.serve([listener]), name="rpc")
        try:
            await asyncio.wait(
                (serving, asyncio.create_task(server.listening.wait())), return_when=asyncio.FIRST_COMPLETED
            )
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


async def serve_chain(config: FullNodeConfig, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; raises what stopped the engine. `ready` is called once with the URL."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = loop.create_task(_serve(config, ready))
    asked = loop.create_task(stop.wait())
    try:
        await asyncio.wait((serving, asked), return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        if not serving.done():
            serving.cancel()  # also while it waits for a first block that others have to make
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _serve(config: FullNodeConfig, ready: Callable[[str], None]) -> None:
    async with running_chain(config) as running:
        ready(running.url)
        await running.node.engine.stopped()


def _announce(url: str) -> None:
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()


def run_chain(config: FullNodeConfig, ready: Callable[[str], None] = _announce) -> None:
    """The process: blocks until it is told to stop."""
    import uvloop

    gc.freeze()  # modules and tables: they stay
    gc.set_threshold(*COLLECT_AFTER)
    uvloop.run(serve_chain(config, ready))


def main() -> None:
    """`python -m avow.nodes.full`: the process as the supervisor starts it."""
    parser = argparse.ArgumentParser(prog="avow chain", description="Order, verify and record settlements.")
    parser.add_argument("--home", type=Path, required=True, help="with the chain's genesis and keys")
    parser.add_argument("--host", default="127.0.0.1", help="where JSON-RPC listens")
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("AVOW_CHAIN_PORT", "0")), help="0 picks one [$AVOW_CHAIN_PORT]"
    )
    parser.add_argument(
        "--allowed-host", action="append", default=[], help="a name that it answers for; may be repeated"
    )
    parser.add_argument(
        "--cors-origin", action="append", default=[], help="a web page's origin that may call it; may be repeated"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=os.environ.get("AVOW_ENGINE", EMBEDDED),
        help="who orders: one validator in this process, or CometBFT [$AVOW_ENGINE]",
    )
    parser.add_argument(
        "--snapshot-interval", type=int, default=0, metavar="BLOCKS", help="a snapshot for nodes that join, so often"
    )
    given = parser.parse_args()
    hosts, origins = tuple(given.allowed_host), tuple(given.cors_origin)
    try:
        run_chain(
            FullNodeConfig(given.home, given.host, given.port, hosts, origins, given.engine, given.snapshot_interval)
        )
    except AvowError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"avow chain: {error.code}: {error.detail}{hint}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
