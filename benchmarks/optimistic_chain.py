"""What an optimistic statement costs on chain: bytes, gas and CPU, beside a vanilla one of the same run; and what disputes cost.

Settling: transactions of 1,024 statements through every step of a full node, SQLite on disk, flushed. Disputes: real fraud proofs of small
exact programs, and the largest that a proof may be. The chain's bar for tee receipts is full_node's.
"""

import statistics
import tempfile
import time
from pathlib import Path

from avow.chain import abci
from avow.chain.application import Application
from avow.chain.modules import challenges, nodes, referee, settlement
from avow.chain.modules.life import State
from avow.chain.state import SqliteStore
from avow.exact import descent
from avow.nodes.chain_client import settlement_gas
from avow.receipt.statement import Method
from benchmarks.report import Benchmark, main
from tests.chain.harness import PROGRAM, Chain, NodeKey
from tests.chain.modules.test_real_fraud import OnChain, claimed, find, post
from tests.chain.optimistic import Optimistic

STATEMENTS = 1_024
ROUNDS = 9
PROOFS = 60


def settled(network: Optimistic, key: NodeKey) -> list[tuple[int, int, float]]:
    """Bytes, gas and CPU seconds of each settlement transaction."""
    chain = network.chain
    found = []
    for _ in range(ROUNDS):
        key.now_ms = chain.now_ms
        made = [key.sign(trace=index.to_bytes(32)) for index in range(STATEMENTS)]
        batch = chain.batch(key, made)
        raw = chain.raw("operator", settlement.ADDRESS, chain.call_data(settlement.ADDRESS, "settle", batch))
        begin = time.process_time()
        assert chain.application.check_tx(abci.CheckTxRequest(raw)).code == 0
        [result] = chain.block(raw, proposed=True)
        spent = time.process_time() - begin
        assert result.code == 0, result
        assert result.gas_used <= settlement_gas(batch, statements=STATEMENTS, payers=1, programs=1)
        found.append((len(raw), result.gas_used, spent))
    return found


def last_gas(chain: Chain) -> int:
    return sum(result.gas_used for result in chain.responses[-1].tx_results)


def replayed_cpu_s(network: Optimistic) -> float:
    """CPU seconds of the last block's execution, on a node that has seen nothing of it."""
    chain = network.chain
    store = type(chain.store)()
    application = Application(store, chain.genesis)
    bytes_of = chain.genesis.to_bytes()
    application.init_chain(abci.InitChainRequest(chain.genesis.time_ms * 10**6, chain.genesis.chain_id, (), bytes_of))
    for request in chain.requests[:-1]:
        application.finalize_block(request)
        application.commit()
    begin = time.process_time()
    application.finalize_block(chain.requests[-1])
    return time.process_time() - begin


def disputes(benchmark: Benchmark) -> None:
    demands, answers, proofs, sizes, judged = [], [], [], [], []
    commits = []
    for seed in range(PROOFS):
        claim, own = claimed(seed, ("once", "sequence", "generate")[seed % 3], guilty=True)
        network = Optimistic()
        posted = post(network, claim)
        respondent = _Counting(network, posted, claim)
        proof = find(claim, own, respondent if seed < 3 else claim)
        assert proof is not None
        demands += respondent.demand_gas
        answers += respondent.answer_gas
        encoded = proof.encoded()
        evidence = challenges.evidence(posted.located(0), encoded)
        network.commit("watcher", posted, evidence)
        commits.append(last_gas(network.chain))
        [state] = network.do("watcher", "prove", evidence, bytes(32))
        assert state == State.UPHELD
        proofs.append(last_gas(network.chain))
        sizes.append(len(encoded))
        judged.append(replayed_cpu_s(network))
    price = Optimistic().genesis.base_fee
    rules = Optimistic().rules
    benchmark.add("commit to a challenge", max(commits), "gas")
    benchmark.add("prove, median", statistics.median(proofs), "gas")
    benchmark.add("prove, largest here", max(proofs), "gas")
    benchmark.add("fraud proof, largest here", max(sizes), "bytes", bar=65_536)
    benchmark.add("prove, whole transaction (CPU, median)", statistics.median(judged) * 1e3, "ms", bar=10)
    benchmark.add("prove, whole transaction (CPU, worst)", max(judged) * 1e3, "ms")
    benchmark.add("demand", max(demands), "gas")
    benchmark.add("answer", max(answers), "gas")
    most = referee.gas(bytes(referee.MAX_FAULT)) * price
    bond = rules.challenge_bond
    benchmark.add("a challenge's bond", bond / 1e18, "ether", bar=2 * most / 1e18, lower=False, ratio=bond / most,
        peer="the dearest referee")  # fmt: skip


class _Counting(OnChain):
    """Counts the gas of demands and answers."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self.demand_gas: list[int] = []
        self.answer_gas: list[int] = []

    def ask(self, demand: descent.Demand) -> bytes:
        answer = super().ask(demand)
        responses = self.network.chain.responses
        self.answer_gas.append(sum(result.gas_used for result in responses[-1].tx_results))
        self.demand_gas.append(sum(result.gas_used for result in responses[-2].tx_results))
        return answer


def run() -> Benchmark:
    benchmark = Benchmark("optimistic_chain", "An optimistic statement on chain, in batches of 1,024, one core")
    figures = {}
    for method in (Method.VANILLA, Method.OPTIMISTIC):
        with tempfile.TemporaryDirectory() as folder:
            network = Optimistic(store=SqliteStore(str(Path(folder) / "chain.db")), bond=900 * 10**18)
            key = network.key
            if method is Method.VANILLA:
                key = network.chain.register(network.chain.new_key(method))
                network.chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, int(method), 100)
            figures[method] = settled(network, key)
            if method is Method.OPTIMISTIC:
                network.pass_window()
                network.do("operator", "finalise", key.id, 0)
                figures["finalise"] = last_gas(network.chain)
                network.store.close()
    for place, (name, unit, scale) in enumerate((("bytes", "bytes", 1), ("gas", "gas", 1), ("CPU", "us", 1e6))):
        pair = [statistics.median(entry[place] for entry in figures[method]) / STATEMENTS * scale
            for method in (Method.VANILLA, Method.OPTIMISTIC)]  # fmt: skip
        benchmark.add(f"vanilla statement, {name}", pair[0], unit)
        bar = {"bytes": 110, "gas": None, "CPU": None}[name]
        benchmark.add(f"optimistic statement, {name}", pair[1], unit, bar=bar, peer="vanilla", ratio=pair[1] / pair[0])
    benchmark.add(
        "finalising a batch", figures["finalise"], "gas", peer="a statement", ratio=figures["finalise"] / STATEMENTS
    )
    disputes(benchmark)
    return benchmark


if __name__ == "__main__":
    main(run)
