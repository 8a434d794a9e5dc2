"""Ensembles of decision trees: one leaf's value for each tree; `reduce` sums them."""

from avow.exact.errors import Undefined
from avow.exact.program import Operator
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import Case, Form, Read
from avow.exact.specification.kind import Kind

LEAF = -1
FIELDS = 4
"""Of a node: feature or −1, threshold or value, left, right."""
MAX_DEPTH = 64


# --- trees ---------------------------------------------------------------------------------------------------------
# features [F], nodes [T, M, 4] → [T]


def trees(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """From node 0 of tree `index`: left if the feature is ≤ the threshold, else right; at a leaf, its value."""
    del step
    count = operator.inputs[1].shape[1]
    node = 0
    for _ in range(operator.integer("depth") + 1):
        feature, value, left, right = cells.row(1, (index * count + node) * FIELDS, FIELDS)
        if feature == LEAF:
            return value
        node = left if cells.get(0, feature) <= value else right
    raise Undefined("a tree is deeper than it says")


def form_trees(form: Form) -> None:
    features, nodes = form.inputs(2, constants=(1,))
    form.attributes(depth=(0, MAX_DEPTH))
    form.require(len(features.shape) == 1, "the features are not one row")
    form.require(len(nodes.shape) == 3 and nodes.shape[2] == FIELDS, "the nodes are not [T, M, 4]")
    form.shape(nodes.shape[:1])


def bound_trees(case: Case) -> int:
    features, nodes = (source.shape for source in case.operator.inputs)
    low, high = 0, 0
    for tree in range(nodes[0]):
        values = case.constant(1).values(tree * nodes[1] * FIELDS, nodes[1] * FIELDS)
        leaves = _check_tree(case, values, features[0])
        low, high = (min(leaves), max(leaves)) if tree == 0 else (min(low, *leaves), max(high, *leaves))
    case.contained(low, high)
    return 0


def _check_tree(case: Case, values: tuple[int, ...], features: int) -> list[int]:
    """The values of a tree's leaves. Children come after their parents, so no walk goes on for ever."""
    count = len(values) // FIELDS
    depths = [0] + [-1] * (count - 1)
    leaves = []
    for node in range(count):
        feature, value, *children = values[FIELDS * node : FIELDS * (node + 1)]
        if depths[node] < 0:
            continue
        if feature == LEAF:
            leaves.append(value)
            continue
        case.require(0 <= feature < features, "a node asks for a feature that is not there")
        case.require(depths[node] < case.operator.integer("depth"), "a tree is deeper than the attribute says")
        for child in children:
            case.require(node < child < count, "a child does not come after its parent")
            depths[child] = max(depths[child], depths[node] + 1)
    return leaves


def reads_trees(operator: Operator, context: int) -> list[Read]:
    del context
    depth = operator.integer("depth")
    return [Read(0, max(depth, 1), 1), Read(1, depth + 1, FIELDS, aligned=True)]


KINDS = {"trees": Kind(form_trees, bound_trees, trees, reads_trees)}
