"""Settled receipts a second through whole networks of 1, 4 and 7 validators on one machine.

Several operators settle batches of 1,024 vanilla statements each, signed beforehand, by the validators' JSON-RPC; a receipt counts when its
batch is in a block (and every key's counter has moved by what was sent). CPU of one receipt on one validator stands beside the rate.
NETWORK_SIZES ("1,4,7") is read from the environment.
"""

import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from avow.chain.modules import nodes, registry, settlement
from avow.chain.modules.batch import build_batch
from avow.chain.transaction import sign_transaction
from avow.methods.registration import registration_digest
from avow.nodes.chain_client import ChainClient, function_of, settlement_gas
from avow.receipt.statement import Method
from benchmarks.load_generator import CONNECTIONS, Network, Post, avow_network, drive, post, require_cometbft
from benchmarks.report import Benchmark, main
from tests.chain.harness import ETHER, FAR_MS, PROGRAM, NodeKey, account, cose, point, secret

SIZES = tuple(int(item) for item in os.environ.get("NETWORK_SIZES", "1,4,7").split(","))
STATEMENTS = 1_024
OPERATORS = 7
BATCHES = {1: 28, 4: 21, 7: 14}
PRICE = 100
OUTSTANDING = 14
GAS_PRICE = 2 * 10**9


@dataclass(slots=True)
class Operator:
    name: str
    key: NodeKey
    nonce: int
    settled: int = 0


async def register(network: Network, number: int) -> Operator:
    """An operator with a key of its own, a price, and the payer's allowance."""
    url = f"http://127.0.0.1:{network.places[0].rpc_port}"
    name = f"operator {number}"
    async with ChainClient(url, secret(name)) as client, ChainClient(url, secret("payer")) as payer:
        found = await client.network()
        signing, transport = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        block_hash, _, _ = await client.beacon()
        digest = registration_digest(found.chain_id, client.address, point(signing), point(transport), block_hash)
        evidence = cose(signing, digest)
        await client.transact(
            nodes.ADDRESS, "register", int(Method.VANILLA), point(signing), point(transport), block_hash, evidence
        )
        if number == 0:
            await client.transact(registry.ADDRESS, "publish", "receipts", PROGRAM)
        await client.transact(nodes.ADDRESS, "setPrice", PROGRAM, int(Method.VANILLA), PRICE)
        await payer.allow(account(name), ETHER, FAR_MS)
        nonce = int(await client.rpc("eth_getTransactionCount", "0x" + client.address.hex(), "latest"), 16)
        return Operator(name, NodeKey(found.chain_id, Method.VANILLA, name, signing, transport, 0), nonce)


def batch(operator: Operator, eip155: int) -> Post:
    """A settlement of STATEMENTS statements, signed."""
    key = operator.key
    key.now_ms = time.time_ns() // 1_000_000
    made = [key.sign(units=1, amount=PRICE) for _ in range(STATEMENTS)]
    data = build_batch(key.id, [(item.columns, item.private) for item in made], made[-1].signature)
    raw = sign_transaction(
        secret(operator.name),
        chain_id=eip155,
        nonce=operator.nonce,
        to=settlement.ADDRESS,
        data=function_of(settlement.ADDRESS, "settle").encode_call(data),
        gas_limit=settlement_gas(data, statements=STATEMENTS, payers=1, programs=1),
        max_fee=GAS_PRICE,
    )
    operator.nonce += 1
    operator.settled += STATEMENTS
    return post([raw], "eth_sendRawTransaction")


async def size(benchmark: Benchmark, validators: int) -> None:
    names = [f"operator {number}" for number in range(OPERATORS)]
    count = BATCHES.get(validators, OPERATORS)
    with tempfile.TemporaryDirectory(prefix="avow-net-") as name:
        keys = [secret(who) for who in (*names, "payer")]
        async with avow_network(Path(name) / "net", validators, keys=keys) as network:
            operators = [await register(network, number) for number in range(OPERATORS)]
            work: list[list[Post]] = [[] for _ in range(len(network.ports) * CONNECTIONS)]
            for number in range(count):
                at = number % OPERATORS
                work[at % len(work)].append(batch(operators[at], network.genesis.eip155))
            run = await drive(network, work, outstanding=OUTSTANDING)
            async with ChainClient(f"http://127.0.0.1:{network.places[0].rpc_port}") as client:
                for operator in operators:
                    if await client.next_number(operator.key.id) != operator.settled:
                        raise SystemExit("a batch did not settle")
    receipts = count * STATEMENTS
    at = f"{validators} validators:" if validators > 1 else "1 validator:"
    benchmark.add(f"{at} settled", receipts / run.wall_s, "receipts/s")
    benchmark.add(f"{at} batch to final, p50", run.final_ms(0.5), "ms")
    benchmark.add(f"{at} CPU of a receipt, chain process", run.chain_cpu_s / receipts / validators * 1e6, "us")
    benchmark.add(f"{at} CPU of a receipt, CometBFT", run.comet_cpu_s / receipts / validators * 1e6, "us")
    benchmark.add(f"{at} CPU of a receipt, load generator", run.own_cpu_s / receipts * 1e6, "us")


def run() -> Benchmark:
    require_cometbft()
    benchmark = Benchmark("network_receipts", f"Receipts settled through whole networks, {STATEMENTS} in a batch")
    for validators in SIZES:
        asyncio.run(size(benchmark, validators))
    return benchmark


if __name__ == "__main__":
    main(run)
