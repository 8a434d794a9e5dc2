"""The examples in docs/sdk.md and docs/cli.md run, in their order, against a network."""

import json
import re
import shlex
import time

import pytest

from avow.cli import main
from avow.receipt.statement import Method
from tests.conftest import REPOSITORY
from tests.simulated_gateway import SimulatedGateway
from tests.simulator import Simulator


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A local network as `avow up` leaves it, and an empty working folder."""
    network = Simulator(start_ms=time.time_ns() // 1_000_000 - 50_000)
    network.register(Method.TEE)
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("AVOW_HOME", str(home))
    monkeypatch.delenv("AVOW_URL", raising=False)
    (home / "trust.json").write_bytes(network.trust().to_json())
    with SimulatedGateway(network) as gateway:
        (home / "network.json").write_text(json.dumps({"url": gateway.url}))
        yield home


def blocks(name, language):
    text = (REPOSITORY / "docs" / name).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_sdks_examples(here, capsys):
    found = blocks("sdk.md", "python")
    assert len(found) > 9
    names = {}
    for block in found:
        exec(compile(block, "docs/sdk.md", "exec"), names)
    assert "You said: What is the capital of France?" in capsys.readouterr().out


def test_the_command_lines_examples(here, capsys, monkeypatch):
    lines = [line[2:] for block in blocks("cli.md", "console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) > 15
    (here.parent / "work" / "README.md").write_text("# A file")
    receipt = ""
    for line in lines:
        _, _, command = line.rpartition("| ")
        if command != line:
            monkeypatch.setattr("sys.stdin", __import__("io").StringIO("Be nice."))
        words = shlex.split(
            command.replace("HOME", str(here)).replace("RECEIPT", receipt).replace("CLASSIFIER", "length")
        )
        with pytest.raises(SystemExit) as stopped:
            main(words[1:])
        shown = capsys.readouterr()
        assert stopped.value.code == 0, (line, shown.out, shown.err)
        if not receipt:
            receipt = next((here / "receipts").glob("*.json")).stem[:16]
