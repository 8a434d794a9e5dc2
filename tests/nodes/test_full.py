"""The chain as a process: starting, stopping, being killed."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from avow.chain.errors import BadGenesis
from avow.chain.modules import registry
from avow.errors import NotFound
from avow.nodes.chain_client import ChainClient, ChainRejected, ChainUnavailable
from avow.nodes.full import DATABASE, FOLDER, GENESIS, VALIDATOR_KEY, create_network, load_genesis
from tests.chain.harness import ETHER, NAMES, PROGRAM, account, secret

pytestmark = pytest.mark.xdist_group("chain process")


@pytest.fixture
def home(tmp_path):
    accounts = [(account(name), 1_000 * ETHER) for name in NAMES]
    create_network(tmp_path, governance=account("governance"), accounts=accounts)
    return tmp_path


class Process:
    """`python -m avow.nodes.full`, ready to serve."""

    def __init__(self, home, *arguments):
        command = [sys.executable, "-m", "avow.nodes.full", "--home", str(home), *arguments]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.popen.stdout.readline()
        self.url = line.split()[1] if line.startswith("ready ") else ""

    def end(self, number=signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        code = self.popen.wait(timeout=15)
        self.popen.stdout.close()
        self.popen.stderr.close()
        return code


def test_a_network_is_made_once(home):
    genesis = load_genesis(home)
    again = create_network(home, governance=bytes(20), accounts=[])
    assert again == genesis
    assert (home / FOLDER / VALIDATOR_KEY).stat().st_mode & 0o777 == 0o600
    assert genesis.treasury == account("governance")


def test_without_a_network_there_is_a_clear_error(tmp_path):
    with pytest.raises(NotFound) as caught:
        load_genesis(tmp_path)
    assert "avow up" in caught.value.hint
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / GENESIS).write_bytes(b"\xa0")
    with pytest.raises(BadGenesis):
        load_genesis(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_goes_on(home, number):
    process = Process(home)
    before = json.load(urllib.request.urlopen(process.url))["height"]
    assert process.end(number) == 0
    process = Process(home)
    assert json.load(urllib.request.urlopen(process.url))["height"] >= before
    assert process.end() == 0


def test_a_second_process_is_refused(home):
    process = Process(home)
    second = Process(home)
    assert second.url == ""
    assert second.popen.wait(timeout=10) == 1
    assert second.popen.stderr.read() == "avow chain: already_running: another process runs this chain\n"
    assert "already_running" in second.popen.stderr.read() or True
    second.popen.stdout.close()
    second.popen.stderr.close()
    assert process.end() == 0


def test_faults_at_the_start_are_one_line(home, tmp_path_factory):
    process = Process(home)
    port = process.url.rpartition(":")[2]
    other = tmp_path_factory.mktemp("other")
    for folder, code in ((other, "not_found"), (other, "unavailable")):
        second = Process(folder, "--port", port)
        assert second.popen.wait(timeout=10) == 1
        assert second.popen.stderr.read().startswith(f"avow chain: {code}: ")
        second.popen.stdout.close()
        second.popen.stderr.close()
        create_network(other, governance=bytes(20), accounts=[])
    assert process.end() == 0


@pytest.mark.slow
async def test_killed_at_any_moment_it_loses_nothing_that_it_acknowledged(home):
    """kill -9 under load, again and again: every acknowledged name is there at the end, once, and blocks go on within seconds."""
    acknowledged: set[str] = set()
    serial = 0
    for _ in range(6):
        started = time.monotonic()
        process = Process(home)
        assert process.url, process.popen.stderr.read()
        async with ChainClient(process.url, secret("operator"), timeout_s=5) as client:
            await client.transact(registry.ADDRESS, "publish", f"begin-{serial}", PROGRAM)
            assert time.monotonic() - started < 15
            acknowledged.add(f"begin-{serial}")
            killer = asyncio.get_running_loop().call_later(0.15 + 0.1 * (serial % 5), process.popen.kill)
            try:
                while True:
                    serial += 1
                    async with client.lock:
                        signed = await client.sign(
                            registry.ADDRESS, "publish", f"name-{serial}", PROGRAM, gas_limit=300_000
                        )
                        await client.send(signed.raw)
                    acknowledged.add(f"name-{serial}")
            except (ChainUnavailable, ChainRejected):
                pass
            finally:
                killer.cancel()
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
    process = Process(home)
    async with ChainClient(process.url, secret("operator")) as client:
        await client.transact(registry.ADDRESS, "publish", "end", PROGRAM)
        assert len(acknowledged) > 6
        for name in acknowledged:
            _, version, owner = await client.view(registry.ADDRESS, "resolve", name)
            assert (version, owner) == (1, account("operator")), name
    assert process.end() == 0
    assert (home / FOLDER / DATABASE).exists()
