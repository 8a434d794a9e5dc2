"""Child processes that are kept running: started, awaited until ready, restarted when they crash, stopped in order.

Rules:
1. A child says `ready ADDRESS` on its standard output once. What else it writes goes to its log file.
2. A child that ends unasked is started again, after a pause that doubles from 0.1 s to 5 s and is forgotten after 5 s of
   health. One that ends GIVE_UP times before it was ever ready is given up, and with it everything.
3. Children are in sessions of their own: Ctrl-C reaches the supervisor alone, which stops them last to first. They end with
   the supervisor, however it ends (child.py).
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from avow.errors import AvowError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
HEALTHY_S = 5.0
GIVE_UP = 5
STOP_S = 10.0
MAX_LOG = 16 * 1024 * 1024
_TAIL = 2_000


class ChildFailed(AvowError):
    """A process of the network does not start."""

    code = "child_failed"


@dataclass(slots=True)
class Child:
    """One process. `arguments` is asked before each start, with the address that it was ready at before, if it was."""

    name: str
    module: str
    arguments: Callable[[str | None], Awaitable[Sequence[str]]]
    log_file: Path
    address: str | None = None
    pid: int | None = None
    restarts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failed: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Rules 1 to 3. `on_change` is called when a child became ready anew."""

    def __init__(self, on_change: Callable[[Child], None]) -> None:
        self._on_change = on_change
        self._children: list[Child] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    @property
    def children(self) -> Sequence[Child]:
        return tuple(self._children)

    def start(self, child: Child) -> None:
        self._children.append(child)
        task = asyncio.get_running_loop().create_task(self._keep(child), name=child.name)
        self._tasks[child.name] = task

    async def until_ready(self, child: Child, timeout_s: float) -> str:
        """The child's address. Raises ChildFailed, with the end of its log."""
        failed = asyncio.get_running_loop().create_task(child.failed.wait())
        ready = asyncio.get_running_loop().create_task(child.ready.wait())
        try:
            await asyncio.wait({failed, ready}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failed.cancel()
            ready.cancel()
        if child.ready.is_set() and child.address is not None:
            return child.address
        raise ChildFailed(f"{child.name} does not start: {_tail(child.log_file)}", log=str(child.log_file))

    async def until_failed(self) -> None:
        """Until a child is given up; raises ChildFailed then."""
        tasks = list(self._tasks.values())
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Stop all, last to first; what does not stop in time is killed."""
        self._stopping.set()
        for child in reversed(self._children):
            process = self._processes.get(child.name)
            if process is not None and process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), STOP_S)
                except TimeoutError:
                    log.warning("%s does not stop: it is killed", child.name)
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
            self._tasks[child.name].cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def kill(self) -> None:
        """At once, without ceremony."""
        self._stopping.set()
        for process in self._processes.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()

    async def _keep(self, child: Child) -> None:
        """Rule 2."""
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            started = loop.time()
            try:
                how = _how(await self._run_once(child))
            except AvowError as error:  # what it needs to start is not there just now
                how = error.detail
            child.pid = None
            if self._stopping.is_set():
                return
            if not child.ready.is_set():
                failures += 1
                if failures >= GIVE_UP:
                    child.failed.set()
                    raise ChildFailed(f"{child.name} does not start: {_tail(child.log_file)}", log=str(child.log_file))
            if loop.time() - started > HEALTHY_S:
                pause_s = FIRST_PAUSE_S
            log.warning("%s ended (%s); it is started again in %.1f s", child.name, how, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            child.restarts += 1

    async def _run_once(self, child: Child) -> int:
        """Start the child and read its output until it ends; its exit status."""
        arguments = [str(argument) for argument in await child.arguments(child.address)]
        command = [sys.executable, "-m", "avow.nodes.child", str(os.getpid()), child.module, *arguments]
        with _open_log(child.log_file) as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
            self._processes[child.name] = process
            child.pid = process.pid
            assert process.stdout is not None
            try:
                async for line in process.stdout:
                    word, _, address = line.decode(errors="replace").strip().partition(" ")
                    if word == "ready" and address:
                        child.address = address
                        child.ready.set()
                        self._on_change(child)
                    else:
                        os.write(output.fileno(), line)
                return await process.wait()
            except asyncio.CancelledError:
                if process.returncode is None:
                    process.send_signal(signal.SIGKILL)
                raise


def _open_log(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > MAX_LOG:
        path.replace(path.with_suffix(".old"))
    return path.open("ab", buffering=0)


def _tail(path: Path) -> str:
    try:
        data = path.read_bytes()[-_TAIL:]
    except OSError:
        return "it left no log"
    lines = data.decode(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) if lines else "it left no word"


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
