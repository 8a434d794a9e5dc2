"""Lines beside element functions: at the edges of windows, where they read by pieces, and over values that nobody should have given."""

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact.errors import NotOpened, Undefined
from avow.exact.program import INPUT
from avow.exact.reading import OutOfInterval
from avow.exact.specification import KINDS, Step
from avow.exact.specification.lines import LINES
from avow.exact.tensors import RANGES, size_of
from tests.exact import programs
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


class Suspect:
    """Any value of its type at any place, one and the same whenever it is read; refused as a referee refuses those outside of their interval."""

    def __init__(self, record, step, random, rate):
        self.record, self.step, self.seed, self.rate = record, step, random.random(), rate
        self.seen = set()

    def value(self, number, place):
        each = self.record.inputs[number]
        random = Random(f"{self.seed} {number} {place}")
        value = random.choice([each.low, each.high, random.randint(each.low, each.high)])
        if random.random() < self.rate:
            value = random.choice([*RANGES[each.type], each.low - 1, each.high + 1])
        self.seen.add((number, place))
        if not each.low <= value <= each.high:
            raise OutOfInterval("outside")
        return value

    def get(self, number, index):
        return self.row(number, index, 1)[0]

    def row(self, number, start, count):
        size = size_of(self.record.inputs[number].shape, self.step.positions)
        if self.record.inputs[number].origin != INPUT and not 0 <= start <= start + count <= size:
            raise Undefined("outside of its tensor")
        return [self.value(number, place) for place in range(start, start + count)]

    def pick(self, number, indices):
        return [self.get(number, index) for index in indices]

    def cached(self, number, position, start, count):
        assert position <= self.step.step
        assert start + count <= self.record.inputs[number].shape[1]
        return [self.value(number, (position, place)) for place in range(start, start + count)]

    def column(self, number, column):
        raise AssertionError("no line reads transposed pages")

    def claimed(self, index):
        raise AssertionError("no line is a choice's")


def outcome(function):
    """What it gives; or the refusal's class."""
    try:
        return function()
    except (NotOpened, Undefined) as error:
        return type(error)


@given(st.integers(0, (1 << 32) - 1))
@settings(max_examples=40, deadline=None)
def test_a_line_refuses_what_its_elements_refuse_and_nothing_else(seed):
    """A value outside of its interval, a place outside of its tensor, an undefined shift: only where an element of the run reads it."""
    program, random = programs.program_of(seed), Random(seed)
    for record in program.operators:
        line = LINES.get(record.kind)
        if line is None:
            continue
        step = Step(random.randrange(min(program.context, 70)), 1)
        size, width = size_of(record.shape, step.positions), line.width(record, step.positions)
        start = random.randrange(size)
        run = range(start, start + random.randint(1, min(width - start % width, size - start)))
        cells = Suspect(record, step, random, random.choice((0, 0.01, 0.1)))

        def values(line=line, record=record, cells=cells, run=run, step=step, width=width):
            shared = line.shared(record, cells, run[0] // width, step)
            return list(line.values(record, cells, run, step, shared))

        found = outcome(values)
        read, cells.seen = cells.seen, set()
        each = [
            outcome(
                lambda at=at, record=record, cells=cells, step=step: KINDS[record.kind].element(record, cells, at, step)
            )
            for at in run
        ]
        if isinstance(found, list):
            assert found == each
            assert read == cells.seen
        else:
            assert found in each
