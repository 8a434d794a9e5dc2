"""The supervisor's rules, with small programs in CometBFT's place."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from avow.consensus.cometbft import launch, process
from avow.consensus.cometbft.binary import Binary
from avow.consensus.cometbft.configuration import Folder
from avow.consensus.cometbft.errors import CometBFTFailed
from avow.consensus.cometbft.process import CometProcess, end_stale
from tests.patience import patient_s


def stand_in(tmp_path: Path, script: str) -> CometProcess:
    program = tmp_path / "cometbft"
    program.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\n{script}\n")
    program.chmod(0o755)
    folder = Folder(tmp_path / "folder")
    folder.path.mkdir(exist_ok=True)
    return CometProcess(Binary(program, "v0.40.0"), folder, ["--x"])


def starts(tmp_path: Path) -> int:
    try:
        return len((tmp_path / "starts").read_text().splitlines())
    except FileNotFoundError:
        return 0


async def until(condition, timeout_s: float = 10) -> None:
    async with asyncio.timeout(patient_s(timeout_s)):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def kept(made: CometProcess):
    task = asyncio.create_task(made.keep())
    try:
        yield task
    finally:
        await made.stop()
        await asyncio.gather(task, return_exceptions=True)


async def test_whatever_its_status_it_is_started_again(tmp_path):
    made = stand_in(tmp_path, "exit 0")
    async with kept(made):
        await until(lambda: starts(tmp_path) >= 3)
    assert made.pid is None
    assert not (tmp_path / "folder" / "cometbft.pid").exists()


async def test_one_that_ends_again_and_again_is_given_up_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GIVE_UP", 3)
    made = stand_in(tmp_path, "echo the disk is full >&2; exit 1")
    with pytest.raises(CometBFTFailed, match="the disk is full"):
        await asyncio.wait_for(made.keep(), patient_s(10))
    assert starts(tmp_path) == 3


async def test_one_that_lost_its_application_is_killed_though_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "HANG_S", 0.3)
    made = stand_in(tmp_path, "trap '' TERM; sleep 60 & wait; sleep 60")
    async with kept(made):
        await until(lambda: starts(tmp_path) == 1 and made.pid is not None)
        made.connections(4)
        await asyncio.sleep(0.6)
        assert starts(tmp_path) == 1  # connected: left alone
        made.connections(3)
        made.connections(0)
        await until(lambda: starts(tmp_path) == 2)


async def test_one_whose_consensus_failed_is_killed_though_it_lives_and_is_connected(tmp_path):
    """What CometBFT does when its consensus panics; an earlier process's words do not count."""
    words = "E[2026] CONSENSUS FAILURE!!!  module=consensus err=…"
    made = stand_in(tmp_path, f"[ $(wc -l < {tmp_path}/starts) = 1 ] && sleep 0.5 && echo '{words}'; sleep 60 & wait")
    async with kept(made):
        await until(lambda: starts(tmp_path) == 1 and made.pid is not None)
        made.connections(4)
        await until(lambda: starts(tmp_path) == 2)
        made.connections(4)
        await asyncio.sleep(2.5)
        assert starts(tmp_path) == 2


def test_a_word_of_failure_is_read_wherever_the_reading_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_MAX_READ", 30)
    path = tmp_path / "log"
    for before in range(40):
        path.write_bytes(b"x" * before + process.FAILURE + b"\n")
        position, failed = 0, False
        for _ in range(8):
            position, failed = process._failed_since(path, position)
            if failed:
                break
        assert failed
        assert process._failed_since(path, before + 1) == (before + 1, False)


async def test_one_that_never_reaches_its_application_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "START_S", 0.3)
    made = stand_in(tmp_path, "sleep 60")
    async with kept(made):
        await until(lambda: starts(tmp_path) >= 2)


async def test_stopping_is_asked_first_and_then_done(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "STOP_S", 0.3)
    made = stand_in(tmp_path, "trap '' TERM; while true; do sleep 0.1; done")
    task = asyncio.create_task(made.keep())
    await until(lambda: starts(tmp_path) == 1 and made.pid is not None)
    pid = made.pid
    await asyncio.sleep(0.2)
    await made.stop()
    await asyncio.wait_for(task, patient_s(5))
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_it_ends_with_its_parent(tmp_path):
    """The parent dies without a word; the child is gone with it."""
    code = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-S', {launch.__file__!r}, str(os.getpid()), '/bin/sleep', '60'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    import time

    for _ in range(200):
        if Path(f"/proc/{child}/comm").read_text().strip() == "sleep":
            break
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
                time.sleep(0.02)
                continue
        break
    else:
        raise AssertionError("it outlived its parent")
    result = subprocess.run([sys.executable, "-I", "-S", launch.__file__, "1", "/bin/true"], check=False)
    assert result.returncode == 1  # the parent was gone before


async def test_a_stale_one_is_ended_and_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "STALE_S", 0.2)
    made = stand_in(tmp_path, "exec sleep 60")
    binary, folder = Binary(tmp_path / "cometbft", "v0.40.0"), Folder(tmp_path / "folder")
    other = subprocess.Popen(["sleep", "60"])
    folder.process.write_text(str(other.pid))
    await end_stale(folder, binary)
    assert other.poll() is None
    other.kill()
    other.wait()
    ours = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", str(binary.path), "start", "--home", str(folder.path)]
    )
    await until(lambda: str(folder.path).encode() in Path(f"/proc/{ours.pid}/cmdline").read_bytes())  # past its exec
    folder.process.write_text(str(ours.pid))
    waiting = asyncio.create_task(asyncio.to_thread(ours.wait))
    await end_stale(folder, binary)
    assert await asyncio.wait_for(waiting, patient_s(5)) == -signal.SIGKILL
    assert not folder.process.exists()
    folder.process.write_text("nonsense")
    await end_stale(folder, binary)
    assert made.restarts == 0
