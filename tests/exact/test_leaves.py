"""Operators without a leaf: what is planted in them shows in what depends on them, and what a proof then opens is within its bounds."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact.compile.leaves import _needed, choose, with_leaves
from avow.exact.errors import BadProgram
from avow.exact.fraud import MalformedProof, NoFault, NotCommitted, NotShown
from avow.exact.hashing import OUTPUT_SLOT, Salts
from avow.exact.outline import outline
from avow.exact.program import NO_LEAF, Program
from avow.exact.prover import _Search, _Trail, find_fault
from avow.exact.reading import MOST_RUNS
from avow.exact.referee import Guilty
from avow.exact.sites import Site, origin_of_output
from avow.exact.specification import KINDS, bounds, cones
from avow.exact.tensors import size_of, unpack
from avow.receipt.encoding import encode
from tests.exact import programs, traces
from tests.exact.test_fraud import another, convict, judge
from tests.exact.traces import SEED

SEEDS = st.integers(0, (1 << 32) - 1)
PARTS = ("name", "mode", "context", "inputs", "constants", "operators", "outputs", "end", "token", "notes")


def with_chosen(program, leaves):
    return Program.build(**{name: getattr(program, name) for name in PARTS}, leaves=leaves)


def thinned(seed, mode=None):
    """A random program with as few leaves as the compiler gives it, or with a random choice between that and all."""
    program = programs.program_of(seed, mode=mode)
    random = Random(seed)
    fewest = choose(program)
    if random.random() < 0.5:
        return with_chosen(program, fewest)
    others = [number for number in range(len(program.operators)) if number not in fewest]
    return with_chosen(program, fewest | set(random.sample(others, random.randint(0, len(others)))))


def run_of(program, seed):
    return programs.inputs_of(program, seed), programs.parameters_of(program, seed)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_lie_in_any_operator_shows_at_the_next_leaf(seed):
    """Also in those without one; unless nothing that is committed to depends on it."""
    program = thinned(seed)
    inputs, parameters = run_of(program, seed)
    random = Random(seed)
    number = random.randrange(len(program.operators))
    at = random.randrange(3)

    def tamper(step, index, values):
        if index != number or step != at or not values:
            return values
        place = random.randrange(len(values))
        value = another(random, program.operators[index], values[place], inside=True)
        return values if value is None else (*values[:place], value, *values[place + 1 :])

    liar = traces.traced(program, inputs, parameters, tamper=tamper)
    own = traces.honest_beside(liar, inputs, parameters)
    different = liar.tensors != traces.traced(program, inputs, parameters, steps=liar.parsed.steps).tensors
    found = convict(liar, own)
    assert (found is not None) == different
    if found is not None:
        assert found.kind in ("element", "output", "end")


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_a_changed_output_is_convicted(seed):
    """With or without a leaf behind it."""
    program = thinned(seed, mode=Random(seed).choice(("once", "sequence")))
    inputs, parameters = run_of(program, seed)
    claim = traces.traced(program, inputs, parameters)
    own = traces.honest_beside(claim, inputs, parameters)
    random = Random(seed)
    for at, number in enumerate(program.outputs):
        operator, slot = program.operators[number], OUTPUT_SLOT + at
        values = unpack(operator.type, claim.tensors[slot])
        index = random.randrange(len(values))
        value = another(random, operator, values[index], inside=random.random() < 0.8)
        if value is not None:
            assert convict(claim.altered(slot, index, value), own) == Guilty("output", slot, index)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_what_a_proof_opens_is_within_the_bound_and_convicts_nobody(seed):
    program = thinned(seed)
    inputs, parameters = run_of(program, seed)
    claim = traces.traced(program, inputs, parameters)
    own = traces.honest_beside(claim, inputs, parameters)
    header, random = claim.parsed, Random(seed)
    cones = bounds.cones_of(program)
    for root in cones.roots():
        operator, bound = program.operators[root], cones.of(root)
        assert bound.refusal() is None
        step = random.randrange(max(header.prompt - 1, 0) if operator.phase else 0, header.steps)
        site = Site(program.head, operator, root, step, header.steps, header.prompt)
        search = _Search(claim.subject, header, own, Salts(SEED), claim)
        index = random.randrange(site.layout.size)
        if operator.leaf != NO_LEAF:
            proof = search._wrong_element(site, index)
        else:
            slot = OUTPUT_SLOT + program.outputs.index(root)
            whole = step * size_of(operator.shape) + index
            assert origin_of_output(program.head, operator, 0, whole) == (step, index)
            proof = search.wrong_output(slot, root, whole)
        with pytest.raises(NoFault):
            judge(claim, proof)
        if operator.leaf != NO_LEAF:
            assert {number for number, _ in proof.inside} <= set(bound.inner)
            opened = [tensor.to_value() for tensor in (*proof.tensors, *proof.constants)]
            sizes = len(encode([opened, list(proof.leaves), list(proof.constant_hashes)])) + len(
                encode([[number, record] for number, record in proof.inside])
            )
            assert sizes + 34 * len(proof.inside_hashes) <= bound.opening + 64 * (len(opened) + 2)


def test_choosing_is_repeatable_and_saves():
    for seed in range(40):
        program = programs.program_of(seed)
        first, second = with_leaves(program), with_leaves(program)
        assert first.root == second.root
        assert first.head.leaves <= len(program.operators)
        assert with_leaves(first).root == first.root  # of what was chosen for, nothing changes
        bounds.check(first)


def test_what_has_to_have_a_leaf_is_refused_without():
    for seed in range(30):
        program = programs.program_of(seed)
        rows = {operator.inputs[0].id for operator in program.operators if operator.kind == "append"}
        for number in sorted(_needed(program) - rows):
            with pytest.raises(BadProgram):
                bounds.check(with_chosen(program, set(range(len(program.operators))) - {number}))


def test_an_append_or_its_row_has_a_leaf():
    program = programs.program_of(1, mode="generate")
    everything = set(range(len(program.operators)))
    for number, operator in enumerate(program.operators):
        if operator.kind == "append" and not operator.integer("transposed"):
            row = operator.inputs[0].id
            bounds.check(with_chosen(program, everything - {number}))
            bounds.check(with_chosen(program, everything - {row}))
            with pytest.raises(BadProgram):
                bounds.check(with_chosen(program, everything - {number, row}))


def chain(count, inside):
    """A sum over 2,000 values, each rescaled so many times, by operators with or without a leaf."""
    b = programs.Builder(Random(1), "once", 8)
    found = b.program_input([2_000], -9, 9)
    for _ in range(count):
        found = b.emit("rescale", [found], [2_000], -9, 9, m=3, s=1)
    b.emit("reduce", [found], [1], -(1 << 20), 1 << 20, mode=1, rescale=0, axis=0, block=2_000)
    program = programs._finish(b, "chain", outputs=[count + 1])
    return with_chosen(program, {0, count + 1} if inside else range(count + 2))


def test_what_would_keep_a_referee_too_long_is_refused_by_loader_and_chain(monkeypatch):
    """Of this chain the work alone is too much: with more allowed, all other bounds hold."""
    few, many = chain(1, inside=True), chain(4, inside=True)
    for check in (bounds.check, lambda program: outline(encode(program.header()))):
        check(few)
        check(chain(4, inside=False))
        with pytest.raises(BadProgram, match="to judge an element costs"):
            check(many)
    monkeypatch.setattr(cones, "MAX_WORK", 1 << 20)
    bounds.check(many)


def shared(roots, operators):
    """Four wide operators without a leaf that many others read, among others that read nothing of the kind."""
    b = programs.Builder(Random(1), "once", 8)
    first = found = b.program_input([1], -9, 9)
    for _ in range(4):
        wide = b.emit("concat", [found, *[first] * 63], [64], -9, 9, axis=0)
        found = b.emit("slice", [wide], [1], -9, 9, starts=[0], steps=[1])
    for number in range(operators):
        b.emit("clip", [found if number < roots else first], [1], -9, 9)
    program = programs._finish(b, "shared", outputs=[8 + operators])
    return with_chosen(program, {0, *range(9, 9 + operators)})


def test_what_would_keep_a_loader_too_long_is_refused_by_loader_and_chain():
    """Of wide operators, which are long to look at, fewer may be shared: here the number of operators alone would allow 100 and more."""
    for check in (bounds.check, lambda program: outline(encode(program.header()))):
        check(shared(10, 100))
        with pytest.raises(BadProgram, match="again and again"):
            check(shared(100, 100))


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_what_a_referee_computes_is_within_what_its_cone_is_said_to_cost(seed):
    program = thinned(seed)
    inputs, parameters = run_of(program, seed)
    claim = traces.traced(program, inputs, parameters)
    own = traces.honest_beside(claim, inputs, parameters)
    header, random = claim.parsed, Random(seed)
    found = bounds.cones_of(program)
    for root in found.roots():
        operator = program.operators[root]
        if KINDS[operator.kind].refute is not None:
            continue
        step = random.randrange(max(header.prompt - 1, 0) if operator.phase else 0, header.steps)
        site = Site(program.head, operator, root, step, header.steps, header.prompt)
        search = _Search(claim.subject, header, own, Salts(SEED), claim)
        reading = search._reading(_Trail(search))
        before = reading._work, reading._reads
        reading.element(site, random.randrange(site.layout.size))
        assert before[0] - reading._work <= MOST_RUNS * found.of(root).work
        assert before[1] - reading._reads <= found.of(root).values


def test_leaves_are_numbered_in_order():
    program = programs.program_of(7)
    assert program.ranks == tuple(range(len(program.operators)))
    few = with_leaves(program)
    assert [few.operators[number].leaf for number in few.with_leaf] == list(range(few.head.leaves))
    assert Program.parse(b"".join(bytes(part) for part in few.parts())).ranks == few.ranks


def with_inside():
    """A lie whose proof goes through operators without a leaf."""
    for seed in range(200):
        program = with_leaves(programs.program_of(seed))
        inputs, parameters = run_of(program, seed)
        claim = traces.traced(program, inputs, parameters)
        own = traces.honest_beside(claim, inputs, parameters)
        for slot in [slot for slot in claim.tensors if slot < OUTPUT_SLOT]:
            operator = program.operators[program.place(slot)[1]]
            value = another(Random(seed), operator, unpack(operator.type, claim.tensors[slot])[0], inside=True)
            if value is None or KINDS[operator.kind].refute is not None:
                continue
            liar = claim.altered(slot, 0, value)
            proof = find_fault(liar.subject, liar.parsed, own, Salts(SEED), liar)
            if proof.kind == "element" and len(proof.inside) >= 2:
                return liar, proof
    raise AssertionError


def test_records_of_operators_without_a_leaf_are_shown_and_all_are_needed():
    liar, proof = with_inside()
    assert judge(liar, proof) == Guilty("element", proof.slot, 0)
    program = liar.program

    def inside(numbers):
        records = tuple((number, program.operators[number].encoded()) for number in numbers)
        return {"inside": records, "inside_hashes": tuple(program.operators_proof(list(numbers)))}

    numbers = [number for number, _ in proof.inside]
    others = [number for number in range(len(program.operators)) if number not in numbers]
    plain = [number for number in others if program.operators[number].leaf == NO_LEAF]
    with pytest.raises(NotShown):
        judge(liar, replace(proof, **inside(numbers[1:])))
    for more in (*plain[:2], *[number for number in others if number not in plain][:2]):
        with pytest.raises(NotShown):
            judge(liar, replace(proof, **inside(sorted([*numbers, more]))))
    with pytest.raises(MalformedProof):
        judge(liar, replace(proof, inside=proof.inside[::-1]))
    swapped = tuple((number, proof.inside[0][1]) for number, _ in proof.inside)
    with pytest.raises(NotCommitted):
        judge(liar, replace(proof, inside=swapped))
    with pytest.raises(NotCommitted):
        judge(liar, replace(proof, inside_hashes=(*proof.inside_hashes, bytes(32))))
    with pytest.raises((NotShown, NotCommitted)):
        judge(liar, replace(proof, operator=numbers[0]))
