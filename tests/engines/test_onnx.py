"""Tensor programs: a real classifier, models made here, wrong tensors, and runs that do not end."""

import base64
import hashlib
import json
import threading

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from avow.engines import load
from avow.engines.errors import EngineClosed, EngineFailed, InvalidOptions, InvalidRequest, InvalidTensor, WrongKind
from avow.engines.inference_protocol import MAX_BODY, infer_body, parse_infer, values_of
from avow.errors import AvowError, TooLarge
from avow.models import catalogue
from avow.models.errors import DigestMismatch, UnsafeModel
from avow.models.manifest import File, Manifest
from avow.models.store import Store

F = TensorProto.FLOAT


@pytest.fixture(scope="module")
def magika(model_store):
    engine = load(model_store.get(catalogue.install(model_store, "magika")))
    yield engine
    engine.close()


def classify(engine, *contents, **parameters):
    data = [base64.b64encode(content).decode() for content in contents]
    tensor = {"name": "file", "datatype": "BYTES", "shape": [len(data)], "data": data, **parameters}
    answer = engine.infer({"inputs": [tensor]})
    return {output["name"]: output["data"] for output in answer["outputs"]}


PYTHON = (
    b"import os\n\n\ndef main(path: str) -> None:\n    for name in os.listdir(path):\n        print(name)\n\n\nmain('.')\n"
    * 3
)
SAMPLES = {
    "python": PYTHON,
    "json": json.dumps({"name": "x", "values": list(range(60)), "nested": {"a": [True, None]}}, indent=1).encode(),
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\nIDATx\x9cc\0\x01\0\0\x05\0\x01\r\n-\xb4\0\0\0\0IEND\xaeB`\x82",
    "html": b"<!DOCTYPE html>\n<html><head><title>x</title></head><body><p>Hello <b>you</b></p></body></html>\n" * 2,
    "pdf": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n2 0 obj\n<< /Type /Pages /Kids [] /Count 0 >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n",
    "empty": b"",
    "txt": b"hi",
    "unknown": b"\xff\xfe\xfd",
}


@pytest.mark.model
class TestMagika:
    @pytest.mark.parametrize("label", SAMPLES)
    def test_files_are_told_apart(self, magika, label):
        found = classify(magika, SAMPLES[label])
        assert found["label"] == [label]
        assert 0.5 < found["score"][0] <= 1
        assert "/" in found["mime_type"][0]

    def test_several_files_at_once_are_labelled_as_alone(self, magika):
        together = classify(magika, *SAMPLES.values())
        assert together["label"] == list(SAMPLES)
        assert together["score"][0] == classify(magika, SAMPLES["python"])["score"][0]

    def test_a_text_may_be_given_as_it_is(self, magika):
        tensor = {
            "name": "file",
            "datatype": "BYTES",
            "shape": [1],
            "data": [PYTHON.decode()],
            "parameters": {"content_type": "str"},
        }
        answer = magika.infer({"inputs": [tensor], "outputs": [{"name": "label"}], "id": "mine"})
        assert answer["outputs"] == [
            {
                "name": "label",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"content_type": "str"},
                "data": ["python"],
            }
        ]
        assert answer["id"] == "mine"
        assert answer["model_name"] == "magika"

    def test_white_space_alone_and_unsure_answers_are_generic(self, magika):
        assert classify(magika, b" \n\t" * 100)["label"] == ["txt"]
        assert classify(magika, bytes(range(256)) * 30)["label"][0] in ("unknown", "randombytes")

    def test_the_model_sees_both_ends_of_a_file_padded(self, magika):
        tokens = magika._processor.features(b"  ab" + b"c" * 20_000 + b"yz \n")
        assert len(tokens) == 2048
        assert bytes(tokens[:3]) == b"abc"
        assert bytes(tokens[-2:]) == b"yz"
        short = magika._processor.features(b"12345678")
        assert short[8:1024] == [256] * 1016
        assert short[1024:2040] == [256] * 1016

    def test_the_answer_repeats_and_says_what_ran(self, magika):
        assert classify(magika, PYTHON) == classify(magika, PYTHON)
        effective = magika.effective({"inputs": [{"name": "file", "datatype": "BYTES", "shape": [0], "data": []}]})
        assert effective["engine"]["optimisation"] == "off"
        assert effective["engine"]["threads"] == 1
        assert effective["engine"]["processor"] == "magika"
        json.dumps(effective)

    def test_wrong_inputs(self, magika):
        for change in (
            {"data": ["not base64!"]},
            {"data": [5]},
            {"data": ["YQ"]},
            {"shape": [2]},
            {"shape": []},
            {"datatype": "FP32", "data": [1]},
            {"name": "other"},
            {"shape": [0], "data": []},
            {"shape": [65], "data": [""] * 65},
        ):
            tensor = {"name": "file", "datatype": "BYTES", "shape": [1], "data": [""], **change}
            with pytest.raises(InvalidTensor):
                magika.infer({"inputs": [tensor]})

    def test_it_does_not_chat(self, magika):
        with pytest.raises(WrongKind):
            magika.chat({}, {})


def program_of(store, made, options=None, files=None):
    data = {"m.onnx": made.SerializeToString() if hasattr(made, "SerializeToString") else made, **(files or {})}
    listed = tuple(File(name, len(d), hashlib.sha256(d).digest()) for name, d in sorted(data.items()))
    manifest = Manifest("m", "onnx", "onnx", listed, {"model": "m.onnx", **(options or {})}, "MIT", "test")
    paths = {}
    for name, content in data.items():
        paths[name] = store.directory.parent / name
        paths[name].write_bytes(content)
    return store.get(store.add(manifest, paths))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, directory=tmp_path / "models")


def graph(nodes, inputs, outputs, initializers=()):
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
            list(initializers),
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    made.ir_version = 9
    return made


def scaled():
    weight = numpy_helper.from_array(np.array([[1, 2], [3, 4]], dtype=np.float32), "w")
    return graph([helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", F, ["n", 2])], [("y", F, ["n", 2])], [weight])


def tensor(name="x", datatype="FP32", shape=(1, 2), data=(1, 10)):
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}


def test_tensors_in_tensors_out(store):
    engine = load(program_of(store, scaled()))
    for data in ([1, 10, 0.5, 0], [[1, 10], [0.5, 0]]):
        answer = engine.infer({"inputs": [tensor(shape=(2, 2), data=data)]})
        assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [31.0, 42.0, 0.5, 1.0]}]
    assert engine.metadata()["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    engine.close()
    with pytest.raises(EngineClosed):
        engine.infer({"inputs": [tensor()]})


KINDS = [
    ("BOOL", TensorProto.BOOL, [True, False]),
    ("INT8", TensorProto.INT8, [-128, 127]),
    ("UINT8", TensorProto.UINT8, [0, 255]),
    ("INT16", TensorProto.INT16, [-32768, 32767]),
    ("UINT32", TensorProto.UINT32, [0, 4294967295]),
    ("INT64", TensorProto.INT64, [-(1 << 63), (1 << 63) - 1]),
    ("UINT64", TensorProto.UINT64, [0, (1 << 64) - 1]),
    ("FP16", TensorProto.FLOAT16, [0.5, -65504.0]),
    ("FP32", F, [0.10000000149011612, -3.4028234663852886e38]),
    ("FP64", TensorProto.DOUBLE, [0.1, 1e308]),
    ("BYTES", TensorProto.STRING, ["é", ""]),
]


@pytest.mark.parametrize(("datatype", "kind", "values"), KINDS, ids=lambda x: str(x)[:8])
def test_every_type_comes_back_exactly(store, datatype, kind, values):
    made = graph([helper.make_node("Identity", ["x"], ["y"])], [("x", kind, [2])], [("y", kind, [2])])
    engine = load(program_of(store, made))
    given = [base64.b64encode(value.encode()).decode() for value in values] if datatype == "BYTES" else values
    answer = engine.infer({"inputs": [tensor(datatype=datatype, shape=(2,), data=given)]})
    assert answer["outputs"][0]["data"] == values
    assert answer["outputs"][0]["datatype"] == datatype
    json.dumps(answer, allow_nan=False)


WRONG = [
    [tensor(name="z")],
    [tensor(), tensor(name="z")],
    [tensor(), tensor()],
    [tensor(datatype="FP64")],
    [tensor(datatype="INT64")],
    [tensor(shape=(2,))],
    [tensor(shape=(1, 3), data=[1, 2, 3])],
    [tensor(shape=(2, 2))],
    [tensor(shape=(1 << 20, 1 << 20))],
    [tensor(data=[1])],
    [tensor(data=["1", "2"])],
    [tensor(data=[True, False])],
    [tensor(data=[1e39, 0])],
    [tensor(data=[[1], [2]])],
    [tensor(data=[[1, 2], [3, 4]])],
    [tensor(data=[[[1, 2]]])],
    [tensor(data=[None, None])],
]


@pytest.mark.parametrize("inputs", WRONG, ids=lambda x: str(x)[:60])
def test_wrong_shapes_types_and_names_are_refused(store, inputs):
    engine = load(program_of(store, scaled()))
    with pytest.raises(InvalidTensor) as refused:
        engine.infer({"inputs": inputs})
    assert refused.value.fields["param"].startswith("inputs")


@pytest.mark.parametrize("outputs", [[{"name": "z"}], [{"name": "y"}, {"name": "y"}]])
def test_wrong_outputs_are_refused(store, outputs):
    engine = load(program_of(store, scaled()))
    with pytest.raises(InvalidTensor):
        engine.infer({"inputs": [tensor()], "outputs": outputs})


def test_what_is_not_finite_is_an_error(store):
    made = graph([helper.make_node("Log", ["x"], ["y"])], [("x", F, [1])], [("y", F, [1])])
    with pytest.raises(EngineFailed, match="finite"):
        load(program_of(store, made)).infer({"inputs": [tensor(shape=(1,), data=[-1])]})


def endless():
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on2"]), helper.make_node("Sin", ["v"], ["v2"])],
        "b",
        [
            helper.make_tensor_value_info(*v)
            for v in (("i", TensorProto.INT64, []), ("on", TensorProto.BOOL, []), ("v", F, [1]))
        ],
        [helper.make_tensor_value_info(*v) for v in (("on2", TensorProto.BOOL, []), ("v2", F, [1]))],
    )
    on = numpy_helper.from_array(np.array(True), "true")
    return graph(
        [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)], [("x", F, [1])], [("y", F, [1])], [on]
    )


def test_a_run_that_does_not_end_is_ended(store):
    engine = load(program_of(store, endless(), {"limit_ms": 300}))
    with pytest.raises(EngineFailed, match="too long"):
        engine.infer({"inputs": [tensor(shape=(1,), data=[1])]})


def external(location="w.bin"):
    made = scaled()
    weight = made.graph.initializer[0]
    data = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "8"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    return made, bytes(8) + data


def test_external_data_comes_from_verified_siblings(store):
    made, data = external()
    engine = load(program_of(store, made, files={"w.bin": data}))
    assert engine.infer({"inputs": [tensor()]})["outputs"][0]["data"] == [31.0, 42.0]


@pytest.mark.parametrize("location", ["/etc/passwd", "../m.onnx", "missing.bin"])
def test_external_data_elsewhere_is_never_opened(store, location):
    made, data = external(location)
    with pytest.raises(UnsafeModel):
        load(program_of(store, made, files={"w.bin": data}))


def test_a_changed_file_is_not_loaded(store):
    program = program_of(store, scaled())
    path = program.paths["m.onnx"]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DigestMismatch):
        load(program)


def test_a_model_that_only_looks_sound_is_a_clear_error(store):
    made = graph([helper.make_node("NoSuchOperator", ["x"], ["y"])], [("x", F, [1])], [("y", F, [1])])
    with pytest.raises(EngineFailed):
        load(program_of(store, made))
    sequence = helper.make_tensor_sequence_value_info("s", F, None)
    made = graph([helper.make_node("SequenceConstruct", ["x"], ["s"])], [("x", F, [1])], [])
    made.graph.output.append(sequence)
    onnx.checker.check_model(made)
    with pytest.raises(InvalidOptions):
        load(program_of(store, made))


@pytest.mark.parametrize(
    "options", [{"optimisation": "wild"}, {"threads": 4}, {"limit_ms": 0}, {"processor": "x"}, {"processor": "magika"}]
)
def test_options_are_checked(store, options):
    with pytest.raises(AvowError):
        load(program_of(store, scaled(), options))


def test_several_threads_get_their_own_answers(store):
    engine = load(program_of(store, scaled()), slots=2)
    found = {}

    def work(n):
        found[n] = engine.infer({"inputs": [tensor(data=[n, 0])]})["outputs"][0]["data"]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [float(n), float(2 * n)] for n in range(12)}


def test_bodies_are_checked():
    request = parse_infer(json.dumps({"inputs": [tensor()], "avow": {"method": "tee"}}).encode())
    assert request.extension == {"method": "tee"}
    with pytest.raises(TooLarge):
        parse_infer(bytes(MAX_BODY + 1))
    for bad in (b"", b"[]", b"{}", b'{"inputs": []}', b'{"inputs": [{}]}', b'{"inputs": 5}', b"[" * 200_000):
        with pytest.raises(InvalidRequest):
            parse_infer(bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    st.lists(st.integers(-1, 3) | st.just(1 << 40), max_size=4),
    st.sampled_from(["FP32", "INT8", "UINT64", "BOOL", "BYTES", "FP16", "x"]),
    JSON,
)
def test_any_tensor_gives_values_or_an_error(shape, datatype, data):
    try:
        body = infer_body({"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}]})
        values = values_of(body.inputs[0])
    except InvalidRequest:
        return
    assert len(values) == np.prod(shape, dtype=int)
