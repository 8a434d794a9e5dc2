"""Manifests: one encoding, one id, nothing that leads outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.models import catalogue
from avow.models.errors import ManifestError
from avow.models.manifest import File, Manifest, parse_manifest
from avow.receipt.encoding import encode, tagged_hash

FILE = File("model.gguf", 5, bytes(32))


def manifest(**changes):
    fields = {
        "name": "tiny",
        "format": "gguf",
        "engine": "llama",
        "files": (FILE,),
        "options": {"context": 256, "defaults": {"temperature": "0.2"}, "flag": True},
        "licence": "MIT",
        "source": "file:x",
    }
    return Manifest(**{**fields, **changes})


def value(**changes):
    found = manifest().to_value()
    found.update(changes)
    return found


def test_a_manifest_comes_back_and_its_id_is_its_hash():
    made = manifest()
    assert parse_manifest(made.encoded()) == made
    assert made.program_id == tagged_hash(b"avow/program/1", made.encoded())
    assert manifest(options={}).program_id != made.program_id
    assert made.size == 5
    assert made.file("model.gguf") is FILE
    with pytest.raises(ManifestError):
        made.file("other")


BAD_PATHS = [
    "../x",
    "/x",
    "a/../b",
    "a//b",
    "",
    ".",
    "a/.hidden/",
    "a\\b",
    "a\0b",
    "~x",
    "é",
    "-x",
    "x" * 300,
    "a/" * 9 + "b",
    "a\n",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_stay_inside(path):
    with pytest.raises(ManifestError):
        manifest(files=(File(path, 1, bytes(32)),))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Upper"},
        {"name": ""},
        {"name": "a/b"},
        {"format": "pickle"},
        {"engine": "Llama!"},
        {"files": ()},
        {"format": "none"},
        {"files": (File("b", 1, bytes(32)), File("a", 1, bytes(32)))},
        {"files": (File("A", 1, bytes(32)), File("a", 1, bytes(32)))},
        {"files": (File("a", 1, bytes(32)), File("a/b", 1, bytes(32)))},
        {"files": (File("a", -1, bytes(32)),)},
        {"files": (File("a", 1, bytes(31)),)},
        {"files": tuple(File(f"f{n:04}", 1, bytes(32)) for n in range(300))},
        {"options": {"x": 0.5}},
        {"options": {"x": None}},
        {"options": {"x": b"bytes"}},
        {"options": {"x": "y" * 70_000}},
        {"options": {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}},
        {"options": {"x": ["y" * 60_000] * 5}},
        {"licence": "x" * 200},
        {"source": "x" * 2000},
    ],
)
def test_what_a_manifest_cannot_say_is_refused(changes):
    with pytest.raises(ManifestError):
        manifest(**changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xa0",
        encode(value(version=2)),
        encode(value(version=True)),
        encode(value(more=1)),
        encode({k: v for k, v in value().items() if k != "name"}),
        encode(value(name=5)),
        encode(value(files={})),
        encode(value(files=[[]])),
        encode(value(files=[{"path": "a", "size": "1", "sha256": bytes(32)}])),
        encode(value(files=[{"path": "a", "size": True, "sha256": bytes(32)}])),
        encode(value(files=[{"path": "a", "size": 1, "sha256": bytes(32), "mode": 1}])),
        encode(value(options=[])),
        manifest().encoded() + b"\0",
        bytes(300_000),
    ],
)
def test_other_bytes_are_no_manifest(data):
    with pytest.raises(ManifestError):
        parse_manifest(data)


@given(st.data())
def test_no_changed_byte_gives_the_same_program(data):
    made = manifest()
    encoded = bytearray(made.encoded())
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        found = parse_manifest(bytes(encoded))
    except ManifestError:
        return
    assert found.program_id != made.program_id
    assert found.encoded() == bytes(encoded)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer(data):
    with pytest.raises(ManifestError):
        parse_manifest(data)


def test_the_catalogue_is_consistent():
    for entry in catalogue.entries():
        assert parse_manifest(entry.manifest.encoded()) == entry.manifest
        assert bool(entry.pieces) != bool(entry.compiled_from or entry.recipe), "from wheels, or compiled"
        for file in entry.manifest.files if entry.pieces else ():
            assert sum(piece.size for piece in entry.pieces if piece.path == file.path) == file.size
    assert catalogue.entry(catalogue.DEFAULT_CHAT).download_size == 92_871_040
