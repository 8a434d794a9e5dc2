"""Demands for what a node withholds: who may ask, what an answer is, and what silence costs."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain.errors import Code
from avow.chain.modules import disputes, keys, nodes, referee
from avow.chain.modules.life import State
from avow.exact import descent, hashing
from avow.receipt.audience import Audience, AudienceKind
from avow.receipt.encoding import decode, encode
from avow.receipt.standing import KeyState
from avow.receipt.statement import TERMS_PAYER_OPENS, Method, Private
from tests.chain.harness import account
from tests.chain.optimistic import Optimistic, make_run

NAMED = Audience(AudienceKind.WATCHERS, tuple(sorted([account("stranger")])))


@pytest.fixture
def network():
    return Optimistic()


def answer_of(posted, index, asked):
    return descent.answer_to(asked, posted.runs[index])


def spent_on_gas(network):
    return sum(result.gas_used for result in network.chain.responses[-1].tx_results) * network.genesis.base_fee


def late(network):
    """Past a node's time to answer."""
    network.pass_window(network.rules.move_ms)
    for _ in range(network.rules.reveal_blocks):
        network.chain.block()


# --- Answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_gets_the_bond_and_time_to_use_it(network):
    posted = network.post(2)
    asked = descent.Demand()
    identity = network.demand("watcher", posted, 1, asked)
    [event] = network.events("Demanded")
    assert event[0] == 1
    assert event[1] == posted.statements[1].hash
    assert event[-1] == asked.encoded()
    posed = network.view("demandOf", identity)
    assert posed[:3] == [account("watcher"), posted.key.id, 1]
    assert posed[3] == network.chain.height + network.rules.reveal_blocks
    assert network.bond_record().disputes == 1
    network.check_money()
    before = network.chain.balance("operator")
    given = answer_of(posted, 1, asked)
    network.do("operator", "answer", identity, given)
    assert network.chain.balance("operator") - before == network.rules.demand_bond - spent_on_gas(network)
    assert network.events("Answered") == [[1, given]]
    assert network.events("DemandResolved") == [[1, State.ANSWERED]]
    assert network.bond_record().disputes == 0
    assert network.view("demandOf", identity)[0] == bytes(20)
    network.check_money()


def whole_descent(run, slot):
    """Every demand from the header to one chunk, as a watcher makes them out of the answers before."""
    header = run.header()
    parsed = hashing.Header.parse(header)
    yield descent.Demand()
    yield descent.Demand(header=header)
    root = descent.Node(descent.height(parsed.leaves), 0, parsed.root, ())
    yield descent.Demand(header=header, leaf=root)
    levels = descent.openings.levels_over([descent.merkle.leaf_hash(leaf) for leaf in run.leaves()])
    path = descent.openings.multiproof(levels, [slot])
    leaf = descent.Node(0, slot, levels[0][slot], tuple(path))
    digest = run.leaves()[slot]
    yield descent.Demand(header=header, leaf=leaf, digest=digest)
    hashes = [descent.merkle.leaf_hash(chunk) for chunk in run.salted(slot)]
    content = (len(run.tensors[slot]), descent.merkle.root_of_hashes(hashes))
    shown = {"header": header, "leaf": leaf, "digest": digest, "content": content}
    top = descent.Node(descent.height(len(hashes)), 0, content[1], ())
    yield descent.Demand(**shown, chunk=top)
    chunks = descent.openings.levels_over(hashes)
    at = descent.Node(0, 1, hashes[1], tuple(descent.openings.multiproof(chunks, [1])))
    yield descent.Demand(**shown, chunk=at)


def test_a_whole_descent_fits_the_window_that_answers_extend(network):
    posted = network.post()
    network.pass_window(network.rules.window_ms - 5_000)
    deadline = network.batch(posted).deadline_clock
    kinds = []
    for asked in whole_descent(posted.runs[0], 1):
        identity = network.demand("watcher", posted, 0, asked, private=True)
        network.chain.now_ms += network.rules.move_ms // 2
        network.do("operator", "answer", identity, answer_of(posted, 0, asked))
        kinds.append(asked.asked)
        assert network.batch(posted).deadline_clock >= network.chain.now_ms + network.rules.move_ms
    assert kinds == ["header", "key", "nodes", "tensor", "chunks", "chunk"]
    assert network.batch(posted).deadline_clock > deadline
    network.check_money()


def test_answers_extend_a_window_up_to_a_fixed_end_alone(network):
    posted = network.post()
    record = network.batch(posted)
    last = record.settled_clock + network.rules.window_ms + 32 * network.rules.move_ms  # the page's number
    moves = 0
    while True:
        network.chain.now_ms = min(network.chain.now_ms, network.batch(posted).deadline_clock - 1_000)
        data = network.demand_data(posted)
        result = network.send("payer", "demand", data, value=network.rules.demand_bond)
        if result.code != Code.OK:
            break
        [identity] = [bytes.fromhex(entry) for entry in _topics(result, 2)]
        network.chain.block(advance_ms=network.rules.move_ms // 2)
        network.do("operator", "answer", identity, answer_of(posted, 0, descent.Demand()))
        moves += 1
        assert network.batch(posted).deadline_clock <= last
        assert moves < 100
    assert network.batch(posted).deadline_clock == last


def _topics(result, place):
    for event in result.events:
        topics = [attribute.value for attribute in event.attributes if attribute.key == "topic"]
        if len(topics) == 4:
            yield topics[place]


@pytest.mark.parametrize("given", [b"", b"\x00", b"wrong", bytes(50_000)])
def test_a_wrong_answer_is_none(network, given):
    posted = network.post()
    identity = network.demand("watcher", posted)
    assert network.refusal("operator", "answer", identity, given) is Code.ANSWER_REFUSED
    other = make_run("another")
    assert network.refusal("operator", "answer", identity, other.header()) is Code.ANSWER_REFUSED
    network.do("operator", "answer", identity, answer_of(posted, 0, descent.Demand()))


def test_only_the_operator_answers_and_only_once(network):
    posted = network.post()
    identity = network.demand("watcher", posted)
    given = answer_of(posted, 0, descent.Demand())
    assert network.refusal("stranger", "answer", identity, given) is Code.NOT_AUTHORISED
    network.do("operator", "answer", identity, given)
    assert network.refusal("operator", "answer", identity, given) is Code.DEMAND_UNKNOWN
    assert network.refusal("watcher", "expire", identity) is Code.DEMAND_UNKNOWN


# --- Silence ---------------------------------------------------------------------------------------------------------


def test_silence_overturns(network):
    posted = network.post(3, amount=800)
    share = network.share(800)
    supply, payer, burnt = network.supply(), network.chain.balance("payer"), network.burnt()
    before = network.chain.balance("watcher")
    identity = network.demand("watcher", posted, 2)
    posing = spent_on_gas(network)
    assert network.refusal("watcher", "expire", identity) is Code.ANSWER_OPEN
    posing += spent_on_gas(network)
    late(network)
    given = answer_of(posted, 2, descent.Demand())
    assert network.refusal("operator", "answer", identity, given) is Code.ANSWER_LATE
    network.do("stranger", "expire", identity)
    assert network.batch(posted).overturned == (2,)
    assert network.chain.balance("payer") - payer == 800
    assert network.chain.balance("watcher") - before == share // 2 - posing
    assert network.burnt() - burnt == share - share // 2
    assert network.chain.view(nodes.ADDRESS, "keyState", posted.key.id)[0] == KeyState.REVOKED
    assert network.chain.view(nodes.ADDRESS, "revocation", posted.key.id)[0] == keys.RevocationCause.TRACE_WITHHELD
    assert network.view("statementOf", posted.statements[2].hash)[3] == keys.RevocationCause.TRACE_WITHHELD
    assert network.supply() == supply
    network.check_money()


def test_no_move_after_resolution(network):
    posted = network.cheat(2)
    first, second = network.demand("payer", posted), network.demand("watcher", posted)
    network.challenge("second watcher", posted)
    given = answer_of(posted, 0, descent.Demand())
    assert network.refusal("operator", "answer", first, given) is Code.DISPUTE_RESOLVED
    data = network.demand_data(posted)
    assert network.refusal("payer", "demand", data, value=network.rules.demand_bond) is Code.DISPUTE_RESOLVED
    before = network.chain.balance("payer")
    network.do("stranger", "expire", first)  # at once: the bond goes back, nothing else happens
    assert network.chain.balance("payer") - before == network.rules.demand_bond
    assert network.bond_record().amount == network.bond - network.share()
    late(network)
    network.do("stranger", "expire", second)
    assert network.bond_record().amount == network.bond - network.share()
    assert network.events("DemandResolved") == [[0, State.MOOT]]
    network.check_money()


def test_a_batch_is_not_final_while_a_demand_waits(network):
    posted = network.post()
    network.pass_window(network.rules.window_ms - 3_000)
    identity = network.demand("watcher", posted)
    network.pass_window(network.rules.move_ms)
    assert network.refusal("stranger", "finalise", posted.key.id, posted.first) is Code.DISPUTE_WAITS
    late(network)
    network.do("watcher", "expire", identity)
    network.do("stranger", "finalise", posted.key.id, posted.first)
    network.check_money()


def test_the_node_has_its_blocks_after_a_halt(network):
    posted = network.post()
    identity = network.demand("watcher", posted)
    network.chain.now_ms += 3_600_000
    assert network.refusal("watcher", "expire", identity) is Code.ANSWER_OPEN
    network.chain.now_ms += 3_600_000
    network.do("operator", "answer", identity, answer_of(posted, 0, descent.Demand()))


def test_a_challenge_in_time_wins_nothing_from_who_waited_for_silence(network):
    """Both are right; the first whose move is complete is paid, the other loses nothing."""
    posted = network.cheat()
    identity = network.demand("payer", posted)
    evidence = posted.evidence(0)
    late(network)
    network.commit("watcher", posted, evidence)
    network.do("payer", "expire", identity)
    assert network.prove("watcher", evidence) == State.MOOT
    assert network.bond_record().amount == network.bond - network.share()
    network.check_money()


# --- Demands side by side --------------------------------------------------------------------------------------------


def test_demands_do_not_delay_each_other(network):
    posted = network.post(2)
    first = network.demand("watcher", posted, 0)
    clock = network.view("demandOf", first)[4]
    second = network.demand("payer", posted, 0)
    third = network.demand("watcher", posted, 1)
    assert network.view("demandOf", first)[4] == clock
    network.do("operator", "answer", third, answer_of(posted, 1, descent.Demand()))
    assert network.view("demandOf", first)[4] == clock
    assert network.view("demandOf", second)[4] > clock
    network.do("operator", "answer", second, answer_of(posted, 0, descent.Demand()))
    network.do("operator", "answer", first, answer_of(posted, 0, descent.Demand()))
    network.check_money()


def test_spam_pays_the_node(network):
    """Each demand leaves more than its answer costs, and an account has few at once."""
    posted = network.post()
    before = network.chain.balance("operator")
    identities = []
    for _ in range(16):  # the page's number
        network.chain.now_ms -= 900
        identities.append(network.demand("payer", posted))
    data = network.demand_data(posted)
    assert network.refusal("payer", "demand", data, value=network.rules.demand_bond) is Code.TOO_MANY_DEMANDS
    network.demand("watcher", posted)  # others are not kept from asking
    given, (nonce, _) = answer_of(posted, 0, descent.Demand()), network.chain.application.account(account("operator"))
    calls = [network.chain.call_data(disputes.ADDRESS, "answer", identity, given) for identity in identities]
    raw = [
        network.chain.raw("operator", disputes.ADDRESS, call, nonce=nonce + place, gas=1_000_000)
        for place, call in enumerate(calls)
    ]
    assert {result.code for result in network.chain.block(*raw)} == {Code.OK}
    assert network.chain.balance("operator") > before
    network.demand("payer", posted)
    network.check_money()


def test_the_bond_covers_the_longest_answer(network):
    data = bytes([255]) * descent.MAX_ANSWER
    call = network.chain.call_data(disputes.ADDRESS, "answer", bytes(32), data)
    intrinsic = network.chain.raw("operator", disputes.ADDRESS, call)
    gas = 21_000 + 16 * len(intrinsic) + referee.descent_gas(data) + 8 * len(data) + 200_000
    assert network.rules.demand_bond >= gas * network.genesis.base_fee


def test_the_same_demand_twice_in_a_block_is_one(network):
    posted = network.post()
    data = network.chain.call_data(disputes.ADDRESS, "demand", network.demand_data(posted))
    bond = network.rules.demand_bond
    nonce, _ = network.chain.application.account(account("payer"))
    first, second = network.chain.block(
        network.chain.raw("payer", disputes.ADDRESS, data, value=bond),
        network.chain.raw("payer", disputes.ADDRESS, data, value=bond, nonce=nonce + 1),
    )
    assert first.code == Code.OK
    assert second.code == Code.REVERTED
    network.check_money()


# --- Who may ask, and what -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audience", "terms", "entitled"),
    [
        (Audience(), 0, {"payer", "watcher"}),
        (NAMED, 0, {"payer", "watcher", "stranger"}),
        (Audience(AudienceKind.PUBLIC), 0, {"payer", "watcher", "stranger", "second watcher"}),
        (Audience(AudienceKind.PAYER), 0, {"payer", "watcher"}),
        (Audience(AudienceKind.PUBLIC), TERMS_PAYER_OPENS, {"payer"}),
    ],
)
def test_who_may_ask(network, audience, terms, entitled):
    posted = network.post(audience=audience, terms=terms)
    data = network.demand_data(posted, private=True)
    for who in ("payer", "watcher", "stranger", "second watcher"):
        if who in entitled:
            network.do(who, "demand", data, value=network.rules.demand_bond)
        else:
            assert network.refusal(who, "demand", data, value=network.rules.demand_bond) is Code.NOT_ENTITLED
    network.check_money()


@pytest.mark.parametrize(
    ("audience", "admitted"), [(Audience(), True), (Audience(AudienceKind.PAYER), False), (NAMED, True)]
)
def test_an_appointed_watcher_opens_data_by_the_audience_alone(network, audience, admitted):
    posted, bond = network.post(audience=audience), network.rules.demand_bond
    for asked in whole_descent(posted.runs[0], 1):
        bare, shown = [network.demand_data(posted, 0, asked, private=private) for private in (False, True)]
        if asked.asked not in ("key", "chunk"):
            network.do("watcher", "demand", bare, value=bond)
            continue
        assert network.refusal("watcher", "demand", bare, value=bond) is Code.NOT_ENTITLED
        if admitted:
            network.do("watcher", "demand", shown, value=bond)
        else:
            assert network.refusal("watcher", "demand", shown, value=bond) is Code.NOT_ENTITLED
        network.do("payer", "demand", bare, value=bond)
    network.check_money()


def test_the_private_part_is_shown_by_who_is_named_there(network):
    posted, other = network.post(audience=NAMED), network.post(audience=Audience(AudienceKind.PUBLIC))
    bond = network.rules.demand_bond
    assert network.refusal("stranger", "demand", network.demand_data(posted), value=bond) is Code.NOT_ENTITLED
    item = decode(network.demand_data(posted))
    for private in (other.statements[0].private, b"\x00"):
        assert (
            network.refusal("stranger", "demand", encode({**item, "private": private}), value=bond) is Code.NOT_ENTITLED
        )
    network.demand("stranger", posted, private=True)


@pytest.mark.parametrize(
    "private", [b"\xff not a private part", encode({"audience": None}), encode([]), encode({}), b"\xa1"]
)
def test_a_private_part_that_is_none_admits_nobody_and_breaks_nothing(network, private):
    """The chain settles a hash: what it is of is the node's affair until somebody shows it."""
    with patch("tests.chain.harness.encode_trusted", lambda _: private):
        posted = network.post()
    data = network.demand_data(posted, private=True)
    assert network.refusal("stranger", "demand", data, value=network.rules.demand_bond) is Code.NOT_ENTITLED
    network.do("payer", "demand", data, value=network.rules.demand_bond)


def test_a_statement_that_names_no_audience_admits_nobody(network):
    """Another method's private part is one, without an audience."""
    other = network.chain.new_key(Method.VANILLA, generation=1).sign().private
    assert Private.from_value(decode(other)).audience is None
    with patch("tests.chain.harness.encode_trusted", lambda _: other):
        posted = network.post()
    data = network.demand_data(posted, private=True)
    assert network.refusal("stranger", "demand", data, value=network.rules.demand_bond) is Code.NOT_ENTITLED


def test_governance_appoints_who_may_ask(network):
    posted = network.post()
    data, bond = network.demand_data(posted), network.rules.demand_bond
    assert network.refusal("second watcher", "demand", data, value=bond) is Code.NOT_ENTITLED
    network.do("governance", "appoint", account("second watcher"))
    network.do("second watcher", "demand", data, value=bond)
    network.do("governance", "dismiss", account("watcher"))
    assert network.refusal("watcher", "demand", data, value=bond) is Code.NOT_ENTITLED


def test_what_no_honest_node_could_answer_is_not_asked(network):
    """A demand shows that what it asks is committed to; there is none that only a liar could answer."""
    posted = network.post()
    run, other = posted.runs[0], make_run("other")
    good = list(whole_descent(run, 1))
    bad = [
        descent.Demand(header=other.header(), leaf=descent.Node(2, 0, hashing.Header.parse(other.header()).root, ())),
        descent.Demand(header=run.header(), leaf=descent.Node(2, 0, bytes(32), ())),
        descent.Demand(header=run.header(), end=hashing.INPUT_SLOT, digest=bytes(32)),
        descent.Demand(header=other.header()),
        descent.Demand(header=run.header(), content=(3, bytes(32))),
        descent.Demand(leaf=good[2].leaf),
    ]
    for asked in bad:
        data = network.demand_data(posted, 0, asked)
        assert network.refusal("watcher", "demand", data, value=network.rules.demand_bond) is Code.DEMAND_REFUSED
    for asked in good:
        network.demand("payer", posted, 0, asked)


@pytest.mark.parametrize(
    "change",
    [
        {"asked": b"\x00"},
        {"asked": b""},
        {"first": 1},
        {"key": bytes(32)},
        {"private": b""},
        {"statement": {}},
        {"extra": 1},
    ],
)
def test_malformed_demands(network, change):
    posted = network.post()
    data = encode({**decode(network.demand_data(posted)), **change})
    found = network.refusal("watcher", "demand", data, value=network.rules.demand_bond)
    assert found in (Code.DEMAND_REFUSED, Code.BATCH_UNKNOWN)
    network.check_money()


def test_a_demand_about_another_batchs_statement(network):
    first, second = network.post(2), network.post(2)
    item = decode(network.demand_data(first))
    crossed = encode({**item, "first": second.first})
    found = network.refusal("watcher", "demand", crossed, value=network.rules.demand_bond)
    assert found is Code.STATEMENT_UNKNOWN


def test_the_bond_is_exact_and_the_window_open(network):
    posted = network.post()
    data, bond = network.demand_data(posted), network.rules.demand_bond
    for value in (0, bond - 1, bond + 1):
        assert network.refusal("watcher", "demand", data, value=value) is Code.DEPOSIT_WRONG
    deadline = network.batch(posted).deadline_clock
    network.pass_window(deadline - network.chain.now_ms - 2_001)
    network.chain.now_ms = deadline - 1_000
    network.do("payer", "demand", data, value=bond)  # at the deadline itself
    network.chain.now_ms -= 999
    assert network.refusal("watcher", "demand", data, value=bond) is Code.WINDOW_PASSED
    [waits] = [name for name, _ in network.store.iterate(b"disputes/demand/")]
    late(network)
    network.do("payer", "expire", waits.removeprefix(b"disputes/demand/"))
    network.do("stranger", "finalise", posted.key.id, posted.first)
    assert network.refusal("watcher", "demand", data, value=bond) is Code.BATCH_FINAL


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused_with_a_code(data):
    shared = _SHARED.setdefault("network", Optimistic())
    outcome = shared.chain.application.simulate(
        account("watcher"),
        disputes.ADDRESS,
        shared.chain.call_data(disputes.ADDRESS, "demand", data),
        time_ms=shared.chain.now_ms + 1_000,
        value=shared.rules.demand_bond,
    )
    assert outcome.code is Code.REVERTED


_SHARED: dict[str, Optimistic] = {}
