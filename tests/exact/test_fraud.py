"""A planted change anywhere in any program is convicted; an honest trace never is."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact import descent
from avow.exact.claims import Withheld
from avow.exact.fraud import MAX_PROOF, FraudProof, NoFault, ProofError, gas
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Salts
from avow.exact.prover import OtherInputs, _Search, check_header, find_fault
from avow.exact.referee import Guilty, header_fault, referee
from avow.exact.sites import Site
from avow.exact.tensors import size_of, unpack
from avow.receipt import merkle
from tests.exact import programs, traces
from tests.exact.traces import SEED

SEEDS = st.integers(0, (1 << 32) - 1)


def made(seed, mode=None):
    program = programs.program_of(seed, mode=mode)
    inputs, parameters = programs.inputs_of(program, seed), programs.parameters_of(program, seed)
    return program, inputs, parameters


def judge(claim, proof):
    return referee(proof.encoded(), traces.program_id(claim.subject.manifest), claim.trace)


def convict(claim, own, respondent=None):
    """The watcher's and the chain's side: what the referee says to the proof, None where there is none."""
    respondent = respondent or claim
    header = check_header(claim.subject, respondent)
    proof = (
        header if isinstance(header, FraudProof) else find_fault(claim.subject, header, own, Salts(SEED), respondent)
    )
    if proof is None:
        return None
    encoded = proof.encoded()
    assert len(encoded) <= MAX_PROOF
    assert FraudProof.parse(encoded) == proof
    assert gas(encoded) > 0
    return judge(claim, proof)


def honest(seed, mode=None):
    program, inputs, parameters = made(seed, mode)
    claim = traces.traced(program, inputs, parameters)
    return claim, traces.honest_beside(claim, inputs, parameters)


def leaf_slots(claim):
    return [slot for slot in claim.tensors if slot < OUTPUT_SLOT]


def operator_at(program, slot):
    """The number of the operator whose leaf it is."""
    return program.place(slot)[1]


# --- Values --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_an_honest_trace_has_no_fault(seed):
    claim, own = honest(seed)
    assert convict(claim, own) is None
    assert set(claim.asked) == {"header"}


def another(random, operator, value, *, inside):
    low, high = (operator.low, operator.high) if inside else (-128, 127)
    choices = [low, high, value + 1, value - 1, random.randint(low, high)]
    choices = [each for each in choices if low <= each <= high and each != value]
    return random.choice(choices) if choices else None


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_a_changed_value_is_convicted(seed):
    """Changed in the trace alone; what follows is honest."""
    claim, own = honest(seed)
    random = Random(seed)
    slot = random.choice(leaf_slots(claim))
    operator = claim.program.operators[operator_at(claim.program, slot)]
    values = unpack(operator.type, claim.tensors[slot])
    index = random.randrange(len(values))
    value = another(random, operator, values[index], inside=random.random() < 0.8)
    if value is not None:
        assert convict(claim.altered(slot, index, value), own) == Guilty("element", slot, index)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_a_change_that_goes_on_is_convicted(seed):
    """Changed at one place, and honestly computed on from there."""
    program, inputs, parameters = made(seed)
    random = Random(seed)
    slot = random.choice(leaf_slots(traces.traced(program, inputs, parameters)))
    where = []

    def tamper(step, index, values):
        if program.slot(step, index) != slot:
            return values
        place = random.randrange(len(values))
        value = another(random, program.operators[index], values[place], inside=True)
        if value is None:
            return values
        where.append(place)
        return (*values[:place], value, *values[place + 1 :])

    liar = traces.traced(program, inputs, parameters, tamper=tamper)
    if where:
        assert convict(liar, traces.honest_beside(liar, inputs, parameters)) == Guilty("element", slot, where[0])


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_several_changes_are_convicted_at_the_first(seed):
    claim, own = honest(seed)
    random = Random(seed)
    changed = {}
    for slot in random.choices(leaf_slots(claim), k=4):
        operator = claim.program.operators[operator_at(claim.program, slot)]
        index = random.randrange(len(unpack(operator.type, claim.tensors[slot])))
        value = another(random, operator, unpack(operator.type, own.tensor(slot))[index], inside=True)
        if value is not None:
            claim = claim.altered(slot, index, value)
            changed.setdefault(slot, set()).add(index)
    if changed:
        assert convict(claim, own) == Guilty("element", min(changed), min(changed[min(changed)]))


# --- An honest trace is never convicted ----------------------------------------------------------------------------


def attempts(claim, own, random):
    """Proofs of every kind against a trace, with its true openings."""
    program, header = claim.program, claim.parsed
    search = _Search(claim.subject, header, own, Salts(SEED), claim)

    def site_of(slot):
        step, number = program.place(slot)
        return Site(program.head, program.operators[number], number, step, header.steps, header.prompt)

    def content(slot):
        length, salted = claim.tensor(slot)
        return length, merkle.root(salted)

    head, manifest = program.head.encoded(), claim.subject.manifest
    yield FraudProof("program", manifest)
    yield FraudProof("header", manifest, claim.header_bytes, head)
    for slot in random.sample(leaf_slots(claim), min(5, len(leaf_slots(claim)))):
        site = site_of(slot)
        yield search._wrong_element(site, random.randrange(site.layout.size))
        yield search._of_operator(
            "length", site, slot, content=content(slot), leaves=search._claimed.tree.proof([slot])
        )
    for slot in random.sample(range(header.leaves), min(5, header.leaves)):
        proof = search._claimed.tree.proof([slot])
        yield search._of_operator("presence", site_of(slot), slot, digest=claim.digests[slot], leaves=proof)
    for k, tensor in enumerate(program.inputs):
        slot = INPUT_SLOT + k
        yield FraudProof("length", manifest, claim.header_bytes, head, slot, content=content(slot))
        index = random.randrange(size_of(tensor.shape))
        chunk = index * (len(claim.tensors[slot]) // len(unpack(tensor.type, claim.tensors[slot]))) // 1024
        opened = (search._open(slot, [chunk]),)
        yield FraudProof("input", manifest, claim.header_bytes, head, slot, index=index, tensors=opened)
    for k, number in enumerate(program.outputs):
        slot = OUTPUT_SLOT + k
        first = max(header.prompt - 1, 0)
        site = site_of(program.slot(first, number))
        yield search._of_operator("length", site, slot, content=content(slot), leaves=())
        yield search._opening("output", site, slot, 0, {slot: {0}, site.slot: {0}})
    if program.mode == "generate":
        for step in range(header.prompt - 1, header.steps):
            site = site_of(program.slot(step, program.token))
            yield search._opening("end", site, site.slot, 0, {site.slot: {0}})


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_nothing_true_convicts_an_honest_trace(seed):
    claim, own = honest(seed)
    for proof in attempts(claim, own, Random(seed)):
        with pytest.raises(NoFault):
            judge(claim, proof)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.data())
def test_nothing_mutated_convicts_an_honest_trace(seed, data):
    claim, own = honest(seed)
    proofs = list(attempts(claim, own, Random(seed)))
    identity = traces.program_id(claim.subject.manifest)
    for _ in range(20):
        proof = data.draw(st.sampled_from(proofs))
        encoded = bytearray(proof.encoded())
        for _ in range(data.draw(st.integers(1, 3))):
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
        with pytest.raises(ProofError):
            referee(bytes(encoded), identity, claim.trace)
        members = [name for name in FraudProof.__slots__ if name not in ("kind", "manifest")]
        name = data.draw(st.sampled_from(members))
        other = data.draw(st.sampled_from(proofs))
        with pytest.raises(ProofError):
            judge(claim, replace(proof, **{name: getattr(other, name)}))
        with pytest.raises(ProofError):
            judge(claim, replace(proof, kind=other.kind))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_another_traces_fault_convicts_nobody_else(seed):
    claim, own = honest(seed)
    slot = leaf_slots(claim)[-1]
    operator = claim.program.operators[operator_at(claim.program, slot)]
    value = another(Random(seed), operator, unpack(operator.type, claim.tensors[slot])[0], inside=True)
    if value is None:
        return
    liar = claim.altered(slot, 0, value)
    proof = find_fault(liar.subject, liar.parsed, own, Salts(SEED), liar)
    assert judge(liar, proof).kind == "element"
    with pytest.raises(ProofError):
        judge(claim, proof)
    with pytest.raises(ProofError):
        judge(claim, replace(proof, header=claim.header_bytes))
    with pytest.raises(ProofError):
        referee(proof.encoded(), bytes(32), liar.trace)


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_proof_or_refused(data):
    with pytest.raises(ProofError):
        referee(data, bytes(32), bytes(32))


# --- The other kinds -----------------------------------------------------------------------------------------------


def generated(seed=3, **changes):
    """A run of a language model that chose several tokens, honest, and one's own."""
    for attempt in range(seed, seed + 200):
        program, inputs, parameters = made(attempt, "generate")
        parameters = replace(parameters, max_tokens=4, **changes)
        claim = traces.traced(program, inputs, parameters)
        if claim.parsed.steps - claim.parsed.prompt >= 2 and claim.parsed.steps < program.context:
            return claim, inputs, parameters
    raise AssertionError


HEADERS = [
    {"program": bytes(32)},
    {"steps": 0, "leaves": 0},
    {"steps": 1 << 30},
    {"leaves": 1},
    {"inputs": ()},
    {"outputs": ()},
    {"inputs": (bytes(32),) * 9},
    {"prompt": 1},
    {"finish": "length"},
    {"finish": "text"},
    {"finish": "end"},
    {"parameters": {"max_tokens": 1, "seed": 0, "temperature_m": 0, "temperature_s": 1}},
]


@pytest.mark.parametrize("change", HEADERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_header_that_a_program_cannot_have(change, seed):
    claim, own = honest(seed, "once")
    liar = claim.commit(**change)
    assert convict(liar, own) == Guilty("header")


P = {"max_tokens": 4, "seed": 0, "temperature_m": 0, "temperature_s": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": 0},
        {"prompt": 1 << 20},
        {"parameters": {}},
        {"parameters": P | {"temperature_m": 1 << 15}},
        {"parameters": P | {"temperature_s": 0}},
        {"parameters": P | {"temperature_s": 46}},
        {"parameters": P | {"max_tokens": 0}},
        {"parameters": P | {"max_tokens": 1}},
        {"parameters": P | {"max_tokens": 100}, "finish": "length"},
        {"finish": "whole"},
    ],
)
def test_a_header_that_a_language_model_cannot_have(change):
    claim, inputs, parameters = generated(temperature_m=0)
    liar = claim.commit(**change)
    assert convict(liar, traces.OwnRun(claim)) == Guilty("header")


def test_the_edges_of_a_header():
    claim, inputs, parameters = generated(temperature_m=0)
    head, header = claim.program.head, claim.parsed
    chosen = header.steps - header.prompt + 1
    edge = {"temperature_m": (1 << 15) - 1, "temperature_s": 45, "seed": (1 << 64) - 1, "max_tokens": chosen}
    for finish in ("length", "end", "text"):
        assert header_fault(replace(header, parameters=edge, finish=finish), head) is None
    longer = replace(header, parameters=edge | {"max_tokens": chosen + 1}, finish="length")
    assert header_fault(longer, head) == "the reason for the end"
    full = replace(head, context=header.steps)
    assert header_fault(replace(longer, program=full.root()), full) is None
    less = replace(head, context=header.steps - 1)
    assert header_fault(replace(longer, program=less.root()), less) == "the number of steps"
    one = replace(header, steps=header.prompt, leaves=header.prompt * head.leaves, parameters=edge | {"max_tokens": 1})
    assert header_fault(replace(one, finish="length"), head) is None


@pytest.mark.parametrize("data", [b"", b"\xa0", b"no header" * 100, bytes(8_000)])
def test_a_header_that_is_none(data):
    claim, own = honest(4)
    liar = replace(claim, header_bytes=data)
    assert convict(liar, own) == Guilty("header")
    with pytest.raises(ProofError, match="needs no program"):
        judge(liar, FraudProof("header", claim.subject.manifest, data, claim.program.head.encoded()))


@pytest.mark.parametrize(
    "manifest",
    [
        b"\x00",
        b"not a manifest",
        traces.encode({"engine": "llama", "options": {"root": "00" * 32}}),
        traces.encode({"engine": "exact", "options": {}}),
        traces.encode({"engine": "exact", "options": {"root": "00" * 31}}),
        traces.encode({"engine": "exact", "options": {"root": "AA" * 32}}),
        traces.encode({"engine": "exact", "options": {"root": bytes(32)}}),
        traces.encode({"engine": "exact", "options": []}),
        traces.encode([]),
    ],
)
def test_a_program_without_an_exact_meaning(manifest):
    proof = FraudProof("program", manifest).encoded()
    assert referee(proof, traces.program_id(manifest), bytes(32)) == Guilty("program")
    with pytest.raises(ProofError, match="not the program's"):
        referee(proof, bytes(32), bytes(32))
    claim, own = honest(4)
    other = FraudProof("header", manifest, claim.header_bytes, claim.program.head.encoded()).encoded()
    with pytest.raises(ProofError, match="no exact meaning"):
        referee(other, traces.program_id(manifest), claim.trace)


@pytest.mark.parametrize("mode", ["once", "sequence", "generate"])
@pytest.mark.parametrize("by", [-1, 1, 1 << 30])
def test_a_length_that_a_program_does_not_give(mode, by):
    claim, own = honest(7, mode)
    slots = [leaf_slots(claim)[0], leaf_slots(claim)[-1], INPUT_SLOT, OUTPUT_SLOT]
    for slot in slots:
        liar = replace(claim, lengths={slot: len(claim.tensors[slot]) + by}).commit()
        if descent.hashing.chunk_count(len(claim.tensors[slot]) + by) != len(claim.tensor(slot)[1]):
            with pytest.raises(Withheld):  # no chunks can be behind it: nothing answers a demand
                convict(liar, own)
        else:
            assert convict(liar, own) == Guilty("length", slot)


@pytest.mark.parametrize("mode", ["once", "sequence", "generate"])
def test_a_tensor_that_is_longer_or_shorter(mode):
    claim, own = honest(8, mode)
    for slot in (leaf_slots(claim)[0], leaf_slots(claim)[-1], INPUT_SLOT, OUTPUT_SLOT):
        for data in (claim.tensors[slot] + bytes(4), claim.tensors[slot][:-1], bytes(3000), b""):
            liar = replace(claim, tensors={**claim.tensors, slot: data}).commit()
            assert convict(liar, own) == Guilty("length", slot)


def test_an_operator_that_should_have_run():
    claim, own = honest(9)
    slot = leaf_slots(claim)[-1]
    gone = replace(claim, tensors={at: data for at, data in claim.tensors.items() if at != slot}).commit()
    assert convict(gone, own) == Guilty("presence", slot)


def test_an_operator_that_should_not_have_run():
    for seed in range(100):
        program, inputs, parameters = made(seed, "generate")
        if len(inputs[0]) >= 8:
            break
    claim = traces.traced(program, inputs, parameters)
    own = traces.honest_beside(claim, inputs, parameters)
    number = next(number for number, operator in enumerate(program.operators) if operator.phase)
    liar = replace(claim, tensors={**claim.tensors, number: b"\x01\x02"}).commit()
    assert convict(liar, own) == Guilty("presence", number)
    search = _Search(liar.subject, liar.parsed, own, Salts(SEED), liar)
    site = Site(program.head, program.operators[number], number, 0, liar.parsed.steps, liar.parsed.prompt)
    with pytest.raises(ProofError, match="no tensor at this step"):
        judge(liar, search._of_operator("length", site, number, content=(2, bytes(32)), leaves=()))
    with pytest.raises(ProofError, match="does not run"):
        judge(liar, search._opening("element", site, number, 0, {}))


@pytest.mark.parametrize("mode", ["once", "sequence", "generate"])
def test_an_output_that_no_operator_gave(mode):
    claim, own = honest(10, mode)
    for k in range(len(claim.program.outputs)):
        slot = OUTPUT_SLOT + k
        values = unpack(claim.type_of(slot), claim.tensors[slot])
        for index in {0, len(values) - 1, len(values) // 2}:
            liar = claim.altered(slot, index, values[index] ^ 1)
            assert convict(liar, own) == Guilty("output", slot, index)


def test_an_input_outside_of_its_interval():
    claim, own = honest(11, "once")
    assert claim.program.inputs[0].low == -127
    liar = claim.altered(INPUT_SLOT, 2, -128)
    assert convict(liar, own) == Guilty("input", INPUT_SLOT, 2)


def test_other_inputs_are_no_fault_that_a_referee_sees():
    claim, own = honest(11, "once")
    value = unpack("int8", claim.tensors[INPUT_SLOT])[0]
    liar = claim.altered(INPUT_SLOT, 0, value + 1 if value < 127 else 0)
    with pytest.raises(OtherInputs):
        convict(liar, own)


def with_end(claim, inputs, parameters, end):
    """The same program with other end tokens, run anew for as many steps."""
    program = claim.program
    other = type(program).build(
        name=program.name, mode=program.mode, context=program.context, inputs=program.inputs, constants=program.constants,
        operators=program.operators, outputs=program.outputs, end=end, token=program.token, notes=program.notes,
    )  # fmt: skip
    return traces.traced(other, inputs, parameters, steps=claim.parsed.steps)


def tokens(claim):
    return unpack("int32", claim.tensors[OUTPUT_SLOT])


def test_the_end():
    claim, inputs, parameters = generated(temperature_m=0)
    seed = 5
    while len(set(tokens(claim))) < 2 or tokens(claim)[-1] == tokens(claim)[0]:
        seed += 1
        claim, inputs, parameters = generated(seed, temperature_m=0)
    n, chosen = len(claim.program.operators), tokens(claim)
    last = (claim.parsed.steps - 1) * n + claim.program.token
    first = (claim.parsed.prompt - 1) * n + claim.program.token
    went_on = with_end(claim, inputs, parameters, [chosen[0]])
    own = traces.OwnRun(went_on)
    assert convict(went_on.commit(finish="length"), own) == Guilty("end", first)
    ended = with_end(claim, inputs, parameters, [chosen[-1]])
    if chosen[-1] not in chosen[:-1]:
        own = traces.OwnRun(ended)
        assert convict(ended.commit(finish="end"), own) is None
        assert convict(ended.commit(finish="text"), own) == Guilty("end", last)
        assert convict(ended.commit(finish="length"), own) == Guilty("end", last)
    free = with_end(claim, inputs, parameters, [])
    own = traces.OwnRun(free)
    assert convict(free.commit(finish="end"), own) == Guilty("end", last)
    assert convict(free.commit(finish="text"), own) is None
    search = _Search(free.subject, free.parsed, own, Salts(SEED), free)
    other = Site(
        free.program.head, free.program.operators[0], 0, free.parsed.steps - 1, free.parsed.steps, free.parsed.prompt
    )
    with pytest.raises(ProofError, match="no token was chosen"):
        judge(free, search._opening("end", other, other.slot, 0, {other.slot: {0}}))


# --- Silence ---------------------------------------------------------------------------------------------------


class Overlay:
    """A respondent who is silent, and a chain on which each demand is answered."""

    def __init__(self, claim):
        self.claim = claim
        self.answers = {}

    def ask(self, demand):
        return self.answers.get(demand.encoded())


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_what_is_withheld_can_be_demanded_step_by_step(seed):
    claim, own = honest(seed)
    slot = Random(seed).choice(leaf_slots(claim))
    operator = claim.program.operators[operator_at(claim.program, slot)]
    value = another(Random(seed), operator, unpack(operator.type, claim.tensors[slot])[0], inside=True)
    liar = claim if value is None else claim.altered(slot, 0, value)
    overlay = Overlay(liar)
    asked = []
    while True:
        try:
            found = convict(liar, own, overlay)
            break
        except Withheld as withheld:
            demand = withheld.demand
            descent.check(demand, liar.trace)
            answer = descent.answer_to(demand, liar)
            assert len(demand.encoded()) <= descent.MAX_DEMAND
            assert len(answer) <= descent.MAX_ANSWER
            assert demand.encoded() not in overlay.answers
            overlay.answers[demand.encoded()] = answer
            asked.append(demand.asked)
    assert found == (None if value is None else Guilty("element", slot, 0))
    assert asked == ["header"] if value is None else asked[:2] == ["header", "nodes"]
    assert asked == sorted(asked, key=["header", "nodes", "tensor", "chunks", "chunk"].index)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.data())
def test_a_wrong_answer_is_no_answer(seed, data):
    claim, own = honest(seed)
    slot = leaf_slots(claim)[0]
    operator = claim.program.operators[slot]
    value = another(Random(seed), operator, unpack(operator.type, claim.tensors[slot])[0], inside=True)
    if value is None:
        return
    liar = claim.altered(slot, 0, value)
    lie = data.draw(st.integers(0, 3))

    class Wrong:
        asked = 0

        def ask(self, demand):
            answer = descent.answer_to(demand, liar)
            self.asked += 1
            if self.asked != lie + 1:
                return answer
            at = data.draw(st.integers(0, len(answer) - 1))
            return answer[:at] + bytes([answer[at] ^ data.draw(st.integers(1, 255))]) + answer[at + 1 :]

    with pytest.raises(Withheld):
        convict(liar, own, Wrong())
