"""Challenges, honest and not: who wins, who pays, and what nobody can do."""

import pytest

from avow.chain import abci
from avow.chain.application import Application
from avow.chain.errors import WHOLE_BATCH, Code
from avow.chain.modules import challenges, keys, life, nodes
from avow.chain.modules.life import LIFE, Event, State, Subject, advance
from avow.chain.state import SqliteStore
from avow.receipt.encoding import encode
from avow.receipt.finality import BatchState
from avow.receipt.standing import KeyState
from avow.receipt.statement import TERMS_PAYER_OPENS
from tests.chain.harness import ETHER, PROGRAM, account, refused
from tests.chain.optimistic import ADDRESS, Optimistic

SALT = bytes(32)


@pytest.fixture
def network():
    return Optimistic()


def spent_on_gas(network):
    """Gas fees of the last block."""
    return sum(result.gas_used for result in network.chain.responses[-1].tx_results) * network.genesis.base_fee


# --- A fraud that is proven ------------------------------------------------------------------------------------------


def test_a_proven_fraud_moves_bond_fee_and_key(network):
    posted = network.cheat(3, at=1, amount=900)
    share, statement = network.share(900), posted.statements[1]
    before = {who: network.chain.balance(who) for who in ("payer", "watcher")}
    supply, burnt = network.supply(), network.burnt()
    gas = 0
    evidence = posted.evidence(1)
    network.commit("watcher", posted, evidence)
    gas += spent_on_gas(network)
    assert network.bond_record().disputes == 1
    assert network.prove("watcher", evidence) == State.UPHELD
    gas += spent_on_gas(network)
    assert network.chain.balance("payer") - before["payer"] == 900
    assert network.chain.balance("watcher") - before["watcher"] == share // 2 - gas
    assert network.burnt() - burnt == share - share // 2
    record = network.batch(posted)
    assert record.overturned == (1,)
    assert (record.held, record.locked) == (2 * 900, 2 * share)
    assert network.bond_record().amount == network.bond - share
    assert network.bond_record().disputes == 0
    key_state = network.chain.view(nodes.ADDRESS, "keyState", posted.key.id)
    assert key_state[0] == KeyState.REVOKED
    assert network.chain.view(nodes.ADDRESS, "revocation", posted.key.id) == [
        keys.RevocationCause.FRAUD,
        network.chain.height,
    ]
    assert network.view("statementOf", statement.hash) == [
        State.OVERTURNED,
        posted.key.id,
        1,
        keys.RevocationCause.FRAUD,
        account("watcher"),
        share // 2,
        True,
    ]
    assert network.events("Overturned") == [[1, keys.RevocationCause.FRAUD, share]]
    assert network.events("Rewarded") == [[share // 2]]
    assert network.events("ChallengeResolved") == [[network.commitment("watcher", evidence), State.UPHELD]]
    assert network.supply() == supply
    network.check_money()


def test_the_rest_of_the_batch_becomes_final(network):
    posted = network.cheat(3, at=1, amount=900)
    assert network.challenge("watcher", posted, 1) == State.UPHELD
    network.pass_window()
    operator = network.chain.balance("operator")
    network.do("stranger", "finalise", posted.key.id, posted.first)
    assert network.chain.balance("operator") - operator == 1_800
    record = network.batch(posted)
    assert (record.state, record.overturned) == (BatchState.FINAL, (1,))
    assert network.bond_record().locked == 0
    network.check_money()


def test_a_revoked_key_settles_no_more_and_says_why(network):
    posted = network.cheat()
    statement, _ = network.sign()
    network.challenge("watcher", posted)
    assert refused(network.chain.settle(posted.key, [statement])) == (Code.KEY_OVERTURNED, WHOLE_BATCH)
    assert network.chain.settle(posted.key, [statement], void=b"\x01").code == Code.OK


def test_every_statement_of_a_batch_can_be_overturned(network):
    posted = network.cheat(3)
    network.guilty.update(statement.columns.trace for statement in posted.statements)
    for index in (2, 0, 1):
        assert network.challenge("watcher", posted, index) == State.UPHELD
        network.check_money()
    record = network.batch(posted)
    assert (record.overturned, record.held, record.locked) == ((0, 1, 2), 0, 0)
    network.pass_window()
    network.do("stranger", "finalise", posted.key.id, posted.first)
    network.check_money()


def test_the_example_of_the_page():
    """docs/optimistic.md, "Money, with numbers", without gas; a share is two wei more than it says there."""
    milli = ETHER // 1_000
    network = Optimistic(settings={"base_fee": 0}, bond=ETHER)
    network.chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, 1, milli)
    begin = {who: network.chain.balance(who) for who in ("payer", "operator", "watcher")}

    def row():
        moved = [(network.chain.balance(who) - begin[who]) // milli for who in ("payer", "operator", "watcher")]
        bond = network.bond_record()
        others = (bond.locked, network.held_by_module() - bond.amount, network.burnt())
        return [*moved, -(-bond.amount // milli), *[value // milli for value in others]]

    assert row() == [0, 0, 0, 1_000, 0, 0, 0]
    posted = network.cheat(3, at=1, amount=2 * milli, price_version=2)
    assert row() == [-6, 0, 0, 1_000, 228, 6, 0]
    evidence = posted.evidence(1)
    network.commit("watcher", posted, evidence)
    assert row() == [-6, 0, -10, 1_000, 228, 16, 0]
    network.prove("watcher", evidence)
    assert row() == [-4, 0, 38, 924, 152, 4, 38]
    network.pass_window()
    network.do("stranger", "finalise", posted.key.id, posted.first)
    assert row() == [-4, 4, 38, 924, 0, 0, 38]


# --- Commit, then reveal ---------------------------------------------------------------------------------------------


def test_a_proof_without_a_commitment_is_not_heard(network):
    posted = network.cheat()
    evidence = posted.evidence(0)
    network.commit("watcher", posted, evidence)
    assert network.refusal("stranger", "prove", evidence, SALT) is Code.CHALLENGE_UNKNOWN
    assert network.refusal("watcher", "prove", evidence, bytes([1]) * 32) is Code.CHALLENGE_UNKNOWN
    assert network.refusal("watcher", "prove", evidence + b"\x00", SALT) is Code.CHALLENGE_UNKNOWN


def block_of(network, *calls):
    """Calls of different senders in one block: (who, function, arguments, value)."""
    raw = [
        network.chain.raw(who, ADDRESS, network.chain.call_data(ADDRESS, function, *arguments), value=value)
        for who, function, arguments, value in calls
    ]
    return network.chain.block(*raw)


def test_a_proof_comes_a_block_after_its_commitment_at_least(network):
    posted = network.cheat()
    evidence, bond = posted.evidence(0), network.rules.challenge_bond
    committed = network.commitment("watcher", evidence)
    nonce, _ = network.chain.application.account(account("watcher"))
    commit = network.chain.call_data(ADDRESS, "commit", posted.key.id, posted.first, committed)
    prove = network.chain.call_data(ADDRESS, "prove", evidence, SALT)
    with network.refereed():
        first, second = network.chain.block(
            network.chain.raw("watcher", ADDRESS, commit, value=bond),
            network.chain.raw("watcher", ADDRESS, prove, nonce=nonce + 1),
        )
    assert first.code == Code.OK
    assert refused(second) == (Code.CHALLENGE_TOO_EARLY, None)
    assert network.prove("watcher", evidence) == State.UPHELD


def test_who_copies_a_revealed_proof_is_second(network):
    """The node reads the watcher's reveal while it waits and proves its own fraud, to get half of its bond back."""
    posted = network.cheat()
    evidence = posted.evidence(0)
    network.commit("watcher", posted, evidence)
    network.commit("operator", posted, evidence)
    supply = network.supply()
    assert network.prove("operator", evidence) == State.UPHELD  # revealed first, and still second
    statement = posted.statements[0].hash
    assert network.refusal("operator", "reward", statement) is Code.REWARD_WAITS
    network.check_money()
    before = network.chain.balance("watcher")
    assert network.prove("watcher", evidence) == State.UPHELD
    won = network.share() // 2 + network.rules.challenge_bond
    assert network.chain.balance("watcher") - before == won - spent_on_gas(network)
    assert network.refusal("operator", "reward", statement) is Code.REWARD_UNKNOWN
    assert network.bond_record().amount == network.bond - network.share()  # slashed once
    assert network.supply() == supply
    network.check_money()


def test_a_later_winner_is_paid_when_no_earlier_one_can_come(network):
    posted = network.cheat()
    evidence = posted.evidence(0)
    spam = bytes([9]) * 32
    network.do("stranger", "commit", posted.key.id, posted.first, spam, value=network.rules.challenge_bond)
    network.commit("watcher", posted, evidence)
    assert network.prove("watcher", evidence) == State.UPHELD
    statement = posted.statements[0].hash
    assert network.refusal("watcher", "reward", statement) is Code.REWARD_WAITS
    network.pass_window(network.rules.move_ms)
    for _ in range(network.rules.reveal_blocks):
        network.chain.block()
    before = network.chain.balance("watcher")
    network.do("stranger", "reward", statement)
    assert network.chain.balance("watcher") - before == network.share() // 2
    assert network.refusal("stranger", "reward", statement) is Code.REWARD_UNKNOWN
    network.do("stranger", "lapse", account("stranger"), spam)
    network.check_money()


def test_nobody_takes_a_commitment_away_by_sending_it_first(network):
    posted = network.cheat()
    evidence = posted.evidence(0)
    committed = network.commitment("watcher", evidence)
    network.do("stranger", "commit", posted.key.id, posted.first, committed, value=network.rules.challenge_bond)
    network.commit("watcher", posted, evidence)
    assert network.refusal("stranger", "prove", evidence, SALT) is Code.CHALLENGE_UNKNOWN
    assert network.prove("watcher", evidence) == State.UPHELD


def test_what_is_not_revealed_in_time_lapses(network):
    posted = network.cheat()
    evidence = posted.evidence(0)
    committed = network.commit("watcher", posted, evidence)
    assert network.refusal("stranger", "lapse", account("watcher"), committed) is Code.REVEAL_OPEN
    network.pass_window(network.rules.move_ms)
    network.chain.block(*[], advance_ms=1)
    network.chain.block(*[], advance_ms=1)
    assert network.refusal("watcher", "prove", evidence, SALT) is Code.REVEAL_PASSED
    burnt = network.burnt()
    network.do("stranger", "lapse", account("watcher"), committed)
    assert network.burnt() - burnt == network.rules.challenge_bond
    assert network.refusal("stranger", "lapse", account("watcher"), committed) is Code.CHALLENGE_UNKNOWN
    assert network.bond_record().disputes == 0
    network.check_money()


def test_the_reveal_has_blocks_enough_however_late_they_are(network):
    """After a halt the clock may jump; the challenger still has its blocks."""
    posted = network.cheat()
    evidence = posted.evidence(0)
    network.commit("watcher", posted, evidence)
    network.chain.now_ms += 3_600_000
    assert network.prove("watcher", evidence) == State.UPHELD


@pytest.mark.parametrize("change", ["none", "little", "much"])
def test_the_bond_is_exact(network, change):
    posted = network.cheat()
    value = {"none": 0, "little": network.rules.challenge_bond - 1, "much": network.rules.challenge_bond + 1}[change]
    arguments = (posted.key.id, posted.first, bytes(32))
    assert network.refusal("watcher", "commit", *arguments, value=value) is Code.DEPOSIT_WRONG


def test_what_cannot_be_challenged(network):
    posted = network.cheat()
    bond = network.rules.challenge_bond
    arguments = (posted.key.id, 1, bytes(32))
    assert network.refusal("watcher", "commit", *arguments, value=bond) is Code.BATCH_UNKNOWN
    network.commit("watcher", posted, posted.evidence(0))
    committed = network.commitment("watcher", posted.evidence(0))
    arguments = (posted.key.id, posted.first, committed)
    assert network.refusal("watcher", "commit", *arguments, value=bond) is Code.CHALLENGE_EXISTS


# --- The last moment -------------------------------------------------------------------------------------------------


def test_a_challenge_in_the_last_millisecond_is_heard(network):
    posted = network.cheat()
    evidence = posted.evidence(0)
    deadline = network.batch(posted).deadline_clock
    network.pass_window(deadline - network.chain.now_ms - 2_001)
    network.chain.now_ms = deadline - 1_000
    network.commit("watcher", posted, evidence)  # at the deadline itself
    assert network.refusal("stranger", "finalise", posted.key.id, posted.first) is Code.DISPUTE_WAITS
    late = (posted.key.id, posted.first, bytes(32))
    assert network.refusal("stranger", "commit", *late, value=network.rules.challenge_bond) is Code.WINDOW_PASSED
    assert network.prove("watcher", evidence) == State.UPHELD
    network.do("stranger", "finalise", posted.key.id, posted.first)
    network.check_money()


def test_a_last_moment_challenge_that_nobody_reveals_delays_by_its_reveal_only(network):
    posted = network.post()
    deadline = network.batch(posted).deadline_clock
    network.pass_window(deadline - network.chain.now_ms - 2_001)
    network.chain.now_ms = deadline - 1_000
    committed = network.commit("stranger", posted, b"nothing")
    assert network.refusal("operator", "finalise", posted.key.id, posted.first) is Code.DISPUTE_WAITS
    network.pass_window(network.rules.move_ms)
    for _ in range(network.rules.reveal_blocks):
        network.chain.block()
    network.do("operator", "finalise", posted.key.id, posted.first)
    assert network.batch(posted).state is BatchState.FINAL
    network.do("operator", "lapse", account("stranger"), committed)
    network.do("operator", "withdraw", network.bond)
    network.check_money()


def test_what_is_final_is_not_challenged(network):
    posted = network.cheat()
    network.pass_window()
    network.do("stranger", "finalise", posted.key.id, posted.first)
    arguments = (posted.key.id, posted.first, bytes(32))
    assert network.refusal("watcher", "commit", *arguments, value=network.rules.challenge_bond) is Code.BATCH_FINAL


# --- Proofs that do not hold -----------------------------------------------------------------------------------------


def wrong_evidence(network):
    honest, guilty = network.post(2), network.cheat(2)
    located = honest.located(0)
    return honest, {
        "an honest statement": honest.evidence(0),
        "no proof": honest.evidence(0, b""),
        "another statement's proof": honest.evidence(0, guilty.evidence(0)),
        "another batch's statement": guilty.evidence(0),
        "no map": b"\x00",
        "no bytes": b"",
        "a member too many": encode({"statement": located.to_value(), "fault": b"", "more": 1}),
        "a wrong path": encode({"statement": {**located.to_value(), "path": []}, "fault": b""}),
        "a void's leaf": encode({"statement": {**located.to_value(), "private": bytes(32)}, "fault": b""}),
        "too much": encode({"statement": located.to_value(), "fault": bytes(challenges.MAX_EVIDENCE)}),
    }


@pytest.mark.parametrize("name", sorted(wrong_evidence(Optimistic())[1]))
def test_a_challenge_that_fails_loses_its_bond(network, name):
    posted, cases = wrong_evidence(network)
    evidence = cases[name]
    bond, burnt, before = network.bond_record(), network.burnt(), network.batch(posted)
    network.commit("stranger", posted, evidence)
    balance = network.chain.balance("stranger")
    assert network.prove("stranger", evidence) == State.REJECTED
    assert network.burnt() - burnt == network.rules.challenge_bond
    assert network.chain.balance("stranger") == balance - spent_on_gas(network)
    assert network.bond_record() == bond
    assert network.batch(posted) == before
    assert network.refusal("stranger", "prove", evidence, SALT) is Code.CHALLENGE_UNKNOWN
    network.check_money()


def test_a_second_challenge_of_what_is_overturned_gets_its_bond_back_and_nothing_else(network):
    posted = network.cheat()
    evidence = posted.evidence(0)
    network.commit("watcher", posted, evidence)
    network.commit("second watcher", posted, evidence)
    assert network.prove("watcher", evidence) == State.UPHELD
    before, burnt = network.chain.balance("second watcher"), network.burnt()
    assert network.prove("second watcher", evidence) == State.MOOT
    refund = network.rules.challenge_bond
    assert network.chain.balance("second watcher") - before == refund - spent_on_gas(network)
    assert network.burnt() == burnt
    assert network.bond_record().amount == network.bond - network.share()
    network.check_money()


def test_challenging_oneself_loses_money(network):
    """Node, payer and challenger are one; what is left of its money is less, by half of the share at least."""
    mine = ("operator", "second watcher")
    before = sum(network.chain.balance(who) for who in mine) + network.bond_record().amount
    posted = network.cheat(payer="operator", amount=1_000)
    assert network.challenge("second watcher", posted) == State.UPHELD
    network.pass_window()
    network.do("operator", "finalise", posted.key.id, posted.first)
    after = sum(network.chain.balance(who) for who in mine) + network.bond_record().amount
    assert before - after >= network.share() - network.share() // 2
    network.check_money()


def test_insuring_oneself_by_an_early_commitment_saves_no_more_than_half(network):
    """A cheat commits to its own fraud first and reveals when somebody else does: the burnt half is gone all the same."""
    mine = ("operator", "second watcher")
    network.chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, 1, ETHER // 100)
    before = sum(network.chain.balance(who) for who in mine) + network.bond_record().amount
    amount = ETHER // 100
    posted = network.cheat(amount=amount, price_version=2)
    evidence = posted.evidence(0)
    network.commit("second watcher", posted, evidence)
    network.commit("watcher", posted, evidence)
    assert network.prove("watcher", evidence) == State.UPHELD
    assert network.prove("second watcher", evidence) == State.UPHELD
    after = sum(network.chain.balance(who) for who in mine) + network.bond_record().amount
    rules = network.rules
    assert before - after > amount * (10**6 - rules.audit_ppm) // rules.audit_ppm  # G(1 - p)/p
    network.check_money()


def test_gas_is_paid_before_the_referee_runs(network):
    posted = network.cheat()
    evidence = posted.evidence(0, bytes(60_000))
    network.commit("stranger", posted, evidence)
    data = network.chain.call_data(ADDRESS, "prove", evidence, SALT)
    [result] = network.chain.block(network.chain.raw("stranger", ADDRESS, data, gas=1_200_000))
    assert result.code == Code.OUT_OF_GAS
    assert network.prove("stranger", evidence) == State.REJECTED


# --- The payer alone may open ----------------------------------------------------------------------------------------


def test_the_terms_keep_others_from_opening(network):
    posted = network.cheat(terms=TERMS_PAYER_OPENS)
    evidence = posted.evidence(0)
    network.commit("watcher", posted, evidence)
    assert network.refusal("watcher", "prove", evidence, SALT) is Code.NOT_ENTITLED
    network.commit("payer", posted, evidence)
    assert network.prove("payer", evidence) == State.UPHELD
    assert network.bond_record().amount == network.bond - network.share(terms=TERMS_PAYER_OPENS)
    network.check_money()


# --- Independence ----------------------------------------------------------------------------------------------------


def test_challenges_of_one_batch_do_not_delay_another(network):
    first, second = network.cheat(2), network.post(2)
    deadline = network.batch(second).deadline_clock
    for salt in range(5):
        network.commit("watcher", first, first.evidence(0), bytes([salt]) * 32)
    assert network.batch(second).deadline_clock == deadline
    network.pass_window()
    network.do("operator", "finalise", second.key.id, second.first)


def test_challenges_of_one_batch_run_side_by_side(network):
    posted = network.cheat(4)
    network.guilty.update(statement.columns.trace for statement in posted.statements)
    who = ("watcher", "second watcher", "stranger", "payer")
    for index, challenger in enumerate(who):
        network.commit(challenger, posted, posted.evidence(index))
    for index, challenger in reversed(list(enumerate(who))):
        assert network.prove(challenger, posted.evidence(index)) == State.UPHELD
    assert network.batch(posted).overturned == (0, 1, 2, 3)
    network.pass_window(network.rules.move_ms)
    for _ in range(network.rules.reveal_blocks):
        network.chain.block()
    for statement in posted.statements[1:]:
        network.do("stranger", "reward", statement.hash)
    network.check_money()


def test_withdrawals_wait_for_disputes(network):
    posted = network.post()
    committed = network.commit("stranger", posted, b"x")
    assert network.refusal("operator", "withdraw", 1) is Code.DISPUTE_WAITS
    network.pass_window(network.rules.move_ms)
    for _ in range(network.rules.reveal_blocks):
        network.chain.block()
    network.do("operator", "lapse", account("stranger"), committed)
    network.do("operator", "withdraw", 1)


# --- The table -------------------------------------------------------------------------------------------------------


def test_what_is_not_in_the_table_is_refused():
    for subject in Subject:
        for state in State:
            for event in Event:
                if (subject, state, event) in LIFE:
                    assert advance(subject, state, event) is LIFE[subject, state, event]
                    continue
                with pytest.raises(life.Refused):
                    advance(subject, state, event)
    ends = set(LIFE.values()) - {state for _, state, _ in LIFE}
    assert State.UPHELD not in ends
    assert {State.FINAL, State.OVERTURNED, State.REJECTED, State.LAPSED, State.MOOT, State.ANSWERED} <= ends


def test_the_same_blocks_give_the_same_bytes(network, tmp_path):
    """Replayed on a disk, with the process killed before and after every commit."""
    posted = network.cheat(2)
    network.demand("payer", posted, 1)
    network.challenge("watcher", posted)
    network.challenge("stranger", posted, 1)
    network.pass_window()
    played = network.chain
    file, start = str(tmp_path / "chain.db"), played.genesis.time_ms * 10**6
    for request, response in zip(played.requests, played.responses, strict=True):
        for committed in (False, True):
            store = SqliteStore(file)
            application = Application(store, played.genesis)
            if request.height == 1:
                bytes_of = played.genesis.to_bytes()
                application.init_chain(abci.InitChainRequest(start, played.genesis.chain_id, (), bytes_of))
            with network.refereed():
                assert application.finalize_block(request) == response
            if committed:
                application.commit()
            store.close()
