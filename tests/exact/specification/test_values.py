"""Operators on single values, by hand and by their relations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.exact.errors import Undefined
from avow.exact.specification.arithmetic import divide, requantise, scale, square_root
from tests.exact.cells import constant, operator, source, values

wide = st.integers(-(1 << 30) + 1, (1 << 30) - 1)


@given(wide, st.integers(1, 32767), st.integers(1, 45))
def test_requantise_leaves_a_remainder_that_can_be_range_checked(a, m, s):
    remainder = a * m + (1 << (s - 1)) - (requantise(a, m, s) << s)
    assert 0 <= remainder < 1 << s


@given(wide, st.integers(1, 1 << 30))
def test_divide_is_its_relation(a, b):
    remainder = a + b // 2 - divide(a, b) * b
    assert 0 <= remainder < b


@given(wide, st.integers(-14, 30))
def test_scale_rounds_to_the_nearest(a, k):
    found = scale(a, k)
    if k <= 0:
        assert found == a * 2**-k
    else:
        assert -(1 << (k - 1)) < (found << k) - a <= 1 << (k - 1)


@given(st.integers(0, 1 << 46))
def test_square_root_is_its_relation(x):
    q = square_root(x)
    assert q * q <= x < (q + 1) * (q + 1)


@pytest.mark.parametrize(
    "call", [lambda: requantise(1, 1, 0), lambda: requantise(1, 1, 46), lambda: divide(1, 0), lambda: square_root(-1)]
)
def test_what_has_no_value_says_so(call):
    with pytest.raises(Undefined):
        call()


def test_add_broadcasts_scales_and_subtracts():
    record = operator("add", [source([2, 1]), source([3])], [2, 3], -9, 100, ma=3, mb=-2, s=1)
    # 3 · (10, −1) − 2 · (1, 5, 20), halves up.
    assert values(record, [10, -1], [1, 5, 20]) == [14, 10, -5, -2, -6, -9]
    record = operator("add", [source([1]), source([1])], [1], ma=32767, mb=-32767, s=0)
    assert values(record, [7], [5]) == [65534]


def test_mul_broadcasts():
    record = operator("mul", [source([3]), source([2, 1])], [2, 3], -100, 100, m=1, s=2)
    assert values(record, [1, -2, 300], [3, 2]) == [1, -1, 100, 1, -1, 100]


def test_divide_by_hand():
    record = operator("divide", [source([4]), source([4], 1, 99)], [4], c=10)
    assert values(record, [1, -1, 7, -7], [4, 4, 3, 3]) == [3, -2, 23, -23]


def test_rescale_clip_table_isqrt():
    assert values(operator("rescale", [source([3])], [3], -5, 5, m=3, s=1), [1, -1, 9]) == [2, -1, 5]
    assert values(operator("clip", [source([3])], [3], -5, 5), [1, -9, 9]) == [1, -5, 5]
    assert values(operator("table", [source([3], -1, 2), constant([4])], [3]), [-1, 0, 2], [10, 20, 30, 40]) == [
        10,
        20,
        40,
    ]
    assert values(operator("isqrt", [source([4], 0)], [4], 0, 4), [0, 1, 24, 25]) == [0, 1, 4, 4]


def test_a_value_outside_of_its_interval_has_no_table_entry():
    record = operator("table", [source([1], -1, 2), constant([4])], [1])
    for value in (-2, 3):
        with pytest.raises(Undefined):
            values(record, [value], [10, 20, 30, 40])
