"""A network of processes on this machine: chain, gateway, a node that lies, and a watcher as its users start it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import avow
from avow.chain import abi
from avow.chain.modules import optimistic
from avow.exact.fraud import FraudProof
from avow.nodes.chain_client import ChainClient, function_of
from avow.nodes.full import create_network
from avow.nodes.gateway.account import account_address
from avow.nodes.local import FUNDS_WEI, LocalAccounts
from avow.receipt.encoding import decode
from avow.receipt.finality import OptimisticParameters

START_S = 600.0
BOND = 1_000 * 10**18
COMMAND = Path(sys.executable).with_name("avow")


class Failed(Exception):
    """A process of the network does not do what it should."""


class Process:
    """A process of the product's, its log in a file. `address`: what it said that it is ready at."""

    def __init__(self, name, log):
        self.name, self.log = name, log
        self.address = ""
        self._process = None

    async def start(self, *command):
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *map(str, command), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=output
            )

    async def ready(self):
        """Wait for its address."""
        async with asyncio.timeout(START_S):
            async for line in self._process.stdout:
                word, _, address = line.decode().strip().partition(" ")
                if word == "ready":
                    self.address = address
                    return
        raise Failed(f"{self.name} does not start: {self.log.read_text()[-500:]}")

    async def lines(self):
        async for line in self._process.stdout:
            yield line.decode()

    async def stop(self):
        """Its exit status."""
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            self.end()
            try:
                await asyncio.wait_for(process.communicate(), 20)
            except TimeoutError:
                process.kill()
                await process.communicate()
        return process.returncode

    def end(self):
        """Ask it to. (Not by asyncio's own, which would take the exit status of one that has just ended from who waits for it.)"""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)

    @property
    def ended(self):
        return self._process.returncode is not None


@dataclass(frozen=True)
class Conviction:
    """What the chain says about an overturned statement. `proof`: the fraud proof, `sender`: of the transaction that revealed it."""

    statement: bytes
    number: int
    winner: bytes
    slashed: int
    sender: bytes
    proof: bytes

    @property
    def fault(self):
        return FraudProof.parse(self.proof)


class Network:
    """`home` holds it; the store beside it is shared by all networks of a campaign."""

    def __init__(self, home, store, *, window_ms, **rules):
        self.home, self._store = home, store
        self.rules = replace(OptimisticParameters(), window_ms=window_ms, **rules)
        self.accounts = LocalAccounts(home)
        self.program = None
        self._processes = {}
        self.chain = None
        self.trust = None
        self._watched = None
        self.changes = {}

    async def __aenter__(self):
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / "run").mkdir(parents=True)
        (self.home / "models").symlink_to((self._store / "models").resolve(), target_is_directory=True)
        accounts = self.accounts
        addresses = [
            account_address(file) for file in (accounts.governance, accounts.operator, accounts.payer, accounts.watcher)
        ]
        self.rules = replace(self.rules, watchers=(addresses[3],))
        create_network(
            self.home,
            governance=addresses[0],
            accounts=[(address, FUNDS_WEI) for address in addresses],
            optimistic=self.rules,
        )
        self.operator, self.watcher = addresses[1], addresses[3]
        try:
            await self._start("chain", "avow.nodes.full", "--port", 0)
            self.chain = ChainClient(self._processes["chain"].address)
            self.trust = await self.chain.trust()
            (self.home / "reader").mkdir()
            (self.home / "reader" / "trust.json").write_bytes(self.trust.to_json())
            await self._start("gateway", "avow.nodes.gateway", "--node", self._socket, "--chain", self.url, "--port", 0)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_):
        if self._watched is not None:
            self._watched.cancel()
        for process in reversed(self._processes.values()):
            await process.stop()
        if self.chain is not None:
            await self.chain.close()

    @property
    def url(self):
        return self._processes["chain"].address

    @property
    def gateway(self):
        return self._processes["gateway"].address

    @property
    def _socket(self):
        return f"unix:{self.home}/run/node.sock"

    async def _start(self, name, module, *arguments):
        process = self._processes[name] = Process(name, self.home / "run" / f"{name}.log")
        child = ("-m", "avow.nodes.child", os.getpid())
        await process.start(sys.executable, *child, module, "--home", self.home, *arguments)
        await process.ready()

    # --- The node ---------------------------------------------------------------------------------------------------

    async def serve(self, program):
        """A node for this program, with a key of its own; the one before it is stopped."""
        if "node" in self._processes:
            await self._processes.pop("node").stop()
        where = ("--listen", self._socket, "--chain", self.url, "--program", program.hex())
        await self._start("node", "tests.soak_fraud.node", *where, "--no-vanilla", "--bond", BOND)

    def client(self):
        """Whoever asks."""
        return avow.AsyncClient(self.gateway, trust=self.trust, home=self.home / "reader", method="optimistic")

    # --- The watcher ------------------------------------------------------------------------------------------------

    async def watch(self):
        """`avow watch`; what it says of statements is in `changes`: states in order, by statement."""
        process = self._processes["watcher"] = Process("watcher", self.home / "run" / "watcher.log")
        where = ("--home", self.home, "--chain", self.url, "--gateway", self.gateway)
        await process.start(COMMAND, "watch", "--rate", 1, "--json", *where)
        self._watched = asyncio.create_task(self._follow(process))

    async def _follow(self, process):
        async for line in process.lines():
            said = json.loads(line)
            self.changes.setdefault(said["statement"], []).append(said)

    async def unwatch(self):
        """Its exit status; what it had begun goes on when it is started again."""
        task, self._watched = self._watched, None
        process = self._processes.pop("watcher")
        process.end()
        await asyncio.wait_for(task, 30)
        return await process.stop()

    def state_of(self, statement):
        """What the watcher last said about a statement."""
        said = self.changes.get(statement)
        return said[-1]["state"] if said else ""

    def check_alive(self):
        """Raises Failed if a process ended by itself."""
        for process in self._processes.values():
            if process.ended:
                raise Failed(f"{process.name} ended: {process.log.read_text()[-500:]}")

    # --- What the chain says ----------------------------------------------------------------------------------------

    async def bond(self):
        """Of the node: amount and what is locked."""
        amount, locked, _ = await self.chain.view(optimistic.ADDRESS, "bondOf", self.operator)
        return amount, locked

    async def convictions(self, since):
        """By statement, in blocks from `since` on."""
        found = {}
        for log in await self.chain.logs(optimistic.ADDRESS, "Overturned", since):
            number, _, slashed = log.values
            shown = await self.chain.rpc("eth_getTransactionByHash", "0x" + log.transaction.hex())
            proof = self._proof(bytes.fromhex(shown["input"][2:]))
            statement, winner = log.indexed[1], log.indexed[2][-20:]
            sender = bytes.fromhex(shown["from"][2:])
            found[statement] = Conviction(statement, number, winner, slashed, sender, proof)
        return found

    def _proof(self, data):
        prove = function_of(optimistic.ADDRESS, "prove")
        if data[:4] != prove.selector:
            return b""
        evidence, _salt = abi.decode([parameter.kind for parameter in prove.inputs], data[4:])
        return decode(evidence, max_bytes=1 << 20, max_items=1_024)["fault"]

    async def spent(self, account, since):
        """Wei that an account paid for its transactions in blocks from `since` on, and their number."""
        total = count = 0
        for height in range(since, (await self.chain.status())["height"] + 1):
            for receipt in await self.chain.rpc("eth_getBlockReceipts", hex(height)):
                if receipt["from"].lower() == "0x" + account.hex():
                    total += int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
                    count += 1
        return total, count


async def until(condition, timeout_s, what):
    """Wait until `condition` holds. Raises Failed."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise Failed(f"{what} does not happen within {timeout_s:.0f} s") from None
