"""A whole network on one loop: chain, enclave and node with a stub engine, and a payer with an allowance."""

import contextlib
import secrets
import time
from dataclasses import dataclass

from avow.chain.genesis import AllowedMeasurement
from avow.chain.modules import bank
from avow.chain.transaction import address_of_private_key
from avow.methods.tee.attesters import development_root
from avow.nodes.chain_client import ChainClient
from avow.nodes.enclave import Enclave
from avow.nodes.enclave_process import development_attester
from avow.nodes.full import FullNodeConfig, create_network, running_chain
from avow.nodes.gateway.account import account_address, account_key
from avow.nodes.inference import InferenceNode, NodeConfig
from avow.nodes.node_client import NodeClient
from avow.nodes.operator_chain import OperatorChain
from avow.nodes.outbox import Outbox
from avow.nodes.service import Service
from tests.nodes.conftest import PROGRAM, loaded

WEI = 10**24


@dataclass
class Home:
    """The accounts and addresses of a network in a folder."""

    folder: object
    governance_key: bytes
    payer_key: bytes
    genesis: object

    @property
    def node_address(self):
        return f"unix:{self.folder}/run/node.sock"

    @property
    def enclave_address(self):
        return f"unix:{self.folder}/run/enclave.sock"

    @property
    def payer(self):
        return address_of_private_key(self.payer_key)

    @property
    def operator(self):
        return account_address(self.folder / "node" / "key")


def make_home(folder, *, programs=(PROGRAM,), heartbeat_ms=10_000):
    governance_key, payer_key = secrets.token_bytes(32), secrets.token_bytes(32)
    account_key(folder / "node" / "key")
    accounts = [
        (address_of_private_key(governance_key), WEI),
        (address_of_private_key(payer_key), WEI),
        (account_address(folder / "node" / "key"), WEI),
    ]
    measurement = development_attester(folder, programs).measurement
    genesis = create_network(
        folder,
        governance=accounts[0][0],
        accounts=accounts,
        attestation_roots=[development_root(folder)[0]],
        measurements=[AllowedMeasurement(measurement, None, 0, None)],
        heartbeat_ms=heartbeat_ms,
    )
    return Home(folder, governance_key, payer_key, genesis)


@contextlib.asynccontextmanager
async def chain_of(home, port=0):
    async with running_chain(FullNodeConfig(home.folder, port=port)) as running:
        yield running


@contextlib.asynccontextmanager
async def enclave_of(home, engine=None):
    programs = {PROGRAM: loaded(engine)}
    enclave = Enclave(programs, development_attester(home.folder, programs))
    await enclave.listen(home.enclave_address)
    try:
        yield enclave
    finally:
        await enclave.close()


@contextlib.asynccontextmanager
async def node_of(home, url, engine=None, *, outbox=None, **config):
    import asyncio

    settings = NodeConfig(home.folder, home.node_address, url, (), enclave=home.enclave_address, **config)
    chain = await OperatorChain.open(url, account_key(home.folder / "node" / "key"), home.folder)
    outbox = outbox or Outbox(home.folder / "node" / "outbox.db")
    inference = InferenceNode(settings, chain, outbox)
    service = Service(inference.node.start, inference.node.questions)
    await service.listen(home.node_address)
    tasks = [
        asyncio.create_task(inference.vanilla({PROGRAM: loaded(engine)})),
        asyncio.create_task(inference.tee(home.enclave_address)),
    ]
    try:
        yield inference
    finally:
        await service.close()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await inference.close()
        outbox.close()
        await chain.close()
        for result in results:
            if isinstance(result, Exception):
                raise result


async def allow(home, url, cap=10**20):
    async with ChainClient(url, home.payer_key) as client:
        expiry_ms = time.time_ns() // 1_000_000 + 3_600_000
        await client.transact(bank.ADDRESS, "allow", home.operator, cap, expiry_ms)


async def ready(client, methods=(0, 2), timeout_s=20):
    import asyncio

    async with asyncio.timeout(timeout_s):
        while True:
            description = await client.describe()
            if description.programs and set(methods) <= {key.method for key in description.keys}:
                return description
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def network_of(folder, engine=None):
    """Everything up: (home, inference node, client, chain URL)."""
    home = make_home(folder)
    async with chain_of(home) as chain, enclave_of(home, engine), node_of(home, chain.url, engine) as inference:
        await allow(home, chain.url)
        client = NodeClient()
        await client.connect(home.node_address)
        await ready(client)
        try:
            yield home, inference, client, chain.url
        finally:
            await client.close()
