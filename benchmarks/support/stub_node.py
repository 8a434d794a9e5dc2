"""A node whose answers cost nothing: each is made before the first request, and carries a real tee receipt.

    python -m benchmarks.support.stub_node unix:PATH

A stream has 100 chunks, or 1,100 where the question says "1100 chunks". Where it says "every 2 ms", one chunk comes every
two milliseconds; else all come at once, each in a frame of its own. (In the question, since proxies drop what they do not know.)
"""

import asyncio
import sys

import msgspec
import uvloop

from avow.nodes import wire
from avow.nodes.jobs import (
    Answer,
    Begin,
    Chunks,
    Head,
    Job,
    KeyDescription,
    NodeDescription,
    NodeStatus,
    ProgramDescription,
)
from avow.nodes.service import Port, Service
from avow.nodes.wire import Kind
from avow.receipt.statement import Method
from tests.simulator import Simulator, point

SHORT, LONG = 100, 1_100


def wanted(body: bytes) -> tuple[int, float]:
    """How many chunks a request's body asks for, and the seconds between two."""
    return (LONG if b"1100 chunks" in body else SHORT), (0.002 if b"every 2 ms" in body else 0.0)


class Stubbed:
    """One answer and streams of both lengths, as encoded frames."""

    def __init__(self) -> None:
        network = Simulator()
        network.register(Method.TEE)
        self.network = network
        body, receipt = network.answer("POST /v1/chat/completions", network.chat_body(_words(SHORT)), Method.TEE)
        self.body = body
        self.answer = wire.encode(self._answer(receipt, body))
        self.chunks: dict[int, list[bytes]] = {}
        client_key = point(network.private_key("client"))
        self.streams = {
            (length, keyed): self._stream(length, client_key if keyed else None)
            for length in (SHORT, LONG)
            for keyed in (False, True)
        }

    def _answer(self, receipt, body):
        private = receipt.statement.private
        identity = bytes.fromhex(receipt.id)
        usage = dict(private.usage)
        return Answer(identity, body, receipt.to_bytes(), receipt.opening.seed, 0, 2, True, 0, private.key, usage)

    def _stream(self, length, client_key):
        request = self.network.chat_body(_words(length), stream=True)
        streamed = self.network.stream(request, Method.TEE, client_key=client_key, heads=(1,))
        self.chunks[length] = [event.data for event in streamed.events]
        assert len(self.chunks[length]) == length
        frames = [(Kind.BEGIN, wire.encode(Begin(**{name: streamed.begin[name] for name in Begin.__struct_fields__})))]
        for event in streamed.events:
            frames.append((Kind.CHUNKS, wire.encode(Chunks([event.data], [event.mac] if event.mac else []))))
            if event.head is not None:
                frames.append((Kind.HEAD, wire.encode(Head(event.head, event.count))))
        return frames, wire.encode(self._answer(streamed.receipt, b""))


def _words(chunks: int) -> str:
    """A text that is echoed in this many chunks: "You said:" makes two, role and end one each. No two words are the same:
    LiteLLM breaks a stream off that repeats itself.
    """
    return " ".join(f"word{place}" for place in range(chunks - 4))


class NoHandle:
    """The stub's jobs are over when they begin, but for paced streams."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self, _cause=None):
        self.cancelled = True

    def pause(self):
        pass

    def resume(self):
        pass


_job = msgspec.msgpack.Decoder(Job).decode


def serve_job(stubbed: Stubbed):
    loop = asyncio.get_running_loop()

    def start(port: Port, payload: bytes):
        job = _job(payload)
        handle = NoHandle()
        if not job.stream:
            port.finish(stubbed.answer)
            return handle
        length, pace_s = wanted(job.body)
        frames, end = stubbed.streams[length, job.client_key is not None]
        if not pace_s:
            for kind, frame in frames:
                port.send(kind, frame)
            port.finish(end)
            return handle

        def step(at: int) -> None:
            if handle.cancelled:
                return
            if at == len(frames):
                port.finish(end)
            else:
                port.send(*frames[at])
                loop.call_later(pace_s, step, at + 1)

        step(0)
        return handle

    return start


async def run(address: str) -> None:
    stubbed = Stubbed()
    network = stubbed.network
    methods = [Method.VANILLA, Method.TEE]
    program = ProgramDescription(
        "echo", network.programs["echo"], "chat", [0, 2], ["10", "10"], [1, 1], "simulator", "1"
    )
    keys = [
        KeyDescription(int(method), key.id, key.record.signing_key, key.record.transport_key)
        for method, key in network.keys.items()
    ]
    description = wire.encode(NodeDescription(network.chain_id, network.operator, [program], keys))
    status = wire.encode(NodeStatus(0, 0, 0, [int(method) for method in methods], True, True, 0, []))

    async def describe(_args: bytes) -> bytes:
        return description

    async def tell(_args: bytes) -> bytes:
        return status

    service = Service(serve_job(stubbed), {"describe": describe, "status": tell})
    await service.listen(address)
    print("ready", address, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1]))
