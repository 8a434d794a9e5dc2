"""A small application and a chain around it that tests can kill, reopen and look into."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain import abci
from avow.chain.genesis import Genesis
from avow.chain.state import MemoryStore, Overlay, SqliteStore, Store
from avow.consensus.embedded import EmbeddedEngine
from avow.consensus.machine import Machine

START_NS = 1_800_000_000_000_000_000
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


class KeyValue:
    """`key=value` sets a key; `hold…` is never proposed, `once=…` is refused when checked again, `refuse…` is not accepted
    in a block, `boom…` fails in one, `rot…` fails when checked, once it is rotten.
    """

    def __init__(self, store: Store, retain: int = 0, *, rotten: bool = False) -> None:
        self.store = store
        self.retain = retain
        self.rotten = rotten
        self.calls: list[str] = []
        self.genesis: dict[bytes, bytes | None] = {}
        self.candidate: Any = None
        self.height = 0

    def info(self) -> abci.InfoResponse:
        committed = self.store.committed
        return abci.InfoResponse("key-value", "1", 3, committed.height, committed.app_hash if committed.height else b"")

    def init_chain(self, request: abci.InitChainRequest) -> abci.InitChainResponse:
        self.genesis = {b"chain": request.chain_id.encode()}
        return abci.InitChainResponse(self.store.prepare(self.genesis).app_hash)

    def check_tx(self, request: abci.CheckTxRequest) -> abci.CheckTxResponse:
        if self.rotten and request.tx.startswith(b"rot"):
            raise ZeroDivisionError
        again = request.type is abci.CheckTxType.RECHECK
        refused = b"=" not in request.tx or (again and request.tx.startswith(b"once="))
        return abci.CheckTxResponse(code=9 if refused else 0)

    def prepare_proposal(self, request: abci.PrepareProposalRequest) -> abci.PrepareProposalResponse:
        return abci.PrepareProposalResponse(tuple(tx for tx in request.txs if not tx.startswith((b"hold", b"once"))))

    def process_proposal(self, request: abci.ProcessProposalRequest) -> abci.ProcessProposalResponse:
        return abci.ProcessProposalResponse(accept=not any(tx.startswith(b"refuse") for tx in request.txs))

    def finalize_block(self, request: abci.FinalizeBlockRequest) -> abci.FinalizeBlockResponse:
        overlay = Overlay(self.store)
        for key, value in self.genesis.items():
            if value is not None:
                overlay.put(key, value)
        results = []
        for tx in request.txs:
            if tx.startswith(b"boom"):
                raise ZeroDivisionError
            key, _, value = tx.partition(b"=")
            overlay.put(b"kv/" + key, value)
            event = abci.Event("set", (abci.EventAttribute("key", key.decode()),))
            results.append(abci.ExecTxResult(data=value, gas_wanted=2, gas_used=1, log="set", events=(event,)))
        self.height = request.height
        self.candidate = self.store.prepare(overlay.changes())
        return abci.FinalizeBlockResponse(tuple(results), self.candidate.app_hash)

    def commit(self) -> abci.CommitResponse:
        self.store.commit(self.candidate, self.height)
        self.genesis, self.candidate = {}, None
        return abci.CommitResponse(max(0, self.height - self.retain) if self.retain else 0)

    def query(self, request: abci.QueryRequest) -> abci.QueryResponse:
        return abci.QueryResponse(value=self.store.get(b"kv/" + request.data) or b"")


class Clock:
    """Nanoseconds that pass as they are told."""

    def __init__(self) -> None:
        self.now = START_NS

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


def make_genesis(**changes: Any) -> Genesis:
    return Genesis(
        time_ms=START_NS // 1_000_000 - 1_000, governance=bytes(20), treasury=bytes(20), accounts=(), **changes
    )


class Chain:
    """One chain on disk (or in memory), opened as often as a test likes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.clock = Clock()
        self.genesis = make_genesis()
        self.key = KEY
        self.retain = 0
        self.rotten = False
        self.store: Store = MemoryStore()

    def reopen(self) -> KeyValue:
        if self.path is not None:
            self.store.close()
            self.store = SqliteStore(str(self.path / "chain.db"))
        return KeyValue(self.store, self.retain, rotten=self.rotten)

    def machine(self, **options: Any) -> Machine:
        return Machine(self.reopen(), self.store, self.genesis, self.key, self.clock, **options)

    def engine(self, **options: Any) -> EmbeddedEngine:
        settings: dict[str, Any] = {"clock_ns": self.clock, "spacing_ms": 20, "heartbeat_ms": 60_000, **options}
        return EmbeddedEngine(self.reopen(), self.store, self.genesis, self.key, **settings)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    made = Chain(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Any]:
    """Wait for a condition, five seconds at most."""

    async def wait(condition: Callable[[], bool]) -> None:
        for _ in range(1_000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it did not happen within five seconds")

    return wait
