"""Decision trees, by hand and against a recursive reading."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.exact.errors import Undefined
from tests.exact.cells import constant, operator, source, values
from tests.exact.programs import inputs_of, program_of


def test_trees_by_hand():
    # Tree 0: x0 ≤ 5 ? 100 : (x1 ≤ −1 ? 200 : 300). Tree 1: a leaf.
    nodes = [0, 5, 1, 2, -1, 100, 0, 0, 1, -1, 3, 4, -1, 200, 0, 0, -1, 300, 0, 0]
    nodes += [-1, -7, 0, 0] + [-1, 0, 0, 0] * 4
    record = operator("trees", [source([2]), constant([2, 5, 4])], [2], depth=2)
    assert values(record, [5, 0], nodes) == [100, -7]
    assert values(record, [6, -1], nodes) == [200, -7]
    assert values(record, [6, 0], nodes) == [300, -7]


def test_a_walk_that_does_not_end_has_no_value():
    record = operator("trees", [source([1]), constant([1, 1, 4])], [1], depth=64)
    with pytest.raises(Undefined):
        values(record, [0], [0, 0, 0, 0])


@given(st.integers(0, 1 << 32))
def test_trees_are_read_recursively(seed):
    program = program_of(seed, mode="once", kinds=["trees"])
    for record in program.operators:
        if record.kind != "trees":
            continue
        random = Random(seed)
        features = [
            random.randint(record.inputs[0].low, record.inputs[0].high) for _ in range(record.inputs[0].shape[0])
        ]
        nodes = program.constants[record.inputs[1].id].values()
        count = record.inputs[1].shape[1]

        def walk(tree, node):
            feature, value, left, right = nodes[(tree * count + node) * 4 :][:4]
            return value if feature == -1 else walk(tree, left if features[feature] <= value else right)

        assert values(record, features, nodes) == [walk(tree, 0) for tree in range(record.shape[0])]
    assert inputs_of(program, seed)
