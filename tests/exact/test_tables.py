"""Constants of one dimension, which have chunks of 256 bytes: their digests, their files, and what a proof opens of them."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from avow.exact import openings
from avow.exact.errors import BadProgram
from avow.exact.fraud import NotCommitted, Opened
from avow.exact.hashing import Salts
from avow.exact.program import Constant, Program
from avow.exact.prover import find_fault
from avow.exact.referee import Guilty
from avow.exact.tensors import unpack
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode, tagged_hash
from tests.exact import programs, traces
from tests.exact.test_fraud import judge
from tests.exact.traces import SEED


def by_hand(data, size):
    leaves = [data[at : at + size] for at in range(0, len(data), size)]
    return tagged_hash(b"avow/tensor/1", len(data).to_bytes(8), merkle.root(leaves))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 512, 1023, 1024, 1025, 5000])
def test_the_size_of_chunks_follows_from_the_number_of_dimensions(count):
    data = Random(count).randbytes(count)
    assert Constant.of("int8", (count,), data).digest == by_hand(data, 256)
    for shape in ((1, count), (count, 1), (1, 1, count)):
        assert Constant.of("int8", shape, data).digest == by_hand(data, 1024)
    wide = Random(count).randbytes(4 * count)
    assert Constant.of("int32", (count,), wide).digest == by_hand(wide, 256)


def looked_up():
    """A program of one table of 1,500 bytes, and a claim that is wrong about one of its values."""
    b = programs.Builder(Random(1), "once", 8)
    x = b.program_input([4], -750, 749)
    table = b.constant([1500], -99, 99, values=[Random(at).randint(-99, 99) for at in range(1500)])
    b.emit("table", [x, table], [4], -99, 99)
    program = programs._finish(b, "table", outputs=[1])
    inputs = programs.inputs_of(program, 1)
    claim = traces.traced(program, inputs, None)
    (value, *_) = unpack("int8", claim.tensors[1])
    liar = claim.altered(1, 0, value + 1 if value < 99 else 0)
    return program, liar, traces.honest_beside(claim, inputs, None)


def test_a_proof_opens_one_small_chunk_and_no_large_one():
    program, liar, own = looked_up()
    proof = find_fault(liar.subject, liar.parsed, own, Salts(SEED), liar)
    assert judge(liar, proof) == Guilty("element", 1, 0)
    ((number, chunk),) = proof.constants[0].chunks
    data = bytes(program.constants[0].data)
    assert chunk == data[256 * number : 256 * number + 256]
    whole = [data[at : at + 1024] for at in range(0, len(data), 1024)]
    at = number * 256 // 1024
    tree = openings.levels_over([merkle.leaf_hash(each) for each in whole])
    large = Opened(0, ((at, whole[at]),), tuple(openings.multiproof(tree, [at])))
    with pytest.raises(NotCommitted):
        judge(liar, replace(proof, constants=(large,)))


def test_a_table_that_is_hashed_in_large_chunks_is_no_programs():
    """Nor one of two dimensions that is hashed in small ones."""
    for shape, wrong in (((1500,), 1024), ((1, 1500), 256)):
        b = programs.Builder(Random(1), "once", 8)
        x = b.program_input([1, 1500], -9, 9)
        b.emit("add", [x, b.constant(shape, -9, 9)], [1, 1500], -99, 99, ma=1, mb=1, s=0)
        program = programs._finish(b, "sum", outputs=[1])
        data = b"".join(bytes(part) for part in program.parts())
        assert Program.parse(data).root == program.root
        header: Any = decode(data[19 : 19 + int.from_bytes(data[11:19])])
        header["constants"][0][2] = by_hand(bytes(program.constants[0].data), wrong)
        changed = encode(header)
        assert len(changed) == int.from_bytes(data[11:19])
        with pytest.raises(BadProgram, match="not what its digest says"):
            Program.parse(data[:19] + changed + data[19 + len(changed) :])
