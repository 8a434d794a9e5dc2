"""linear, matmul and conv by hand, and against formulations that share nothing with theirs."""

from fractions import Fraction
from itertools import product
from math import floor, prod
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.exact.cells import constant, operator, source, values


def rounded(accumulator, m, s):
    """The nearest integer to accumulator · m / 2^s, halves up."""
    return floor(Fraction(accumulator * m, 1 << s) + Fraction(1, 2))


def test_linear_by_hand():
    record = operator(
        "linear", [source([2, 3]), constant([2, 3]), constant([2]), constant([2]), constant([1], "int8")], [2, 2], -10, 50,
        bias=1, rescale=1,
    )  # fmt: skip
    x, w = [1, 2, 3, -4, 0, 5], [1, 0, -1, 10, 20, 30]
    # Row 0: 1 − 3 + 7 = 5 and 10 + 40 + 90 − 100 = 40; row 1: −4 − 5 + 7 = −2 and −40 + 150 − 100 = 10.
    # Times 3 and 5, by 2: 7.5 → 8 and 100 → 50; −3 and 25.
    assert values(record, x, w, [7, -100], [3, 5], [1]) == [8, 50, -3, 25]


def test_linear_halves_go_up_and_raw_sums_are_clamped():
    shapes = [source([1]), constant([1, 1])]
    halves = operator("linear", [*shapes, constant([1]), constant([1], "int8")], [1], bias=0, rescale=1)
    assert [values(halves, [x], [1], [1], [1])[0] for x in (-3, -1, 1, 3)] == [-1, 0, 1, 2]
    raw = operator("linear", shapes, [1], -5, 5, bias=0, rescale=0)
    assert [values(raw, [x], [2])[0] for x in (-3, 2, 3)] == [-5, 4, 5]


def test_linear_takes_and_gives_any_shape():
    record = operator("linear", [source([6]), constant([2, 3])], [2, 2], bias=0, rescale=0)
    assert values(record, [1, 2, 3, 4, 5, 6], [1, 1, 1, 0, 0, 1]) == [6, 3, 15, 6]


def test_matmul_by_hand():
    plain = operator("matmul", [source([2, 2]), source([2, 2])], [2, 2], transpose_b=0, m=1, s=1)
    turned = operator("matmul", [source([2, 2]), source([2, 2])], [2, 2], transpose_b=1, m=1, s=1)
    assert values(plain, [1, 2, 3, 4], [5, 6, 7, 8]) == [10, 11, 22, 25]
    assert values(turned, [1, 2, 3, 4], [5, 7, 6, 8]) == [10, 11, 22, 25]


@given(st.integers(0, 1 << 32), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_matmul_is_a_batch_of_products(seed, batch, rows, length, columns):
    random = Random(seed)
    a = [random.randint(-127, 127) for _ in range(batch * rows * length)]
    b = [random.randint(-127, 127) for _ in range(batch * length * columns)]
    m, s = random.randint(1, 32767), random.randint(1, 20)
    left = [[a[(n * rows + i) * length :][:length] for i in range(rows)] for n in range(batch)]
    right = [[b[(n * length + k) * columns :][:columns] for k in range(length)] for n in range(batch)]
    expected = [
        rounded(sum(x * y for x, y in zip(row, column, strict=True)), m, s)
        for n in range(batch)
        for row in left[n]
        for column in zip(*right[n], strict=True)
    ]
    record = operator(
        "matmul",
        [source([batch, rows, length]), source([batch, length, columns])],
        [batch, rows, columns],
        transpose_b=0,
        m=m,
        s=s,
    )
    assert values(record, a, b) == expected
    turned = [value for n in range(batch) for column in zip(*right[n], strict=True) for value in column]
    record = operator(
        "matmul",
        [source([batch, rows, length]), source([batch, columns, length])],
        [batch, rows, columns],
        transpose_b=1,
        m=m,
        s=s,
    )
    assert values(record, a, turned) == expected


def test_conv_by_hand():
    record = operator(
        "conv", [source([3, 3, 1]), constant([1, 2, 2, 1])], [2, 2, 1], bias=0, rescale=0, groups=1, stride=[1, 1],
        dilation=[1, 1], pad=[0, 0, 0, 0],
    )  # fmt: skip
    assert values(record, [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 0, 0, -1]) == [-4, -4, -4, -4]


@given(st.integers(0, 1 << 32))
def test_conv_is_a_sum_over_a_padded_image(seed):
    """An image padded beforehand, every tap of a window visited in another order."""
    random = Random(seed)
    groups, depth, each = random.randint(1, 2), random.randint(1, 3), random.randint(1, 2)
    height, width, channels, outputs = random.randint(2, 5), random.randint(2, 5), groups * depth, groups * each
    kernel = random.randint(1, 2), random.randint(1, 3)
    dilation = [random.randint(1, 2), 1]
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel, dilation, strict=True)]
    pad = [random.randint(0, reach[axis % 2] - 1) for axis in range(4)]
    pad[:2] = [size - 1 for size in reach]
    stride = [random.randint(1, 2), random.randint(1, 2)]
    x = [random.randint(-127, 127) for _ in range(height * width * channels)]
    w = [random.randint(-127, 127) for _ in range(outputs * prod(kernel) * depth)]
    bias = [random.randint(-999, 999) for _ in range(outputs)]
    m, s = [random.randint(1, 32767) for _ in range(outputs)], [random.randint(1, 45) for _ in range(outputs)]
    image = {}
    for y, c, channel in product(range(height), range(width), range(channels)):
        image[y + pad[0], c + pad[1], channel] = x[(y * width + c) * channels + channel]
    extent = [
        (full + pad[axis] + pad[axis + 2] - reach[axis]) // stride[axis] + 1
        for axis, full in enumerate((height, width))
    ]
    expected = []
    for y, c, o in product(range(extent[0]), range(extent[1]), range(outputs)):
        total = bias[o]
        for d, j, i in product(range(depth), range(kernel[1]), range(kernel[0])):
            value = image.get(
                (y * stride[0] + i * dilation[0], c * stride[1] + j * dilation[1], o // each * depth + d), 0
            )
            total += value * w[((o * kernel[0] + i) * kernel[1] + j) * depth + d]
        expected.append(rounded(total, m[o], s[o]))
    record = operator(
        "conv", [source([height, width, channels]), constant([outputs, *kernel, depth]), constant([outputs]), constant([outputs]),
        constant([outputs], "int8")], [*extent, outputs], bias=1, rescale=1, groups=groups, stride=stride, dilation=dilation, pad=pad,
    )  # fmt: skip
    assert values(record, x, w, bias, m, s) == expected
