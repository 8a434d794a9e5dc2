"""A network of validators on one machine: each a chain process with its CometBFT, all kept running by one process.

Rules:
1. Each validator has a supervisor of its own (nodes/supervisor.py): one that is given up leaves the others running.
2. `stop` of one validator keeps it down until `start`; `kill` sends a signal and lets the supervisor do its work.
3. How a validator is, is judged by its height: `stalled` when no block came for STALLED_HEARTBEATS heartbeats though it answers.
"""

import asyncio
import fcntl
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avow.errors import AvowError
from avow.home import private_folder
from avow.nodes.chain_client import ChainClient
from avow.nodes.full import COMETBFT, load_genesis
from avow.nodes.net import control
from avow.nodes.net.errors import AlreadyUp, ControlFault, NotRelayed
from avow.nodes.net.layout import Layout, ValidatorPlace, load, names
from avow.nodes.net.relay import Relays, pairs_between
from avow.nodes.supervisor import Child, ChildFailed, Supervisor

MODULE = "avow.nodes.full"
START_S = 120.0
STALLED_HEARTBEATS = 5
ASK_S = 2.0
SIGNALS = ("KILL", "TERM", "STOP", "CONT")
PROCESSES = ("chain", "cometbft", "both")


@dataclass(slots=True)
class _Running:
    place: ValidatorPlace
    supervisor: Supervisor
    child: Child
    failed: str = ""
    watch: asyncio.Task[None] | None = None


class Net:
    """`start` it, `run` it until it is stopped."""

    def __init__(self, home: Path, *, snapshot_interval: int = 0) -> None:
        """Raises NotUp (no network here), AlreadyUp."""
        self._home = home
        self._layout = load(home)
        self._lock = _lock(private_folder(home / "run") / "lock")
        self._snapshot_interval = snapshot_interval
        self._heartbeat_s = load_genesis(Path(self._layout.validators[0].home)).heartbeat_ms / 1000
        self._running: dict[int, _Running] = {}
        self._relays = Relays(self._layout) if self._layout.relay else None
        self._control: asyncio.Server | None = None
        self._over = asyncio.Event()
        self._heights: dict[int, tuple[int, float]] = {}

    @property
    def layout(self) -> Layout:
        return self._layout

    async def start(self, wait: bool = True) -> None:
        """All validators; with `wait`, until each serves. Raises ChildFailed."""
        if self._relays is not None:
            await self._relays.start()
        for place in self._layout.validators:
            self._launch(place)
        self._control = await control.serve(self._home, self._answer)
        if wait:
            await asyncio.gather(*[item.supervisor.until_ready(item.child, START_S) for item in self._running.values()])

    async def run(self) -> None:
        """Until `stop` or the command to stop."""
        await self._over.wait()

    async def stop(self) -> None:
        self._over.set()
        if self._control is not None:
            self._control.close()
            (self._home / control.SOCKET).unlink(missing_ok=True)
        await asyncio.gather(*[item.supervisor.stop() for item in self._running.values()])
        self._running.clear()
        if self._relays is not None:
            await self._relays.stop()
        self._lock.close()

    # --- Validators -------------------------------------------------------------------------------------------------

    def _launch(self, place: ValidatorPlace) -> None:
        async def arguments(_previous: str | None) -> Sequence[str]:
            where = ["--home", place.home, "--port", str(place.rpc_port), "--engine", COMETBFT]
            return [*where, "--snapshot-interval", str(self._snapshot_interval)]

        supervisor = Supervisor(lambda _child: None)
        child = Child(place.name, MODULE, arguments, self._home / "run" / f"{place.name}.log")
        running = self._running[place.index] = _Running(place, supervisor, child)
        supervisor.start(child)
        running.watch = asyncio.get_running_loop().create_task(self._until_failed(running))

    async def _until_failed(self, running: _Running) -> None:
        """Rule 1."""
        try:
            await running.supervisor.until_failed()
        except (ChildFailed, asyncio.CancelledError) as error:
            running.failed = error.detail if isinstance(error, AvowError) else ""

    async def _down(self, place: ValidatorPlace) -> None:
        running = self._running.pop(place.index, None)
        if running is not None:
            await running.supervisor.stop()

    def _signal(self, place: ValidatorPlace, process: str, number: signal.Signals) -> list[int]:
        """Send a signal to a validator's processes; their ids."""
        pids = [pid for name, pid in self.pids(place).items() if pid and process in (name, "both")]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def pids(self, place: ValidatorPlace) -> dict[str, int | None]:
        """Process ids of a validator's two processes, as far as they run."""
        running = self._running.get(place.index)
        cometbft: int | None = None
        with suppress(OSError, ValueError):
            cometbft = int(place.comet.process.read_text())
        return {"chain": running.child.pid if running else None, "cometbft": cometbft if running else None}

    # --- Commands ---------------------------------------------------------------------------------------------------

    async def _answer(self, request: dict[str, Any]) -> Any:
        """Raises ControlFault, UnknownValidator, NotRelayed."""
        command = request["command"]
        if command == "status":
            return await self.status()
        if command == "stop" and "validator" not in request:
            self._over.set()
            return "stopping"
        if command in ("partition", "heal"):
            return self._partition(request)
        if command == "reload":
            return self._reload()
        place = self._layout.validator(str(request.get("validator", "")))
        if command == "stop":
            await self._down(place)
            return "stopped"
        if command == "start":
            if place.index not in self._running:
                self._launch(place)
            return "started"
        if command == "kill":
            process, name = request.get("process", "both"), request.get("signal", "KILL")
            if process not in PROCESSES or name not in SIGNALS:
                raise ControlFault("a process is chain, cometbft or both; a signal is KILL, TERM, STOP or CONT")
            return self._signal(place, process, signal.Signals[f"SIG{name}"])
        raise ControlFault("an unknown command", command=command[:64])

    def _reload(self) -> list[str]:
        """Start the validators that were added since."""
        if self._relays is not None:
            raise ControlFault("a network with relays cannot grow while it runs")
        known = {place.index for place in self._layout.validators}
        self._layout = load(self._home)
        added = [place for place in self._layout.validators if place.index not in known]
        for place in added:
            self._launch(place)
        return [place.name for place in added]

    def _partition(self, request: dict[str, Any]) -> list[tuple[int, int]]:
        if self._relays is None:
            raise NotRelayed("nothing stands between these validators", hint="make the network with --relay")
        if request["command"] == "heal":
            self._relays.join()
            return []
        groups = request.get("groups")
        if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
            raise ControlFault("groups are lists of validators")
        named = [[place.index for place in names(self._layout, [str(item) for item in group])] for group in groups]
        if len(named) == 1:  # these against all others
            named.append([place.index for place in self._layout.validators if place.index not in named[0]])
        self._relays.part(pairs_between(named))
        return self._relays.parted

    async def status(self) -> list[dict[str, Any]]:
        """Rule 3, for each validator."""
        return list(await asyncio.gather(*[self._one(place) for place in self._layout.validators]))

    async def _one(self, place: ValidatorPlace) -> dict[str, Any]:
        running = self._running.get(place.index)
        view: dict[str, Any] = {"name": place.name, "rpc": f"http://127.0.0.1:{place.rpc_port}", **self.pids(place)}
        view["restarts"] = running.child.restarts if running else 0
        view["state"] = "stopped" if running is None else ("failed" if running.failed else "starting")
        if running is None or running.failed:
            return view | ({"reason": running.failed} if running else {})
        try:
            async with ChainClient(view["rpc"], timeout_s=ASK_S) as client:
                found = await client.rpc("avow_status")
        except AvowError:
            return view
        return (
            view
            | {"state": self._judge(place, found["height"])}
            | {name: found[name] for name in ("height", "block_hash", "time_ms", "waiting")}
        )

    def _judge(self, place: ValidatorPlace, height: int) -> str:
        now = asyncio.get_running_loop().time()
        known, since = self._heights.get(place.index, (-1, now))
        if height != known:
            self._heights[place.index] = (height, now)
            since = now
        return "stalled" if now - since > STALLED_HEARTBEATS * self._heartbeat_s else "up"


def _lock(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise AlreadyUp("another process runs this network", file=str(path)) from None
    return file
