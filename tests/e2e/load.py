"""Load that remembers what it sent: transfers of several accounts, and batches of statements that a real key signed.

Every transaction is sent again, to one validator after another, until it is in a block: so at the end each must be in exactly one.
"""

import asyncio
import contextlib
import copy
import hashlib
import itertools
import random
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from avow.chain.errors import Code, Refused
from avow.chain.host import refusal
from avow.chain.modules import bank, nodes, registry, settlement
from avow.chain.modules.batch import build_batch, leaves
from avow.chain.transaction import sign_transaction, transaction_hash
from avow.errors import AvowError
from avow.methods.registration import registration_digest
from avow.nodes.chain_client import ChainClient, ChainRejected, function_of, settlement_gas
from avow.receipt import merkle
from avow.receipt.encoding import decode, from_base64url
from avow.receipt.evidence import Evidence, Settlement
from avow.receipt.receipt import Receipt
from avow.receipt.standing import Standing
from avow.receipt.statement import Columns, Method, Private, Statement
from tests.chain import harness
from tests.chain.harness import ETHER, FAR_MS, PROGRAM, NodeKey, account, cose, point, secret
from tests.patience import patient_s

GAS_PRICE = 2 * 10**9
CLIENT_S = 3.0
WAIT_MS = 1_500
DELIVERED_S = 180.0
PRICE = 100


@dataclass
class Transaction:
    """`took_s`: from the first attempt to the block."""

    raw: bytes
    nonce: int
    took_s: float = 0.0
    code: int | None = None
    reason: Code | None = None

    @property
    def hash(self) -> bytes:
        return transaction_hash(self.raw)


@dataclass
class Batch:
    """Consecutive statements of the key, with the heads before them, and what proves them settled."""

    statements: list[harness.Statement]
    heads: list[bytes]
    settlement: dict | None = None
    standing: Standing | None = None

    def receipts(self, key: NodeKey) -> list[Receipt]:
        tree = merkle.tree(leaves([item.hash for item in self.statements], bytes(len(self.statements))))
        made = []
        for leaf, (item, head) in enumerate(zip(self.statements, self.heads, strict=True)):
            path = {"leaf": leaf, "leaves": len(self.statements), "leaf_path": merkle.path_in(tree, leaf), "void": 0}
            private = Private.from_value(decode(item.private))
            columns = Columns.from_value(item.columns.to_value())
            evidence = Evidence(Method.VANILLA, item.signature, head, point(key.signing), self.standing)
            proven = Settlement.from_value(dict(self.settlement) | path)
            made.append(Receipt(Statement(columns, private), evidence, proven))
        return made


@dataclass
class Load:
    """`urls`: the validators' JSON-RPC. `start`, then `stop`, which waits until everything sent is in a block."""

    urls: list[str]
    seed: int
    senders: int
    batch: int
    sent: dict[bytes, Transaction] = field(default_factory=dict)
    received: dict[bytes, int] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    refused: int = 0
    retries: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stopping = asyncio.Event()
        self.clients = [ChainClient(url, timeout_s=CLIENT_S) for url in self.urls]
        self.tasks: list[asyncio.Task[None]] = []
        self.key: NodeKey | None = None

    # --- Life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.key = await self._register()
        self.tasks = [asyncio.create_task(self._transfers(f"sender {number}")) for number in range(self.senders)]
        self.tasks.append(asyncio.create_task(self._settlements()))

    def check(self) -> None:
        """Raises what a task of the load raised."""
        for task in self.tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        self.stopping.set()
        await asyncio.gather(*self.tasks)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for client in self.clients:
            await client.close()

    async def _register(self) -> NodeKey:
        """The operator's key, program and price, and the payer's allowance: on a network that nothing befalls yet."""
        async with (
            ChainClient(self.urls[0], secret("operator")) as operator,
            ChainClient(self.urls[0], secret("payer")) as payer,
        ):
            network = await operator.network()
            signing, transport = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
            block_hash, _, _ = await operator.beacon()
            digest = registration_digest(
                network.chain_id, operator.address, point(signing), point(transport), block_hash
            )
            arguments = (int(Method.VANILLA), point(signing), point(transport), block_hash, cose(signing, digest))
            for module, function, given in (
                (nodes.ADDRESS, "register", arguments),
                (registry.ADDRESS, "publish", ("end-to-end", PROGRAM)),
                (nodes.ADDRESS, "setPrice", (PROGRAM, int(Method.VANILLA), PRICE)),
            ):
                found = await operator.transact(module, function, *given)
                self.sent[found.hash] = Transaction(b"", 0)
            found = await payer.allow(account("operator"), ETHER, FAR_MS)
            self.sent[found.hash] = Transaction(b"", 0)
            self.eip155 = network.eip155
            return NodeKey(network.chain_id, Method.VANILLA, "operator", signing, transport, 0)

    # --- Sending ----------------------------------------------------------------------------------------------------

    async def _nonce(self, name: str) -> int:
        """From whichever validator answers: the first may be away already."""
        deadline = time.monotonic() + DELIVERED_S
        for client in itertools.cycle(self.clients):
            try:
                return int(await client.rpc("eth_getTransactionCount", "0x" + account(name).hex(), "latest"), 16)
            except AvowError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
        raise AssertionError("there is no validator")

    def _sign(self, name: str, nonce: int, to: bytes, *, value: int = 0, data: bytes = b"", gas: int) -> Transaction:
        raw = sign_transaction(
            secret(name),
            chain_id=self.eip155,
            nonce=nonce,
            to=to,
            value=value,
            data=data,
            gas_limit=gas,
            max_fee=GAS_PRICE,
        )
        made = Transaction(raw, nonce)
        self.sent[made.hash] = made
        return made

    async def deliver(self, made: list[Transaction], at: int) -> int:
        """Until all of one account's transactions are in blocks; which validator said so of the last."""
        started = time.monotonic()
        waiting = list(made)
        while waiting:
            if time.monotonic() - started > patient_s(DELIVERED_S):
                raise AssertionError(f"{len(waiting)} transactions are in no block after {DELIVERED_S:g} s")
            client = self.clients[at % len(self.clients)]
            try:
                waiting = await self._round(client, waiting, started)
            except AvowError as error:
                self.retries[error.code] = self.retries.get(error.code, 0) + 1
                at += 1
                await asyncio.sleep(0.2)
            else:
                at += bool(waiting)
        return at

    async def _round(self, client: ChainClient, waiting: list[Transaction], started: float) -> list[Transaction]:
        """Hand everything in, and wait for the last; what is in no block yet."""
        for item in waiting:
            try:
                await client.rpc("eth_sendRawTransaction", "0x" + item.raw.hex())
            except Refused as refused:
                item.code, item.reason = Code.REVERTED, refused.reason
                return [other for other in waiting if other is not item]
            except ChainRejected as rejected:
                if "already known" not in rejected.detail and "nonce too low" not in rejected.detail:
                    raise
        left = []
        await self._receipt(client, waiting[-1], WAIT_MS)
        for item in waiting:
            receipt = await self._receipt(client, item, 0)
            if receipt is None:
                left.append(item)
            else:
                item.took_s = time.monotonic() - started
                item.code = receipt["code"]
                found = refusal(bytes.fromhex(receipt["data"][2:]))
                item.reason = None if found is None else found.reason
        return left

    async def _receipt(self, client: ChainClient, item: Transaction, wait_ms: int):
        return await client.rpc("avow_waitForTransaction", "0x" + item.hash.hex(), hex(wait_ms), extra_s=wait_ms / 1000)

    # --- What is sent -----------------------------------------------------------------------------------------------

    async def _transfers(self, name: str) -> None:
        chance = random.Random(f"{self.seed} {name}")
        nonce, at = await self._nonce(name), chance.randrange(len(self.clients))
        while not self.stopping.is_set():
            made = []
            for _ in range(chance.randint(1, 4)):
                to = hashlib.sha256(f"{self.seed} {name} {nonce}".encode()).digest()[:20]
                value = chance.randint(1, 1_000)
                self.received[to] = value
                made.append(self._sign(name, nonce, to, value=value, gas=30_000))
                nonce += 1
            at = await self.deliver(made, at)
            assert all(item.code == Code.OK for item in made), "a transfer failed"
            await self._pause(chance.uniform(0.0, 0.5))

    async def _settlements(self) -> None:
        chance = random.Random(f"{self.seed} settlements")
        key = self.key
        nonce, at = await self._nonce("operator"), chance.randrange(len(self.clients))
        while not self.stopping.is_set():
            wrong = chance.random() < 0.05
            signer = copy.copy(key) if wrong else key
            signer.now_ms = time.time_ns() // 1_000_000
            batch = Batch([], [])
            for _ in range(chance.randint(1, self.batch)):
                units = chance.randint(1, 50)
                batch.heads.append(signer.head)
                batch.statements.append(signer.sign(units=units, amount=units * PRICE + wrong))
            made = self._settle(nonce, key, batch)
            at = await self.deliver([made], at)
            if wrong:
                assert made.reason is Code.AMOUNT_EXCEEDS_PRICE, f"an overcharged batch: {made.reason}"
                del self.sent[made.hash]  # it stands in no block
                self.refused += 1
            else:
                assert made.code == Code.OK, f"a batch was refused: {made.reason}"
                nonce += 1
                self.batches.append(batch)
                await self._prove(batch, made, at)
            await self._pause(chance.uniform(0.0, 0.5))

    def _settle(self, nonce: int, key: NodeKey, batch: Batch) -> Transaction:
        pairs = [(item.columns, item.private) for item in batch.statements]
        data = build_batch(key.id, pairs, batch.statements[-1].signature)
        call = function_of(settlement.ADDRESS, "settle").encode_call(data)
        gas = settlement_gas(data, statements=len(pairs), payers=1, programs=1)
        return self._sign("operator", nonce, settlement.ADDRESS, data=call, gas=gas)

    async def _prove(self, batch: Batch, made: Transaction, at: int) -> None:
        """The batch's proof and the key's standing, from whichever validator gives them."""
        deadline = time.monotonic() + patient_s(DELIVERED_S)
        while time.monotonic() < deadline:
            client = self.clients[at % len(self.clients)]
            with contextlib.suppress(AvowError):
                if batch.standing is None:
                    batch.standing = await client.standing(self.key.id)
                digest = "0x" + made.hash.hex()
                found = await client.rpc("avow_settlement", digest, hex(WAIT_MS), extra_s=WAIT_MS / 1000)
                if found is not None and batch.standing is not None:
                    batch.settlement = decode(from_base64url(found))
                    return
            at += 1
            await asyncio.sleep(0.2)
        raise AssertionError("a settled batch gets no proof")

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    # --- What must be true at the end -------------------------------------------------------------------------------

    @property
    def statements(self) -> int:
        return sum(len(batch.statements) for batch in self.batches)

    @property
    def charged(self) -> int:
        return sum(item.columns.amount for batch in self.batches for item in batch.statements)

    async def check_state(self, client: ChainClient, genesis_accounts: dict[bytes, int]) -> None:
        """Counters and money, as one validator has them."""
        assert await client.next_number(self.key.id) == self.statements, "the key's counter is not what was settled"
        remaining, _ = await client.allowance(account("payer"), account("operator"))
        assert ETHER - remaining == self.charged, "what was charged is not what was settled"
        modules = (bank.ADDRESS, nodes.ADDRESS, registry.ADDRESS, settlement.ADDRESS)
        known = {*genesis_accounts, *self.received, *modules}
        ordered = sorted(known)
        found: list[int] = []
        for start in range(0, len(ordered), 64):
            found += await asyncio.gather(*[client.balance(address) for address in ordered[start : start + 64]])
        balances = dict(zip(ordered, found, strict=True))
        wrong = [to for to, value in self.received.items() if balances[to] != value]
        assert not wrong, f"{len(wrong)} receivers have another balance than was sent to them"
        assert sum(balances.values()) == sum(genesis_accounts.values()), "money appeared or was lost"
