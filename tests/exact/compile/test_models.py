"""Whole small models: trained ones, ensembles of trees, models with states."""

import numpy as np
import onnxruntime as ort
import pytest

from avow.exact.compile.errors import CannotCompile, UnsupportedOperators
from avow.exact.compile.onnx import Options, compile_onnx
from avow.exact.compile.report import compare, worst_openings
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.ports import ports
from avow.exact.specification.openings import MAX_OPENING_BYTES
from tests.exact.compile.floats import Net, generator, normal

TREE = {
    "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1], "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
    "nodes_featureids": [0, 0, 1, 0, 0, 2, 0, 0], "nodes_values": [0.5, 0.0, -1.25, 0.0, 0.0, 100.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LT", "LEAF", "LEAF", "BRANCH_GT", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 3, 0, 0, 1, 0, 0], "nodes_falsenodeids": [2, 0, 4, 0, 0, 2, 0, 0],
    "target_treeids": [0, 0, 0, 1, 1], "target_nodeids": [1, 3, 4, 1, 2], "target_ids": [0, 0, 0, 0, 0],
    "target_weights": [-1.5, 0.25, 2.0, 0.5, -0.75], "n_targets": 1, "base_values": [0.125],
}  # fmt: skip


def ensemble(changes=None, sigmoid=True):
    net = Net()
    y = net.add("TreeEnsembleRegressor", net.input("x", 1, 3), domain="ai.onnx.ml", **{**TREE, **(changes or {})})
    return net.model(net.add("Sigmoid", y) if sigmoid else y)


def test_trees_decide_as_floats_do():
    model = ensemble(sigmoid=False)
    program = compile_onnx(model, Options()).program
    source = generator(1)
    x = np.concatenate([
        source.normal(size=(200, 3)) * [1, 2, 150],
        [[0.5, -1.25, 100.0], [np.nextafter(np.float32(0.5), 1), np.nextafter(np.float32(-1.25), 0), 100.0001], [0, 0, 1e30]],
    ]).astype(np.float32)  # fmt: skip
    inputs, outputs = ports(program)
    (found,) = Machine(program, kernels="numpy").run([inputs[0].to_integers(x)])
    session = ort.InferenceSession(model)
    real = np.stack([session.run(None, {"x": row[None]})[0][0] for row in x])
    assert np.abs(outputs[0].to_floats(found) - real).max() < 1e-6


def test_a_sigmoid_after_trees_is_a_table():
    program = compile_onnx(ensemble(), Options()).program
    assert [operator.kind for operator in program.operators] == ["input", "trees", "reduce", "add", "rescale", "table"]
    assert [program.notes[f"output.{at}.name"] for at in range(2)] == ["margin", "probability"]


def test_a_classifier_of_three_classes():
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_iris(return_X_y=True)
    x = x.astype(np.float32)
    forest = RandomForestClassifier(5, max_depth=4, random_state=0).fit(x, y)
    attributes = {name: [] for name in (*(key for key in TREE if key.startswith("nodes_")), "class_treeids", "class_nodeids", "class_ids", "class_weights")}  # fmt: skip
    for number, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        for node in range(tree.node_count):
            leaf = tree.children_left[node] < 0
            row = (number, node, max(0, int(tree.feature[node])), float(tree.threshold[node]), "LEAF" if leaf else "BRANCH_LEQ",
                   max(0, int(tree.children_left[node])), max(0, int(tree.children_right[node])))  # fmt: skip
            for name, value in zip([key for key in TREE if key.startswith("nodes_")], row, strict=True):
                attributes[name].append(value)
            for label in range(3) if leaf else ():
                for name, value in (
                    ("treeids", number),
                    ("nodeids", node),
                    ("ids", label),
                    ("weights", float(tree.value[node][0][label]) / 5),
                ):
                    attributes[f"class_{name}"].append(value)
    net = Net()
    label, scores = net.add(
        "TreeEnsembleClassifier",
        net.input("x", 1, 4),
        outputs=2,
        domain="ai.onnx.ml",
        classlabels_int64s=[0, 1, 2],
        **attributes,
    )
    model = net.model(label, scores, kinds=("int64", "float32"))
    program = compile_onnx(model, Options()).program
    inputs, outputs = ports(program)
    (found,) = Machine(program, kernels="numpy").run([inputs[0].to_integers(x)])
    shares = outputs[0].to_floats(found)
    session = ort.InferenceSession(model)
    real = [session.run(None, {"x": row[None]}) for row in x]
    assert np.abs(shares - np.concatenate([row[1] for row in real])).max() < 1e-5
    assert (shares.argmax(1) == np.concatenate([row[0] for row in real])).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes_truenodeids": [1, 0, 0, 0, 0, 1, 0, 0]},
        {"nodes_truenodeids": [9, 0, 3, 0, 0, 1, 0, 0]},
        {"nodes_featureids": [7, 0, 1, 0, 0, 2, 0, 0]},
        {"nodes_modes": ["BRANCH_EQ", *TREE["nodes_modes"][1:]]},
        {"nodes_nodeids": [0, 1, 2, 3, 3, 0, 1, 2]},
        {"post_transform": "PROBIT"},
        {"aggregate_function": "MIN"},
    ],
)
def test_what_is_no_tree(changes):
    with pytest.raises(CannotCompile):
        compile_onnx(ensemble(changes), Options())


def test_operators_beside_trees_are_named():
    net = Net()
    y = net.add("TreeEnsembleRegressor", net.add("Relu", net.input("x", 1, 3)), domain="ai.onnx.ml", **TREE)
    with pytest.raises(UnsupportedOperators, match=r"Relu at node 0"):
        compile_onnx(net.model(y), Options())


# --- States --------------------------------------------------------------------------------------------------------


def counter():
    """A step that adds its input to half of what was there, and gives the tanh."""
    net = Net()
    x, state = net.input("x", 1, 6), net.input("state", 1, 6)
    after = net.add("Add", net.add("Mul", state, np.float32(0.5)), x)
    return net.model(net.add("Tanh", after), after)


def test_states_pass_from_step_to_step():
    model = counter()
    steps = normal(40, x=(1, 6))
    names = {"states": {"state": "v1_0"}, "bits": 12}
    compiled = compile_onnx(model, Options(**names), sequences=[steps])
    assert compiled.program.mode == "sequence"
    report = compare(compiled, [steps])
    assert report.outputs[0].to_json()["relative_error"] < 0.01
    assert report.samples == 40


def test_a_state_is_an_input_and_an_output():
    for states in ({"x": "nowhere"}, {"nothing": "v1_0"}):
        with pytest.raises(CannotCompile, match="a state is an input and an output"):
            compile_onnx(counter(), Options(states=states), sequences=[])


def test_an_lstm_whose_states_are_one_tensor():
    """As exporters write it: hidden and cell state stacked in one input, taken apart, and put together again."""
    net = Net()
    x, state = net.input("x", 1, 1, 5), net.input("state", 2, 1, 6)
    source = generator(1)
    arrays = [source.normal(size=shape).astype(np.float32) * 0.4 for shape in ((1, 24, 5), (1, 24, 6), (1, 48))]
    h, c = (net.add("Unsqueeze", net.add("Gather", state, np.array(at)), np.array([0])) for at in range(2))
    outputs = net.add("LSTM", x, *arrays, "", h, c, outputs=3, hidden_size=6)
    y = net.add("Squeeze", outputs[1], np.array([0]))
    after = net.add("Concat", outputs[1], outputs[2], axis=0)
    compiled = compile_onnx(
        net.model(y, after),
        Options(states={"state": after}, bits=12, weight_bits=12),
        sequences=[normal(60, x=(1, 1, 5))],
    )
    assert compare(compiled, [normal(60, x=(1, 1, 5))]).outputs[0].to_json()["relative_error"] < 0.02
    assert not [operator for operator in compiled.program.operators if operator.kind == "rescale"], (
        "states keep their scales"
    )


# --- Trained -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_by_a_convolutional_network():
    from tools.train_examples import lenet

    example = lenet()
    sequences = [[{example.input: row}] for row in example.training[:200]]
    compiled = compile_onnx(example.model, Options(bits=8), sequences=sequences)
    inputs, outputs = ports(compiled.program)
    (found,) = Machine(compiled.program).run([inputs[0].to_integers(example.test[: compiled.program.context])])
    session = ort.InferenceSession(example.model)
    real = np.concatenate([session.run(None, {example.input: row[None]})[0] for row in example.test])
    right = [
        (scores.argmax(1) == example.labels).mean() for scores in (outputs[0].to_floats(found).reshape(-1, 10), real)
    ]
    assert right[1] > 0.95
    assert right[0] >= right[1] - 0.01


@pytest.mark.slow
def test_risk_by_boosted_trees():
    from tools.train_examples import risk

    example = risk()
    program = compile_onnx(example.model, Options()).program
    inputs, outputs = ports(program)
    found = Machine(program, kernels="numpy").run([inputs[0].to_integers(example.test)])
    session = ort.InferenceSession(example.model)
    real = np.concatenate([session.run(None, {example.input: row[None]})[0] for row in example.test])
    exact = outputs[1].to_floats(found[1])
    assert ((exact >= 0.5) == (real >= 0.5)).all()
    assert np.abs(exact - real).max() < 1e-3


def test_the_report_names_what_a_proof_costs():
    net = Net()
    model = net.model(net.add("Relu", net.add("Gemm", net.input("x", 1, 8), np.eye(8, dtype=np.float32))))
    samples = [[each] for each in normal(5, x=(1, 8))]
    found = compare(compile_onnx(model, Options(), sequences=samples), samples).to_json()
    assert found["operators"] == 2
    assert found["kinds"] == {"input": 1, "linear": 1}
    assert 0 < found["openings"]["linear"] <= MAX_OPENING_BYTES
    assert found["outputs"][0]["same_largest"] >= 0.8
    assert worst_openings(compile_onnx(model, Options(), sequences=samples).program) == found["openings"]
