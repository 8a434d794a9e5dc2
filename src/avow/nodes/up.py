"""`python -m avow.nodes.up`: a network on this machine: chain, enclave, node, gateway and watcher, each a process of its own.

HOME holds all of it: chain/, node/, gateway/, watcher/, development-enclave/, models/, keys/governance, run/ (sockets and logs),
network.json (where everything is), trust.json (what a reader on this machine pins).
"""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from avow.chain.modules import measurements, nodes
from avow.errors import AvowError
from avow.home import home_folder, private_folder, write_private
from avow.models.store import Progress, no_progress
from avow.nodes.chain_client import ChainClient
from avow.nodes.gateway.account import account_address, account_key
from avow.nodes.local import (
    DEFAULT_MODEL,
    LocalAccounts,
    install_programs,
    make_genesis,
    measurement_of,
    methods_of,
    programs_for,
)
from avow.nodes.node_client import NodeClient
from avow.nodes.process import configure_logging
from avow.nodes.supervisor import Child, Supervisor
from avow.receipt.statement import Method

log = logging.getLogger(__name__)

START_S = 180.0
READY_S = 180.0
TRUST_REFRESH_S = 3_600.0
_POLL_S = 0.05


class AlreadyUp(AvowError):
    """Another process runs this home's network."""

    code = "already_up"


class NotServing(AvowError):
    """The network's parts do not come together."""

    code = "not_serving"


@dataclass(frozen=True, slots=True)
class UpConfig:
    """Port 0 picks a free one. `programs` by name; `program_ids` and `modules` stand in for programs and processes (tests)."""

    home: Path
    port: int = 8600
    host: str = "127.0.0.1"
    programs: tuple[str, ...] = field(default_factory=lambda: programs_for(DEFAULT_MODEL))
    threads: int = 1
    slots: int = 4
    program_ids: tuple[bytes, ...] | None = None
    modules: dict[str, str] = field(
        default_factory=lambda: {
            "chain": "avow.nodes.full",
            "enclave": "avow.nodes.enclave_process",
            "node": "avow.nodes.inference",
            "gateway": "avow.nodes.gateway",
            "watcher": "avow.nodes.watcher",
        }
    )


class Network:
    """Makes what is missing, starts the processes, and says where everything is."""

    def __init__(self, config: UpConfig, progress: Progress = no_progress) -> None:
        self._config = config
        self._progress = progress
        self._home = private_folder(config.home)
        self._accounts = LocalAccounts(self._home)
        self._lock = _lock(private_folder(config.home / "run") / "lock")
        self._started_ms = time.time_ns() // 1_000_000
        self._program_ids: tuple[bytes, ...] = ()
        self._methods: dict[bytes, frozenset[Method]] = {}
        self._supervisor = Supervisor(lambda _child: self._changed())
        self._chain_id = ""
        self._up = False

    # Where things are.

    def _socket(self, name: str) -> str:
        return f"unix:{self._home / 'run' / name}.sock"

    def state(self) -> dict[str, Any]:
        """network.json."""
        children = {child.name: child for child in self._supervisor.children}
        return {
            "version": 1,
            "home": str(self._home),
            "chain_id": self._chain_id,
            "url": children["gateway"].address,
            "chain": children["chain"].address,
            "node": self._socket("node"),
            "enclave": self._socket("enclave"),
            "programs": [program.hex() for program in self._program_ids],
            "accounts": self._accounts.addresses(),
            "processes": {
                name: {"pid": child.pid, "restarts": child.restarts, "log": str(child.log_file)}
                for name, child in children.items()
            },
            "supervisor": os.getpid(),
            "started_ms": self._started_ms,
        }

    def _changed(self) -> None:
        if self._up:
            self._write_state()

    def _write_state(self) -> None:
        write_private(self._home / "network.json", json.dumps(self.state(), indent=2).encode() + b"\n")

    # Starting.

    async def start(self) -> dict[str, Any]:
        """Everything up and answering; network.json. Raises what keeps a part from starting."""
        config = self._config
        if config.program_ids is None:
            self._program_ids = await asyncio.to_thread(install_programs, self._home, config.programs, self._progress)
        else:
            self._program_ids = config.program_ids
        self._chain_id = await asyncio.to_thread(make_genesis, self._home, self._program_ids)
        self._methods = {program: methods_of(self._home, program) for program in self._program_ids}
        supervisor = self._supervisor
        chain = self._child("chain", self._chain_arguments)
        enclave = self._child("enclave", self._enclave_arguments)
        node = self._child("node", self._node_arguments)
        gateway = self._child("gateway", self._gateway_arguments)
        supervisor.start(chain)
        await supervisor.until_ready(chain, START_S)
        for child in (enclave, node, gateway):
            supervisor.start(child)
        for child in (enclave, node, gateway):
            await supervisor.until_ready(child, START_S)
        watchers = self._watchers()
        for child in watchers:
            supervisor.start(child)
        try:
            await asyncio.wait_for(self._until_serving(), READY_S)
        except TimeoutError:
            logs = self._home / "run"
            raise NotServing(
                f"the processes run, and do not serve all programs after {READY_S:.0f} s",
                hint=f"their logs are in {logs}",
            ) from None
        for child in watchers:
            await supervisor.until_ready(child, START_S)
        await self._write_trust()
        self._up = True
        self._write_state()
        return self.state()

    def _watchers(self) -> list[Child]:
        """The appointed watcher, where there is something to watch."""
        optimistic = any(Method.OPTIMISTIC in methods for methods in self._methods.values())
        return [self._child("watcher", self._watcher_arguments)] if optimistic else []

    def _child(self, name: str, arguments: Callable[[str | None], Awaitable[Sequence[str]]]) -> Child:
        return Child(name, self._config.modules[name], arguments, self._home / "run" / f"{name}.log")

    def _address(self, name: str) -> str:
        address = next(child.address for child in self._supervisor.children if child.name == name)
        assert address is not None
        return address

    async def _chain_arguments(self, previous: str | None) -> Sequence[str]:
        return ["--home", str(self._home), "--port", _port_of(previous, 0)]

    async def _enclave_arguments(self, _previous: str | None) -> Sequence[str]:
        """The measurement is allowed before the enclave starts: the code may be another than at genesis."""
        await self._allow_measurement()
        return ["--home", str(self._home), "--listen", self._socket("enclave"), *self._engine_arguments()]

    async def _node_arguments(self, _previous: str | None) -> Sequence[str]:
        addresses = ["--listen", self._socket("node"), "--enclave", self._socket("enclave")]
        return ["--home", str(self._home), "--chain", self._address("chain"), *addresses, *self._engine_arguments()]

    def _engine_arguments(self) -> list[str]:
        config = self._config
        ids = self._program_ids if config.program_ids is None else ()
        programs = [part for program in ids for part in ("--program", program.hex())]
        return [*programs, "--threads", str(config.threads), "--slots", str(config.slots)]

    async def _gateway_arguments(self, previous: str | None) -> Sequence[str]:
        config = self._config
        where = ["--host", config.host, "--port", _port_of(previous, config.port)]
        return [
            *("--home", str(self._home)),
            *("--node", self._socket("node")),
            *("--chain", self._address("chain")),
            *where,
        ]

    async def _watcher_arguments(self, _previous: str | None) -> Sequence[str]:
        where = ["--chain", self._address("chain"), "--gateway", self._address("gateway")]
        return ["--home", str(self._home), *where, "--threads", str(self._config.threads)]

    async def _allow_measurement(self) -> None:
        measurement = await asyncio.to_thread(measurement_of, self._home, self._program_ids)
        async with ChainClient(self._address("chain"), account_key(self._accounts.governance)) as client:
            entry = (measurement, measurements.ANY_PROGRAM)
            allowed, _, _ = await client.view(nodes.ADDRESS, "allowedMeasurement", *entry)
            if not allowed:
                await client.transact(nodes.ADDRESS, "allowMeasurement", *entry, 0, measurements.NO_END_MS)

    async def _until_serving(self) -> None:
        """Until the node can answer by all methods, the gateway knows it, and its account may be charged."""
        operator, payer = account_address(self._accounts.operator), account_address(self._accounts.payer)
        wanted = set().union(*self._methods.values())
        async with ChainClient(self._address("chain")) as chain, aiohttp.ClientSession() as session:
            while True:
                remaining, _ = await chain.allowance(payer, operator)
                if remaining and await self._answering() >= wanted and await self._routed(session):
                    return
                await asyncio.sleep(_POLL_S)

    async def _answering(self) -> set[int]:
        """The methods that the node has a key for."""
        client = NodeClient()
        try:
            await client.connect(self._socket("node"))
            description = await client.describe()
        except AvowError:
            return set()
        finally:
            await client.close()
        return {key.method for key in description.keys}

    async def _routed(self, session: aiohttp.ClientSession) -> bool:
        """Whether the gateway offers every program by all of its methods."""
        try:
            async with session.get(f"{self._address('gateway')}/v1/models") as response:
                models = (await response.json())["data"]
        except (aiohttp.ClientError, KeyError, TypeError, ValueError):
            return False
        offered = {model["avow"]["program"]: set(model["avow"]["methods"]) for model in models}
        return all(
            {method.label for method in methods} <= offered.get(program.hex(), set())
            for program, methods in self._methods.items()
        )

    async def _write_trust(self) -> None:
        async with ChainClient(self._address("chain")) as chain:
            policy = await chain.trust()
        write_private(self._home / "trust.json", policy.to_json())

    # Running.

    async def run(self) -> None:
        """Until a part is given up; raises why."""
        refreshing = asyncio.get_running_loop().create_task(self._refresh_trust())
        try:
            await self._supervisor.until_failed()
        finally:
            refreshing.cancel()

    async def _refresh_trust(self) -> None:
        while True:
            await asyncio.sleep(TRUST_REFRESH_S)
            try:
                await self._write_trust()
            except AvowError as error:
                log.warning("the trust policy is not renewed: %s", error.detail)

    async def stop(self) -> None:
        await self._supervisor.stop()
        (self._home / "network.json").unlink(missing_ok=True)
        os.close(self._lock)

    def kill(self) -> None:
        self._supervisor.kill()


def _lock(path: Path) -> int:
    """Held until it is closed. Raises AlreadyUp."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise AlreadyUp("a network runs in this home already", hint="`avow status` shows it") from None
    return descriptor


def _port_of(address: str | None, otherwise: int) -> str:
    """The port of a URL that a process was ready at before: it comes back where it was."""
    return str(otherwise) if address is None else address.rstrip("/").rpartition(":")[2]


OnReady = Callable[[dict[str, Any]], Awaitable[None]]


async def up(config: UpConfig, on_ready: OnReady, progress: Progress = no_progress) -> None:
    """Start, call `on_ready` with network.json, and run until SIGINT or SIGTERM (a second one kills)."""
    network = Network(config, progress)
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            main.cancel()
        else:
            network.kill()
            os._exit(130)  # a download in a thread would be waited for

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await on_ready(await network.start())
        await network.run()
    except asyncio.CancelledError:
        if not asked:
            raise
        main.uncancel()
    finally:
        await network.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="avow up", description="Start a network on this machine.")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--port", type=int, default=UpConfig.__dataclass_fields__["port"].default)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    configure_logging()
    config = UpConfig(home_folder(given.home), given.port, given.host, programs_for(given.model), threads=given.threads)

    async def say(state: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(state) + "\n" if given.json else describe(state))
        sys.stdout.flush()

    try:
        asyncio.run(up(config, say))
    except AvowError as error:
        sys.stderr.write(f"{error.code}: {error.detail}\n")
        raise SystemExit(1) from error


def describe(state: dict[str, Any]) -> str:
    """Where everything is, for people; the last line is `ready URL`."""
    rows = [("chain", state["chain"]), ("node", state["node"]), ("enclave", state["enclave"])]
    if "watcher" in state.get("processes", ()):
        rows.append(("watcher", state["accounts"]["watcher"]))
    rows += [("home", state["home"]), ("chain id", state["chain_id"])]
    return "".join([f"{name:<9} {where}\n" for name, where in rows]) + f"ready {state['url']}\n"


if __name__ == "__main__":
    main()
