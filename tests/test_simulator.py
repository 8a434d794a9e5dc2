"""The simulator is honest: whatever it makes holds, and the same seed makes the same bytes."""

from dataclasses import replace

import pytest

from avow.methods import checks
from avow.receipt.receipt import Receipt
from avow.receipt.report import Outcome, Verdict
from avow.receipt.statement import Method
from avow.receipt.stream import stream_parts
from avow.receipt.verify import Question
from tests.simulator import CHAT, INFER, Simulator, point


def verify(receipt, trust, *, now_ms):
    return checks.verify(receipt, trust, Question(now_ms))


TENSOR = b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["four"]}]}'


@pytest.mark.parametrize("method", [Method.VANILLA, Method.TEE])
def test_answers_and_their_settlements_hold(method):
    network = Simulator(method.label)
    if method is Method.TEE:
        network.register(method)
    asked = [(CHAT, network.chat_body("hello")), (INFER, TENSOR), (CHAT, network.chat_body("again"))]
    answers = [network.answer(endpoint, body, method) for endpoint, body in asked]
    settled = network.settle([receipt for _, receipt in answers])
    for (_, request), (response, receipt), after in zip(asked, answers, settled, strict=True):
        opened = after.opened(request, response)
        for shown in (receipt, after, opened, opened.redacted(), network.refresh(after)):
            assert Receipt.load(shown.to_bytes()).to_json() == shown.to_json()
            report = verify(shown, network.trust(), now_ms=network.now_ms)
            assert report.ok, report.checks
        assert verify(after, network.trust(), now_ms=network.now_ms)["settlement"].outcome is not Outcome.FAIL
    assert len({receipt.id for _, receipt in answers}) == 3


def test_a_stream_holds():
    network = Simulator()
    body = network.chat_body("hi", stream=True, stream_options={"include_usage": True})
    streamed = network.stream(body, client_key=point(network.private_key("client")))
    parts = stream_parts([event.data for event in streamed.events], streamed.receipt.statement.private.stream.head)
    report = verify(streamed.receipt.opened(body, parts), network.trust(), now_ms=network.now_ms)
    assert report.ok, report.checks
    assert all(event.mac for event in streamed.events)
    assert streamed.events[0].head
    assert streamed.events[-1].head


def test_a_quorum_of_several_validators():
    network = Simulator(validators=4)
    _, receipt = network.answer(CHAT, network.chat_body())
    [settled] = network.settle([receipt])
    assert verify(settled, network.trust(), now_ms=network.now_ms).ok
    block = settled.settlement.block
    for signers, ok in ((4, True), (3, True), (2, False)):
        shown = replace(settled.settlement, block=network.sign_block(block.header, signers=signers))
        report = verify(settled.with_settlement(shown), network.trust(), now_ms=network.now_ms)
        assert report.ok is ok, report.checks


def test_without_trust_nothing_is_anchored():
    network = Simulator()
    _, receipt = network.answer(CHAT, network.chat_body())
    assert verify(receipt, None, now_ms=network.now_ms).verdict is Verdict.UNANCHORED
    other = Simulator("another").trust()
    assert not verify(receipt, other, now_ms=network.now_ms).ok


def test_the_same_seed_makes_the_same_bytes():
    made = []
    for _ in range(2):
        network = Simulator(3)
        _, receipt = network.answer(CHAT, network.chat_body())
        made.append(network.settle([receipt])[0].to_bytes())
    assert made[0] == made[1]
