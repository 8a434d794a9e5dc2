"""The bytes around an answer, alone."""

import json

import pytest

from avow.nodes.gateway.frames import (
    ChunkHead,
    MalformedAnswer,
    avow_member,
    base64url_bytes,
    chunk_frames,
    chunk_head,
    head_frame,
    receipt_frame,
    splice,
)
from avow.nodes.gateway.metrics import Counter, Histogram
from avow.nodes.jobs import Chunks, Head
from avow.receipt.commitment import response_parts
from avow.receipt.encoding import base64url

MEMBER = avow_member("ab" * 32, "tee", "instant", b"receipt bytes", b"s" * 32, complete=True)


def test_the_member_is_json_and_leaves_the_committed_parts_alone():
    body = b'{"id":"x","choices":[]}'
    whole = splice(body, MEMBER)
    assert whole.startswith(body[:-1])
    assert json.loads(whole)["avow"] == {
        "id": "ab" * 32,
        "method": "tee",
        "finality": "instant",
        "url": "/receipts/" + "ab" * 32,
        "page": "/r/" + "ab" * 32 + "#" + base64url(b"s" * 32),
        "receipt": base64url(b"receipt bytes"),
    }
    assert response_parts(whole) == response_parts(body)


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"a":1} ', b"null", b'{"a":1'])
def test_what_is_no_object_with_members_is_not_spliced(body):
    with pytest.raises(MalformedAnswer):
        splice(body, MEMBER)


@pytest.mark.parametrize("length", range(8))
def test_base64url_is_the_receipts_encoding(length):
    data = bytes(range(250, 250 + 6))[:length] + bytes(max(0, length - 6))
    assert base64url_bytes(data).decode() == base64url(data)


def test_events_and_their_comments():
    assert chunk_frames(Chunks([b"{1}", b"{2}"], [])) == b"data: {1}\n\ndata: {2}\n\n"
    assert chunk_frames(Chunks([b"{1}"], [b"m" * 16])) == b": m " + base64url(b"m" * 16).encode() + b"\ndata: {1}\n\n"
    assert head_frame(Head(b"sig", 7)) == b": h 7 c2ln\n\n"


def test_the_receipts_event_is_a_chunk_without_choices():
    frame = receipt_frame(ChunkHead("chatcmpl-1", 5, "m"), MEMBER)
    event, done, rest = frame.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunk = json.loads(event.removeprefix(b"data: "))
    assert chunk.pop("avow")["method"] == "tee"
    assert chunk == {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": []}


def test_a_first_chunk_that_is_none_is_refused():
    with pytest.raises(MalformedAnswer):
        chunk_head(b"{}")
    with pytest.raises(MalformedAnswer):
        chunk_head(b"\xff")


def test_labels_are_escaped_and_buckets_are_cumulative():
    counter = Counter("c", "help", ("a",))
    counter.add(('x"\\\n',), 2)
    assert list(counter.lines())[-1] == 'c{a="x\\"\\\\\\n"} 2'
    histogram = Histogram("h", "help", (), (1.0, 2.0))
    for seconds in (0.5, 1.5, 9.0, 1.0):
        histogram.observe((), seconds)
    assert list(histogram.lines())[2:] == [
        'h_bucket{le="1"} 2',
        'h_bucket{le="2"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 12.000000000",
        "h_count 4",
    ]
