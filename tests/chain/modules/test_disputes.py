"""What ends a dispute, and what is left of one: moves that exclude each other, exact last moments, events, state."""

import hashlib
from dataclasses import replace
from unittest.mock import patch

import pytest

from avow.chain.errors import Code
from avow.chain.execution import MODULES
from avow.chain.modules import bonds, challenges, referee
from avow.chain.modules.life import State
from avow.chain.transaction import GAS_DATA_ZERO
from avow.exact import descent
from avow.receipt.encoding import encode
from avow.receipt.finality import BatchState
from tests.chain.harness import account
from tests.chain.optimistic import ADDRESS, RULES, Optimistic

SALT = bytes(32)


@pytest.fixture
def network():
    return Optimistic()


# --- The last moment, to the block and the millisecond ---------------------------------------------------------------


MOMENTS = [
    (blocks, passed_ms)
    for blocks in (RULES.reveal_blocks - 1, RULES.reveal_blocks, RULES.reveal_blocks + 1)
    for passed_ms in (RULES.move_ms - 1, RULES.move_ms, RULES.move_ms + 1)
]
"""Around the end of a time that began in the newest block: how many blocks have passed, and how many milliseconds of the clock."""


def is_over(blocks, passed_ms):
    """The page: late only when `move_ms` of the clock and `reveal_blocks` blocks have passed."""
    return blocks > RULES.reveal_blocks and passed_ms > RULES.move_ms


class At:
    """What a call would do in a block so long after the network's newest one."""

    def __init__(self, network, blocks, passed_ms):
        self.network = network
        self.time_ms = network.chain.now_ms + passed_ms
        for _ in range(blocks - 1):
            network.chain.block(advance_ms=0)

    def holds(self, who, function, *arguments):
        chain = self.network.chain
        data = chain.call_data(ADDRESS, function, *arguments)
        with self.network.refereed():
            outcome = chain.application.simulate(account(who), ADDRESS, data, time_ms=self.time_ms)
        return outcome.code is Code.OK


def at_the_deadline(network):
    """A cheat's batch, a second before its window ends."""
    posted = network.cheat()
    deadline = network.batch(posted).deadline_clock
    network.pass_window(deadline - network.chain.now_ms - 2_001)
    network.chain.now_ms = deadline - 1_000
    return posted


@pytest.mark.parametrize(("blocks", "passed_ms"), MOMENTS)
def test_a_challenge_is_revealed_or_has_lapsed_and_only_then_is_the_batch_final(network, blocks, passed_ms):
    """If both were possible a cheat could be paid while its fraud can still be shown; if neither, its money would wait for ever."""
    posted = at_the_deadline(network)
    evidence = posted.evidence(0)
    committed = network.commit("watcher", posted, evidence)
    then = At(network, blocks, passed_ms)
    over = is_over(blocks, passed_ms)
    assert then.holds("watcher", "prove", evidence, SALT) is not over
    assert then.holds("stranger", "lapse", account("watcher"), committed) is over
    assert then.holds("operator", "finalise", posted.key.id, posted.first) is over


@pytest.mark.parametrize(("blocks", "passed_ms"), MOMENTS)
def test_a_demand_is_answered_or_has_expired(network, blocks, passed_ms):
    posted = network.post()
    identity = network.demand("watcher", posted)
    given = descent.answer_to(descent.Demand(), posted.runs[0])
    then = At(network, blocks, passed_ms)
    over = is_over(blocks, passed_ms)
    assert then.holds("operator", "answer", identity, given) is not over
    assert then.holds("stranger", "expire", identity) is over


@pytest.mark.parametrize(("blocks", "passed_ms"), MOMENTS)
def test_a_later_winner_is_paid_when_its_own_time_is_over_and_no_moment_before(network, blocks, passed_ms):
    """By then every earlier challenge has been revealed, or has lapsed."""
    posted = network.cheat()
    evidence = posted.evidence(0)
    network.commit("stranger", posted, evidence)
    network.commit("watcher", posted, evidence)
    height, now_ms = network.chain.height, network.chain.now_ms
    network.chain.now_ms -= 1_000
    assert network.prove("watcher", evidence) == State.UPHELD
    then = At(network, blocks - (network.chain.height - height), passed_ms - (network.chain.now_ms - now_ms))
    paid = then.holds("stranger", "reward", posted.statements[0].hash)
    assert paid is is_over(blocks, passed_ms)
    assert not (paid and then.holds("stranger", "prove", evidence, SALT))


def test_who_commits_after_a_winner_takes_nothing_from_it(network):
    """The winner waits for an earlier commitment; one that saw its proof and committed then is later, paid or not."""
    posted = network.cheat()
    evidence, salts = posted.evidence(0), [bytes([number]) * 32 for number in range(3)]
    network.commit("second watcher", posted, evidence, salts[0])
    network.commit("watcher", posted, evidence, salts[1])
    assert network.prove("watcher", evidence, salts[1]) == State.UPHELD
    network.commit("stranger", posted, evidence, salts[2])
    assert network.prove("stranger", evidence, salts[2]) == State.MOOT
    statement = posted.statements[0].hash
    assert network.view("statementOf", statement)[4] == account("watcher")
    assert network.prove("second watcher", evidence, salts[0]) == State.UPHELD
    assert network.view("statementOf", statement)[4] == account("second watcher")
    assert heard(network, "Rewarded") == [([statement, word(account("second watcher"))], [network.share() // 2])]
    network.check_money()


def test_nobody_is_paid_for_what_nobody_overturned(network):
    posted = network.cheat()
    statement = posted.statements[0].hash
    assert network.refusal("stranger", "reward", statement) is Code.REWARD_UNKNOWN
    assert network.challenge("watcher", posted) == State.UPHELD
    assert network.refusal("stranger", "reward", statement) is Code.REWARD_UNKNOWN


def test_time_for_an_answer_counts_from_the_demand(network):
    posted = network.post()
    identity = network.demand("watcher", posted)
    height, clock = network.chain.height, network.view("clock")[0] - 1_000
    assert network.view("demandOf", identity)[3:5] == [height + RULES.reveal_blocks, clock + RULES.move_ms]


# --- What is left ----------------------------------------------------------------------------------------------------


def leftovers(network):
    """The module's records but for those that stay: batches, bonds, claims, watchers, clock."""
    kept = [b"batch/", b"bond/", b"statement/", b"watcher/", b"clock"]
    names = [name.removeprefix(b"disputes/") for name, _ in network.store.iterate(b"disputes/")]
    return [name for name in names if not any(name.startswith(prefix) for prefix in kept)]


def test_disputes_leave_nothing_in_the_state_once_the_batch_is_final(network):
    posted = network.cheat(3, at=1)
    assert network.challenge("watcher", posted, 1) == State.UPHELD
    assert network.challenge("stranger", posted, 0) == State.REJECTED
    identity = network.demand("watcher", posted, 2)
    network.do("operator", "answer", identity, descent.answer_to(descent.Demand(), posted.runs[2]))
    network.pass_window()
    network.do("stranger", "finalise", posted.key.id, posted.first)
    assert leftovers(network) == []
    assert network.bond_record().disputes == 0


def test_demands_alone_leave_nothing_at_once(network):
    posted = network.post()
    identity = network.demand("watcher", posted)
    network.do("operator", "answer", identity, descent.answer_to(descent.Demand(), posted.runs[0]))
    assert leftovers(network) == []


def test_what_lapses_after_its_batch_was_final_leaves_nothing(network):
    posted = at_the_deadline(network)
    committed = network.commit("stranger", posted, b"nothing")
    network.pass_window(RULES.move_ms)
    for _ in range(RULES.reveal_blocks):
        network.chain.block()
    network.do("operator", "finalise", posted.key.id, posted.first)
    network.do("operator", "lapse", account("stranger"), committed)
    assert leftovers(network) == []
    network.check_money()


# --- What watchers and nodes hear ------------------------------------------------------------------------------------


def heard(network, name):
    """Topics and data of the last block's events of a name."""
    event = MODULES[ADDRESS].interface.events[name]
    found = []
    for result in network.chain.responses[-1].tx_results:
        for entry in result.events:
            topics = [bytes.fromhex(item.value) for item in entry.attributes if item.key == "topic"]
            if topics[0] == event.topic:
                data = {item.key: item.value for item in entry.attributes}["data"]
                found.append((topics[1:], event.decode_data(bytes.fromhex(data))))
    return found


def word(address):
    return bytes(12) + address


def test_a_challenge_is_heard_of(network):
    posted = network.cheat(2, at=1)
    statement, evidence = posted.statements[1], posted.evidence(1)
    for order, who in enumerate(("watcher", "stranger")):
        committed = network.commit(who, posted, evidence)
        assert heard(network, "Challenged") == [([posted.key.id, word(account(who))], [0, committed, order])]
        height, clock = network.chain.height, network.view("clock")[0] - 1_000
        assert network.view("challengeOf", account(who), committed) == [posted.key.id, 0, order, height, clock]
    assert network.prove("watcher", evidence) == State.UPHELD
    committed = network.commitment("watcher", evidence)
    assert heard(network, "ChallengeResolved") == [
        ([posted.key.id, word(account("watcher"))], [committed, State.UPHELD])
    ]
    [(topics, data)] = heard(network, "Overturned")
    assert topics == [posted.key.id, statement.hash, word(account("watcher"))]
    assert data == [1, 3, network.share()]
    assert heard(network, "Rewarded") == [([statement.hash, word(account("watcher"))], [network.share() // 2])]
    assert network.view("challengeOf", account("watcher"), committed)[0] == bytes(32)


def test_a_demand_and_its_answer_are_heard_of(network):
    posted = network.post(2)
    identity = network.demand("watcher", posted, 1)
    height, clock = network.chain.height, network.view("clock")[0] - 1_000
    posed = [1, posted.statements[1].hash, height + RULES.reveal_blocks, clock + RULES.move_ms]
    topics = [posted.key.id, identity, word(account("watcher"))]
    assert heard(network, "Demanded") == [(topics, [*posed, descent.Demand().encoded()])]
    given = descent.answer_to(descent.Demand(), posted.runs[1])
    network.do("operator", "answer", identity, given)
    assert heard(network, "Answered") == [([posted.key.id, identity], [1, given])]
    assert heard(network, "DemandResolved") == [([posted.key.id, identity], [1, State.ANSWERED])]


def test_the_end_of_a_batch_is_heard_of(network):
    posted = network.post(2, amount=300)
    network.pass_window()
    network.do("stranger", "finalise", posted.key.id, posted.first)
    assert heard(network, "Finalised") == [([posted.key.id, word(account("operator"))], [0, 600])]
    assert network.batch(posted).state is BatchState.FINAL


def test_bonds_and_watchers_are_heard_of(network):
    network.do("operator", "deposit", value=7)
    assert heard(network, "Deposited") == [([word(account("operator"))], [7, network.bond + 7])]
    network.do("operator", "withdraw", 3)
    assert heard(network, "Withdrawn") == [([word(account("operator"))], [3, network.bond + 4])]
    network.do("governance", "appoint", account("second watcher"))
    assert heard(network, "WatcherAppointed") == [([word(account("second watcher"))], [])]
    network.do("governance", "dismiss", account("watcher"))
    assert heard(network, "WatcherDismissed") == [([word(account("watcher"))], [])]


# --- Sizes and tags, as the page has them ----------------------------------------------------------------------------


def test_the_largest_proof_is_heard_and_one_byte_more_is_none(network):
    posted = network.post(2)
    for size, state in ((64 * 1_024, State.UPHELD), (64 * 1_024 + 1, State.REJECTED)):
        at = 0 if state is State.UPHELD else 1
        evidence = posted.evidence(at, bytes(size))
        network.commit("watcher", posted, evidence)
        with patch.object(referee, "shows_fault", lambda *_: True):
            assert network.do("watcher", "prove", evidence, SALT) == [state]


def test_a_commitment_is_the_hash_that_the_page_gives():
    tag = b"avow/challenge/1"
    content = encode(["avow-0", bytes(20), SALT, b"evidence"])
    expected = hashlib.sha256(bytes([len(tag)]) + tag + content).digest()
    assert challenges.commitment("avow-0", bytes(20), SALT, b"evidence") == expected


def test_proofs_demands_and_answers_pay_for_their_size_before_they_are_read(network):
    """Whatever they hold: what fails costs as much to look at."""
    used = []
    for size in (0, 10_000):
        results = [
            network.send("watcher", function, *arguments)
            for function, arguments in (
                ("prove", (bytes(size), SALT)),
                ("demand", (bytes(size),)),
                ("answer", (bytes(32), bytes(size))),
            )
        ]
        assert {result.code for result in results} == {Code.REVERTED}
        used.append([result.gas_used for result in results])
    for small, large in zip(*used, strict=True):
        assert large - small >= 10_000 * (GAS_DATA_ZERO + 4)


def test_a_share_of_an_odd_number_of_wei_leaves_the_odd_one_burnt():
    rules = replace(RULES, bond_floor=1_000_001)
    network = Optimistic(rules=rules)
    posted = network.cheat(amount=1)
    burnt = network.burnt()
    assert network.challenge("watcher", posted) == State.UPHELD
    assert network.burnt() - burnt == 500_001
    assert bytes(20) == bonds.BURNT
    network.check_money()
