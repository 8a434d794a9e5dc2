"""The referee's rules one by one: a proof that shows a fault, bent in every way that should make it worthless."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact import fraud, openings
from avow.exact.fraud import FraudProof, MalformedProof, NoFault, NotCommitted, NotShown, Opened, ProofError
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Salts, tensor_digest
from avow.exact.program import CONSTANT, INPUT, OPERATOR, PREVIOUS, Constant, Operator, Program, Source, Tensor
from avow.exact.prover import _Search, find_fault
from avow.exact.referee import Guilty
from avow.exact.sites import Site
from avow.exact.tensors import RANGES, pack, unpack
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode
from tests.exact import programs, traces
from tests.exact.test_fraud import convict, judge, leaf_slots
from tests.exact.traces import SEED


def wide_program():
    """Two inputs, constants of many chunks, a product over several chunks, a choice."""
    random = Random(0)
    x, y = Tensor("int16", (3, 1500), -2047, 2047), Tensor("int8", (40,), -127, 127)
    w = Constant.of("int8", (6, 1500), pack("int8", [random.randint(-5, 5) for _ in range(9000)]))
    scale = Constant.of("int32", (1,), pack("int32", [300]))
    shift = Constant.of("int8", (1,), pack("int8", [20]))
    unused = Constant.of("int8", (5000,), bytes(5000))
    first = Operator("input", (Source(INPUT, 0, "int16", (3, 1500), -2047, 2047),), "int16", (3, 1500), -2047, 2047)
    second = Operator("input", (Source(INPUT, 1, "int8", (40,), -127, 127),), "int8", (40,), -127, 127)
    sources = (first.source(OPERATOR, 0), w.source(1, -5, 5), scale.source(2), shift.source(3))
    product = Operator("linear", sources, "int8", (3, 6), -127, 127, 0, {"bias": 0, "rescale": 1})
    choice = Operator("argmax", (second.source(OPERATOR, 1),), "int32", (1,), 0, 39)
    last = Operator(
        "add",
        (product.source(OPERATOR, 2), product.source(PREVIOUS, 2)),
        "int16",
        (3, 6),
        -300,
        300,
        0,
        {"ma": 1, "mb": 1, "s": 0},
    )
    return Program.build(
        name="wide", mode="sequence", context=9, inputs=[x, y], constants=[unused, w, scale, shift],
        operators=[first, second, product, choice, last], outputs=[4, 3],
    )  # fmt: skip


PROGRAM = wide_program()
INPUTS = programs.inputs_of(PROGRAM, 5, steps=4)
HONEST = traces.traced(PROGRAM, INPUTS)
OWN = traces.OwnRun(HONEST)
N = 5


def planted(slot, index):
    value = unpack(HONEST.type_of(slot), HONEST.tensors[slot])[index]
    liar = HONEST.altered(slot, index, value - 1 if value > 0 else value + 1)
    proof = find_fault(liar.subject, liar.parsed, OWN, Salts(SEED), liar)
    assert judge(liar, proof) == Guilty("element", slot, index)
    return liar, proof


PRODUCT, PRODUCT_PROOF = planted(2 * N + 2, 8)
CHOICE, CHOICE_PROOF = planted(1 * N + 3, 0)
ADDED, ADDED_PROOF = planted(3 * N + 4, 17)


def test_what_a_proof_opens():
    """The tile, not the whole: one row of x, one row of w."""
    assert [(item.slot, [number for number, _ in item.chunks]) for item in PRODUCT_PROOF.tensors] == [
        (2 * N, [2, 3, 4, 5]),  # row 1 of int16 [3, 1500]: bytes 3000 to 5999
        (2 * N + 2, [0]),
    ]
    assert [(item.slot, [number for number, _ in item.chunks]) for item in PRODUCT_PROOF.constants] == [
        (1, [2, 3, 4]),  # row 2 of int8 [6, 1500]: bytes 3000 to 4499
        (2, [0]),
        (3, [0]),
    ]
    assert CHOICE_PROOF.witness == unpack("int32", HONEST.tensors[N + 3])[0]
    assert [item.slot for item in ADDED_PROOF.tensors] == [2 * N + 2, 3 * N + 2, 3 * N + 4]


def bend(opened, at, change):
    """A tuple with one member changed, or left out for None."""
    changed = change(opened[at])
    return (*opened[:at], *(() if changed is None else (changed,)), *opened[at + 1 :])


def chunk(at, change):
    """A change of one chunk of an opened tensor."""
    return lambda item: replace(item, chunks=bend(item.chunks, at, change))


PROOF = PRODUCT_PROOF
T, C = PROOF.tensors, PROOF.constants
BENT = {
    # form
    "no chunks": (MalformedProof, {"tensors": bend(T, 1, chunk(0, lambda _: None))}),
    "tensors out of order": (MalformedProof, {"tensors": T[::-1]}),
    "a tensor twice": (MalformedProof, {"tensors": (T[0], T[0], T[1])}),
    "chunks out of order": (MalformedProof, {"tensors": bend(T, 0, lambda item: replace(item, chunks=item.chunks[::-1]))}),
    "a chunk twice": (MalformedProof, {"tensors": bend(T, 0, lambda item: replace(item, chunks=(item.chunks[0], *item.chunks)))}),
    "a hash of 31 bytes": (MalformedProof, {"leaves": (b"x" * 31,)}),
    "constants out of order": (MalformedProof, {"constants": C[::-1]}),
    "an empty manifest": (MalformedProof, {"manifest": b""}),
    "a record that is none": (NotCommitted, {"record": b"\xa0"}),
    "a head that is none": (MalformedProof, {"head": b"\xa0"}),
    # commitments
    "another header": (NotCommitted, {"header": HONEST.header_bytes}),
    "another manifest": (NotCommitted, {"manifest": traces.encode({"engine": "exact", "options": {"root": "00" * 32}})}),
    "another head": (NotCommitted, {"head": programs.program_of(1).head.encoded()}),
    "another operator's record": (NotCommitted, {"record": PROGRAM.operator_opening(4)[0], "path": tuple(PROGRAM.operator_opening(4)[1])}),
    "another path": (NotCommitted, {"path": PROOF.path[:-1]}),
    "a longer path": (NotCommitted, {"path": (*PROOF.path, bytes(32))}),
    "a forged chunk": (NotCommitted, {"tensors": bend(T, 0, chunk(0, lambda c: (c[0], bytes(len(c[1])))))}),
    "another salt": (NotCommitted, {"tensors": bend(T, 1, chunk(0, lambda c: (c[0], bytes(16) + c[1][16:])))}),
    "a longer chunk": (NotCommitted, {"tensors": bend(T, 1, chunk(0, lambda c: (c[0], c[1] + b"\0")))}),
    "a shorter chunk": (NotCommitted, {"tensors": bend(T, 1, chunk(0, lambda c: (c[0], c[1][:-1])))}),
    "a chunk beyond the end": (NotCommitted, {"tensors": bend(T, 1, chunk(0, lambda c: (1, c[1])))}),
    "another tile": (NotCommitted, {"tensors": bend(T, 0, chunk(3, lambda c: (6, c[1])))}),
    "hashes beside the tile": (NotCommitted, {"tensors": bend(T, 0, lambda item: replace(item, hashes=item.hashes[::-1]))}),
    "a hash more in a tensor": (NotCommitted, {"tensors": bend(T, 0, lambda item: replace(item, hashes=(*item.hashes, bytes(32))))}),
    "a hash less among the leaves": (NotCommitted, {"leaves": PROOF.leaves[:-1]}),
    "a hash more among the leaves": (NotCommitted, {"leaves": (*PROOF.leaves, bytes(32))}),
    "leaves changed": (NotCommitted, {"leaves": PROOF.leaves[::-1]}),
    "a forged constant": (NotCommitted, {"constants": bend(C, 0, chunk(0, lambda c: (c[0], bytes(1024))))}),
    "a hash less for the constants": (NotCommitted, {"constant_hashes": PROOF.constant_hashes[:-1]}),
    "constants changed": (NotCommitted, {"constant_hashes": (bytes(32),) * len(PROOF.constant_hashes)}),
    # what the fault needs
    "a tensor that is missing": (NotCommitted, {"tensors": T[1:]}),
    "no tensors": (NotShown, {"tensors": (), "leaves": ()}),
    "no constants": (NotShown, {"constants": (), "constant_hashes": ()}),
    "hashes without constants": (NotShown, {"constants": ()}),
    "a tensor of another step": (NotShown, {"tensors": (replace(T[0], slot=N), *T[1:])}),
    "a constant that is not read": (NotShown, {"constants": (replace(C[0], slot=0), *C[1:])}),
    "a slot beyond the leaves": (NotShown, {"slot": HONEST.parsed.leaves}),
    "a slot of an input": (NotShown, {"slot": INPUT_SLOT}),
    "a slot of an output": (NotShown, {"slot": OUTPUT_SLOT}),
    "an index beyond the tensor": (NotShown, {"index": 18}),
    "an index in another row": (NotShown, {"index": 2}),
    "a witness that is not needed": (NotShown, {"witness": 0}),
    # no fault
    "an index that is right": (NoFault, {"index": 8}),
}  # fmt: skip
del BENT["an index that is right"]


@pytest.mark.parametrize("name", BENT)
def test_a_bent_proof_is_refused(name):
    error, change = BENT[name]
    with pytest.raises(error):
        judge(PRODUCT, replace(PROOF, **change))


def test_opened_beyond_need_is_refused():
    """Everything verifies, and one chunk, one input, one constant is not read."""
    search = _Search(PRODUCT.subject, PRODUCT.parsed, OWN, Salts(SEED), PRODUCT)
    site = Site(PROGRAM.head, PROGRAM.operators[2], 2, 2, 4, 0)
    run = {item.slot: {number for number, _ in item.chunks} for item in T}
    constants = {item.slot: {number for number, _ in item.chunks} for item in C}
    same = search._opening("element", site, site.slot, 8, run, None, constants)
    assert same == PROOF
    for extra in ({**run, 2 * N: run[2 * N] | {0}}, {**run, INPUT_SLOT: {0}}, {**run, OUTPUT_SLOT: {0}}):
        with pytest.raises(NotShown):
            judge(PRODUCT, search._opening("element", site, site.slot, 8, extra, None, constants))
    with pytest.raises(NotShown, match="more is opened"):
        judge(PRODUCT, search._opening("element", site, site.slot, 8, run, None, {**constants, 1: constants[1] | {0}}))
    other = {**run, 2 * N + 4: {0}}
    with pytest.raises(NotShown, match="does not need"):
        judge(PRODUCT, search._opening("element", site, site.slot, 8, other, None, constants))
    for fewer in ({slot: numbers for slot, numbers in run.items() if slot != 2 * N}, {**run, 2 * N: {2, 3, 4}}):
        with pytest.raises(NotShown, match="not opened"):
            judge(PRODUCT, search._opening("element", site, site.slot, 8, fewer, None, constants))


def test_a_right_value_beside_the_wrong_one_is_no_fault():
    search = _Search(PRODUCT.subject, PRODUCT.parsed, OWN, Salts(SEED), PRODUCT)
    site = Site(PROGRAM.head, PROGRAM.operators[2], 2, 2, 4, 0)
    for index in (0, 7, 9, 17):
        with pytest.raises(NoFault):
            judge(PRODUCT, search._wrong_element(site, index))


def test_what_a_wrong_value_leads_to_is_not_the_leads_fault():
    """The add after the wrong product was honestly computed from the right one: it is at fault only as the trace goes on."""
    search = _Search(PRODUCT.subject, PRODUCT.parsed, OWN, Salts(SEED), PRODUCT)
    site = Site(PROGRAM.head, PROGRAM.operators[4], 4, 2, 4, 0)
    assert judge(PRODUCT, search._wrong_element(site, 8)) == Guilty("element", site.slot, 8)
    with pytest.raises(NoFault):
        judge(PRODUCT, search._wrong_element(site, 9))


def test_a_value_outside_of_its_interval_convicts_its_producer_alone():
    liar = HONEST.altered(N + 2, 3, -128)
    proof = find_fault(liar.subject, liar.parsed, OWN, Salts(SEED), liar)
    assert judge(liar, proof) == Guilty("element", N + 2, 3)
    assert [item.slot for item in proof.tensors] == [N + 2]
    assert not proof.constants
    with pytest.raises(NotShown, match="needs no witness"):
        judge(liar, replace(proof, witness=1))
    search = _Search(liar.subject, liar.parsed, OWN, Salts(SEED), liar)
    reader = Site(PROGRAM.head, PROGRAM.operators[4], 4, 1, 4, 0)
    honest_search = _Search(HONEST.subject, HONEST.parsed, OWN, Salts(SEED), HONEST)
    shape = honest_search._wrong_element(reader, 3)
    run = {item.slot: {number for number, _ in item.chunks} for item in shape.tensors}
    with pytest.raises(NotShown, match="outside of its interval"):
        judge(liar, search._opening("element", reader, reader.slot, 3, run))


def test_a_witness_must_beat_the_choice():
    right = CHOICE_PROOF.witness
    claimed = unpack("int32", CHOICE.tensors[N + 3])[0]
    values = unpack("int8", HONEST.tensors[N + 1])
    for witness in range(42):
        proof = replace(CHOICE_PROOF, witness=witness)
        if witness < 40 and (-values[witness], witness) < (-values[claimed], claimed):
            assert judge(CHOICE, proof).kind == "element"
        else:
            with pytest.raises(ProofError):
                judge(CHOICE, proof)
    with pytest.raises(
        NotShown, match="by a witness"
    ):  # a row of many values would cost a referee more than its witness
        judge(CHOICE, replace(CHOICE_PROOF, witness=None))
    assert right is not None


def test_the_first_step_reads_zeros():
    slot = 4
    value = unpack("int16", HONEST.tensors[slot])[5]
    liar = HONEST.altered(slot, 5, value ^ 1)
    proof = find_fault(liar.subject, liar.parsed, OWN, Salts(SEED), liar)
    assert judge(liar, proof) == Guilty("element", slot, 5)
    assert [item.slot for item in proof.tensors] == [2, 4]


MEMBERS = sorted(name for name in FraudProof.__slots__ if name not in ("kind", "manifest"))


@pytest.mark.parametrize("name", ["version", "kind", *MEMBERS])
def test_a_member_less_or_more(name):
    value = decode(PROOF.encoded())
    if name in value:
        with pytest.raises(MalformedProof):
            FraudProof.parse(encode({key: item for key, item in value.items() if key != name}))
    else:
        with pytest.raises(MalformedProof):
            FraudProof.parse(encode({**value, name: 0}))


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"version": True}, {"kind": "opinion"}, {"kind": 1}, {"slot": -1}, {"index": -1}, {"index": True}, {"witness": -1},
     {"witness": b""}, {"path": b""}, {"tensors": [[1, []]]}, {"tensors": [[1, [[0]], []]]}, {"tensors": [[1, [[0, b""]], []]]},
     {"tensors": [[1, [[0, bytes(1041)]], []]]}, {"head": bytes(8193)}, {"header": bytes(8193)}, {"record": bytes(8193)},
     {"manifest": bytes(8193)}],
)  # fmt: skip
def test_members_of_another_form(change):
    with pytest.raises(MalformedProof):
        FraudProof.parse(encode({**decode(PROOF.encoded()), **change}))


def test_sizes_at_their_limits():
    most = replace(
        PROOF, manifest=bytes(8192), header=bytes(8192), head=bytes(8192), record=bytes(8192),
        tensors=(Opened(1, ((0, bytes(1040)),), ()),), constants=(), leaves=(), constant_hashes=(), path=(),
    )  # fmt: skip
    assert FraudProof.parse(most.encoded()) == most
    padding = fraud.MAX_PROOF - len(most.encoded())
    hashes = replace(most, path=(bytes(32),) * (padding // 34 - 1))
    assert FraudProof.parse(hashes.encoded()) == hashes
    larger = replace(most, path=(bytes(32),) * (padding // 34 + 1))
    with pytest.raises(MalformedProof):
        FraudProof.parse(larger.encoded())
    assert fraud.gas(b"") == fraud.GAS
    assert fraud.gas(bytes(10)) == fraud.GAS + 10 * fraud.GAS_BYTE


def test_another_programs_trace():
    """The same run under a program that differs in one constant: neither convicts the other."""
    constants = list(PROGRAM.constants)
    constants[0] = Constant.of("int8", (5000,), b"\1" * 5000)
    other = Program.build(
        name="wide",
        mode="sequence",
        context=9,
        inputs=PROGRAM.inputs,
        constants=constants,
        operators=PROGRAM.operators,
        outputs=[4, 3],
    )
    claim = traces.traced(other, INPUTS)
    assert claim.digests == HONEST.digests
    assert claim.trace != HONEST.trace
    with pytest.raises(ProofError):
        judge(claim, replace(PROOF, header=claim.header_bytes))
    lied = HONEST.commit(program=other.root)
    assert convict(lied, OWN) == Guilty("header")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, (1 << 32) - 1))
def test_constants_that_no_loader_accepts_raise_nothing_else(seed):
    """A program whose constants are random bytes passes no loader. Its element functions refuse, or give something."""
    random = Random(seed)
    program = programs.program_of(seed)
    wild = [
        Constant.of(each.type, each.shape, random.randbytes(len(each.data)) if random.random() < 0.7 else each.data)
        for each in program.constants
    ]
    operators = [
        replace(
            operator,
            inputs=tuple(
                replace(source, low=RANGES[source.type][0], high=RANGES[source.type][1])
                if source.origin == CONSTANT
                else source
                for source in operator.inputs
            ),
        )
        for operator in program.operators
    ]
    other = Program.build(
        name="wild", mode=program.mode, context=program.context, inputs=program.inputs, constants=wild, operators=operators,
        outputs=program.outputs, end=program.end, token=program.token,
    )  # fmt: skip
    inputs, parameters = programs.inputs_of(program, seed), programs.parameters_of(program, seed)
    honest_claim = traces.traced(program, inputs, parameters)
    claim = replace(honest_claim, program=other).commit(program=other.root)
    own = traces.OwnRun(claim)
    search = _Search(claim.subject, claim.parsed, own, Salts(SEED), claim)
    for slot in random.sample(leaf_slots(claim), min(12, len(leaf_slots(claim)))):
        step, number = divmod(slot, len(operators))
        site = Site(other.head, operators[number], number, step, claim.parsed.steps, claim.parsed.prompt)
        try:
            proof = search._wrong_element(site, random.randrange(site.layout.size))
        except Exception as error:
            assert getattr(error, "code", "") in ("undefined", "not_opened", "out_of_interval"), error
            continue
        try:
            judge(claim, proof)
        except ProofError:
            pass


def test_hashes_for_constants_that_are_not_there():
    assert not ADDED_PROOF.constants
    with pytest.raises(NotShown, match="prove nothing"):
        judge(ADDED, replace(ADDED_PROOF, constant_hashes=(bytes(32),)))


@pytest.mark.parametrize("by", [-1, 1])
def test_a_chunk_that_was_committed_to_in_another_size_proves_nothing(by):
    """Nothing can be read out of it. It has no right answer to a demand either: that is silence, and silence loses."""
    slot = 2 * N + 4
    proof = planted(slot, 3)[1]
    chunk_number, data = proof.tensors[-1].chunks[0]
    assert (proof.tensors[-1].slot, len(data)) == (slot, 16 + 36)
    other = data[:by] if by < 0 else data + b"\0"
    digest = tensor_digest(36, merkle.leaf_hash(other))
    digests = [*HONEST.digests]
    digests[slot] = digest
    header = replace(HONEST.parsed, root=merkle.root(digests)).encoded()
    claim = replace(HONEST, header_bytes=header, digests=digests)
    levels = merkle.tree(digests)
    opened = (*proof.tensors[:-1], Opened(slot, ((chunk_number, other),), ()))
    leaves = tuple(openings.multiproof(levels, [item.slot for item in opened]))
    with pytest.raises(NotCommitted, match="not of the tensor's size"):
        judge(claim, replace(proof, header=header, tensors=opened, leaves=leaves))


COPIED, COPIED_PROOF = planted(2 * N + 0, 700)


def test_a_forged_program_input():
    """The operator `input` reads the header's own digest: what is opened there must lead to it."""
    at = [item.slot for item in COPIED_PROOF.tensors].index(INPUT_SLOT)
    forged = bend(COPIED_PROOF.tensors, at, chunk(0, lambda c: (c[0], bytes(len(c[1])))))
    with pytest.raises(NotCommitted, match="input or output"):
        judge(COPIED, replace(COPIED_PROOF, tensors=forged))
    fewer = tuple(item for item in COPIED_PROOF.tensors if item.slot != INPUT_SLOT)
    with pytest.raises(NotShown, match="not opened"):
        judge(COPIED, replace(COPIED_PROOF, tensors=fewer))
    other = tuple(
        replace(item, slot=INPUT_SLOT + 1) if item.slot == INPUT_SLOT else item for item in COPIED_PROOF.tensors
    )
    with pytest.raises(NotShown, match="does not need"):
        judge(COPIED, replace(COPIED_PROOF, tensors=other))


def test_a_forged_program_output():
    value = unpack("int16", HONEST.tensors[OUTPUT_SLOT])[40]
    liar = HONEST.altered(OUTPUT_SLOT, 40, value ^ 1)
    proof = find_fault(liar.subject, liar.parsed, OWN, Salts(SEED), liar)
    assert judge(liar, proof) == Guilty("output", OUTPUT_SLOT, 40)
    assert [item.slot for item in proof.tensors] == [2 * N + 4, OUTPUT_SLOT]
    search = _Search(HONEST.subject, HONEST.parsed, OWN, Salts(SEED), HONEST)
    site = Site(PROGRAM.head, PROGRAM.operators[4], 4, 2, 4, 0)
    right = search._opening("output", site, OUTPUT_SLOT, 40, {OUTPUT_SLOT: {0}, site.slot: {0}})
    with pytest.raises(NoFault):
        judge(HONEST, right)
    with pytest.raises(NotCommitted, match="input or output"):
        judge(HONEST, replace(right, tensors=(right.tensors[0], proof.tensors[1])))
    with pytest.raises(NotShown):
        judge(HONEST, replace(right, index=72))
    with pytest.raises(NotShown, match="no such program output"):
        judge(HONEST, replace(right, slot=OUTPUT_SLOT + 2))
    with pytest.raises(NotShown):
        judge(HONEST, replace(right, slot=site.slot, index=4))


@pytest.mark.parametrize("edge", [-2047, 2047])
def test_a_right_value_at_an_end_of_its_interval(edge):
    index = unpack("int16", HONEST.tensors[0]).index(edge)
    search = _Search(HONEST.subject, HONEST.parsed, OWN, Salts(SEED), HONEST)
    with pytest.raises(NoFault):
        judge(HONEST, search._wrong_element(Site(PROGRAM.head, PROGRAM.operators[0], 0, 0, 4, 0), index))
