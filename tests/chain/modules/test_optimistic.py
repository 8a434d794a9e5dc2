"""Settlement of optimistic batches: what is held, what is locked, when it is final."""

from dataclasses import replace

import pytest

from avow.chain.errors import WHOLE_BATCH, Code
from avow.chain.execution import MODULES
from avow.chain.host import Block
from avow.chain.modules import bank, challenges, disputes, life, nodes, settlement, watchers, window
from avow.chain.state import MemoryStore, Overlay
from avow.errors import InputError
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode
from avow.receipt.finality import BatchRecord, BatchState, BondRecord, OptimisticParameters, batch_key
from avow.receipt.headers import app_hash
from avow.receipt.statement import TERMS_PAYER_OPENS, Method
from tests.chain.harness import ETHER, FAR_MS, PROGRAM, Chain, account, refused
from tests.chain.optimistic import ADDRESS, RULES, Optimistic


@pytest.fixture
def network():
    return Optimistic()


def total_fee(network, result):
    return result.gas_used * network.genesis.base_fee


# --- Bonds and fees --------------------------------------------------------------------------------------------------


def test_fees_are_held_and_the_bond_is_locked_until_the_batch_is_final(network):
    before = {who: network.chain.balance(who) for who in ("payer", "operator")}
    posted = network.post(3, amount=500)
    record = network.batch(posted)
    assert (record.state, record.count, record.operator) == (BatchState.OPEN, 3, account("operator"))
    assert record.held == 1_500 == before["payer"] - network.chain.balance("payer")
    assert record.locked == 3 * network.share(500) == network.bond_record().locked
    assert record.deadline_clock == record.settled_clock + network.rules.window_ms
    assert record.settled_clock == network.chain.now_ms
    network.check_money()
    assert network.refusal("stranger", "finalise", posted.key.id, posted.first) is Code.WINDOW_OPEN
    network.pass_window()
    operator = network.chain.balance("operator")
    network.do("stranger", "finalise", posted.key.id, posted.first)
    assert network.chain.balance("operator") - operator == 1_500
    final = network.batch(posted)
    assert (final.state, final.held, final.locked, final.overturned) == (BatchState.FINAL, 0, 0, ())
    assert final.root == record.root
    assert network.bond_record() == BondRecord(network.bond, 0, 0)
    assert network.refusal("stranger", "finalise", posted.key.id, posted.first) is Code.BATCH_FINAL
    network.check_money()


def test_the_window_is_open_to_its_last_millisecond(network):
    posted = network.post()
    deadline = network.batch(posted).deadline_clock
    network.pass_window(deadline - network.chain.now_ms - 1_002)
    assert network.refusal("stranger", "finalise", posted.key.id, posted.first) is Code.WINDOW_OPEN
    network.chain.now_ms = deadline - 1_000
    assert network.refusal("stranger", "finalise", posted.key.id, posted.first) is Code.WINDOW_OPEN
    network.do("stranger", "finalise", posted.key.id, posted.first)


def test_an_operator_that_pays_itself_waits_for_its_own_money(network):
    network.chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, 1, ETHER)
    posted = network.post(payer="operator", amount=ETHER // 100, price_version=2)
    assert network.batch(posted).held == ETHER // 100
    network.check_money()


def test_the_first_statement_beyond_the_bond_is_named():
    network = Optimistic(bond=3 * RULES.bond_floor)
    made = [network.sign()[0] for _ in range(4)]
    assert refused(network.chain.settle(network.key, made)) == (Code.BOND_INSUFFICIENT, 3)
    assert network.bond_record().locked == 0
    assert network.chain.settle(network.key, made[:3]).code == Code.OK
    assert refused(network.chain.settle(network.key, made[3:])) == (Code.BOND_INSUFFICIENT, 0)
    network.do("operator", "deposit", value=RULES.bond_floor)
    assert network.chain.settle(network.key, made[3:]).code == Code.OK
    network.check_money()


def test_without_a_bond_nothing_settles_but_what_is_void():
    network = Optimistic(bond=0)
    made = [network.sign()[0]]
    assert refused(network.chain.settle(network.key, made)) == (Code.BOND_INSUFFICIENT, 0)
    assert network.chain.settle(network.key, made, void=b"\x05").code == Code.OK
    record = BatchRecord.from_bytes(network.store.get(batch_key(network.key.id, 0)))
    assert (record.held, record.locked, record.state) == (0, 0, BatchState.FINAL)


def test_what_a_statement_locks():
    rules = OptimisticParameters(bond_floor=1_000, audit_ppm=50_000, gain_factor=3)
    assert rules.required_bond(0, 0) == 1_000
    assert rules.required_bond(10**6, 0) == 2 * (3 * 19 * 10**6 + 1)  # its half is more than G(1 - p)/p
    assert rules.required_bond(10**6, TERMS_PAYER_OPENS) == 8 * (3 * 19 * 10**6 + 1)
    assert replace(rules, audit_ppm=1_000_000).required_bond(10**6, 0) == 1_000
    assert replace(rules, audit_ppm=333_333).required_bond(10**6, 0) == 2 * (3 * 10**6 * 666_667 // 333_333 + 1)
    network = Optimistic()
    assert network.view("requiredBond", 10**18, 1) == [RULES.required_bond(10**18, 1)]


def test_the_terms_lock_four_times_as_much(network):
    posted = network.post(terms=TERMS_PAYER_OPENS)
    assert network.batch(posted).locked == 4 * network.share() == network.share(terms=TERMS_PAYER_OPENS)


def test_only_the_free_part_is_paid_back(network):
    network.post(2)
    free = network.bond_record().free
    assert free == network.bond - 2 * network.share()
    assert network.refusal("operator", "withdraw", 0) is Code.OUT_OF_RANGE
    assert network.refusal("operator", "withdraw", free + 1) is Code.BOND_LOCKED
    before = network.chain.balance("operator")
    result = network.send("operator", "withdraw", free)
    assert result.code == Code.OK
    assert network.chain.balance("operator") == before + free - total_fee(network, result)
    assert network.refusal("operator", "withdraw", 1) is Code.BOND_LOCKED
    assert network.refusal("stranger", "withdraw", 1) is Code.BOND_LOCKED
    assert network.refusal("stranger", "deposit") is Code.OUT_OF_RANGE
    network.check_money()


def test_a_bond_that_is_all_paid_back_leaves_nothing(network):
    network.do("operator", "withdraw", network.bond)
    assert network.store.get(b"disputes/bond/" + account("operator")) is None
    assert network.view("bondOf", account("operator")) == [0, 0, 0]


def test_money_moves_with_a_payable_call_alone(network):
    before = network.chain.balance("stranger")
    result = network.send("stranger", "withdraw", 1, value=5)
    assert refused(result) == (Code.NOT_PAYABLE, None)
    assert network.chain.balance("stranger") == before - total_fee(network, result)
    result = network.send("stranger", "deposit", value=before)
    assert result.code == Code.INSUFFICIENT_FUNDS
    network.check_money()


# --- The batch's form ------------------------------------------------------------------------------------------------


def test_the_method_decides_the_columns(network):
    statement, _ = network.sign()
    item = decode(network.chain.batch(network.key, [statement]))
    plain = encode({name: value for name, value in item.items() if name not in ("trace", "terms")})
    assert refused(network.chain.settle_batch("operator", plain)) == (Code.BATCH_MALFORMED, WHOLE_BATCH)
    other = network.chain.register(network.chain.new_key(Method.VANILLA))
    vanilla = decode(network.chain.batch(other, [other.sign()]))
    more = encode({**vanilla, "trace": bytes(32), "terms": b"\x00"})
    assert refused(network.chain.settle_batch("operator", more)) == (Code.BATCH_MALFORMED, WHOLE_BATCH)


@pytest.mark.parametrize("column", ["trace", "terms"])
def test_the_signature_covers_the_run(network, column):
    statement, _ = network.sign()
    item = decode(network.chain.batch(network.key, [statement]))
    value = item[column]
    changed = encode({**item, column: bytes([value[0] ^ 1]) + value[1:]})
    assert refused(network.chain.settle_batch("operator", changed)) == (Code.BATCH_SIGNATURE, WHOLE_BATCH)


def test_void_statements_lock_and_hold_nothing(network):
    posted = network.post(3, void=b"\x00\x05\x00", amount=700)
    record = network.batch(posted)
    assert (record.held, record.locked, record.count) == (1_400, 2 * network.share(700), 3)
    assert network.challenge("watcher", posted, 1) == life.State.REJECTED  # a void statement is none to challenge


def test_nothing_but_the_batch_is_written_per_statement(network):
    network.post(2)
    before = dict(network.store.iterate(b""))
    posted = network.post(200)
    after = dict(network.store.iterate(b""))
    assert set(after) - set(before) == {batch_key(posted.key.id, posted.first)}


def test_events_for_watchers(network):
    posted = network.post(2)
    event = MODULES[settlement.ADDRESS].interface.events["Posted"]
    [entry] = [
        entry
        for entry in network.chain.responses[-1].tx_results[0].events
        if entry.attributes[1].value == event.topic.hex()
    ]
    topics = [bytes.fromhex(item.value) for item in entry.attributes if item.key == "topic"]
    assert topics[1:] == [posted.key.id, bytes(12) + account("operator")]
    record = network.batch(posted)
    assert event.decode_data(bytes.fromhex(entry.attributes[-1].value)) == [0, 2, record.deadline_clock, record.locked]


def test_the_record_is_provable_under_the_app_hash(network):
    posted = network.post()
    key = batch_key(posted.key.id, posted.first)
    proof = network.store.prove(key)
    root = merkle.sparse_root(key, network.store.get(key), proof)
    assert app_hash(root, network.store.committed.history.root()) == network.chain.responses[-1].app_hash


def test_views(network):
    posted = network.post(2)
    record = network.batch(posted)
    assert network.view("batchOf", posted.key.id, 0) == [
        record.root,
        2,
        account("operator"),
        record.settled_clock,
        record.deadline_clock,
        record.held,
        record.locked,
        False,
        [],
    ]
    outcome = network.chain.simulate("stranger", ADDRESS, "batchOf", posted.key.id, 1)
    assert refused(outcome) == (Code.BATCH_UNKNOWN, None)
    assert network.view("bondOf", account("operator")) == [network.bond, record.locked, 0]
    assert network.view("statementOf", bytes(32)) == [0, bytes(32), 0, 0, bytes(20), 0, False]
    assert network.view("challengeOf", account("watcher"), bytes(32)) == [bytes(32), 0, 0, 0, 0]
    assert network.view("demandOf", bytes(32)) == [bytes(20), bytes(32), 0, 0, 0, b""]
    rules = network.rules
    assert network.view("parameters") == [
        rules.window_ms,
        rules.move_ms,
        rules.audit_ppm,
        rules.gain_factor,
        rules.reveal_blocks,
        rules.bond_floor,
        rules.challenge_bond,
        rules.demand_bond,
    ]
    assert network.view("clock") == [network.chain.now_ms + 1_000]


def test_a_challenge_costs_more_than_twice_its_referee():
    rules = OptimisticParameters()
    most = challenges.referee.gas(bytes(challenges.referee.MAX_FAULT)) * 10**9
    assert rules.challenge_bond >= 2 * most
    assert rules.bond_floor // 2 >= most  # and the reward pays for it


# --- Watchers --------------------------------------------------------------------------------------------------------


def test_watchers_are_appointed_by_genesis_and_governance(network):
    assert network.view("isWatcher", account("watcher")) == [True]
    assert network.view("isWatcher", account("second watcher")) == [False]
    assert network.refusal("stranger", "appoint", account("second watcher")) is Code.NOT_AUTHORISED
    assert network.refusal("stranger", "dismiss", account("watcher")) is Code.NOT_AUTHORISED
    assert network.refusal("governance", "appoint", account("watcher")) is Code.WATCHER_APPOINTED
    assert network.refusal("governance", "dismiss", account("stranger")) is Code.WATCHER_UNKNOWN
    network.do("governance", "appoint", account("second watcher"))
    network.do("governance", "dismiss", account("watcher"))
    assert network.view("isWatcher", account("watcher")) == [False]
    assert network.view("isWatcher", account("second watcher")) == [True]
    assert network.store.get(watchers.WATCHER_PREFIX + account("watcher")) is None


# --- The clock -------------------------------------------------------------------------------------------------------


def clock_after(genesis, blocks):
    """The window clock after blocks of (height, time since the genesis, busy)."""
    state = Overlay(MemoryStore())
    for height, passed_ms, busy in blocks:
        if busy:
            window.record(state, genesis, Block(height, genesis.time_ms + passed_ms))
    return decode(state.get(window.CLOCK_KEY))["clock"] - genesis.time_ms


def test_the_clock_counts_block_time_and_no_halt():
    genesis = Chain().genesis
    beat = genesis.heartbeat_ms
    assert clock_after(genesis, [(1, 1_000, True), (2, 4_000, True)]) == 4_000
    halt = 3_600_000
    assert clock_after(genesis, [(1, 1_000, True), (2, halt, True)]) == 1_000 + 2 * beat
    assert clock_after(genesis, [(1, 1_000, True), (2, halt, True), (3, halt + 50, True)]) == 1_050 + 2 * beat
    assert clock_after(genesis, [(1, 1_000, True), (5, 1_000 + 4 * beat, True)]) == 1_000 + 4 * beat
    assert clock_after(genesis, [(1, 1_000, True), (2, 900, True)]) == 1_000


def test_a_halt_does_not_end_a_window(network):
    posted = network.post()
    network.chain.block(advance_ms=10 * network.rules.window_ms)
    assert network.refusal("stranger", "finalise", posted.key.id, posted.first) is Code.WINDOW_OPEN
    assert network.challenge("watcher", posted) == life.State.REJECTED


def test_the_clock_does_not_move_the_app_hash(network):
    network.post()
    network.chain.block()
    before = network.chain.responses[-1].app_hash
    for _ in range(3):
        network.chain.block()
        assert network.chain.responses[-1].app_hash == before


# --- Records ---------------------------------------------------------------------------------------------------------

RECORD = BatchRecord(bytes(32), 4, bytes(20), 5, 6, 7, 8, BatchState.OPEN, (1, 3))


@pytest.mark.parametrize(
    "change",
    [
        {"state": "closed"},
        {"overturned": [3, 1]},
        {"overturned": [1, 1]},
        {"count": 4_097},
        {"held": bytes(15)},
        {"extra": 1},
        {"operator": bytes(21)},
    ],
)
def test_batch_records_have_one_form(change):
    assert BatchRecord.from_bytes(RECORD.to_bytes()) == RECORD
    with pytest.raises(InputError):
        BatchRecord.from_bytes(encode({**decode(RECORD.to_bytes()), **change}))


def test_bond_records_have_one_form():
    bond = BondRecord(9, 8, 1)
    assert BondRecord.from_bytes(bond.to_bytes()) == bond
    with pytest.raises(InputError):
        BondRecord.from_bytes(BondRecord(8, 9, 1).to_bytes())


def test_an_open_batch_does_not_lock_more_than_there_is(network):
    with pytest.raises(disputes.Refused):
        disputes.bonds.lock(FreeHost(), account("operator"), 1)


class FreeHost:
    """A host without a bond."""

    def load(self, _key):
        return None


def test_allowances_are_spent_by_held_fees(network):
    left = network.chain.view(bank.ADDRESS, "allowance", account("payer"), account("operator"))[0]
    network.post(amount=800)
    assert network.chain.view(bank.ADDRESS, "allowance", account("payer"), account("operator")) == [left - 800, FAR_MS]
