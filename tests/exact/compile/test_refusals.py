"""What is not compiled is named, with its place, before any work; what is no model is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import AvowError, TooLarge
from avow.exact.compile import onnx as compiler
from avow.exact.compile.data import read_data
from avow.exact.compile.errors import CannotCompile, UnsupportedOperators
from avow.exact.compile.onnx import Options, compile_onnx, flat_inputs
from avow.exact.compile.ranges import Range, Ranges
from avow.models.errors import UnsafeModel
from tests.exact.compile.floats import Net, normal


def compiled(model, samples=None, **options):
    return compile_onnx(model, Options(**options), sequences=[[each] for each in samples or normal(2, x=(1, 8))])


def test_every_unknown_operator_is_named_with_its_place():
    net = Net()
    x = net.input("x", 1, 8)
    y = net.add("Relu", net.add("Det", net.add("Reshape", net.add("CumSum", x, np.array(1)), np.array([1, 2, 4]))))
    with pytest.raises(UnsupportedOperators) as caught:
        compiled(net.model(y))
    assert len(caught.value.places) == 2
    assert "CumSum at node 0 (v0_0)" in caught.value.places[0]
    assert "Det at node 2 (v2_0)" in caught.value.places[1]


def test_operators_of_branches_are_named_too(monkeypatch):
    from onnx import TensorProto, helper

    inner = helper.make_graph(
        [helper.make_node("Hardmax", ["x"], ["inner"])], "then", [], [helper.make_tensor_value_info("inner", 1, None)]
    )
    net = Net()
    net.input("x", 1, 8)
    net.nodes.append(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    net.initializers.append(helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    monkeypatch.setattr(compiler, "flatten", lambda *_: pytest.fail("work began"))
    with pytest.raises(UnsupportedOperators, match=r"Hardmax at node 0 \(inner\) in node 0 \(y\), then_branch"):
        compiled(net.model("y"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda n, x: n.add("ReduceL2", x, axes=[1]), "ReduceL2 at node"),
        (lambda n, x: n.add("Cast", n.add("Cast", x, to=7), to=1), "Cast at node"),
    ],
)
def test_what_is_left_without_a_meaning_is_named_before_calibration(build, message):
    net = Net()
    y = build(net, net.input("x", 1, 8))

    def never():
        pytest.fail("calibration began")
        yield

    with pytest.raises(UnsupportedOperators, match=message):
        compile_onnx(net.model(y), Options(), sequences=never())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda n, x: n.add("MatMul", np.ones((3, 1), np.float32), x), "on the left"),
        (lambda n, x: n.add("Div", np.float32(1), n.add("Add", x, n.add("Neg", x))), "not finite"),
        (lambda n, x: n.add("Pad", x, np.array([0, 1, 0, 1]), mode="edge"), "padding by edge"),
        (lambda n, x: n.add("AveragePool", n.add("Reshape", x, np.array([1, 2, 4])), kernel_shape=[3], pads=[1, 1]), "overhang"),
        (lambda n, x: n.add("Identity", n.add("Shape", x)), "no output"),
        (lambda n, x: n.add("Conv", n.add("Reshape", x, np.array([1, 1, 2, 2, 2])), np.ones((1, 1, 1, 1, 1), np.float32)), "three dimensions"),
    ],
)  # fmt: skip
def test_forms_that_are_not_compiled(build, message):
    net = Net()
    y = build(net, net.input("x", 1, 8))
    with pytest.raises(CannotCompile, match=message):
        compiled(net.model(y))


def test_a_place_is_named_when_lowering_fails():
    net = Net()
    y = net.add("Pad", net.input("x", 1, 8), np.array([0, 1, 0, 1]), mode="edge")
    with pytest.raises(CannotCompile) as caught:
        compiled(net.model(y))
    assert caught.value.fields["place"] == "node 0 (v0_0)"


def test_open_shapes_have_to_be_given():
    from onnx import helper

    net = Net()
    net.input("x", 1, 8)
    y = net.add("Relu", "x")
    del net.inputs[:]
    net.inputs.append(helper.make_tensor_value_info("x", 1, ["batch", "width"]))
    with pytest.raises(CannotCompile, match="leaves the shape of an input open") as caught:
        compiled(net.model(y))
    assert caught.value.hint == "--shape x=…"
    assert compiled(net.model(y), shapes={"x": (1, 8)}).program.inputs[0].shape == (8,)


def test_a_branch_on_data_is_refused():
    from onnx import helper

    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["inner"])], "then", [], [helper.make_tensor_value_info("inner", 1, None)]
    )
    net = Net()
    x = net.input("x", 1, 8)
    condition = net.add("Greater", net.add("ReduceMax", x, axes=[0, 1], keepdims=0), np.float32(0))
    net.nodes.append(helper.make_node("If", [condition], ["y"], then_branch=inner, else_branch=inner))
    with pytest.raises(CannotCompile, match="a branch depends on data"):
        compiled(net.model("y"))


@pytest.mark.parametrize("options", [{"bits": 7}, {"bits": 17}, {"weight_bits": 20}, {"steps": 0}])
def test_options_have_bounds(options):
    net = Net()
    with pytest.raises(CannotCompile):
        compiled(net.model(net.add("Relu", net.input("x", 1, 8))), **options)


def test_operator_sets_beyond_those_known_are_refused():
    net = Net()
    with pytest.raises(CannotCompile, match="operator set"):
        compiled(net.model(net.add("Relu", net.input("x", 1, 8)), opset=6))


def test_what_is_no_model():
    for data in (b"", b"\x00", b"not a model", bytes(200)):
        with pytest.raises((UnsafeModel, CannotCompile)):
            compile_onnx(data, Options(), sequences=[])


_MODEL = (lambda net: net.model(net.add("Relu", net.add("Gemm", net.input("x", 1, 8), np.ones((8, 4), np.float32)))))(
    Net()
)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(_MODEL) - 1), byte=st.integers(0, 255), cut=st.integers(0, 40))
def test_broken_models_fail_with_typed_errors_only(at, byte, cut):
    broken = _MODEL[:at] + bytes([byte]) + _MODEL[at + 1 : len(_MODEL) - cut]
    try:
        compile_onnx(broken, Options(), sequences=[[each] for each in normal(1, x=(1, 8))])
        flat_inputs(broken, Options())
    except AvowError:
        pass


# --- Ranges and data -----------------------------------------------------------------------------------------------


def test_the_same_ranges_give_the_same_program():
    net = Net()
    model = net.model(net.add("Tanh", net.add("Gemm", net.input("x", 1, 8), np.eye(8, dtype=np.float32))))
    first = compiled(model, bits=12)
    again = compile_onnx(model, Options(bits=12), ranges=Ranges.from_json(first.ranges.to_json()))
    assert first.program.root == again.program.root


def test_ranges_have_to_name_every_value():
    net = Net()
    model = net.model(net.add("Tanh", net.input("x", 1, 8)))
    with pytest.raises(CannotCompile, match="the ranges do not have a value"):
        compile_onnx(model, Options(), ranges=Ranges({"x": Range(-1, 1, 1)}))


@given(
    st.text(max_size=200)
    | st.sampled_from(['{"a": [1, 2]}', '{"a": [2, 1, 1]}', '{"a": [NaN, 1, 1]}', "[" * 50_000, '{"a": ["x", 1, 1]}'])
)
@settings(max_examples=100)
def test_ranges_that_are_none(text):
    try:
        Ranges.from_json(text)
    except CannotCompile:
        pass


def test_data_files(tmp_path):
    np.savez(tmp_path / "good.npz", x=np.ones((3, 8)), y=np.ones((3, 2)))
    np.savez(tmp_path / "uneven.npz", x=np.ones((3, 8)), y=np.ones((2, 2)))
    np.save(tmp_path / "one.npy", np.ones((5, 8)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npz").write_text("no archive")
    assert len(read_data(tmp_path / "good.npz", ["x", "y"])) == 3
    assert len(read_data(tmp_path / "one.npy", ["x"])) == 5
    for name, inputs in (("uneven.npz", ["x", "y"]), ("good.npz", ["z"]), ("objects.npy", ["x"]), ("text.npz", ["x"])):
        with pytest.raises((CannotCompile, TooLarge)):
            read_data(tmp_path / name, inputs)


def test_there_has_to_be_something_to_calibrate_with():
    net = Net()
    model = net.model(net.add("Relu", net.input("x", 1, 8)))
    with pytest.raises(CannotCompile, match="nothing to calibrate with"):
        compile_onnx(model, Options())
    with pytest.raises(CannotCompile, match="nothing to calibrate with"):
        compile_onnx(model, Options(), sequences=[])
    with pytest.raises(CannotCompile, match="lacks an input"):
        compile_onnx(model, Options(), sequences=[[{"z": np.ones(8)}]])
