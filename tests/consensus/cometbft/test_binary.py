"""The program is found, and its version read from its module line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.consensus.cometbft import binary
from avow.consensus.cometbft.errors import CometBFTMissing
from avow.receipt.protobuf import varint

SENTINEL = b"0w\xaf\x0c\x92t\x08\x02A\xe1\xc1\x07\xe6\xd6\x18\xe6"


def program(path: Path, information: str, *, before: bytes = b"\x7fELF" + bytes(500)) -> Path:
    """A file with Go's build information in it, as Go since 1.18 writes it."""
    head = b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16)
    text = SENTINEL + information.encode() + SENTINEL
    version = b"go1.26.8"
    path.write_bytes(before + head + varint(len(version)) + version + varint(len(text)) + text + bytes(100))
    path.chmod(0o755)
    return path


def module_lines(version: str, module: str = binary.MODULE) -> str:
    return f"path\tx\nmod\t{module}\t{version}\th1:abc=\ndep\tgithub.com/cometbft/cometbft-db\tv0.14.1\t\n"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    monkeypatch.delenv(binary.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(binary, "BUILT", tmp_path / "built" / "cometbft")
    for name in ("path", "built"):
        (tmp_path / name).mkdir()


def test_the_order_of_places(monkeypatch, tmp_path):
    with pytest.raises(CometBFTMissing) as caught:
        binary.find()
    assert "make cometbft" in caught.value.hint
    built = program(tmp_path / "built" / "cometbft", module_lines("v0.40.1"))
    assert binary.find() == binary.Binary(built, "v0.40.1")
    on_path = program(tmp_path / "path" / "cometbft", module_lines("v0.40.0"))
    assert binary.find() == binary.Binary(on_path, "v0.40.0")
    named = program(tmp_path / "named", module_lines("v0.40.2"))
    monkeypatch.setenv(binary.VARIABLE, str(named))
    assert binary.find() == binary.Binary(named, "v0.40.2")
    monkeypatch.setenv(binary.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(CometBFTMissing):
        binary.find()


@pytest.mark.parametrize("version", ["v0.38.25", "v1.0.1", "v0.41.0", "(devel)", ""])
def test_another_version_is_refused_and_named(tmp_path, version):
    program(tmp_path / "built" / "cometbft", module_lines(version))
    with pytest.raises(CometBFTMissing) as caught:
        binary.find()
    assert caught.value.hint == "make cometbft"
    assert caught.value.fields["version"] == version


def test_another_program_is_refused(tmp_path):
    for made in (
        program(tmp_path / "a", module_lines("v0.40.0", "github.com/other/cometbft")),
        program(tmp_path / "b", "path\tx\n"),
    ):
        assert binary.module_version(made) is None
    (tmp_path / "built" / "cometbft").write_bytes(b"#!/bin/sh\necho 0.40.0\n")
    with pytest.raises(CometBFTMissing, match="no CometBFT"):
        binary.find()


def test_the_magic_alone_is_not_taken_for_it(tmp_path):
    """Other programs hold the magic as a constant; the information that follows the right one counts."""
    made = program(
        tmp_path / "a", module_lines("v0.40.0"), before=b"\xff Go buildinf:" + bytes(40) + b"\xff Go buildinf:"
    )
    assert binary.module_version(made) == "v0.40.0"


@given(st.binary(max_size=200))
def test_any_file_is_a_program_or_none(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("binary") / "x"
    path.write_bytes(b"\xff Go buildinf:" + data)
    assert binary.module_version(path) is None
    path.unlink()
