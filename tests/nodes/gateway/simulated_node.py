"""A node in memory that offers what avow.nodes.node_client.NodeClient offers, over tests/simulator.py's honest network.

Its answers carry receipts that verify. Faults are switched on by hand: `failure` is raised instead of an answer, `hold` keeps an
answer back, `cut` breaks a stream after its first chunks, `lose` drops the connection.
"""

import asyncio
import json
import time

from avow.errors import AvowError
from avow.nodes import wire
from avow.nodes.errors import ConnectionLost, NotSettled, OpeningGone, ReceiptNotFound
from avow.nodes.jobs import (
    Answer,
    Begin,
    Chunks,
    Head,
    KeyDescription,
    KeyStatus,
    NodeDescription,
    NodeStatus,
    ProgramDescription,
)
from avow.receipt.receipt import Receipt
from avow.receipt.requester import Requester
from avow.receipt.statement import Method
from avow.receipt.stream import stream_parts
from tests.simulator import Simulator

METADATA = b"""{"name": "length", "platform": "simulator", "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
"outputs": [{"name": "length", "datatype": "INT64", "shape": [1]}]}"""


class SimulatedNode:
    """One node; every NodeClient that a gateway makes is a `SimulatedClient` of it."""

    def __init__(self, *, methods=(Method.VANILLA, Method.TEE), model="echo", tensor_model="length"):
        # Judged by this machine's clock, since the gateway reads it: a network that began a minute ago.
        self.network = Simulator(start_ms=time.time_ns() // 1_000_000 - 60_000)
        self.methods = methods
        if Method.TEE in methods:
            self.network.register(Method.TEE)
        self.names = (model, tensor_model)
        self.receipts: dict[bytes, Receipt] = {}
        self.settles = True
        self.failure: AvowError | None = None
        self.cut: AvowError | None = None
        self.hold: asyncio.Event | None = None
        self.gap_s = 0.0
        self.reachable = True
        self.starting: list[int] = []
        self.jobs = []
        self.cancelled = []
        self.clients: list[SimulatedClient] = []

    def client(self):
        made = SimulatedClient(self)
        self.clients.append(made)
        return made

    def lose(self):
        self.reachable = False
        for client in self.clients:
            client.closed = True
            if client.on_lost is not None:
                client.on_lost()

    def keep(self, receipt, request, response):
        self.receipts[bytes.fromhex(receipt.id)] = receipt.opened(request, response)
        return receipt

    def settle(self):
        for identity, receipt in list(self.receipts.items()):
            if receipt.settlement is None:
                [self.receipts[identity]] = self.network.settle([receipt])


def travelled(error):
    """The error as it arrives from another process: by its code."""
    return wire.decode_failure(wire.encode_failure(error))


class SimulatedClient:
    def __init__(self, node: SimulatedNode):
        self.node = node
        self.closed = True
        self.on_lost = None

    async def connect(self, address):
        if not self.node.reachable:
            raise ConnectionLost(f"nobody answers at {address}")
        self.closed = False

    async def close(self):
        self.closed = True

    def _check(self):
        if self.closed:
            raise ConnectionLost("the other process went away")

    async def describe(self):
        self._check()
        network = self.node.network
        methods = [int(method) for method in self.node.methods]
        rest = (methods, ["10"] * len(methods), [1] * len(methods), "simulator", "1")
        programs = [
            ProgramDescription(self.node.names[0], network.programs["echo"], "chat", *rest),
            ProgramDescription(self.node.names[1], network.programs["length"], "tensor", *rest, metadata=METADATA),
        ]
        keys = [
            KeyDescription(int(method), key.id, key.record.signing_key, key.record.transport_key)
            for method, key in network.keys.items()
        ]
        return NodeDescription(network.chain_id, network.operator, programs, keys, self.node.starting)

    async def _before(self, job):
        self._check()
        self.node.jobs.append(job)
        if self.node.failure is not None:
            raise travelled(self.node.failure)
        if self.node.hold is not None:
            try:
                await self.node.hold.wait()
            except asyncio.CancelledError:
                self.node.cancelled.append(job)
                raise

    def _options(self, job):
        requester = None if job.requester is None else Requester(job.requester, job.requester_signature)
        return {"nonce": job.nonce if job.nonce_source == "client" else None, "seed": job.seed, "requester": requester}

    def _answer(self, receipt, body, job):
        columns = receipt.statement.columns
        usage = dict(receipt.statement.private.usage)
        key = receipt.statement.private.key
        seed = receipt.opening.seed
        identity = bytes.fromhex(receipt.id)
        return Answer(identity, body, receipt.to_bytes(), seed, columns.number, job.method, True, 0, key, usage)

    def begin(self, job, done):
        self._check()

        async def run():
            try:
                done(await self.infer(job))
            except AvowError as error:
                done(error)

        task = asyncio.create_task(run())
        return task.cancel

    async def infer(self, job):
        await self._before(job)
        body, receipt = self.node.network.answer(job.endpoint, job.body, Method(job.method), **self._options(job))
        self.node.keep(receipt, job.body, body)
        return self._answer(receipt, body, job)

    async def stream(self, job):
        await self._before(job)
        try:
            async for event in self._events(job):
                yield [event]
        except (GeneratorExit, asyncio.CancelledError):
            self.node.cancelled.append(job)
            raise

    async def _events(self, job):
        streamed = self.node.network.stream(
            job.body, Method(job.method), client_key=job.client_key, **self._options(job)
        )
        yield Begin(**{name: streamed.begin[name] for name in Begin.__struct_fields__})
        for place, event in enumerate(streamed.events):
            if self.node.cut is not None and place == 3:
                raise travelled(self.node.cut)
            yield Chunks([event.data], [] if event.mac is None else [event.mac])
            if event.head is not None:
                yield Head(event.head, event.count)
            await asyncio.sleep(self.node.gap_s)
        receipt = streamed.receipt
        chunks = [event.data for event in streamed.events]
        self.node.keep(receipt, job.body, stream_parts(chunks, receipt.statement.private.stream.head))
        yield self._answer(receipt, b"", job)

    async def receipt(self, identity, secret):
        self._check()
        receipt = self.node.receipts.get(identity)
        if receipt is None:
            raise travelled(ReceiptNotFound(f"no receipt has the id {identity.hex()}"))
        if secret is None:
            return receipt.redacted().to_bytes()
        if secret != receipt.opening.seed:
            raise travelled(OpeningGone())
        return receipt.to_bytes()

    async def wait_settled(self, identity, timeout_ms):
        self._check()
        if not self.node.settles:
            await asyncio.sleep(min(timeout_ms, 50) / 1000)
            raise travelled(NotSettled("not settled in time"))
        await asyncio.sleep(0.02)
        self.node.settle()
        return self.node.receipts[identity].redacted().to_bytes()

    async def status(self):
        self._check()
        keys = [
            KeyStatus(key.id, int(method), len(key.statements), key.settled)
            for method, key in self.node.network.keys.items()
        ]
        depth = sum(key.durable - key.settled for key in keys)
        return NodeStatus(depth, 0, 0, [int(method) for method in self.node.methods], True, True, 0, keys)


def chat(text="Say something.", **more):
    return json.dumps({"model": "echo", "messages": [{"role": "user", "content": text}], **more}).encode()
