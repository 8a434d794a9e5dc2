"""The state machine as a driver sees it: ABCI's rules, fees, the pool, determinism."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain import abci, gas
from avow.chain.application import Application
from avow.chain.errors import BadGenesis, Code
from avow.chain.host import Log
from avow.chain.modules import bank, registry
from avow.chain.proposal import event_log, log_event
from avow.chain.state import MemoryStore, SqliteStore
from avow.receipt.encoding import decode, encode
from avow.receipt.headers import last_results_hash
from avow.receipt.light import TransactionResult
from avow.receipt.merkle import SparseProof, sparse_root
from avow.receipt.statement import Method
from tests.chain.harness import ETHER, FAR_MS, PROGRAM, START_MS, Chain, account, refused


def check(chain, raw, kind=abci.CheckTxType.NEW):
    return Code(chain.application.check_tx(abci.CheckTxRequest(raw, kind)).code)


def init(chain, **changes):
    genesis = chain.genesis
    request = abci.InitChainRequest(START_MS * 10**6, genesis.chain_id, (), genesis.to_bytes())
    return Application(MemoryStore(), genesis), replace(request, **changes)


# --- Genesis and info ------------------------------------------------------------------------------------------------


def test_init_chain_is_idempotent_and_writes_nothing(chain):
    application, request = init(chain)
    first = application.init_chain(request)
    assert application.init_chain(request) == first
    assert application.info().last_block_height == 0
    assert application.info().last_block_app_hash == b""
    assert list(application.store.iterate(b"")) == []
    assert application.account(account("payer"))[1] == 1_000 * ETHER


def test_another_genesis_is_refused(chain):
    for changes in ({"chain_id": "avow-0000000000000000"}, {"app_state_bytes": b""}):
        application, request = init(chain, **changes)
        with pytest.raises(BadGenesis):
            application.init_chain(request)
    with pytest.raises(BadGenesis):
        chain.application.init_chain(init(chain)[1])


def test_info_is_what_was_committed(chain):
    info = chain.application.info()
    assert (info.last_block_height, info.last_block_app_hash) == (chain.height, chain.responses[-1].app_hash)


# --- The application's hash ------------------------------------------------------------------------------------------


def test_the_hash_rests_while_nothing_happens(chain):
    before = chain.responses[-1].app_hash
    for _ in range(3):
        chain.block()
        assert chain.responses[-1].app_hash == before


def test_the_hash_changes_with_every_transaction_even_a_refused_one(chain):
    seen = {chain.responses[-1].app_hash}
    stale = chain.raw("payer", account("operator"), value=1, gas=21_000)
    for raw in (stale, stale, stale):
        chain.block(raw)
        seen.add(chain.responses[-1].app_hash)
    assert len(seen) == 4
    assert [int(r.tx_results[0].code) for r in chain.responses[-3:]] == [
        Code.OK,
        Code.NONCE_TOO_LOW,
        Code.NONCE_TOO_LOW,
    ]


def test_nothing_is_written_before_commit(chain):
    before = dict(chain.store.iterate(b""))
    raw = chain.raw("payer", account("operator"), value=1, gas=21_000)
    request = abci.FinalizeBlockRequest((raw,), bytes(32), chain.height + 1, (chain.now_ms + 5) * 10**6, bytes(20))
    first = chain.application.finalize_block(request)
    assert dict(chain.store.iterate(b"")) == before
    assert chain.application.finalize_block(request) == first  # replayed, as after a crash
    other = replace(request, txs=())
    assert chain.application.finalize_block(other).app_hash != first.app_hash
    assert chain.application.finalize_block(request) == first
    chain.application.commit()
    assert chain.application.info().last_block_app_hash == first.app_hash
    with pytest.raises(RuntimeError):
        chain.application.commit()


def test_results_are_rooted_in_the_state(chain):
    result = chain.send("payer", bank.ADDRESS, "allow", account("operator"), 1, FAR_MS)
    root = last_results_hash([result.deterministic()])
    assert chain.store.get(b"chain/results") == chain.height.to_bytes(8) + root


def test_state_is_proven(chain):
    key = b"account/" + account("payer")
    found = chain.application.query(abci.QueryRequest(key, "/state", prove=True))
    root = sparse_root(key, found.value, SparseProof.from_value(decode(found.proof)))
    assert root == chain.store.committed.state_root
    absent = chain.application.query(abci.QueryRequest(b"nothing", "/state", prove=True))
    assert absent.value == b""
    assert sparse_root(b"nothing", None, SparseProof.from_value(decode(absent.proof))) == root
    assert chain.application.query(abci.QueryRequest(key, "/other")).code == Code.UNKNOWN_FUNCTION
    assert chain.application.query(abci.QueryRequest(key, "/state", height=1 << 40)).code == Code.OUT_OF_RANGE


# --- Fees ------------------------------------------------------------------------------------------------------------


def test_gas_is_paid_to_the_treasury_and_the_rest_returns(chain):
    before, treasury = chain.balance("payer"), chain.balance("treasury")
    [result] = chain.block(chain.raw("payer", account("operator"), value=7, gas=500_000))
    assert result.gas_used == 21_000
    assert before - chain.balance("payer") == 7 + 21_000 * chain.genesis.base_fee
    assert chain.balance("treasury") - treasury == 21_000 * chain.genesis.base_fee


@pytest.mark.parametrize(
    ("fee", "tip", "paid"), [(10**9, 0, 10**9), (3 * 10**9, 10**9, 2 * 10**9), (10**9, 10**9, 10**9)]
)
def test_the_effective_price(chain, fee, tip, paid):
    before = chain.balance("payer")
    chain.block(chain.raw("payer", account("operator"), gas=21_000, max_fee=fee, max_priority_fee=tip))
    assert before - chain.balance("payer") == 21_000 * paid


def test_money_is_neither_made_nor_lost(chain):
    node = chain.node(Method.VANILLA)
    total = sum(int.from_bytes(value[8:]) for _, value in chain.store.iterate(b"account/"))
    chain.settle(node, [node.sign() for _ in range(5)])
    chain.settle(node, [node.sign(amount=10**6)])
    chain.block(chain.raw("payer", bank.ADDRESS, b"junk"), chain.raw("stranger", b"\x99" * 20, value=5, gas=21_000))
    assert sum(int.from_bytes(value[8:]) for _, value in chain.store.iterate(b"account/")) == total


def test_running_out_of_gas_costs_all_of_it_and_does_nothing(chain):
    data = chain.call_data(bank.ADDRESS, "allow", account("operator"), 5, FAR_MS)
    needed = chain.send("payer", bank.ADDRESS, "allow", account("operator"), 5, FAR_MS).gas_used
    before = chain.balance("stranger")
    [result] = chain.block(chain.raw("stranger", bank.ADDRESS, data, gas=needed - 1))
    assert (result.code, result.gas_used, result.data, result.events) == (Code.OUT_OF_GAS, needed - 1, b"", ())
    assert before - chain.balance("stranger") == (needed - 1) * chain.genesis.base_fee
    assert chain.view(bank.ADDRESS, "allowance", account("stranger"), account("operator")) == [0, 0]
    [result] = chain.block(chain.raw("stranger", bank.ADDRESS, data, gas=needed))
    assert result.code == Code.OK
    assert needed > gas.STORE_NEW


def test_refused_transactions_cost_nothing(chain):
    before = chain.balance("payer")
    for raw, code in (
        (chain.raw("payer", account("operator"), nonce=5), Code.NONCE_TOO_HIGH),
        (chain.raw("payer", account("operator"), value=1_001 * ETHER, gas=21_000), Code.INSUFFICIENT_FUNDS),
        (chain.raw("payer", account("operator"), gas=20_999), Code.INTRINSIC_GAS),
        (chain.raw("payer", account("operator"), max_fee=1), Code.FEE_TOO_LOW),
        (chain.raw("payer", account("operator"), gas=1 << 40, max_fee=10**9), Code.GAS_LIMIT),
        (b"\x02\xc0", Code.MALFORMED),
    ):
        assert check(chain, raw) is code
        [result] = chain.block(raw)
        assert (result.code, result.gas_used, result.data) == (code, 0, b"")
    assert chain.balance("payer") == before


# --- The pool --------------------------------------------------------------------------------------------------------


def test_check_tx_takes_a_line_of_nonces(chain):
    raws = [chain.raw("payer", account("operator"), nonce=nonce, gas=21_000) for nonce in range(3)]
    assert check(chain, raws[1]) is Code.NONCE_TOO_HIGH
    assert [check(chain, raw) for raw in raws] == [Code.OK] * 3
    assert check(chain, raws[1]) is Code.NONCE_TOO_LOW
    assert chain.application.account(account("payer"), pending=True)[0] == 3
    chain.block(raws[0])
    assert chain.application.account(account("payer"), pending=True)[0] == 1
    assert [check(chain, raw, abci.CheckTxType.RECHECK) for raw in raws] == [Code.NONCE_TOO_LOW, Code.OK, Code.OK]
    assert check(chain, chain.raw("payer", account("operator"), nonce=3)) is Code.OK


def test_check_tx_sums_up_what_waits(chain):
    half = 600 * ETHER
    assert check(chain, chain.raw("payer", account("operator"), value=half, nonce=0, gas=21_000)) is Code.OK
    assert (
        check(chain, chain.raw("payer", account("operator"), value=half, nonce=1, gas=21_000))
        is Code.INSUFFICIENT_FUNDS
    )


def test_a_proposal_is_what_fits(chain):
    raws = [chain.raw("payer", account("operator"), nonce=nonce, gas=40_000_000) for nonce in range(4)]
    other = chain.raw("stranger", account("operator"), gas=21_000)
    gap = chain.raw("operator", account("payer"), nonce=1, gas=21_000)
    request = abci.PrepareProposalRequest(1 << 20, (*raws, gap, b"junk", other), 9, START_MS * 10**6, bytes(20))
    chosen = chain.application.prepare_proposal(request).txs
    assert chosen == (raws[0], raws[1], other)  # two fill the gas; then what still fits
    small = replace(request, max_tx_bytes=abci.total_bytes(raws[:1]))
    assert chain.application.prepare_proposal(small).txs == (raws[0],)


def process(chain, *txs):
    return chain.application.process_proposal(
        abci.ProcessProposalRequest(tuple(txs), bytes(32), chain.height + 1, START_MS * 10**6, bytes(20))
    ).accept


def test_a_proposal_is_judged_by_the_block_alone(chain):
    raws = [chain.raw("payer", account("operator"), nonce=nonce, gas=40_000_000) for nonce in range(3)]
    assert process(chain)
    assert process(chain, *raws[:2])
    assert not process(chain, *raws)
    assert not process(chain, raws[1], raws[0])
    assert not process(chain, raws[0], raws[0])
    assert not process(chain, b"junk")
    big = Chain(settings={"block_max_bytes": 300})
    pair = [big.raw("payer", account("operator"), nonce=nonce, gas=21_000) for nonce in range(3)]
    assert process(big, *pair[:2])
    assert not process(big, *pair)


def test_a_proposal_holds_nothing_that_nobody_pays_for(chain):
    """A proposer fills no block with what execution refuses uncharged: too low a fee, no money, a sender that does not exist."""
    fee = chain.genesis.base_fee
    good = chain.raw("payer", account("operator"), gas=21_000)
    cheap = chain.raw("payer", account("operator"), gas=21_000, max_fee=fee - 1)
    scarce = chain.raw("payer", account("operator"), gas=20_999)
    funds = chain.balance("payer")
    poor = chain.raw("payer", account("operator"), value=funds, gas=21_000)
    nobody = chain.raw("nobody", account("operator"), gas=21_000)
    half = [chain.raw("payer", account("operator"), nonce=nonce, value=funds // 2, gas=21_000) for nonce in (0, 1)]
    bad = bytearray(good)
    bad[-1] ^= 1  # another sender, or none, by its signature
    for tx in (cheap, scarce, poor, nobody, bytes(bad)):
        assert not process(chain, tx)
        request = abci.PrepareProposalRequest(1 << 20, (tx, good), 9, START_MS * 10**6, bytes(20))
        assert chain.application.prepare_proposal(request).txs == (good,)
    assert process(chain, half[0])
    assert not process(chain, *half)


@given(
    st.lists(
        st.tuples(st.sampled_from(["payer", "stranger"]), st.integers(0, 3), st.integers(20_000, 60_000_000)),
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_what_is_prepared_is_accepted(offers):
    """R3: every honest proposal passes."""
    chain = Chain()
    raws = tuple(chain.raw(who, account("operator"), nonce=nonce, gas=limit) for who, nonce, limit in offers)
    request = abci.PrepareProposalRequest(1 << 20, raws, 9, START_MS * 10**6, bytes(20))
    chosen = chain.application.prepare_proposal(request).txs
    assert process(chain, *chosen)
    assert chain.application.prepare_proposal(replace(request, txs=chosen)).txs == chosen


# --- Simulation ------------------------------------------------------------------------------------------------------


def test_simulations_leave_nothing(chain):
    before = dict(chain.store.iterate(b""))
    for _ in range(2):
        assert chain.simulate("payer", registry.ADDRESS, "publish", "x", PROGRAM).code is Code.OK
    assert chain.view(registry.ADDRESS, "program", PROGRAM) == [0, 0]
    assert dict(chain.store.iterate(b"")) == before
    outcome = chain.simulate("payer", registry.ADDRESS, "withdraw", "x", 1)
    assert refused(outcome) == (Code.NAME_UNKNOWN, None)
    poor = chain.application.simulate(bytes(20), account("payer"), b"", value=1, time_ms=START_MS)
    assert refused(poor) == (Code.BALANCE_TOO_LOW, None)


def test_logs_travel_as_events():
    for log in (Log(b"\x01" * 20, (b"\x02" * 32, b"\x03" * 32), b"data"), Log(bytes(20), (), b"")):
        assert event_log(log_event(log)) == log
    assert event_log(abci.Event("other")) is None


# --- Determinism -----------------------------------------------------------------------------------------------------


def test_every_store_gives_the_same_hashes(tmp_path):
    seen = []
    for store in (MemoryStore(), SqliteStore(str(tmp_path / "a.db")), SqliteStore(":memory:")):
        chain = Chain(store=store)
        chain.do("payer", bank.ADDRESS, "allow", account("operator"), 1, FAR_MS)
        chain.do("operator", registry.ADDRESS, "publish", "x", PROGRAM)
        chain.block(chain.raw("payer", account("stranger"), value=3), chain.raw("operator", bank.ADDRESS, b"abcd"))
        seen.append([response.app_hash for response in chain.responses])
        store.close()
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == 4


SCRIPT = """
from tests.chain.harness import *
from avow.chain.modules import bank, registry, nodes
chain = Chain()
for index in range(6):
    chain.do("operator", registry.ADDRESS, "publish", f"name-{index}", bytes([index]) * 32)
    chain.do("governance", nodes.ADDRESS, "allowMeasurement", bytes([index]) * 32, bytes(32), 0, 2**63)
chain.block(*[chain.raw(who, bank.ADDRESS, chain.call_data(bank.ADDRESS, "allow", account("operator"), 5, 2**63)) for who in ("payer", "stranger")])
print(chain.responses[-1].app_hash.hex(), chain.genesis.chain_id)
"""


def test_hashes_do_not_depend_on_the_hash_seed():
    found = set()
    for seed in ("0", "1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_a_known_answer():
    """The same bytes on every machine and version: a change here is a change of consensus."""
    chain = Chain()
    chain.do("payer", bank.ADDRESS, "allow", account("operator"), 5, FAR_MS)
    chain.do("operator", registry.ADDRESS, "publish", "x", PROGRAM)
    assert chain.genesis.chain_id == KNOWN_CHAIN_ID
    assert chain.responses[-1].app_hash.hex() == KNOWN_APP_HASH
    [result] = chain.responses[-1].tx_results
    assert result.deterministic() == TransactionResult(
        0, encode({"to": registry.ADDRESS, "output": (1).to_bytes(32)}), 20_000_000, result.gas_used
    )


KNOWN_CHAIN_ID = "avow-febbc43b9b629238"
KNOWN_APP_HASH = "9d661712d2404b02cef63688aad555b94e963da0fa32572b552fa4b2a3b4c9dd"
