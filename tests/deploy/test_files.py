"""What operators are handed fits what it starts. Building the image needs a container engine; its steps are those of a fresh folder."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

CONTAINER = (REPOSITORY / "deploy" / "Containerfile").read_text()
UNIT = (REPOSITORY / "deploy" / "avow-chain.service").read_text()
INSTRUCTIONS = {"FROM", "RUN", "COPY", "WORKDIR", "USER", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}


def steps():
    """(instruction, the rest) of the Containerfile, comments left out, continued lines joined."""
    text = re.sub(r"\\\n", " ", CONTAINER)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def of(instruction):
    return [rest for name, rest in steps() if name == instruction]


@pytest.fixture(scope="module")
def options():
    """Every option of the chain's process."""
    shown = subprocess.run(
        [sys.executable, "-m", "avow.nodes.full", "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--[a-z][a-z-]+", shown.stdout))


def test_the_containers_instructions_are_known():
    assert {name for name, _ in steps()} == INSTRUCTIONS
    assert of("USER") == ["avow"]  # nothing runs as root
    assert [name for name, _ in steps()][-2:] == ["ENTRYPOINT", "CMD"]


def test_what_the_container_copies_is_there_and_reaches_the_builder():
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    for rest in of("COPY"):
        if rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            assert (REPOSITORY / source).exists(), source
            assert source.split("/")[0] in let_in, source


def test_the_container_builds_the_engine_that_make_builds():
    [version] = re.findall(r"COMETBFT_VERSION := (\S+)", (REPOSITORY / "Makefile").read_text())
    assert f"github.com/cometbft/cometbft/cmd/cometbft@{version}" in CONTAINER


def test_what_is_started_takes_these_options(options):
    [command] = of("CMD")
    started = json.loads(command)
    assert json.loads(of("ENTRYPOINT")[0]) == ["avow"]
    assert started[0] == "chain"
    [line] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    for given in (started, line.split()):
        named = {item for item in given if item.startswith("--")}
        assert named <= options, named - options
        assert {"--home", "--engine"} <= named
    assert "--engine cometbft" in line


def test_ports_are_those_of_a_network():
    ports = {int(port) for port in of("EXPOSE")[0].split()}
    assert "26656" in CONTAINER
    assert ports == {26656, 8545}


def test_the_unit_restarts_for_ever_and_leaves_nothing_running():
    for line in ("Restart=always", "KillMode=mixed", "StartLimitIntervalSec=0", "NoNewPrivileges=yes"):
        assert f"\n{line}\n" in UNIT


def test_the_unit_is_one(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not here")
    unit = tmp_path / "avow-chain.service"
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT))
    shown = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "Unknown" not in shown.stderr and "Failed to parse" not in shown.stderr, shown.stderr
