"""Exact programs as an engine: loading, answers, traces, replays; the same bits traced or not."""

import base64

import numpy as np
import pytest

from avow.engines import load
from avow.engines.errors import EngineClosed, InvalidOptions, InvalidTensor, WrongKind
from avow.engines.exact import ExactEngine
from avow.engines.interface import Kept
from avow.engines.speech import frames
from avow.exact import files
from avow.exact.compile.onnx import Options, compile_onnx
from avow.exact.errors import BadProgram, BadRun
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Header, Recorder, Salts
from avow.exact.kernels.ports import ports
from avow.exact.kernels.tracer import Keeper
from avow.exact.prover import Subject, check_header, find_fault
from avow.models import catalogue
from avow.models.exact import RECIPES, add_exact
from avow.models.store import Store
from tests.exact.compile.floats import Net, generator, normal

SEED = bytes(range(32))


def small(states=False):
    net = Net()
    x = net.input("x", 1, 6)
    if states:
        state = net.input("state", 1, 6)
        after = net.add("Add", net.add("Mul", state, np.float32(0.5)), x)
        model = net.model(net.add("Tanh", after), after)
        options = Options(name="small", states={"state": after}, steps=8)
        return compile_onnx(model, options, sequences=[normal(20, x=(1, 6))]).program
    weight = generator(1).normal(size=(6, 4)).astype(np.float32)
    model = net.model(net.add("Softmax", net.add("Gemm", x, weight)))
    return compile_onnx(
        model, Options(name="small", steps=8), sequences=[[each] for each in normal(20, x=(1, 6))]
    ).program


def stored(tmp_path, program, **changes):
    store = Store(tmp_path)
    target = tmp_path / "p.exact"
    files.save(program, target)
    program_id = add_exact(store, target, name="small", **{"root": program.root, **changes})
    return store.get(program_id)


@pytest.fixture
def engine(tmp_path):
    made = load(stored(tmp_path, small()))
    assert isinstance(made, ExactEngine)
    yield made
    made.close()


def request(values, name="x"):
    array = np.asarray(values, dtype=np.float32)
    return {
        "inputs": [{"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.reshape(-1).tolist()}]
    }


def test_answers_are_the_same_traced_or_not_and_alone_or_together(engine):
    rows = np.concatenate([each["x"] for each in normal(5, x=(1, 6))])
    answer = engine.infer(request(rows))
    assert answer["outputs"][0]["shape"] == [5, 4]
    traced, trace = engine.traced_infer(request(rows), SEED)
    assert traced == answer
    header = Header.parse(trace.header)
    assert (header.steps, header.finish) == (5, "whole")
    single = [engine.infer(request(row[None]))["outputs"][0]["data"] for row in rows]
    assert [value for row in single for value in row] == answer["outputs"][0]["data"]


def test_a_replay_is_the_run_and_answers_for_every_tensor(engine):
    rows = np.concatenate([each["x"] for each in normal(3, x=(1, 6))])
    _, trace = engine.traced_infer(request(rows), SEED)
    header = Header.parse(trace.header)
    replay = engine.replay(request(rows), {}, Salts(SEED), header)
    assert list(replay.leaves) == list(trace.leaves)
    keeper = Keeper(Recorder(SEED, engine._exact.ranks), engine._exact.ranks)
    engine.run(engine._integers(request(rows)), keeper)
    assert [replay.tensor(slot) for slot in range(header.leaves)] == [
        keeper.tensors[slot] for slot in range(header.leaves)
    ]
    with pytest.raises(KeyError):
        replay.tensor(header.leaves + 7)


@pytest.mark.parametrize("states", [False, True])
def test_a_run_that_took_long_leaves_what_restores_it(tmp_path, monkeypatch, states):
    engine = load(stored(tmp_path, small(states=states)))
    rows = np.concatenate([each["x"] for each in normal(7, x=(1, 6))])
    asked = request(rows)
    assert engine.kept_bytes(asked, {}) == 0
    assert not isinstance(engine.traced_infer(asked, SEED)[1], Kept)
    monkeypatch.setattr("avow.engines.exact.KEPT_FROM_MS", 0.0)
    _, trace = engine.traced_infer(asked, SEED)
    assert isinstance(trace, Kept)
    data = memoryview(b"".join(trace.parts))
    assert len(data) == engine.kept_bytes(asked, {})
    header = Header.parse(trace.header)
    restored = engine.restore(asked, {}, Salts(SEED), trace.header, data)
    replay = engine.replay(asked, {}, Salts(SEED), header)
    assert list(restored.leaves) == list(replay.leaves) == list(trace.leaves)
    for slot in (*range(header.leaves), INPUT_SLOT, OUTPUT_SLOT):
        assert restored.tensor(slot) == replay.tensor(slot), slot
    with pytest.raises(BadRun):
        engine.restore(asked, {}, Salts(SEED), trace.header, data[:-1])
    assert (engine.answer_ms(asked) > 0) is states
    assert 0 < engine.cost().answer_ms <= engine.cost().replay_ms


def test_no_fault_is_found_in_an_honest_run(engine, tmp_path):
    from avow.exact.committed import CommittedRun

    rows = np.concatenate([each["x"] for each in normal(3, x=(1, 6))])
    _, trace = engine.traced_infer(request(rows), SEED)
    program = small()
    manifest = stored(tmp_path, program).manifest.encoded()
    subject = Subject(program, manifest, trace.trace)
    header = Header.parse(trace.header)
    run = engine.replay(request(rows), {}, Salts(SEED), header)
    respondent = CommittedRun(trace.header, run, SEED)
    assert check_header(subject, respondent) == header
    assert find_fault(subject, header, run, Salts(SEED), respondent) is None


def test_states_begin_anew_with_each_request(tmp_path):
    engine = load(stored(tmp_path, small(states=True)))
    rows = np.concatenate([each["x"] for each in normal(6, x=(1, 6))])
    first, second = (engine.infer(request(rows))["outputs"][0]["data"] for _ in range(2))
    assert first == second
    assert engine.infer(request(rows[:2]))["outputs"][0]["data"] == first[:12]


def test_what_does_not_fit_is_refused(engine):
    for bad in (
        request(np.zeros((1, 5))),
        request(np.zeros((1, 6)), name="z"),
        request(np.zeros((9, 6))),
        {"inputs": [{"name": "x", "shape": [1, 6], "datatype": "INT32", "data": [0] * 6}]},
        {**request(np.zeros((1, 6))), "outputs": [{"name": "nothing"}]},
    ):
        with pytest.raises(InvalidTensor):
            engine.infer(bad)
    with pytest.raises(WrongKind):
        engine.chat({}, {})
    with pytest.raises(WrongKind):
        engine.traced_chat({}, {}, SEED)
    engine.close()
    with pytest.raises(EngineClosed):
        engine.infer(request(np.zeros((1, 6))))


def test_metadata_and_effective_parameters_name_the_root(engine):
    assert engine.metadata()["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}]
    effective = engine.effective(request(np.zeros((1, 6))))
    assert effective["engine"]["root"] == small().root.hex()
    assert engine.runtime.endswith(small().root.hex())


def test_the_root_in_the_manifest_is_checked(tmp_path):
    with pytest.raises(InvalidOptions, match="the program's root is not the manifest's"):
        load(stored(tmp_path, small(), root=bytes(32)))
    with pytest.raises(InvalidOptions):
        load(stored(tmp_path, small(), processor="nonsense"))


def test_bounds_are_proven_again_at_loading(tmp_path):
    from dataclasses import replace

    from avow.exact.program import Program

    honest = small()
    operators = [
        replace(operator, low=operator.low + 1) if operator.kind == "input" else operator
        for operator in honest.operators
    ]
    wrong = [
        replace(operator, inputs=tuple(replace(source, low=source.low + 1) if source.origin == 0 and source.id == 0 else source for source in operator.inputs))
        for operator in operators
    ]  # fmt: skip
    program = Program.build(
        name="wrong", mode="once", context=8, inputs=honest.inputs, constants=honest.constants, operators=wrong,
        outputs=honest.outputs, notes=honest.notes,
    )  # fmt: skip
    with pytest.raises(BadProgram):
        load(stored(tmp_path, program))


def test_notes_that_do_not_fit_are_refused():
    from avow.exact.program import Program

    honest = small()
    for change in (
        {"input.0.scale": "0"},
        {"input.0.scale": "nan"},
        {"input.0.shape": "1,7"},
        {"output.0.rounding": "up"},
    ):
        program = Program.build(
            name="wrong", mode="once", context=8, inputs=honest.inputs, constants=honest.constants,
            operators=honest.operators, outputs=honest.outputs, notes={**honest.notes, **change},
        )  # fmt: skip
        with pytest.raises(BadProgram):
            ports(program)


def test_frames_of_speech():
    found = frames(np.arange(1000, dtype=np.float32))
    assert found.shape == (2, 576)
    assert found[0, :64].tolist() == [0] * 64
    assert found[1, 0] == 448
    assert found[1, -1] == 0


# --- The catalogue's -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store():
    from pathlib import Path

    return Store(Path(), directory=Path(__file__).resolve().parents[2] / "build" / "model-cache")


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
def test_recipes_give_the_pinned_program(store, recipe):
    """Compiled here, from the model and the ranges: the digest in the catalogue. Adding it again compiles nothing."""
    program_id = catalogue.install(store, recipe.name)
    assert program_id == recipe.manifest.program_id
    assert files.load(store.get(program_id).paths["program.exact"]).root.hex() == recipe.root
    assert len(recipe.manifest.encoded()) < 8192


@pytest.mark.model
@pytest.mark.slow
def test_kinds_of_files(store):
    engine = load(store.get(catalogue.install(store, "magika-exact")))
    contents = {
        "python": b"import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n\n\nif __name__ == '__main__':\n    main()\n"
        * 3,
        "html": b"<!DOCTYPE html><html><head><title>x</title></head><body><p>Hello</p></body></html>\n" * 4,
        "empty": b"",
        "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00\x00\x00\x01\x00\x08\x06\x00\x00\x00\\r\xa8f"
        + bytes(range(256)) * 8,
    }
    data = [base64.b64encode(content).decode() for content in contents.values()]
    body = {"inputs": [{"name": "file", "shape": [4], "datatype": "BYTES", "data": data}]}
    answer, trace = engine.traced_infer(body, SEED)
    assert answer["outputs"][0]["data"] == list(contents)
    assert Header.parse(trace.header).steps == 3, "one run for all that need the model"
    nothing = {"inputs": [{"name": "file", "shape": [1], "datatype": "BYTES", "data": [""]}]}
    answer, trace = engine.traced_infer(nothing, SEED)
    assert answer["outputs"][0]["data"] == ["empty"]
    assert Header.parse(trace.header).steps == 1, "a run of zeros"


@pytest.mark.model
@pytest.mark.slow
def test_speech_in_silence_and_noise(store):
    engine = load(store.get(catalogue.install(store, "silero-vad-exact")))
    quiet = np.zeros(8_000, dtype=np.float32)
    noise = generator(1).normal(size=8_000).astype(np.float32) * 0.01
    for audio in (quiet, noise):
        body = {"inputs": [{"name": "audio", "shape": [8_000], "datatype": "FP32", "data": audio.tolist()}]}
        (output,) = engine.infer(body)["outputs"]
        assert output["shape"] == [16]
        assert max(output["data"]) < 0.5
