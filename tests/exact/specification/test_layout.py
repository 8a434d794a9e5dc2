"""Operators that move values, by hand and against nested lists."""

from itertools import product
from math import prod
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from avow.exact.program import INPUT
from avow.exact.specification.arithmetic import join, split
from tests.exact.cells import constant, operator, source, values


def places(shape):
    return list(product(*(range(extent) for extent in shape)))


def test_input_reads_its_step():
    record = operator("input", [source([2], origin=INPUT)], [2])
    assert values(record, [1, 2, 3, 4, 5, 6], step=2, mode="sequence") == [5, 6]


def test_gather():
    plain = operator("gather", [constant([3, 2]), source([2], 0, 2)], [2, 2], rescale=0)
    assert values(plain, [1, 2, 3, 4, 5, 6], [2, 0]) == [5, 6, 1, 2]
    inputs = [constant([3, 2]), source([2], 0, 2), constant([3]), constant([3], "int8")]
    scaled = operator("gather", inputs, [4], -100, 7, rescale=1)
    assert values(scaled, [1, 2, 3, 4, 5, -6], [2, 1], [1, 2, 3], [1, 1, 1]) == [7, -9, 3, 4]


def test_concat_slice_transpose_pad_expand():
    assert values(operator("concat", [source([2, 1]), source([2, 2])], [2, 3], axis=1), [1, 2], [3, 4, 5, 6]) == [
        1,
        3,
        4,
        2,
        5,
        6,
    ]
    cut = operator("slice", [source([2, 4])], [2, 2], starts=[1, 3], steps=[-1, -2])
    assert values(cut, [0, 1, 2, 3, 4, 5, 6, 7]) == [7, 5, 3, 1]
    assert values(operator("transpose", [source([2, 3])], [3, 2], perm=[1, 0]), [1, 2, 3, 4, 5, 6]) == [
        1,
        4,
        2,
        5,
        3,
        6,
    ]
    assert values(operator("pad", [source([1, 2])], [2, 4], before=[1, 1], value=9), [1, 2]) == [9, 9, 9, 9, 9, 1, 2, 9]
    assert values(operator("expand", [source([2, 1])], [2, 2, 2]), [1, 2]) == [1, 1, 2, 2] * 2
    assert values(operator("reshape", [source([2, 3])], [3, 2]), [1, 2, 3, 4, 5, 6]) == [1, 2, 3, 4, 5, 6]


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(shapes)
def test_split_and_join_follow_row_major_order(shape):
    assert [split(index, shape) for index in range(prod(shape))] == places(shape)
    assert [join(place, shape) for place in places(shape)] == list(range(prod(shape)))


@given(shapes, st.randoms(use_true_random=False))
def test_transpose_moves_each_coordinate(shape, random: Random):
    order = list(range(len(shape)))
    random.shuffle(order)
    x = dict(zip(places(shape), range(prod(shape)), strict=True))
    turned = [shape[axis] for axis in order]
    expected = []
    for place in places(turned):
        original = dict(zip(order, place, strict=True))
        expected.append(x[tuple(original[axis] for axis in range(len(shape)))])
    assert values(operator("transpose", [source(shape)], turned, perm=order), list(range(prod(shape)))) == expected


@given(shapes, st.randoms(use_true_random=False))
def test_slice_is_that_of_lists(shape, random: Random):
    cuts = []
    for extent in shape:
        start, step = random.randrange(extent), random.choice((1, 2, -1, -3))
        cuts.append(list(range(extent))[start::step])
        cuts[-1] = cuts[-1][: random.randint(1, len(cuts[-1]))], start, step
    x = dict(zip(places(shape), range(prod(shape)), strict=True))
    expected = [x[place] for place in product(*(cut[0] for cut in cuts))]
    record = operator(
        "slice",
        [source(shape)],
        [len(cut[0]) for cut in cuts],
        starts=[cut[1] for cut in cuts],
        steps=[cut[2] for cut in cuts],
    )
    assert values(record, list(range(prod(shape)))) == expected
