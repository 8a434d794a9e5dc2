"""A small chat program in a store, and nodes that answer with it, honestly or not."""

import secrets
import tempfile
from pathlib import Path

import msgspec

from avow.engines.exact import load_program
from avow.exact import files
from avow.exact.committed import CommittedRun
from avow.exact.hashing import Header, Salts, trace_of
from avow.models.manifest import File, Manifest
from avow.models.store import Store, hash_file
from avow.nodes.openings import Shown
from avow.nodes.programs import load_programs
from avow.nodes.watcher.check import Runnable
from avow.receipt.audience import Audience
from avow.receipt.commitment import response_body
from avow.receipt.encoding import encode
from avow.receipt.statement import Columns, EngineIdentity, Method, NonceSource, Private
from avow.receipt.stream import Assembly
from tests.exact.language_model import program, vocabulary

NAME = "small-chat"
CONTEXT = 200


def install_chat(home: Path, _program=None, name: str = NAME) -> bytes:
    """Puts the small chat program into a home's store; its id."""
    exact = program(context=CONTEXT)
    store = Store(home)
    store.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.directory) as scratch:
        folder = Path(scratch)
        files.save(exact, folder / "program.exact")
        (folder / "tokeniser.cbor").write_bytes(vocabulary().encoded())
        listed = tuple(File(each, *hash_file(folder / each, each)) for each in ("program.exact", "tokeniser.cbor"))
        chosen = {"root": exact.root.hex(), "program": "program.exact", "tokeniser": "tokeniser.cbor"}
        manifest = Manifest(name, "exact", "exact", listed, chosen, "Apache-2.0", "test")
        return store.add(manifest, {file.path: folder / file.path for file in listed})


def runnable_chat(home: Path) -> Runnable:
    identity = install_chat(home)
    loaded = load_programs(home, [identity.hex()])[identity]
    return Runnable(loaded, loaded.engine, load_program(Store(home).get(identity)))


def request_of(**more) -> bytes:
    body = {"model": NAME, "messages": [{"role": "user", "content": "the sea, 42"}], "seed": 11, "max_tokens": 24}
    return msgspec.json.encode({**body, **more})


class Answered:
    """What a node shows of one chat answer, and the node that answers demands. The arguments are where it may lie.

    `ran`: the request that it really ran. `parameters`: changes of the effective parameters that it ran with. `left_after`: the caller
    left after so many chunks. `told`: changes of the answer. `usage`, `units`, `complete`: what the statement says instead.
    """

    def __init__(
        self, runnable, body, *, ran=None, parameters=None, left_after=None, told=None, usage=None, units=None,
        complete=None, streamed=False, trace=None,
    ):  # fmt: skip
        engine, loaded = runnable.engine, runnable.loaded
        self.seed = seed = secrets.token_bytes(32)
        request = loaded.prepare(body)
        effective = engine.effective(request)
        self.run_of = loaded.prepare(ran) if ran is not None else request
        self.run_with = {**effective, **(parameters or {})}
        chunks = []

        def emit(chunk):
            chunks.append(chunk)
            return left_after is not None and len(chunks) >= left_after

        listening = emit if streamed or left_after is not None else None
        answer, made = engine.traced_chat(self.run_of, self.run_with, seed, listening)
        self.engine, self.header = engine, made.header
        answer = msgspec.json.decode(msgspec.json.encode(answer))
        counted = {name: count for name, count in answer["usage"].items() if isinstance(count, int)}
        if listening is not None:
            answer = assembled(chunks)
        if told is not None:
            told(answer)
        response, _ = response_body(answer)
        usage = counted if usage is None else {**counted, **usage}
        private = Private(
            chain_id="avow-0123456789abcdef", node=bytes(20), key=bytes(32), engine=EngineIdentity("exact", "1", ""),
            request=bytes(32), effective=bytes(32), response=bytes(32), nonce=bytes(16), nonce_source=NonceSource.CLIENT,
            requester=None, authorised=False, started_ms=0, usage=tuple(sorted(usage.items())), stream=None,
            complete=left_after is None if complete is None else complete, audience=Audience(),
        )  # fmt: skip
        charged = counted["total_tokens"] if units is None else units
        self.trace = trace_of(self.header)
        columns = Columns(0, loaded.program, bytes(20), Method.OPTIMISTIC, charged, 1, 1, 1, self.trace, 0)
        self.shown = Shown(
            columns.pack(), encode(private.to_value()), seed, "POST /v1/chat/completions", body,
            msgspec.json.encode(effective), response, b"x" * 40 if listening is not None else b"", self.header,
        )  # fmt: skip
        self.asked = 0

    def ask(self, demand):
        self.asked += 1
        run = self.engine.replay(self.run_of, self.run_with, Salts(self.seed), Header.parse(self.header))
        return CommittedRun(self.header, run, Salts(self.seed)).ask(demand)


def assembled(chunks):
    """As a node joins its chunks."""
    assembly = Assembly()
    for chunk in chunks:
        assembly.add(chunk)
    return msgspec.json.decode(msgspec.json.encode(assembly.answer()))
