"""Streams: each chunk moves the head, and what the chunks make is one body, the same for both sides."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from avow.errors import AvowError
from avow.receipt.stream import (
    ChunkMAC,
    MalformedChunk,
    assemble,
    chunk_mac,
    mac_equal,
    mac_key,
    shared_secret,
    stream_next,
    stream_parts,
    stream_start,
)


def chunk(delta, *, index=0, finish=None, **more):
    choice = {"index": index, "delta": delta, "logprobs": more.pop("logprobs", None), "finish_reason": finish}
    return json.dumps(
        {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice], **more}
    ).encode()


def test_text_tools_usage_and_several_choices():
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "he"}, logprobs={"content": [{"token": "he", "logprob": -0.5}]}),
        chunk({"content": "llo"}, logprobs={"content": [{"token": "llo", "logprob": -1e-7}]}),
        chunk({"content": "other"}, index=1),
        chunk(
            {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            index=1,
        ),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}, index=1),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}, index=1, finish="tool_calls"),
        chunk({}, finish="stop"),
        json.dumps({"id": "c", "created": 7, "model": "m", "choices": [], "usage": {"total_tokens": 9}}).encode(),
    ]
    body = json.loads(assemble(chunks))
    assert body["object"] == "chat.completion"
    assert body["usage"] == {"total_tokens": 9}
    first, second = body["choices"]
    assert first["message"] == {"role": "assistant", "content": "hello", "refusal": None}
    assert [entry["token"] for entry in first["logprobs"]["content"]] == ["he", "llo"]
    assert first["finish_reason"] == "stop"
    assert second["message"]["content"] == "other"
    assert second["message"]["tool_calls"] == [
        {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    head = stream_start(bytes(32), bytes(32))
    assert stream_parts(chunks, head)[-1] == ("stream", head + (9).to_bytes(8))


def test_an_empty_stream_is_an_empty_answer():
    assert json.loads(assemble([]))["choices"] == []


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b'{"choices":5}', b'{"choices":[5]}', b'{"choices":[{"index":-1}]}', b'{"choices":[{"index":true}]}',
     b'{"choices":[{"index":0,"delta":{"content":5}}]}', b'{"choices":[{"index":0,"delta":{"tool_calls":[{}]}}]}',
     b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":5}]}}]}', b'{"choices":[{"index":0,"logprobs":{"content":5}}]}', b"\xff"],
)  # fmt: skip
def test_malformed_chunks(data):
    with pytest.raises(MalformedChunk):
        assemble([data])


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes(chunks):
    try:
        assert isinstance(json.loads(assemble(chunks)), dict)
    except AvowError:
        pass


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6), st.data())
def test_the_head_binds_every_chunk_and_their_order(chunks, data):
    def head(items):
        value = stream_start(b"r" * 32, b"e" * 32)
        for item in items:
            value = stream_next(value, item)
        return value

    assert head(chunks) != head(chunks[:-1])
    other = list(chunks)
    at = data.draw(st.integers(0, len(chunks) - 1))
    other[at] += b"x"
    assert head(other) != head(chunks)
    assert stream_start(b"r" * 32, b"e" * 32) != stream_start(b"e" * 32, b"r" * 32)


def test_both_ends_derive_one_mac_key():
    client, node = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def public(key):
        return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    keys = {
        mac_key(shared_secret(client, public(node)), b"r" * 32, b"e" * 32),
        mac_key(shared_secret(node, public(client)), b"r" * 32, b"e" * 32),
    }
    assert len(keys) == 1
    key = keys.pop()
    assert mac_key(shared_secret(client, public(node)), b"x" * 32, b"e" * 32) != key
    assert mac_key(shared_secret(client, public(node)), b"r" * 32, b"x" * 32) != key
    tag = chunk_mac(key, b"h" * 32)
    assert len(tag) == 16
    assert mac_equal(tag, chunk_mac(key, b"h" * 32))
    assert not mac_equal(tag, chunk_mac(key, b"i" * 32))
    for bad in (b"", b"\x04" + bytes(64), public(node)[:-1]):
        with pytest.raises(MalformedChunk):
            shared_secret(client, bad)


@given(st.binary(min_size=32, max_size=32), st.lists(st.binary(min_size=32, max_size=32), max_size=4))
def test_kept_states_give_the_same_tags(key, heads):
    kept = ChunkMAC(key)
    assert [kept.tag(head) for head in heads] == [chunk_mac(key, head) for head in heads]
