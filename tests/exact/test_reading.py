"""Reading value by value: what is outside of its interval is refused however it is read, and what is computed is computed once."""

from dataclasses import replace

import pytest

from avow.exact.errors import Undefined
from avow.exact.program import CACHE, NO_LEAF, OPERATOR, Head, Operator, Source
from avow.exact.reading import MAX_READS, MOST_RUNS, OutOfInterval, Reading
from avow.exact.sites import Site
from avow.exact.specification import Parameters
from avow.exact.specification.cones import ELEMENT, LINE, MAX_WORK
from tests.exact import programs

HEAD: Head = programs.program_of(1, mode="generate").head


class Listed:
    """One tensor of which every value is at hand."""

    def __init__(self, values):
        self.values = values

    def get(self, index):
        return self.values[index]

    def row(self, start, count):
        return self.values[start : start + count]

    def pick(self, indices):
        return [self.values[index] for index in indices]


class Run:
    """`tensors`: values by the rank of their leaf; `records`: of operators without one, by number."""

    def __init__(self, tensors, records=None):
        self.tensors, self.records = tensors, records or {}

    def run(self, slot, layout):
        values = self.tensors[slot % HEAD.leaves]
        assert len(values) >= layout.size
        return Listed(values)

    def constant(self, number, layout):
        raise AssertionError("these operators have none")

    def operator(self, number):
        return self.records[number]


def leaf(rank, shape, origin=OPERATOR, low=-9, high=9):
    return Source(origin, rank, "int8", tuple(shape), low, high, rank)


def site(record, number=9, step=0):
    return Site(HEAD, record, number, step, step + 1, 1)


def value(record, run, step=0):
    return Reading(run, Parameters()).element(site(record, step=step), 0)


def record(kind, inputs, shape, low=-100, high=100, **attributes):
    return Operator(kind, tuple(inputs), "int8", tuple(shape), low, high, 0, attributes, leaf=2)


READERS = {
    "get": record("clip", [leaf(0, [4])], [4]),
    "row": record("matmul", [leaf(0, [1, 4]), leaf(1, [1, 4])], [1, 1], transpose_b=1, m=1, s=1),
    "pick": record("reduce", [leaf(0, [4, 1])], [1, 1], mode=1, rescale=0, axis=0, block=4),
    "cached": record("scores", [leaf(1, [1, 1]), leaf(0, [64, 1], CACHE)], [1, -1], m=1, s=1),
    "column": record("mix", [leaf(1, [1, -1]), leaf(0, [1, 64], CACHE)], [1, 1], m=1, s=1),
}


@pytest.mark.parametrize("name", READERS)
def test_a_value_outside_of_its_interval_is_refused_however_it_is_read(name):
    reader = READERS[name]
    places = {"get": [0], "cached": [0]}.get(name, range(4))
    for at in places:
        for edge in (-9, 9):
            values = [0] * 64
            values[at] = edge
            value(reader, Run({0: values, 1: [1] * 64}), step=3)
            values[at] = edge + (1 if edge > 0 else -1)
            with pytest.raises(OutOfInterval):
                value(reader, Run({0: values, 1: [1] * 64}), step=3)


def inner(kind="reshape", low=-9, high=9, **attributes):
    made = record(kind, [leaf(0, [4], low=-100, high=100)], [4], low, high, **attributes)
    return replace(made, leaf=NO_LEAF)


def above(inside, shape=(4,)):
    return record("reduce", [inside.source(OPERATOR, 5)], [1], mode=1, rescale=0, axis=0, block=shape[0])


def test_a_computed_value_outside_of_its_operators_interval_is_refused():
    """No program that a loader accepts has such an operator; a record that a stranger made may."""
    inside = inner()
    assert value(above(inside), Run({0: [9, -9, 1, 1]}, {5: inside})) == 2
    for wrong in (10, -10):
        for at in range(4):
            values = [0] * 4
            values[at] = wrong
            with pytest.raises(OutOfInterval):
                value(above(inside), Run({0: values}, {5: inside}))


def test_what_is_computed_is_what_the_source_says_and_comes_earlier():
    inside = inner("clip")
    run = Run({0: [1, 2, 3, 4]}, {5: inside})
    assert value(above(inside), run) == 10
    for other in (inner("clip", high=8), replace(inside, type="int16")):
        with pytest.raises(Undefined, match="not what its operator gives"):
            value(above(other), run)
    for number in (4, 5):
        with pytest.raises(Undefined, match="comes later"):
            Reading(run, Parameters()).element(site(above(inside), number), 0)
    assert Reading(run, Parameters()).element(site(above(inside), 6), 0) == 10


def test_what_was_computed_is_not_computed_again():
    inside = inner("clip")
    reading = Reading(Run({0: [1, 2, 3, 4]}, {5: inside}), Parameters())
    whole = MOST_RUNS * MAX_WORK
    assert reading._work == whole
    for _ in range(3):
        assert reading.element(site(above(inside)), 0) == 10
        assert whole - reading._work == LINE + 4 * ELEMENT
        assert MAX_READS - reading._reads == 4
    fresh = Reading(Run({0: [1, 2, 3, 4]}, {5: inside}), Parameters())
    values = fresh.computed(site(above(inside)), inside.source(OPERATOR, 5), 0)
    assert [values.get(2), *values.pick([3, 2, 3]), *values.row(0, 4)] == [3, 4, 3, 4, 1, 2, 3, 4]
    assert whole - fresh._work == 3 * LINE + 4 * ELEMENT


def test_no_more_is_read_or_computed_than_an_element_may():
    reading = Reading(Run({}), Parameters())
    reading.spend(MAX_READS, MOST_RUNS * MAX_WORK)
    reading.spend(0)
    for more in ((1, 0), (0, 1)):
        again = Reading(Run({}), Parameters())
        again.spend(MAX_READS, MOST_RUNS * MAX_WORK)
        with pytest.raises(Undefined, match="more than an element may"):
            again.spend(*more)


@pytest.mark.parametrize(
    ("kind", "asked", "runs"),
    [
        ("slice", [range(2, 8)], 2),  # in two lines
        ("slice", [[9, 0, 3, 2, 0]], 3),  # in any order, and one of them twice
        ("slice", [range(2, 8), range(12)], 4),  # what is missing lies before and after
        ("slice", [[1], [0, 1, 2]], 3),
        ("slice", [[3, 4]], 2),
        ("clip", [[9, 0, 3, 2, 0]], 1),  # of single values, at one go
        ("clip", [[5], [4, 5, 6], [5]], 2),
    ],
)
def test_values_are_computed_in_runs_within_a_line(kind, asked, runs):
    attributes = {"starts": (0, 0), "steps": (1, 1)} if kind == "slice" else {}
    made = record(kind, [leaf(0, [3, 4])], [3, 4], -9, 9, **attributes)
    inside = replace(made, leaf=NO_LEAF)
    tensor = [(5 * at) % 7 for at in range(12)]
    reading = Reading(Run({0: tensor}, {5: inside}), Parameters())
    values = reading.computed(site(above(inside, (3, 4))), inside.source(OPERATOR, 5), 0)
    for indices in asked:
        assert list(values.pick(indices)) == [tensor[index] for index in indices]
    distinct = len({index for indices in asked for index in indices})
    assert MOST_RUNS * MAX_WORK - reading._work == runs * LINE + distinct * ELEMENT
    assert MAX_READS - reading._reads == distinct


def test_no_place_outside_of_a_tensor_is_read():
    """Also the first behind its end and the last before its beginning; the ends themselves are."""
    reader = READERS["get"]
    cells = Reading(Run({0: [1, 2, 3, 4]}), Parameters()).cells(site(reader))
    assert [cells.get(0, 0), cells.get(0, 3), *cells.row(0, 1, 3), *cells.row(0, 4, 0), *cells.pick(0, [3, 0])] == [
        1,
        4,
        2,
        3,
        4,
        4,
        1,
    ]
    assert list(cells.pick(0, [])) == []
    for wrong in (-1, 4):
        with pytest.raises(Undefined):
            cells.get(0, wrong)
        with pytest.raises(Undefined):
            cells.pick(0, [1, wrong])
    for start, count in ((-1, 1), (1, 4), (4, 1), (2, -1)):
        with pytest.raises(Undefined):
            cells.row(0, start, count)
    cached = Reading(Run({0: [1] * 64, 1: [1]}), Parameters()).cells(site(READERS["cached"], step=3))
    assert list(cached.cached(1, 3, 0, 1)) == [1]
    for position, start, count in ((4, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, 2), (0, 1, 1), (0, 0, -1)):
        with pytest.raises(Undefined):
            cached.cached(1, position, start, count)
    column = Reading(Run({0: [1] * 64, 1: [1] * 4}), Parameters()).cells(site(READERS["column"], step=3))
    assert list(column.column(1, 0)) == [1] * 4
    for wrong in (-1, 1):
        with pytest.raises(Undefined):
            column.column(1, wrong)


@pytest.mark.parametrize(("name", "count"), [("get", 1), ("row", 8), ("pick", 4), ("cached", 2), ("column", 8)])
def test_every_value_that_is_read_is_counted(name, count):
    reading = Reading(Run({0: [1] * 64, 1: [1] * 4}), Parameters())
    reading.element(site(READERS[name], step=3), 0)
    assert MAX_READS - reading._reads == count
