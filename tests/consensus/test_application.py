"""The engine with the real application: transfers under load, killed between any two steps, proven by the light client."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.application import Application
from avow.chain.genesis import Genesis
from avow.chain.state import SqliteStore
from avow.chain.transaction import address_of_private_key, sign_transaction
from avow.consensus.embedded import EmbeddedEngine
from avow.consensus.machine import Machine
from avow.receipt import light, merkle

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
ETHER = 10**18
SENDER = hashlib.sha256(b"sender").digest()
START_NS = 1_800_000_000_000_000_000


class RealChain:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START_NS
        self.genesis = Genesis(
            time_ms=START_NS // 10**6 - 1,
            governance=bytes(20),
            treasury=b"\x01" * 20,
            accounts=((address_of_private_key(SENDER), 1_000 * ETHER),),
        )
        self.store = SqliteStore(str(folder / "chain.db"))

    def clock(self) -> int:
        self.now += 10**6
        return self.now

    def parts(self) -> tuple[Application, SqliteStore, Genesis, Ed25519PrivateKey]:
        self.store.close()
        self.store = SqliteStore(str(self.folder / "chain.db"))
        return Application(self.store, self.genesis), self.store, self.genesis, KEY

    def transfer(self, nonce: int) -> bytes:
        return sign_transaction(
            SENDER,
            chain_id=self.genesis.eip155,
            nonce=nonce,
            to=nonce.to_bytes(20),
            value=nonce + 1,
            gas_limit=50_000,
            max_fee=2 * 10**9,
        )


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[RealChain]:
    made = RealChain(tmp_path)
    yield made
    made.store.close()


def executed(blocks: Any, height: int) -> list[bytes]:
    return [tx for at in range(1, height + 1) for tx in blocks(at).txs]


async def test_transfers_settle_and_the_chain_falls_silent(chain: RealChain) -> None:
    engine = EmbeddedEngine(*chain.parts(), clock_ns=chain.clock, spacing_ms=20, heartbeat_ms=60_000)
    await engine.start()
    txs = [chain.transfer(nonce) for nonce in range(40)]
    for tx in txs:
        assert (await engine.submit(tx)).code == 0
    while engine.waiting:
        await engine.wait_height(engine.height + 1)
    await asyncio.sleep(0.2)
    height = engine.height
    await asyncio.sleep(0.2)
    assert engine.height == height, "nothing to do, no blocks"
    assert executed(engine.block, height) == txs
    assert {result.code for at in range(1, height + 1) for result in engine.results(at)} == {0}
    signed = engine.signed_block(height)
    light.verify_commit(chain.genesis.chain_id, signed.validators, signed.signed_header)
    for key, value in list(chain.store.iterate(b"")):
        root = merkle.sparse_root(key, value, chain.store.prove(key))
        assert light.app_hash(root, chain.store.committed.history.root()) == signed.header.app_hash
    await engine.stop()


class Killed(BaseException):
    pass


def test_killed_between_any_two_steps(tmp_path: Path) -> None:
    """Every transfer happens exactly once, whatever step the process dies at."""
    die_at = 0
    while True:
        folder = tmp_path / str(die_at)
        folder.mkdir()
        chain = RealChain(folder)
        left = die_at

        def probe(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        acknowledged: list[bytes] = []

        def live(
            machine: Machine, nonces: range, acknowledged: list[bytes] = acknowledged, chain: RealChain = chain
        ) -> None:
            for nonce in nonces:
                tx = chain.transfer(nonce)
                if machine.check(tx)[1].code == 0:
                    machine.store_pool()
                    acknowledged.append(tx)
                drain(machine)

        try:
            live(Machine(*chain.parts(), chain.clock, probe=probe), range(2))
        except Killed:
            ended = False
        else:
            ended = True
        machine = Machine(*chain.parts(), chain.clock)
        drain(machine)
        live(machine, range(3))
        txs = executed(machine.blocks.load, machine.blocks.position.height)
        assert txs == [chain.transfer(nonce) for nonce in range(3)], f"killed at probe {die_at}"
        assert set(acknowledged) <= set(txs)
        assert not machine.proof_due
        chain.store.check()
        chain.store.close()
        if ended:
            break
        die_at += 1
    assert die_at > 20


def drain(machine: Machine) -> None:
    step: Callable[[], Any] = lambda: machine.step(even_empty=False)  # noqa: E731
    while step() is not None:
        pass
