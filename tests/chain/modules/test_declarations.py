"""What optimistic statements are about has to be known to the chain: a program whose every operator it can referee."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain.errors import Code
from avow.chain.modules import nodes, registry
from avow.errors import AvowError, InputError
from avow.exact.errors import BadProgram
from avow.exact.fraud import MAX_MANIFEST
from avow.exact.outline import outline
from avow.exact.program import Program
from avow.exact.specification import bounds
from avow.receipt.encoding import decode, encode, tagged_hash
from avow.receipt.statement import Method
from tests.chain.harness import DECLARATION, EXACT, MANIFEST, PROGRAM, Chain, refused
from tests.chain.optimistic import Optimistic
from tests.exact import programs
from tests.exact.specification.test_bounds import single

MODES = ("once", "sequence", "generate")


@pytest.fixture
def chain():
    return Chain()


def manifest_of(root, **more):
    return encode({"engine": "exact", "options": {"root": root.hex()}, **more})


def declare(chain, manifest, header, who="stranger"):
    return chain.send(who, registry.ADDRESS, "declare", manifest, header)


def header_of(program: Program) -> bytes:
    return encode(program.header())


def changed(program: Program, **members) -> bytes:
    return encode({**decode(header_of(program)), **members})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(6))
def test_any_program_that_is_one_can_be_declared_by_anyone(chain, seed, mode):
    program = programs.program_of(seed, mode=mode)
    manifest = manifest_of(program.root)
    identity = tagged_hash(b"avow/program/1", manifest)
    assert outline(header_of(program)).root == program.root
    assert chain.view(registry.ADDRESS, "declared", identity) == [bytes(32), 0]
    assert chain.do("stranger", registry.ADDRESS, "declare", manifest, header_of(program)) == [identity, program.root]
    root, height = chain.view(registry.ADDRESS, "declared", identity)
    assert (root, height) == (program.root, chain.height)
    again = chain.do("operator", registry.ADDRESS, "declare", manifest, b"")  # what is known needs nothing more
    assert again == [identity, program.root]
    assert chain.view(registry.ADDRESS, "declared", identity)[1] == height


def refusals():
    program = programs.program_of(3)
    good = header_of(program)
    record = dict(decode(good)["operators"][0])
    yield "another root", manifest_of(bytes(32)), good
    yield "no root", encode({"engine": "exact", "options": {}}), good
    yield "another engine", encode({"engine": "llama", "options": {"root": program.root.hex()}}), good
    yield "no map", encode([1]), good
    yield "no CBOR", b"\xff", good
    yield "empty", b"", b""
    yield "a manifest that no proof holds", manifest_of(program.root, name="x" * MAX_MANIFEST), good
    yield "no header", manifest_of(program.root), b"\xff"
    yield "another encoding", manifest_of(program.root), good + b"\x00"
    others = (
        ("a kind that there is not", {"operators": [{**record, "kind": "magic"}, *decode(good)["operators"][1:]]}),
        ("no operators", {"operators": []}),
        ("an output that there is not", {"outputs": [len(program.operators)]}),
        ("a member more", {"more": 1}),
        ("another version", {"version": 7}),
    )
    for name, members in others:
        header = changed(program, **members)
        yield name, manifest_of(root_of(header)), header
    if program.constants:
        shifted = [list(item) for item in decode(good)["constants"]]
        shifted[-1][3] += 64
        yield "a constant elsewhere", manifest_of(program.root), changed(program, constants=shifted)


def root_of(header: bytes) -> bytes:
    """The root that a header would have, if it were one; else any."""
    try:
        return outline(header).root
    except AvowError:
        return bytes(range(32))


@pytest.mark.parametrize(
    ("name", "manifest", "header"), list(refusals()), ids=lambda item: item if isinstance(item, str) else ""
)
def test_what_is_no_exact_program_is_not_declared(chain, name, manifest, header):
    assert refused(declare(chain, manifest, header)) == (Code.PROGRAM_NOT_EXACT, None), name
    assert chain.view(registry.ADDRESS, "declared", tagged_hash(b"avow/program/1", manifest)) == [bytes(32), 0]


def test_an_operator_of_which_no_element_can_be_shown_is_not_declared(chain):
    """Of the right root, and a record that nobody could be convicted about."""
    wide, short = ((1, 1 << 15), 0, 1), ((1 << 15, 1), 0, 1)
    program = single("matmul", [wide, short], (1, 1), transpose_b=0, m=1, s=1)
    with pytest.raises(BadProgram):
        bounds.check(program)
    assert refused(declare(chain, manifest_of(program.root), header_of(program))) == (Code.PROGRAM_NOT_EXACT, None)


def test_a_statement_about_a_program_that_is_not_declared_does_not_settle():
    network = Optimistic()
    program = programs.program_of(1)
    manifest = manifest_of(program.root)
    other = tagged_hash(b"avow/program/1", manifest)
    chain, key = network.chain, network.key
    chain.do("operator", registry.ADDRESS, "publish", "other", other)
    chain.do("operator", nodes.ADDRESS, "setPrice", other, 1, 100)
    known, _ = network.sign()
    unknown, _ = network.sign(program=other)
    assert refused(chain.settle(key, [known, unknown])) == (Code.PROGRAM_NOT_DECLARED, 1)
    chain.do("stranger", registry.ADDRESS, "declare", manifest, header_of(program))
    assert chain.settle(key, [known, unknown]).code == Code.OK
    network.check_money()


def test_other_methods_need_no_declaration(chain):
    key = chain.node(Method.VANILLA)
    assert not any(chain.view(registry.ADDRESS, "declared", PROGRAM)[0])
    assert chain.settle(key, [key.sign()]).code == Code.OK


def test_what_a_statement_costs_does_not_depend_on_the_program_s_size():
    """One look-up for each program of a batch."""
    network = Optimistic()
    small = network.chain.settle(network.key, [network.sign()[0]]).gas_used
    many = network.chain.settle(network.key, [network.sign()[0] for _ in range(10)]).gas_used
    assert (many - small) / 9 < 2_000


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_outline_or_a_typed_error(data):
    try:
        outline(data)
    except InputError:
        pass


@settings(max_examples=150)
@given(st.integers(0, 5), st.data())
def test_a_header_changed_anywhere_has_another_root_or_none(seed, data):
    program = programs.program_of(seed, mode=MODES[seed % 3])
    header = bytearray(header_of(program))
    at = data.draw(st.integers(0, len(header) - 1))
    header[at] ^= data.draw(st.integers(1, 255))
    try:
        found = outline(bytes(header))
    except AvowError as error:
        assert isinstance(error, InputError | BadProgram) or error.code == "unknown_version"
        return
    same_root = found.root == program.root
    assert not same_root or found.name != program.name  # the name alone is outside of the root


def test_the_harness_program_is_what_it_says():
    assert outline(DECLARATION[1]).root == EXACT.root
    assert tagged_hash(b"avow/program/1", MANIFEST) == PROGRAM
