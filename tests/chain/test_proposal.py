"""What a block may hold: honest proposals pass everywhere, what no honest proposer would include does not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain import abci, proposal
from avow.chain.admission import EARLY_BLOCKS
from avow.chain.application import Application
from avow.chain.errors import Code
from avow.chain.host import refusal
from avow.chain.modules import bank, nodes, settlement
from avow.chain.modules.batch import SignedAuthorisation
from avow.chain.state import MemoryStore
from avow.receipt.statement import Method
from tests.chain.harness import ETHER, FAR_MS, Chain, account, refused

NOW = 1_000


@pytest.fixture
def node(chain):
    return chain.node(Method.VANILLA)


def prepare(chain, *txs, advance_ms=NOW, application=None):
    request = abci.PrepareProposalRequest(
        1 << 20, txs, chain.height + 1, (chain.now_ms + advance_ms) * 10**6, bytes(20)
    )
    return (application or chain.application).prepare_proposal(request).txs


def process(chain, *txs, advance_ms=NOW, application=None):
    request = abci.ProcessProposalRequest(
        txs, bytes(32), chain.height + 1, (chain.now_ms + advance_ms) * 10**6, bytes(20)
    )
    return (application or chain.application).process_proposal(request).accept


def check(chain, raw, kind=abci.CheckTxType.NEW):
    return chain.application.check_tx(abci.CheckTxRequest(raw, kind))


def settle(chain, node, statements, *, spoil=False, nonce_more=0, **more):
    data = bytearray(chain.batch(node, statements, **more))
    if spoil:
        signature = statements[-1].signature
        at = bytes(data).index(signature)
        data[at + len(signature) - 1] ^= 1
    return call(chain, node.operator, settlement.ADDRESS, "settle", bytes(data), nonce_more=nonce_more)


def call(chain, who, module, function, *arguments, nonce_more=0):
    nonce = chain.application.account(account(who))[0] + nonce_more
    return chain.raw(who, module, chain.call_data(module, function, *arguments), nonce=nonce)


def register(chain, evidence=None, **changes):
    key = chain.new_key(Method.VANILLA, "other operator")
    arguments = list(chain.register_arguments(key))
    if evidence is not None:
        arguments[4] = evidence
    for place, value in changes.items():
        arguments[int(place[1:])] = value
    return call(chain, "other operator", nodes.ADDRESS, "register", *arguments)


def signed_twice(chain, node):
    return call(chain, "stranger", nodes.ADDRESS, "reportEquivocation", node.id, b"\x80", b"\x80")


def unauthorised(chain, node):
    statement = node.sign(payer="second payer")
    shown = SignedAuthorisation(0, statement.private, ETHER, FAR_MS, 1, bytes(65))
    return settle(chain, node, [statement], authorisations=[shown])


FAULTY = {
    Code.BATCH_SIGNATURE: lambda c, n: settle(c, n, [n.sign()], spoil=True),
    Code.AMOUNT_EXCEEDS_PRICE: lambda c, n: settle(c, n, [n.sign(units=3, amount=301)]),
    Code.BATCH_MALFORMED: lambda c, _: call(c, "operator", settlement.ADDRESS, "settle", b"\x80"),
    Code.BATCH_TIME: lambda c, n: settle(c, n, [n.sign(ended_ms=c.now_ms - c.genesis.settlement_window_ms - 1)]),
    Code.AUTHORISATION_REFUSED: unauthorised,
    Code.VOID_CAUSE_UNKNOWN: lambda c, n: settle(c, n, [n.sign()], void=b"\x09"),
    Code.POSSESSION_UNPROVEN: lambda c, _: register(c, evidence=bytes(64)),
    Code.KEY_INVALID: lambda c, _: register(c, _1=b"\x04" + bytes(64)),
    Code.EVIDENCE_REFUSED: signed_twice,
}


@pytest.mark.parametrize("code", FAULTY, ids=lambda code: code.label)
def test_what_does_not_hold_stands_in_no_block(chain, node, code):
    raw = FAULTY[code](chain, node)
    good = chain.raw("payer", account("stranger"), value=1, gas=21_000)
    assert prepare(chain, raw, good) == (good,)
    assert process(chain, good)
    for txs in ((raw,), (raw, good), (good, raw)):
        assert not process(chain, *txs), txs
    chain.block(good, proposed=True)
    left_out = check(chain, raw, abci.CheckTxType.RECHECK)
    assert left_out.code == Code.REVERTED, "a proposal of ours left it out: it waits no more"


@pytest.mark.parametrize("code", FAULTY, ids=lambda code: code.label)
def test_what_does_not_hold_is_told_at_once(chain, node, code):
    raw = FAULTY[code](chain, node)
    answer = check(chain, raw)
    assert (answer.code, refusal(answer.data).reason) == (Code.REVERTED, code)
    before = chain.balance("operator")
    chain.block()
    assert chain.balance("operator") == before
    # and who has not seen a block yet tries nothing
    fresh = Application(chain.store, chain.genesis)
    assert fresh.check_tx(abci.CheckTxRequest(raw)).code == Code.OK


def test_every_fault_has_a_case():
    """The attestations' are those of tests/chain/modules/test_nodes.py; early ones stand below."""
    other = {Code.ATTESTATION_REFUSED, Code.ATTESTATION_UNBOUND, *proposal.EARLY}
    assert set(FAULTY) | other == proposal.FAULTS


def test_what_others_may_bring_about_stands_in_a_block_and_is_paid(chain, node):
    first, second = node.sign(), node.sign()
    stranger = chain.new_key(Method.VANILLA)
    stranger.now_ms = chain.now_ms
    taken = [
        settle(chain, node, [first]),
        settle(chain, node, [first], nonce_more=1),
        settle(chain, node, [second], nonce_more=2),
    ]
    results = chain.block(*taken, proposed=True)
    assert [refused(result) and refused(result)[0] for result in results] == [None, Code.BATCH_NUMBER, None]
    assert all(result.gas_used for result in results)
    unwilling = settle(chain, node, [node.sign(payer="stranger")])
    assert refused(chain.block(unwilling, proposed=True)[0])[0] is Code.PAYER_NOT_CONSENTING


def test_a_fault_leaves_nothing_behind(chain, node):
    """A bad settlement among good ones: what follows it finds everything as if it had never been."""
    good = [node.sign() for _ in range(4)]
    wrong = settle(chain, node, good[:2], spoil=True)
    right = settle(chain, node, good[:2])
    more = settle(chain, node, good[2:], nonce_more=1)
    assert prepare(chain, wrong, right, more) == (right, more)
    assert process(chain, right, more)
    assert [result.code for result in chain.block(right, more, proposed=True)] == [Code.OK, Code.OK]
    assert chain.view(settlement.ADDRESS, "next", node.id)[0] == 4


def test_money_that_is_gone_before_its_transaction_comes(chain, node):
    """A settlement charges the payer; the payer's own transfer after it cannot be afforded, and before it can."""
    funds = chain.balance("payer")
    charged = 100_000
    batch = settle(chain, node, [node.sign(units=1_000, amount=charged)])
    rest = funds - 21_000 * chain.genesis.base_fee
    transfer = chain.raw("payer", account("stranger"), value=rest, gas=21_000)
    assert prepare(chain, batch, transfer) == (batch,)
    assert not process(chain, batch, transfer)
    assert prepare(chain, transfer) == (transfer,)


def test_money_received_in_the_block_can_be_spent_in_it(chain):
    poor = "second " * 3
    gift = chain.raw("payer", account(poor), value=ETHER, gas=21_000)
    spent = chain.raw(poor, account("payer"), value=ETHER // 2, gas=21_000, nonce=0)
    assert prepare(chain, spent, gift) == (gift,)
    assert [result.code for result in chain.block(gift, spent, proposed=True)] == [Code.OK, Code.OK]


# --- After a halt ----------------------------------------------------------------------------------------------------


def test_the_first_block_after_a_halt_holds_no_settlement_that_it_would_refuse(chain, node):
    """Block time stood still for an hour; answers went on. Their settlement waits for the block with the right time."""
    halt_ms = 3_600_000
    raw = settle(chain, node, [node.sign(ended_ms=chain.now_ms + halt_ms)])
    assert check(chain, raw).code == Code.OK
    assert prepare(chain, raw) == ()
    assert not process(chain, raw)
    chain.block(proposed=True)
    assert check(chain, raw, abci.CheckTxType.RECHECK).code == Code.OK
    assert prepare(chain, raw, advance_ms=halt_ms) == (raw,)
    assert process(chain, raw, advance_ms=halt_ms)
    assert chain.block(raw, advance_ms=halt_ms, proposed=True)[0].code == Code.OK


def test_what_is_early_for_ever_does_not_wait_for_ever(chain, node):
    raw = settle(chain, node, [node.sign(ended_ms=chain.now_ms + 10**9)])
    assert check(chain, raw).code == Code.OK
    for left in reversed(range(EARLY_BLOCKS)):
        assert prepare(chain, raw) == ()
        chain.block()
        assert (check(chain, raw, abci.CheckTxType.RECHECK).code == Code.OK) == bool(left)
    other = settle(chain, node, [node.sign()], nonce_more=1)
    assert check(chain, other).code == Code.NONCE_TOO_HIGH


# --- Bounds ----------------------------------------------------------------------------------------------------------


def test_what_nobody_pays_for_is_bounded(chain, node, monkeypatch):
    wrong = [settle(chain, node, [replace(node).sign(units=1 + extra)], spoil=True) for extra in range(40)]
    tried = []
    offer = proposal.Run.offer
    monkeypatch.setattr(proposal.Run, "offer", lambda self, raw, tx: tried.append(tx.gas_limit) or offer(self, raw, tx))
    assert prepare(chain, *wrong) == ()
    assert sum(tried) <= proposal.PREPARED_BLOCKS * chain.genesis.block_gas_limit


def test_a_run_is_taken_for_its_own_block_alone(chain, node, monkeypatch):
    raw = settle(chain, node, [node.sign()])
    ran = []
    execute = proposal.Machine.execute
    monkeypatch.setattr(proposal.Machine, "execute", lambda self, tx: ran.append(self.block) or execute(self, tx))
    for advance_ms in (NOW, NOW + 1):
        prepare(chain, raw)
        assert process(chain, raw)
        assert process(chain, raw)
        before = len(ran)
        request = abci.FinalizeBlockRequest(
            (raw,), bytes(32), chain.height + 1, (chain.now_ms + advance_ms) * 10**6, bytes(20)
        )
        first = chain.application.finalize_block(request)
        assert len(ran) - before == (advance_ms != NOW)
        assert chain.application.finalize_block(request) == first, "made again, it is the same"


# --- Liveness --------------------------------------------------------------------------------------------------------


def mixed(chain, node, draw):
    """A pool of anybody's making: good, bad, in any order, some twice."""
    offered = []
    for who, count in (("payer", 3), ("stranger", 2), ("second payer", 2)):
        for nonce in range(draw(st.integers(0, count))):
            value = draw(st.sampled_from([1, ETHER, 600 * ETHER, 1_001 * ETHER]))
            to = draw(st.sampled_from(["operator", "payer", "stranger", "nobody"]))
            offered.append(chain.raw(who, account(to), value=value, gas=21_000, nonce=nonce + draw(st.integers(0, 1))))
    offered.append(
        call(chain, "payer", bank.ADDRESS, "allow", account("operator"), draw(st.integers(0, 2_000)), FAR_MS)
    )
    for place in range(draw(st.integers(0, 4))):
        ended = chain.now_ms + draw(st.sampled_from([0, 10**7]))
        statements = [
            node.sign(
                amount=draw(st.sampled_from([1_000, 1_001])),
                ended_ms=ended,
                payer=draw(st.sampled_from(["payer", "stranger"])),
            )
            for _ in range(draw(st.integers(1, 3)))
        ]
        spoil = draw(st.booleans()) and draw(st.booleans())
        offered.append(settle(chain, node, statements, spoil=spoil, nonce_more=draw(st.integers(0, place))))
    offered.append(register(chain, evidence=draw(st.sampled_from([None, bytes(64)]))))
    offered += [b"junk", offered[0]]
    return tuple(draw(st.permutations(offered)))


def validators(chain, count):
    """Others at the same height, each with a store of its own."""
    made = []
    for _ in range(count):
        store = MemoryStore()
        other = Application(store, chain.genesis)
        other.init_chain(
            abci.InitChainRequest(chain.genesis.time_ms * 10**6, chain.genesis.chain_id, (), chain.genesis.to_bytes())
        )
        for request in chain.requests:
            other.finalize_block(request)
            other.commit()
        made.append(other)
    return made


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_honest_proposals_are_accepted_everywhere(data):
    """Whatever waits where, whoever proposed before, whatever was checked: an honest proposal passes at every validator, and all
    that execute it, with a kept run or without, agree.
    """
    chain = Chain()
    node = chain.node(Method.VANILLA)
    everyone = [chain.application, *validators(chain, 2)]
    replayed = validators(chain, 1)[0]
    for _ in range(2):
        pool = mixed(chain, node, data.draw)
        for application in everyone:
            for raw in data.draw(st.lists(st.sampled_from(pool), max_size=4)):
                application.check_tx(abci.CheckTxRequest(raw))
        advance_ms = data.draw(st.sampled_from([1, NOW, 10**7]))
        proposals = []
        for application in everyone[: data.draw(st.integers(1, 3))]:
            chosen = prepare(chain, *pool, advance_ms=advance_ms, application=application)
            proposals.append(chosen)
            for judge in data.draw(st.permutations(everyone)):
                if data.draw(st.booleans()):
                    process(chain, *pool, advance_ms=advance_ms, application=judge)
                assert process(chain, *chosen, advance_ms=advance_ms, application=judge)
        assert len(set(proposals)) == 1, "the same pool gives the same proposal"
        decided = data.draw(st.sampled_from(proposals))
        request = abci.FinalizeBlockRequest(
            decided, bytes(32), chain.height + 1, (chain.now_ms + advance_ms) * 10**6, bytes(20)
        )
        answers = []
        for application in [*everyone, replayed]:
            answers.append(application.finalize_block(request))
            application.commit()
        assert all(answer == answers[0] for answer in answers)
        assert {result.code for result in answers[0].tx_results} <= {Code.OK, Code.REVERTED, Code.OUT_OF_GAS}
        chain.height, chain.now_ms = chain.height + 1, chain.now_ms + advance_ms
        following = chain.view(settlement.ADDRESS, "next", node.id)[0]
        if following != node.next:
            break  # the node's line is broken: its own numbers are gone


def test_shown_calls_are_where_faults_come_from():
    names = {selector for _, selector in proposal.SHOWING}
    assert len(names) == len(proposal.SHOWING) == 8
