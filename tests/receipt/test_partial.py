"""The receipt of a stream that broke off: it proves what the node signed, and nothing that was changed since."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import avow
from avow.client.exchange import CHAT_ENDPOINT, Options, prepare
from avow.client.live import LiveStream
from avow.errors import AvowError, NotAReceipt
from avow.receipt.commitment import commit
from avow.receipt.partial import PartialReceipt, StreamKeyRefused, check_key, verify_partial
from avow.receipt.report import Outcome, Verdict
from avow.receipt.standing import KEY_PREFIX, KeyState
from avow.receipt.statement import Method
from tests.simulated_gateway import begin_part, event_parts
from tests.simulator import Simulator, point


def broken(network, method, chunks=5):
    """A partial receipt as the client makes it, and the request."""
    body = network.chat_body("one two three four five", stream=True)
    options = Options(method=method)
    now_ms = network.now_ms
    sent = prepare(CHAT_ENDPOINT, body, options, network.trust(), now_ms=now_ms, random=lambda size: bytes(range(size)))
    client_key = point(sent.client_key)
    streamed = network.stream(body, method, nonce=sent.nonce, seed=sent.seed, client_key=client_key)
    live = LiveStream(sent, network.trust(), network.now_ms)
    list(live.feed(begin_part(streamed) + b"".join(event_parts(event) for event in streamed.events[:chunks])))
    return live.partial(), body


@pytest.fixture(scope="module")
def network():
    network = Simulator()
    network.register(Method.TEE)
    return network


@pytest.mark.parametrize("method", [Method.VANILLA, Method.TEE])
def test_what_holds(network, method):
    partial, body = broken(network, method)
    demands = (method.label,) if method is Method.VANILLA else ()
    report = verify_partial(partial, network.trust(), now_ms=network.now_ms, request=body, require=demands)
    assert report.verdict is Verdict.WARN, report.checks
    assert report.not_proven
    assert {check.name.value: check.outcome for check in report.checks}["response"] is Outcome.PASS
    redacted = replace(partial, opening=None, data=None)
    assert verify_partial(redacted, network.trust(), now_ms=network.now_ms).ok
    assert redacted.id == partial.id
    for shown in (partial, redacted):
        assert PartialReceipt.load(shown.to_bytes()).to_json() == shown.to_json()
        assert PartialReceipt.load(shown.to_json()).to_bytes() == shown.to_bytes()
    assert verify_partial(partial, None, now_ms=network.now_ms).verdict is Verdict.UNANCHORED


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda p: {"chain_id": "avow-0000000000000000"}, "chain"),
        (lambda p: {"chunks": p.chunks + 1}, "signature"),
        (lambda p: {"head": bytes(32)}, "signature"),
        (lambda p: {"request": bytes(32)}, "signature"),
        (lambda p: {"effective": bytes(32)}, "signature"),
        (lambda p: {"signature": p.signature[:-1] + bytes((p.signature[-1] ^ 1,))}, "signature"),
        (lambda p: {"signing_key": bytes(65)}, "signature"),
        (lambda p: {"method": Method.TEE}, "standing"),
        (lambda p: {"data": (*p.data[:-1], b"{}")}, "response"),
        (lambda p: {"data": p.data[:-1]}, "response"),
        (lambda p: {"opening": replace(p.opening, effective=b"{}")}, "effective"),
        (lambda p: {"opening": replace(p.opening, request=p.opening.request[:-1])}, "request"),
        (lambda p: {"opening": replace(p.opening, seed=bytes(32))}, "request"),
    ],
)
def test_what_was_changed_is_refused_by_the_check_that_owns_it(network, change, check):
    partial, _ = broken(network, Method.VANILLA)
    report = verify_partial(replace(partial, **change(partial)), network.trust(), now_ms=network.now_ms)
    assert report.verdict is Verdict.FAIL
    assert report[check].outcome is Outcome.FAIL


def test_demands_and_bodies(network):
    partial, body = broken(network, Method.VANILLA)
    now = network.now_ms
    assert not verify_partial(partial, network.trust(), now_ms=now, require=("settled",)).ok
    assert not verify_partial(partial, network.trust(), now_ms=now, require=("complete",)).ok
    assert not verify_partial(partial, network.trust(), now_ms=now, require=("tee",)).ok
    assert verify_partial(partial, network.trust(), now_ms=now, require=("vanilla",)).ok
    enclave, _ = broken(network, Method.TEE)
    assert not verify_partial(enclave, network.trust(), now_ms=now, require=("tee",)).ok
    later = now + 30 * 24 * 3_600_000
    assert verify_partial(partial, network.trust(), now_ms=later).verdict is Verdict.UNANCHORED
    assert not verify_partial(partial, network.trust(), now_ms=now, request=body.replace(b"one", b"two")).ok
    assert not verify_partial(replace(partial, opening=None, data=None), network.trust(), now_ms=now, request=body).ok
    assert avow.verify(partial.to_json(), network.trust(), now_ms=now, request=body).ok


def test_a_key_that_does_not_stand():
    network = Simulator("revoked")
    partial, _ = broken(network, Method.VANILLA)
    honest = network.keys[Method.VANILLA].record
    now = network.now_ms
    for change, code in (
        ({}, ""),
        ({"state": KeyState.REVOKED}, "stream_key_refused"),
        ({"state": KeyState.DRAINING}, "stream_key_refused"),
        ({"compromised_from": 1}, "stream_key_refused"),
        ({"until_ms": 5}, "stream_key_refused"),
        ({"until_ms": now + 3_600_000}, ""),
        ({"from_ms": now + 3_600_000}, "stream_key_refused"),
        ({"from_ms": now + 10_000}, ""),
        ({"method": Method.TEE, "root": bytes(32)}, "stream_key_refused"),
    ):
        network.set_record(Method.VANILLA, replace(honest, **change))
        shown = replace(partial, standing=network.standing(Method.VANILLA))
        check = verify_partial(shown, network.trust(), now_ms=network.now_ms)["standing"]
        assert (check.outcome is Outcome.FAIL, check.code) == (bool(code), code), change
    other = replace(Simulator("another").trust(), chain_id=network.chain_id)
    assert verify_partial(partial, other, now_ms=network.now_ms)["anchor"].outcome is Outcome.FAIL


def test_an_enclave_that_the_reader_does_not_accept(network):
    partial, _ = broken(network, Method.TEE)
    measured = network.keys[Method.TEE].record.measurement
    allowed = replace(network.trust(), measurements=(measured,))
    assert verify_partial(partial, allowed, now_ms=network.now_ms)["standing"].outcome is Outcome.WARN
    for policy in (
        replace(network.trust(), attestation_roots=()),
        replace(network.trust(), measurements=(bytes(32),)),
        replace(network.trust(), methods=(Method.VANILLA,)),
    ):
        assert verify_partial(partial, policy, now_ms=network.now_ms)["standing"].outcome is Outcome.FAIL


def test_every_changed_byte_is_refused():
    network = Simulator("bytes")
    partial, _ = broken(network, Method.VANILLA)
    trust, data = network.trust(), partial.to_bytes()
    for at in range(0, len(data), 7):
        changed = data[:at] + bytes((data[at] ^ 0x41,)) + data[at + 1 :]
        try:
            report = avow.verify(changed, trust, now_ms=network.now_ms)
        except AvowError:
            continue
        assert not report.ok, at
    for at in range(0, len(data), 11):
        with pytest.raises(AvowError):
            avow.load_receipt(data[:at])


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    try:
        PartialReceipt.load(data)
    except AvowError:
        return


def test_a_receipt_is_none_of_these(network):
    _, receipt = network.answer(CHAT_ENDPOINT, network.chat_body())
    with pytest.raises(NotAReceipt):
        PartialReceipt.load(receipt.to_bytes())


def test_how_many_validators_stand_behind_it():
    for validators, outcome in ((1, Outcome.WARN), (4, Outcome.PASS)):
        network = Simulator("quorum", validators=validators)
        partial, _ = broken(network, Method.VANILLA)
        assert verify_partial(partial, network.trust(), now_ms=network.now_ms)["anchor"].outcome is outcome


def test_an_opening_that_names_another_endpoint(network):
    partial, _ = broken(network, Method.VANILLA)
    lie = replace(partial, opening=replace(partial.opening, endpoint="POST /v1/completions"))
    assert verify_partial(lie, network.trust(), now_ms=network.now_ms)["request"].outcome is Outcome.FAIL


def test_parts_left_with_their_holder(network):
    partial, body = broken(network, Method.VANILLA)
    closed = replace(partial, opening=replace(partial.opening, request=None), data=None)
    assert PartialReceipt.load(closed.to_json()).to_bytes() == closed.to_bytes()
    report = verify_partial(closed, network.trust(), now_ms=network.now_ms)
    assert report["request"].outcome is Outcome.SKIPPED
    assert report["response"].outcome is Outcome.SKIPPED
    assert report["effective"].outcome is Outcome.PASS
    assert (
        verify_partial(closed, network.trust(), now_ms=network.now_ms, request=body)["request"].outcome is Outcome.PASS
    )


def test_the_standing_may_be_as_old_as_the_policy_says(network):
    partial, _ = broken(network, Method.VANILLA)
    trust, shown_ms = network.trust(), partial.standing.block.header.time_ns // 1_000_000
    check_key(partial.standing, partial.signing_key, trust, shown_ms + trust.max_standing_age_ms)
    with pytest.raises(StreamKeyRefused):
        check_key(partial.standing, partial.signing_key, trust, shown_ms + trust.max_standing_age_ms + 1)


def test_a_record_of_another_key(network):
    other = Simulator("records")
    partial, _ = broken(other, Method.VANILLA)
    record = other.keys[Method.VANILLA].record
    other.state[KEY_PREFIX + other.keys[Method.VANILLA].id] = replace(
        record, signing_key=record.transport_key
    ).to_bytes()
    shown = replace(partial, standing=other.standing(Method.VANILLA))
    assert verify_partial(shown, other.trust(), now_ms=other.now_ms)["standing"].code == "stream_key_refused"


def test_two_parts_under_one_name(network):
    partial, _ = broken(network, Method.VANILLA)
    opening = partial.opening
    twice = (*opening.request, opening.request[-1])
    lie = replace(partial, opening=replace(opening, request=twice), request=commit("request", opening.seed, twice))
    check = verify_partial(lie, network.trust(), now_ms=network.now_ms)["request"]
    assert (check.outcome, check.code) == (Outcome.FAIL, "ambiguous_parts")
