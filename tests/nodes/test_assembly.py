"""Receipts from pieces are the receipts of the format's own code, byte for byte."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from avow.nodes.assembly import Backing, assemble_receipt, opening_member, whole_opening
from avow.nodes.jobs import Signed
from avow.receipt.audience import Audience
from avow.receipt.encoding import encode_trusted
from avow.receipt.evidence import Evidence
from avow.receipt.receipt import Opening, Receipt
from avow.receipt.statement import (
    Columns,
    EngineIdentity,
    Method,
    NonceSource,
    Private,
    Statement,
    StreamEnd,
)

hash32 = st.binary(min_size=32, max_size=32)
address = st.binary(min_size=20, max_size=20)
point = st.binary(min_size=65, max_size=65)
uint64 = st.integers(0, (1 << 64) - 1)
columns = st.builds(
    Columns,
    number=uint64,
    program=hash32,
    payer=address,
    method=st.sampled_from(Method),
    units=uint64,
    amount=st.integers(0, (1 << 128) - 1),
    price_version=st.integers(0, 0xFFFFFFFF),
    ended_ms=st.integers(0, 1 << 48),
)
private = st.builds(
    Private,
    chain_id=st.just("avow-0123456789abcdef"),
    node=address,
    key=hash32,
    engine=st.builds(EngineIdentity, st.text(max_size=40), st.text(max_size=10), st.text(max_size=300)),
    request=hash32,
    effective=hash32,
    response=hash32,
    nonce=st.binary(min_size=8, max_size=64),
    nonce_source=st.sampled_from(NonceSource),
    requester=st.none() | address,
    authorised=st.booleans(),
    started_ms=st.integers(0, 1 << 48),
    usage=st.just((("prompt_tokens", 3), ("completion_tokens", 300))),
    stream=st.none() | st.builds(StreamEnd, hash32, uint64),
    complete=st.booleans(),
)
parts = st.lists(st.tuples(st.text(max_size=30), st.binary(max_size=300)), max_size=5)


@given(
    columns,
    private,
    st.builds(
        Evidence,
        method=st.sampled_from(Method),
        signature=st.binary(min_size=74, max_size=74),
        previous_head=hash32,
        signing_key=point,
        standing=st.none(),
        attestation=st.none() | st.binary(min_size=1, max_size=5000),
        registration_block=st.none() | hash32,
        requester_signature=st.none() | point,
    ),
    st.none()
    | st.builds(Opening, seed=hash32, endpoint=st.text(max_size=100), effective=st.binary(max_size=300))
    | st.builds(
        Opening,
        seed=hash32,
        endpoint=st.text(max_size=100),
        effective=st.binary(max_size=300),
        request=parts.map(tuple),
        response=parts.map(tuple),
    ),
)
def test_spliced_receipts_are_canonical(columns, private, evidence, opening):
    optimistic = evidence.method is Method.OPTIMISTIC
    run = {"trace": columns.program[::-1], "terms": columns.number & 1} if optimistic else {}
    columns = replace(columns, method=evidence.method, **run)
    private = replace(private, audience=Audience() if optimistic else None)
    statement = Statement(columns, private)
    expected = Receipt(statement, evidence, None, opening)
    signed = Signed(
        columns.number,
        statement.hash(),
        columns.pack(),
        encode_trusted(private.to_value()),
        evidence.previous_head,
        bytes(32),
        evidence.signature,
    )
    backing = Backing.make(
        bytes(32),
        int(evidence.method),
        evidence.signing_key,
        standing=b"",
        attestation=evidence.attestation,
        registration_block=evidence.registration_block,
    )
    member = b""
    if opening is not None and opening.request is None:
        member = opening_member(opening.seed, opening.endpoint, opening.effective)
    elif opening is not None:
        member = whole_opening(
            opening.seed, opening.endpoint, opening.effective, list(opening.request), list(opening.response)
        )
    for again in (backing, Backing.load(bytes(32), backing.stored)):
        made = assemble_receipt(signed, again, requester_signature=evidence.requester_signature, opening=member)
        assert made == expected.to_bytes()
        assert Receipt.from_bytes(made).to_bytes() == made
