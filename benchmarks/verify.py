"""What it costs a relying party to check one settled receipt: a warm library call, offline."""

from avow.methods import checks
from avow.receipt.receipt import Receipt
from avow.receipt.statement import Method, signature_input, statement_payload, verify_signature
from avow.receipt.verify import Question
from benchmarks.report import Benchmark, cpu_us, main
from tests.simulator import CHAT, Simulator


def run() -> Benchmark:
    benchmark = Benchmark("verify", "Verification of one settled, opened receipt (CPU time of a warm library call)")
    for method, validators in ((Method.VANILLA, 1), (Method.TEE, 1), (Method.TEE, 4)):
        network = Simulator(f"bench {method.label} {validators}", validators=validators)
        if method is Method.TEE:
            network.register(method)
        body = network.chat_body("What is the capital of France?")
        response, receipt = network.answer(CHAT, body, method)
        [settled] = network.settle([receipt])
        data = settled.opened(body, response).to_bytes()
        trust, question = network.trust(), Question(network.now_ms)
        assert checks.verify(Receipt.from_bytes(data), trust, question).ok

        def whole(data=data, trust=trust, question=question):
            checks.verify(Receipt.from_bytes(data), trust, question)

        private, evidence = receipt.statement.private, receipt.evidence
        payload = statement_payload(private.chain_id, private.key, 0, bytes(32), bytes(32))
        signature = network.sign(network.keys[method].signing, payload)

        def floor(evidence=evidence, payload=payload, signature=signature):
            verify_signature(evidence.signing_key, payload, signature)

        assert signature_input(payload)
        spent, least = cpu_us(whole, calls=50), cpu_us(floor, calls=50)
        benchmark.add(
            f"{method.label}, {validators} validator{'s' * (validators > 1)}, {len(data)} bytes",
            spent / 1000,
            "ms",
            bar=3,
            peer="one ES256 verification",
            ratio=spent / least,
        )
    return benchmark


if __name__ == "__main__":
    main(run)
