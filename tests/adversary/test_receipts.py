"""Receipts made to deceive: by an outsider who edits files, a gateway who adds to them, a node whose key is genuine, a lone validator."""

import json
from dataclasses import replace

import pytest

from avow.errors import AvowError, TooLarge
from avow.methods import checks
from avow.receipt import encoding, light
from avow.receipt.commitment import commit, disclose, request_parts, response_parts
from avow.receipt.encoding import encode, from_json, to_json
from avow.receipt.partial import PartialReceipt, verify_partial
from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName, Outcome, Report, Verdict
from avow.receipt.standing import KeyState
from avow.receipt.statement import EngineIdentity, Method, Statement, StreamEnd, next_head, statement_payload
from avow.receipt.stream import MalformedChunk, assemble, stream_parts
from avow.receipt.trust import BadPolicy, TrustPolicy
from avow.receipt.verify import FUTURE_MS, Question
from tests.simulator import CHAT, Simulator

HOUR = 3_600_000


@pytest.fixture
def world():
    network = Simulator("adversary")
    body = network.chat_body("hi")
    response, receipt = network.answer(CHAT, body, nonce=b"nonce nonce")
    return network, body, response, receipt


def judge(network: Simulator, receipt: Receipt, trust: TrustPolicy | None = None, **question: object) -> Report:
    question.setdefault("now_ms", network.now_ms)
    return checks.verify(receipt, trust or network.trust(), Question(**question))


def failed(report: Report) -> dict[str, str]:
    return {check.name.value: check.code for check in report.checks if check.outcome is Outcome.FAIL}


def resigned(network: Simulator, receipt: Receipt, ended_ms: int | None = None, **private: object) -> Receipt:
    """What a lying node can make: another end, other private fields under a genuine signature."""
    key = network.keys[receipt.statement.columns.method]
    columns = receipt.statement.columns
    columns = replace(columns, ended_ms=columns.ended_ms if ended_ms is None else ended_ms)
    statement = Statement(columns, replace(receipt.statement.private, **private))
    head = next_head(receipt.evidence.previous_head, statement.hash())
    payload = statement_payload(network.chain_id, key.id, statement.columns.number, statement.hash(), head)
    evidence = replace(receipt.evidence, signature=network.sign(key.signing, payload))
    return replace(receipt, statement=statement, evidence=evidence)


# --- The forged file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["request", "effective", "response"])
def test_a_forged_disclosure_rides_beside_an_opening(world, kind):
    """A viewer shows disclosures: an opening that holds must not excuse one that does not."""
    network, body, response, receipt = world
    opened = receipt.opened(body, response)
    names = {
        "request": "request/messages/0",
        "effective": "effective",
        "response": "response/choices/0/message/content",
    }
    [honest] = opened.disclosing([names[kind]]).disclosures
    beside = replace(opened, disclosures=(honest,))
    assert judge(network, beside).ok
    lied = replace(beside, disclosures=(replace(honest, data=b'"what was never said"'),))
    assert failed(judge(network, Receipt.from_bytes(lied.to_bytes()))) == {kind: "commitment_mismatch"}


def test_a_disclosure_under_another_name_or_kind(world):
    network, body, response, receipt = world
    shown = receipt.opened(body, response).disclosing(["response/choices/0/message/content"])
    [part] = shown.disclosures
    for lie in (
        replace(part, name="/choices/0/message/refusal"),
        replace(part, name=part.name + " "),
        replace(part, kind="request"),
        replace(part, index=part.index + 1),
        replace(part, count=part.count + 1),
        replace(part, salt=bytes(16)),
        replace(part, name=part.name + "/" + part.data[:1].decode(), data=part.data[1:]),
    ):
        assert not judge(network, replace(shown, disclosures=(lie,))).ok, lie


def test_two_parts_under_one_name(world):
    """A node that commits to both "yes" and "no" under one name cannot show either to each of two readers, nor both to one."""
    network, _, _, receipt = world
    seed, name = receipt.opening.seed, "/choices/0/message/content"
    parts = [(name, b'"yes"'), (name, b'"no"')]
    two_faced = resigned(network, receipt, response=commit("response", seed, parts))
    whole = replace(two_faced, opening=replace(two_faced.opening, response=tuple(parts)))
    assert failed(judge(network, whole)) == {"response": "ambiguous_parts"}
    shown = tuple(disclose("response", seed, parts, index) for index in (0, 1))
    assert failed(judge(network, replace(two_faced, opening=None, disclosures=shown))) == {
        "response": "commitment_mismatch"
    }


def test_an_endpoint_without_its_request_is_said_to_be_unproven(world):
    network, body, _, receipt = world
    lied = replace(receipt, opening=replace(receipt.opening, endpoint="POST /v1/another"))
    report = judge(network, lied)
    assert report["request"].outcome is Outcome.SKIPPED
    assert "endpoint" in report["request"].detail
    assert failed(judge(network, lied, request=body)) == {"request": "commitment_mismatch"}


def test_texts_of_a_receipt_do_not_reach_the_terminal_raw(world):
    network, _, _, receipt = world
    engine = EngineIdentity("x\x1b[2J\x1b[H", "1\nverdict: pass\u202e\u200b", "")
    report = judge(network, resigned(network, receipt, engine=engine))
    for check in report.checks:
        assert check.detail.isprintable(), check
    assert "\\x1b[2J" in report["engine"].detail
    assert Check(CheckName.CHAIN, Outcome.PASS, "⅔ of … é").detail == "⅔ of … é"
    stranger = resigned(network, receipt, chain_id="avow\r\x1b]0;pass\x07")
    assert all(check.detail.isprintable() for check in judge(network, stranger).checks)


@pytest.mark.parametrize(
    "text", ["int", "hex", "b64", "utf8", "text", "int:", "text:hex", "hex:00", "utf8:", "😀", "￿"]
)
def test_every_text_survives_the_json_form(world, text):
    network, _, _, receipt = world
    named = resigned(network, receipt, engine=EngineIdentity(text, "1", ""), usage=((text, 1),))
    assert Receipt.load(named.to_json()) == named


def test_names_are_ordered_as_rfc_8785_orders_them():
    """By UTF-16 code units: U+1F600 (d83d…) stands before U+FB33, against the order of code points."""
    data = '{"\\r":1,"1":2,"\u0080":3,"ö":4,"€":5,"😀":6,"\ufb33":7}'.encode()
    assert to_json({"\r": 1, "1": 2, "\u0080": 3, "ö": 4, "€": 5, "\ufb33": 7, "😀": 6}) == data
    from_json(data)


# --- The lone validator ---------------------------------------------------------------------------------------------


def sybil(network: Simulator, block: light.SignedBlock, puppets: int) -> light.SignedBlock:
    """The block again, with a set of the pinned validator and puppets of its own, who all sign."""
    crowd = Simulator("puppets", validators=puppets)
    crowd._validators = [*network._validators, *crowd._validators]
    crowd._validators.sort(key=lambda key: light.validator_address(key.public_key().public_bytes_raw()))
    crowd.validators = tuple(light.Validator(key.public_key().public_bytes_raw(), 10) for key in crowd._validators)
    return crowd.sign_block(replace(block.header, validators_hash=light.validators_hash(crowd.validators)))


def test_one_validator_does_not_become_many_by_its_own_word(world):
    network, _, _, receipt = world
    standing = receipt.evidence.standing
    crowded = replace(standing, block=sybil(network, standing.block, 20))
    report = judge(network, replace(receipt, evidence=replace(receipt.evidence, standing=crowded)))
    assert report["anchor"].outcome is Outcome.WARN
    assert "alone" in report["anchor"].detail


@pytest.mark.parametrize(
    ("powers", "fewest"), [((10,), 1), ((10, 10), 1), ((10, 10, 10), 2), ((10,) * 4, 2), ((10,) * 6, 3), ((100, 1, 1, 1), 1)]
)  # fmt: skip
def test_how_many_it_takes_to_forge(world, powers, fewest):
    network = world[0]
    validators = tuple(light.Validator(bytes([place]) * 32, power) for place, power in enumerate(powers))
    assert replace(network.trust(), validators=validators).fewest_to_forge == fewest


def test_a_crowd_of_strangers_costs_little(world, monkeypatch):
    """Before anyone's signature is looked at, some of them must be by validators that the reader knows."""
    network, _, _, receipt = world
    crowd = Simulator("strangers", validators=200)
    standing = receipt.evidence.standing
    header = replace(standing.block.header, validators_hash=light.validators_hash(crowd.validators))
    forged = replace(standing, block=crowd.sign_block(header))
    shown = replace(receipt, evidence=replace(receipt.evidence, standing=forged))
    monkeypatch.setattr(light, "verify_commit", lambda *_: pytest.fail("their signatures were checked"))
    report = judge(network, shown)
    assert failed(report) == {"anchor": "not_signed"}


def test_nothing_passes_on_a_block_that_is_not_anchored(world):
    network, _, _, receipt = world
    [settled] = network.settle([receipt])
    trust = network.trust()
    late = judge(network, settled, now_ms=trust.time_ms + trust.trusting_period_ms + 1)
    stranger = judge(network, settled, replace(trust, validators=Simulator("stranger").validators))
    unpinned = checks.verify(settled, None, Question(network.now_ms))
    for report in (late, stranger, unpinned):
        assert not report.ok
        for name in ("anchor", "standing", "settlement"):
            assert report[name].outcome is not Outcome.PASS
        assert any("not shown to be settled" in line for line in report.not_proven)


def test_one_good_block_does_not_cover_for_another(world):
    network, _, _, receipt = world
    [settled] = network.settle([receipt])
    header = replace(settled.settlement.block.header, height=99)
    unsigned = replace(settled.settlement.block, header=header)
    assert "anchor" in failed(judge(network, replace(settled, settlement=replace(settled.settlement, block=unsigned))))


# --- The node's own clock -------------------------------------------------------------------------------------------


def test_a_revoked_key_signs_for_the_time_before(world):
    """Its fresh signature over the caller's fresh nonce, dated back to when it still stood, is not an answer of now."""
    network, _, _, receipt = world
    network.set_record(Method.VANILLA, replace(network.keys[Method.VANILLA].record, state=KeyState.REVOKED))
    network.now_ms += HOUR
    backdated = resigned(network, receipt, nonce=b"sent an hour later")
    assert failed(judge(network, backdated, answered_now=True)) == {"standing": "standing_too_old"}
    later = judge(network, backdated)
    assert later.verdict is Verdict.WARN
    assert any("its time is the node's word" in line for line in later.not_proven)


def test_an_answer_of_now_stands_up_to_the_limit(world):
    network, _, _, receipt = world
    shown = receipt.evidence.standing.block.header.time_ns // 1_000_000
    limit = network.trust().max_standing_age_ms
    assert judge(network, receipt, now_ms=shown + limit, answered_now=True).ok
    assert not judge(network, receipt, now_ms=shown + limit + 1, answered_now=True).ok
    assert judge(network, receipt, now_ms=shown + limit + 1).ok


def test_a_statement_from_before_its_key_was_registered(world):
    """A settled one may show its standing later, so age alone does not bound how far back a node dates it."""
    network, _, _, receipt = world
    begun = network.keys[Method.VANILLA].record.from_ms
    for early, code in ((begun - FUTURE_MS, None), (begun - FUTURE_MS - 1, "key_not_yet_registered")):
        dated = resigned(network, receipt, started_ms=early, ended_ms=early)
        assert failed(judge(network, dated)) == ({} if code is None else {"standing": code})


def test_a_statement_from_after_its_settlement(world):
    network, _, _, receipt = world
    key = network.keys[Method.VANILLA]
    for ahead, code in ((0, None), (1, "wrong_time")):
        ended = network.now_ms + 2_000 + FUTURE_MS + ahead
        dated = resigned(network, receipt, ended_ms=ended)
        key.statements[-1] = dated.statement.hash()
        key.settled = 0
        [settled] = network.settle([dated])
        shown = settled.settlement.block.header.time_ns // 1_000_000
        assert ended - shown == FUTURE_MS + ahead
        assert failed(judge(network, settled, now_ms=ended)) == ({} if code is None else {"settlement": code})


# --- Streams --------------------------------------------------------------------------------------------------------


def test_a_stream_without_its_end_and_an_end_without_a_stream(world):
    network, body, response, receipt = world
    seed = receipt.opening.seed
    parts = tuple(response_parts(response))
    claimed = resigned(network, receipt.opened(body, response), stream=StreamEnd(b"h" * 32, 9))
    assert failed(judge(network, claimed)) == {"stream": "wrong_stream"}
    more = (*parts, ("stream", b"h" * 32 + (9).to_bytes(8)))
    extra = resigned(network, receipt, response=commit("response", seed, more))
    shown = replace(extra, opening=replace(extra.opening, response=more))
    assert failed(judge(network, shown)) == {"stream": "wrong_stream"}


@pytest.mark.parametrize(
    "chunk",
    [
        b'{"usage":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"created":' + b"9" * 5_000 + b"}",
        b'{"created":1e999}',
        b'{"id":"\\ud800"}',
        b'{"choices":{"a":1}}',
        b'{"choices":[{"index":true}]}',
        b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":5}]}}]}',
        b"\xff",
    ],
)
def test_hostile_chunks_are_refused_by_name(chunk):
    with pytest.raises(MalformedChunk):
        assemble([chunk])
    with pytest.raises(MalformedChunk):
        assemble([b'{"id":"x"}', chunk])


@pytest.mark.parametrize("method", [Method.VANILLA, Method.TEE])
def test_a_broken_stream_is_no_enclaves_word(method):
    """No attestation is shown with it: a demand for tee is never met, and a demand for vanilla needs an anchored key."""
    network = Simulator("partial adversary")
    network.register(Method.TEE)
    body = network.chat_body("hi", stream=True)
    streamed = network.stream(body, method)
    private, evidence = streamed.receipt.statement.private, streamed.receipt.evidence
    last = streamed.events[-1]
    partial = PartialReceipt(
        chain_id=network.chain_id, request=private.request, effective=private.effective, chunks=last.count,
        head=private.stream.head, method=method, signature=last.head, signing_key=evidence.signing_key, standing=evidence.standing,
    )  # fmt: skip
    report = verify_partial(partial, network.trust(), now_ms=network.now_ms, require=(method.label,))
    assert report.ok is (method is Method.VANILLA)
    assert not verify_partial(partial, None, now_ms=network.now_ms, require=(method.label,)).ok


# --- Bodies and files that cost -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b'{"a":1,"\\u0061":2}', b'{"messages":[{"a":1,"a":2}]}', b'{"x":NaN}', b'{"x":' + b"9" * 5_000 + b"}",
     b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"\\ud800":1}', b"\xef\xbb\xbf{}", b"[]", b"{}{}", b'{"a":"\x00"}'],
    ids=range(10),
)  # fmt: skip
def test_bodies_that_two_parsers_may_read_differently(body):
    for parts in (response_parts, lambda data: request_parts(CHAT, data)):
        with pytest.raises(AvowError):
            parts(body)


def test_names_cannot_imitate_cut_points():
    """No body's member is named like another's element, the endpoint, or the stream's end."""
    bodies = [
        b'{"messages":[1]}', b'{"messages":["[1]"]}', b'{"messages":{"0":1}}', b'{"messages/0":1}', b'{"messages":[[1]]}',
        b'{"messages":[],"messages/0":1}', b'{"":1}', b'{"endpoint":"x"}', b'{"messages~10":1}', b'{"messages":[1,2]}',
    ]  # fmt: skip
    assert len({commit("request", bytes(32), request_parts(CHAT, body)) for body in bodies}) == len(bodies)
    assert dict(request_parts(CHAT, b'{"endpoint":"x"}'))["endpoint"] == CHAT.encode()
    assert "stream" not in dict(response_parts(b'{"stream":"x"}'))


@pytest.mark.parametrize("unit", [b"{},", b"0,", b'"",', b"[],", b'"int:1",'])
def test_json_with_too_many_items_is_refused_before_it_is_parsed(unit, monkeypatch):
    data = b'{"a":[' + unit * ((4 << 20) // len(unit)) + b"0]}"
    monkeypatch.setattr(encoding.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(TooLarge):
        Receipt.load(data)


def test_what_looks_like_items_inside_a_text_is_none():
    for text in ('[{,"\\' * 100_000, '\\"' * 200_000, "{}[],:" * 100_000):
        value = {"a": text, "b": [[], {}, [1, {"c": 'x"'}]]}
        assert from_json(to_json(value)) == value
        assert len(encode(value)) < len(to_json(value))


def test_a_kind_of_root_that_nobody_knows_is_not_hardware():
    network = Simulator("kinds")
    network.register(Method.TEE)
    view = json.loads(network.trust().to_json())
    assert TrustPolicy.from_json(json.dumps(view).encode()) == network.trust()
    for kind in ("", "Development", "hardware", ["nitro"], None, 1):
        view["attestation_roots"][0]["kind"] = kind
        with pytest.raises(BadPolicy):
            TrustPolicy.from_json(json.dumps(view).encode())


def test_another_streams_parts_do_not_fit():
    network = Simulator("streams apart")
    bodies = [network.chat_body(text, stream=True) for text in ("one", "two")]
    one, two = (network.stream(body) for body in bodies)
    chunks = [event.data for event in two.events]
    parts = stream_parts(chunks, two.receipt.statement.private.stream.head)
    assert "response" in failed(judge(network, one.receipt, response=parts))
    assert failed(judge(network, one.receipt.opened(bodies[0], parts))).keys() == {"response", "stream"}
