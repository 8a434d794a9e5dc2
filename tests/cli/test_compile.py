"""`avow compile`: reports, ranges, programs in the store; errors with their places."""

import json

import numpy as np
import pytest

from avow.cli import main
from tests.exact.compile.floats import Net, generator, normal


@pytest.fixture
def model(tmp_path):
    net = Net()
    weight = generator(1).normal(size=(6, 4)).astype(np.float32)
    data = net.model(net.add("Softmax", net.add("Gemm", net.input("x", 1, 6), weight)))
    (tmp_path / "small.onnx").write_bytes(data)
    np.savez(tmp_path / "data.npz", x=np.concatenate([each["x"] for each in normal(50, x=(1, 6))]))
    return tmp_path


def run(capsys, folder, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments), "--home", str(folder / "home")])
    return caught.value.code, capsys.readouterr()


def test_a_report_and_a_program_in_the_store(model, capsys):
    code, output = run(
        capsys,
        model,
        "compile",
        model / "small.onnx",
        "--calibrate",
        model / "data.npz",
        "--save-ranges",
        model / "r.json",
        "--json",
    )
    assert code == 0
    report = json.loads(output.out)
    assert report["name"] == "small-exact"
    assert report["samples"] == 50
    assert report["outputs"][0]["same_largest"] > 0.9
    code, output = run(capsys, model, "model", "list", "--json")
    assert [(each["name"], each["engine"]) for each in json.loads(output.out)["programs"]] == [("small-exact", "exact")]
    code, output = run(
        capsys,
        model,
        "compile",
        model / "small.onnx",
        "--ranges",
        model / "r.json",
        "--output",
        model / "p.exact",
        "--no-add",
        "--json",
    )
    assert code == 0
    assert json.loads(output.out)["root"] == report["root"], "ranges and model decide the program"
    assert (model / "p.exact").stat().st_size == report["size"]
    code, output = run(capsys, model, "model", "add", model / "p.exact", "--name", "again", "--json")
    assert code == 0
    assert json.loads(output.out)["engine"] == "exact"
    (model / "broken.exact").write_bytes(b"AVOWEXACT1\n" + bytes(40))
    assert run(capsys, model, "model", "add", model / "broken.exact")[0] == 2


def test_the_report_for_people(model, capsys):
    code, output = run(
        capsys, model, "compile", model / "small.onnx", "--calibrate", model / "data.npz", "--bits", "12"
    )
    assert code == 0
    assert "against the float model, 50 samples" in output.out
    assert "largest proof" in output.out


def test_what_cannot_be_compiled_is_named(model, capsys):
    net = Net()
    (model / "bad.onnx").write_bytes(net.model(net.add("Hardmax", net.input("x", 1, 6))))
    code, output = run(capsys, model, "compile", model / "bad.onnx", "--calibrate", model / "data.npz", "--json")
    assert code == 2
    error = json.loads(output.out)["error"]
    assert error["code"] == "unsupported_operators"
    assert "Hardmax at node 0" in error["detail"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--shape", "x"],
        ["--shape", "x=a,b"],
        ["--integers", "x=1"],
        ["--set", "x=abc"],
        ["--state", "x:y", "--calibrate", "data.npz"],
    ],
)
def test_options_that_say_nothing(model, capsys, arguments, monkeypatch):
    monkeypatch.chdir(model)
    code, _ = run(capsys, model, "compile", model / "small.onnx", *arguments)
    assert code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello, this is a text\n" * 20, "a text"),
        ("Grüße, 你好".encode() * 1_000, "a text"),
        (b"", "an empty file"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x80\x02}q\x00.", "pickle"),
        ((30).to_bytes(8, "little") + b'{"weight":{}}', "safetensors"),
        (b"AVOWEXACT1\n" + bytes(30), "exact program already"),
        (b"\x08\x07\xff\xff\xff\xff", "not a sound ONNX model"),
        (bytes(range(256)), "not a sound ONNX model"),
    ],
    ids=["text", "other text", "empty", "zip", "pickle", "safetensors", "exact", "broken", "binary"],
)
def test_what_is_no_model_is_said_to_be_what_it_is(tmp_path, capsys, content, said):
    (tmp_path / "notes.onnx").write_bytes(content)
    code, output = run(capsys, tmp_path, "compile", tmp_path / "notes.onnx")
    assert code == 2
    assert said in output.err
    assert "notes.onnx" in output.err
    assert ".gguf" in output.err or "model add" in output.err


@pytest.mark.parametrize("name", ["nope.onnx", "nope-1.5b"])
def test_what_is_not_there_is_said(tmp_path, capsys, name):
    code, output = run(capsys, tmp_path, "compile", name)
    assert code == 2
    assert f"neither a file nor a model of this machine called {name!r}" in output.err
    assert "avow model list" in output.err


def test_a_chat_model_is_known_by_its_bytes(tmp_path, capsys):
    (tmp_path / "model.bin").write_bytes(b"GGUF\x03\x00\x00\x00")
    code, output = run(capsys, tmp_path, "compile", tmp_path / "model.bin")
    assert code == 2
    assert "ONNX" not in output.err
