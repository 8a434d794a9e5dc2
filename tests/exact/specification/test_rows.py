"""softmax and norm: by hand, by their relations, and how near they are to real numbers."""

from math import exp, sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.exact.specification.rows import NORM_MAX, row_exponent
from tests.exact.cells import constant, operator, source, values


def softmax(length, table, one, high=1 << 20):
    return operator("softmax", [source([length]), constant([len(table)])], [length], 0, high, one=one)


def test_softmax_by_hand():
    table = [8, 4, 2, 1]
    # Distances 1, 0, 9: 4, 8, 1 of 13 parts.
    assert values(softmax(3, table, 100), [5, 6, -3], table) == [31, 62, 8]
    assert values(softmax(3, table, 100, high=40), [5, 6, -3], table) == [31, 40, 8]
    assert values(softmax(2, [3], 1000), [-7, 90], [3]) == [500, 500]


def test_softmax_goes_over_the_positions_so_far():
    record = operator("softmax", [source([2, -1]), constant([2])], [2, -1], 0, 100, one=100)
    assert values(record, [0, 1, 5, 5], [3, 1], step=1) == [25, 75, 50, 50]


@given(st.integers(0, 1 << 32), st.integers(1, 60))
def test_softmax_is_near_the_real_one(seed, length):
    """Scores in units of 1/64, a table of 2^15: each of L results is within 1/2 and the table's roundings of the real one."""
    random = Random(seed)
    table = [round(32767 * exp(-distance / 64)) for distance in range(800)]
    x = [random.randint(-500, 500) for _ in range(length)]
    found = values(softmax(length, table, 4096), x, table)
    parts = [exp((value - max(x)) / 64) for value in x]
    for part, y in zip(parts, found, strict=True):
        assert abs(4096 * part / sum(parts) - y) < 0.5 + 4096 * (length + 1) / 2 / 32767
    assert abs(sum(found) - 4096) <= length / 2


def norm(length, *, mode=0, exponent=-14, epsilon=1, shift=0, beta=0, s=0, low=-(1 << 31), high=(1 << 31) - 1, rows=1):
    inputs = [source([rows, length]), constant([length]), *([constant([length])] if beta else [])]
    return operator(
        "norm",
        inputs,
        [rows, length],
        low,
        high,
        mode=mode,
        exponent=exponent,
        epsilon=epsilon,
        shift=shift,
        beta=beta,
        s=s,
    )


def test_norm_by_hand():
    # 3, 4 · 2^12 are the largest below 2^15; E = 25 · 2^24, D = 5 · 2^12: 3/5 and 4/5 of gamma.
    record = norm(2, epsilon=1)
    assert values(record, [3, -4], [1000, 1000]) == [600, -800]
    # With epsilon 144 · 2^24 of it, D is 13 · 2^12; gamma 13 · 64.
    assert values(norm(2, epsilon=144 << 24, exponent=-12), [3, -4], [832, 832]) == [192, -256]
    # At exponent 0 the row stays small: E = 25 + 11.
    assert values(norm(2, epsilon=11, exponent=0), [3, -4], [60, 6]) == [30, -4]
    assert values(norm(2, epsilon=11, exponent=0, shift=3, beta=1, s=1), [3, -4], [60, 6], [5, 1]) == [123, -15]
    assert values(norm(2, epsilon=11, exponent=0, low=-3, high=29), [3, -4], [60, 6]) == [29, -3]


def test_norm_of_zeros_is_zero_and_of_large_rows_drops_low_bits():
    assert values(norm(3, epsilon=1), [0, 0, 0], [5, 5, 5]) == [0, 0, 0]
    # 2^29 needs k = 15; epsilon, 2 · 15 + 28 bits further down, is nothing.
    assert row_exponent((1 << 29) - 1, -14) == 15
    assert values(norm(1, epsilon=(1 << 45) - 1), [1 << 29], [1000]) == [1000]


def test_layer_norm_by_hand():
    # N · x − Σx = (−3, 0, 3), k = −13: ± 3 · 2^13; E = 18 · 2^26, D = floor(√18 · 2^13) = 34755.
    assert values(norm(3, mode=1), [1, 2, 3], [10000, 10000, 10000]) == [-7071, 0, 7071]


@given(st.integers(0, (1 << 30) - 1), st.integers(-14, 15))
def test_the_row_exponent_is_the_least_that_fits(largest, least):
    exponent = row_exponent(largest, least)
    assert exponent >= least
    fits = [
        largest * 2**-k <= NORM_MAX if k <= 0 else (largest + 2 ** (k - 1)) // 2**k <= NORM_MAX
        for k in (exponent, exponent - 1)
    ]
    assert fits == [True, False] or (fits[0] and exponent == least)


@pytest.mark.parametrize("mode", [0, 1])
@given(st.integers(0, 1 << 32), st.integers(2, 600), st.integers(3, 25))
def test_norm_is_right_to_twelve_bits(mode, seed, length, bits):
    """Against real numbers, in units of the largest output: rows of a few outliers among small values, of any size."""
    random = Random(seed)
    bits = min(bits, 29 - (length.bit_length() + 1) * mode)
    x = [round(random.gauss(0, 1) * 2 ** (bits - 3) / random.choice((1, 1, 30))) for _ in range(length)]
    x = [max(-(1 << bits), min(value, 1 << bits)) for value in x]
    x[random.randrange(length)] += 1 << (bits - 1)
    gamma = [random.randint(8000, 32767) for _ in range(length)]
    columns = sorted({0, length - 1, *(random.randrange(length) for _ in range(6)), x.index(max(x))})
    found = values(norm(length, mode=mode, shift=10), x, gamma, indices=columns)
    mean = sum(x) / length if mode else 0
    root = sqrt(sum((value - mean) ** 2 for value in x))
    if root < 1:
        return
    real = [(x[column] - mean) / root * gamma[column] * 1024 for column in columns]
    scale = 32767 * 1024 * max(abs(value - mean) for value in x) / root
    assert max(abs(a - b) for a, b in zip(real, found, strict=True)) <= scale / 4096
