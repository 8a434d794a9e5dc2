"""Spliced CBOR is the format's own encoding, byte for byte."""

import os

from hypothesis import given
from hypothesis import strategies as st

from avow.nodes import splice
from avow.nodes.splice import PrivateEncoder, SignatureInputs
from avow.receipt.audience import Audience, AudienceKind
from avow.receipt.encoding import encode
from avow.receipt.statement import (
    EngineIdentity,
    NonceSource,
    Private,
    StreamEnd,
    signature_input,
    statement_payload,
)

hash32 = st.binary(min_size=32, max_size=32)
uint64 = st.integers(0, (1 << 64) - 1)
audiences = st.builds(
    Audience,
    kind=st.just(AudienceKind.WATCHERS),
    keys=st.sets(st.binary(min_size=20, max_size=20), max_size=4).map(lambda keys: tuple(sorted(keys))),
) | st.sampled_from([Audience(AudienceKind.PUBLIC), Audience(AudienceKind.PAYER)])
usage = st.dictionaries(st.text(max_size=40), uint64, max_size=8).map(lambda counts: tuple(counts.items()))


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=70_000), st.text(max_size=300))
def test_pieces(number, data, text):
    assert splice.uint(number) == encode(number)
    assert splice.octets(data) == encode(data)
    assert splice.text(text) == encode(text)


@given(
    st.builds(EngineIdentity, st.text(max_size=40), st.text(max_size=10), st.text(max_size=300)),
    st.tuples(hash32, hash32, hash32),
    st.binary(min_size=8, max_size=64),
    st.sampled_from(NonceSource),
    st.none() | st.binary(min_size=20, max_size=20),
    st.booleans(),
    st.integers(0, 1 << 48),
    usage,
    st.none() | st.builds(StreamEnd, hash32, uint64),
    st.booleans(),
    st.none() | audiences,
)
def test_private_parts(
    engine, commitments, nonce, source, requester, authorised, started_ms, counts, stream, complete, audience
):
    chain_id, node, key = "avow-0123456789abcdef", os.urandom(20), os.urandom(32)
    expected = Private(
        chain_id,
        node,
        key,
        engine,
        *commitments,
        nonce,
        source,
        requester,
        authorised,
        started_ms,
        counts,
        stream,
        complete,
        audience=audience,
    )
    made = PrivateEncoder(chain_id, node, key, engine).encode(
        request=commitments[0],
        effective=commitments[1],
        response=commitments[2],
        nonce=nonce,
        nonce_source=source.value,
        requester=requester,
        authorised=authorised,
        started_ms=started_ms,
        usage=counts,
        stream=stream,
        complete=complete,
        audience=audience,
    )
    assert made == encode(expected.to_value())


@given(st.text(max_size=64), hash32, uint64, hash32, hash32)
def test_signature_inputs(chain_id, key, number, statement, head):
    expected = signature_input(statement_payload(chain_id, key, number, statement, head))
    assert SignatureInputs(chain_id, key).statement(number, statement, head) == expected
