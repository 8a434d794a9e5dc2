"""pool and reduce: by hand, and against windows over an image padded beforehand."""

from itertools import product
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.exact.cells import operator, source, values


def test_pool_by_hand():
    x = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    largest = operator(
        "pool", [source([3, 3, 1], -20)], [2, 2, 1], mode=0, rescale=0, kernel=[2, 2], stride=[2, 2], pad=[1, 1, 0, 0]
    )
    assert values(largest, x) == [1, 3, 7, 9]
    assert values(largest, [-x for x in x]) == [-1, -2, -4, -5]
    total = operator(
        "pool",
        [source([3, 3, 1])],
        [2, 2, 1],
        mode=1,
        rescale=1,
        m=1,
        s=2,
        kernel=[2, 2],
        stride=[1, 1],
        pad=[0, 0, 0, 0],
    )
    assert values(total, x) == [3, 4, 6, 7]


def test_reduce_by_hand():
    x = [1, 5, -2, 4, 3, 0]
    assert values(operator("reduce", [source([2, 3])], [2, 2], mode=1, rescale=0, axis=1, block=2), x) == [6, -2, 7, 0]
    assert values(operator("reduce", [source([2, 3])], [1, 3], mode=0, rescale=0, axis=0, block=9), x) == [4, 5, 0]
    assert values(operator("reduce", [source([6])], [1], 0, 5, mode=1, rescale=1, m=3, s=2, axis=0, block=6), x) == [5]
    assert values(operator("reduce", [source([6])], [1], mode=1, rescale=1, m=3, s=2, axis=0, block=6), x) == [8]


@given(st.integers(0, 1 << 32))
def test_pool_is_a_window_over_a_padded_image(seed):
    random = Random(seed)
    height, width, channels = (random.randint(1, 5) for _ in range(3))
    kernel = [random.randint(1, height), random.randint(1, width)]
    stride = [random.randint(1, 3), random.randint(1, 3)]
    pad = [random.randint(0, kernel[axis % 2] - 1) for axis in range(4)]
    x = [random.randint(-90, 90) for _ in range(height * width * channels)]
    extent = [
        (full + pad[axis] + pad[axis + 2] - kernel[axis]) // stride[axis] + 1
        for axis, full in enumerate((height, width))
    ]
    for mode, outside, finish in ((0, -100, max), (1, 0, sum)):
        image = {
            (y + pad[0], c + pad[1], channel): x[(y * width + c) * channels + channel]
            for y, c, channel in product(range(height), range(width), range(channels))
        }
        expected = [
            finish(
                image.get((y * stride[0] + i, c * stride[1] + j, channel), outside)
                for i, j in product(range(kernel[0]), range(kernel[1]))
            )
            for y, c, channel in product(range(extent[0]), range(extent[1]), range(channels))
        ]
        record = operator(
            "pool",
            [source([height, width, channels], -100, 100)],
            [*extent, channels],
            mode=mode,
            rescale=0,
            kernel=kernel,
            stride=stride,
            pad=pad,
        )
        assert values(record, x) == expected
