"""What the tests of the processes share: a stub engine behind a runner, and a sink that records."""

import asyncio
import sys
from pathlib import Path

from avow.errors import AvowError
from avow.nodes.jobs import CHAT, Begin, Chunks, Head, Job, Result, Terms
from avow.nodes.loaded import Loaded

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.stub_engine import StubEngine, prepare  # noqa: E402

PROGRAM = bytes(range(32))
CHAIN = "avow-0123456789abcdef"
OPERATOR = b"\x11" * 20
PAYER = b"\x22" * 20
TERMS = Terms((1_000).to_bytes(16), 3)
BODY = b'{"model":"stub","messages":[{"role":"user","content":"hello there"}]}'
STREAM_BODY = b'{"model":"stub","stream":true,"messages":[{"role":"user","content":"hello there"}]}'


def loaded(engine=None, slots=2):
    return Loaded(PROGRAM, "stub", "chat", engine or StubEngine(), prepare, slots)


def job(body=BODY, **changes):
    fields = {
        "endpoint": CHAT,
        "body": body,
        "program": PROGRAM,
        "method": 0,
        "nonce": b"n" * 16,
        "nonce_source": "client",
        "payer": PAYER,
        "stream": body is STREAM_BODY,
    }
    return Job(**{**fields, **changes})


class RecordingSink:
    """Keeps what a run hands over."""

    def __init__(self):
        self.events = []
        self.over = asyncio.get_running_loop().create_future()

    def begin(self, begin: Begin):
        self.events.append(begin)

    def chunks(self, chunks: Chunks):
        self.events.append(chunks)

    def head(self, head: Head):
        self.events.append(head)

    def end(self, result: Result):
        self.over.set_result(result)

    def failed(self, error: AvowError):
        self.over.set_exception(error)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def data(self):
        return [data for chunks in self.of(Chunks) for data in chunks.data]
