"""Hostile ONNX models are refused before an engine sees them; sound ones, made by the onnx package, pass."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from avow.models.errors import UnsafeModel
from avow.models.onnx import MAX_DEPTH, check_onnx


def model(nodes=None, initializers=None, **changes):
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])]
    initializers = initializers or [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        initializers,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **changes)
    made.ir_version = 9
    return made


def external(location="weights.bin", offset="0", length="16", **more):
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length, **more}.items():
        if value is not None:
            weight.external_data.add(key=key, value=value)
    return weight


def data_of(made):
    return made.SerializeToString()


def test_a_sound_model_passes():
    found = check_onnx(data_of(model()), {})
    assert (found.nodes, found.initializers, found.external) == (1, 1, [])
    assert found.operators == {("", "MatMul")}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3).astype(kind)
        for kind in (
            "float32",
            "float64",
            "float16",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint64",
            "bool",
        )
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_data_of_every_type_passes(array, raw):
    tensor = (
        numpy_helper.from_array(array, "c")
        if raw
        else helper.make_tensor(
            "c", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.reshape(-1).tolist()
        )
    )
    assert check_onnx(data_of(model([helper.make_node("Identity", ["x"], ["y"])], [tensor])), {}).initializers == 1


def test_texts_subgraphs_functions_and_sparse_tensors_pass():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    words = helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"])
    own = helper.make_function(
        "mine", "f", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    made = model([choice, helper.make_node("f", ["x"], ["q"], domain="mine")], [words], functions=[own])
    values = numpy_helper.from_array(np.array([1.0], dtype=np.float32), "v")
    indices = numpy_helper.from_array(np.array([3], dtype=np.int64), "i")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))
    found = check_onnx(data_of(made), {})
    assert found.nodes == 5
    assert found.functions == {"mine"}


def test_external_data_of_a_sibling_passes():
    found = check_onnx(data_of(model(initializers=[external(offset="4")])), {"weights.bin": 20})
    (tensor,) = found.external
    assert (tensor.name, tensor.location, tensor.offset, tensor.length) == ("w", "weights.bin", 4, 16)


@pytest.mark.parametrize(
    "weight",
    [
        external("../weights.bin"),
        external("/etc/passwd"),
        external("other.bin"),
        external(None),
        external(offset="5"),
        external(offset="-1"),
        external(offset="0x4"),
        external(offset="9" * 30),
        external(length="15"),
        external(basepath="/etc"),
    ],
)
def test_external_data_elsewhere_is_refused(weight):
    with pytest.raises(UnsafeModel):
        check_onnx(data_of(model(initializers=[weight])), {"weights.bin": 20})


def test_external_data_in_an_attribute_is_refused():
    constant = helper.make_node("Constant", [], ["w"], value=external())
    with pytest.raises(UnsafeModel):
        check_onnx(data_of(model([constant])), {"weights.bin": 20})


def changed_tensor(**changes):
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    for name, value in changes.items():
        if name == "dims":
            del weight.dims[:]
            weight.dims.extend(value)
        else:
            setattr(weight, name, value)
    return weight


@pytest.mark.parametrize(
    "weight",
    [
        changed_tensor(dims=[2, 3]),
        changed_tensor(dims=[-2, 2]),
        changed_tensor(dims=[1 << 40, 1 << 40]),
        changed_tensor(dims=[1] * 40 + [2, 2]),
        changed_tensor(raw_data=b"x"),
        changed_tensor(data_type=TensorProto.UNDEFINED),
        changed_tensor(data_type=99),
        changed_tensor(data_type=TensorProto.STRING),
        changed_tensor(data_location=TensorProto.EXTERNAL),
    ],
)
def test_tensors_that_are_not_what_they_say_are_refused(weight):
    with pytest.raises(UnsafeModel):
        check_onnx(data_of(model(initializers=[weight])), {})


def test_segments_are_refused():
    weight = changed_tensor()
    weight.segment.begin = 0
    with pytest.raises(UnsafeModel):
        check_onnx(data_of(model(initializers=[weight])), {})


def test_operators_of_unknown_domains_are_refused():
    with pytest.raises(UnsafeModel, match="domain"):
        check_onnx(data_of(model([helper.make_node("Run", ["x"], ["y"], domain="com.attacker")])), {})


def test_deep_nesting_is_refused():
    graph = helper.make_graph([], "g", [], [])
    for _ in range(MAX_DEPTH):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    with pytest.raises(UnsafeModel, match="deep"):
        check_onnx(data_of(helper.make_model(graph)), {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x09",
        data_of(model()) + data_of(model()),
        data_of(model()) + b"\x3b\x3c",
        data_of(model()) + b"\x98\x06\x01",
        data_of(model()) + b"\x3a\xff\xff\xff\xff\x7f",
        data_of(model()) + b"\x08" + b"\xff" * 11,
        data_of(model()) + b"\xa2\x01\x00",
        b"\x80\x04\x95",
        b"ORTM",
    ],
)
def test_what_is_no_model_is_refused(data):
    with pytest.raises(UnsafeModel):
        check_onnx(data, {})


SOUND = data_of(model(initializers=[external()]))


@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_names_nothing_outside(position, value):
    changed = bytearray(SOUND)
    changed[position] = value
    try:
        found = check_onnx(bytes(changed), {"weights.bin": 16})
    except UnsafeModel:
        return
    assert all(item.location == "weights.bin" and item.offset + item.length <= 16 for item in found.external)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_give_an_answer(data):
    with pytest.raises(UnsafeModel):
        check_onnx(data, {})


def test_what_passes_here_passes_the_reference_checker():
    onnx.checker.check_model(model())
