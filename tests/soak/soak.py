"""Kills processes at random under load, and then asks whether everything that was delivered is settled exactly once.

The network is real: the supervisor in this process, chain, enclave, node and gateway as its children, with the stub engine in
enclave and node. Callers remember what they got; a failed call is no fault, a lost receipt is.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import time
from dataclasses import dataclass, field

import aiohttp

import avow
from avow.nodes.chain_client import ChainClient
from avow.nodes.up import Network, UpConfig
from avow.receipt.encoding import from_base64url
from avow.receipt.receipt import Receipt
from benchmarks.stub_engine import PROGRAM

PROCESSES = ("chain", "enclave", "node", "gateway")
STUB_MODULES = {
    "chain": "avow.nodes.full",
    "enclave": "benchmarks.support.enclave_with_stub",
    "node": "benchmarks.support.node_with_stub",
    "gateway": "avow.nodes.gateway",
}


@dataclass
class Tally:
    """What happened."""

    delivered: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    recovered_s: list[float] = field(default_factory=list)
    settled: int = 0
    voided: int = 0
    receipts: dict[str, Receipt] = field(default_factory=dict)


def stub_config(home):
    return UpConfig(home, port=0, program_ids=(PROGRAM,), modules=STUB_MODULES)


async def one_call(session, url, method, number, tally, *, stream):
    body = {"model": "stub", "messages": [{"role": "user", "content": f"call {number} by {method}"}]}
    if stream:
        body["stream"] = True
    try:
        async with session.post(
            f"{url}/v1/chat/completions", json=body, headers={"avow-method": method}, timeout=aiohttp.ClientTimeout(15)
        ) as response:
            data = await response.read()
            if response.status != 200:
                name = f"{response.status} {error_code(data)}"
                tally.failed[name] = tally.failed.get(name, 0) + 1
                return False
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        name = type(error).__name__
        tally.failed[name] = tally.failed.get(name, 0) + 1
        return False
    member = last_member(data) if stream else json.loads(data)["avow"]
    if member is None:
        tally.failed["cut stream"] = tally.failed.get("cut stream", 0) + 1
        return False
    tally.delivered[member["id"]] = (method, from_base64url(member["receipt"]))
    return True


def error_code(data):
    try:
        return json.loads(data)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return data[:64].decode(errors="replace")


def last_member(data):
    for line in reversed(data.decode().splitlines()):
        if line.startswith("data: {") and '"avow":' in line:
            return json.loads(line[6:]).get("avow")
    return None


async def caller(session, network, number, tally, stopping, *, pause_s):
    count = 0
    while not stopping.is_set():
        count += 1
        method = ("vanilla", "tee")[(number + count) % 2]
        url = network.state()["url"]
        if url is None or not await one_call(session, url, method, count, tally, stream=count % 3 == 0):
            await asyncio.sleep(0.05)
        await asyncio.sleep(pause_s)


async def killer(network, chance, tally, stopping, *, every_s):
    """Kill one process at a time, at random moments."""
    while not stopping.is_set():
        await asyncio.sleep(chance.uniform(*every_s))
        name = chance.choice(PROCESSES)
        pid = network.state()["processes"][name]["pid"]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            tally.kills[name] = tally.kills.get(name, 0) + 1


async def healthy_within(session, network, tally):
    """Seconds until both methods answer."""
    start = time.monotonic()
    for method in ("vanilla", "tee"):
        while not await one_call(session, network.state()["url"], method, 0, tally, stream=False):
            if time.monotonic() - start > 60:
                raise AssertionError(f"the network is not healthy a minute after the last kill: {tally.failed}")
            await asyncio.sleep(0.05)
    return time.monotonic() - start


async def collect(session, network, tally, timeout_s):
    """Every delivered receipt, once it is settled."""
    url = network.state()["url"]
    until = time.monotonic() + timeout_s
    missing = set(tally.delivered)
    while missing and time.monotonic() < until:
        for identity in list(missing):
            headers = {"accept": "application/cbor"}
            async with session.get(f"{url}/receipts/{identity}", headers=headers) as response:
                if response.status != 200:
                    continue
                receipt = Receipt.from_bytes(await response.read())
            if receipt.settlement is not None:
                tally.receipts[identity] = receipt
                missing.discard(identity)
        await asyncio.sleep(0.1)
    return missing


async def check(network, home, tally):
    """Nothing delivered is lost, void, or settled twice; the money agrees."""
    state = network.state()
    operator, payer = (bytes.fromhex(state["accounts"][name][2:]) for name in ("operator", "payer"))
    places = set()
    async with ChainClient(state["chain"]) as chain:
        trust = await chain.trust()
        for identity, receipt in tally.receipts.items():
            columns = receipt.statement.columns
            place = (receipt.statement.private.key, columns.number)
            assert place not in places, "two delivered receipts have one number"
            places.add(place)
            assert receipt.id == identity
            assert receipt.settlement.void == 0, f"{identity} was delivered and is void"
            report = avow.verify(receipt, trust)
            failed = [check for check in report.checks if check.outcome == "fail"]
            assert not failed, failed
        outbox = sqlite3.connect(home / "node" / "outbox.db")
        charged = 0
        for key_number, key in outbox.execute("select key_number, key from keys").fetchall():
            rows = outbox.execute(
                "select number, columns, void from statements where key_number = ? order by number", (key_number,)
            ).fetchall()
            assert [row[0] for row in rows] == list(range(len(rows))), "a number is missing"
            assert await chain.next_number(key) == len(rows), "not everything that was signed is settled"
            charged += sum(int.from_bytes(columns[69:85]) for _, columns, void in rows if void == 0)
            tally.settled += sum(void == 0 for _, _, void in rows)
            tally.voided += sum(void != 0 for _, _, void in rows)
        outbox.close()
        remaining, _ = await chain.allowance(payer, operator)
        assert 10**18 - remaining == charged, "what was charged is not what was settled"


async def soak(home, *, seconds, seed, callers=4, pause_s=0.01, every_s=(0.3, 2.0), victims=PROCESSES):
    """Load and kills for `seconds`, then the checks; what happened."""
    chance = random.Random(seed)
    tally = Tally()
    network = Network(stub_config(home))
    try:
        await network.start()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            stopping = asyncio.Event()
            tasks = [
                asyncio.create_task(caller(session, network, number, tally, stopping, pause_s=pause_s))
                for number in range(callers)
            ]
            tasks.append(asyncio.create_task(killer(network, chance, tally, stopping, every_s=every_s)))
            await asyncio.sleep(seconds)
            stopping.set()
            await asyncio.gather(*tasks)
            tally.recovered_s.append(await healthy_within(session, network, tally))
            missing = await collect(session, network, tally, 60)
            assert not missing, f"{len(missing)} of {len(tally.delivered)} delivered receipts are not settled"
            await asyncio.sleep(0.5)
            await check(network, home, tally)
    finally:
        await network.stop()
    return tally
