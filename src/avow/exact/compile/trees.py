"""Tree ensembles (ONNX-ML TreeEnsembleRegressor and -Classifier) as exact programs.

Rules:
1. A feature becomes floor(x · 2^k), clamped to ±2^30, with the largest k that its thresholds leave room for; a threshold likewise. Floor
   keeps order: a decision can differ only where a feature lies above its threshold by less than 2^−k.
2. Leaves are integers at one scale, so fine that no sum of as many leaves as trees reaches 2^28. Sums are exact.
3. Outputs: the margin of each target, and with LOGISTIC or SOFTMAX (or a Sigmoid after the ensemble) the probability.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avow.exact.compile.builder import Builder, multiplier
from avow.exact.compile.elementwise import evaluate
from avow.exact.compile.errors import CannotCompile, UnsupportedOperators
from avow.exact.compile.graph import attributes_of
from avow.exact.compile.runtime import Array
from avow.exact.program import Program, Source
from avow.exact.specification.trees import FIELDS, LEAF, MAX_DEPTH

ENSEMBLES = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
AFTER = frozenset({"Cast", "Identity", "Sigmoid", "ZipMap", "Reshape", "Flatten"})
FEATURE = (1 << 30) - 1
SUM = 1 << 28
MAX_NODES = 4_000_000
BLOCK = 4_096
PROBABILITY = 32_767
REACH = 12.0
"""Beyond ±this, a probability in 15 bits is 0 or 1."""


@dataclass(slots=True)
class Tree:
    """Nodes with children after their parents: feature or −1, threshold (float64), left, right; leaves' weights by target."""

    feature: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    weights: list[dict[int, float]]
    depth: int


def is_ensemble(model: Any) -> bool:
    """Whether a parsed model is a tree ensemble."""
    return any(node.domain == "ai.onnx.ml" and node.op_type in ENSEMBLES for node in model.graph.node)


def compile_trees(model: Any, name: str, steps: int) -> Program:
    """The exact program of an ensemble. Raises UnsupportedOperators, CannotCompile, BadProgram."""
    nodes = list(model.graph.node)
    ensembles = [node for node in nodes if node.op_type in ENSEMBLES]
    strangers = [
        f"{node.op_type} at node {index} ({node.name or node.output[0]}) beside a tree ensemble"
        for index, node in enumerate(nodes)
        if node.op_type not in ENSEMBLES | AFTER
    ]
    if strangers:
        raise UnsupportedOperators(strangers)
    inputs = [value for value in model.graph.input if value.name == ensembles[0].input[0]]
    if len(ensembles) != 1 or len(inputs) != 1:
        raise CannotCompile("one ensemble that reads the model's input is compiled")
    shape = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    if len(shape) != 2 or shape[1] <= 0:
        raise CannotCompile("the features are one row of a known length", input=inputs[0].name[:96])
    given = attributes_of(ensembles[0])
    squash = given.get("post_transform", "NONE")
    if any(node.op_type == "Sigmoid" for node in nodes) and squash == "NONE":
        squash = "LOGISTIC"
    if squash not in ("NONE", "LOGISTIC", "SOFTMAX") or given.get("aggregate_function", "SUM") not in (
        "SUM",
        "AVERAGE",
    ):
        raise CannotCompile("an ensemble with another aggregate or transform", transform=str(squash)[:32])
    try:
        ensemble = read_trees(given)
    except (KeyError, ValueError, TypeError) as error:
        raise CannotCompile("the ensemble's attributes are missing, or of different lengths") from error
    targets = max((target for tree in ensemble for row in tree.weights for target in row), default=0) + 1
    targets = max(targets, len(given.get("base_values", ())), int(given.get("n_targets", 1)))
    base = np.array(given.get("base_values") or [0.0] * targets, dtype=np.float64)
    if given.get("aggregate_function", "SUM") == "AVERAGE":
        for tree in ensemble:
            tree.weights = [{target: value / len(ensemble) for target, value in row.items()} for row in tree.weights]
    return _Assembly(ensemble, targets, base, shape[1]).program(name, inputs[0].name, str(squash), steps)


def read_trees(given: Mapping[str, Any]) -> list[Tree]:
    """The trees of an ensemble's attributes. Raises CannotCompile for what is no tree."""
    kind = "target" if "target_ids" in given else "class"
    ids = list(zip(given["nodes_treeids"], given["nodes_nodeids"], strict=True))
    if len(ids) > MAX_NODES or len(set(ids)) != len(ids):
        raise CannotCompile("too many nodes, or two with one number")
    rows = dict(
        zip(
            ids,
            zip(
                given["nodes_modes"],
                given["nodes_featureids"],
                given["nodes_values"],
                given["nodes_truenodeids"],
                given["nodes_falsenodeids"],
                strict=True,
            ),
            strict=True,
        )
    )
    weights: dict[tuple[int, int], dict[int, float]] = {}
    for tree, node, target, weight in zip(
        given[f"{kind}_treeids"], given[f"{kind}_nodeids"], given[f"{kind}_ids"], given[f"{kind}_weights"], strict=True
    ):
        found = weights.setdefault((tree, node), {})
        found[int(target)] = found.get(int(target), 0.0) + float(weight)
    roots: dict[int, int] = {}
    for tree, node in ids:
        roots.setdefault(tree, node)
    return [_read_tree(tree, root, rows, weights) for tree, root in roots.items()]


def _read_tree(
    tree: int, root: int, rows: Mapping[tuple[int, int], Any], weights: Mapping[tuple[int, int], dict[int, float]]
) -> Tree:
    found = Tree([], [], [], [], [], 0)
    order, depths, seen = [root], [0], {root}
    places = {root: 0}
    at = 0
    while at < len(order):
        mode, feature, value, yes, no = rows.get((tree, order[at]), (None,) * 5)
        mode = mode.decode() if isinstance(mode, bytes) else mode
        found.depth = max(found.depth, depths[at])
        if mode == "LEAF":
            found.feature.append(LEAF)
            found.threshold.append(0.0)
            found.left.append(0)
            found.right.append(0)
            found.weights.append(weights.get((tree, order[at]), {}))
            at += 1
            continue
        if mode not in ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE"):
            raise CannotCompile(
                "a tree's node is missing, or compares in another way", tree=int(tree), mode=str(mode)[:32]
            )
        if yes in seen or no in seen or yes == no or depths[at] >= MAX_DEPTH:
            raise CannotCompile("the nodes are no tree, or it is too deep", tree=int(tree))
        threshold = np.float32(value)
        if mode in ("BRANCH_LT", "BRANCH_GTE"):
            threshold = np.nextafter(threshold, np.float32(-np.inf))
        if mode in ("BRANCH_GT", "BRANCH_GTE"):
            yes, no = no, yes
        for child in (yes, no):
            places[child] = len(order)
            order.append(child)
            depths.append(depths[at] + 1)
            seen.add(child)
        found.feature.append(int(feature))
        found.threshold.append(float(threshold))
        found.left.append(places[yes])
        found.right.append(places[no])
        found.weights.append({})
        at += 1
    return found


class _Assembly:
    """An ensemble on its way into a program."""

    def __init__(self, trees: list[Tree], targets: int, base: Array, features: int) -> None:
        self.trees = trees
        self.base = base if len(base) == targets else np.zeros(targets)
        self.targets = targets
        self.features = features
        self.exponents = self._exponents()
        # As the bound counts it: every tree gives the largest leaf of all.
        leaf = max((abs(weight) for tree in trees for row in tree.weights for weight in row.values()), default=0.0)
        reach = leaf * len(trees) + float(np.abs(self.base).max())
        self.scale = 2.0 ** math.ceil(math.log2(max(reach, 1e-12) / SUM))

    def _exponents(self) -> list[int]:
        largest = np.zeros(self.features)
        for tree in self.trees:
            for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
                if feature >= self.features:
                    raise CannotCompile("a node asks for a feature that is not there", feature=feature)
                if feature >= 0:
                    largest[feature] = max(largest[feature], abs(threshold))
        return [min(60, math.floor(math.log2(FEATURE / each))) if each > 0 else 0 for each in largest]

    def program(self, name: str, input_name: str, squash: str, steps: int) -> Program:
        builder = Builder()
        features = builder.input("int32", (self.features,), -FEATURE - 1, FEATURE)
        notes = {
            "input.0.name": input_name,
            "input.0.scale": ",".join(repr(2.0**-each) for each in self.exponents),
            "input.0.shape": f"1,{self.features}",
            "input.0.type": "float32",
            "input.0.rounding": "floor",
        }
        margins = [self._margin(builder, features, target) for target in range(self.targets)]
        outputs = [margins[0] if len(margins) == 1 else _joined(builder, margins)]
        notes |= _output_note(0, "margin", self.scale, self.targets)
        if squash == "LOGISTIC":
            outputs.append(_logistic(builder, outputs[0], self.scale, self.targets))
            notes |= _output_note(1, "probability", 1.0 / PROBABILITY, self.targets)
        elif squash == "SOFTMAX":
            outputs.append(_softmax(builder, outputs[0], self.scale, self.targets))
            notes |= _output_note(1, "probability", 1.0 / PROBABILITY, self.targets)
        return builder.build(name=name, mode="once", context=steps, outputs=outputs, notes=notes)

    def _margin(self, builder: Builder, features: int, target: int) -> int:
        used = [tree for tree in self.trees if any(row.get(target) for row in tree.weights)] or self.trees[:1]
        width = max(len(tree.feature) for tree in used)
        nodes = np.zeros((len(used), width, FIELDS), dtype=np.int32)
        nodes[:, :, 0] = LEAF
        for at, tree in enumerate(used):
            nodes[at, : len(tree.feature)] = self._nodes(tree, target)
        leaves = nodes[:, :, 1][nodes[:, :, 0] == LEAF]
        low, high = int(leaves.min()), int(leaves.max())
        values = builder.operator(
            "trees",
            [builder.output(features), builder.constant(nodes)],
            (len(used),),
            low,
            high,
            {"depth": max(1, *(tree.depth for tree in used))},
            type="int32",
        )
        total = _total(builder, values, nodes)
        offset = round(float(self.base[target]) / self.scale)
        draft = builder.drafts[total]
        return builder.operator(
            "add",
            [builder.output(total), builder.constant(np.array([offset], dtype=np.int32))],
            (1,),
            draft.low + offset,
            draft.high + offset,
            {"ma": 1, "mb": 1, "s": 0},
            type="int32",
        )

    def _nodes(self, tree: Tree, target: int) -> Array:
        rows = []
        for feature, threshold, left, right, weights in zip(
            tree.feature, tree.threshold, tree.left, tree.right, tree.weights, strict=True
        ):
            if feature == LEAF:
                rows.append((LEAF, round(weights.get(target, 0.0) / self.scale), 0, 0))
            else:
                rows.append((feature, math.floor(math.ldexp(threshold, self.exponents[feature])), left, right))
        return np.array(rows, dtype=np.int32)


def _total(builder: Builder, values: int, nodes: Array) -> int:
    """The exact sum of one leaf per tree, in blocks."""
    leaf = nodes[:, :, 0] == LEAF
    lows = np.where(leaf, nodes[:, :, 1], np.iinfo(np.int32).max).min(1).astype(np.int64)
    highs = np.where(leaf, nodes[:, :, 1], np.iinfo(np.int32).min).max(1).astype(np.int64)
    extent = len(nodes)
    while extent > 1:
        last = extent <= BLOCK
        lows = np.add.reduceat(lows, range(0, extent, BLOCK))
        highs = np.add.reduceat(highs, range(0, extent, BLOCK))
        extent = -(-extent // BLOCK)
        values = builder.operator(
            "reduce", [builder.output(values)], (extent,), int(lows.min()), int(highs.max()),
            {"axis": 0, "block": BLOCK, "mode": 1, "rescale": 0}, type="int32",
        )  # fmt: skip
        if last:
            break
    return values


def _joined(builder: Builder, parts: Sequence[int]) -> int:
    sources = [builder.output(part) for part in parts]
    low, high = min(source.low for source in sources), max(source.high for source in sources)
    return builder.operator("concat", sources, (len(parts),), low, high, {"axis": 0}, type="int32")


def _logistic(builder: Builder, margin: int, scale: float, targets: int) -> int:
    step = REACH / PROBABILITY
    m, s = multiplier(scale / step)
    source: Source = builder.output(margin)
    short = builder.operator("rescale", [source], (targets,), -PROBABILITY, PROBABILITY, {"m": m, "s": s})
    points = np.arange(-PROBABILITY, PROBABILITY + 1) * step
    entries = np.rint(evaluate("Sigmoid", [points], {}) * PROBABILITY).astype(np.int16)
    return builder.operator(
        "table", [builder.output(short), builder.constant(entries)], (targets,), int(entries.min()), int(entries.max())
    )


def _softmax(builder: Builder, margin: int, scale: float, targets: int) -> int:
    step = REACH / 8_000
    m, s = multiplier(scale / step)
    short = builder.operator(
        "rescale", [builder.output(margin)], (targets,), -PROBABILITY, PROBABILITY, {"m": m, "s": s}
    )
    entries = np.rint(np.exp(-np.arange(8_001) * step) * PROBABILITY).astype(np.int16)
    sources = [builder.output(short), builder.constant(entries)]
    return builder.operator("softmax", sources, (targets,), 0, PROBABILITY, {"one": PROBABILITY})


def _output_note(index: int, name: str, scale: float, targets: int) -> dict[str, str]:
    key = f"output.{index}"
    return {
        f"{key}.name": name,
        f"{key}.scale": repr(scale),
        f"{key}.shape": f"1,{targets}",
        f"{key}.type": "float32",
        f"{key}.rounding": "nearest",
    }
