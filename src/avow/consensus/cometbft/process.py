"""The CometBFT process, kept running beside its application.

Rules:
1. The application listens first; then CometBFT is started. Stale sockets are removed, and a CometBFT that an earlier
   process left behind is ended: STALE_S to go by itself, then SIGKILL.
2. It is never judged by its exit status (it exits with 0 when its application dies): whenever it ends unasked it is started again,
   after a pause that doubles from FIRST_PAUSE_S to LONGEST_PAUSE_S and is forgotten after HEALTHY_S.
3. It can hang while it still answers status calls. One without a connection to the application for HANG_S, after it had one, is
   killed; so is one that has none START_S after its start.
4. When its consensus fails (a panic of its own), CometBFT says so in its log, lives on and answers, and decides nothing ever again:
   it is killed, and recovers as from any kill.
5. One that ends GIVE_UP times in a row, each time within HEALTHY_S, is given up: CometBFTFailed, with the end of its log.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from avow.consensus.cometbft import launch
from avow.consensus.cometbft.binary import Binary
from avow.consensus.cometbft.configuration import Folder
from avow.consensus.cometbft.errors import CometBFTFailed
from avow.home import write_private

log = logging.getLogger(__name__)

STALE_S = 3.0
HANG_S = 3.0
START_S = 60.0
STOP_S = 10.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
HEALTHY_S = 5.0
GIVE_UP = 10
MAX_LOG = 64 * 1024 * 1024
FAILURE = b"CONSENSUS FAILURE!!!"
_POLL_S = 0.1
_READ_S = 1.0
_MAX_READ = 1024 * 1024
_TAIL = 4_000


class CometProcess:
    """`keep` runs it until `stop`. The server tells of connections by `connections`."""

    def __init__(self, binary: Binary, folder: Folder, options: Sequence[str]) -> None:
        """`options` follow `cometbft start --home FOLDER`."""
        self._binary = binary
        self._folder = folder
        self._options = tuple(options)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._connected = False
        self._without_since = 0.0
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def connections(self, count: int) -> None:
        """How many connections the application has now."""
        if count:
            self._connected = True
            self._without_since = 0.0
        else:
            self._without_since = asyncio.get_running_loop().time()

    async def keep(self) -> None:
        """Rules 1 to 5. Returns after `stop`. Raises CometBFTFailed."""
        await end_stale(self._folder, self._binary)
        loop = asyncio.get_running_loop()
        pause_s, failures = FIRST_PAUSE_S, 0
        while not self._stopping.is_set():
            started = loop.time()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            if loop.time() - started > HEALTHY_S:
                pause_s, failures = FIRST_PAUSE_S, 0
            else:
                failures += 1
                if failures >= GIVE_UP:
                    raise CometBFTFailed(f"CometBFT does not keep running: {self._tail()}", log=str(self._folder.log))
            log.warning("CometBFT ended (status %s); it is started again in %.1f s", status, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.restarts += 1

    async def _run_once(self) -> int:
        self._folder.rpc_socket.unlink(missing_ok=True)
        self._connected = False
        program = [str(self._binary.path), "start", "--home", str(self._folder.path), *self._options]
        command = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *program]
        with _open_log(self._folder.log) as output:
            written = output.tell()
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._process = process
        write_private(self._folder.process, str(process.pid).encode())
        watching = asyncio.get_running_loop().create_task(self._watch(process, written), name="cometbft watch")
        try:
            return await process.wait()
        finally:
            watching.cancel()
            if process.returncode is None:
                _kill(process.pid)
            self._folder.process.unlink(missing_ok=True)

    async def _watch(self, process: asyncio.subprocess.Process, written: int) -> None:
        """Rules 3 and 4. The log had `written` bytes before this process."""
        loop = asyncio.get_running_loop()
        started = read = loop.time()
        while True:
            await asyncio.sleep(_POLL_S)
            now = loop.time()
            never = not self._connected and now - started > START_S
            lost = self._connected and self._without_since > 0 and now - self._without_since > HANG_S
            if never or lost:
                log.warning("CometBFT runs without its application: it is killed")
                _kill(process.pid)
                return
            if now - read >= _READ_S:
                read = now
                written, failed = _failed_since(self._folder.log, written)
                if failed:
                    log.error("CometBFT's consensus failed: it is killed, and started again")
                    _kill(process.pid)
                    return

    async def stop(self) -> None:
        """SIGTERM, STOP_S, SIGKILL."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            log.warning("CometBFT does not stop: it is killed")
            _kill(process.pid)
            await process.wait()

    def _tail(self) -> str:
        try:
            data = self._folder.log.read_bytes()[-_TAIL:]
        except OSError:
            return "it left no log"
        lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-1_000:] if lines else "it left no word"


async def end_stale(folder: Folder, binary: Binary) -> None:
    """Rule 1: end the process that the folder still names, if it is a CometBFT."""
    try:
        pid = int(folder.process.read_text())
    except (OSError, ValueError):
        return
    deadline = asyncio.get_running_loop().time() + STALE_S
    while _is_ours(pid, binary, folder):
        if asyncio.get_running_loop().time() > deadline:
            log.warning("a CometBFT outlived its application: it is killed")
            _kill(pid)
            deadline += STALE_S
        await asyncio.sleep(_POLL_S)
    folder.process.unlink(missing_ok=True)


def _is_ours(pid: int, binary: Binary, folder: Folder) -> bool:
    """Whether this process runs on this folder; where there is no /proc, nobody else's process is ever touched."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(binary.path) in command and os.fsencode(folder.path) in command


def _failed_since(path: Path, position: int) -> tuple[int, bool]:
    """Whether the log speaks of failure after `position`; where to read on, a word cut in two read again."""
    with path.open("rb") as file:
        file.seek(position)
        data = file.read(_MAX_READ)
    return position + max(0, len(data) - len(FAILURE)), FAILURE in data


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _open_log(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    if path.exists() and path.stat().st_size > MAX_LOG:
        path.replace(path.with_suffix(".old"))
    return path.open("ab", buffering=0)
