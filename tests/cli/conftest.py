"""A network to talk to, judged by the machine's clock, and the command line as a function."""

import json
import time
from dataclasses import dataclass

import pytest

from avow.cli import main
from avow.receipt.statement import Method
from tests.simulated_gateway import SimulatedGateway
from tests.simulator import Simulator


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    monkeypatch.setenv("AVOW_HOME", str(folder))
    monkeypatch.delenv("AVOW_URL", raising=False)
    return folder


@pytest.fixture
def avow(home, capsys):
    """Run `avow` with arguments, in this process."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(stopped.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def network():
    network = Simulator(start_ms=time.time_ns() // 1_000_000 - 30_000)
    network.register(Method.TEE)
    return network


@pytest.fixture
def gateway(network, home):
    """The local network: its policy is HOME/trust.json, its gateway's address in HOME/gateway/state.json."""
    with SimulatedGateway(network) as gateway:
        (home / "gateway").mkdir(parents=True)
        (home / "gateway" / "state.json").write_text(json.dumps({"url": gateway.url}))
        (home / "trust.json").write_bytes(network.trust().to_json())
        yield gateway
