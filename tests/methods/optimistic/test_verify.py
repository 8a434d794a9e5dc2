"""An optimistic receipt: what each of its own checks says, and how each is refused."""

from dataclasses import replace

import pytest

from avow.exact.hashing import Header, Salts, trace_of
from avow.methods import checks
from avow.methods.optimistic.verify import FURTHER
from avow.receipt.audience import Audience, AudienceKind
from avow.receipt.commitment import response_parts
from avow.receipt.finality import BatchState, BondProof, BondRecord, StakeRule
from avow.receipt.report import VERDICT, CheckName, Outcome, Verdict
from avow.receipt.statement import TERMS_PAYER_OPENS, Method
from avow.receipt.verify import Question, Recomputation
from tests.simulator import CHAT, WINDOW_MS, Simulator


@pytest.fixture
def network():
    network = Simulator("optimistic")
    network.register(Method.OPTIMISTIC)
    return network


def answered(network, **more):
    body = network.chat_body("hello")
    response, receipt = network.answer(CHAT, body, Method.OPTIMISTIC, **more)
    return body, response, receipt


def judge(network, receipt, **question):
    return checks.verify(receipt, network.trust(), Question(network.now_ms, **question))


def result(report, name):
    check = report[name]
    return check.outcome, check.code


def settled(network, **changes):
    body, response, receipt = answered(network)
    [receipt] = network.settle([receipt])
    return network.finality(receipt.opened(body, response), **changes)


def test_a_final_receipt(network):
    report = judge(network, settled(network, state=BatchState.FINAL))
    assert report.verdict is Verdict.WARN  # one validator
    assert {name: report[name].outcome for name in FURTHER} == {
        "trace": Outcome.PASS,
        "ends": Outcome.PASS,
        "audience": Outcome.PASS,
        "bond": Outcome.PASS,
        "processing": Outcome.SKIPPED,
        "recomputed": Outcome.SKIPPED,
        "finality": Outcome.PASS,
    }
    assert [check.name for check in report.checks] == list(CheckName)
    assert any("run the program again" in said for said in report.not_proven)
    assert not any("it will stand" in said for said in report.not_proven)
    assert judge(network, settled(network, state=BatchState.FINAL), require=("optimistic", "final", "settled")).ok
    assert not judge(network, settled(network), require=("final",)).ok


def test_an_answer_that_has_just_come(network):
    _, _, receipt = answered(network)
    report = judge(network, receipt)
    assert report.ok
    assert report["finality"].outcome is Outcome.SKIPPED
    assert any("it will stand" in said for said in report.not_proven)


def test_open_until(network):
    report = judge(network, settled(network))
    assert result(report, "finality") == (Outcome.WARN, "")
    assert f"about {WINDOW_MS // 1000 - 2} s more" in report["finality"].detail  # two blocks later
    assert report.ok
    passed = judge(network, settled(network, deadline_clock=network.now_ms))
    assert "its window has passed" in passed["finality"].detail
    assert passed["finality"].outcome is Outcome.WARN


def test_overturned(network):
    receipt = settled(network)
    report = judge(network, network.finality(receipt, overturned=(receipt.statement.columns.number,)))
    assert result(report, "finality") == (Outcome.FAIL, "overturned")
    assert report.verdict is Verdict.FAIL
    other = judge(network, network.finality(receipt, state=BatchState.FINAL, overturned=(99,)))
    assert other["finality"].outcome is Outcome.PASS


def test_the_record_of_another_batch(network):
    one = settled(network)
    two = settled(network, state=BatchState.FINAL)
    swapped = one.with_settlement(replace(one.settlement, finality=two.settlement.finality))
    assert result(judge(network, swapped), "finality") == (Outcome.FAIL, "wrong_batch")
    forged = replace(two.settlement.finality, first=one.settlement.finality.first)
    assert result(judge(network, one.with_settlement(replace(one.settlement, finality=forged))), "finality") == (
        Outcome.FAIL,
        "record_mismatch",
    )
    short = network.finality(one, count=0)
    assert result(judge(network, short), "finality") == (Outcome.FAIL, "wrong_batch")
    stranger = network.finality(one, count=1, operator=bytes(20))
    assert result(judge(network, stranger), "finality") == (Outcome.FAIL, "wrong_operator")


def test_a_changed_record(network):
    receipt = settled(network)
    final = network.finality(receipt, state=BatchState.FINAL).settlement.finality
    forged = replace(receipt.settlement, finality=replace(receipt.settlement.finality, record=final.record))
    assert result(judge(network, receipt.with_settlement(forged)), "finality") == (Outcome.FAIL, "record_mismatch")


def test_a_record_that_nobody_signed(network):
    receipt = settled(network, state=BatchState.FINAL)
    proof = receipt.settlement.finality
    unsigned = replace(proof, block=network.sign_block(proof.block.header, signers=0))
    report = judge(network, receipt.with_settlement(replace(receipt.settlement, finality=unsigned)))
    assert report["finality"].outcome is Outcome.SKIPPED
    assert result(report, "anchor") == (Outcome.FAIL, "not_signed")
    bare = checks.verify(receipt, None, Question(network.now_ms))
    assert bare["finality"].outcome is Outcome.SKIPPED
    assert bare["bond"].outcome is Outcome.SKIPPED
    assert "not anchored" in bare["bond"].detail


def test_the_trace(network):
    receipt = settled(network)
    opening = receipt.opening
    other = Header(
        **{**{name: getattr(Header.parse(opening.header), name) for name in Header.__slots__}, "steps": 2}
    ).encoded()
    for header in (other, opening.header + b"\0", b"x"):
        assert result(judge(network, replace(receipt, opening=replace(opening, header=header))), "trace") == (
            Outcome.FAIL,
            "wrong_trace",
        )
    assert judge(network, receipt.redacted())["trace"].outcome is Outcome.SKIPPED
    assert judge(network, replace(receipt, opening=replace(opening, header=None)))["trace"].outcome is Outcome.SKIPPED
    assert "6 tensors of 6 steps, 3 tokens asked" in judge(network, receipt)["trace"].detail


def test_the_salts_of_another_seed(network):
    _, _, receipt = answered(network)
    header = replace(Header.parse(receipt.opening.header), salts=Salts(bytes(32)).commitment).encoded()
    statement = replace(receipt.statement, columns=replace(receipt.statement.columns, trace=trace_of(header)))
    forged = network.state_and_sign(network.keys[Method.OPTIMISTIC], statement, replace(receipt.opening, header=header))
    assert result(judge(network, forged), "trace") == (Outcome.FAIL, "wrong_salts")


def test_a_header_that_is_none(network):
    _, _, receipt = answered(network)
    statement = replace(receipt.statement, columns=replace(receipt.statement.columns, trace=trace_of(b"\xa0")))
    forged = network.state_and_sign(
        network.keys[Method.OPTIMISTIC], statement, replace(receipt.opening, header=b"\xa0")
    )
    assert result(judge(network, forged), "trace") == (Outcome.FAIL, "bad_field")


@pytest.mark.parametrize(
    ("audience", "terms", "outcome", "words"),
    [
        (Audience(), 0, Outcome.PASS, "the payer and the network's appointed watchers could run it again"),
        (Audience(AudienceKind.WATCHERS, (bytes(19) + b"\1", bytes(19) + b"\2")), 0, Outcome.PASS, "and 2 named by the caller"),
        (Audience(AudienceKind.PUBLIC), 0, Outcome.PASS, "anybody could"),
        (Audience(AudienceKind.PAYER), 0, Outcome.WARN, "the payer alone could run it again"),
        (Audience(AudienceKind.PUBLIC), TERMS_PAYER_OPENS, Outcome.WARN, "the payer alone could prove"),
        (Audience(AudienceKind.PAYER), TERMS_PAYER_OPENS, Outcome.WARN, "the payer alone could run it again"),
    ],
)  # fmt: skip
def test_who_could_check(network, audience, terms, outcome, words):
    _, _, receipt = answered(network, audience=audience, terms=terms)
    check = judge(network, receipt)["audience"]
    assert check.outcome is outcome
    assert words in check.detail


def test_the_bond(network):
    _, _, receipt = answered(network)
    assert f"had {5 * 10**16} wei at stake, {10**16} of it" in judge(network, receipt)["bond"].detail
    bare = replace(receipt, evidence=replace(receipt.evidence, bond=None))
    assert judge(network, bare)["bond"].outcome is Outcome.SKIPPED
    assert judge(network, bare).verdict is Verdict.WARN
    no_standing = replace(receipt, evidence=replace(receipt.evidence, standing=None))
    assert judge(network, no_standing)["bond"].outcome is Outcome.SKIPPED
    forged = replace(
        receipt,
        evidence=replace(receipt.evidence, bond=replace(receipt.evidence.bond, record=BondRecord(10**30).to_bytes())),
    )
    assert result(judge(network, forged), "bond") == (Outcome.FAIL, "record_mismatch")
    nothing = replace(receipt, evidence=replace(receipt.evidence, bond=BondProof(None, receipt.evidence.bond.proof)))
    assert judge(network, nothing)["bond"].outcome is Outcome.FAIL


@pytest.mark.parametrize("record", [None, BondRecord()])
def test_no_bond(network, record):
    network.set_bond(record)
    network.advance()
    _, _, receipt = answered(network)
    assert result(judge(network, receipt), "bond") == (Outcome.FAIL, "no_bond")


RULE = StakeRule(bond_floor=1_000, audit_ppm=500_000, gain_factor=1)
"""Half is checked, so a share is 2 · (amount + 1), and never less than 1,000."""


@pytest.mark.parametrize(
    ("bond", "settled_too", "outcome", "code"),
    [
        (BondRecord(999), False, Outcome.FAIL, "bond_too_small"),
        (BondRecord(999), True, Outcome.FAIL, "bond_too_small"),
        (BondRecord(1_000), False, Outcome.PASS, ""),
        (BondRecord(1_000, 1_000), True, Outcome.PASS, ""),  # it is among what is locked
        (BondRecord(1_000, 1_000), False, Outcome.WARN, ""),
        (BondRecord(5_000, 4_001), False, Outcome.WARN, ""),
        (BondRecord(5_000, 4_000), False, Outcome.PASS, ""),
    ],
)
def test_a_bond_covers_the_share_that_the_readers_rule_asks(network, bond, settled_too, outcome, code):
    network.set_bond(bond)
    network.advance()
    _, _, receipt = answered(network)
    if settled_too:
        [receipt] = network.settle([receipt])
    trust = replace(network.trust(), stake=RULE)
    assert RULE.share(receipt.statement.columns.amount, 0) == 1_000
    report = checks.verify(receipt, trust, Question(network.now_ms))
    assert result(report, "bond") == (outcome, code)


def test_a_share_is_of_the_statements_own_amount_and_terms(network):
    """Where the payer alone may open on chain it is four times as high; a reader without a rule is told so."""
    network.set_bond(BondRecord(4_000))
    network.advance()
    _, _, receipt = answered(network, terms=TERMS_PAYER_OPENS)
    amount = receipt.statement.columns.amount
    for floor, outcome in ((1_000, Outcome.PASS), (1_001, Outcome.FAIL)):
        trust = replace(network.trust(), stake=replace(RULE, bond_floor=floor))
        assert checks.verify(receipt, trust, Question(network.now_ms))["bond"].outcome is outcome
    gain = replace(RULE, gain_factor=4_000 // amount)
    dear = replace(network.trust(), stake=gain)
    assert result(checks.verify(receipt, dear, Question(network.now_ms)), "bond") == (Outcome.FAIL, "bond_too_small")
    bare = checks.verify(receipt, replace(network.trust(), stake=None), Question(network.now_ms))["bond"]
    assert bare.outcome is Outcome.WARN
    assert "no rule" in bare.detail


def test_a_batch_that_is_said_to_begin_elsewhere(network):
    """A record that would cover the statement's number, of a batch in which it is not at its settlement's place."""
    one, two = settled(network), settled(network, state=BatchState.FINAL)
    assert two.statement.columns.number == one.statement.columns.number + 1
    covering = network.finality(one, count=2, state=BatchState.FINAL)
    assert judge(network, covering)["finality"].outcome is Outcome.PASS
    forged = replace(two.settlement, finality=covering.settlement.finality)
    assert result(judge(network, two.with_settlement(forged)), "finality") == (Outcome.FAIL, "wrong_batch")


def test_settled_and_not_shown_to_be_final(network):
    _, _, receipt = answered(network)
    [receipt] = network.settle([receipt])
    assert judge(network, receipt)["finality"].outcome is Outcome.SKIPPED


def test_a_statement_that_names_no_audience(network):
    _, _, receipt = answered(network)
    private = replace(receipt.statement.private, audience=None)
    forged = network.state_and_sign(
        network.keys[Method.OPTIMISTIC], replace(receipt.statement, private=private), receipt.opening
    )
    assert result(judge(network, forged), "audience") == (Outcome.FAIL, "no_audience")


def test_a_run_of_ones_own(network):
    body, response, receipt = answered(network)
    receipt = receipt.opened(body, response)
    own = Recomputation(receipt.opening.header, tuple(response_parts(response)))
    for given in ({}, {"response": response}, {"response": response_parts(response)}):
        report = judge(network, receipt, recomputation=own, **given)
        assert report["recomputed"].outcome is Outcome.PASS
        assert report["processing"].outcome is Outcome.PASS
        assert not any("run the program again" in said for said in report.not_proven)
    assert judge(network, receipt, recomputation=own, require=("recomputed", "processing")).ok
    assert not judge(network, receipt, require=("recomputed",)).ok
    other = network.answer(CHAT, network.chat_body("something else"), Method.OPTIMISTIC)[0]
    wrong = judge(network, receipt, recomputation=replace(own, response=tuple(response_parts(other))))
    assert result(wrong, "processing") == (Outcome.FAIL, "wrong_response")
    cut = judge(network, receipt, recomputation=replace(own, response=None))
    assert cut["processing"].outcome is Outcome.WARN
    holder = replace(receipt, opening=replace(receipt.opening, response=None))
    assert judge(network, holder, recomputation=own)["processing"].outcome is Outcome.SKIPPED
    assert result(judge(network, receipt.redacted(), recomputation=own), "recomputed") == (Outcome.FAIL, "no_opening")
    assert judge(network, receipt.redacted(), recomputation=own)["processing"].outcome is Outcome.SKIPPED


def test_ids_and_times_of_a_response_are_the_nodes(network):
    body, response, receipt = answered(network)
    receipt = receipt.opened(body, response)
    again = response.replace(b'"created"', b'"created_"')
    assert again != response
    own = Recomputation(receipt.opening.header, tuple(response_parts(again)))
    assert judge(network, receipt, recomputation=own)["processing"].outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": (bytes(32),)}, "other inputs"),
        ({"program": bytes(32)}, "the program or its parameters"),
        (
            {"parameters": {"max_tokens": 1, "seed": 1, "temperature_m": 0, "temperature_s": 1}},
            "the program or its parameters",
        ),
        ({"steps": 2}, "ends at another place"),
        ({"finish": "text"}, "ends at another place"),
        ({"root": bytes(32)}, "its values differ"),
        ({"outputs": (bytes(32),)}, "its values differ"),
    ],
)
def test_a_run_that_differs(network, change, words):
    body, response, receipt = answered(network)
    header = Header.parse(receipt.opening.header)
    own = Header(**({name: getattr(header, name) for name in Header.__slots__} | change)).encoded()
    report = judge(network, receipt, recomputation=Recomputation(own, None))
    assert result(report, "recomputed") == (Outcome.FAIL, "wrong_run")
    assert words in report["recomputed"].detail
    assert report.verdict is Verdict.FAIL


def test_an_attestation_has_no_place(network):
    _, _, receipt = answered(network)
    assert judge(network, receipt)["attestation"].outcome is Outcome.SKIPPED
    for change in ({"attestation": b"x"}, {"registration_block": bytes(32)}):
        dressed = replace(receipt, evidence=replace(receipt.evidence, **change))
        assert result(judge(network, dressed), "attestation") == (Outcome.FAIL, "unexpected_attestation")


def test_the_verdict_of_each_outcome():
    """Only what is wrong refuses; what is not shown of bond and finality warns."""
    expected = {
        "trace": "pass warn fail pass",
        "audience": "pass warn fail pass",
        "bond": "pass warn fail warn",
        "processing": "pass warn fail pass",
        "recomputed": "pass warn fail pass",
        "finality": "pass warn fail warn",
    }
    order = (Outcome.PASS, Outcome.WARN, Outcome.FAIL, Outcome.SKIPPED)
    assert {name: " ".join(VERDICT[CheckName(name), outcome] for outcome in order) for name in expected} == expected
