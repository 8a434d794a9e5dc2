"""Commitments: the bytes on the wire and nothing else; parts that can be shown alone and not forged."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.errors import AvowError
from avow.receipt.commitment import (
    CommitmentMismatch,
    Disclosure,
    MalformedBody,
    commit,
    disclose,
    part_salt,
    request_parts,
    response_body,
    response_parts,
    verify_disclosure,
)

SEED = bytes(range(32))
REQUEST = b'{"model":"m", "messages":[{"role":"user","content":"a b"} , {"role":"user","content":"c"}],"temperature":0.70,"a/b":{"~":1}}'
RESPONSE = (
    b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi","tool_calls":[{"id":"1"},{"id":"2"}]},'
    b'"finish_reason":"stop"}],"usage":{"total_tokens":3},"avow":{"receipt":"..."}}'
)


def test_parts_are_the_bytes_received():
    assert request_parts("POST /x", REQUEST) == [
        ("endpoint", b"POST /x"),
        ("/model", b'"m"'),
        ("/messages", b"[2]"),
        ("/messages/0", b'{"role":"user","content":"a b"}'),
        ("/messages/1", b'{"role":"user","content":"c"}'),
        ("/temperature", b"0.70"),
        ("/a~1b", b'{"~":1}'),
    ]
    parts = dict(response_parts(RESPONSE))
    assert parts["/choices"] == b"[1]"
    assert parts["/choices/0"] == b"{3}"
    assert parts["/choices/0/message"] == b"{3}"
    assert parts["/choices/0/message/content"] == b'"hi"'
    assert parts["/choices/0/message/tool_calls"] == b"[2]"
    assert parts["/choices/0/message/tool_calls/1"] == b'{"id":"2"}'
    assert "/avow" not in parts


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"x"', b"{", b'{"a":1,"a":2}', b'{"m":{"b":1,"b":2}}', b'{"a":NaN}', b"\xff{}", b'{"a":1}x', b"{" + b'"a":[' * 100_000,
     b'{"' + b"k" * 2000 + b'":1}', b'{"messages":[' + b",".join([b"1"] * 20_000) + b"]}", b'{"a":' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_ambiguous_bodies_are_refused(body):
    with pytest.raises(MalformedBody):
        request_parts("POST /x", body)


def test_the_depth_of_a_body_has_a_limit_of_its_own():
    def nested(levels, inner=b"{}"):
        return b'{"a":' * (levels - 1) + inner + b"}" * (levels - 1)

    assert request_parts("POST /x", nested(64))
    assert request_parts("POST /x", nested(64, b'{"b":1}'))
    assert request_parts("POST /x", b'{"a":[' + b",".join([b"[]"] * 500) + b"]}")
    for levels in (65, 66, 300, 5000):
        with pytest.raises(MalformedBody):
            request_parts("POST /x", nested(levels))


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_either_split_or_are_refused(body):
    try:
        parts = response_parts(body)
    except AvowError:
        return
    assert isinstance(json.loads(body), dict)
    assert len(commit("response", SEED, parts)) == 32


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers() | st.text(max_size=5), max_size=5), st.data())
def test_every_byte_counts(body, data):
    encoded = json.dumps(body).encode()
    before = commit("request", SEED, request_parts("POST /x", encoded))
    changed = bytearray(encoded)
    changed[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 127))
    try:
        parts = request_parts("POST /x", bytes(changed))
    except AvowError:
        return
    if parts != request_parts("POST /x", encoded):
        assert commit("request", SEED, parts) != before


def test_a_commitment_binds_kind_seed_order_number_and_names():
    parts = [("/a", b"1"), ("/b", b"2")]
    seen = {
        commit("request", SEED, parts),
        commit("response", SEED, parts),
        commit("request", bytes(32), parts),
        commit("request", SEED, parts[::-1]),
        commit("request", SEED, [*parts, parts[1]]),
        commit("request", SEED, parts[:1]),
        commit("request", SEED, [("/a", b"2"), ("/b", b"1")]),
        commit("request", SEED, [("/a1", b""), ("/b", b"2")]),
        commit("request", SEED, []),
    }
    assert len(seen) == 9
    assert len({part_salt("request", SEED, name) for name in ("/a", "/b")} | {part_salt("response", SEED, "/a")}) == 3


def test_one_part_can_be_shown_alone():
    parts = response_parts(RESPONSE)
    commitment = commit("response", SEED, parts)
    for index in range(len(parts)):
        shown = disclose("response", SEED, parts, index)
        verify_disclosure(shown, commitment)
        assert Disclosure.from_value(shown.to_value()) == shown
        forged = [
            replace(shown, data=shown.data + b" "),
            replace(shown, name=shown.name + "x"),
            replace(shown, salt=bytes(16)),
            replace(shown, index=shown.index + 1),
            replace(shown, index=len(parts)),
            replace(shown, count=shown.count + 1),
            replace(shown, kind="request"),
            replace(shown, path=shown.path[:-1]),
            replace(shown, path=(*shown.path, bytes(32))),
            replace(shown, path=(bytes(32), *shown.path[1:])),
        ]
        for lie in forged:
            with pytest.raises(CommitmentMismatch):
                verify_disclosure(lie, commitment)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "other"), ("salt", b"1"), ("path", [b"1"]), ("index", -1), ("count", 1 << 40), ("name", "x" * 5000)],
)
def test_malformed_disclosures(field, value):
    shown = disclose("response", SEED, response_parts(RESPONSE), 0).to_value()
    with pytest.raises(AvowError):
        Disclosure.from_value({**shown, field: value})


def test_the_seed_has_32_bytes():
    with pytest.raises(AvowError):
        commit("request", b"short", [])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53), 1 << 53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
messages = st.dictionaries(
    st.sampled_from(["role", "content", "refusal", "tool_calls", "a/b~c"]),
    json_values | st.lists(json_values, max_size=3),
    max_size=5,
)
choices = st.dictionaries(st.sampled_from(["index", "message", "logprobs", "x"]), messages | json_values, max_size=4)
answers = st.dictionaries(
    st.sampled_from(["id", "choices", "usage", "outputs", "é"]),
    st.lists(choices | json_values, max_size=3) | json_values,
    max_size=5,
)


@given(answers)
def test_a_response_made_here_has_the_parts_of_its_bytes(answer):
    body, parts = response_body(answer)
    assert json.loads(body) == answer
    assert parts == response_parts(body)
