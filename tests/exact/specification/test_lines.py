"""Lines at the edges of windows, where they read by pieces: the values and the reads of element functions, in few questions."""

from itertools import product
from random import Random

import pytest

from avow.exact.specification import KINDS, Step
from avow.exact.specification.lines import LINES
from avow.exact.tensors import size_of
from tests.exact.cells import ListCells, constant, operator, source


class Asked(ListCells):
    """Counts how often it is asked."""

    def __init__(self, *inputs):
        super().__init__(*inputs)
        self.calls = 0

    def row(self, number, start, count):
        self.calls += 1
        return super().row(number, start, count)

    def pick(self, number, indices):
        self.calls += 1
        return [super(Asked, self).row(number, index, 1)[0] for index in indices]


def line_of(record, index, count, cells):
    line, step = LINES[record.kind], Step(0)
    shared = line.shared(record, cells, index // line.width(record, 1), step)
    return list(line.values(record, cells, range(index, index + count), step, shared))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 20), (20, 1), (4, 2), (2, 9)])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_convolution_at_every_edge_is_the_element_functions(kernel, depth, dilation):
    """With pieces of a kernel that are short and long, alone and one after the other."""
    random = Random(f"{kernel} {depth} {dilation}")
    height, width = random.randint(1, 24), random.randint(1, 24)
    reach = [(size - 1) * dilation + 1 for size in kernel]
    pad = [min(reach[0], 3) - 1, min(reach[1], 3) - 1, reach[0] - 1, reach[1] - 1]
    height, width = (
        max(size, at - first - second)
        for size, at, first, second in zip((height, width), reach, pad, pad[2:], strict=False)
    )
    shape = [height + pad[0] + pad[2] - reach[0] + 1, width + pad[1] + pad[3] - reach[1] + 1, 4]
    record = operator(
        "conv", [source([height, width, depth]), constant([4, *kernel, depth])], shape,
        bias=0, rescale=0, groups=1, stride=[1, 1], dilation=[dilation, dilation], pad=pad,
    )  # fmt: skip
    inputs = [[random.randint(-9, 9) for _ in range(size_of(each.shape))] for each in record.inputs]
    places = list(product(range(shape[0]), range(shape[1])))
    for y, x in [places[0], places[-1], *random.sample(places, min(len(places), 12))]:
        index = (y * shape[1] + x) * 4
        first = random.randrange(4)
        count = random.randint(1, 4 - first)
        whole, singly = ListCells(*inputs), ListCells(*inputs)
        expected = [
            KINDS["conv"].element(record, singly, at, Step(0)) for at in range(index + first, index + first + count)
        ]
        assert line_of(record, index + first, count, whole) == expected
        assert set(whole.seen) == set(singly.seen)


@pytest.mark.parametrize(("kernel", "pad"), [((100, 1), (1, 0)), ((50, 2), (0, 1)), ((50, 2), (1, 1))])
def test_of_a_kernel_that_is_cut_a_channel_is_asked_for_once(kernel, pad):
    """Not once for each of its rows: what it costs a referee is bounded as if nothing were cut."""
    channels = 30
    shape = [1 + pad[0], 1 + pad[1], channels]
    record = operator(
        "conv", [source([*kernel, 1]), constant([channels, *kernel, 1])], shape,
        bias=0, rescale=0, groups=1, stride=[1, 1], dilation=[1, 1], pad=[*pad, 0, 0],
    )  # fmt: skip
    inputs = [[1] * size_of(each.shape) for each in record.inputs]
    cells = Asked(*inputs)
    inside = (kernel[0] - pad[0]) * (kernel[1] - pad[1])
    assert line_of(record, 0, channels, cells) == [inside] * channels
    assert cells.calls <= channels + kernel[0]
