"""Whatever a gateway sends, the client answers with an error of its own or with something that held: never with a traceback."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avow.client.check import check_answer, take_apart
from avow.client.errors import AnswerRefused, MalformedStream
from avow.client.events import DATA, MAX_LINE, EventReader
from avow.client.exchange import CHAT_ENDPOINT, Options, prepare
from avow.client.live import LiveStream
from avow.client.session import models_of, remote_error
from avow.errors import AvowError
from tests.simulated_gateway import honest_events, splice
from tests.simulator import Simulator, point

NETWORK = Simulator("fuzz")
TRUST = NETWORK.trust()
BODY = NETWORK.chat_body("one two three", stream=True)
MANY = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)


def exchange():
    sent = prepare(CHAT_ENDPOINT, BODY, Options(), TRUST, now_ms=NETWORK.now_ms)
    key = point(sent.client_key)
    streamed = NETWORK.stream(BODY, nonce=sent.nonce, seed=sent.seed, client_key=key)
    return sent, b"".join(honest_events(streamed))


SENT, STREAM = exchange()


def read(received, size=None):
    """Feed a stream in pieces and finish it; the chunks that were yielded."""
    live = LiveStream(SENT, TRUST, NETWORK.now_ms)
    chunks = []
    step = size or len(received) or 1
    for at in range(0, len(received), step):
        chunks.extend(live.feed(received[at : at + step]))
        if live.done:
            break
    live.finish(NETWORK.now_ms)
    return chunks


@pytest.mark.parametrize("size", [1, 7, 100, None])
def test_the_honest_stream_in_pieces_of_any_size(size):
    assert len(read(STREAM, size)) == 7


@MANY
@given(st.binary(max_size=400))
def test_any_bytes_as_a_stream(data):
    for received in (data, STREAM[:1800] + data):
        with pytest.raises(AvowError):
            read(received)
    try:
        assert read(data + STREAM) == read(STREAM)  # comments that mean nothing may stand before it
    except AvowError:
        pass


@MANY
@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255))
def test_one_changed_byte_of_a_stream(at, mask):
    changed = STREAM[:at] + bytes((STREAM[at] ^ mask,)) + STREAM[at + 1 :]
    honest = read(STREAM)
    live = LiveStream(SENT, TRUST, NETWORK.now_ms)
    seen = []
    try:
        seen.extend(live.feed(changed))
        live.finish(NETWORK.now_ms)
    except AvowError:
        pass
    else:
        # What may change unnoticed is what nobody commits to: keep-alive comments, and what surrounds the receipt.
        assert live.verified is not None
        assert seen == honest
    assert seen == honest[: len(seen)]


@MANY
@given(st.integers(0, len(STREAM) - 1))
def test_a_stream_cut_anywhere(at):
    honest = read(STREAM)
    live = LiveStream(SENT, TRUST, NETWORK.now_ms)
    seen = list(live.feed(STREAM[:at]))
    assert seen == honest[: len(seen)]
    if not live.done:
        with pytest.raises(AnswerRefused):
            live.finish(NETWORK.now_ms)


@MANY
@given(st.binary(max_size=300), st.integers(1, 50))
def test_lines_do_not_depend_on_how_they_arrive(data, size):
    def lines(step):
        reader, found = EventReader(), []
        try:
            for at in range(0, len(data), step):
                found.extend(reader.feed(data[at : at + step]))
        except MalformedStream as error:
            found.append(error.detail)
        return found

    assert lines(size) == lines(len(data) or 1)


def live():
    return LiveStream(SENT, TRUST, NETWORK.now_ms)


@pytest.mark.parametrize(
    ("received", "match"),
    [
        (STREAM + b"data: more\n\n", "goes on after its end"),
        (b": m AAAA\ndata: {}\n\n", "does not begin"),
        (b": h 1 AAAA\n", "did not come"),
        (STREAM[: STREAM.index(b"\n") + 1] * 2, "begins twice"),
        (b": b " + b"A" * ((1 << 20) + 1) + b"\n", "too long"),
        (b": b \xc3\xa4\n", "ASCII"),
        (STREAM[: STREAM.index(b": m")] + b": m A\n: m A\n", "two authentication codes"),
    ],
)
def test_what_no_gateway_sends(received, match):
    with pytest.raises(AnswerRefused, match=match):
        list(live().feed(received))


def test_a_stream_has_its_limits(monkeypatch):
    for name, limit in (("MAX_ANSWER", 300), ("MAX_CHUNKS", 2)):
        with monkeypatch.context() as patched:
            patched.setattr(f"avow.client.live.{name}", limit)
            with pytest.raises(MalformedStream, match="too long"):
                list(live().feed(STREAM))


def test_a_stream_where_none_was_asked_for():
    sent = prepare(CHAT_ENDPOINT, NETWORK.chat_body("hello"), Options(), TRUST, now_ms=NETWORK.now_ms)
    with pytest.raises(MalformedStream):
        LiveStream(sent, TRUST, NETWORK.now_ms)


def test_the_last_signed_head_is_the_one_that_counts():
    head_1 = next(line for line in STREAM.split(b"\n") if line.startswith(b": h 1 "))
    reading = live()
    assert reading.partial() is None
    list(reading.feed(STREAM[: STREAM.index(b": h 4 ")]))
    assert reading.partial().chunks == 1
    rest = STREAM[STREAM.index(b": h 4 ") :]
    list(reading.feed(rest[: rest.index(b"\n") + 1] + head_1 + b"\n"))
    assert reading.partial().chunks == 4


def test_lines():
    found = list(EventReader().feed(b": keep-alive\n:\n: m AA\ndata: x\n\n: h 1 BB\n\ndata: y\n"))
    assert found == [(b"m", b"AA"), (DATA, b"x"), (b"h", b"1 BB"), (DATA, b"y")]
    with pytest.raises(MalformedStream):
        list(EventReader().feed(b"x" * (MAX_LINE + 1)))
    for bad in (b"data:x\n", b"id: 1\n", b"data: x\r\n\r\n", b" data: x\n"):
        with pytest.raises(MalformedStream):
            list(EventReader().feed(b"data: ok\n\n" + bad + b"\ndata: z\ndata: z\n"))


ANSWER = NETWORK.answer(CHAT_ENDPOINT, BODY.replace(b"true", b"false"), nonce=SENT.nonce, seed=SENT.seed)
SPLICED = splice(*ANSWER)


@MANY
@given(st.binary(max_size=200))
def test_any_bytes_as_an_answer(data):
    for answer in (data, b'{"a":1,"avow":' + data + b"}", SPLICED[:-30] + data):
        with pytest.raises(AvowError):
            check_answer(SENT, answer, TRUST, NETWORK.now_ms)


@MANY
@given(st.integers(0, len(SPLICED) - 1), st.integers(1, 255))
def test_one_changed_byte_of_an_answer(at, mask):
    sent = prepare(
        CHAT_ENDPOINT,
        BODY.replace(b"true", b"false"),
        Options(),
        TRUST,
        now_ms=NETWORK.now_ms,
        random=lambda size: SENT.nonce if size == 16 else SENT.seed,
    )
    honest = check_answer(sent, SPLICED, TRUST, NETWORK.now_ms)
    changed = SPLICED[:at] + bytes((SPLICED[at] ^ mask,)) + SPLICED[at + 1 :]
    try:
        verified = check_answer(sent, changed, TRUST, NETWORK.now_ms)
    except AvowError:
        return
    # Only white space between the members, and the uncommitted rest of the member avow, may differ.
    assert json.loads(verified.body) == json.loads(honest.body)
    assert verified.receipt.to_bytes() == honest.receipt.to_bytes()


@MANY
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=20,
    )
)
def test_any_json_as_a_listing_or_an_error(value):
    data = json.dumps(value).encode()
    try:
        models_of(data)
    except AvowError:
        pass
    assert remote_error(500, data).status == 500
    with pytest.raises(AnswerRefused):
        take_apart(data)
