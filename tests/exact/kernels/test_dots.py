"""A language model's products, around the edges of the loops that compute them."""

from itertools import product

import numpy as np
import pytest

from avow.exact.compile.emission import Emission
from avow.exact.hashing import Recorder
from avow.exact.kernels.language_machine import LanguageMachine
from avow.exact.kernels.statistics import FastStatistics
from avow.exact.kernels.tracer import BulkTracer, Keeper
from avow.exact.program import Program, Tensor
from avow.exact.specification import bounds, machine
from avow.exact.specification.cells import Parameters

SEED = bytes(32)
TYPES = {"int8": 127, "int16": 2_047, "int32": 1 << 20}
PROMPT = [0, 6, 3, 3, 1]


def one_product(depth: int, columns: int, kind: str, result: str, *, rows: int = 1) -> Program:
    """Each token's row by one matrix; the largest value's place is the next token."""
    random = np.random.default_rng(depth * columns)
    emit = Emission()
    token = emit.token(columns)
    limit = TYPES[kind]
    table = emit.constant(random.integers(-limit, limit, (columns, rows * depth), kind, endpoint=True))
    x = emit.operator("gather", (table, token), kind, (rows, depth), -limit, limit, rescale=0)
    weights = emit.constant(random.integers(-127, 127, (columns, depth), "int8", endpoint=True))
    m = emit.constant(random.integers(1 << 14, (1 << 15) - 1, columns, "int32"))
    s = emit.constant(random.integers(19, 23, columns, "int8"))
    most = TYPES[result]
    shape = (columns,) if rows == 1 else (rows, columns)
    y = emit.operator("linear", (x, weights, m, s), result, shape, -most, most, 1, bias=0, rescale=1)
    if rows > 1:
        y = emit.operator("slice", (y,), result, (1, columns), -most, most, 1, starts=(rows - 1, 0), steps=(1, 1))
        y = emit.operator("reshape", (y,), result, (columns,), -most, most, 1)
    chosen = emit.operator("argmax", (y,), "int32", (1,), 0, columns - 1, 1)
    emit.close(chosen)
    program = Program.build(
        name="product", mode="generate", context=64, inputs=(Tensor("int32", (1,), 0, columns - 1),), constants=emit.constants,
        operators=emit.operators, outputs=(chosen.id,), token=chosen.id,
    )  # fmt: skip
    bounds.check(program, FastStatistics())
    return program


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 127, 128, 191, 576])
@pytest.mark.parametrize("columns", [7, 8, 9, 17, 24])
def test_every_value_is_the_specification_s(depth: int, columns: int) -> None:
    for number, (kind, result) in enumerate(product(("int8", "int16"), TYPES)):
        program = one_product(depth, columns, kind, result, rows=1 + (number + depth) % 2)
        count = len(program.operators)
        slow, quick = (Keeper(Recorder(SEED, count), count) for _ in range(2))
        parameters = Parameters(max_tokens=4)
        expected = machine.run(program, [np.array(PROMPT, "<i4").tobytes()], parameters=parameters, tracer=slow)
        found = LanguageMachine(program).run(PROMPT, parameters, tracer=quick)
        assert np.array(found.tokens, "<i4").tobytes() == expected.outputs[0]
        assert quick.tensors == slow.tensors, (kind, result)


@pytest.mark.parametrize("depth", [1, 15, 16, 17, 64, 79, 200])
@pytest.mark.parametrize("columns", [7, 16, 33])
def test_many_steps_at_once_are_each_one(depth: int, columns: int) -> None:
    for kind, result in product(("int8", "int16"), TYPES):
        program = one_product(depth, columns, kind, result)
        parameters = Parameters(max_tokens=20)
        fast = LanguageMachine(program)
        found, slow = fast.trace(PROMPT, parameters, Recorder(SEED, program.ranks))
        assert len(found.tokens) == 20
        tokens = found.tokens
        _, quick = fast.trace(
            PROMPT, parameters, BulkTracer(SEED, program.ranks), expected=lambda so_far, tokens=tokens: tokens[len(so_far) :]
        )  # fmt: skip
        assert quick.trace == slow.trace
