"""The content store: nothing is there that was not hashed, what is interrupted resumes, what changed is noticed."""

import hashlib
import io
import threading

import pytest

from avow.errors import TooLarge
from avow.models.errors import DigestMismatch, ManifestError, UnknownProgram
from avow.models.manifest import File, Manifest
from avow.models.store import Store


def file_of(data, path="model.gguf"):
    return File(path, len(data), hashlib.sha256(data).digest())


def manifest(*files, name="tiny"):
    return Manifest(name, "gguf", "llama", tuple(sorted(files, key=lambda f: f.path)), {}, "MIT", "test")


@pytest.fixture
def source(tmp_path):
    def make(data, name="source"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


DATA = b"model" * 500_000


def test_a_program_is_added_found_verified_and_removed(store, source):
    seen = []
    made = manifest(file_of(DATA))
    program_id = store.add(made, {"model.gguf": source(DATA)}, lambda *step: seen.append(step))
    assert program_id == made.program_id
    stored = store.get(program_id)
    stored.verify()
    assert stored.paths["model.gguf"].read_bytes() == DATA
    assert stored.paths["model.gguf"].stat().st_mode & 0o777 == 0o444
    assert stored.read("model.gguf", limit=len(DATA)) == DATA
    assert store.find("tiny").program_id == program_id
    assert store.find(program_id.hex()).manifest == made
    assert [item.program_id for item in store.list()] == [program_id]
    assert seen[0][1] == len(DATA)
    assert store.remove(program_id) == len(DATA)
    assert store.list() == []
    with pytest.raises(UnknownProgram):
        store.get(program_id)


def test_adding_twice_is_adding_once(store, source):
    made = manifest(file_of(DATA))
    first = store.add(made, {"model.gguf": source(DATA)})
    assert store.add(made, {}) == first


def test_removing_keeps_what_another_program_uses(store, source):
    shared, own = file_of(b"shared", "a"), file_of(b"own", "b")
    paths = {"a": source(b"shared", "1"), "b": source(b"own", "2")}
    both = store.add(manifest(shared, own), paths)
    one = store.add(manifest(shared, name="other"), paths)
    assert store.remove(both) == len(b"own")
    store.get(one).verify()


def test_a_file_that_is_another_is_refused_and_leaves_nothing(store, source):
    made = manifest(file_of(DATA))
    for wrong in (DATA[:-1], DATA + b"x", DATA[:-1] + b"x", b""):
        with pytest.raises(DigestMismatch):
            store.add(made, {"model.gguf": source(wrong)})
    assert store.list() == []
    with pytest.raises(ManifestError):
        store.add(made, {})
    with pytest.raises(DigestMismatch):
        store.record(made)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d[:-1] + b"?", lambda d: d + b"?"])
def test_a_stored_file_that_changed_is_noticed(store, source, change):
    program = store.get(store.add(manifest(file_of(DATA)), {"model.gguf": source(DATA)}))
    path = program.paths["model.gguf"]
    path.chmod(0o644)
    path.write_bytes(change(DATA))
    with pytest.raises(DigestMismatch):
        program.verify()
    with pytest.raises(DigestMismatch):
        program.read("model.gguf", limit=1 << 30)
    path.unlink()
    with pytest.raises(DigestMismatch):
        program.verify()


def test_reading_has_a_limit(store, source):
    program = store.get(store.add(manifest(file_of(DATA)), {"model.gguf": source(DATA)}))
    with pytest.raises(TooLarge):
        program.read("model.gguf", limit=len(DATA) - 1)


def test_a_stored_manifest_that_changed_is_noticed(store, source):
    program_id = store.add(manifest(file_of(DATA)), {"model.gguf": source(DATA)})
    path = store.directory / "programs" / f"{program_id.hex()}.cbor"
    path.write_bytes(manifest(file_of(DATA), name="other").encoded())
    with pytest.raises(DigestMismatch):
        store.get(program_id)


def test_a_name_means_the_program_added_last_and_an_id_itself(store, source):
    paths = {"model.gguf": source(DATA)}
    first = store.add(manifest(file_of(DATA)), paths)
    second = store.add(manifest(file_of(b"x")), {"model.gguf": source(b"x", "x")})
    assert store.find("tiny").program_id == second
    assert store.find(first.hex()).program_id == first
    store.touch(first)
    assert store.find("tiny").program_id == first
    with pytest.raises(UnknownProgram):
        store.find("tin")


class Breaking(io.BytesIO):
    """A source that fails after so many bytes."""

    def __init__(self, data, limit):
        super().__init__(data)
        self.limit = limit

    def read(self, size=-1):
        if self.tell() >= self.limit:
            raise OSError("cable pulled")
        return super().read(size)


def test_an_interrupted_file_resumes_where_it_stopped(store):
    file = file_of(DATA)
    with pytest.raises(OSError, match="cable"):
        store.receive(file, Breaking(DATA, 1 << 20))
    assert store.arrived(file) == 1 << 20
    assert not store.has(file)
    rest = io.BytesIO(bytes(1 << 20) + DATA[1 << 20 :])
    store.receive(file, rest)
    assert store.path(file).read_bytes() == DATA
    assert store.arrived(file) == 0


def test_what_arrived_wrong_is_forgotten(store):
    file = file_of(DATA)
    with store.arriving(file, 0) as partial:
        partial.write(b"garbage")
    with pytest.raises(DigestMismatch):
        store.receive(file, io.BytesIO(DATA))
    store.receive(file, io.BytesIO(DATA))
    assert store.has(file)


def test_writers_at_once_do_not_disturb_each_other(store, source):
    paths = {"model.gguf": source(DATA)}
    made = [manifest(file_of(DATA), name=f"program{n}") for n in range(6)]
    threads = [threading.Thread(target=store.add, args=(m, paths)) for m in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list()) == 6
    for program in store.list():
        program.verify()


def test_the_directory_is_the_homes_or_the_one_named(tmp_path, monkeypatch):
    monkeypatch.delenv("AVOW_MODELS", raising=False)
    assert Store(tmp_path).directory == tmp_path / "models"
    monkeypatch.setenv("AVOW_MODELS", str(tmp_path / "shared"))
    assert Store(tmp_path).directory == tmp_path / "shared"
    assert Store(tmp_path).list() == []
