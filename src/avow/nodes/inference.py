"""`python -m avow.nodes.inference`: the inference node as a process.

Rules:
1. It serves as soon as its socket is there; each method joins when its key stands on chain.
2. The enclave may come and go: with each of its boots there is a new key, and the old one drains.
3. The node holds its operator's account (HOME/node/key), which registers keys, sets prices and settles.
"""

import argparse
import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from avow.chain.errors import Refused
from avow.engines.interface import KeepingEngine
from avow.errors import AvowError
from avow.home import private_folder
from avow.methods.registration import registration_digest
from avow.nodes.enclave_client import EnclaveClient
from avow.nodes.errors import CannotAnswerInTime, ConnectionLost
from avow.nodes.gateway.account import account_key
from avow.nodes.intake import Intake
from avow.nodes.jobs import Terms
from avow.nodes.keeping import Keeping
from avow.nodes.keyring import Keyring
from avow.nodes.loaded import Loaded, Traced
from avow.nodes.node import Node, Served
from avow.nodes.operator_chain import OperatorChain
from avow.nodes.outbox import Outbox
from avow.nodes.outbox_rows import Entry, StoredKey
from avow.nodes.payers import Payers
from avow.nodes.pin import TRUST_HELP, find_pin
from avow.nodes.process import Ready, announce, run, until_stopped
from avow.nodes.remains import DEFAULT_BUDGET, Remains
from avow.nodes.runner import Runner
from avow.nodes.service import Service
from avow.nodes.settler import Settler
from avow.nodes.signer import Signer
from avow.nodes.upkeep import Upkeep
from avow.receipt.statement import Method

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
DEFAULT_PRICE = 1_000_000_000
DEFAULT_BOND = 100 * 10**18
DEFAULT_TRUST_GAP_MS = 10 * 60_000
RETRY_S = 0.2
LONGEST_RETRY_S = 5.0
RETENTION_S = 60.0

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """`price` in wei per unit, for every program and method. `enclave` None: no tee. `programs` by name or id, for vanilla.

    `trust`: as --trust gives it (pin.py).
    `bond`: wei set aside for optimistic answers of the exact programs among them; 0: none are given. `trace_disk`: bytes
    of disk for what their runs leave behind until they are final (remains.py).
    """

    home: Path
    address: str
    chain: str
    programs: tuple[str, ...]
    enclave: str | None = None
    vanilla: bool = True
    bond: int = DEFAULT_BOND
    trace_disk: int = DEFAULT_BUDGET
    price: int = DEFAULT_PRICE
    threads: int = 1
    slots: int = 4
    retention_ms: int = 24 * HOUR_MS
    receipt_retention_ms: int = 24 * HOUR_MS
    max_trust_gap_ms: int = DEFAULT_TRUST_GAP_MS
    flush_age_s: float = 0.2
    trust: str | None = None


async def persistently(action: Callable[[], Awaitable[_Result]]) -> _Result:
    """Do it until the chain has done it: an error is logged and the action tried again, with growing pauses."""
    pause_s = RETRY_S
    while True:
        try:
            return await action()
        except AvowError as error:
            log.warning("tried again in %.1f s: %s", pause_s, error.detail)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RETRY_S)


class InferenceNode:
    """Puts the node together and keeps it so."""

    def __init__(self, config: NodeConfig, chain: OperatorChain, outbox: Outbox) -> None:
        self._config = config
        self._chain = chain
        self._outbox = outbox
        self.settler = Settler(outbox, chain, flush_age_s=config.flush_age_s)
        self.keyring = Keyring(chain, outbox, self.settler)
        self.node = Node(
            chain.chain_id,
            chain.operator,
            outbox,
            self.settler,
            Payers(chain.chain_id, chain.operator, chain, self.settler.owed),
            max_trust_gap_ms=config.max_trust_gap_ms,
        )
        self._publishing = asyncio.Lock()
        outbox.on_recovered = self._recovered
        self.settler.on_refused = self._refused
        self.keyring.settle_earlier()

    def _recovered(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.settler.added(entry.key_number, entry.signed.number, entry.signed.columns)

    def _refused(self, stored: StoredKey) -> None:
        """The chain settles nothing of this key any more: no new answers under it, until its standing is good again."""
        for key in self.node.keys.values():
            if key.stored.key == stored.key:
                key.ready = False

    async def vanilla(self, programs: Mapping[bytes, Loaded]) -> None:
        """Serve `programs` under a key of this process, until cancelled."""
        await self._own(Method.VANILLA, programs)

    async def optimistic(self, programs: Mapping[bytes, Loaded]) -> None:
        """Serve the exact ones among `programs` under a bond, until cancelled."""
        exact = {program: loaded for program, loaded in programs.items() if isinstance(loaded.engine, Traced)}
        node, chain = self.node, self._chain
        keeping = Keeping(Remains(self._config.home / "node" / "runs", self._config.trace_disk))
        upkeep = Upkeep(
            chain, chain.chain_id, self._outbox, node.receipts, exact, bond=self._config.bond, keeping=keeping
        )
        await persistently(upkeep.fill)
        node.upkeep = upkeep
        running = asyncio.get_running_loop().create_task(upkeep.run())
        try:
            answerable = await self._answerable(keeping, exact)
            known = {program: loaded for program, loaded in answerable.items() if await self._declared(loaded)}
            await self._own(Method.OPTIMISTIC, known, keeping)
        finally:
            running.cancel()

    async def _answerable(self, keeping: Keeping, programs: Mapping[bytes, Loaded]) -> dict[bytes, Loaded]:
        """Those about which this machine answers demands in time; the others are refused, by name, to who asks for them."""
        found = {}
        for program, loaded in programs.items():
            try:
                if isinstance(loaded.engine, KeepingEngine):
                    keeping.check(loaded.name, await asyncio.to_thread(loaded.engine.cost))
            except CannotAnswerInTime as error:
                log.error("%s", error.detail)  # noqa: TRY400 - the message says it all
                self.node.withheld[program, Method.OPTIMISTIC] = error
            else:
                found[program] = loaded
        return found

    async def _own(self, method: Method, programs: Mapping[bytes, Loaded], keeping: Keeping | None = None) -> None:
        """A key of this process for one method, as long as it runs."""
        chain, node = self._chain, self.node
        signer = Signer(chain.chain_id, chain.operator, method)

        async def prove(block_hash: bytes) -> bytes:
            digest = registration_digest(
                chain.chain_id, chain.operator, signer.signing_key, signer.transport_key, block_hash
            )
            return signer.prove_possession(digest)

        node.runners[method] = Runner(programs, signer, keeping)
        offers = asyncio.gather(*(self._offer(Served.of(item), method) for item in programs.values()))
        key = await persistently(lambda: self.keyring.register(method, signer.signing_key, signer.transport_key, prove))
        await offers
        self.keyring.end_earlier(method, signer.key)
        node.keys[method] = key
        node.starting.discard(method)
        await self.keyring.keep(key, prove)

    async def tee(self, address: str) -> None:
        """Serve what the enclave at `address` runs, boot after boot, until cancelled."""
        pause_s = RETRY_S
        while True:
            client = EnclaveClient()
            try:
                await client.connect(address)
                await self._enclave(client)
                pause_s = RETRY_S
            except ConnectionLost as error:
                log.debug("the enclave: %s", error.detail)
                pause_s = RETRY_S
            except AvowError as error:
                log.warning("the enclave's key: %s", error.detail)
                pause_s = min(2 * pause_s, LONGEST_RETRY_S)
            finally:
                self.node.enclave = None
                await client.close()
            await asyncio.sleep(pause_s)

    async def _enclave(self, client: EnclaveClient) -> None:
        """One connection to the enclave, until it is lost."""
        chain, node = self._chain, self.node
        lost = asyncio.Event()
        client.on_lost = lost.set
        description = await client.describe()
        bound = await client.bind(chain.chain_id, chain.operator)
        self.keyring.end_earlier(Method.TEE, bound.key)
        offers = asyncio.gather(*(self._offer(Served.in_enclave(item), Method.TEE) for item in description.programs))
        key = await self.keyring.register(
            Method.TEE, bound.signing_key, bound.transport_key, client.attest, description.attester
        )
        await offers
        number = key.stored.key_number
        intake = Intake(number, self._outbox.durable(number), client.kept, self._undelivered)
        keeping = asyncio.get_running_loop().create_task(self.keyring.keep(key, client.attest))
        try:
            await intake.catch_up()
            client.acknowledge(self._outbox.durable(number))
            key.intake = intake
            node.enclave = client
            node.keys[Method.TEE] = key
            node.starting.discard(Method.TEE)
            await lost.wait()
        finally:
            keeping.cancel()
            intake.close()
            if node.keys.get(Method.TEE) is key:
                del node.keys[Method.TEE]

    def _undelivered(self, entry: Entry) -> None:
        """Store a statement that nobody waits for."""

        def done(error: AvowError | None) -> None:
            if error is None:
                self.settler.added(entry.key_number, entry.signed.number, entry.signed.columns)

        self._outbox.put(entry, done)

    async def _declared(self, loaded: Loaded) -> bool:
        """Show the chain what it has to know before an optimistic statement about a program settles; whether it accepts that."""

        async def declare() -> bool:
            if not await self._chain.declared(loaded.program):
                try:
                    await self._chain.declare(loaded.manifest, loaded.outline)
                except Refused as refused:
                    log.error("%s is not offered by optimistic: the chain refuses it: %s", loaded.name, refused.detail)  # noqa: TRY400
                    return False
            return True

        return await persistently(declare)

    async def _offer(self, served: Served, method: Method) -> None:
        """Publish a program and its price, where the chain has them otherwise, and serve it."""
        terms = await persistently(lambda: self._published(served, method))
        known = self.node.programs.setdefault(served.program, served)
        known.prices[method] = terms

    async def _published(self, served: Served, method: Method) -> Terms:
        chain, price = self._chain, self._config.price
        async with self._publishing:
            if not await chain.offered(served.program):
                await chain.publish(served.name, served.program)
        version, per_unit = await chain.price(served.program, method)
        if version == 0 or per_unit != price:
            await chain.set_price(served.program, method, price)
            version, per_unit = await chain.price(served.program, method)
        return Terms(per_unit.to_bytes(16), version)

    async def retention(self) -> None:
        """Delete openings and settled statements after their times, until cancelled."""
        while True:
            await asyncio.sleep(RETENTION_S)
            now_ms = time.time_ns() // 1_000_000
            try:
                await self._outbox.drop_openings(now_ms - self._config.retention_ms)
                await self._outbox.drop_settled(now_ms - self._config.receipt_retention_ms)
            except AvowError as error:
                log.warning("what is old is not deleted: %s", error.detail)

    async def close(self) -> None:
        await self.node.close()
        await self.keyring.close()
        await self.settler.close()


async def serve_node(
    config: NodeConfig, programs: Mapping[bytes, Loaded] | None = None, ready: Ready = announce
) -> None:
    """Serve until told to stop. `programs` stand in for those that the configuration names (tests, benchmarks)."""
    folder = private_folder(config.home / "node")
    if programs is None:
        programs = await asyncio.to_thread(_load, config)
    key = account_key(folder / "key")
    find_pin(config.home, config.chain, config.trust)  # what cannot begin to trust does not begin at all
    chain = await persistently(lambda: OperatorChain.open(config.chain, key, config.home, trust=config.trust))
    outbox = Outbox(folder / "outbox.db")
    inference = InferenceNode(config, chain, outbox)
    jobs = _jobs(inference, config, programs)
    inference.node.starting.update(jobs)
    service = Service(inference.node.start, inference.node.questions)
    await service.listen(config.address)
    ready(config.address)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(inference.retention(), name="retention")]
    tasks += [loop.create_task(job(), name=method.label) for method, job in jobs.items()]
    try:
        await until_stopped(tasks)
    finally:
        await service.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await inference.close()
        outbox.close()
        await chain.close()
        for loaded in programs.values():
            loaded.engine.close()


def _jobs(
    inference: InferenceNode, config: NodeConfig, programs: Mapping[bytes, Loaded]
) -> dict[Method, Callable[[], Coroutine[Any, Any, None]]]:
    """What the node is set up for: for each method, what serves it until cancelled."""
    jobs: dict[Method, Callable[[], Coroutine[Any, Any, None]]] = {}
    if config.vanilla and programs:
        jobs[Method.VANILLA] = partial(inference.vanilla, programs)
    if config.bond and any(isinstance(loaded.engine, Traced) for loaded in programs.values()):
        jobs[Method.OPTIMISTIC] = partial(inference.optimistic, programs)
    if config.enclave is not None:
        jobs[Method.TEE] = partial(inference.tee, config.enclave)
    return jobs


def _load(config: NodeConfig) -> dict[bytes, Loaded]:
    from avow.nodes.programs import load_programs

    if not (config.vanilla or config.bond):
        return {}
    return load_programs(config.home, config.programs, threads=config.threads, slots=config.slots)


def main(programs: Mapping[bytes, Loaded] | None = None) -> None:
    """`programs`: see `serve_node`."""
    parser = argparse.ArgumentParser(prog="avow node", description="Run programs, settle what was answered.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--listen", required=True, help="unix:PATH or tcp:HOST:PORT, for gateways")
    parser.add_argument(
        "--chain", required=True, help="the chain's JSON-RPC URL; several, separated by commas, are followed"
    )
    parser.add_argument("--trust", metavar="PIN", help=TRUST_HELP)
    parser.add_argument("--enclave", help="unix:PATH, tcp:HOST:PORT or vsock:CID:PORT; without it there is no tee")
    parser.add_argument("--program", action="append", default=[], help="name or id, for vanilla; may be repeated")
    parser.add_argument("--no-vanilla", action="store_true", help="answer by the enclave alone")
    parser.add_argument(
        "--bond", type=int, default=DEFAULT_BOND, help="wei behind optimistic answers; 0: none are given"
    )
    parser.add_argument(
        "--trace-disk-mib", type=int, default=DEFAULT_BUDGET >> 20, help="disk for optimistic runs until they are final"
    )
    parser.add_argument("--price", type=int, default=DEFAULT_PRICE, help="wei per token or call")
    parser.add_argument("--threads", type=int, default=1, help="per job")
    parser.add_argument("--slots", type=int, default=4, help="jobs at once")
    parser.add_argument("--retention-hours", type=int, default=24, help="how long openings are kept")
    parser.add_argument(
        "--receipt-retention-hours", type=int, default=24, help="how long settled receipts are kept for who asks again"
    )
    parser.add_argument("--max-trust-gap-ms", type=int, default=DEFAULT_TRUST_GAP_MS)
    given = parser.parse_args()
    config = NodeConfig(
        home=given.home,
        address=given.listen,
        chain=given.chain,
        trust=given.trust,
        programs=tuple(given.program),
        enclave=given.enclave,
        vanilla=not given.no_vanilla,
        bond=given.bond,
        trace_disk=given.trace_disk_mib << 20,
        price=given.price,
        threads=given.threads,
        slots=given.slots,
        retention_ms=given.retention_hours * HOUR_MS,
        receipt_retention_ms=given.receipt_retention_hours * HOUR_MS,
        max_trust_gap_ms=given.max_trust_gap_ms,
    )
    run(lambda: serve_node(config, programs))


if __name__ == "__main__":
    main()
