"""Small models, trained here: an MLP and a LeNet-like network on scikit-learn's digits, a risk scorer of boosted trees on its breast
cancer data. Written as ONNX to build/examples, with their data as .npz: `avow compile build/examples/digits-mlp.onnx --calibrate …`.

Seeds are fixed; the digits are 8 x 8 pixels of 0 … 16, scaled to 0 … 1. A third of the samples is kept for testing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OUT = Path(__file__).resolve().parent.parent / "build" / "examples"
SEED = 7


@dataclass(frozen=True, slots=True)
class Example:
    """A trained model: ONNX bytes, its input's name, and data by part: training (to calibrate with) and test."""

    name: str
    model: bytes
    input: str
    training: Any
    test: Any
    labels: Any


# --- Digits --------------------------------------------------------------------------------------------------------


def digits() -> tuple[Any, Any, Any, Any]:
    """Training and test pictures [n, 64], float32 0 … 1, and their labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    pictures = (data.data / 16).astype(np.float32)
    return tuple(train_test_split(pictures, data.target, test_size=1 / 3, random_state=SEED, stratify=data.target))  # type: ignore[return-value]


def mlp() -> Example:
    """64 → 48 → 32 → 10, ReLU, softmax."""
    from sklearn.neural_network import MLPClassifier

    x, tested, y, labels = digits()
    network = MLPClassifier((48, 32), max_iter=80, random_state=SEED, tol=0, n_iter_no_change=1000)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.fit(x, y)
    nodes, initializers = [], []
    name = "pixels"
    for layer, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        initializers += [_initializer(f"w{layer}", weight), _initializer(f"b{layer}", bias)]
        nodes.append(helper.make_node("Gemm", [name, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        last = layer == len(network.coefs_) - 1
        nodes.append(
            helper.make_node("Softmax" if last else "Relu", [f"z{layer}"], ["scores" if last else f"a{layer}"])
        )
        name = f"a{layer}"
    model = _model(nodes, initializers, ("pixels", [1, 64]), ("scores", [1, 10]))
    return Example("digits-mlp", model, "pixels", x, tested, labels)


class _Network:
    """Two convolutions of 3 x 3 with max pools, two dense layers; Adam on cross entropy, in NumPy."""

    def __init__(self) -> None:
        generator = np.random.Generator(np.random.PCG64(SEED))

        def start(*shape: int) -> Any:
            return (generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)

        self.weights = [start(9, 8), start(72, 16), start(64, 32), start(32, 10)]
        self.biases = [np.zeros(weight.shape[1], np.float32) for weight in self.weights]
        self._moments = [[np.zeros_like(each), np.zeros_like(each)] for each in (*self.weights, *self.biases)]
        self._count = 0

    def train(self, x: Any, y: Any, *, epochs: int = 12, batch: int = 32) -> None:
        generator = np.random.Generator(np.random.PCG64(SEED))
        for _ in range(epochs):
            order = generator.permutation(len(x))
            for first in range(0, len(x), batch):
                rows = order[first : first + batch]
                self._step(x[rows], y[rows])

    def _step(self, x: Any, y: Any) -> None:
        a0 = _patches(x.reshape(-1, 8, 8, 1))
        z0 = a0 @ self.weights[0] + self.biases[0]
        p0, m0 = _pool(np.maximum(z0, 0))
        a1 = _patches(p0)
        z1 = a1 @ self.weights[1] + self.biases[1]
        p1, m1 = _pool(np.maximum(z1, 0))
        # Channels first when flattened, as ONNX lays them.
        a2 = p1.transpose(0, 3, 1, 2).reshape(len(x), -1)
        z2 = a2 @ self.weights[2] + self.biases[2]
        a3 = np.maximum(z2, 0)
        scores = a3 @ self.weights[3] + self.biases[3]
        shares = np.exp(scores - scores.max(1, keepdims=True))
        d3 = shares / shares.sum(1, keepdims=True)
        d3[np.arange(len(y)), y] -= 1
        d3 /= len(y)
        d2 = (d3 @ self.weights[3].T) * (z2 > 0)
        back = (d2 @ self.weights[2].T).reshape(len(x), 16, 2, 2).transpose(0, 2, 3, 1)
        d1 = _unpool(back, m1) * (z1 > 0)
        d0 = _unpool(_fold(d1 @ self.weights[1].T, 8), m0) * (z0 > 0)
        flat = [each.reshape(-1, each.shape[-1]) for each in (a0, a1, a2, a3)]
        deltas = [each.reshape(-1, each.shape[-1]) for each in (d0, d1, d2, d3)]
        self._update([a.T @ d for a, d in zip(flat, deltas, strict=True)] + [d.sum(0) for d in deltas])

    def _update(self, gradients: Sequence[Any]) -> None:
        self._count += 1
        for value, gradient, moments in zip((*self.weights, *self.biases), gradients, self._moments, strict=True):
            moments[0] += 0.1 * (gradient - moments[0])
            moments[1] += 0.001 * (gradient**2 - moments[1])
            first, second = moments[0] / (1 - 0.9**self._count), moments[1] / (1 - 0.999**self._count)
            np.subtract(value, 0.002 * first / (np.sqrt(second) + 1e-8), out=value)


def _patches(x: Any) -> Any:
    """[n, h, w, 9·c]: the 3 x 3 neighbourhood of each place, zeros outside."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return np.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=3)


def _fold(patches: Any, channels: int) -> Any:
    """The transpose of `_patches`."""
    count, height, width, _ = patches.shape
    padded = np.zeros((count, height + 2, width + 2, channels), patches.dtype)
    for at in range(9):
        i, j = divmod(at, 3)
        padded[:, i : i + height, j : j + width] += patches[..., at * channels : (at + 1) * channels]
    return padded[:, 1:-1, 1:-1]


def _pool(x: Any) -> tuple[Any, Any]:
    """The largest of each 2 x 2, and where it was."""
    count, height, width, channels = x.shape
    windows = x.reshape(count, height // 2, 2, width // 2, 2, channels)
    largest = windows.max((2, 4))
    return largest, windows == largest[:, :, None, :, None]


def _unpool(gradient: Any, mask: Any) -> Any:
    spread = gradient[:, :, None, :, None] * mask
    count, height, _, width, _, channels = spread.shape
    return spread.reshape(count, height * 2, width * 2, channels)


def lenet() -> Example:
    """The network above as ONNX: pictures [1, 1, 8, 8]."""
    x, tested, y, labels = digits()
    network = _Network()
    network.train(x, y)
    kernels = [weight.reshape(3, 3, -1, weight.shape[1]).transpose(3, 2, 0, 1) for weight in network.weights[:2]]
    initializers = [_initializer(f"w{at}", value) for at, value in enumerate([*kernels, *network.weights[2:]])]
    initializers += [_initializer(f"b{at}", value) for at, value in enumerate(network.biases)]
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["picture", "w0", "b0"], ["z0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["z0"], ["r0"]),
        helper.make_node("MaxPool", ["r0"], ["p0"], **pool),
        helper.make_node("Conv", ["p0", "w1", "b1"], ["z1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["z1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], **pool),
        helper.make_node("Flatten", ["p1"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["z2"]),
        helper.make_node("Relu", ["z2"], ["r2"]),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["z3"]),
        helper.make_node("Softmax", ["z3"], ["scores"]),
    ]
    model = _model(nodes, initializers, ("picture", [1, 1, 8, 8]), ("scores", [1, 10]))
    return Example("digits-lenet", model, "picture", x.reshape(-1, 1, 8, 8), tested.reshape(-1, 1, 8, 8), labels)


# --- Risk ----------------------------------------------------------------------------------------------------------


def risk() -> Example:
    """Gradient-boosted trees: the probability that a tumour is benign, from 30 measurements."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.model_selection import train_test_split

    data = load_breast_cancer()
    x, tested, y, labels = train_test_split(
        data.data.astype(np.float32), data.target, test_size=1 / 3, random_state=SEED, stratify=data.target
    )
    forest = GradientBoostingClassifier(n_estimators=120, max_depth=3, random_state=SEED).fit(x, y)
    nodes: dict[str, list[Any]] = {name: [] for name in (
        "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids",
        "nodes_falsenodeids", "target_treeids", "target_nodeids", "target_ids", "target_weights",
    )}  # fmt: skip
    for number, row in enumerate(forest.estimators_):
        tree = row[0].tree_
        for node in range(tree.node_count):
            leaf = tree.children_left[node] < 0
            # scikit-learn compares float32 features with float64 thresholds: the float32 below decides the same.
            threshold = np.float32(tree.threshold[node])
            if not leaf and float(threshold) > tree.threshold[node]:
                threshold = np.nextafter(threshold, np.float32(-np.inf))
            for name, value in (
                ("treeids", number), ("nodeids", node), ("featureids", 0 if leaf else int(tree.feature[node])),
                ("values", 0.0 if leaf else float(threshold)), ("modes", "LEAF" if leaf else "BRANCH_LEQ"),
                ("truenodeids", 0 if leaf else int(tree.children_left[node])),
                ("falsenodeids", 0 if leaf else int(tree.children_right[node])),
            ):  # fmt: skip
                nodes[f"nodes_{name}"].append(value)
            if leaf:
                for name, value in (
                    ("treeids", number), ("nodeids", node), ("ids", 0),
                    ("weights", float(tree.value[node][0][0]) * forest.learning_rate),
                ):  # fmt: skip
                    nodes[f"target_{name}"].append(value)
    share = forest.init_.class_prior_[1]
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", ["measurements"], ["margin"], domain="ai.onnx.ml", n_targets=1,
        base_values=[float(np.log(share / (1 - share)))], **nodes,
    )  # fmt: skip
    model = _model(
        [ensemble, helper.make_node("Sigmoid", ["margin"], ["probability"])],
        [],
        ("measurements", [1, 30]),
        ("probability", [1, 1]),
    )
    return Example("risk", model, "measurements", x, tested, labels)


# --- ONNX ----------------------------------------------------------------------------------------------------------


def _initializer(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)


def _model(nodes: Any, initializers: Any, given: tuple[str, list[int]], result: tuple[str, list[int]]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "example",
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [helper.make_tensor_value_info(result[0], TensorProto.FLOAT, result[1])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


EXAMPLES = {"digits-mlp": mlp, "digits-lenet": lenet, "risk": risk}


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    for make in EXAMPLES.values():
        example = make()
        (OUT / f"{example.name}.onnx").write_bytes(example.model)
        np.savez(OUT / f"{example.name}-training.npz", **{example.input: example.training})
        np.savez(OUT / f"{example.name}-test.npz", **{example.input: example.test})
        print(f"{OUT / example.name}.onnx: {len(example.model)} bytes, {len(example.training)} training samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
