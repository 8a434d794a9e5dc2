"""`python -m tests.soak_demands`: a payer demands of sixteen statements at once, and the node's process answers each in time.

The node is killed (SIGKILL) and started again between answers and demands, unless told otherwise; `--lose` deletes what its runs left behind,
so that every demand costs a run of the program.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import httpx2

from avow.chain.modules import optimistic
from avow.chain.modules.demands import MAX_POSED, build_demand
from avow.chain.modules.life import State
from avow.chain.modules.located import Located
from avow.client.errors import RemoteError
from avow.errors import AvowError
from avow.exact import descent
from avow.exact.claims import ClaimedTree
from avow.exact.descent import Demand, Node
from avow.exact.hashing import Header, chunk_count
from avow.nodes.chain_client import ChainClient
from avow.nodes.entitlement import sign_question
from avow.nodes.gateway.account import account_key
from avow.nodes.node_client import NodeClient
from avow.nodes.process import configure_logging
from avow.receipt.encoding import encode
from avow.receipt.statement import private_hash
from tests.soak_fraud.models import MODELS, SMALL
from tests.soak_fraud.network import BOND, Failed, Network, until

HOME = Path(__file__).resolve().parents[1] / "build" / "soak_demands"
AT_ONCE = 4
WINDOW_MS = 3_600_000
SETTLE_S = 300.0
TEXT = "Write a very long story about the sea, a lighthouse and everybody who ever lived there. Never end."


class Zeros:
    """A level of a tree that nobody has."""

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        return bytes(32)


class Honest(Network):
    """The network with the node that users start."""

    async def serve(self, program):
        where = ("--listen", self._socket, "--chain", self.url, "--program", program.hex())
        await self._start("node", "avow.nodes.inference", *where, "--no-vanilla", "--bond", BOND)

    async def ready(self, model):
        """Once the node's offer is known."""

        async def listed():
            self.check_alive()
            async with httpx2.AsyncClient(base_url=self.gateway, trust_env=False) as http:
                known = (await http.get("/v1/models")).json()["data"]
            return any(model.name == each["id"] and "optimistic" in each["avow"]["methods"] for each in known)

        await until(listed, 300, "the node's offer")

    async def kill(self):
        """The node ends at whatever it is at."""
        process = self._processes.pop("node")
        os.kill(process._process.pid, signal.SIGKILL)
        await process._process.wait()

    @property
    def payer_key(self):
        return account_key(self.accounts.payer)

    def runs(self):
        """What runs left behind."""
        return list((self.home / "node" / "runs").glob("*.run"))


@dataclass
class Burst:
    """Figures of one burst. Times in ms; `answered_ms`: from the demand's block to the answer's, as seen from outside."""

    model: str
    statements: int
    steps: list[int] = field(default_factory=list)
    answering_s: float = 0.0
    direct_ms: list[float] = field(default_factory=list)
    answered_ms: list[int] = field(default_factory=list)
    posed_to_last_answer_ms: float = 0.0
    kept_bytes: int = 0
    move_ms: int = 0
    problems: list[str] = field(default_factory=list)


class Questioner:
    """The payer: asks the node directly for what a demand on chain has to show."""

    def __init__(self, network, client, burst):
        self._network, self._client, self._burst = network, client, burst

    async def ask(self, receipt, demand):
        identity, chain_id = bytes.fromhex(receipt.id), self._network.chain_id
        asker = sign_question(self._network.payer_key, chain_id, identity, time.time_ns() // 1_000_000)
        began = time.perf_counter()
        shown = await self._client.demand(identity, asker.to_bytes(), demand.encoded())
        self._burst.direct_ms.append(1_000 * (time.perf_counter() - began))
        return descent.check_answer(demand, shown, receipt.statement.columns.trace)

    async def demand_for(self, receipt, which):
        """A demand about the run's last steps: for the leaves' nodes, for a tensor, or for a chunk of one."""
        encoded = (await self.ask(receipt, Demand())).data
        header = Header.parse(encoded)
        self._burst.steps.append(header.steps)
        total = header.leaves
        levels = [Zeros(descent.width(total, level)) for level in range(descent.height(total) + 1)]
        wanted, found, digests = [], {}, {}

        def answered(node):
            if node not in found:
                wanted.append(node)
                raise LookupError
            return found[node]

        tree = ClaimedTree(header.root, levels, answered)
        slot = total - 1 - which % 7
        while which % 3:
            try:
                leaf = tree.shown(0, slot)
                break
            except LookupError:
                node = wanted.pop()
                answer = await self.ask(receipt, Demand(encoded, node))
                target, places = descent.below(total, node.level, node.index)
                found[node] = answer.hashes
                if not target:
                    digests |= dict(zip(places, answer.hashes, strict=True))
                    found[node] = [descent.merkle.leaf_hash(digest) for digest in answer.hashes]
        else:
            top = len(levels) - 1
            return Demand(encoded, Node(top, 0, header.root, ()))
        tensor = Demand(encoded, leaf, None, digests[slot])
        if which % 3 == 1:
            return tensor
        answer = await self.ask(receipt, tensor)
        assert answer.content is not None
        length, root = answer.content
        hashes = answer.hashes
        count = chunk_count(length)
        if len(hashes) != count:  # of more than 1,024 chunks: the tensor is asked for instead
            return tensor
        chunks = ClaimedTree(
            root, [Zeros(descent.width(count, up)) for up in range(descent.height(count) + 1)], lambda _: hashes
        )
        return Demand(encoded, leaf, None, digests[slot], (length, root), chunks.shown(0, count - 1))


async def burst(home, model, *, count, kill, lose, body, store, **rules):
    """Ask, settle, kill, demand of all at once. The figures."""
    async with Honest(home, store, window_ms=WINDOW_MS, **rules) as network:
        program = model.install(store)
        await network.serve(program)
        figures = Burst(model.name, count, move_ms=network.rules.move_ms)
        began = time.monotonic()
        receipts = await answers(network, model, count, body)
        figures.answering_s = time.monotonic() - began
        left = network.runs()
        figures.kept_bytes = sum(file.stat().st_size for file in left)
        if kill:
            await network.kill()
        if lose:
            for file in left:
                file.unlink()
        if kill:
            await network.serve(program)
        await pose_all(network, receipts, figures)
        return figures


async def answers(network, model, count, body):
    """Receipts of as many answers, settled."""
    turn = asyncio.Semaphore(AT_ONCE)
    async with network.client() as client:
        await network.ready(model)

        async def one(number, **short):
            async with turn:
                asked = {**model.body(number), **(body or {}), **short}
                if model.chats:
                    return await client.chat(asked.pop("messages"), model=model.name, **asked)
                return await client.infer(model.name, asked.pop("inputs"), **asked)

        async def payable():
            """The gateway opens its allowance for a node when it sees it."""
            try:
                await one(count, **({"max_tokens": 1} if model.chats else {}))
            except RemoteError as error:
                if error.remote_code != "gateway_uncovered":
                    raise
                return False
            return True

        await until(payable, 60, "the gateway's allowance")
        delivered = await asyncio.gather(*(one(number) for number in range(count)))
        return [(await answer.receipt.settled(timeout=SETTLE_S)).value for answer in delivered]


async def pose_all(network, receipts, figures):
    key, rules = network.payer_key, network.rules
    chain, direct = ChainClient(network.url, key), NodeClient()
    network.chain_id = receipts[0].statement.private.chain_id
    await direct.connect(network._socket)
    try:
        questioner = Questioner(network, direct, figures)

        async def awake():
            try:
                await questioner.ask(receipts[0], Demand())
            except AvowError as error:
                return error.http_status != 503 and error.code != "not_exact"
            return True

        await until(awake, 300, "the node's return")
        figures.direct_ms.clear()
        asked = [await questioner.demand_for(receipt, at) for at, receipt in enumerate(receipts)]
        since = (await chain.status())["height"]
        posed_at: dict[bytes, float] = {}

        async def pose(receipt, demand):
            await chain.transact(optimistic.ADDRESS, "demand", posed(receipt, demand), value=rules.demand_bond)
            posed_at[bytes.fromhex(receipt.id)] = time.monotonic()

        began = time.monotonic()
        ending = asyncio.create_task(resolved(network, since, len(receipts)))
        await asyncio.gather(*(pose(*each) for each in zip(receipts, asked, strict=True)))
        ends = await ending
        figures.posed_to_last_answer_ms = 1_000 * (max(at for at, _ in ends.values()) - began)
        for statement, (at, state) in ends.items():
            took = 1_000 * (at - posed_at[statement])
            figures.answered_ms.append(round(took))
            if state != State.ANSWERED:
                figures.problems.append(f"a demand ended as {state}")
            elif took > rules.move_ms / 2:
                figures.problems.append(f"an answer took {took:.0f} ms of {rules.move_ms}")
    finally:
        await direct.close()
        await chain.close()


def posed(receipt, demand):
    columns, private = receipt.statement.columns, encode(receipt.statement.private.to_value())
    assert receipt.settlement is not None
    located = Located(columns, private_hash(private), receipt.settlement.leaf_path)
    first = columns.number - receipt.settlement.leaf
    return build_demand(receipt.statement.private.key, first, located, demand.encoded(), private)


async def resolved(network, since, count):
    """Of each demand's statement: when its end was seen, and what it was."""
    found, statements = {}, {}
    chain = network.chain

    async def all_of_them():
        for log in await chain.logs(optimistic.ADDRESS, "Demanded", since):
            statements[log.indexed[1]] = log.values[1]
        for log in await chain.logs(optimistic.ADDRESS, "DemandResolved", since):
            found.setdefault(statements[log.indexed[1]], (time.monotonic(), log.values[1]))
        return len(found) >= count

    await until(all_of_them, 3 * network.rules.move_ms / 1_000 + 60, "the end of all demands")
    return found


def report(figures):
    times = sorted(figures.direct_ms)
    return {
        **asdict(figures),
        "direct_ms": {"median": round(median(times), 1), "largest": round(times[-1], 1), "count": len(times)},
        "load": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak_demands", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct-exact", choices=[*MODELS, *SMALL])
    parser.add_argument("--statements", type=int, default=MAX_POSED)
    parser.add_argument("--tokens", type=int, default=1_024, help="that a chat answers at most")
    parser.add_argument("--alive", action="store_true", help="do not kill the node")
    parser.add_argument("--lose", action="store_true", help="lose what runs left behind")
    parser.add_argument("--move-ms", type=int, default=10_000)
    parser.add_argument("--home", type=Path, default=HOME)
    given = parser.parse_args()
    configure_logging()
    model = (MODELS | SMALL)[given.model]
    body = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": given.tokens} if model.chats else None
    given.home.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(given.home / "network", ignore_errors=True)
    running = burst(
        given.home / "network", model, count=given.statements, kill=not given.alive, lose=given.lose, body=body,
        store=given.home, move_ms=given.move_ms,
    )  # fmt: skip
    try:
        figures = asyncio.run(running)
    except Failed as failure:
        sys.exit(str(failure))
    print(json.dumps(report(figures), indent=2))
    sys.exit(bool(figures.problems))


__all__ = ["Burst", "Honest", "burst", "report"]

if __name__ == "__main__":
    main()
