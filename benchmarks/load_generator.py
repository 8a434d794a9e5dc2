"""What the network benchmarks share: networks of ours and of CometBFT's own kvstore, a load that is made beforehand, and a follower.

Rules:
1. Both networks have the same CometBFT with the same settings, keys and limits (nodes/net/layout.py writes both); the application
   alone differs.
2. A load is signed and encoded before the clock starts: whole HTTP requests, each a JSON-RPC batch, over CONNECTIONS connections to each
   validator. Sending one is one write; its answer is read but not looked into, unless it holds an error. What the generator used of the
   processor is told with each run.
3. The loop is closed: at most `outstanding` transactions are sent and not yet in a block, so that nothing collapses and nothing starves.
4. Who follows reads whole blocks from one CometBFT's RPC, of both networks alike. A transaction counts when it is in a block, once;
   one that never comes ends the run with an error. It is final when its block is there: CometBFT's blocks are.
"""

import asyncio
import base64
import contextlib
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from avow.chain.genesis import Genesis
from avow.chain.transaction import address_of_private_key, sign_transaction
from avow.consensus.cometbft.binary import Binary, find
from avow.consensus.cometbft.configuration import empty_block_ms
from avow.consensus.cometbft.errors import CometBFTMissing
from avow.nodes.net.layout import Layout, NetConfig, ValidatorPlace, create
from avow.nodes.net.run import Net
from benchmarks.report import percentile, process_cpu_s

SIZE = 250
"""Bytes of a transaction."""
GAS = 24_000
SENDERS = 56
"""A multiple of the connections to 1, 4 and 7 validators and more, so that each has as many."""
CONNECTIONS = 2
POLL_S = 0.01
START_S = 60.0
LOST_S = 60.0
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def require_cometbft() -> Binary:
    """Ends the benchmark, measured or not, when there is no CometBFT."""
    try:
        return find()
    except CometBFTMissing as missing:
        print(f"not measured: {missing.detail}; {missing.hint}")
        raise SystemExit(0) from None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return min(found.getsockname()[1], 60_000)


# --- Load -------------------------------------------------------------------------------------------------------------

SENDER_KEYS = [sha256(b"network load" + number.to_bytes(4)).digest() for number in range(SENDERS)]


def transfers(eip155: int, count: int, *, first: int = 0, keys: Sequence[bytes] = SENDER_KEYS) -> list[bytes]:
    """Signed transfers of SIZE bytes, the senders in turn, each to an account of its own; `first` have been made before."""
    made = []
    for number in range(first, first + count):
        key, nonce = keys[number % len(keys)], number // len(keys)
        for padding in (SIZE - 113, SIZE - 112, SIZE - 111, SIZE - 114):
            raw = sign_transaction(
                key,
                chain_id=eip155,
                nonce=nonce,
                to=sha256(key + nonce.to_bytes(8)).digest()[:20],
                value=1,
                gas_limit=GAS,
                max_fee=2 * 10**9,
                data=b"\x5a" * padding,
            )
            if len(raw) == SIZE:
                break
        made.append(raw)
    return made


def pairs(count: int, *, first: int = 0) -> list[bytes]:
    """The kvstore's transactions, `key=value`, of the same size."""
    half = SIZE // 2
    return [b"%0*d=%s" % (half, number, b"v" * (SIZE - half - 1)) for number in range(first, first + count)]


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP request and the transactions in it."""

    request: bytes
    txs: tuple[bytes, ...]


def posts(txs: Sequence[bytes], method: str, batch: int) -> list[Post]:
    """Rule 2. `method`: broadcast_tx_async (CometBFT's RPC) or eth_sendRawTransaction (ours)."""
    return [post(txs[at : at + batch], method) for at in range(0, len(txs), batch)]


def post(txs: Sequence[bytes], method: str) -> Post:
    calls = []
    for tx in txs:
        ours = method.startswith("eth_")
        params: Any = ["0x" + tx.hex()] if ours else {"tx": base64.b64encode(tx).decode()}
        calls.append({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    body = _encode(calls)
    head = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Post(head.encode() + body, tuple(txs))


class Connection:
    """One kept HTTP connection; requests go one after another."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> bytes:
        """The answer's body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if fields.get(b"transfer-encoding") == b"chunked":
            return await _chunks(reader)
        return await reader.readexactly(int(fields[b"content-length"]))

    async def call(self, method: str, **params: Any) -> Any:
        """The result of one JSON-RPC call of CometBFT's; None for an error."""
        body = _encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return _decode(await self.send(head.encode() + body)).get("result")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


# --- Networks ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Network:
    """A network that runs: where to send, where to follow, and whose processor time to read."""

    places: tuple[ValidatorPlace, ...]
    method: str
    ports: tuple[int, ...]
    genesis: Genesis
    pids: Callable[[], list[tuple[int | None, int | None]]]
    """Of each validator: its chain process, its CometBFT."""
    net: Net | None = None

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds of all chain processes, of all CometBFT processes."""
        found = self.pids()
        return tuple(sum(process_cpu_s(pair[at]) for pair in found if pair[at]) for at in (0, 1))  # type: ignore[return-value,misc,arg-type]


@contextlib.asynccontextmanager
async def avow_network(
    home: Path,
    validators: int,
    *,
    own_rpc: bool = True,
    snapshot_interval: int = 0,
    keys: Sequence[bytes] = SENDER_KEYS,
) -> AsyncIterator[Network]:
    """Ours. `own_rpc`: transactions go to the chain processes' JSON-RPC, else to CometBFT's."""
    layout = _layout(home, validators, keys)
    genesis = Genesis.from_bytes((home / "genesis.cbor").read_bytes())
    net = Net(home, snapshot_interval=snapshot_interval)
    await net.start()

    def pids() -> list[tuple[int | None, int | None]]:
        found = [net.pids(place) for place in layout.validators]
        return [(item["chain"], item["cometbft"]) for item in found]

    ports = tuple(place.rpc_port if own_rpc else place.comet_rpc_port for place in layout.validators)
    method = "eth_sendRawTransaction" if own_rpc else "broadcast_tx_async"
    try:
        yield Network(layout.validators, method, ports, genesis, pids, net)
    finally:
        await net.stop()


@contextlib.asynccontextmanager
async def kvstore_network(home: Path, validators: int) -> AsyncIterator[Network]:
    """CometBFT with the application that it has built in: in its own process, in memory."""
    binary = require_cometbft()
    layout = _layout(home, validators, ())
    genesis = Genesis.from_bytes((home / "genesis.cbor").read_bytes())
    running: list[subprocess.Popen[bytes]] = []
    for place in layout.validators:
        command = [str(binary.path), "start", "--home", str(place.comet.path), "--proxy_app", "kvstore"]
        command += ["--consensus.create_empty_blocks=false"]
        command += [f"--consensus.create_empty_blocks_interval={empty_block_ms(genesis)}ms"]
        with place.comet.log.open("ab") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
    ports = tuple(place.comet_rpc_port for place in layout.validators)
    try:
        await _until_height(ports, 1)
        yield Network(
            layout.validators, "broadcast_tx_async", ports, genesis, lambda: [(None, item.pid) for item in running]
        )
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            await asyncio.to_thread(process.wait)


def _layout(home: Path, validators: int, keys: Iterable[bytes]) -> Layout:
    accounts = tuple(address_of_private_key(key) for key in keys)
    return create(NetConfig(home, validators, free_port(), accounts=accounts))


async def _until_height(ports: Iterable[int], height: int) -> None:
    deadline = time.perf_counter() + START_S
    for port in ports:
        while True:
            connection = Connection(port)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                status = await connection.call("status")
                if status and int(status["sync_info"]["latest_block_height"]) >= height:
                    break
            connection.close()
            if time.perf_counter() > deadline:
                raise SystemExit("the network did not start")
            await asyncio.sleep(0.1)


# --- Following --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Follower:
    """Rule 4. `found`: by transaction in base64, when its block was there; `blocks`: (height, then, transactions)."""

    connection: Connection
    height: int = 0
    found: dict[str, float] = field(default_factory=dict)
    blocks: list[tuple[int, float, int]] = field(default_factory=list)
    twice: int = 0

    async def run(self) -> None:
        status = await self.connection.call("status")
        self.height = int(status["sync_info"]["latest_block_height"])
        while True:
            result = await self.connection.call("block", height=str(self.height + 1))
            if result is None:
                await asyncio.sleep(POLL_S)
                continue
            now = time.perf_counter()
            self.height += 1
            txs = result["block"]["data"]["txs"] or ()
            for tx in txs:
                if tx in self.found:
                    self.twice += 1
                self.found[tx] = now
            self.blocks.append((self.height, now, len(txs)))


@dataclass(slots=True)
class Run:
    """What one load gave; times in seconds."""

    count: int
    wall_s: float
    final_s: list[float]
    blocks: list[tuple[int, float, int]]
    chain_cpu_s: float
    comet_cpu_s: float
    own_cpu_s: float

    @property
    def rate(self) -> float:
        return self.count / self.wall_s

    @property
    def block_s(self) -> float:
        """Median time from block to block, over those under load."""
        return statistics.median([after[1] - before[1] for before, after in pairwise(self.blocks)] or [0.0])

    def final_ms(self, share: float) -> float:
        return percentile(self.final_s, share) * 1e3


async def drive(network: Network, work: Sequence[Sequence[Post]], *, outstanding: int, pause_s: float = 0.0) -> Run:
    """Send `work` (of each connection, in order; validators in turn) as fast as `outstanding` allows, with `pause_s` after each post; wait
    until all of it is in blocks.
    """
    follower = Follower(Connection(network.places[0].comet_rpc_port))
    following = asyncio.create_task(follower.run())
    while not follower.height:
        await asyncio.sleep(POLL_S)
        if following.done():
            following.result()
    sent: dict[str, float] = {}
    first_block = len(follower.blocks)
    cpu, own, start = network.cpu_s(), time.process_time(), time.perf_counter()

    async def send(port: int, own_posts: Sequence[Post]) -> None:
        connection = Connection(port)
        for item in own_posts:
            while len(sent) - len(follower.found) > outstanding - len(item.txs):
                await asyncio.sleep(POLL_S / 2)
                if following.done():
                    following.result()
            now = time.perf_counter()
            sent.update((base64.b64encode(tx).decode(), now) for tx in item.txs)
            answer = await connection.send(item.request)
            if b'"error"' in answer:
                raise SystemExit(f"a transaction was refused: {answer[:400].decode(errors='replace')}")
            if pause_s:
                await asyncio.sleep(pause_s)
        connection.close()

    await asyncio.gather(
        *[send(network.ports[at % len(network.ports)], own_posts) for at, own_posts in enumerate(work)]
    )
    deadline = time.perf_counter() + LOST_S
    while len(follower.found) < len(sent):
        await asyncio.sleep(POLL_S)
        if time.perf_counter() > deadline:
            raise SystemExit(f"{len(sent) - len(follower.found)} transactions are in no block")
    following.cancel()
    blocks = [block for block in follower.blocks[first_block:] if block[2]]
    wall = blocks[-1][1] - start
    used = [after - before for before, after in zip(cpu, network.cpu_s(), strict=True)]
    own_used = time.process_time() - own
    if follower.twice:
        raise SystemExit(f"{follower.twice} transactions are in two blocks")
    final = [follower.found[tx] - then for tx, then in sent.items()]
    return Run(len(sent), wall, final, blocks, used[0], used[1], own_used)


def spread(network: Network, txs: Sequence[bytes], batch: int, keys: int = SENDERS) -> list[list[Post]]:
    """Posts for each connection, so that one sender's transactions all go over the same one."""
    count = len(network.ports) * CONNECTIONS
    shares: list[list[bytes]] = [[] for _ in range(count)]
    for number, tx in enumerate(txs):
        shares[number % keys % count].append(tx)
    return [posts(share, network.method, batch) for share in shares]
