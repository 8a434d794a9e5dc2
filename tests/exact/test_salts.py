"""The salts of a trace are bound: under whatever salts and values a node commits, the first chunk that differs convicts it, at once."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact import descent
from avow.exact.claims import Withheld
from avow.exact.fraud import FraudProof, MalformedProof, NoFault, NotCommitted, NotShown, Opened, ProofError
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Salts, chunk_count, tensor_digest
from avow.exact.prover import OtherInputs, check_header, find_fault, salts_of
from avow.exact.referee import Guilty
from avow.exact.tensors import unpack
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode
from tests.exact import programs, traces
from tests.exact.test_fraud import another, honest, judge, leaf_slots, made
from tests.exact.test_referee import HONEST, INPUTS, PROGRAM
from tests.exact.traces import SEED

SEEDS = st.integers(0, (1 << 32) - 1)
OTHER = Salts(bytes(32))
N = 5


class Beside:
    """One slot's salts: the run's, but for the chunks that are under another's."""

    def __init__(self, wrong, base=None):
        self.wrong = wrong
        self.base = base or Salts(SEED)
        self.key = self.base.key

    def salt(self, slot, chunk):
        return (OTHER if chunk in self.wrong else self.base).salt(slot, chunk)


def found_by(claim, inputs, parameters=None, respondent=None, own=None):
    """The watcher's whole way: header, salts, one's own run under them, the search, the judgement."""
    respondent = respondent or claim
    header = check_header(claim.subject, respondent)
    assert not isinstance(header, FraudProof)
    salts = salts_of(claim.subject, header, own or Salts(SEED), respondent)
    run = traces.OwnRun(traces.traced(claim.program, inputs, parameters, seed=salts, steps=header.steps))
    proof = find_fault(claim.subject, header, run, salts, respondent)
    if proof is None:
        return None
    assert FraudProof.parse(proof.encoded()) == proof
    return judge(claim, proof)


def under(claim, slots, salts=OTHER):
    """The claim with other salts in some slots, committed to as if they were right."""
    return replace(claim, salts={**claim.salts, **dict.fromkeys(slots, salts)}).commit()


@pytest.mark.parametrize("slot", [0, 2 * N + 2, 3 * N + 4, INPUT_SLOT, INPUT_SLOT + 1, OUTPUT_SLOT, OUTPUT_SLOT + 1])
def test_right_values_under_wrong_salts_in_one_tensor(slot):
    liar = under(HONEST, [slot])
    assert found_by(liar, INPUTS) == Guilty("salt", slot, 0)
    assert liar.asked in (["header", "nodes", "tensor", "chunk"], ["header", "tensor", "chunk"])


def test_right_values_under_wrong_salts_everywhere():
    """Inputs come first, then leaves: one question for each level of trees, however many leaves differ."""
    liar = replace(HONEST, salts={-1: OTHER}).commit()
    assert found_by(liar, INPUTS) == Guilty("salt", INPUT_SLOT, 0)
    assert liar.asked == ["header", "tensor", "chunk"]
    leaves = under(HONEST, [slot for slot in HONEST.tensors if slot < OUTPUT_SLOT])
    assert found_by(leaves, INPUTS) == Guilty("salt", 0, 0)
    assert leaves.asked == ["header", "nodes", "tensor", "chunk"]


@pytest.mark.parametrize("number", [0, 3, 8])
def test_one_wrong_salt(number):
    """Of int16 [3, 1500], 9,000 bytes, nine chunks."""
    liar = under(HONEST, [N], Beside({number}))
    assert found_by(liar, INPUTS) == Guilty("salt", N, number)
    assert liar.asked == ["header", "nodes", "tensor", "chunk"]


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_of_wrong_values_and_wrong_salts(seed):
    """The first chunk that differs decides; there are as many questions as for one wrong value."""
    random = Random(seed)
    claim, _ = honest(seed)
    _, inputs, parameters = made(seed)
    wrong = set(random.sample(list(claim.tensors), random.randint(0, len(claim.tensors))))
    liar = under(claim, wrong, random.choice([OTHER, Beside({0}), Beside({0, 1})]))
    slots = leaf_slots(claim)
    lied = random.sample(slots, random.randint(1, min(4, len(slots))))
    for slot in lied:
        operator = claim.program.operators[claim.program.place(slot)[1]]
        values = unpack(operator.type, liar.tensors[slot])
        value = another(random, operator, values[0], inside=True)
        if value is None:
            return
        liar = liar.altered(slot, 0, value)
    guilty = found_by(liar, inputs, parameters)
    order = {slot: (slot < INPUT_SLOT, slot) for slot in liar.tensors}  # inputs first
    first = min([*wrong, *lied], key=order.__getitem__)
    assert guilty == (Guilty("salt", first, 0) if first in wrong else Guilty("element", first, 0))
    levels = descent.height(claim.parsed.leaves)
    assert liar.asked.count("nodes") <= 1 + 2 * levels // descent.REACH * len(slots)
    assert liar.asked.count("chunk") == 1


def test_the_questions_do_not_grow_with_what_differs():
    """A chain of 200 steps, every leaf under a wrong salt and one value wrong: as few demands as for one wrong value alone."""
    program = programs.program_of(7, mode="sequence", context=70)
    inputs = programs.inputs_of(program, 7, steps=70)
    claim = traces.traced(program, inputs)
    slots = leaf_slots(claim)
    operator = program.operators[program.place(slots[-1])[1]]
    values = unpack(operator.type, claim.tensors[slots[-1]])
    value = another(Random(0), operator, values[0], inside=True)
    assert value is not None
    single = claim.altered(slots[-1], 0, value)
    assert found_by(single, inputs).kind == "element"
    every = under(claim, slots).altered(slots[-1], 0, value)
    assert found_by(every, inputs) == Guilty("salt", 0, 0)
    assert len(every.asked) <= len(single.asked)


# --- Another key than the seed's -----------------------------------------------------------------------------------


def rekeyed(claim, salts=OTHER):
    """The whole trace under salts of another seed, and the header says so."""
    return replace(claim, salts={-1: salts}).commit(salts=salts.commitment)


def test_right_values_under_another_key_are_no_fault():
    claim = rekeyed(HONEST)
    assert found_by(claim, INPUTS) is None
    assert claim.asked == ["header", "key"]


def test_a_wrong_value_under_another_key():
    claim = rekeyed(HONEST)
    slot = 2 * N + 2
    value = unpack("int8", HONEST.tensors[slot])[8]
    liar = claim.altered(slot, 8, value - 1 if value > 0 else value + 1)
    assert found_by(liar, INPUTS) == Guilty("element", slot, 8)
    assert liar.asked == ["header", "key", "nodes", "tensor", "chunk"]
    assert found_by(under(liar, [0], Salts(SEED)), INPUTS) == Guilty("salt", 0, 0)


def test_the_header_names_another_key_than_the_salts_come_from():
    liar = HONEST.commit(salts=OTHER.commitment)
    assert found_by(liar, INPUTS, respondent=Keyed(liar, OTHER.key)) == Guilty("salt", INPUT_SLOT, 0)


class Keyed:
    """Answers as the claim does, but gives this key."""

    def __init__(self, claim, key):
        self.claim = claim
        self.key = key

    def ask(self, demand):
        if demand.asked == "key":
            descent.check(demand, self.claim.trace)
            return None if self.key is None else encode(self.key)
        return self.claim.ask(demand)


@pytest.mark.parametrize("key", [None, b"", bytes(31), bytes(32), Salts(SEED).key, OTHER.commitment, OTHER.key + b"\0"])
def test_a_key_that_is_withheld_or_another(key):
    """Silence, and a key that does not hash to the header's member, are the same: the demand for it can be made on chain."""
    claim = rekeyed(HONEST)
    with pytest.raises(Withheld) as withheld:
        found_by(claim, INPUTS, respondent=Keyed(claim, key))
    demand = withheld.value.demand
    assert demand.asked == "key"
    descent.check(demand, claim.trace)
    assert descent.Demand.parse(demand.encoded()) == demand


def test_a_member_that_commits_to_no_key():
    claim = HONEST.commit(salts=b"\7" * 32)
    with pytest.raises(Withheld) as withheld:
        found_by(claim, INPUTS)
    assert withheld.value.demand.asked == "key"


def test_only_what_opens_data_is_for_the_audience():
    assert set(descent.Asked.__args__) - descent.OPENING == {"header", "nodes", "tensor", "chunks"}


# --- Inputs --------------------------------------------------------------------------------------------------------


def test_other_inputs_are_looked_at_once():
    """Every chunk of an input is another: one is opened."""
    inputs = programs.inputs_of(PROGRAM, 6, steps=4)
    claim = traces.traced(PROGRAM, inputs)
    with pytest.raises(OtherInputs):
        found_by(claim, INPUTS)
    assert claim.asked == ["header", "tensor", "chunk"]


# --- The referee ---------------------------------------------------------------------------------------------------


def salt_proof(claim, slot, number=0, salts=None):
    """What the prover would make, of any chunk."""
    length, salted = claim.tensor(slot)
    levels = merkle.tree(salted)
    at = slot < OUTPUT_SLOT
    return FraudProof(
        "salt", claim.subject.manifest, claim.header_bytes, claim.program.head.encoded(), slot,
        key=(salts or claim.salts[-1]).key, content=(length, levels[-1][0]),
        tensors=(Opened(slot, ((number, salted[number]),), tuple(merkle_multiproof(levels, [number]))),),
        leaves=tuple(merkle_multiproof(merkle.tree(claim.digests), [slot])) if at else (),
    )  # fmt: skip


def merkle_multiproof(levels, indices):
    from avow.exact.openings import multiproof

    return multiproof(levels, indices)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_an_honest_trace_has_every_salt(seed):
    claim, _ = honest(seed)
    for slot, data in claim.tensors.items():
        for number in range(chunk_count(len(data))):
            with pytest.raises(NoFault):
                judge(claim, salt_proof(claim, slot, number))
            with pytest.raises(NotCommitted, match="key"):
                judge(claim, salt_proof(claim, slot, number, OTHER))


@pytest.mark.parametrize("slot", [N, INPUT_SLOT, OUTPUT_SLOT])
def test_a_proof_bent(slot):
    liar = under(HONEST, [slot])
    proof = salt_proof(liar, slot)
    assert judge(liar, proof) == Guilty("salt", slot, 0)
    (tensor,) = proof.tensors
    number, data = tensor.chunks[0]
    shorter = replace(tensor, chunks=((number, data[:-1]),))
    two = Opened(slot, tuple(enumerate(liar.tensor(slot)[1]))[:2], ())
    other_slot = slot + 1 if slot != OUTPUT_SLOT else INPUT_SLOT
    bent = {
        "another key": ({"key": OTHER.key}, NotCommitted),
        "no key": ({"key": b""}, MalformedProof),
        "a short key": ({"key": bytes(31)}, MalformedProof),
        "another length": ({"content": (proof.content[0] + 1024, proof.content[1])}, NotCommitted),
        "another root": ({"content": (proof.content[0], bytes(32))}, NotCommitted),
        "nothing opened": ({"tensors": ()}, NotShown),
        "two tensors": ({"tensors": (tensor, replace(tensor, slot=slot + 9))}, NotShown),
        "a shorter chunk": ({"tensors": (shorter,)}, NotCommitted),
        "another chunk's number": ({"tensors": (replace(tensor, chunks=((1, data),)),)}, NotCommitted),
        "a chunk beyond the end": ({"tensors": (replace(tensor, chunks=((4_000, data),)),)}, NotCommitted),
        "right salt": ({"tensors": (replace(tensor, chunks=((0, HONEST.tensor(slot)[1][0]),)),)}, NotCommitted),
        "another tensor's slot": ({"tensors": (replace(tensor, slot=other_slot),)}, NotShown),
        "another slot": ({"slot": other_slot, "tensors": (replace(tensor, slot=other_slot),)}, NotCommitted),
        "a slot of nothing": ({"slot": 1 << 61, "tensors": (replace(tensor, slot=1 << 61),)}, NotCommitted),
        "a hash more": ({"leaves": (*proof.leaves, bytes(32))}, NotCommitted),
        "another header": ({"header": HONEST.header_bytes}, NotCommitted),
        "another head": ({"head": programs.program_of(1).head.encoded()}, NotCommitted),
    }
    for name, (change, error) in bent.items():
        with pytest.raises(error):
            judge(liar, replace(proof, **change))
        assert name
    if len(two.chunks) == 2:
        with pytest.raises(NotShown):
            judge(liar, replace(proof, tensors=(two,)))
    if proof.leaves:
        with pytest.raises(NotCommitted):
            judge(liar, replace(proof, leaves=()))
        with pytest.raises(NotCommitted):
            judge(liar, replace(proof, leaves=(bytes(32), *proof.leaves[1:])))


def test_a_chunk_of_another_size_convicts_nobody():
    """Salt and chunk in one leaf of 15 bytes: what is the salt? It has no right answer to a demand: that is silence."""
    digests = [*HONEST.digests]
    slot, other = 3 * N + 4, bytes(15)
    root = merkle.leaf_hash(other)
    digests[slot] = tensor_digest(36, root)
    header = replace(HONEST.parsed, root=merkle.root(digests)).encoded()
    claim = replace(HONEST, header_bytes=header, digests=digests)
    proof = replace(
        salt_proof(HONEST, slot), header=header, content=(36, root), tensors=(Opened(slot, ((0, other),), ()),),
        leaves=tuple(merkle_multiproof(merkle.tree(digests), [slot])),
    )  # fmt: skip
    with pytest.raises(NotCommitted, match="size"):
        judge(claim, proof)


def test_a_header_that_the_program_cannot_have_is_another_kind():
    liar = under(HONEST, [0]).commit(steps=HONEST.parsed.steps + 1)
    with pytest.raises(NotShown):
        judge(liar, salt_proof(liar, 0))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_flipped_bit_never_convicts_another(data):
    liar = under(HONEST, [N])
    value = decode(salt_proof(liar, N).encoded())
    name = data.draw(st.sampled_from(["header", "head", "key", "manifest"]))
    at = data.draw(st.integers(0, len(value[name]) - 1))
    flipped = bytearray(value[name])
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    proof = encode({**value, name: bytes(flipped)})
    from avow.exact.referee import referee

    with pytest.raises(ProofError):
        referee(proof, traces.program_id(liar.subject.manifest), liar.trace)


@pytest.mark.parametrize("slot", [0, INPUT_SLOT, OUTPUT_SLOT])
def test_a_right_salt_and_a_wrong_key_convict_nobody(slot):
    """Without chance: the two conditions that keep an honest trace from a `salt` proof, each alone."""
    with pytest.raises(NoFault, match="own salt"):
        judge(HONEST, salt_proof(HONEST, slot))
    with pytest.raises(NotCommitted, match="key"):
        judge(HONEST, salt_proof(HONEST, slot, salts=OTHER))


def test_a_liars_proof_is_of_its_own_trace_alone():
    liar = under(HONEST, [N])
    with pytest.raises(NotCommitted, match="not the trace's"):
        judge(HONEST, salt_proof(liar, N))
