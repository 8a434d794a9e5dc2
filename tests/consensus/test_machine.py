"""The engine's steps one by one: what it makes, and what is left when the process dies between any two of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.state import SqliteStore, StoreFailed
from avow.consensus.block import Decided
from avow.consensus.blockstore import BlockStore, Position
from avow.consensus.errors import (
    AlreadyRunning,
    ConsensusError,
    EngineStopped,
    NoSuchBlock,
    NotTheValidator,
    PoolFull,
    StateMismatch,
    TransactionTooLarge,
    WouldSignTwice,
)
from avow.consensus.home import Lock, load_or_create_key
from avow.consensus.machine import Machine
from avow.receipt import light, merkle
from avow.receipt.requester import keccak256

from .conftest import Chain, make_genesis


def verify_chain(machine: Machine) -> None:
    """Every kept block is signed, follows the last, and proves what the last one did; the state is the last one's."""
    position = machine.blocks.position
    before: Decided | None = None
    for height in range(position.base, position.height + 1):
        block = machine.blocks.load(height)
        light.verify_commit(machine._genesis.chain_id, block.validators, block.signed_block.signed_header)
        if before is not None:
            light.verify_adjacent(
                before.header,
                block.signed_block.signed_header,
                block.validators,
                now_ns=block.header.time_ns,
                trusting_period_ns=10**18,
            )
            assert block.header.last_block_id == before.commit.block_id
            assert block.header.app_hash == before.app_hash
            results = [result.deterministic() for result in before.results]
            assert block.header.last_results_hash == light.last_results_hash(results)
        before = block
    assert before is None or before.app_hash == machine._store.committed.app_hash
    assert machine._store.committed.height == position.height
    assert position.signed_height == position.height


def drain(machine: Machine) -> list[Decided]:
    made = []
    while (block := machine.step(even_empty=False)) is not None:
        made.append(block)
    return made


def test_genesis_is_proven_by_the_first_block(chain: Chain) -> None:
    machine = chain.machine()
    (block,) = drain(machine)
    assert (block.height, block.txs, block.header.app_version) == (1, (), 3)
    proof = chain.store.prove(b"chain")
    root = merkle.sparse_root(b"chain", chain.genesis.chain_id.encode(), proof)
    assert light.app_hash(root, merkle.MountainRange().root()) == block.header.app_hash
    assert drain(machine) == []


def test_a_transaction_its_result_and_its_proof(chain: Chain) -> None:
    machine = chain.machine()
    drain(machine)
    digest, response = machine.check(b"a=1")
    assert response.code == 0
    assert digest in machine.pool
    done, proof = drain(machine)
    assert (done.txs, proof.txs) == ((b"a=1",), ())
    (result,) = done.results
    assert (result.data, result.log, result.events[0].attributes[0].key) == (b"1", "set", "key")
    light.verify_result(result.deterministic(), 0, 1, [], proof.header)
    root = merkle.sparse_root(b"kv/a", b"1", chain.store.prove(b"kv/a"))
    assert light.app_hash(root, merkle.MountainRange().root()) == proof.header.app_hash
    verify_chain(machine)
    machine = chain.machine()
    assert machine.blocks.load(done.height) == done
    assert machine.blocks.load(proof.height) == proof


def test_refused_transactions_leave_nothing(chain: Chain) -> None:
    machine = chain.machine()
    drain(machine)
    assert machine.check(b"no equals sign")[1].code == 9
    assert len(machine.pool) == 0
    with pytest.raises(TransactionTooLarge):
        machine.check(b"=" * (chain.genesis.block_max_bytes + 1))
    assert drain(machine) == []


def test_a_transaction_waits_once(chain: Chain) -> None:
    machine = chain.machine()
    for _ in range(3):
        assert machine.check(b"a=1")[1].code == 0
    assert len(machine.pool) == 1
    assert sum(len(block.txs) for block in drain(machine)) == 1


def test_the_pool_is_bounded(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = chain.machine()
    monkeypatch.setattr("avow.consensus.pool.MAX_TRANSACTIONS", 3)
    for number in range(3):
        machine.check(b"%d=" % number)
    with pytest.raises(PoolFull):
        machine.check(b"4=")
    assert machine.check(b"1=")[1].code == 0  # known already
    monkeypatch.setattr("avow.consensus.pool.MAX_TRANSACTIONS", 100)
    monkeypatch.setattr("avow.consensus.pool.MAX_POOL_BYTES", 10)
    with pytest.raises(PoolFull):
        machine.check(b"5=" + bytes(20))


def test_a_full_block_leaves_the_rest_for_the_next(chain: Chain) -> None:
    chain.genesis = make_genesis(block_max_bytes=1_000)
    machine = chain.machine()
    for number in range(10):
        machine.check(b"%d=" % number + b"x" * 300)
    blocks = [block for block in drain(machine) if block.txs]
    assert [len(block.txs) for block in blocks] == [3, 3, 3, 1]
    assert [tx for block in blocks for tx in block.txs] == [b"%d=" % n + b"x" * 300 for n in range(10)]


def test_what_the_application_holds_back_makes_no_blocks(chain: Chain) -> None:
    machine = chain.machine()
    drain(machine)
    machine.check(b"hold=1")
    machine.check(b"once=1")
    assert drain(machine) == []
    machine.check(b"a=1")
    done, _ = drain(machine)
    assert done.txs == (b"a=1",)
    assert [tx for _, tx in machine.pool] == [b"hold=1"], "what a recheck refuses is dropped"
    assert machine.pool.dropped(keccak256(b"once=1")).code != 0
    assert machine.pool.dropped(keccak256(b"hold=1")) is None
    assert [tx for _, tx in chain.machine().pool] == [b"hold=1"], "a block makes what still waits durable too"


def test_the_pool_survives_where_it_was_stored(chain: Chain) -> None:
    machine = chain.machine()
    for tx in (b"b=1", b"a=2", b"hold=3"):
        machine.check(tx)
    machine.store_pool()
    machine.store_pool()
    machine = chain.machine()
    assert [tx for _, tx in machine.pool] == [b"b=1", b"a=2", b"hold=3"]
    machine.check(b"c=4")
    machine.store_pool()
    assert [block.txs for block in drain(machine) if block.txs] == [(b"b=1", b"a=2", b"c=4")]
    assert [tx for _, tx in chain.machine().pool] == [b"hold=3"]


def test_block_time_never_stands_still_or_goes_back(chain: Chain) -> None:
    machine = chain.machine()
    times = []
    for shift in (0, -3_600_000_000_000, 0, 10**10):
        chain.clock.now += shift
        block = machine.step(even_empty=True)
        assert block is not None
        times.append(block.header.time_ns)
        assert (block.commit.signatures[0].time_ns or 0) > block.header.time_ns
    assert times == sorted(set(times))
    chain.clock.now = 0
    block = chain.machine().step(even_empty=True)
    assert block is not None
    assert block.header.time_ns == times[-1] + 1_000_000


def test_a_clock_before_genesis_is_not_believed(chain: Chain) -> None:
    chain.clock.now = 0
    block = chain.machine().step(even_empty=True)
    assert block is not None
    assert block.header.time_ns > chain.genesis.time_ms * 1_000_000


def test_old_blocks_are_dropped(chain: Chain) -> None:
    chain.retain = 5
    machine = chain.machine()
    for number in range(40):
        machine.check(b"%d=1" % number)
        machine.step(even_empty=True)
    assert machine.blocks.position.base == 35
    with pytest.raises(NoSuchBlock):
        machine.blocks.load(34)
    with pytest.raises(NoSuchBlock):
        machine.blocks.load(41)
    assert len(list(chain.store.records(b"block/"))) == len(list(chain.store.records(b"txs/"))) == 6
    verify_chain(chain.machine())


def test_the_cost_of_a_block_does_not_grow_with_history(chain: Chain) -> None:
    machine = chain.machine()
    assert isinstance(chain.store, SqliteStore)
    costs = []
    for number in range(300):
        machine.check(b"key=%d" % number)
        before = chain.store._connection.total_changes
        machine.step(even_empty=True)
        costs.append(chain.store._connection.total_changes - before)
    assert set(costs[5:]) == {max(costs[5:])}


# --- Refusals to open or to go on ----------------------------------------------------------------------------------


def test_another_key_is_refused(chain: Chain) -> None:
    drain(chain.machine())
    chain.key = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    with pytest.raises(NotTheValidator):
        chain.machine()


def test_genesis_may_name_the_validator(tmp_path: Path) -> None:
    chain = Chain(None)
    public_key = chain.key.public_key().public_bytes_raw()
    chain.genesis = make_genesis(validators=((public_key, 10),))
    block = chain.machine().step(even_empty=True)
    assert block is not None
    assert [item.power for item in block.validators] == [10]
    for validators in (((b"\x01" * 32, 10),), ((public_key, 10), (b"\x01" * 32, 10))):
        other = Chain(None)
        other.genesis = make_genesis(validators=validators)
        with pytest.raises(NotTheValidator):
            other.machine()


def test_another_chain_is_refused(chain: Chain) -> None:
    drain(chain.machine())
    chain.genesis = make_genesis(base_fee=7)
    with pytest.raises(StateMismatch, match="another chain"):
        chain.machine()


def test_state_that_ran_ahead_is_refused(chain: Chain) -> None:
    drain(chain.machine())
    chain.store.commit(chain.store.prepare({b"x": b"y"}), 2)
    with pytest.raises(StateMismatch, match="heights"):
        chain.machine()


def test_state_of_another_hash_is_refused(chain: Chain) -> None:
    machine = chain.machine()
    drain(machine)
    machine.check(b"a=1")
    drain(machine)
    altered = chain.store.record(b"\x00committed")
    assert altered is not None
    root = chain.store.committed.state_root
    chain.store.put_records([(b"\x00committed", altered.replace(root, bytes(32)))])
    with pytest.raises(StateMismatch, match="hashes"):
        chain.machine()


def test_a_height_is_appended_once(chain: Chain) -> None:
    machine = chain.machine()
    (block,) = drain(machine)
    with pytest.raises(WouldSignTwice):
        machine.blocks.append(block)
    machine.blocks.position = Position(0, 1, 0, b"", block.validators)
    machine.blocks.append(block)
    machine.blocks.position = Position(5, 1, 0, b"", block.validators)
    with pytest.raises(StateMismatch):
        machine.blocks.append(block)


def test_a_signed_height_is_not_signed_again(chain: Chain) -> None:
    machine = chain.machine()
    drain(machine)
    position = machine.blocks.position
    machine.blocks.position = Position(1, 1, 2, b"\x01" * 32, position.validators)
    with pytest.raises(WouldSignTwice):
        machine.step(even_empty=True)
    with pytest.raises(EngineStopped):
        machine.step(even_empty=True)


def test_an_error_breaks_the_machine_for_good(chain: Chain) -> None:
    machine = chain.machine()
    drain(machine)
    machine.check(b"boom=1")
    with pytest.raises(ZeroDivisionError):
        machine.step(even_empty=False)
    for call in (lambda: machine.step(even_empty=True), lambda: machine.check(b"a=1")):
        with pytest.raises(EngineStopped):
            call()
    assert drain(chain.machine()) == []


@pytest.mark.parametrize("poison", [b"boom=1", b"refuse=1", b"rot=1"])
@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_transaction_on_which_the_application_fails_is_set_aside(chain: Chain, poison: bytes, place: int) -> None:
    """Each failure ends a process; a few restarts later the chain is past it, and nothing else is lost."""
    machine = chain.machine()
    drain(machine)
    good = [b"%d=1" % number for number in range(8)]
    for tx in [*good[:place], poison, *good[place:]]:
        machine.check(tx)
    machine.store_pool()
    chain.rotten = True
    for restarts in range(6):
        machine = chain.machine()
        try:
            drain(machine)
        except (ZeroDivisionError, ConsensusError):
            continue
        break
    assert restarts <= 4
    included = [tx for height in range(1, machine.blocks.position.height + 1) for tx in machine.blocks.load(height).txs]
    assert included == good
    assert [tx for _, tx in chain.store.records(b"set-aside/")] == [poison]
    assert list(chain.store.records(b"pool/")) == []
    assert chain.store.record(b"pool-limit") is None
    machine.check(b"after=1")
    machine.store_pool()
    assert [block.txs for block in drain(chain.machine())] == [(b"after=1",), ()]
    verify_chain(chain.machine())


def test_a_failing_disk_puts_the_blame_on_no_transaction(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = chain.machine()
    drain(machine)
    machine.check(b"a=1")
    machine.store_pool()

    def fail(*_: object) -> None:
        raise StoreFailed("the database failed")

    monkeypatch.setattr(machine._application, "finalize_block", fail)
    with pytest.raises(StoreFailed):
        machine.step(even_empty=False)
    assert [block.txs for block in drain(chain.machine())] == [(b"a=1",), ()]


def test_a_proposal_that_its_own_application_refuses(chain: Chain) -> None:
    machine = chain.machine()
    machine.check(b"refuse=1")
    with pytest.raises(ConsensusError, match="its own proposal"):
        machine.step(even_empty=False)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"), pytest.raises(AlreadyRunning):
        Lock(tmp_path / "lock")
    again = Lock(tmp_path / "lock")
    again.release()
    again.release()


def test_the_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "validator.key"
    key = load_or_create_key(path)
    assert load_or_create_key(path).private_bytes_raw() == key.private_bytes_raw()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(NotTheValidator):
        load_or_create_key(path)


# --- Death between any two steps -----------------------------------------------------------------------------------


class Killed(BaseException):
    pass


class Life:
    """One process's life: works through transactions and dies at its n-th probe."""

    def __init__(self, chain: Chain, die_at: int | None) -> None:
        self.chain = chain
        self.left = die_at
        self.at = ""
        self.published: list[Decided] = []
        self.acknowledged: list[bytes] = []

    def probe(self, name: str) -> None:
        self.at = name
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed(name)

    def live(self, txs: list[bytes]) -> bool:
        """Whether it came to the end. Half the transactions are stored in the pool first, half go into a block at once."""
        machine = self.chain.machine(probe=self.probe)
        try:
            for number, tx in enumerate(txs):
                machine.check(tx)
                if number % 2:
                    machine.store_pool()
                    self.acknowledged.append(tx)
                block = machine.step(even_empty=False)
                while block is not None:
                    self.published.append(block)
                    self.acknowledged += block.txs
                    block = machine.step(even_empty=False)
        except Killed:
            return False
        return True


TXS = [b"a=1", b"b=2"]


def test_killed_between_any_two_steps(tmp_path: Path) -> None:
    die_at, names, ended = 0, set(), False
    while not ended:
        folder = tmp_path / str(die_at)
        folder.mkdir()
        chain = Chain(folder)
        first = Life(chain, die_at)
        ended = first.live(TXS)
        names.add(first.at)
        published = {block.height: block.header.hash for block in first.published}
        machine = chain.machine()
        assert len(published) == len(first.published), "no height is published twice in one life"
        for height, block_hash in published.items():
            assert machine.blocks.load(height).header.hash == block_hash, f"killed at {first.at}: a block changed"
        assert machine.blocks.position.height in (len(published), len(published) + 1)
        verify_chain(machine)
        later = drain(machine)
        assert not machine.proof_due
        for block in later:
            assert block.height > machine.blocks.position.height - len(later)
            assert block.height not in published, f"killed at {first.at}: a height was published twice"
        included = [tx for h in range(1, machine.blocks.position.height + 1) for tx in machine.blocks.load(h).txs]
        assert len(included) == len(set(included)), f"killed at {first.at}: a transaction ran twice"
        assert set(first.acknowledged) <= set(included), f"killed at {first.at}: something acknowledged was lost"
        verify_chain(machine)
        chain.store.check()
        second = Life(chain, None)
        assert second.live([b"later=1"])
        verify_chain(chain.machine())
        chain.store.close()
        die_at += 1
    assert names >= {
        "pool: begin",
        "pool: written",
        "pool: durable",
        "block: begin",
        "block: prepared",
        "block: accepted",
        "block: executed",
        "block: signed",
        "block: state written",
        "block: all written",
        "block: durable",
        "block: published",
    }
    assert die_at > 25


VICTIM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import Chain
chain = Chain(Path(sys.argv[1]))
left = int(sys.argv[3])
def probe(name):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
machine = chain.machine(probe=probe)
number = int(sys.argv[4])
while True:
    number += 1
    machine.check(b"%d=%d" % (number, number))
    machine.store_pool()
    os.write(1, b"ack %d=%d\\n" % (number, number))
    while (block := machine.step(even_empty=False)) is not None:
        os.write(1, b"block %d %s\\n" % (block.height, block.header.hash.hex().encode()))
"""


def test_a_real_process_killed_again_and_again(tmp_path: Path) -> None:
    acknowledged: set[bytes] = set()
    published: dict[bytes, bytes] = {}
    for life, die_at in enumerate((3, 14, 17, 47)):
        process = subprocess.run(
            [sys.executable, "-c", VICTIM, str(tmp_path), str(Path(__file__).parent), str(die_at), str(life * 1_000)],
            stdout=subprocess.PIPE,
            check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert process.returncode == -signal.SIGKILL
        for line in process.stdout.splitlines():
            word, *rest = line.split()
            if word == b"ack":
                acknowledged.add(rest[0])
            else:
                assert published.setdefault(rest[0], rest[1]) == rest[1], "one height, two blocks"
    chain = Chain(tmp_path)
    machine = chain.machine()
    drain(machine)
    verify_chain(machine)
    heights = range(1, machine.blocks.position.height + 1)
    included = [tx for height in heights for tx in machine.blocks.load(height).txs]
    assert len(included) == len(set(included))
    assert acknowledged <= set(included)
    for height, block_hash in published.items():
        assert machine.blocks.load(int(height)).header.hash.hex().encode() == block_hash
    chain.store.check()
    chain.store.close()


def test_the_block_store_reads_back_after_an_undone_transaction(chain: Chain) -> None:
    machine = chain.machine()
    (block,) = drain(machine)
    blocks = BlockStore(chain.store)
    with pytest.raises(Killed), chain.store.transaction():
        blocks.position = Position(0, 1, 0, b"", block.validators)
        blocks.append(block)
        raise Killed
    blocks.reload()
    assert blocks.position == machine.blocks.position
