"""Bounds: the largest values that pass are reached, one more is refused, and the refusal names the operator."""

import dataclasses
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.exact.errors import BadProgram
from avow.exact.kernels.statistics import FastStatistics
from avow.exact.program import CONSTANT, INPUT, OPERATOR, PREVIOUS, Constant, Operator, Program, Source, Tensor
from avow.exact.specification import bounds, check_form
from avow.exact.specification.checking import PlainStatistics
from avow.exact.tensors import RANGES, pack
from tests.exact.programs import Builder, _finish, inputs_of, parameters_of, program_of


def single(kind, shapes, shape, *, low=None, high=None, width="int32", run="once", context=8, phase=0, **attributes):
    """A program of one operator behind its inputs. A shape is (extents, low, high), or (type, extents, values): a constant."""
    inputs, constants, operators, sources = [], [], [], []
    for each in shapes:
        if isinstance(each[0], str):
            constants.append(Constant.of(each[0], tuple(each[1]), pack(each[0], each[2])))
            sources.append(constants[-1].source(len(constants) - 1, *each[3:]))
            continue
        extents, least, most = each
        tensor = Tensor("int32", tuple(extents), least, most)
        inputs.append(tensor)
        operators.append(
            Operator(
                "input", (Source(INPUT, len(inputs) - 1, *dataclasses.astuple(tensor)),), *dataclasses.astuple(tensor)
            )
        )
        sources.append(operators[-1].source(OPERATOR, len(operators) - 1))
    if not inputs:
        inputs.append(Tensor("int8", (1,), 0, 0))
    named = {name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()}
    least, most = RANGES[width]
    record = Operator(
        kind,
        tuple(sources),
        width,
        tuple(shape),
        least if low is None else low,
        most if high is None else high,
        phase,
        named,
    )
    return Program.build(
        name="single",
        mode=run,
        context=context,
        inputs=inputs,
        constants=constants,
        operators=[*operators, record],
        outputs=[len(operators)],
    )


def refused(program, at=None):
    with pytest.raises(BadProgram) as caught:
        bounds.check(program)
    assert caught.value.fields["operator"] == len(program.operators) - 1
    return caught.value.detail


def largest(program):
    return bounds.check(program)[-1]


LIMIT = 1 << 30


# --- Accumulators --------------------------------------------------------------------------------------------------


def linear(weights, x, bias=None, rescale=None):
    shapes = [((len(weights),), *x), ("int32", (1, len(weights)), weights)]
    shapes += [("int32", (1,), [bias])] if bias is not None else []
    shapes += [("int32", (1,), [rescale[0]]), ("int8", (1,), [rescale[1]])] if rescale else []
    return single("linear", shapes, (1,), bias=int(bias is not None), rescale=int(rescale is not None))


def test_linear_is_bound_by_its_true_weights():
    assert largest(linear([3, -5], (-10, 7))) == max(3 * 7 + 5 * 10, 3 * 10 + 5 * 7)
    assert largest(linear([3, -5], (0, 7), -4)) == 5 * 7 + 4
    # Even of an input that is never zero, partial sums count: 3 · 7 alone, before −5 · 6 comes.
    assert largest(linear([3, -5], (6, 7))) == 35
    assert largest(linear([LIMIT // 4], (-3, 3), LIMIT // 4 - 1)) == LIMIT - 1
    assert "2^30" in refused(linear([LIMIT // 4], (-3, 3), LIMIT // 4))
    assert "2^30" in refused(linear([LIMIT // 4], (-3, 3), -(LIMIT // 4)))
    assert "2^30" in refused(linear([1, -1], (-LIMIT, LIMIT - 1)))


@pytest.mark.parametrize("rescale", [(0, 1), (32768, 1), (1, 0), (1, 46), (-1, 5)])
def test_multipliers_and_shifts_are_in_range(rescale):
    assert "out of range" in refused(linear([1], (-1, 1), rescale=rescale))


@given(
    st.lists(st.integers(-999, 999), min_size=1, max_size=6),
    st.integers(-99, 99),
    st.integers(0, 99),
    st.integers(-999, 999),
)
def test_the_bound_of_linear_is_reached_by_a_partial_sum(weights, low, width, bias):
    high = low + width
    ends = [[weight * x for x in (0, low, high)] for weight in weights]
    above = sum(max(end) for end in ends) + max(bias, 0)
    below = sum(min(end) for end in ends) + min(bias, 0)
    assert largest(linear(weights, (low, high), bias)) == max(above, -below)


@pytest.mark.parametrize(
    ("build", "most"),
    [
        (lambda x: single("rescale", [((1,), 0, x)], (1,), m=1, s=1), LIMIT - 1),
        (lambda x: single("isqrt", [((1,), 0, x)], (1,)), LIMIT - 1),
        (lambda x: single("mul", [((1,), -x, 0), ((1,), 0, 1 << 10)], (1,), m=1, s=1), (1 << 20) - 1),
        (lambda x: single("divide", [((1,), -x, 0), ((1,), 1, 5)], (1,), c=1 << 10), (1 << 20) - 1),
        (lambda x: single("divide", [((1,), 0, 1), ((1,), 1, x)], (1,), c=1), LIMIT - 1),
        (lambda x: single("add", [((1,), -x, 0), ((1,), 0, 1)], (1,), ma=1, mb=1, s=0), LIMIT - 1),
        (lambda x: single("add", [((1,), -(1 << 29), 0), ((1,), 0, x)], (1,), ma=-32767, mb=32767, s=1), ((1 << 45) - 1) // 32767 - (1 << 29)),
        (lambda x: single("matmul", [((2, 4), -x, 0), ((4, 3), 0, 1 << 10)], (2, 3), transpose_b=0, m=1, s=1), (1 << 18) - 1),
        (lambda x: single("pool", [((4, 4, 1), -x, 0)], (2, 2, 1), mode=1, rescale=0, kernel=[2, 2], stride=[2, 2], pad=[0] * 4), (1 << 28) - 1),
        (lambda x: single("reduce", [((10,), 0, x)], (3,), mode=1, rescale=0, axis=0, block=4), (1 << 28) - 1),
        (lambda x: single("reduce", [((2,), 0, x)], (1,), mode=1, rescale=0, axis=0, block=4), (1 << 29) - 1),
        (lambda x: single("norm", [((4,), -x, 0), ("int16", (4,), [1] * 4)], (4,), mode=0, exponent=0, epsilon=1, shift=0, beta=0, s=0), LIMIT - 1),
        (lambda x: single("norm", [((4,), -x, 0), ("int16", (4,), [1] * 4)], (4,), mode=1, exponent=0, epsilon=1, shift=0, beta=0, s=0), (1 << 27) - 1),
        (lambda x: single("norm", [((1,), 0, 9), ("int32", (1,), [-x])], (1,), mode=0, exponent=0, epsilon=1, shift=0, beta=0, s=0), 32767),
        (lambda x: single("norm", [((1,), 0, 9), ("int32", (1,), [32767]), ("int32", (1,), [x])], (1,), mode=0, exponent=0, epsilon=1, shift=14, beta=1, s=0), LIMIT - 2 - (32767 << 14)),
        (lambda x: single("softmax", [((4,), 0, 9), ("int32", (2,), [x, 1])], (4,), low=0, one=1), (1 << 28) - 1),
        (lambda x: single("softmax", [((4,), 0, 9), ("int32", (2,), [x, 1])], (4,), low=0, one=1 << 15), (1 << 15) - 1),
        (lambda x: single("rope", [((1, 2), -x, 0), ("int32", (9, 1), [1 << 14] * 9), ("int32", (9, 1), [-(1 << 14)] * 9)], (1, 2), run="sequence", interleaved=0), (1 << 15) - 1),
        (lambda x: single("gather", [("int32", (1, 1), [-x]), ((1,), 0, 0), ("int32", (1,), [1]), ("int8", (1,), [1])], (1, 1), rescale=1), LIMIT - 1),
    ],
)  # fmt: skip
def test_the_largest_value_passes_and_one_more_is_refused(build, most):
    bounds.check(build(most))
    refused(build(most + 1))


def test_a_softmax_bounds_the_products_behind_it():
    """4,096 values up to 32,767 times 2,047 would be too large; a softmax's sum to 32,767 + 2,048 at most."""
    x = Tensor("int32", (1, 4096), 0, 9)
    read = Operator("input", (Source(INPUT, 0, "int32", (1, 4096), 0, 9),), "int32", (1, 4096), 0, 9)
    table = Constant.of("int32", (1,), pack("int32", [5]))
    soft = Operator(
        "softmax", (read.source(OPERATOR, 0), table.source(0)), "int16", (1, 4096), 0, 32767, 0, {"one": 32767}
    )
    values = Constant.of("int16", (1, 4096), pack("int16", [2047] * 4096))
    attributes = {"transpose_b": 1, "m": 1, "s": 1}
    for producer, fits in (
        (soft, True),
        (dataclasses.replace(soft, kind="clip", inputs=soft.inputs[:1], attributes={}), False),
    ):
        mixed = Operator(
            "matmul",
            (producer.source(OPERATOR, 1), values.source(1, -2047, 2047)),
            "int32",
            (1, 1),
            *RANGES["int32"],
            0,
            attributes,
        )
        program = Program.build(
            name="",
            mode="once",
            context=1,
            inputs=[x],
            constants=[table, values],
            operators=[read, producer, mixed],
            outputs=[2],
        )
        if fits:
            assert largest(program) == (32767 + 2048) * 2047
        else:
            refused(program)


# --- Intervals of what is not clamped ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        single("table", [((1,), 0, 1), ("int32", (2,), [-7, 5])], (1,), low=-6, high=5),
        single("table", [((1,), 0, 1), ("int32", (2,), [-7, 5])], (1,), low=-7, high=4),
        single("gather", [("int32", (2, 1), [-7, 5]), ((1,), 0, 1)], (1, 1), low=-6, rescale=0),
        single("reshape", [((4,), -7, 5)], (2, 2), low=-6),
        single("transpose", [((4, 1), -7, 5)], (1, 4), high=4, perm=[1, 0]),
        single("concat", [((4,), -7, 5), ((1,), 0, 9)], (5,), low=-7, high=8, axis=0),
        single("slice", [((4,), -7, 5)], (2,), low=-6, starts=[0], steps=[1]),
        single("pad", [((4,), -7, 5)], (5,), low=-6, before=[0], value=0),
        single("expand", [((1,), -7, 5)], (5,), low=-6),
        single("argmax", [((4,), -7, 5)], (1,), low=0, high=2),
        single("argmax", [((4,), -7, 5)], (1,), low=1, high=3),
        single("trees", [((1,), 0, 1), ("int32", (1, 1, 4), [-1, 9, 0, 0])], (1,), high=8, depth=0),
    ],
)
def test_what_is_not_clamped_is_contained(program):
    assert "interval" in refused(program)


@pytest.mark.parametrize("declared", [(-6, 9), (-7, 8)])
def test_constants_are_within_their_sources_interval(declared):
    assert "leaves its interval" in refused(
        single("concat", [((1,), 0, 0), ("int32", (2,), [-7, 9], *declared)], (3,), axis=0)
    )
    bounds.check(single("concat", [((1,), 0, 0), ("int32", (2,), [-7, 9], -7, 9)], (3,), low=-7, high=9, axis=0))


@pytest.mark.parametrize("table", [[5, -1], [4, 5], [0, 0]])
def test_a_softmax_table_begins_with_its_largest_entry(table):
    refused(single("softmax", [((2,), 0, 9), ("int32", (2,), table)], (2,), low=0, one=1))


@pytest.mark.parametrize(
    "nodes",
    [
        [[1, 0, 1, 2], [-1, 0, 0, 0], [-1, 0, 0, 0]],  # a feature that is not there
        [[-2, 0, 1, 2], [-1, 0, 0, 0], [-1, 0, 0, 0]],
        [[0, 0, 0, 2], [-1, 0, 0, 0], [-1, 0, 0, 0]],  # a child that is its parent
        [[0, 0, 1, 3], [-1, 0, 0, 0], [-1, 0, 0, 0]],  # a child that is not there
        [[0, 0, 1, 1], [0, 0, 2, 2], [-1, 0, 0, 0]],  # deeper than it says
        [[0, 0, 1, -1], [-1, 0, 0, 0], [-1, 0, 0, 0]],
    ],
)
def test_a_tree_that_is_none_is_refused(nodes):
    refused(
        single(
            "trees", [((1,), 0, 1), ("int32", (1, 3, 4), [value for node in nodes for value in node])], (1,), depth=1
        )
    )


# --- Forms ---------------------------------------------------------------------------------------------------------

X, W = ((2, 3), -5, 5), ("int8", (4, 3), [1] * 12)
IMAGE, FILTER = ((4, 4, 2), -5, 5), ("int8", (2, 3, 3, 2), [1] * 36)
CONV = {"bias": 0, "rescale": 0, "groups": 1, "stride": [1, 1], "dilation": [1, 1], "pad": [0, 0, 0, 0]}
POOL = {"mode": 0, "rescale": 0, "kernel": [2, 2], "stride": [2, 2], "pad": [0, 0, 0, 0]}
NORM = {"mode": 0, "exponent": 0, "epsilon": 1, "shift": 0, "beta": 0, "s": 0}
GAMMA = ("int16", (3,), [1] * 3)
BAD = {
    "no such kind: there is no kind of operator 'dot'": lambda: single("dot", [X], (2, 3)),
    "linear without weights: the number of inputs is wrong": lambda: single("linear", [X], (2, 4), bias=0, rescale=0),
    "linear with weights that are no constant: input 1 is not a constant": lambda: single("linear", [X, ((4, 3), 0, 1)], (2, 4), bias=0, rescale=0),
    "linear of another width: the weights do not fit the input": lambda: single("linear", [X, ("int8", (4, 4), [1] * 16)], (2, 4), bias=0, rescale=0),
    "linear of another shape: the output has not 8 elements": lambda: single("linear", [X, W], (2, 3), bias=0, rescale=0),
    "linear without bias: the number of inputs is wrong": lambda: single("linear", [X, W], (2, 4), bias=1, rescale=0),
    "linear with a bias of another length: the bias is not one value for each channel": lambda: single("linear", [X, W, ("int32", (3,), [0] * 3)], (2, 4), bias=1, rescale=0),
    "linear with a shift that is not int8: the shifts are not int8": lambda: single("linear", [X, W, ("int32", (1,), [1]), ("int32", (1,), [1])], (2, 4), bias=0, rescale=1),
    "linear with attributes left out: the attributes are not bias, rescale": lambda: single("linear", [X, W], (2, 4), bias=0),
    "linear with one attribute more: the attributes are not bias, rescale": lambda: single("linear", [X, W], (2, 4), bias=0, rescale=0, m=1),
    "linear with a list: attribute bias is, or is not, a list": lambda: single("linear", [X, W], (2, 4), bias=[0], rescale=0),
    "matmul of other inner dimensions: the inner dimensions differ": lambda: single("matmul", [X, ((2, 3), 0, 1)], (2, 3), transpose_b=0, m=1, s=1),
    "matmul of other batches: the leading dimensions differ": lambda: single("matmul", [((2, 2, 3), 0, 1), ((1, 3, 3), 0, 1)], (2, 2, 3), transpose_b=0, m=1, s=1),
    "matmul of rows: the leading dimensions differ": lambda: single("matmul", [((3,), 0, 1), ((3,), 0, 1)], (1,), transpose_b=0, m=1, s=1),
    "matmul without shift: attribute s is out of range": lambda: single("matmul", [X, ((3, 3), 0, 1)], (2, 3), transpose_b=0, m=1, s=0),
    "matmul with a wide multiplier: attribute m is out of range": lambda: single("matmul", [X, ((3, 3), 0, 1)], (2, 3), transpose_b=0, m=1 << 15, s=1),
    "conv of another size: the output's shape is not [2, 2, 2]": lambda: single("conv", [IMAGE, FILTER], (3, 2, 2), **CONV),
    "conv of a plane: the input is not [H, W, C] or the weights not [O, kh, kw, C / groups]": lambda: single("conv", [((4, 4), 0, 1), FILTER], (2, 2, 2), **CONV),
    "conv of other groups: the groups do not divide the channels": lambda: single("conv", [IMAGE, FILTER], (2, 2, 2), **{**CONV, "groups": 2}),
    "conv with stride zero: attribute stride is out of range": lambda: single("conv", [IMAGE, FILTER], (2, 2, 2), **{**CONV, "stride": [0, 1]}),
    "conv with padding beyond its window: the padding is as wide as the window": lambda: single("conv", [IMAGE, FILTER], (5, 2, 2), **{**CONV, "pad": [3, 0, 0, 0]}),
    "conv larger than its input: the window is larger than the input": lambda: single("conv", [IMAGE, FILTER], (1, 1, 2), **{**CONV, "dilation": [2, 2]}),
    "pool of another size: the output's shape is not [2, 2, 2]": lambda: single("pool", [IMAGE], (2, 2, 1), **POOL),
    "pool of largest values, rescaled: attribute mode is out of range": lambda: single("pool", [IMAGE], (2, 2, 2), **{**POOL, "rescale": 1, "m": 1, "s": 1}),
    "pool with a multiplier that nothing uses: the attributes are not kernel, mode, pad, rescale, stride": lambda: single("pool", [IMAGE], (2, 2, 2), **{**POOL, "m": 1, "s": 1}),
    "reduce along no axis: attribute axis is out of range": lambda: single("reduce", [X], (2, 1), mode=0, rescale=0, axis=2, block=3),
    "reduce of another shape: the output's shape is not [2, 1]": lambda: single("reduce", [X], (2, 2), mode=0, rescale=0, axis=1, block=3),
    "add of shapes that do not broadcast: the inputs' shapes do not broadcast": lambda: single("add", [X, ((2,), 0, 1)], (2, 3), ma=1, mb=1, s=0),
    "add of another shape: the output's shape is not [2, 3]": lambda: single("add", [X, ((1,), 0, 1)], (2, 1), ma=1, mb=1, s=0),
    "add with a wide multiplier: attribute ma is out of range": lambda: single("add", [X, X], (2, 3), ma=1 << 15, mb=1, s=0),
    "divide by what may be zero: the divisor's interval is not positive": lambda: single("divide", [X, ((1,), 0, 1)], (2, 3), c=1),
    "a table of another length: the table has not one entry for each value of x": lambda: single("table", [X, ("int8", (10,), [0] * 10)], (2, 3)),
    "a table of more than 2^16 entries: the table has more than 2^16 entries": lambda: single("table", [((1,), 0, 1 << 16), ("int8", ((1 << 16) + 1,), [0] * ((1 << 16) + 1))], (1,)),
    "a root of what may be negative: the interval has negative numbers": lambda: single("isqrt", [X], (2, 3)),
    "a clip of another shape: the output's shape is not [2, 3]": lambda: single("clip", [X], (3, 2)),
    "softmax of another shape: the output's shape is not [2, 3]": lambda: single("softmax", [X, ("int8", (1,), [1])], (3, 2), low=0, one=1),
    "softmax with an interval from below 0: the interval does not begin at 0": lambda: single("softmax", [X, ("int8", (1,), [1])], (2, 3), low=-1, one=1),
    "softmax with one too large: attribute one is out of range": lambda: single("softmax", [X, ("int8", (1,), [1])], (2, 3), low=0, one=(1 << 15) + 1),
    "norm with gamma of another length: gamma is not one value for each channel": lambda: single("norm", [X, ("int16", (2,), [1] * 2)], (2, 3), **NORM),
    "norm with epsilon zero: attribute epsilon is out of range": lambda: single("norm", [X, GAMMA], (2, 3), **{**NORM, "epsilon": 0}),
    "norm with an exponent too low: attribute exponent is out of range": lambda: single("norm", [X, GAMMA], (2, 3), **{**NORM, "exponent": -15}),
    "norm without beta: the number of inputs is wrong": lambda: single("norm", [X, GAMMA], (2, 3), **{**NORM, "beta": 1}),
    "gather with ids beyond the rows: an id may be of no row": lambda: single("gather", [W, ((1,), 0, 4)], (1, 3), rescale=0),
    "gather with ids below 0: an id may be of no row": lambda: single("gather", [W, ((1,), -1, 3)], (1, 3), rescale=0),
    "gather of another size: the output has not 3 elements": lambda: single("gather", [W, ((1,), 0, 3)], (1, 4), rescale=0),
    "concat beside its axis: the inputs' shapes differ beside the axis": lambda: single("concat", [X, ((3, 3), 0, 1)], (2, 6), axis=1),
    "concat of another size: the output's shape is not [2, 6]": lambda: single("concat", [X, X], (2, 5), axis=1),
    "slice beyond the end: the slice leaves the input": lambda: single("slice", [X], (2, 2), starts=[0, 2], steps=[1, 1]),
    "slice before the start: the slice leaves the input": lambda: single("slice", [X], (2, 2), starts=[0, 0], steps=[1, -1]),
    "slice without a step: the slice leaves the input": lambda: single("slice", [X], (2, 2), starts=[0, 0], steps=[1, 0]),
    "slice of another rank: the output has another rank": lambda: single("slice", [X], (2,), starts=[0, 0], steps=[1, 1]),
    "transpose that is none: perm is no permutation": lambda: single("transpose", [X], (2, 2), perm=[0, 0]),
    "transpose of another shape: the output's shape is not [3, 2]": lambda: single("transpose", [X], (2, 3), perm=[1, 0]),
    "reshape to another size: the output has not 6 elements": lambda: single("reshape", [X], (5,)),
    "pad that cuts: the input does not fit the output": lambda: single("pad", [X], (2, 3), before=[0, 1], value=0),
    "pad with a value outside: attribute value is out of range": lambda: single("pad", [X], (2, 4), low=-5, high=5, before=[0, 1], value=6),
    "expand of another shape: the input does not broadcast": lambda: single("expand", [X], (3, 3)),
    "expand to a smaller rank: the output has a smaller rank": lambda: single("expand", [((1, 1), 0, 1)], (1,)),
    "rope over samples: in a program that runs once, steps are samples and no positions": lambda: single(
        "rope", [((1, 2), 0, 1), ("int8", (8, 1), [0] * 8), ("int8", (8, 1), [0] * 8)], (1, 2), interleaved=0
    ),
    "rope over an odd width: the last dimension is not even": lambda: single("rope", [X, ("int8", (8, 1), [0] * 8), ("int8", (8, 1), [0] * 8)], (2, 3), run="sequence", interleaved=0),
    "rope with too few angles: the angles are not [context, D / 2]": lambda: single("rope", [((1, 2), 0, 1), ("int8", (7, 1), [0] * 7), ("int8", (8, 1), [0] * 8)], (1, 2), run="sequence", interleaved=0),
    "argmax of another shape: the output's shape is not [2, 1]": lambda: single("argmax", [X], (2, 3)),
    "topk of more than there are: attribute k is out of range": lambda: single("topk", [X], (2, 4), k=4),
    "topk of another shape: the output's shape is not [2, 2]": lambda: single("topk", [X], (2, 3), k=2),
    "trees of another number: the output's shape is not [1]": lambda: single("trees", [((1,), 0, 1), ("int32", (1, 1, 4), [-1, 9, 0, 0])], (2,), depth=0),
    "trees of unlimited depth: attribute depth is out of range": lambda: single("trees", [((1,), 0, 1), ("int32", (1, 1, 4), [-1, 9, 0, 0])], (1,), depth=65),
    "gumbel in a program that does not generate: the program does not generate": lambda: single("gumbel", [((2,), 0, 1), ("int8", (65536,), [0] * 65536)], (2,)),
    "too many inputs: the number of inputs is wrong": lambda: single("clip", [X, X], (2, 3)),
    "a size that depends on the step: an output's size depends on the step": lambda: single("reshape", [X], (-1,)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_operator_is_refused(name):
    """A name says what is wrong, and after a colon what the refusal says."""
    try:
        detail = refused(BAD[name]())
    except BadProgram as error:  # by its structure already
        detail = error.detail
    assert name.endswith(": " + detail.split(": ", 1)[-1])


def test_an_operator_of_which_a_fault_could_not_be_shown_is_refused():
    wide = single("linear", [((40_000,), 0, 1), ("int8", (1, 40_000), [1] * 40_000)], (1,), bias=0, rescale=0)
    assert "openings" in refused(wide)


def test_an_operator_that_would_keep_a_referee_long_is_refused():
    def product(length):
        b = Builder(Random(0), "once", 8)
        x = b.program_input([length], 0, 1)
        w = b.constant([1, length], 1, 1, values=[1] * length)
        b.emit("linear", [x, w], [1], 0, length, bias=0, rescale=0)
        return _finish(b, "product", outputs=[1])

    bounds.check(product(1 << 14))
    assert "reads 32770 values" in refused(product((1 << 14) + 1))


# --- Generating programs -------------------------------------------------------------------------------------------


def replaced(program, index, **changes):
    """The program with one operator changed, and whoever reads it told."""
    operators = list(program.operators)
    operators[index] = dataclasses.replace(operators[index], **changes)
    names = ("name", "mode", "context", "inputs", "constants", "outputs", "end", "token", "notes")
    return Program.build(operators=operators, **{name: getattr(program, name) for name in names})


@pytest.mark.parametrize("kind", ["token", "append", "scores", "mix"])
def test_language_operators_read_what_belongs_to_them(kind):
    program = program_of(5, mode="generate")
    index = next(at for at, operator in enumerate(program.operators) if operator.kind == kind)
    operator = program.operators[index]
    other = [at for at, each in enumerate(program.operators) if each.kind == "append" and at != index][-1]
    if kind in ("scores", "mix"):
        caches = {each.inputs[1].id for each in program.operators if each.kind in ("scores", "mix")} - {
            operator.inputs[1].id
        }
        wrong = min(caches)
        inputs = (operator.inputs[0], program.operators[wrong].source(2, wrong))
    else:
        inputs = (operator.inputs[0], program.operators[other].source(PREVIOUS, other))
    with pytest.raises(BadProgram) as caught:
        bounds.check(replaced(program, index, inputs=inputs))
    assert caught.value.fields["operator"] == index


# --- Statistics ----------------------------------------------------------------------------------------------------


@given(st.sampled_from(["int8", "int16", "int32"]), st.integers(1, 5), st.integers(1, 9), st.data())
def test_fast_statistics_are_the_plain_ones(width, rows, length, data):
    values = data.draw(st.lists(st.integers(*RANGES[width]), min_size=rows * length, max_size=rows * length))
    constant = Constant.of(width, (rows, length), pack(width, values))
    plain, fast = PlainStatistics(), FastStatistics()
    assert fast.extent(constant) == plain.extent(constant)
    assert list(fast.row_sums(constant, rows)) == list(plain.row_sums(constant, rows))


@given(st.integers(0, 1 << 32))
def test_random_programs_pass(seed):
    program = program_of(seed)
    assert bounds.check(program) == bounds.check(program, FastStatistics())
    assert all(check_form(program.head, index, operator) for index, operator in enumerate(program.operators))
    assert inputs_of(program, seed)
    assert (parameters_of(program, seed) is None) == (program.mode != "generate")


def test_constants_are_no_program_inputs():
    assert Source(CONSTANT, 0, "int8", (1,), 0, 1).magnitude == 1
