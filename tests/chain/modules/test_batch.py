"""A batch's fast path against the statement's own definition, and its parser against everything else."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain.modules.batch import MAX_STATEMENTS, Batch, SignedAuthorisation, build_batch, leaves
from avow.errors import InputError
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode
from avow.receipt.statement import Columns, Method, next_head, private_hash, statement_hash

hash32 = st.binary(min_size=32, max_size=32)
address = st.binary(min_size=20, max_size=20)


@st.composite
def statements(draw, most=12):
    first = draw(st.integers(0, (1 << 64) - 1 - MAX_STATEMENTS - most))
    programs, payers = draw(st.lists(hash32, min_size=1, max_size=3)), draw(st.lists(address, min_size=1, max_size=3))
    count = draw(st.integers(1, most))
    method = draw(st.sampled_from(Method))
    return [
        (
            Columns(
                number=first + index,
                program=draw(st.sampled_from(programs)),
                payer=draw(st.sampled_from(payers)),
                method=method,
                units=draw(st.integers(0, (1 << 64) - 1)),
                amount=draw(st.integers(0, (1 << 128) - 1)),
                price_version=draw(st.integers(0, (1 << 32) - 1)),
                ended_ms=draw(st.integers(0, (1 << 64) - 1)),
                trace=draw(hash32) if method is Method.OPTIMISTIC else b"",
                terms=draw(st.integers(0, 1)) if method is Method.OPTIMISTIC else 0,
            ),
            draw(st.binary(min_size=1, max_size=60)),
        )
        for index in range(count)
    ]


@given(statements(), hash32, st.data())
def test_the_columns_give_every_statement_back(made, head, data):
    void = bytes(data.draw(st.lists(st.integers(0, 5), min_size=len(made), max_size=len(made))))
    authorisations = [SignedAuthorisation(0, b"private", 1 << 127, 5, 6, bytes(65))]
    encoded = build_batch(bytes(32), made, b"signature", void=void, authorisations=authorisations)
    batch = Batch.from_bytes(encoded)
    assert list(batch.authorisations) == authorisations
    assert (len(batch), batch.first, batch.void) == (len(made), made[0][0].number, void)
    assert list(batch.amounts) == [columns.amount for columns, _ in made]
    expected = [statement_hash(columns.pack(), private_hash(private)) for columns, private in made]
    found, last = batch.hash(made[0][0].method, head)
    assert found == expected
    for statement in expected:
        head = next_head(head, statement)
    assert last == head
    assert batch.root(found) == merkle.root([item + bytes((cause,)) for item, cause in zip(found, void, strict=True)])
    assert leaves(found, void)[0] == found[0] + void[:1]
    assert encode(decode(encoded)) == encoded
    assert batch.optimistic is (made[0][0].method is Method.OPTIMISTIC)
    assert list(batch.trace) == [columns.trace for columns, _ in made if columns.trace]


RUN = Columns(0, bytes(32), bytes(20), Method.OPTIMISTIC, 1, 1, 1, 1, bytes(32), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"trace": None},
        {"terms": None},
        {"terms": b"\x02"},
        {"terms": bytes(2)},
        {"trace": bytes(33)},
        {"trace": b""},
        {"terms": b""},
    ],
)
def test_a_run_has_both_of_its_columns(changes):
    item = decode(build_batch(bytes(32), [(RUN, b"x")], b"s")) | changes
    with pytest.raises(InputError):
        Batch.from_bytes(encode({name: value for name, value in item.items() if value is not None}))


@given(statements(most=3), st.integers(0, 100_000), st.integers(0, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_means_something_else(made, place, value):
    encoded = bytearray(build_batch(bytes(32), made, b"signature"))
    place %= len(encoded)
    if encoded[place] == value:
        return
    encoded[place] = value
    original = Batch.from_bytes(build_batch(bytes(32), made, b"signature"))
    try:
        assert Batch.from_bytes(bytes(encoded)) != original
    except InputError:
        pass


@given(st.binary(max_size=500))
def test_any_bytes_are_refused_with_a_code(data):
    try:
        Batch.from_bytes(data)
    except InputError:
        pass


@given(
    st.dictionaries(
        st.sampled_from(
            sorted(
                decode(build_batch(bytes(32), [(Columns(0, bytes(32), bytes(20), Method.TEE, 1, 1, 1, 1), b"x")], b"s"))
            )
        ),
        st.none() | st.integers(-3, 1 << 63) | st.binary(max_size=70) | st.lists(st.binary(max_size=32), max_size=3),
        max_size=3,
    )
)
def test_members_of_other_types_are_refused(changes):
    made = [(Columns(0, bytes(32), bytes(20), Method.TEE, 1, 1, 1, 1), b"x")]
    item = decode(build_batch(bytes(32), made, b"s")) | changes
    try:
        Batch.from_bytes(encode(item))
    except (InputError, struct.error) as error:
        assert isinstance(error, InputError)
