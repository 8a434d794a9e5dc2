"""Files and folders as programs."""

import pickle

import pytest

from avow.models.errors import ManifestError, UnsafeModel
from avow.models.importers import from_path
from tests.models.builders import base_entries, gguf
from tests.models.test_onnx import data_of, external, model


def test_a_gguf_file_brings_its_template(store, tmp_path):
    path = tmp_path / "My Model.Q4.gguf"
    path.write_bytes(gguf())
    program = store.get(from_path(store, path, licence="MIT"))
    assert program.manifest.name == "my-model.q4"
    assert program.manifest.options == {"template": "{{ messages[0]['content'] }}", "tools": "hermes"}
    assert program.manifest.files[0].path == "My_Model.Q4.gguf"
    chosen = from_path(store, path, options={"template": "x", "context": 512})
    assert store.get(chosen).manifest.options["template"] == "x"


def test_an_onnx_file_and_a_folder_with_its_external_data(store, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "net.onnx").write_bytes(data_of(model(initializers=[external()])))
    (tmp_path / "m" / "weights.bin").write_bytes(bytes(16))
    (tmp_path / "m" / "notes.txt").write_text("not needed")
    program = store.get(from_path(store, tmp_path / "m", name="net"))
    assert [file.path for file in program.manifest.files] == ["net.onnx", "weights.bin"]
    with pytest.raises(UnsafeModel):
        from_path(store, tmp_path / "m" / "net.onnx")


def test_links_out_of_the_folder_are_not_followed(store, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "m" / "net.onnx").write_bytes(data_of(model(initializers=[external()])))
    (tmp_path / "m" / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeModel):
        from_path(store, tmp_path / "m")


class Ran:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.bin", "model"])
@pytest.mark.parametrize("folder", [False, True])
def test_pickles_are_never_loaded(store, tmp_path, name, folder):
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / name
    path.write_bytes(pickle.dumps(Ran()))
    with pytest.raises(UnsafeModel, match="pickle"):
        from_path(store, path.parent if folder else path)


def test_a_pickle_in_disguise_is_no_model(store, tmp_path):
    for name in ("model.gguf", "model.onnx"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Ran()))
        with pytest.raises(UnsafeModel):
            from_path(store, path)


def test_what_is_no_model_is_a_clear_error(store, tmp_path):
    (tmp_path / "readme.txt").write_text("hello there")
    for path in (tmp_path / "readme.txt", tmp_path / "nothing", tmp_path):
        with pytest.raises(ManifestError):
            from_path(store, path)
    (tmp_path / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two" / name).write_bytes(gguf())
    with pytest.raises(ManifestError, match="exactly one"):
        from_path(store, tmp_path / "two")


def test_a_hostile_header_is_refused_before_anything_is_stored(store, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({**base_entries(), "heads": b""}))
    with pytest.raises(UnsafeModel):
        from_path(store, path)
    assert not store.directory.exists()
