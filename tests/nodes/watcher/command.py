"""`avow watch` as a process of its own, and a way to the chain on which a test can stop it between any two moves."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientSession, web

from avow.chain.transaction import address_of_private_key, sign_transaction
from tests.nodes.conftest import REPOSITORY
from tests.nodes.liars import Lie, LyingEngine
from tests.patience import patient_s

PATIENCE_S = patient_s(180)
"""Machines that test are slow and busy; what is tested is not how long it takes."""
MARKS = [
    pytest.mark.timeout(2_400),
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.xdist_group("network"),
]
"""Of the tests that run a network and its watchers as processes."""


def lying(engine):
    """The engine with a wrong value of its fifth operator."""
    return LyingEngine(engine, [Lie(0, 4)])


@dataclass
class Watch:
    """A running `avow watch --json`. `changes`: its lines so far."""

    process: asyncio.subprocess.Process
    changes: list[dict] = field(default_factory=list)
    _reading: asyncio.Task | None = None
    _errors: asyncio.Task | None = None

    @property
    def states(self):
        return [change["state"] for change in self.changes]

    async def until(self, condition: Callable[["Watch"], bool], timeout_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                assert self.process.returncode is None, await self.errors()
                await asyncio.sleep(0.02)

    async def until_state(self, state: str, timeout_s: float = PATIENCE_S) -> None:
        await self.until(lambda watch: state in watch.states, timeout_s)

    def kill(self) -> None:
        """As a machine does that fails."""
        self.process.send_signal(signal.SIGKILL)

    async def interrupt(self, timeout_s: float = PATIENCE_S) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.ended(), timeout_s)

    async def ended(self) -> int:
        code = await self.process.wait()
        await self._reading
        return code

    async def errors(self) -> str:
        return (await self._errors).decode()

    async def _read(self) -> None:
        async for line in self.process.stdout:
            self.changes.append(json.loads(line))


async def spawn(
    *arguments, home=None, program="from avow.cli import main; main()", **more
) -> asyncio.subprocess.Process:
    """`avow ARGUMENTS`, or another program."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 22, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}", "AVOW_HOME": str(home or "/nonexistent")}, **more,
    )  # fmt: skip


async def avow(*arguments, home=None, timeout_s=PATIENCE_S) -> tuple[int, str, str]:
    """`avow ARGUMENTS` to its end: exit code, standard output, standard error."""
    process = await spawn(*arguments, home=home)
    out, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    return process.returncode, out.decode(), errors.decode()


async def pay(client, key, to, wei):
    """A plain transfer from the account of `key`, in a block."""
    network = await client.network()
    nonce = int(await client.rpc("eth_getTransactionCount", "0x" + address_of_private_key(key).hex(), "pending"), 16)
    raw = sign_transaction(
        key,
        chain_id=network.eip155,
        nonce=nonce,
        gas_limit=30_000,
        to=to,
        max_fee=network.base_fee,
        value=wei,
        data=b"",
    )
    before = await client.balance(to)
    await client.send(raw)
    async with asyncio.timeout(60):
        while await client.balance(to) == before:
            await asyncio.sleep(0.05)


def watcher_home(network, path=None, key=None):
    """A home for a watcher process: its account, and the programs of the network's own."""
    home = path or network.home / "watching"
    folder = home / "watcher"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key").write_text((key or network.watcher).hex() + "\n")
    (folder / "key").chmod(0o600)
    if not (home / "models").exists():
        (home / "models").symlink_to(network.home / "models")
    return home


@contextlib.asynccontextmanager
async def watching(network, *options, home=None, chain=None, gateway=None, rate="1"):
    """`avow watch --json` beside a network of tests/nodes/optimistic.py; killed at the end if it still runs."""
    where = ("--chain", chain or network.url, "--gateway", gateway or network.gateway, "--rate", rate)
    process = await spawn("watch", "--json", *where, *options, home=home or watcher_home(network))
    watch = Watch(process)
    watch._reading = asyncio.create_task(watch._read())
    watch._errors = asyncio.create_task(process.stderr.read())
    try:
        yield watch
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(watch._reading, watch._errors, return_exceptions=True)


@contextlib.asynccontextmanager
async def way_to(url, before=None, after=None):
    """A JSON-RPC address that leads to `url`. `before(number)` and `after(number)` see each transaction sent, counted from 1: before it
    is passed on, and when it is in the pool but the sender has no answer. A true result: the call is never answered."""
    sent = 0

    async def forward(request):
        nonlocal sent
        body = await request.read()
        number = 0
        if b"eth_sendRawTransaction" in body:
            sent += 1
            number = sent
        if number and before is not None and await before(number):
            await asyncio.sleep(3_600)
        async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
            found = web.Response(body=await answer.read(), status=answer.status, content_type="application/json")
        if number and after is not None and await after(number):
            await asyncio.sleep(3_600)
        return found

    async with ClientSession() as session:
        application = web.Application(client_max_size=1 << 24)
        application.router.add_post("/", forward)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()
