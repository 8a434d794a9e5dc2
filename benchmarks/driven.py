"""One validator's process, without sockets and without CometBFT: what the network benchmarks drive to measure CPU time.

The ABCI messages of a network (gossiped bundles, proposals, blocks, commits) go as bytes into the code that the socket serves, on SQLite
on disk; then the block is published. Stages are exclusive: what a stage calls that is a stage of its own counts there alone.
"""

import hashlib
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain import application as application_module
from avow.chain import transaction as transaction_module
from avow.chain.application import Application
from avow.chain.genesis import Genesis
from avow.chain.state import SqliteStore, tree
from avow.chain.transaction import address_of_private_key
from avow.consensus import blockstore
from avow.consensus.block import EMPTY_COMMIT, Decided, Parameters, block_id, next_header, sign_commit
from avow.consensus.cometbft import driver as driver_module
from avow.consensus.cometbft import requests, responses
from avow.consensus.cometbft.bundle import encode_bundles
from avow.consensus.cometbft.driver import Driver
from avow.consensus.cometbft.wire import Frames, frame
from avow.nodes.rpc import index as index_module
from avow.receipt.encoding import base64url
from avow.receipt.headers import Header, Validator
from avow.receipt.protobuf import bytes_field, message_field, timestamp, varint_field
from benchmarks.load_generator import SENDER_KEYS

BUNDLED = 50
MILLISECOND = 10**6
KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"profile").digest())


class Stages:
    """Exclusive CPU nanoseconds by stage."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = defaultdict(int)
        self._open: list[str] = []
        self._since = 0

    def _switch(self) -> None:
        now = time.thread_time_ns()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            self._switch()
            self._open.append(name)
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._open.pop()

        return run


INNER: list[tuple[str, Any, str]] = [
    ("recovering signers", transaction_module, "_recover"),
    ("decoding transactions", application_module, "decode_transaction"),
    ("state tree", tree, "update"),
    ("results' root", application_module, "last_results_hash"),
    ("SQLite", SqliteStore, "_read"),
    ("SQLite", SqliteStore, "_read_many"),
    ("SQLite", SqliteStore, "_write"),
    ("SQLite", SqliteStore, "_begin"),
    ("SQLite", SqliteStore, "_finish"),
    ("records of blocks", blockstore, "encode_trusted"),
    ("records of blocks", index_module, "transaction_hash"),
    ("ABCI messages and bundles", driver_module, "decode_bundle"),
]
"""Stages within the phases: function and where it is looked up."""


@contextmanager
def staged(stages: Stages) -> Iterator[None]:
    """INNER's functions count as stages for as long as this is open."""
    with ExitStack() as stack:
        for name, owner, function in INNER:
            stack.enter_context(patch.object(owner, function, stages.wrapped(name, getattr(owner, function))))
        yield


class Node:
    """One validator's side, driven as its socket drives it."""

    def __init__(self, folder: Path, stages: Stages, *, keys: Sequence[bytes] = SENDER_KEYS) -> None:
        self.stages = stages
        public_key = KEY.public_key().public_bytes_raw()
        self.validators = (Validator(public_key, 10),)
        self.genesis = Genesis(
            time_ms=1_700_000_000_000,
            governance=bytes(20),
            treasury=bytes(19) + b"\x01",
            accounts=tuple(sorted((address_of_private_key(key), 10**24) for key in keys)),
            validators=((public_key, 10),),
        )
        self.store = SqliteStore(str(folder / "chain.db"))
        self.frames = Frames()
        self.last: Decided | None = None
        self.driver = self._open()
        self.genesis_hash = self._init_chain()

    def _open(self) -> Driver:
        return Driver(Application(self.store, self.genesis), self.store, self.genesis)

    def fill(self, values: Sequence[tuple[bytes, bytes]], chunk: int = 50_000) -> None:
        """Put these into the state, as if blocks had, after a first block; blocks begin anew after it."""
        self.block([], publish=False)
        for at in range(0, len(values), chunk):
            self.store.commit(self.store.prepare(values[at : at + chunk]), self.store.committed.height + 1)
            self.store.checkpoint()
        self.driver = self._open()
        self.driver.blocks.start_after(self.store.committed.height)

    def _call(self, phase: str, number: int, body: bytes) -> Any:
        data = frame(message_field(number, body))
        with self.stages.stage("ABCI messages and bundles"):
            self.frames.feed(data)
            message = self.frames.next()
            assert message is not None
            request = requests.decode_request(message)
        with self.stages.stage(phase):
            response = self.driver.answer(request)
        with self.stages.stage("ABCI messages and bundles"):
            frame(responses.encode_response(response))
        return response

    def _init_chain(self) -> bytes:
        update = message_field(1, bytes_field(1, self.validators[0].public_key)) + varint_field(2, 10)
        state = json.dumps(base64url(self.genesis.to_bytes())).encode()
        body = message_field(1, timestamp(self.genesis.time_ms * MILLISECOND))
        body += bytes_field(2, self.genesis.chain_id.encode()) + message_field(4, update)
        app_hash: bytes = self._call("start", 5, body + bytes_field(5, state) + varint_field(6, 1)).app_hash
        return app_hash

    def block(self, txs: Sequence[bytes], *, publish: bool = True) -> None:
        """Gossip, one proposal, one block, one commit, and what follows."""
        for at in range(0, len(txs), BUNDLED):
            for bundle in encode_bundles(txs[at : at + BUNDLED]):
                answer = self._call("admission", 8, bytes_field(1, bundle))
                assert answer.code == 0, answer
        height = self.store.committed.height + 1
        time_ns = self.genesis.time_ms * MILLISECOND + height * 10**9
        place = varint_field(5, height) + message_field(6, timestamp(time_ns))
        limit = varint_field(1, self.genesis.block_max_bytes)
        chosen = self._call("proposals and execution", 16, limit + place).txs
        assert len(chosen) == len(txs)
        header = self._header(height, chosen, time_ns)
        body = b"".join([message_field(1, tx) for tx in chosen]) + bytes_field(4, header.hash) + place
        body += bytes_field(7, bytes(32)) + bytes_field(8, bytes(20))
        assert self._call("proposals and execution", 17, body).accept
        results = self._call("proposals and execution", 20, body)
        assert all(result.code == 0 for result in results.tx_results)
        self._call("pool and commit", 11, b"")
        if publish:
            self._publish(header, chosen, time_ns)

    def _header(self, height: int, txs: tuple[bytes, ...], time_ns: int) -> Header:
        genesis = self.genesis
        parameters = Parameters(genesis.chain_id, 1, genesis.block_max_bytes, genesis.block_gas_limit)
        header = next_header(
            parameters,
            self.last,
            genesis_app_hash=self.genesis_hash,
            validators=self.validators,
            txs=txs,
            time_ns=time_ns,
        )
        return replace(header, height=height)

    def _publish(self, header: Header, txs: tuple[bytes, ...], time_ns: int) -> None:
        """What the engine does once CometBFT gives the commit."""
        last_commit = EMPTY_COMMIT if self.last is None else self.last.commit
        commit = sign_commit(header, block_id(header, txs, last_commit), KEY, time_ns)
        with self.stages.stage("publication"):
            executed = self.driver.blocks.executed(header.height)
            block = Decided(header, commit, executed.txs, executed.results, executed.app_hash, self.validators)
            with self.store.transaction():
                self.driver.blocks.append_executed([block])
                self.store.put_records(index_module.block_records(block))
        self.last = block
        if self.store.checkpoint_due:
            with self.stages.stage("write-back (another thread)"):
                self.store.checkpoint()


def per_transfer(runs: Sequence[dict[str, int]], transfers: int) -> dict[str, float]:
    """Median microseconds for each transfer by stage, over blocks of so many."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: statistics.median(run.get(name, 0) for run in runs) / transfers / 1e3 for name in names}
