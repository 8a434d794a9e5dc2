"""The whole way on chain with the real referee: a planted fault in an exact program, found by a watcher that is told nothing but on chain.

The node answers no direct question. The watcher demands the header, then what it needs down to one chunk; the node answers each demand on
chain, and by that convicts itself. Nothing of an honest run is convicted by any proof of a guilty one.
"""

from random import Random

import pytest

from avow.chain.errors import Code
from avow.chain.modules import challenges, nodes, registry
from avow.chain.modules.life import State
from avow.exact import descent
from avow.exact.claims import Withheld
from avow.exact.fraud import FraudProof
from avow.exact.hashing import OUTPUT_SLOT, Salts
from avow.exact.prover import check_header, find_fault
from avow.exact.tensors import unpack
from avow.receipt.encoding import encode
from tests.chain.harness import refused
from tests.chain.optimistic import Optimistic, Posted
from tests.exact import programs, traces
from tests.exact.traces import SEED

MODES = ("once", "sequence", "generate")


def claimed(seed: int, mode: str, *, guilty: bool):
    """A claim, and the watcher's own run beside it."""
    program = programs.program_of(seed, mode=mode)
    inputs, parameters = programs.inputs_of(program, seed), programs.parameters_of(program, seed)
    claim = traces.traced(program, inputs, parameters)
    if guilty:
        random = Random(seed)
        slots = [slot for slot, data in claim.tensors.items() if slot < OUTPUT_SLOT and data]
        slot = random.choice(slots)
        values = unpack(claim.type_of(slot), claim.tensors[slot])
        index = random.randrange(len(values))
        claim = claim.altered(slot, index, values[index] + (1 if values[index] < 100 else -1))
    return claim, traces.honest_beside(claim, inputs, parameters)


def post(network: Optimistic, claim) -> Posted:
    """Published, declared, priced and settled."""
    program = traces.program_id(claim.subject.manifest)
    network.chain.do("operator", registry.ADDRESS, "publish", f"p{program.hex()[:8]}", program)
    declared = (claim.subject.manifest, encode(claim.subject.program.header()))
    assert network.chain.do("operator", registry.ADDRESS, "declare", *declared) == [program, claim.subject.program.root]
    network.chain.do("operator", nodes.ADDRESS, "setPrice", program, 1, 100)
    network.key.now_ms = network.chain.now_ms
    statement = network.key.sign(trace=claim.trace, program=program)
    assert network.chain.settle(network.key, [statement]).code == Code.OK
    return Posted(network.key, [statement], [], bytes(1))


class OnChain:
    """Asks nobody but the chain; the node answers there."""

    def __init__(self, network: Optimistic, posted: Posted, claim) -> None:
        self.network, self.posted, self.claim = network, posted, claim
        self.asked: list[str] = []

    def ask(self, demand: descent.Demand) -> bytes:
        identity = self.network.demand("watcher", self.posted, 0, demand, private=True)
        [event] = self.network.events("Demanded")
        given = descent.answer_to(descent.Demand.parse(event[-1]), self.claim)
        self.network.do("operator", "answer", identity, given)
        [[_, answer]] = self.network.events("Answered")
        self.asked.append(demand.asked)
        return answer


def find(claim, own, respondent) -> FraudProof | None:
    header = check_header(claim.subject, respondent)
    return header if isinstance(header, FraudProof) else find_fault(claim.subject, header, own, Salts(SEED), respondent)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_a_planted_fault_is_overturned(seed, mode):
    network = Optimistic()
    claim, own = claimed(seed, mode, guilty=True)
    posted = post(network, claim)
    respondent = OnChain(network, posted, claim)
    proof = find(claim, own, respondent)
    assert proof is not None
    assert respondent.asked[0] == "header"
    evidence = challenges.evidence(posted.located(0), proof.encoded())
    network.commit("watcher", posted, evidence)
    [state] = network.do("watcher", "prove", evidence, bytes(32))
    assert state == State.UPHELD
    assert network.batch(posted).overturned == (posted.first,)
    network.check_money()


@pytest.mark.parametrize("mode", MODES)
def test_a_guilty_runs_proof_convicts_no_honest_one(mode):
    network = Optimistic()
    honest, own = claimed(7, mode, guilty=False)
    posted = post(network, honest)
    assert find(honest, own, OnChain(network, posted, honest)) is None
    guilty, beside = claimed(7, mode, guilty=True)
    proof = find(guilty, beside, guilty)
    evidence = challenges.evidence(posted.located(0), proof.encoded())
    network.commit("stranger", posted, evidence)
    [state] = network.do("stranger", "prove", evidence, bytes(32))
    assert state == State.REJECTED
    assert network.batch(posted).overturned == ()
    network.check_money()


def test_mutated_proofs_convict_no_honest_run():
    """Bytes changed anywhere: rejected, every time with a result and never with a failure of the node."""
    network = Optimistic()
    honest, _ = claimed(3, "once", guilty=False)
    guilty, beside = claimed(3, "once", guilty=True)
    posted = post(network, honest)
    proof, random = find(guilty, beside, guilty).encoded(), Random(1)
    for count in range(25):
        changed = bytearray(proof)
        for _ in range(random.randint(0, 3)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        evidence = challenges.evidence(posted.located(0), bytes(changed))
        salt = count.to_bytes(32)
        result = network.send("stranger", "commit", posted.key.id, posted.first,
            network.commitment("stranger", evidence, salt), value=network.rules.challenge_bond)  # fmt: skip
        if refused(result) is not None:
            break
        [state] = network.do("stranger", "prove", evidence, salt)
        assert state == State.REJECTED
        network.chain.now_ms -= 1_900
    assert network.batch(posted).overturned == ()
    network.check_money()


def test_a_program_of_another_root_is_no_proof():
    """The wrong program's manifest, records and constants prove nothing about the statement's."""
    network = Optimistic()
    claim, _ = claimed(5, "once", guilty=False)
    posted = post(network, claim)
    other, beside = claimed(6, "once", guilty=True)
    proof = find(other, beside, other)
    assert network.challenge("stranger", posted, 0, proof.encoded()) == State.REJECTED


def test_silence_at_any_depth_overturns():
    for depth in range(3):
        network = Optimistic()
        claim, own = claimed(1, "once", guilty=True)
        posted = post(network, claim)
        asked = []

        class Silent:
            def ask(self, demand, depth=depth, asked=asked, claim=claim):
                asked.append(demand)
                return None if len(asked) > depth else descent.answer_to(demand, claim)

        with pytest.raises(Withheld) as withheld:
            find(claim, own, Silent())
        identity = network.demand("watcher", posted, 0, withheld.value.demand)
        network.pass_window(network.rules.move_ms)
        for _ in range(network.rules.reveal_blocks):
            network.chain.block()
        network.do("watcher", "expire", identity)
        assert network.batch(posted).overturned == (posted.first,)
        network.check_money()
