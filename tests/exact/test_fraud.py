"""A planted change anywhere in any program is convicted; an honest trace never is."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact.fraud import MAX_PROOF, FraudProof, NoFault, ProofError, gas
from avow.exact.hashing import OUTPUT_SLOT
from avow.exact.prover import check_header, find_fault
from avow.exact.referee import Guilty, referee
from avow.exact.tensors import unpack
from tests.exact import programs, traces
from tests.exact.traces import SEED, OwnRun

SEEDS = st.integers(0, (1 << 32) - 1)


def made(seed, mode=None):
    program = programs.program_of(seed, mode=mode)
    inputs, parameters = programs.inputs_of(program, seed), programs.parameters_of(program, seed)
    return program, inputs, parameters


def convict(claim, own, seed=SEED):
    """The watcher's and the chain's side: the proof, and what the referee says."""
    header = check_header(claim.subject, claim)
    proof = header if isinstance(header, FraudProof) else find_fault(claim.subject, header, own, seed, claim)
    if proof is None:
        return None, None
    encoded = proof.encoded()
    assert len(encoded) <= MAX_PROOF
    assert FraudProof.parse(encoded) == proof
    assert gas(encoded) > 0
    return referee(encoded, traces.program_id(claim.subject.manifest), claim.trace), proof


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_an_honest_trace_has_no_fault(seed):
    program, inputs, parameters = made(seed)
    claim = traces.traced(program, inputs, parameters)
    assert convict(claim, traces.honest_beside(claim, inputs, parameters)) == (None, None)
    assert set(claim.asked) == {"header"}


def another(random, operator, value, *, inside):
    low, high = (operator.low, operator.high) if inside else (-128, 127)
    choices = [
        each
        for each in (low, high, value + 1, value - 1, random.randint(low, high))
        if low <= each <= high and each != value
    ]
    return random.choice(choices) if choices else None


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_a_changed_value_is_convicted(seed):
    """Changed in the trace alone; what follows is honest."""
    program, inputs, parameters = made(seed)
    claim = traces.traced(program, inputs, parameters)
    random = Random(seed)
    slot = random.choice([slot for slot in claim.tensors if slot < OUTPUT_SLOT])
    step, number = divmod(slot, len(program.operators))
    operator = program.operators[number]
    values = unpack(operator.type, claim.tensors[slot])
    index = random.randrange(len(values))
    value = another(random, operator, values[index], inside=random.random() < 0.8)
    if value is None:
        return
    liar = claim.altered(slot, index, value)
    guilty, proof = convict(liar, traces.honest_beside(claim, inputs, parameters))
    assert guilty == Guilty("element", slot, index)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_a_change_that_goes_on_is_convicted(seed):
    """Changed at one place, and honestly computed on from there."""
    program, inputs, parameters = made(seed)
    honest = traces.traced(program, inputs, parameters)
    random = Random(seed)
    slot = random.choice([slot for slot in honest.tensors if slot < OUTPUT_SLOT])
    at, number = divmod(slot, len(program.operators))
    where = []

    def tamper(step, index, values):
        if (step, index) != (at, number):
            return values
        place = random.randrange(len(values))
        value = another(random, program.operators[index], values[place], inside=True)
        if value is None:
            return values
        where.append(place)
        return (*values[:place], value, *values[place + 1 :])

    liar = traces.traced(program, inputs, parameters, tamper=tamper)
    if where:
        guilty, proof = convict(liar, traces.honest_beside(liar, inputs, parameters))
        assert guilty == Guilty("element", slot, where[0])
