"""Every operator that compiles, alone: integers against ONNX Runtime, within a stated relative error."""

import numpy as np
import pytest

from tests.exact.compile.floats import Net, check, generator, normal

CLOSE = 0.01
"""Relative root mean square error at 12 bits."""


def weights(*shape, seed=1):
    return (generator(seed).normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)


UNARY = [
    ("Abs", {}), ("Ceil", {}), ("Celu", {"alpha": 1.5}), ("Cos", {}), ("Elu", {}), ("Erf", {}), ("Exp", {}), ("Floor", {}),
    ("HardSigmoid", {}), ("HardSwish", {}), ("LeakyRelu", {"alpha": 0.2}), ("Neg", {}), ("Relu", {}), ("Round", {}),
    ("Selu", {}), ("Sigmoid", {}), ("Sign", {}), ("Sin", {}), ("Softplus", {}), ("Softsign", {}), ("Tanh", {}),
    ("ThresholdedRelu", {"alpha": 0.5}), ("Mish", {}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "attributes"), UNARY, ids=[name for name, _ in UNARY])
def test_functions_of_one_number_are_tables(operator, attributes):
    net = Net()
    y = net.add(operator, net.input("x", 1, 40), **attributes)
    found = check(net.model(y, opset=18), normal(20, x=(1, 40)))
    # Steps (Ceil, Sign, …) are off by one where the input rounds over the edge.
    assert found.errors[0] < (0.1 if operator in ("Ceil", "Floor", "Round", "Sign", "ThresholdedRelu") else CLOSE)
    assert found.kinds <= {"input", "table", "clip"}


@pytest.mark.parametrize(
    ("operator", "constants"),
    [("Sqrt", ()), ("Log", ()), ("Reciprocal", ()), ("Pow", (np.float32(1.5),)), ("Max", (np.float32(1.0),)), ("Min", (np.float32(1),)),
     ("Clip", (np.float32(0.8), np.float32(1.5))), ("Add", (np.float32(3),)), ("Div", (np.float32(3),))],
)  # fmt: skip
def test_functions_of_positive_numbers(operator, constants):
    net = Net()
    y = net.add(operator, net.input("x", 1, 40), *constants)
    samples = [{"x": np.abs(row["x"]) + 0.5} for row in normal(20, x=(1, 40))]
    assert check(net.model(y), samples).errors[0] < CLOSE


def test_gelu_written_with_erf_is_one_table():
    net = Net()
    x = net.add("Gemm", net.input("x", 1, 16), weights(16, 24), weights(24))
    inner = net.add("Erf", net.add("Div", x, np.float32(np.sqrt(2))))
    y = net.add("Mul", net.add("Mul", x, net.add("Add", inner, np.float32(1))), np.float32(0.5))
    found = check(net.model(y), normal(20, x=(1, 16)))
    assert found.errors[0] < CLOSE
    assert [operator.kind for operator in found.compiled.program.operators] == ["input", "linear", "table"]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_gemm_and_relu_are_one_operator(bits):
    net = Net()
    y = net.add(
        "Relu", net.add("Gemm", net.input("x", 1, 32), weights(20, 32), weights(20), transB=1, alpha=0.5, beta=2.0)
    )
    found = check(net.model(y), normal(30, x=(1, 32)), bits=bits)
    assert found.errors[0] < {8: 0.03, 12: CLOSE, 16: 0.003}[bits]
    assert [operator.kind for operator in found.compiled.program.operators] == ["input", "linear"]


CONVOLUTIONS = [
    ((1, 4, 9, 11), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 4, 9, 11), (6, 4, 3, 3), {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    ((1, 4, 9, 11), (8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    ((1, 6, 9, 11), (6, 2, 3, 2), {"group": 3}),
    ((1, 3, 12, 12), (5, 3, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((1, 3, 10, 10), (5, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 3, 30), (5, 3, 7), {"strides": [3], "pads": [2, 4]}),
    ((1, 8, 20, 1), (5, 8, 5, 1), {}),
]


@pytest.mark.parametrize(("shape", "kernel", "attributes"), CONVOLUTIONS)
def test_convolutions(shape, kernel, attributes):
    net = Net()
    y = net.add("Conv", net.input("x", *shape), weights(*kernel), weights(kernel[0]), **attributes)
    assert check(net.model(y), normal(6, x=shape)).errors[0] < CLOSE


def test_batch_normalisation_goes_into_the_weights():
    net = Net()
    x = net.add("Conv", net.input("x", 1, 3, 8, 8), weights(6, 3, 3, 3))
    source = generator(3)
    parameters = [source.uniform(0.5, 2, 6).astype(np.float32) for _ in range(4)]
    y = net.add("Clip", net.add("BatchNormalization", x, *parameters), np.float32(0), np.float32(6))
    found = check(net.model(y), normal(8, x=(1, 3, 8, 8)))
    assert found.errors[0] < CLOSE
    assert found.kinds == {"input", "transpose", "conv"}


def test_batch_normalisation_alone():
    net = Net()
    source = generator(3)
    parameters = [source.uniform(0.5, 2, 5).astype(np.float32) for _ in range(4)]
    y = net.add("BatchNormalization", net.input("x", 1, 5, 4, 6), *parameters)
    assert check(net.model(y), normal(8, x=(1, 5, 4, 6))).errors[0] < CLOSE


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Max", "Min"])
@pytest.mark.parametrize("second", [(1, 4, 5, 6), (1, 4, 1, 1), (6,), (1, 1, 5, 1)])
def test_two_values(operator, second):
    net = Net()
    y = net.add(operator, net.input("x", 1, 4, 5, 6), net.input("y", *second))
    assert check(net.model(y), normal(8, x=(1, 4, 5, 6), y=second)).errors[0] < CLOSE


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
def test_a_value_and_constants_per_channel(operator):
    net = Net()
    constant = generator(4).uniform(0.5, 2, (4, 1, 1)).astype(np.float32)
    y = net.add(operator, net.input("x", 1, 4, 5, 6), constant)
    assert check(net.model(y), normal(8, x=(1, 4, 5, 6))).errors[0] < CLOSE


def test_quotients_of_positive_numbers():
    net = Net()
    y = net.add("Div", net.input("x", 1, 30), net.input("y", 1, 30))
    samples = [{"x": row["x"], "y": np.abs(row["y"]) + 1} for row in normal(10, x=(1, 30), y=(1, 30))]
    assert check(net.model(y), samples).errors[0] < 0.02


def test_magnitudes():
    net = Net()
    squares = [net.add("Pow", net.input(name, 1, 30), np.float32(2)) for name in "xy"]
    found = check(net.model(net.add("Sqrt", net.add("Add", *squares))), normal(10, x=(1, 30), y=(1, 30)))
    assert found.errors[0] < CLOSE
    assert "isqrt" in found.kinds


POOLS = [
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [3, 2], "strides": [1, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
]


@pytest.mark.parametrize(("operator", "attributes"), POOLS)
def test_pools(operator, attributes):
    net = Net()
    y = net.add(operator, net.input("x", 1, 5, 10, 8), **attributes)
    assert check(net.model(y), normal(6, x=(1, 5, 10, 8))).errors[0] < CLOSE


def test_large_reductions_are_trees_of_small_ones():
    net = Net()
    y = net.add("ReduceMean", net.input("x", 1, 1800, 64), axes=[1])
    found = check(net.model(y), [{"x": row["x"] + 1} for row in normal(2, x=(1, 1800, 64))])
    assert found.errors[0] < CLOSE
    assert [operator.kind for operator in found.compiled.program.operators].count("reduce") > 1


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("axes", [[1], [2], [1, 2], [-1], [1, 2, 3]])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(operator, axes, keep):
    net = Net()
    y = net.add(operator, net.input("x", 1, 6, 5, 7), axes=axes, keepdims=keep)
    z = net.add("Relu", y)
    samples = [{"x": row["x"] + 0.5} for row in normal(8, x=(1, 6, 5, 7))]
    assert check(net.model(z), samples).errors[0] < 0.02


def test_sums():
    net = Net()
    y = net.add("ReduceSum", net.input("x", 1, 6, 30), np.array([2]), keepdims=0)
    assert check(net.model(y), normal(8, x=(1, 6, 30))).errors[0] < CLOSE


@pytest.mark.parametrize(("shape", "axis"), [((1, 40), 1), ((1, 5, 12), 1), ((1, 5, 12), -1)])
def test_softmax(shape, axis):
    net = Net()
    y = net.add("Softmax", net.input("x", *shape), axis=axis)
    samples = [{"x": row["x"] * 4} for row in normal(10, x=shape)]
    assert check(net.model(y), samples).errors[0] < CLOSE


def test_softmax_written_out():
    net = Net()
    x = net.input("x", 1, 20)
    shifted = net.add("Exp", net.add("Sub", x, net.add("ReduceMax", x, axes=[1])))
    y = net.add("Div", shifted, net.add("ReduceSum", shifted, np.array([1])))
    found = check(net.model(y), normal(10, x=(1, 20)))
    assert found.errors[0] < CLOSE
    assert found.kinds <= {"input", "rescale", "softmax"}


@pytest.mark.parametrize("axis", [1, 2])
def test_layer_normalisation_written_out(axis):
    net = Net()
    x = net.input("x", 1, 10, 24)
    centred = net.add("Sub", x, net.add("ReduceMean", x, axes=[axis]))
    variance = net.add("ReduceMean", net.add("Pow", centred, np.float32(2)), axes=[axis])
    normal_rows = net.add("Div", centred, net.add("Sqrt", net.add("Add", variance, np.float32(1e-5))))
    extent = (10, 24)[axis - 1]
    shape = (extent, 1) if axis == 1 else (extent,)
    source = generator(2)
    gamma, beta = (source.uniform(0.5, 2, shape).astype(np.float32) for _ in range(2))
    y = net.add("Add", net.add("Mul", normal_rows, gamma), beta)
    found = check(net.model(y), [{"x": row["x"] * 3 + 1} for row in normal(8, x=(1, 10, 24))])
    assert found.errors[0] < CLOSE
    assert "norm" in found.kinds
    assert not found.kinds & {"reduce", "table", "mul"}


def test_layer_normalisation():
    net = Net()
    y = net.add("LayerNormalization", net.input("x", 1, 6, 24), weights(24), weights(24), axis=-1)
    assert check(net.model(y), normal(8, x=(1, 6, 24))).errors[0] < CLOSE


def test_root_mean_square_normalisation_written_out():
    net = Net()
    x = net.input("x", 1, 6, 24)
    power = net.add("ReduceMean", net.add("Mul", x, x), axes=[2])
    root = net.add("Sqrt", net.add("Add", power, np.float32(1e-6)))
    gamma = generator(2).uniform(0.5, 2, 24).astype(np.float32)
    y = net.add("Mul", net.add("Div", x, root), gamma)
    found = check(net.model(y), normal(8, x=(1, 6, 24)))
    assert found.errors[0] < CLOSE
    assert "norm" in found.kinds


def test_attention():
    net = Net()
    x = net.input("x", 1, 12, 16)
    parts = []
    for seed in range(3):
        y = net.add("MatMul", x, weights(16, 16, seed=seed))
        parts.append(net.add("Transpose", net.add("Reshape", y, np.array([1, 12, 2, 8])), perm=[0, 2, 1, 3]))
    scores = net.add(
        "Div", net.add("MatMul", parts[0], net.add("Transpose", parts[1], perm=[0, 1, 3, 2])), np.float32(8**0.5)
    )
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), parts[2])
    y = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), np.array([1, 12, 16]))
    found = check(net.model(net.add("Add", x, y)), normal(8, x=(1, 12, 16)))
    assert found.errors[0] < CLOSE
    assert {"matmul", "softmax"} <= found.kinds


def test_what_moves_values():
    net = Net()
    x = net.add("Relu", net.input("x", 1, 4, 6, 5))
    turned = net.add("Transpose", x, perm=[0, 2, 3, 1])
    cut = net.add("Slice", turned, np.array([4, 0]), np.array([-100, 3]), np.array([1, 2]), np.array([-2, 1]))
    flat = net.add("Flatten", cut, axis=2)
    first, second = net.add("Split", x, np.array([1, 3]), outputs=2, axis=1)
    joined = net.add("Concat", second, first, axis=1)
    padded = net.add("Pad", joined, np.array([0, 0, 1, 0, 0, 0, 2, 1]))
    picked = net.add("Gather", padded, np.array([3, 0, 1]), axis=2)
    one = net.add("Gather", padded, np.array(1), axis=1)
    wide = net.add("Expand", net.add("ReduceMax", x, axes=[1], keepdims=1), np.array([1, 4, 6, 5]))
    net.add("Concat", wide, wide, axis=0)
    names = [flat, joined, picked, one, wide]
    found = check(net.model(*names), normal(5, x=(1, 4, 6, 5)))
    assert max(found.errors) < CLOSE


def test_mirrored_padding():
    net = Net()
    y = net.add("Pad", net.input("x", 1, 12), np.array([0, 2, 0, 3]), mode="reflect")
    assert check(net.model(y), normal(5, x=(1, 12))).errors[0] < CLOSE


@pytest.mark.parametrize("after", ["Gather", "OneHot", "Equal"])
def test_embeddings(after):
    net = Net()
    table = weights(20, 8)
    ids = net.input("ids", 1, 7, kind="int64")
    if after == "Gather":
        y = net.add("Gather", table, ids)
    elif after == "OneHot":
        y = net.add("MatMul", net.add("OneHot", ids, np.array(20), np.array([0, 1], np.float32)), table)
    else:
        wide = net.add("Unsqueeze", ids, np.array([2]))
        hot = net.add("Cast", net.add("Equal", wide, np.arange(20).reshape(1, 1, 20)), to=1)
        y = net.add("MatMul", hot, table)
    y = net.add("Tanh", y)
    source = generator(1)
    samples = [{"ids": source.integers(0, 20, (1, 7))} for _ in range(10)]
    found = check(net.model(y), samples, integers={"ids": (0, 19)})
    assert found.errors[0] < CLOSE
    assert found.kinds == {"input", "gather"}, "the function went into the table"


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_recurrent_layers(operator, direction):
    net = Net()
    gates, hidden, width = (4 if operator == "LSTM" else 3), 6, 5
    both = 2 if direction == "bidirectional" else 1
    x = net.input("x", 7, 1, width)
    source = generator(1)
    arrays = [
        source.normal(size=(both, *shape)).astype(np.float32) * 0.4
        for shape in ((gates * hidden, width), (gates * hidden, hidden), (2 * gates * hidden,))
    ]
    given = {"linear_before_reset": 1} if operator == "GRU" else {}
    outputs = net.add(operator, x, *arrays, outputs=2, hidden_size=hidden, direction=direction, **given)
    found = check(net.model(*outputs), normal(6, x=(7, 1, width)), weight_bits=12)
    assert max(found.errors) < 0.02


def test_a_gru_that_resets_before():
    net = Net()
    source = generator(1)
    arrays = [source.normal(size=shape).astype(np.float32) * 0.4 for shape in ((1, 18, 5), (1, 18, 6), (1, 36))]
    outputs = net.add("GRU", net.input("x", 4, 1, 5), *arrays, outputs=2, hidden_size=6)
    assert max(check(net.model(*outputs), normal(6, x=(4, 1, 5))).errors) < 0.02


def test_both_kernels_give_the_same_bits():
    from avow.exact.kernels.machine import Machine
    from avow.exact.kernels.ports import ports

    net = Net()
    x = net.add("Relu", net.add("Conv", net.input("x", 1, 3, 12, 12), weights(8, 3, 3, 3), weights(8)))
    y = net.add("Softmax", net.add("Gemm", net.add("Flatten", net.add("GlobalAveragePool", x)), weights(8, 5)))
    samples = normal(10, x=(1, 3, 12, 12))
    compiled = check(net.model(y), samples).compiled
    inputs, _ = ports(compiled.program)
    arrays = [inputs[0].to_integers(np.concatenate([sample["x"] for sample in samples]))]
    a, b = (Machine(compiled.program, kernels=kernels).run(arrays)[0] for kernels in ("numba", "numpy"))
    assert np.array_equal(a, b)
