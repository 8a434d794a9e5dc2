"""A gateway between an honest node and the caller that lies: each lie is refused by the check that owns it, with a type of its own,
and nothing of the answer is returned; of a stream, nothing beyond what was authenticated."""

import json
from dataclasses import replace

import openai
import pytest

import avow
from avow.client.check import take_apart
from avow.client.errors import (
    AnswerRefused,
    ChunkNotAuthentic,
    HeadNotAuthentic,
    Incomplete,
    MalformedStream,
    MethodMismatch,
    NonceMismatch,
    NoReceipt,
    OpeningMismatch,
    ProgramMismatch,
    ReceiptRefused,
    RequesterMismatch,
    RequestMismatch,
    ResponseMismatch,
    StreamCut,
    StreamMismatch,
)
from avow.receipt.encoding import encode
from avow.receipt.report import Outcome, Verdict
from avow.receipt.requester import sign_request
from avow.receipt.standing import KeyState
from avow.receipt.statement import Method, Statement
from tests.simulated_gateway import DONE, SimulatedGateway, begin_part, event_parts, honest_events, receipt_part, splice
from tests.simulator import CHAT, Simulator, point

KEY = b"\x05" * 32


@pytest.fixture
def network():
    network = Simulator()
    network.register(Method.TEE)
    return network


def ask(network, gateway, home, *, stream=False, **more):
    """What a caller gets: the text, or the pieces of the stream that were yielded."""
    settings = {name: more.pop(name) for name in ("programs", "key", "require") if name in more}
    with avow.Client(
        gateway.url, trust=network.trust(), home=home, clock_ms=lambda: network.now_ms, **settings
    ) as client:
        if not stream:
            return client.chat("hello", model="echo", **more).text
        pieces = []
        try:
            with client.stream("hello there my friend", model="echo", **more) as answer:
                pieces.extend(chunk.text for chunk in answer)
        except AnswerRefused as error:
            error.pieces = pieces
            raise
        return pieces


def refused(kind, network, home, *, code=None, stream=False, match=None, with_=None, **lies):
    """The error that a lie raises; nothing is returned."""
    with SimulatedGateway(network, **lies) as gateway, pytest.raises(AnswerRefused, match=match) as raised:
        ask(network, gateway, home, stream=stream, **(with_ or {}))
    assert type(raised.value) is kind, raised.value
    if code is not None:
        assert raised.value.fields.get("check") == code
    return raised.value


# --- answers in one piece -------------------------------------------------------------------------------------------


def test_a_swapped_body(network, tmp_path):
    def lie(body, receipt):
        return splice(body.replace(b"You said", b"I say"), receipt)

    refused(ResponseMismatch, network, tmp_path, answer=lie)


@pytest.mark.parametrize("member", ["usage", "id", "created", "model"])
def test_a_changed_member_of_the_body(network, tmp_path, member):
    def lie(body, receipt):
        value = json.loads(body)
        value[member] = {"prompt_tokens": 1} if member == "usage" else 17
        return splice(json.dumps(value).encode(), receipt)

    refused(ResponseMismatch, network, tmp_path, answer=lie)


def test_a_member_added_or_left_out(network, tmp_path):
    refused(
        ResponseMismatch, network, tmp_path, answer=lambda body, receipt: splice(body[:-1] + b',"more":1}', receipt)
    )
    refused(
        ResponseMismatch,
        network,
        tmp_path,
        answer=lambda body, receipt: splice(body.replace(b'"usage"', b'"usages"'), receipt),
    )


def test_a_name_that_occurs_twice(network, tmp_path):
    def lie(body, receipt):
        return splice(body[:-1] + b',"choices":[{"index":0,"message":{"role":"assistant","content":"lie"}}]}', receipt)

    error = refused(ResponseMismatch, network, tmp_path, answer=lie)
    assert "twice" in error.detail


def test_the_receipt_is_not_the_last_member(network, tmp_path):
    refused(NoReceipt, network, tmp_path, answer=lambda body, receipt: splice(body, receipt)[:-1] + b',"choices":[]}')
    refused(NoReceipt, network, tmp_path, answer=lambda body, receipt: splice(body, receipt)[:-1] + b" }")


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b"[]",
        b"",
        b"null",
        b"\xff\xfe",
        b'{"avow":7}',
        b'{"a":1,"avow":{"receipt":7}}',
        b'{"a":1,"avow":{"receipt":"?"}}',
        b'{"a":1,"avow":{"receipt":"oA"}}',
    ],
)
def test_no_receipt_at_all(network, tmp_path, answer):
    refused(NoReceipt, network, tmp_path, answer=lambda body, receipt: answer)


def test_a_swapped_opening(network, tmp_path):
    other = bytes(range(32))

    def seed(body, receipt):
        return splice(body, replace(receipt, opening=replace(receipt.opening, seed=other)))

    def effective(body, receipt):
        return splice(body, replace(receipt, opening=replace(receipt.opening, effective=b'{"temperature":2}')))

    def endpoint(body, receipt):
        return splice(body, replace(receipt, opening=replace(receipt.opening, endpoint="POST /v1/completions")))

    for lie in (seed, effective, endpoint, lambda body, receipt: splice(body, receipt.redacted())):
        refused(OpeningMismatch, network, tmp_path, answer=lie)


def test_the_answer_to_another_request(network, tmp_path):
    """The gateway changes the prompt on its way to the node, keeping nonce and secret."""

    def lie(body, receipt):
        private = receipt.statement.private
        return splice(
            *network.answer(CHAT, network.chat_body("something else"), nonce=private.nonce, seed=receipt.opening.seed)
        )

    refused(RequestMismatch, network, tmp_path, answer=lie)


def test_the_receipt_of_another_answer(network, tmp_path):
    """Same request, same nonce and secret, asked twice; the first body comes with the second receipt."""

    def lie(body, receipt):
        private = receipt.statement.private
        again, other = network.answer(CHAT, network.chat_body("hello"), nonce=private.nonce, seed=receipt.opening.seed)
        statement = replace(other.statement, private=replace(other.statement.private, request=private.request))
        forged = network.state_and_sign(network.keys[Method.VANILLA], statement, other.opening)
        assert again != body
        return splice(body, forged)

    refused(ResponseMismatch, network, tmp_path, answer=lie)


def test_a_replayed_answer(network, tmp_path):
    kept = []

    def lie(body, receipt):
        kept.append((body, receipt))
        return splice(*kept[0])

    with SimulatedGateway(network, answer=lie) as gateway:
        assert ask(network, gateway, tmp_path) == "You said: hello"
        with pytest.raises(NonceMismatch):
            ask(network, gateway, tmp_path)


def test_a_nonce_that_the_gateway_chose(network, tmp_path):
    refused(NonceMismatch, network, tmp_path, job=lambda call: {**call, "nonce": None})

    def lie(body, receipt):
        source = type(receipt.statement.private.nonce_source)("gateway")
        statement = replace(receipt.statement, private=replace(receipt.statement.private, nonce_source=source))
        return splice(body, network.state_and_sign(network.keys[Method.VANILLA], statement, receipt.opening))

    refused(NonceMismatch, network, tmp_path, answer=lie)


def test_another_method_than_asked(network, tmp_path):
    refused(
        MethodMismatch, network, tmp_path, job=lambda call: {**call, "method": Method.VANILLA}, with_={"method": "tee"}
    )


def test_another_program_than_pinned(network, tmp_path):
    pinned = {"echo": network.programs["echo"]}
    refused(
        ProgramMismatch, network, tmp_path, with_={"programs": pinned},
        job=lambda call: {**call, "program": network.programs["length"]},
    )  # fmt: skip
    refused(
        ProgramMismatch, network, tmp_path, with_={"program": network.programs["echo"].hex()},
        job=lambda call: {**call, "program": bytes(32)},
    )  # fmt: skip


def test_a_requester_left_out_or_put_in(network, tmp_path):
    refused(RequesterMismatch, network, tmp_path, with_={"key": KEY}, job=lambda call: {**call, "requester": None})
    other = sign_request(b"\x06" * 32, network.chain_id, bytes(32), "vanilla", b"n" * 16)
    refused(RequesterMismatch, network, tmp_path, job=lambda call: {**call, "requester": other})
    refused(RequesterMismatch, network, tmp_path, with_={"key": KEY}, job=lambda call: {**call, "requester": other})

    def borrowed(call):
        return {**call, "requester": replace(call["requester"], signature=other.signature)}

    refused(RequesterMismatch, network, tmp_path, with_={"key": KEY}, job=borrowed)


def test_an_incomplete_answer(network, tmp_path):
    refused(Incomplete, network, tmp_path, job=lambda call: {**call, "complete": False})


def test_a_stream_s_receipt_for_a_whole_answer(network, tmp_path):
    def lie(body, receipt):
        private = receipt.statement.private
        request = network.chat_body("hello")
        streamed = network.stream(request, nonce=private.nonce, seed=receipt.opening.seed)
        return splice(streamed.body, streamed.receipt)

    refused(StreamMismatch, network, tmp_path, answer=lie)


def changed_private(network, **change):
    def lie(body, receipt):
        statement = replace(receipt.statement, private=replace(receipt.statement.private, **change))
        return splice(body, replace(receipt, statement=statement))

    return lie


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"started_ms": 5}, "signature"),
        ({"node": bytes(20)}, "signature"),
        ({"chain_id": "avow-0000000000000000"}, "chain"),
    ],
)
def test_a_changed_statement(network, tmp_path, change, check):
    refused(ReceiptRefused, network, tmp_path, code=check, answer=changed_private(network, **change))


def test_a_changed_amount(network, tmp_path):
    def lie(body, receipt):
        columns = replace(receipt.statement.columns, amount=1)
        return splice(body, replace(receipt, statement=replace(receipt.statement, columns=columns)))

    refused(ReceiptRefused, network, tmp_path, code="signature", answer=lie)


def test_an_unregistered_key_signs(network, tmp_path):
    other = Simulator("a stranger with keys of its own")

    def lie(body, receipt):
        private = receipt.statement.private
        statement = replace(
            receipt.statement,
            private=replace(private, key=other.keys[Method.VANILLA].id),
            columns=replace(receipt.statement.columns, number=0),
        )
        other.chain_id = network.chain_id
        forged = other.state_and_sign(other.keys[Method.VANILLA], statement, receipt.opening)
        stolen = replace(forged.evidence, standing=receipt.evidence.standing)
        return splice(body, replace(forged, evidence=stolen))

    refused(ReceiptRefused, network, tmp_path, code="standing", answer=lie)


def test_a_chain_of_the_gateway_s_own(network, tmp_path):
    """The right chain id, and validators whom nobody trusts."""
    other = Simulator("a chain of my own")
    other.chain_id = network.chain_id
    other.register(Method.VANILLA)

    def lie(body, receipt):
        private = receipt.statement.private
        return splice(*other.answer(CHAT, network.chat_body("hello"), nonce=private.nonce, seed=receipt.opening.seed))

    with SimulatedGateway(network, answer=lie) as gateway, pytest.raises((ReceiptRefused, RequestMismatch)) as raised:
        ask(network, gateway, tmp_path)
    assert isinstance(raised.value, RequestMismatch) or raised.value.fields["check"] == "anchor"


def test_a_revoked_key(network, tmp_path):
    key = network.keys[Method.VANILLA]
    network.set_record(Method.VANILLA, replace(key.record, state=KeyState.REVOKED))
    refused(ReceiptRefused, network, tmp_path, code="standing")
    refused(ReceiptRefused, network, tmp_path, code="standing", stream=True)


def test_an_old_standing_hides_a_revocation(network, tmp_path):
    standing = network.standing(Method.VANILLA)
    for _ in range(700):
        network.advance()

    def lie(body, receipt):
        return splice(body, replace(receipt, evidence=replace(receipt.evidence, standing=standing)))

    refused(ReceiptRefused, network, tmp_path, code="standing", answer=lie)

    def stream_lie(streamed):
        yield begin_part(streamed, standing=encode(standing.to_value()))
        yield from list(honest_events(streamed))[1:]

    refused(ReceiptRefused, network, tmp_path, code="standing", events=stream_lie, stream=True)


def test_a_revoked_key_that_signs_for_the_time_before(network, tmp_path):
    """The node of a revoked key dates its statement back, and shows the standing of that time."""
    standing, then = network.standing(Method.VANILLA), network.now_ms
    for _ in range(700):
        network.advance()

    def lie(body, receipt):
        private = replace(receipt.statement.private, started_ms=then)
        statement = Statement(replace(receipt.statement.columns, ended_ms=then + 1), private)
        forged = network.state_and_sign(network.keys[Method.VANILLA], statement, receipt.opening)
        return splice(body, replace(forged, evidence=replace(forged.evidence, standing=standing)))

    refused(ReceiptRefused, network, tmp_path, code="standing", answer=lie)


def test_a_receipt_that_nothing_anchors(network, tmp_path):
    """Nothing in it is wrong, and nothing in it is proven."""
    refused(
        ReceiptRefused, network, tmp_path, match="not anchored",
        answer=lambda body, receipt: splice(body, replace(receipt, evidence=replace(receipt.evidence, standing=None))),
    )  # fmt: skip


def test_a_pin_that_is_too_old_anchors_nothing(network, tmp_path):
    network_time = network.now_ms
    policy = replace(network.trust(), trusting_period_ms=1)
    with SimulatedGateway(network) as gateway:
        with avow.Client(gateway.url, trust=policy, home=tmp_path, clock_ms=lambda: network_time) as client:
            with pytest.raises(ReceiptRefused, match="not anchored"):
                client.chat("hello", model="echo")
            with pytest.raises(ReceiptRefused, match="standing"):
                list(client.stream("hello", model="echo"))


def test_a_demand_that_is_not_met(network, tmp_path):
    for asked in ({"require": ("settled",)}, {"finality": "settled"}):
        refused(
            ReceiptRefused,
            network,
            tmp_path,
            code="required",
            with_=asked,
            job=lambda call: call,
            answer=lambda body, receipt: splice(body, replace(receipt, settlement=None)),
        )
    refused(
        ReceiptRefused, network, tmp_path, code="required", with_={"require": ("tee",), "method": "tee"}
    )  # not hardware


def test_a_settlement_of_another_statement(network, tmp_path):
    def lie(body, receipt):
        _, other = network.answer(CHAT, network.chat_body("other"))
        [settled] = network.settle([other])
        return splice(body, receipt.with_settlement(settled.settlement))

    refused(ReceiptRefused, network, tmp_path, code="settlement", answer=lie)


# --- streams ---------------------------------------------------------------------------------------------------------

WHOLE = ["", "You ", "said: ", "hello ", "there ", "my ", "friend ", "", ""]


def altered(index, **change):
    """The honest stream with chunk `index` (from 0) sent otherwise."""

    def events(streamed):
        yield begin_part(streamed)
        for at, event in enumerate(streamed.events):
            yield event_parts(event, **(change if at == index else {}))
        yield receipt_part(streamed.receipt)
        yield DONE

    return events


def test_the_honest_stream(network, tmp_path):
    with SimulatedGateway(network) as gateway:
        assert ask(network, gateway, tmp_path, stream=True) == WHOLE


@pytest.mark.parametrize("index", [0, 3, 8])
def test_a_changed_chunk(network, tmp_path, index):
    lie = b'{"id":"x","choices":[{"index":0,"delta":{"content":"lie"}}]}'
    error = refused(ChunkNotAuthentic, network, tmp_path, stream=True, events=altered(index, data=lie))
    assert error.pieces == WHOLE[:index]


@pytest.mark.parametrize("index", [0, 3])
def test_a_dropped_or_forged_mac(network, tmp_path, index):
    for mac in (None, bytes(16), bytes(15)):
        error = refused(ChunkNotAuthentic, network, tmp_path, stream=True, events=altered(index, mac=mac))
        assert error.pieces == WHOLE[:index]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 0, 1], [0, 2, 1]])
def test_chunks_out_of_order_or_twice_or_left_out(network, tmp_path, order):
    def events(streamed):
        yield begin_part(streamed)
        for index in order:
            yield event_parts(replace(streamed.events[index], head=None))

    error = refused(ChunkNotAuthentic, network, tmp_path, stream=True, events=events)
    assert error.pieces == [WHOLE[at] for at, index in enumerate(order) if order[: at + 1] == list(range(at + 1))]


def test_a_stream_that_is_cut_has_a_receipt_of_what_came(network, tmp_path):
    for ending in ([None], [], [DONE], [b'data: {"error":{"message":"node gone","code":"node_gone"}}\n\n']):

        def events(streamed, ending=ending):
            yield begin_part(streamed)
            yield from (event_parts(event) for event in streamed.events[:6])
            yield from ending

        error = refused(StreamCut, network, tmp_path, stream=True, events=events)
        assert error.pieces == WHOLE[:6]
        partial = error.receipt
        assert partial.chunks == 4
        assert error.fields == {"delivered": 6, "signed": 4}
        report = avow.verify(partial.to_json(), network.trust(), now_ms=network.now_ms)
        assert report.verdict is Verdict.WARN
        assert report["stream"].outcome is Outcome.WARN
        assert report["response"].outcome is Outcome.PASS
        assert report["request"].outcome is Outcome.PASS


def test_a_stream_that_is_cut_before_anything_was_signed(network, tmp_path):
    def events(streamed):
        yield begin_part(streamed)
        yield event_parts(replace(streamed.events[0], head=None))
        yield None

    error = refused(StreamCut, network, tmp_path, stream=True, events=events)
    assert error.receipt is None
    assert error.pieces == WHOLE[:1]


def test_a_stream_that_ends_too_early_with_a_receipt(network, tmp_path):
    def events(streamed):
        yield begin_part(streamed)
        yield from (event_parts(event) for event in streamed.events[:-1])
        yield receipt_part(streamed.receipt)
        yield DONE

    refused(StreamMismatch, network, tmp_path, stream=True, events=events)


def test_a_receipt_of_another_stream(network, tmp_path):
    def events(streamed):
        other = network.stream(network.chat_body("something else", stream=True))
        yield from list(honest_events(streamed))[:-2]
        yield receipt_part(other.receipt)
        yield DONE

    refused(StreamMismatch, network, tmp_path, stream=True, events=events)


def test_a_forged_head(network, tmp_path):
    def events(streamed):
        yield begin_part(streamed)
        yield event_parts(streamed.events[0])
        yield event_parts(replace(streamed.events[1], head=streamed.events[0].head))

    refused(HeadNotAuthentic, network, tmp_path, stream=True, events=events)

    def ahead(streamed):
        yield begin_part(streamed)
        yield event_parts(replace(streamed.events[0], count=2))

    refused(HeadNotAuthentic, network, tmp_path, stream=True, events=ahead)


def test_the_gateway_in_the_middle(network, tmp_path):
    """The gateway answers the key exchange itself: its transport key is not the registered one."""
    mine = point(network.private_key("the gateway's"))

    def events(streamed):
        yield begin_part(streamed, transport_key=mine)
        yield from list(honest_events(streamed))[1:]

    refused(ReceiptRefused, network, tmp_path, code="standing", stream=True, events=events)

    def signing(streamed):
        yield begin_part(streamed, signing_key=mine)
        yield from list(honest_events(streamed))[1:]

    refused(ReceiptRefused, network, tmp_path, code="standing", stream=True, events=signing)


def test_another_secret_nonce_or_method_in_a_stream(network, tmp_path):
    def secret(streamed):
        yield begin_part(streamed, seed=bytes(32))

    refused(OpeningMismatch, network, tmp_path, stream=True, events=secret)
    refused(OpeningMismatch, network, tmp_path, stream=True, job=lambda call: {**call, "seed": None})
    refused(NonceMismatch, network, tmp_path, stream=True, job=lambda call: {**call, "nonce": None})
    refused(
        MethodMismatch,
        network,
        tmp_path,
        stream=True,
        with_={"method": "tee"},
        job=lambda call: {**call, "method": Method.VANILLA},
    )


def test_a_stream_without_authentication(network, tmp_path):
    error = refused(ChunkNotAuthentic, network, tmp_path, stream=True, job=lambda call: {**call, "client_key": None})
    assert error.pieces == []


@pytest.mark.parametrize(
    "part",
    [
        b"event: message\n\n",
        b"data: {}\ndata: {}\n\n",
        b": m AAAA\n: m AAAA\n",
        b": m ????\n",
        b": b AAAA\n",
        b": h x AAAA\n\n",
        b": h 1\n\n",
        b"data: nonsense\n\n",
        b": m \xff\n",
    ],
)
def test_what_is_no_stream(network, tmp_path, part):
    def events(streamed):
        yield begin_part(streamed)
        yield part
        yield from list(honest_events(streamed))[1:]

    with SimulatedGateway(network, events=events) as gateway, pytest.raises(AnswerRefused) as raised:
        ask(network, gateway, tmp_path, stream=True)
    assert type(raised.value) in (MalformedStream, ChunkNotAuthentic, HeadNotAuthentic)
    assert raised.value.pieces == []


def test_a_stream_that_goes_on_after_its_end(network, tmp_path):
    def twice(streamed):
        parts = list(honest_events(streamed))
        yield from parts[:-1]
        yield event_parts(streamed.events[-1])
        yield DONE

    refused(MalformedStream, network, tmp_path, stream=True, events=twice)

    def two(streamed):
        yield from list(honest_events(streamed))[:-1]
        yield receipt_part(streamed.receipt)

    refused(NoReceipt, network, tmp_path, stream=True, events=two)


# --- the same through the unmodified openai package -----------------------------------------------------------------


def openai_client(network, gateway, home, **more):
    transport = avow.openai_transport(trust=network.trust(), home=home, clock_ms=lambda: network.now_ms, **more)
    http = openai.DefaultHttpxClient(transport=transport)
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http, max_retries=0)


def test_openai_raises_what_the_client_raises(network, tmp_path):
    messages = [{"role": "user", "content": "hello"}]
    with (
        SimulatedGateway(
            network, answer=lambda body, receipt: splice(body.replace(b"You", b"Me!"), receipt)
        ) as gateway,
        openai_client(network, gateway, tmp_path) as client,
        pytest.raises(ResponseMismatch),
    ):
        client.chat.completions.create(model="echo", messages=messages)
    with (
        SimulatedGateway(network, events=altered(3, data=b"{}")) as gateway,
        openai_client(network, gateway, tmp_path) as client,
    ):
        seen = []
        with pytest.raises(ChunkNotAuthentic):
            for chunk in client.chat.completions.create(model="echo", messages=messages, stream=True):
                seen.append(chunk.choices[0].delta.content)
        assert seen == ["", "You ", "said: "]


@pytest.mark.parametrize("name", [b'"avow"', b'"\\u0061vow"'])
def test_a_second_receipt_member_is_not_handed_on_uncommitted(name):
    network = Simulator("two receipts")
    body, receipt = network.answer(CHAT, network.chat_body("hello"))
    honest = splice(body, receipt)
    member = honest[len(body) - 1 :]
    assert take_apart(honest)[0] == body
    with pytest.raises(NoReceipt):
        take_apart(body[:-1] + b"," + name + b':{"says":"anything"}' + member)
