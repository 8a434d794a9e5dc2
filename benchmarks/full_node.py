"""How many tee receipts a full node verifies per second: from transaction bytes through Commit, on one core.

Four settlement transactions of 1,024 statements a block, 100 payers with allowances and 10 programs in each; SQLite on disk,
flushed. Every step that a node takes is in the time: check_tx, prepare, process, finalize, commit. Ratios are to the floor: the
hashes and signatures of the same batches, in a loop that does nothing else.
"""

import gc
import hashlib
import statistics
import tempfile
import time
from pathlib import Path

from avow.chain import abci
from avow.chain.genesis import AllowedMeasurement
from avow.chain.modules import bank, nodes, registry, settlement
from avow.chain.modules.batch import Batch
from avow.chain.state import SqliteStore
from avow.chain.transaction import address_of_private_key, decode_transaction, sign_transaction
from avow.methods.tee.attesters import DevelopmentAttester
from avow.receipt import merkle
from avow.receipt.encoding import tagged_hash
from avow.receipt.requester import keccak256
from avow.receipt.statement import Method, statement_payload, verify_signature
from benchmarks.report import Benchmark, main
from tests.chain.harness import ETHER, FAR_MS, START_MS, Chain, NodeKey, Statement, account, point, secret

PAYERS = 100
PROGRAMS = 10
STATEMENTS = 1_024
BATCHES_A_BLOCK = 4
BLOCKS = 12
BAR = 100_000


def setup(folder: Path) -> tuple[Chain, NodeKey]:
    """A chain with one attested tee key, programs, prices and allowances."""
    attester = DevelopmentAttester(folder, programs=[], versions={}, clock_ms=lambda: START_MS)
    payers = [secret(f"payer {index}") for index in range(PAYERS)]
    chain = Chain(
        store=SqliteStore(str(folder / "chain.db")),
        roots=(attester.root,),
        measurements=(AllowedMeasurement(attester.measurement, None, 0, None),),
        extra_accounts=tuple((address_of_private_key(key), 10 * ETHER) for key in payers),
    )
    key = chain.register(chain.new_key(Method.TEE), attester)
    for program in programs():
        chain.do("operator", registry.ADDRESS, "publish", f"p{program.hex()[:8]}", program)
        chain.do("operator", nodes.ADDRESS, "setPrice", program, int(Method.TEE), 100)
    data = chain.call_data(bank.ADDRESS, "allow", account("operator"), ETHER, FAR_MS)
    chain.block(*[sign(chain, payer, 0, bank.ADDRESS, data, 300_000) for payer in payers])
    return chain, key


def programs() -> list[bytes]:
    return [tagged_hash(b"avow/program/1", bytes([index])) for index in range(PROGRAMS)]


def sign(chain: Chain, private_key: bytes, nonce: int, to: bytes, data: bytes, gas: int) -> bytes:
    return sign_transaction(
        private_key, chain_id=chain.genesis.eip155, nonce=nonce, gas_limit=gas, to=to, max_fee=10**9, data=data
    )


def statements(key: NodeKey, known: list[bytes]) -> list[Statement]:
    return [
        key.sign(payer=f"payer {index % PAYERS}", program=known[index % PROGRAMS], units=200, amount=9_000 + index)
        for index in range(STATEMENTS)
    ]


def blocks(chain: Chain, key: NodeKey) -> list[tuple[bytes, ...]]:
    """Transactions of each block, signed beforehand."""
    nonce, _ = chain.application.account(account("operator"))
    known = programs()
    result = []
    for _ in range(BLOCKS):
        txs = []
        for _ in range(BATCHES_A_BLOCK):
            data = chain.call_data(settlement.ADDRESS, "settle", chain.batch(key, statements(key, known)))
            txs.append(sign(chain, secret("operator"), nonce, settlement.ADDRESS, data, 10_000_000))
            nonce += 1
        result.append(tuple(txs))
    return result


def run_block(chain: Chain, txs: tuple[bytes, ...]) -> None:
    """Everything that a node does with a block's transactions."""
    application = chain.application
    for raw in txs:
        response = application.check_tx(abci.CheckTxRequest(raw))
        assert response.code == 0, response
    results = chain.block(*txs, proposed=True)
    assert all(result.code == 0 for result in results), results


def floor(chain: Chain, key: NodeKey, raw: bytes) -> float:
    """CPU seconds of one batch's hashes and signatures alone."""
    transaction = decode_transaction(raw, chain.genesis.eip155)
    batch = Batch.from_bytes(transaction.data[68 : 68 + int.from_bytes(transaction.data[36:68])])
    hashed, _ = batch.hash(Method.TEE, bytes(32))
    preimages = [bytes(138)] * len(hashed)
    heads = [bytes(76)] * len(hashed)
    leaves = [bytes(33)] * len(hashed)
    statement = key.sign()
    payload = statement_payload(chain.genesis.chain_id, key.id, key.next - 1, statement.hash, statement.head)
    public = point(key.signing)
    times = []
    for _ in range(7):
        begin = time.process_time()
        keccak256(raw)
        decode_transaction(raw, chain.genesis.eip155)
        for data in preimages:
            hashlib.sha256(data).digest()
        for data in heads:
            hashlib.sha256(data).digest()
        merkle.root(leaves)
        verify_signature(public, payload, statement.signature)
        times.append(time.process_time() - begin)
    return statistics.median(times)


def run() -> Benchmark:
    benchmark = Benchmark("full_node", "A full node verifying tee receipts, transaction bytes through Commit, one core")
    with tempfile.TemporaryDirectory() as name:
        chain, key = setup(Path(name))
        prepared = blocks(chain, key)
        each = floor(chain, key, prepared[0][0]) / STATEMENTS
        before = state_size(chain)
        wall, cpu = [], []
        gc.collect()
        for txs in prepared:
            begin_wall, begin_cpu = time.perf_counter(), time.process_time()
            run_block(chain, txs)
            wall.append((time.perf_counter() - begin_wall) / (STATEMENTS * BATCHES_A_BLOCK))
            cpu.append((time.process_time() - begin_cpu) / (STATEMENTS * BATCHES_A_BLOCK))
        grown = state_size(chain) - before
    wall, cpu = wall[2:], cpu[2:]
    floor_rate, rate = 1 / each, 1 / statistics.median(cpu)
    unit = "receipts/s"
    benchmark.add("hashes and signatures alone (CPU)", floor_rate, unit)
    peer = "hashes and signatures alone"
    benchmark.add("verified and committed (CPU)", rate, unit, bar=BAR, lower=False, peer=peer, ratio=floor_rate / rate)
    wall_rate = 1 / statistics.median(wall)
    benchmark.add("verified and committed (wall)", wall_rate, unit, peer=peer, ratio=floor_rate / wall_rate)
    benchmark.add("state keys added per receipt", grown / (BLOCKS * BATCHES_A_BLOCK * STATEMENTS), "keys", bar=0.001)
    return benchmark


def state_size(chain: Chain) -> int:
    return sum(1 for _ in chain.store.iterate(b""))


if __name__ == "__main__":
    main(run)
