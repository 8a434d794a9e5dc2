"""Children: ready, restarted, given up, stopped in order, and gone with their supervisor."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avow.nodes import supervisor as supervisor_module
from avow.nodes.errors import ConnectionLost
from avow.nodes.supervisor import Child, ChildFailed, Supervisor
from tests.nodes.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def children_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def child(tmp_path, name, module, *arguments):
    async def given(_previous):
        return arguments

    return Child(name, f"tests.nodes.children.{module}", given, tmp_path / f"{name}.log")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


async def until(condition, timeout_s=10):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_killed_child_comes_back_and_all_stop(tmp_path):
    changes = []
    supervisor = Supervisor(lambda one: changes.append((one.name, one.pid)))
    first, second = child(tmp_path, "first", "steady", "here"), child(tmp_path, "second", "steady", "there")
    for one in (first, second):
        supervisor.start(one)
    assert await supervisor.until_ready(first, 10) == "here"
    assert await supervisor.until_ready(second, 10) == "there"
    pid = first.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len(changes) == 3)
    assert first.restarts == 1
    assert first.pid != pid
    pids = [first.pid, second.pid]
    await supervisor.stop()
    assert not any(alive(pid) for pid in pids)
    assert b"a word before" in (tmp_path / "first.log").read_bytes()


async def test_a_child_that_never_starts_is_given_up_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE_S", 0.01)
    supervisor = Supervisor(lambda _: None)
    broken = child(tmp_path, "broken", "broken")
    supervisor.start(broken)
    with pytest.raises(ChildFailed, match="something is missing"):
        await supervisor.until_ready(broken, 30)
    with pytest.raises(ChildFailed):
        await supervisor.until_failed()
    await supervisor.stop()


async def test_a_child_waits_for_what_it_needs_to_start(tmp_path):
    supervisor = Supervisor(lambda _: None)
    missing = [ConnectionLost("the chain is away"), ConnectionLost("still away")]

    async def given(_previous):
        if missing:
            raise missing.pop()
        return ("here",)

    one = Child("one", "tests.nodes.children.steady", given, tmp_path / "one.log")
    supervisor.start(one)
    assert await supervisor.until_ready(one, 10) == "here"
    await supervisor.stop()


async def test_a_stubborn_child_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "STOP_S", 0.3)
    supervisor = Supervisor(lambda _: None)
    stubborn = child(tmp_path, "stubborn", "stubborn")
    supervisor.start(stubborn)
    await supervisor.until_ready(stubborn, 10)
    pid = stubborn.pid
    await supervisor.stop()
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
async def test_children_end_with_a_supervisor_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        f"""
import asyncio, sys
from pathlib import Path
from avow.nodes.supervisor import Child, Supervisor

async def main():
    async def none(_): return ["x"]
    supervisor = Supervisor(lambda _: None)
    one = Child("one", "tests.nodes.children.steady", none, Path({str(tmp_path)!r}) / "one.log")
    supervisor.start(one)
    await supervisor.until_ready(one, 10)
    print(one.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 5
    while alive(pid) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    gone = not alive(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert gone
