"""The same blocks through the embedded engine and through the ABCI socket: the same results and hashes, byte for byte."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Self

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain import abci
from avow.chain.application import Application
from avow.chain.modules import registry
from avow.chain.state import MemoryStore, SqliteStore
from avow.consensus.cometbft import messages
from avow.consensus.cometbft.bundle import encode_bundles
from avow.consensus.cometbft.configuration import genesis_json
from avow.consensus.cometbft.driver import CODE_NOT_WAITING, Driver
from avow.consensus.cometbft.requests import decode_request
from avow.consensus.cometbft.responses import encode_result
from avow.consensus.cometbft.server import AbciServer
from avow.consensus.cometbft.wire import Frames, frame
from avow.consensus.machine import Machine
from avow.nodes.rpc.index import block_records
from avow.receipt.statement import Method
from tests.chain.harness import START_MS, Chain, account, replace
from tests.consensus.cometbft.oracle import Request, Response

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


class Socket:
    """CometBFT's side of one ABCI connection, spoken by protobuf's own runtime."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.frames = reader, writer, Frames()

    async def ask(self, *requests):
        for request in requests:
            self.writer.write(frame(request.SerializeToString()))
        flush = Request()
        flush.flush.SetInParent()
        self.writer.write(frame(flush.SerializeToString()))
        found = [await self._next() for _ in requests]
        assert (await self._next()).WhichOneof("value") == "flush"
        return found if len(found) > 1 else found[0]

    async def _next(self):
        while (message := self.frames.next()) is None:
            data = await self.reader.read(65_536)
            if not data:
                raise ConnectionResetError
            self.frames.feed(data)
        return Response.FromString(message)


def init_chain(genesis) -> Request:
    """As CometBFT makes it from our genesis.json."""
    written = json.loads(genesis_json(genesis))
    request = Request()
    found = request.init_chain
    found.time.seconds, millis = divmod(genesis.time_ms, 1000)
    found.time.nanos = millis * 10**6
    found.chain_id, found.initial_height = written["chain_id"], 1
    found.app_state_bytes = json.dumps(written["app_state"]).encode()
    for public_key, power in genesis.validators:
        update = found.validators.add(power=power)
        update.pub_key.ed25519 = public_key
    return request


def init_chain_request(genesis) -> abci.InitChainRequest:
    return decode_request(init_chain(genesis).SerializeToString())


def finalize(height, time_ns, block_hash, proposer, txs) -> Request:
    request = Request()
    found = request.finalize_block
    found.height, found.hash, found.proposer_address = height, block_hash, proposer
    found.time.seconds, found.time.nanos = divmod(time_ns, 10**9)
    found.decided_last_commit.SetInParent()
    found.txs.extend(txs)
    return request


def commit() -> Request:
    request = Request()
    request.commit.SetInParent()
    return request


def check(tx, kind=0) -> Request:
    request = Request()
    request.check_tx.tx, request.check_tx.type = tx, kind
    return request


@pytest.fixture
def genesis():
    made = Chain(settings={"validators": ((KEY.public_key().public_bytes_raw(), 10),)})
    return made.genesis


class Node:
    """An application behind a real socket."""

    def __init__(self, folder: Path, genesis) -> None:
        self.path, self.genesis = folder, genesis
        self.store = SqliteStore(str(folder / "chain.db"))
        self.faults: list[Exception] = []
        self.application = Application(self.store, genesis)
        self.driver = Driver(self.application, self.store, genesis)
        self.server = AbciServer(folder / "abci.sock", self.driver.answer, on_fault=self.faults.append)

    async def __aenter__(self) -> Self:
        await self.server.start()
        return self

    async def __aexit__(self, *_) -> None:
        await self.server.stop()
        self.store.close()

    async def connect(self) -> Socket:
        return Socket(*await asyncio.open_unix_connection(self.path / "abci.sock"))


async def test_blocks_give_the_same_bytes_by_both_ways(tmp_path, genesis):
    """A day of a chain, statements settled and refused among it, made by the embedded engine and replayed over the socket."""
    txs = transactions(genesis)
    store = MemoryStore()
    now = START_MS * 10**6

    def clock() -> int:
        nonlocal now
        now += 10**9
        return now

    machine = Machine(Application(store, genesis), store, genesis, KEY, clock)
    blocks = [machine.step(even_empty=True)]
    for group in txs:
        for tx in group:
            machine.check(tx)
        blocks.append(machine.step(even_empty=True))
    blocks.append(machine.step(even_empty=True))
    assert sum(len(block.txs) for block in blocks) == sum(len(group) for group in txs) > 5
    async with Node(tmp_path, genesis) as node:
        consensus = await node.connect()
        answer = await consensus.ask(init_chain(genesis))
        assert answer.init_chain.app_hash == blocks[0].header.app_hash
        for block in blocks:
            header = block.header
            request = finalize(header.height, header.time_ns, header.hash, header.proposer_address, block.txs)
            found, done = await consensus.ask(request, commit())
            assert done.WhichOneof("value") == "commit"
            assert found.finalize_block.app_hash == block.app_hash
            assert [item.SerializeToString(deterministic=True) for item in found.finalize_block.tx_results] == [
                encode_result(item) for item in block.results
            ]
            executed = node.driver.blocks.executed(header.height)
            assert (executed.txs, executed.results, executed.hash) == (block.txs, block.results, header.hash)
        assert node.store.committed == store.committed
        assert dict(node.store.iterate(b"")) == dict(store.iterate(b""))
        assert not node.faults


def transactions(genesis) -> list[list[bytes]]:
    """Groups of signed transactions for the genesis' accounts: transfers, calls that succeed, and one that is refused."""
    chain = Chain(settings={"validators": genesis.validators})
    key = chain.new_key(Method.VANILLA)
    groups = []

    def add(*made: bytes) -> None:
        groups.append(list(made))
        chain.block(*made)

    def call(who: str, module: bytes, function: str, *arguments: object, **more: int) -> bytes:
        return chain.raw(who, module, chain.call_data(module, function, *arguments), **more)

    from tests.chain.harness import PROGRAM, bank, nodes

    add(chain.raw("payer", b"\x11" * 20, value=5, gas=50_000), chain.raw("stranger", b"\x12" * 20, value=7, gas=50_000))
    add(call("operator", registry.ADDRESS, "publish", "harness", PROGRAM))
    add(
        call("operator", nodes.ADDRESS, "setPrice", PROGRAM, int(key.method), 100),
        call("payer", bank.ADDRESS, "allow", account("operator"), 10**18, START_MS + 10**12),
    )
    add(call("stranger", registry.ADDRESS, "publish", "harness", PROGRAM))  # taken: it reverts, and is charged
    add(*[chain.raw("payer", bytes([n]) * 20, value=n, gas=50_000, nonce=2 + n) for n in range(5)])
    return groups


async def test_check_recheck_bundle_and_proposal(tmp_path, genesis):
    chain = Chain(settings={"validators": genesis.validators})
    first, second = (chain.raw("payer", b"\x11" * 20, value=1, gas=50_000, nonce=n) for n in (0, 1))
    other = chain.raw("stranger", b"\x12" * 20, value=1, gas=50_000)
    (bundle,) = encode_bundles([second, other])
    async with Node(tmp_path, genesis) as node:
        consensus, mempool = await node.connect(), await node.connect()
        await consensus.ask(init_chain(genesis))
        answers = await mempool.ask(check(first), check(first), check(bundle), check(b"\xa0\x01"), check(b"nothing"))
        assert [answer.check_tx.code for answer in answers][:3] == [0, 0, 0]
        assert all(answer.check_tx.code for answer in answers[3:])
        request = Request()
        request.prepare_proposal.max_tx_bytes, request.prepare_proposal.height = 1 << 20, 1
        request.prepare_proposal.txs.append(bundle)  # what CometBFT's mempool holds is not what is proposed
        proposed = list((await consensus.ask(request)).prepare_proposal.txs)
        assert proposed == [first, second, other]
        for wrong, verdict in ((proposed, 1), ([bundle], 2), ([second], 2), ([*proposed, first], 2), ([b"x"], 2)):
            request = Request()
            request.process_proposal.txs.extend(wrong)
            request.process_proposal.height = 1
            assert (await consensus.ask(request)).process_proposal.status == verdict
        await consensus.ask(finalize(1, START_MS * 10**6 + 1, b"\x01" * 32, bytes(20), [first, second]), commit())
        answers = await mempool.ask(check(first, 1), check(bundle, 1), check(other, 1))
        assert [answer.check_tx.code for answer in answers] == [CODE_NOT_WAITING, 0, 0]
        await consensus.ask(finalize(2, START_MS * 10**6 + 2, b"\x02" * 32, bytes(20), [other]), commit())
        answers = await mempool.ask(check(bundle, 1), check(first))  # all of it is in blocks now
        assert answers[0].check_tx.code == CODE_NOT_WAITING
        assert answers[1].check_tx.code != 0
        assert not node.faults


async def test_the_application_mempool_hands_on_what_it_took(tmp_path, genesis):
    chain = Chain(settings={"validators": genesis.validators})
    txs = [chain.raw("payer", b"\x11" * 20, value=1, gas=50_000, nonce=n) for n in range(3)]

    def insert(tx: bytes) -> Request:
        request = Request()
        request.insert_tx.tx = tx
        return request

    def reap(limit: int = 0) -> Request:
        request = Request()
        request.reap_txs.SetInParent()
        request.reap_txs.max_bytes = limit
        return request

    async with Node(tmp_path, genesis) as node:
        socket = await node.connect()
        await socket.ask(init_chain(genesis))
        await socket.ask(check(txs[0]), insert(txs[1]), insert(txs[2]))
        found = await socket.ask(reap(len(txs[0]) + 1))
        assert list(found.reap_txs.txs) == txs[:1]
        assert list((await socket.ask(reap())).reap_txs.txs) == txs[1:]
        assert not (await socket.ask(reap())).reap_txs.txs
        node.driver.reap_again()
        assert list((await socket.ask(reap())).reap_txs.txs) == txs


async def test_extensions_are_empty_and_info_is_true(tmp_path, genesis):
    async with Node(tmp_path, genesis) as node:
        socket = await node.connect()
        extend, verify, wrong, info = Request(), Request(), Request(), Request()
        extend.extend_vote.height = verify.verify_vote_extension.height = 1
        wrong.verify_vote_extension.vote_extension = b"x"
        info.info.version = "0.40.0"
        answers = await socket.ask(extend, verify, wrong, info)
        assert answers[0].extend_vote.vote_extension == b""
        assert [answer.verify_vote_extension.status for answer in answers[1:3]] == [1, 2]
        assert (answers[3].info.last_block_height, answers[3].info.last_block_app_hash) == (0, b"")
        await socket.ask(init_chain(genesis))
        again = await socket.ask(init_chain(genesis))  # CometBFT may ask again after a crash
        assert again.init_chain.app_hash


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.validators.add(power=1).pub_key.__setattr__("ed25519", b"\x09" * 32),
        lambda found: setattr(found.validators[0], "power", 11),
        lambda found: setattr(found, "app_state_bytes", b"{}"),
        lambda found: setattr(found, "app_state_bytes", b"\xff"),
        lambda found: setattr(found, "initial_height", 2),
        lambda found: setattr(found, "chain_id", "avow-other"),
        lambda found: setattr(found.time, "seconds", 1),
    ],
)
async def test_another_genesis_stops_the_application(tmp_path, genesis, spoil):
    async with Node(tmp_path, genesis) as node:
        socket = await node.connect()
        request = init_chain(genesis)
        spoil(request.init_chain)
        with pytest.raises(ConnectionResetError):
            await socket.ask(request)
        assert [fault.code for fault in node.faults] == ["bad_genesis"]
        later = await node.connect()  # the driver is broken for good
        info = Request()
        info.info.SetInParent()
        with pytest.raises(ConnectionResetError):
            await later.ask(info)


@pytest.mark.parametrize(
    "early", [lambda _: True, lambda _: False, lambda height: height % 2], ids=["early", "late", "mixed"]
)
def test_a_block_is_the_same_whether_its_commit_came_before_or_after(tmp_path, genesis, early):
    """Written with the state, or after it: the same blocks, the same index, the same after a restart."""
    txs = transactions(genesis)
    memory = MemoryStore()
    clock = itertools.count(START_MS * 10**6 + 10**9, 10**9).__next__
    machine = Machine(Application(memory, genesis), memory, genesis, KEY, clock, index=block_records)
    made = [machine.step(even_empty=True)]
    for group in txs:
        for tx in group:
            machine.check(tx)
        made.append(machine.step(even_empty=True))
    told: list[int] = []
    store = SqliteStore(str(tmp_path / "chain.db"))
    driver = Driver(
        Application(store, genesis),
        store,
        genesis,
        on_finalized=told.append,
        decided=lambda executed: made[executed.height - 1] if early(executed.height) else None,
        index=block_records,
    )
    driver.answer(init_chain_request(genesis))
    for block in made:
        header = block.header
        for tx in block.txs:
            driver.accept(tx)
        driver.answer(
            abci.FinalizeBlockRequest(
                block.txs,
                header.hash,
                header.height,
                header.time_ns,
                header.proposer_address,
                header.next_validators_hash,
            )
        )
        driver.answer(messages.CommitRequest())
        if not early(header.height):
            assert driver.blocks.position.height == header.height - 1
            with store.transaction():
                driver.blocks.append_executed([block])
                store.put_records(block_records(block))
        assert driver.blocks.position.height == header.height
        assert driver.blocks.load(header.height) == block
    assert told == [block.height for block in made]
    assert store.committed == memory.committed
    assert len(driver.pool) == 0
    expected = dict(memory.records(b"index/"))
    store.close()
    store = SqliteStore(str(tmp_path / "chain.db"))
    driver = Driver(Application(store, genesis), store, genesis)
    assert [driver.blocks.load(block.height) for block in made] == made
    assert dict(store.records(b"index/")) == expected
    assert not list(store.records(b"executed/"))
    store.close()


def test_a_copy_of_what_is_in_a_block_is_known_without_being_checked(tmp_path, genesis, monkeypatch):
    chain = Chain(settings={"validators": genesis.validators})
    first, second = (chain.raw("payer", b"\x11" * 20, value=1, gas=50_000, nonce=n) for n in range(2))
    third = chain.raw("payer", b"\x11" * 20, value=1, gas=50_000, nonce=2)
    (bundle,) = encode_bundles([first, second])
    (mixed,) = encode_bundles([first, second, third])
    store = MemoryStore()
    driver = Driver(Application(store, genesis), store, genesis)
    driver.answer(init_chain_request(genesis))
    assert driver.answer(abci.CheckTxRequest(bundle)).code == 0
    driver.answer(
        abci.FinalizeBlockRequest((first, second), b"\x01" * 32, 1, (START_MS + 5) * 10**6, b"\x02" * 20, b"\x03" * 32)
    )
    driver.answer(messages.CommitRequest())
    asked: list[bytes] = []
    check = Application.check_tx
    monkeypatch.setattr(
        Application, "check_tx", lambda self, request: (asked.append(request.tx), check(self, request))[1]
    )
    assert driver.answer(abci.CheckTxRequest(bundle, abci.CheckTxType.RECHECK)).code != 0
    assert driver.answer(abci.CheckTxRequest(bundle)).code != 0
    assert driver.answer(abci.CheckTxRequest(first)).code != 0
    assert asked == []
    assert driver.answer(abci.CheckTxRequest(mixed)).code == 0
    assert asked == [third]
    assert [tx for _, tx in driver.pool] == [third]


async def test_garbage_ends_the_connection_and_is_told(tmp_path, genesis):
    async with Node(tmp_path, genesis) as node:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "abci.sock")
        writer.write(frame(b"\x22\x00"))
        assert await reader.read() == b""
        assert [fault.code for fault in node.faults] == ["abci_protocol"]
        assert (tmp_path / "abci.sock").stat().st_mode & 0o777 == 0o600
        writer.close()


def test_what_waits_is_durable_only_when_it_was_handed_in_here(tmp_path, genesis):
    chain = Chain(settings={"validators": genesis.validators})
    mine, theirs = chain.raw("payer", b"\x11" * 20, gas=50_000), chain.raw("stranger", b"\x11" * 20, gas=50_000)
    store = SqliteStore(str(tmp_path / "chain.db"))
    driver = Driver(Application(store, genesis), store, genesis)
    digest, response = driver.accept(mine)
    assert response.code == 0
    assert driver.accept(theirs)[1].code == 0
    driver.store_waiting([digest])
    store.close()
    store = SqliteStore(str(tmp_path / "chain.db"))
    driver = Driver(Application(store, genesis), store, genesis)
    assert [tx for _, tx in driver.pool] == [mine]
    store.close()


def test_the_harness_genesis_is_as_cometbft_wants_it(genesis):
    written = json.loads(genesis_json(replace(genesis, retain_blocks=500)))
    assert written["consensus_params"]["evidence"]["max_age_num_blocks"] == "500"
    assert written["genesis_time"] == "2027-01-15T08:00:00.000000000Z"
    assert written["validators"][0]["power"] == "10"
    assert abci.CODE_OK == 0


async def test_a_bundle_that_came_too_early_is_taken_when_it_fits(tmp_path, genesis):
    chain = Chain(settings={"validators": genesis.validators})
    first, second, third = (chain.raw("payer", b"\x11" * 20, value=1, gas=50_000, nonce=n) for n in range(3))
    stranger = chain.raw("stranger", b"\x12" * 20, value=1, gas=50_000)
    (bundle,) = encode_bundles([second, third])
    (mixed,) = encode_bundles([stranger, second, third])
    async with Node(tmp_path, genesis) as node:
        consensus, mempool = await node.connect(), await node.connect()
        await consensus.ask(init_chain(genesis))
        assert (await mempool.ask(check(bundle))).check_tx.code != 0
        assert (await mempool.ask(check(mixed))).check_tx.code == 0
        assert [tx for _, tx in node.driver.pool] == [stranger]
        await consensus.ask(finalize(1, START_MS * 10**6 + 1, b"\x01" * 32, bytes(20), [first, stranger]), commit())
        assert (await mempool.ask(check(mixed, 1))).check_tx.code == 0
        assert [tx for _, tx in node.driver.pool] == [second, third]
