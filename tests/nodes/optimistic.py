"""A network on one loop with an optimistic node: chain, node, gateway over sockets, and a real exact program."""

import asyncio
import contextlib
import json
import secrets
import tempfile
import time
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from avow.chain.modules import bank
from avow.chain.transaction import address_of_private_key
from avow.exact import files
from avow.exact.program import Program
from avow.models.exact import add_exact
from avow.models.store import Store
from avow.nodes.chain_client import ChainClient
from avow.nodes.entitlement import sign_question
from avow.nodes.full import FullNodeConfig, create_network, running_chain
from avow.nodes.gateway import GatewayConfig, running_gateway
from avow.nodes.gateway.account import PayerAccount, account_address, account_key
from avow.nodes.inference import InferenceNode, NodeConfig
from avow.nodes.node_client import NodeClient
from avow.nodes.openings import decode_shown
from avow.nodes.operator_chain import OperatorChain
from avow.nodes.outbox import Outbox
from avow.nodes.programs import load_programs
from avow.nodes.service import Service
from avow.receipt.encoding import from_base64url
from avow.receipt.finality import OptimisticParameters
from avow.receipt.receipt import Receipt
from tests.exact import programs
from tests.patience import patient_s

WEI = 10**24
ETHER = 10**18
NAME = "small-exact"
RULES = OptimisticParameters(window_ms=1_500, move_ms=1_000)
_NUMPY = {"int8": "INT8", "int16": "INT16", "int32": "INT32"}


def with_ports(program: Program) -> Program:
    """The program with notes by which its integers come in and go out as they are."""
    notes: dict[str, str] = {}

    def port(key: str, name: str, shape: tuple[int, ...]) -> None:
        values = {"name": name, "scale": "1", "shape": ",".join(map(str, shape)), "rounding": "nearest"}
        notes.update({f"{key}.{part}": value for part, value in values.items()} | {f"{key}.type": "float32"})

    for at, tensor in enumerate(program.inputs):
        port(f"input.{at}", f"in{at}", (1, *tensor.shape))
    for at, number in enumerate(program.outputs):
        port(f"output.{at}", f"out{at}", (1, *program.operators[number].shape))
    return Program.build(
        name=NAME, mode=program.mode, context=program.context, inputs=program.inputs, constants=program.constants,
        operators=program.operators, notes=notes, outputs=program.outputs,
    )  # fmt: skip


def small_program(seed: int = 5, mode: str = "once") -> Program:
    """A random program of many kinds."""
    return with_ports(programs.program_of(seed, mode=mode))


def install(home: Path, program: Program, name: str = NAME) -> bytes:
    """Puts a program into a home's store; its id."""
    store = Store(home)
    store.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.directory) as scratch:
        file = Path(scratch) / "program.exact"
        files.save(program, file)
        return add_exact(store, file, name=name, root=program.root, licence="Apache-2.0")


def body_of(program: Program, seed: int, samples: int = 1) -> bytes:
    """A request: random values in the inputs' intervals."""
    random = Random(seed)
    inputs = []
    for at, tensor in enumerate(program.inputs):
        count = samples * prod(tensor.shape)
        values = [random.randint(max(tensor.low, -(1 << 20)), min(tensor.high, 1 << 20)) for _ in range(count)]
        inputs.append({"name": f"in{at}", "datatype": "FP32", "shape": [samples, *tensor.shape], "data": values})
    return json.dumps({"inputs": inputs}).encode()


@dataclass
class Network:
    """What runs, and its accounts. `answers`: receipts as delivered, by id."""

    home: Path
    url: str
    gateway: str
    inference: InferenceNode
    governance: bytes
    watcher: bytes
    payer: bytes
    program: Program
    program_id: bytes
    http: httpx2.AsyncClient
    name: str = NAME
    answers: dict[str, Receipt] = field(default_factory=dict)

    async def ask(self, seed: int = 1, *, samples: int = 1, status: int | None = 200, **headers: str) -> Any:
        """An answer by optimistic: its receipt; with another `status` the error's code, with None whichever comes."""
        return await self.ask_with(body_of(self.program, seed, samples), status=status, **headers)

    async def ask_with(self, body: bytes, *, status: int | None = 200, **headers: str) -> Any:
        named = {"content-type": "application/json", "avow-method": "optimistic"} | {
            key.replace("_", "-"): value for key, value in headers.items()
        }
        answer = await self.http.post(f"/v2/models/{self.name}/infer", content=body, headers=named)
        assert status in (None, answer.status_code), answer.text
        if answer.status_code != 200:
            return answer.json()["error"]["code"]
        receipt = Receipt.from_bytes(from_base64url(answer.json()["avow"]["receipt"]))
        self.answers[receipt.id] = receipt
        return receipt

    async def settled(self, receipt: Receipt) -> Receipt:
        """The receipt with its settlement, from the gateway."""
        return await self.receipt(receipt.id, lambda found: found.settlement is not None, "?wait_ms=10000")

    async def receipt(self, identity: str, done: Any, query: str = "", timeout_s: float = 30.0) -> Receipt:
        """The receipt from the gateway, once `done` with it."""
        async with asyncio.timeout(patient_s(timeout_s)):
            while True:
                answer = await self.http.get(f"/receipts/{identity}{query}", headers={"accept": "application/cbor"})
                assert answer.status_code == 200, answer.text
                found = Receipt.from_bytes(answer.content)
                if done(found):
                    return found
                await asyncio.sleep(0.05)

    def signed(self, identity: str, key: bytes | None, time_ms: int | None = None) -> dict[str, str]:
        if key is None:
            return {}
        now_ms = time.time_ns() // 1_000_000 if time_ms is None else time_ms
        return {
            "avow-watcher": sign_question(
                key, self.inference.node.chain_id, bytes.fromhex(identity), now_ms
            ).to_header()
        }

    async def opening(self, identity: str, key: bytes | None, *, status: int = 200) -> Any:
        answer = await self.http.get(f"/receipts/{identity}/opening", headers=self.signed(identity, key))
        assert answer.status_code == status, answer.text
        return decode_shown(answer.content) if status == 200 else answer.json()["error"]["code"]

    async def demand(self, identity: str, key: bytes | None, demand: bytes, *, status: int = 200) -> Any:
        answer = await self.http.post(
            f"/receipts/{identity}/demand", content=demand, headers=self.signed(identity, key)
        )
        assert answer.status_code == status, answer.text
        return answer.content if status == 200 else answer.json()["error"]["code"]

    def client(self, key: bytes | None = None) -> ChainClient:
        return ChainClient(self.url, key)


def make_home(home: Path, rules: OptimisticParameters, watcher: bytes, governance: bytes, **settings: Any) -> None:
    keys = [home / "node" / "key", home / "gateway" / "key"]
    accounts = [account_address(file) for file in keys if account_key(file)]
    accounts += [address_of_private_key(governance), address_of_private_key(watcher)]
    create_network(
        home,
        governance=address_of_private_key(governance),
        accounts=[(address, WEI) for address in accounts],
        optimistic=replace(rules, watchers=(address_of_private_key(watcher),)),
        **settings,
    )


@contextlib.asynccontextmanager
async def node_of(home: Path, url: str, program_id: bytes, engine=None, **config):
    """An inference node with the optimistic method alone; `engine` wraps the loaded one."""
    settings = NodeConfig(home, f"unix:{home}/run/node.sock", url, (), **{"bond": 100 * ETHER, **config})
    chain = await OperatorChain.open(url, account_key(home / "node" / "key"), home)
    outbox = Outbox(home / "node" / "outbox.db")
    inference = InferenceNode(settings, chain, outbox)
    service = Service(inference.node.start, inference.node.questions)
    await service.listen(settings.address)
    loaded = await asyncio.to_thread(load_programs, home, [program_id.hex()])
    if engine is not None:
        loaded = {key: replace(item, engine=engine(item.engine)) for key, item in loaded.items()}
    task = asyncio.create_task(inference.optimistic(loaded))
    try:
        yield inference
    finally:
        await service.close()
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        await inference.close()
        outbox.close()
        await chain.close()
        for result in results:
            if isinstance(result, Exception):
                raise result


@contextlib.asynccontextmanager
async def network_of(
    home: Path,
    program: Program | None = None,
    *,
    rules: OptimisticParameters = RULES,
    engine=None,
    settings: dict[str, Any] | None = None,
    **config: Any,
):
    program = program or small_program()
    governance, watcher = secrets.token_bytes(32), secrets.token_bytes(32)
    (home / "run").mkdir(parents=True, exist_ok=True)
    make_home(home, rules, watcher, governance, **(settings or {}))
    program_id = install(home, program)
    async with contextlib.AsyncExitStack() as stack:
        chain = await stack.enter_async_context(running_chain(FullNodeConfig(home)))
        inference = await stack.enter_async_context(node_of(home, chain.url, program_id, engine, **config))
        payer = await stack.enter_async_context(PayerAccount.open(home / "gateway" / "key", chain.url))
        gateway_config = GatewayConfig(home=home, nodes=(f"unix:{home}/run/node.sock",), chain=chain.url, port=0)
        gateway = await stack.enter_async_context(running_gateway(gateway_config, NodeClient, payer))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=gateway.url, timeout=patient_s(60), trust_env=False)
        )
        network = Network(
            home, chain.url, gateway.url, inference, governance, watcher, account_key(home / "gateway" / "key"),
            program, program_id, http,
        )  # fmt: skip
        await _ready(network)
        yield network


async def _ready(network: Network) -> None:
    async with asyncio.timeout(patient_s(60)), network.client() as chain:
        operator, payer = network.inference.node.operator, address_of_private_key(network.payer)
        while True:
            listed = (await network.http.get("/v1/models")).json()["data"]
            remaining, _ = await chain.allowance(payer, operator)
            key = network.inference.node.keys.get(1)
            if (
                remaining
                and key is not None
                and key.ready
                and any("optimistic" in m["avow"]["methods"] for m in listed)
            ):
                return
            await asyncio.sleep(0.05)


async def until(condition, timeout_s: float = 30.0):
    """What `condition` (async) gives, once it is true."""
    async with asyncio.timeout(patient_s(timeout_s)):
        while True:
            found = await condition()
            if found:
                return found
            await asyncio.sleep(0.05)


__all__ = [
    "ETHER",
    "NAME",
    "RULES",
    "Network",
    "bank",
    "body_of",
    "install",
    "network_of",
    "node_of",
    "small_program",
    "until",
]
