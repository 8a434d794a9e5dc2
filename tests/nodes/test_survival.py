"""The network of processes: up, killed at random under load, and down again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import aiohttp
import pytest

from avow.nodes.up import AlreadyUp, Network
from tests.nodes.conftest import REPOSITORY
from tests.soak.soak import PROCESSES, Tally, check, collect, one_call, soak, stub_config

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("network")]


@pytest.fixture(autouse=True)
def stubs_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


async def test_nothing_delivered_is_lost_when_processes_are_killed(tmp_path):
    tally = await soak(tmp_path, seconds=12, seed=7, every_s=(0.5, 1.5))
    assert sum(tally.kills.values()) >= 6
    assert len(tally.delivered) >= 20, tally.failed
    assert max(tally.recovered_s) < 20


@pytest.mark.parametrize("victim", PROCESSES)
async def test_each_process_may_be_killed_again_and_again(tmp_path, victim, monkeypatch):
    monkeypatch.setattr("tests.soak.soak.PROCESSES", (victim,))
    tally = await soak(tmp_path, seconds=4, seed=1, every_s=(0.6, 1.2))
    assert tally.kills[victim] >= 2
    assert tally.delivered


async def test_one_home_has_one_network_and_its_state_is_written_down(tmp_path):
    network = Network(stub_config(tmp_path))
    try:
        state = await network.start()
        assert json.loads((tmp_path / "network.json").read_bytes()) == state
        assert json.loads((tmp_path / "trust.json").read_bytes())["chain_id"] == state["chain_id"]
        with pytest.raises(AlreadyUp):
            Network(stub_config(tmp_path))
        for path in ("keys/governance", "node/key", "gateway/key", "chain/validator.key"):
            assert (tmp_path / path).stat().st_mode & 0o777 == 0o600
    finally:
        await network.stop()
    assert not (tmp_path / "network.json").exists()
    again = Network(stub_config(tmp_path))
    try:
        assert (await again.start())["chain_id"] == state["chain_id"]
    finally:
        await again.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_stops_everything_cleanly(tmp_path, number):
    script = tmp_path / "up.py"
    script.write_text(
        f"""
import asyncio, json
from pathlib import Path
from avow.nodes.up import up
from tests.soak.soak import stub_config

async def ready(state):
    print(json.dumps(state), flush=True)

asyncio.run(up(stub_config(Path({str(tmp_path / "home")!r})), ready))
"""
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    line = await asyncio.to_thread(process.stdout.readline)
    state = json.loads(line)
    pids = [one["pid"] for one in state["processes"].values()]
    started = time.monotonic()
    process.send_signal(number)
    assert await asyncio.to_thread(process.wait, 30) == 0
    process.stdout.close()
    assert time.monotonic() - started < 15
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_supervisor_that_is_killed_takes_its_children_along_and_the_next_one_settles_all(tmp_path):
    home = tmp_path / "home"
    script = tmp_path / "up.py"
    script.write_text(
        f"""
import asyncio, json
from pathlib import Path
from avow.nodes.up import up
from tests.soak.soak import stub_config

async def ready(state):
    print(json.dumps(state), flush=True)

asyncio.run(up(stub_config(Path({str(home)!r})), ready))
"""
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    state = json.loads(await asyncio.to_thread(process.stdout.readline))
    tally = Tally()
    async with aiohttp.ClientSession() as session:
        for number, method in enumerate(("vanilla", "tee") * 5):
            assert await one_call(session, state["url"], method, number, tally, stream=False)
        process.kill()
        process.wait()
        process.stdout.close()
        async with asyncio.timeout(15):
            for one in state["processes"].values():
                while running(one["pid"]):
                    await asyncio.sleep(0.05)
        network = Network(stub_config(home))
        try:
            await network.start()
            assert not await collect(session, network, tally, 30)
            await asyncio.sleep(0.5)
            await check(network, home, tally)
        finally:
            await network.stop()


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
