"""The verifier against liars: every change of a receipt is refused, by the check that owns it, and never by a traceback."""

import copy
from dataclasses import replace
from functools import cache

import pytest

from avow.errors import AvowError, NotAReceipt, NotFound
from avow.methods import checks
from avow.receipt.encoding import Value, encode
from avow.receipt.finality import BatchState
from avow.receipt.receipt import Receipt
from avow.receipt.report import VERDICT, CheckName, Outcome, Report, Verdict
from avow.receipt.requester import sign_request
from avow.receipt.standing import KeyState
from avow.receipt.statement import Method, NonceSource, Statement, key_id, next_head, statement_payload
from avow.receipt.stream import stream_parts
from avow.receipt.verify import Question
from tests.simulator import CHAT, Simulator, point

MINUTE = 60_000
DAY = 24 * 3600 * 1000


class World:
    """One network with two settled, opened answers of different keys and batches."""

    def __init__(self, method: Method) -> None:
        self.network = network = Simulator(f"world {method.label}")
        if method is not Method.VANILLA:
            network.register(method)
        self.body = network.chat_body("hello there")
        self.response, plain = network.answer(CHAT, self.body, method, nonce=b"my nonce 1")
        [self.settled] = network.settle([plain])
        if method is Method.OPTIMISTIC:
            self.settled = network.finality(self.settled, state=BatchState.FINAL)
        self.receipt = self.settled.opened(self.body, self.response)
        network.register(method, generation=1)
        network.answer(CHAT, self.body, method)
        other_body = network.chat_body("good bye")
        response, other = network.answer(CHAT, other_body, method, nonce=b"my nonce 2")
        network.answer(CHAT, self.body, method)
        [other] = network.settle([other])
        self.other = other.opened(other_body, response)
        self.trust = network.trust()

    def report(self, receipt: Receipt, **question: object) -> Report:
        return checks.verify(receipt, self.trust, Question(self.network.now_ms, **question))


@cache
def world(method: Method = Method.VANILLA) -> World:
    return World(method)


METHODS = [Method.VANILLA, Method.OPTIMISTIC, Method.TEE]
OPTIMISTIC_ONLY = {"trace", "ends", "audience", "bond", "processing", "recomputed", "finality"}


@pytest.mark.parametrize("method", METHODS)
def test_the_honest_receipt(method):
    here = world(method)
    report = here.report(
        here.receipt,
        nonce=b"my nonce 1",
        request=here.body,
        response=here.response,
        require=("settled", "opened", "fresh"),
    )
    assert report.verdict is Verdict.WARN, report.checks  # one validator
    assert report["anchor"].outcome is Outcome.WARN
    assert report["settlement"].outcome is Outcome.PASS
    names = [name for name in CheckName if method is Method.OPTIMISTIC or name not in OPTIMISTIC_ONLY]
    assert [check.name for check in report.checks] == names


def accepts(here: World, data: bytes, *, json: bool = False) -> bool:
    try:
        receipt = Receipt.from_json(data) if json else Receipt.from_bytes(data)
        return here.report(receipt).ok
    except AvowError:
        return False


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_every_single_byte_counts(method):
    here = world(method)
    data = here.receipt.to_bytes()
    assert accepts(here, data)
    survivors = []
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        if accepts(here, bytes(changed)):
            survivors.append(at)
    assert survivors == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_every_truncation_and_extension(method):
    here = world(method)
    data = here.receipt.to_bytes()
    for length in range(len(data)):
        with pytest.raises(AvowError):
            Receipt.from_bytes(data[:length])
    for tail in (b"\0", b"\xf6", data):
        with pytest.raises(AvowError):
            Receipt.from_bytes(data + tail)


@pytest.mark.slow
def test_json_bytes_count_too():
    here = world()
    data = here.receipt.to_json()
    assert accepts(here, data, json=True)
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 7)
        assert not accepts(here, bytes(changed), json=True), at
    for changed in (data + b"\n", b" " + data, data.replace(b",", b", ", 1)):
        assert not accepts(here, changed, json=True)


def paths(value: Value, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return found
    for key, item in items:
        found += paths(item, (*path, key))
    return found


def at(value: Value, path: tuple) -> Value:
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize("method", METHODS)
def test_every_swapped_field_between_two_receipts(method):
    """Whatever is taken from one receipt into another is refused, or changes nothing."""
    here = world(method)
    mine, theirs = here.receipt.to_value(), here.other.to_value()
    swapped = 0
    for path in paths(mine):
        try:
            replacement = at(theirs, path)
        except (KeyError, IndexError, TypeError):
            continue
        if replacement == at(mine, path):
            continue
        forged = copy.deepcopy(mine)
        at(forged, path[:-1])[path[-1]] = replacement
        swapped += 1
        assert not accepts(here, encode(forged)), path
    assert swapped > 60


@pytest.mark.parametrize("method", METHODS)
def test_every_member_left_out(method):
    here = world(method)
    value = here.receipt.to_value()
    for path in paths(value):
        if isinstance(path[-1], int) or path in (
            ("settlement",),
            ("opening",),
            ("opening", "request"),
            ("opening", "response"),
            ("opening", "header"),
            ("evidence", "bond"),
            ("settlement", "finality"),
        ):
            continue
        forged = copy.deepcopy(value)
        del at(forged, path[:-1])[path[-1]]
        assert not accepts(here, encode(forged)), path


def outcome(report: Report) -> dict[str, str]:
    """The checks that failed, with their codes."""
    return {check.name.value: check.code for check in report.checks if check.outcome is Outcome.FAIL}


def resigned(
    network: Simulator, method: Method, receipt: Receipt, ended_ms: int | None = None, **private: object
) -> Receipt:
    """The same receipt with another end or other private fields, signed anew by the node: what a lying node can make."""
    columns = receipt.statement.columns
    columns = replace(columns, ended_ms=columns.ended_ms if ended_ms is None else ended_ms)
    statement = Statement(columns, replace(receipt.statement.private, **private))
    key = network.keys[method]
    digest = statement.hash()
    head = next_head(receipt.evidence.previous_head, digest)
    payload = statement_payload(statement.private.chain_id, key.id, statement.columns.number, digest, head)
    evidence = replace(receipt.evidence, signature=network.sign(key.signing, payload))
    return replace(receipt, statement=statement, evidence=evidence)


@pytest.fixture
def fresh():
    network = Simulator("fresh")
    body = network.chat_body("hi")
    response, receipt = network.answer(CHAT, body, nonce=b"nonce nonce")
    return network, body, response, receipt


def judge(network, receipt, trust=None, **question):
    question.setdefault("now_ms", network.now_ms)
    return checks.verify(receipt, trust or network.trust(), Question(**question))


def test_without_a_policy_nothing_is_anchored(fresh):
    network, _, _, receipt = fresh
    report = checks.verify(receipt, None, Question(network.now_ms))
    assert report.verdict is Verdict.UNANCHORED
    assert not report.ok
    assert report["signature"].outcome is Outcome.PASS


def test_wrong_chain(fresh):
    network, _, _, receipt = fresh
    report = judge(network, receipt, replace(network.trust(), chain_id="avow-0000000000000000"))
    assert outcome(report) == {"chain": "wrong_chain", "anchor": "wrong_chain"}


def test_replayed_nonce_and_who_chose_it(fresh):
    network, _, _, receipt = fresh
    assert outcome(judge(network, receipt, nonce=b"another nonce")) == {"freshness": "replayed"}
    assert judge(network, receipt, nonce=b"nonce nonce")["freshness"].outcome is Outcome.PASS
    chosen = resigned(network, Method.VANILLA, receipt, nonce_source=NonceSource.GATEWAY)
    assert judge(network, chosen)["freshness"].outcome is Outcome.WARN


def test_another_request_or_response(fresh):
    network, body, response, receipt = fresh
    assert judge(network, receipt)["request"].outcome is Outcome.SKIPPED
    assert judge(network, receipt, request=body, response=response)["response"].outcome is Outcome.PASS
    swapped = judge(network, receipt, request=body.replace(b"hi", b"ho"), response=response)
    assert outcome(swapped) == {"request": "commitment_mismatch"}
    swapped = judge(network, receipt, request=body, response=response + b"")
    assert swapped.ok
    lied = response.replace(b'"content": "', b'"content": "not ', 1)
    assert lied != response
    assert outcome(judge(network, receipt, response=lied)) == {"response": "commitment_mismatch"}
    assert outcome(judge(network, receipt, request=b"{")) == {"request": "malformed_json"}
    redacted = receipt.redacted()
    assert judge(network, redacted).ok
    assert outcome(judge(network, redacted, request=body, response=response)) == {
        "request": "no_opening",
        "response": "no_opening",
    }


def test_other_effective_parameters(fresh):
    network, _, _, receipt = fresh
    lied = replace(receipt, opening=replace(receipt.opening, effective=b'{"temperature":2}'))
    assert outcome(judge(network, lied)) == {"effective": "commitment_mismatch"}


def test_one_part_disclosed(fresh):
    network, body, response, receipt = fresh
    shown = receipt.opened(body, response).disclosing(
        ["request/messages/0", "response/choices/0/message/content", "effective"]
    )
    assert shown.opening is None
    report = judge(network, Receipt.from_bytes(shown.to_bytes()))
    assert report.ok
    assert "/messages/0" in report["request"].detail
    lied = replace(shown, disclosures=(replace(shown.disclosures[0], data=b"{}"), *shown.disclosures[1:]))
    assert outcome(judge(network, lied)) == {"request": "commitment_mismatch"}
    with pytest.raises(NotFound):
        receipt.opened(body, response).disclosing(["request/messages/9"])
    with pytest.raises(NotAReceipt):
        shown.disclosing(["effective"])


def test_times(fresh):
    network, _, _, receipt = fresh
    ended = receipt.statement.columns.ended_ms
    backwards = resigned(network, Method.VANILLA, receipt, started_ms=ended + 1)
    assert outcome(judge(network, backwards)) == {"statement": "wrong_time"}
    assert judge(network, receipt, now_ms=ended - MINUTE)["statement"].outcome is Outcome.PASS
    assert outcome(judge(network, receipt, now_ms=ended - MINUTE - 1)) == {"statement": "wrong_time"}


def test_a_key_that_is_not_the_one_registered(fresh):
    network, _, _, receipt = fresh
    stranger = network.private_key("stranger")
    statement = replace(receipt.statement, private=replace(receipt.statement.private, key=key_id(point(stranger))))
    digest = statement.hash()
    payload = statement_payload(
        statement.private.chain_id,
        statement.private.key,
        statement.columns.number,
        digest,
        next_head(receipt.evidence.previous_head, digest),
    )
    evidence = replace(receipt.evidence, signing_key=point(stranger), signature=network.sign(stranger, payload))
    forged = replace(receipt, statement=statement, evidence=evidence)
    report = judge(network, forged)
    assert report["signature"].outcome is Outcome.PASS
    assert outcome(report) == {"standing": "standing_mismatch"}
    assert outcome(judge(network, replace(receipt, evidence=evidence))) == {
        "statement": "wrong_key",
        "signature": "bad_signature",
        "standing": "wrong_key",
    }
    unproven = replace(receipt, evidence=replace(receipt.evidence, standing=None))
    assert judge(network, unproven).verdict is Verdict.UNANCHORED


def test_a_node_that_signs_as_another_operator_or_method(fresh):
    network, _, _, receipt = fresh
    other = resigned(network, Method.VANILLA, receipt, node=b"x" * 20)
    assert outcome(judge(network, other)) == {"standing": "wrong_operator"}
    crossed = replace(receipt, evidence=replace(receipt.evidence, method=Method.TEE))
    assert outcome(judge(network, crossed)) == {"statement": "wrong_method"}
    dressed = replace(
        receipt, statement=replace(receipt.statement, columns=replace(receipt.statement.columns, method=Method.TEE))
    )
    failed = outcome(judge(network, replace(dressed, evidence=replace(receipt.evidence, method=Method.TEE))))
    assert failed["standing"] == "wrong_method"
    assert failed["signature"] == "bad_signature"


@pytest.mark.parametrize("method", [Method.ZKML])
def test_methods_that_this_version_does_not_know(fresh, method):
    network, _, _, receipt = fresh
    columns = replace(receipt.statement.columns, method=method)
    strange = replace(
        receipt,
        statement=replace(receipt.statement, columns=columns),
        evidence=replace(receipt.evidence, method=method),
    )
    failed = outcome(judge(network, strange))
    assert failed["attestation"] == "unknown_method"
    assert failed["method"] == "method_not_accepted"


def with_record(network, receipt, **changes):
    """The receipt with the standing that the chain shows after the key's record has changed."""
    network.set_record(Method.VANILLA, replace(network.keys[Method.VANILLA].record, **changes))
    return replace(receipt, evidence=replace(receipt.evidence, standing=network.standing(Method.VANILLA)))


@pytest.mark.parametrize("state", [KeyState.REGISTERED, KeyState.DRAINING, KeyState.RETIRED, KeyState.REVOKED])
def test_a_key_that_is_not_active_needs_a_settlement(fresh, state):
    network, _, _, receipt = fresh
    [settled] = network.settle([receipt])
    assert outcome(judge(network, with_record(network, receipt, state=state))) == {"standing": "key_not_active"}
    assert judge(network, with_record(network, settled, state=state)).ok
    assert judge(network, settled).ok, "a later revocation leaves the earlier receipt what it was"


def test_an_expired_key(fresh):
    network, _, _, receipt = fresh
    ended = receipt.statement.columns.ended_ms
    assert judge(network, with_record(network, receipt, until_ms=ended)).ok
    assert outcome(judge(network, with_record(network, receipt, until_ms=ended - 1))) == {"standing": "key_expired"}


def test_a_compromised_key(fresh):
    network, _, _, receipt = fresh
    [settled] = network.settle([receipt])
    height = settled.settlement.height
    assert outcome(judge(network, with_record(network, receipt, compromised_from=height + 1))) == {
        "standing": "key_compromised"
    }
    assert judge(network, with_record(network, settled, compromised_from=height + 1)).ok
    assert outcome(judge(network, with_record(network, settled, compromised_from=height))) == {
        "standing": "key_compromised"
    }


def test_standing_that_is_too_old(fresh):
    network, _, _, receipt = fresh
    shown = receipt.evidence.standing.block.header.time_ns // 1_000_000
    trust = network.trust()
    limit = trust.max_standing_age_ms
    for late, code in ((limit, None), (limit + 1, "standing_too_old")):
        aged = resigned(network, Method.VANILLA, receipt, ended_ms=shown + late)
        report = judge(network, aged, now_ms=shown + late)
        assert outcome(report) == ({} if code is None else {"standing": code})
    [settled] = network.settle([resigned(network, Method.VANILLA, receipt)])
    network.now_ms += 2 * limit
    network.advance()
    later = replace(settled, evidence=replace(settled.evidence, standing=network.standing(Method.VANILLA)))
    assert judge(network, later).ok, "a settled receipt may show the key's standing later"
    unsettled = replace(later, settlement=None)
    assert outcome(judge(network, unsettled)) == {"standing": "standing_too_old"}


def test_the_trusting_period(fresh):
    network, _, _, receipt = fresh
    [settled] = network.settle([receipt])
    trust = network.trust()
    period = trust.trusting_period_ms
    assert judge(network, settled, now_ms=trust.time_ms + period).ok
    assert judge(network, settled, now_ms=trust.time_ms + period + 1).verdict is Verdict.UNANCHORED
    header_ms = receipt.evidence.standing.block.header.time_ns // 1_000_000
    for pin, beyond in ((header_ms - period, header_ms - period - 1), (header_ms + period, header_ms + period + 1)):
        now = max(pin, header_ms)
        assert judge(network, receipt, replace(trust, time_ms=pin), now_ms=now)["anchor"].outcome is Outcome.WARN
        assert judge(network, receipt, replace(trust, time_ms=beyond), now_ms=now).verdict is Verdict.UNANCHORED


def test_an_old_receipt_is_anchored_anew(fresh):
    network, _, _, receipt = fresh
    [settled] = network.settle([receipt])
    trust = network.trust()
    network.now_ms += 3 * trust.trusting_period_ms
    network.advance()
    now = replace(trust, time_ms=network.now_ms, height=len(network.blocks))
    assert judge(network, settled, now).verdict is Verdict.UNANCHORED
    half = network.refresh(settled)
    assert judge(network, half, now).verdict is Verdict.UNANCHORED
    whole = replace(half, evidence=replace(half.evidence, standing=network.standing(Method.VANILLA)))
    report = judge(network, whole, now)
    assert report["settlement"].outcome is Outcome.PASS
    assert report.ok


@pytest.mark.parametrize(("signers", "code"), [(6, None), (5, None), (4, "not_signed"), (0, "not_signed")])
def test_a_commit_at_exactly_two_thirds(signers, code):
    network = Simulator("six", validators=6)
    _, receipt = network.answer(CHAT, network.chat_body())
    [settled] = network.settle([receipt])
    for part in ("standing", "settlement"):
        owner = settled.evidence if part == "standing" else settled
        proof = getattr(owner, part)
        shown = replace(proof, block=network.sign_block(proof.block.header, signers=signers))
        forged = (
            replace(settled, settlement=shown)
            if part == "settlement"
            else replace(settled, evidence=replace(settled.evidence, standing=shown))
        )
        report = judge(network, forged)
        assert outcome(report) == ({} if code is None else {"anchor": code})
        if code is None:
            assert report["anchor"].outcome is Outcome.PASS


def test_validators_whom_the_reader_does_not_know(fresh):
    network, _, _, receipt = fresh
    stranger = Simulator("other validators")
    trust = replace(network.trust(), validators=stranger.validators)
    assert outcome(judge(network, receipt, trust)) == {"anchor": "not_signed"}


def test_a_wrong_header_and_a_forged_path(fresh):
    network, _, _, receipt = fresh
    [settled] = network.settle([receipt])
    proof = settled.settlement
    early = replace(settled, settlement=replace(proof, block=network.blocks[0]))
    assert outcome(judge(network, early)) == {"settlement": "not_settled"}
    for lie in (
        replace(proof, height=proof.height + 1),
        replace(proof, leaf=proof.leaf + 1),
        replace(proof, leaves=proof.leaves + 1),
        replace(proof, leaf_path=(bytes(32),)),
        replace(proof, void=5),
        replace(proof, anchor=replace(proof.anchor, index=1, total=2)),
        replace(proof, anchor=replace(proof.anchor, path=(bytes(32),))),
        replace(proof, anchor=replace(proof.anchor, result=replace(proof.anchor.result, code=1))),
        replace(proof, anchor=replace(proof.anchor, result=replace(proof.anchor.result, data=b"\xa0"))),
        replace(proof, anchor=replace(proof.anchor, result=replace(proof.anchor.result, gas_used=1))),
    ):
        report = judge(network, replace(settled, settlement=lie))
        assert set(outcome(report)) == {"settlement"}, lie


def test_a_settlement_by_another_contract_or_a_failed_one(fresh):
    """The result's data is compared whole: who was called and how it ended counts, even when validators signed it."""
    network, _, _, receipt = fresh
    [settled] = network.settle([receipt])
    honest = settled.settlement.anchor.result
    for code, data in (
        (1, honest.data),
        (0, encode({"to": bytes(20), "output": honest.data[-128:]})),
        (0, encode({"to": bytes.fromhex("0000000000000000000000000000000000000a04"), "output": b""})),
        (0, b"not cbor"),
    ):
        result = replace(honest, code=code, data=data)
        height = network.advance([result]).header.height
        block = network.advance()
        anchor = replace(settled.settlement.anchor, result=result, index=0, total=1, path=())
        forged = replace(settled, settlement=replace(settled.settlement, anchor=anchor, height=height, block=block))
        assert set(outcome(judge(network, forged))) == {"settlement"}


def test_a_void_statement_is_not_settled():
    network = Simulator("void")
    _, receipt = network.answer(CHAT, network.chat_body())
    [settled] = network.settle([receipt], voids={receipt.statement.hash(): 4})
    assert outcome(judge(network, settled)) == {"settlement": "void"}
    hidden = replace(settled, settlement=replace(settled.settlement, void=0))
    assert outcome(judge(network, hidden)) == {"settlement": "not_settled"}


def test_the_history_anchor(fresh):
    network, _, _, receipt = fresh
    [settled] = network.settle([receipt])
    _, second = network.answer(CHAT, network.chat_body("second"))
    network.settle([second])
    refreshed = network.refresh(settled)
    assert judge(network, refreshed).ok
    proof = refreshed.settlement
    for lie in (
        replace(proof, height=proof.height + 1),
        replace(proof, anchor=replace(proof.anchor, index=proof.anchor.index + 1)),
        replace(proof, anchor=replace(proof.anchor, first=proof.anchor.first + 1)),
        replace(proof, anchor=replace(proof.anchor, root=bytes(32))),
        replace(proof, anchor=replace(proof.anchor, state_root=bytes(32))),
        replace(proof, block=network.blocks[0]),
        replace(proof, height=proof.block.header.height),
    ):
        assert set(outcome(judge(network, replace(refreshed, settlement=lie)))) == {"settlement"}, lie


def test_the_requester(fresh):
    network, body, _, _ = fresh
    seed, nonce = b"s" * 32, b"nonce nonce"
    from avow.receipt.commitment import commit, request_parts

    request = commit("request", seed, request_parts(CHAT, body))
    requester = sign_request(b"\x01" * 32, network.chain_id, request, "vanilla", nonce)
    _, receipt = network.answer(CHAT, body, nonce=nonce, seed=seed, requester=requester)
    assert judge(network, receipt)["requester"].outcome is Outcome.PASS
    other = sign_request(b"\x02" * 32, network.chain_id, request, "vanilla", nonce)
    elsewhere = sign_request(b"\x01" * 32, network.chain_id, request, "tee", nonce)
    for signature in (other.signature, elsewhere.signature, b"\0" * 65, None):
        forged = replace(receipt, evidence=replace(receipt.evidence, requester_signature=signature))
        assert outcome(judge(network, forged)) == {"requester": "bad_requester"}
    _, plain = network.answer(CHAT, body, nonce=nonce, seed=seed)
    stray = replace(plain, evidence=replace(plain.evidence, requester_signature=requester.signature))
    assert outcome(judge(network, stray)) == {"requester": "bad_requester"}


def test_a_relay_says_so(fresh):
    network, _, _, receipt = fresh
    engine = replace(receipt.statement.private.engine, name="remote")
    report = judge(network, resigned(network, Method.VANILLA, receipt, engine=engine))
    assert report["engine"].outcome is Outcome.WARN
    assert any("upstream" in line for line in report.not_proven)


def test_programs_and_methods_of_the_policy(fresh):
    network, _, _, receipt = fresh
    trust = network.trust()
    program = receipt.statement.columns.program
    assert judge(network, receipt, replace(trust, programs=(program,))).ok
    assert outcome(judge(network, receipt, replace(trust, programs=(bytes(32),)))) == {"program": "wrong_program"}
    assert outcome(judge(network, receipt, replace(trust, methods=(Method.TEE,)))) == {"method": "method_not_accepted"}


def test_streams_whole_and_cut():
    network = Simulator("streams")
    body = network.chat_body("hi", stream=True)
    streamed = network.stream(body)
    chunks = [event.data for event in streamed.events]
    private = streamed.receipt.statement.private
    parts = stream_parts(chunks, private.stream.head)
    shown = streamed.receipt.opened(body, parts)
    assert judge(network, shown)["stream"].outcome is Outcome.PASS
    assert judge(network, streamed.receipt, response=parts)["response"].outcome is Outcome.PASS
    cut = resigned(network, Method.VANILLA, shown, complete=False)
    assert judge(network, cut)["stream"].outcome is Outcome.WARN
    assert set(outcome(judge(network, cut, require=("complete",)))) == {"required"}
    lied = resigned(network, Method.VANILLA, shown, stream=replace(private.stream, chunks=private.stream.chunks + 1))
    assert outcome(judge(network, lied)) == {"stream": "wrong_stream"}
    fewer = stream_parts(chunks[:-1], private.stream.head)
    assert outcome(judge(network, streamed.receipt, response=fewer)) == {"response": "commitment_mismatch"}


def tee():
    here = world(Method.TEE)
    return here, here.receipt


def test_a_development_enclave_is_said_to_be_one():
    here, receipt = tee()
    report = here.report(receipt)
    assert report["attestation"].outcome is Outcome.WARN
    assert "not hardware" in report["attestation"].detail
    assert outcome(here.report(receipt, require=("tee",))) == {"required": "not_met"}
    assert any("hardware" in line for line in report.not_proven)


def test_an_attestation_without_a_policy_or_without_a_registered_key_proves_nothing():
    here, receipt = tee()
    report = checks.verify(receipt, None, Question(here.network.now_ms))
    assert report["attestation"].outcome is Outcome.SKIPPED
    assert report.verdict is Verdict.UNANCHORED
    unproven = replace(receipt, evidence=replace(receipt.evidence, standing=None))
    assert outcome(here.report(unproven)) == {"attestation": "no_record"}


def test_attestation_of_another_key_or_registration():
    here, receipt = tee()
    other = here.other.evidence
    for evidence in (
        replace(receipt.evidence, attestation=other.attestation),
        replace(receipt.evidence, attestation=other.attestation, registration_block=other.registration_block),
    ):
        assert outcome(here.report(replace(receipt, evidence=evidence))) == {"attestation": "wrong_key"}
    moved = replace(receipt, evidence=replace(receipt.evidence, registration_block=bytes(32)))
    assert outcome(here.report(moved)) == {"attestation": "wrong_registration"}
    for evidence in (replace(receipt.evidence, attestation=None), replace(receipt.evidence, registration_block=None)):
        assert outcome(here.report(replace(receipt, evidence=evidence))) == {"attestation": "no_attestation"}


def test_attestation_roots_and_measurements_are_the_readers():
    here, receipt = tee()
    trust = here.trust
    roots = trust.attestation_roots
    question = Question(here.network.now_ms)
    assert outcome(checks.verify(receipt, replace(trust, attestation_roots=()), question)) == {
        "attestation": "untrusted_root"
    }
    strange = Simulator("stranger")
    strange.register(Method.TEE)
    other = checks.verify(receipt, replace(trust, attestation_roots=strange.trust().attestation_roots), question)
    assert set(outcome(other)) == {"attestation"}
    measurement = here.network.keys[Method.TEE].record.measurement
    assert checks.verify(receipt, replace(trust, measurements=(measurement,)), question).ok or measurement is None
    pinned = checks.verify(receipt, replace(trust, measurements=(bytes(32),)), question)
    assert outcome(pinned) == {"attestation": "wrong_measurement"}
    named = tuple(replace(root, kind="nitro", name="a vendor") for root in roots)
    assert (
        checks.verify(receipt, replace(trust, attestation_roots=named), question)["attestation"].outcome is Outcome.PASS
    )


def test_an_attestation_that_the_chain_did_not_register():
    network = Simulator("unregistered")
    network.register(Method.TEE)
    _, receipt = network.answer(CHAT, network.chat_body(), Method.TEE)
    for field in ("attestation", "measurement"):
        network.set_record(Method.TEE, replace(network.keys[Method.TEE].record, **{field: b"x" * 32}))
        shown = replace(receipt, evidence=replace(receipt.evidence, standing=network.standing(Method.TEE)))
        assert outcome(judge(network, shown)) in (
            {"attestation": "wrong_registration"},
            {"attestation": "wrong_measurement"},
        )
        network.register(Method.TEE, generation=7)
        _, receipt = network.answer(CHAT, network.chat_body(), Method.TEE)


def test_a_key_attested_again_leaves_its_settled_receipts_what_they_were():
    network = Simulator("attested again")
    network.register(Method.TEE)
    _, receipt = network.answer(CHAT, network.chat_body(), Method.TEE)
    [settled] = network.settle([receipt])
    network.set_record(Method.TEE, replace(network.keys[Method.TEE].record, attestation=b"x" * 32))
    later = network.standing(Method.TEE)
    shown = [replace(item, evidence=replace(item.evidence, standing=later)) for item in (settled, receipt)]
    assert judge(network, shown[0]).ok
    assert outcome(judge(network, shown[1])) == {"attestation": "wrong_registration"}
    at_the_end = resigned(network, Method.TEE, settled, ended_ms=later.block.header.time_ns // 1_000_000)
    shown_then = replace(at_the_end, evidence=replace(at_the_end.evidence, standing=later))
    assert outcome(judge(network, shown_then))["attestation"] == "wrong_registration"


def test_an_attestation_after_its_certificates():
    here, receipt = tee()
    late = resigned(here.network, Method.TEE, receipt, ended_ms=receipt.statement.columns.ended_ms + 30 * DAY)
    report = checks.verify(late, here.trust, Question(here.network.now_ms + 30 * DAY))
    assert (
        report["attestation"].code == "attestation_certificate_expired" or report["attestation"].outcome is Outcome.FAIL
    )


def test_a_vanilla_receipt_carries_no_attestation(fresh):
    network, _, _, receipt = fresh
    for change in ({"attestation": b"x"}, {"registration_block": bytes(32)}):
        dressed = replace(receipt, evidence=replace(receipt.evidence, **change))
        assert outcome(judge(network, dressed)) == {"attestation": "unexpected_attestation"}


@pytest.mark.parametrize(
    ("demand", "met"),
    [("settled", False), ("opened", False), ("fresh", True), ("anchored", True), ("vanilla", True), ("tee", False), ("optimistic", False),
     ("zkml", False), ("signature", True), ("requester", False), ("complete", True), ("no such thing", False)],
)  # fmt: skip
def test_demands(fresh, demand, met):
    network, _, _, receipt = fresh
    report = judge(network, receipt, require=(demand,))
    assert outcome(report) == ({} if met else {"required": "not_met"})
    assert report.ok is met


def test_the_verdict_table_is_complete_and_never_lenient():
    assert set(VERDICT) == {(name, kind) for name in CheckName for kind in Outcome}
    for (name, kind), verdict in VERDICT.items():
        if kind is Outcome.FAIL:
            assert verdict is Verdict.FAIL
        if kind is Outcome.WARN:
            assert verdict is Verdict.WARN
        if kind is Outcome.SKIPPED and name in ("statement", "signature"):
            assert verdict is Verdict.FAIL
        if kind is Outcome.SKIPPED and name in ("chain", "anchor", "standing", "method"):
            assert verdict is Verdict.UNANCHORED


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"{", b"\xa0", b"\x00", b"[]", b'{"statement":1,"evidence":2,"version":1}', b'{"a":1}', b"\xff" * 40],
)
def test_what_is_not_a_receipt(data):
    with pytest.raises(AvowError):
        Receipt.load(data)


def test_versions_are_refused_by_name(fresh):
    _, _, _, receipt = fresh
    value = receipt.to_value() | {"version": 2}
    with pytest.raises(NotAReceipt, match="version 2"):
        Receipt.from_value(value)
    with pytest.raises(AvowError):
        Receipt.from_value(receipt.to_value() | {"disclosures": []})
