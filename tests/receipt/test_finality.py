"""Records and parameters of optimistic batches: one form each, whatever the bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.errors import InputError
from avow.receipt.encoding import decode, encode
from avow.receipt.finality import (
    BatchRecord,
    BatchState,
    BondProof,
    BondRecord,
    FinalityProof,
    OptimisticParameters,
    RecordMismatch,
)
from avow.receipt.merkle import SparseProof

wei = st.integers(0, (1 << 128) - 1)
uint64 = st.integers(0, (1 << 64) - 1)
numbers = st.sets(uint64, max_size=8).map(lambda found: tuple(sorted(found)))
records = st.builds(
    BatchRecord,
    root=st.binary(min_size=32, max_size=32),
    count=st.integers(0, 4_096),
    operator=st.binary(min_size=20, max_size=20),
    settled_clock=uint64,
    deadline_clock=uint64,
    held=wei,
    locked=wei,
    state=st.sampled_from(BatchState),
    overturned=numbers,
)


@given(records)
def test_batch_records_come_back(record):
    assert BatchRecord.from_bytes(record.to_bytes()) == record
    assert encode(decode(record.to_bytes())) == record.to_bytes()


@given(wei, wei, uint64)
def test_bond_records_come_back(one, other, disputes):
    bond = BondRecord(max(one, other), min(one, other), disputes)
    assert BondRecord.from_bytes(bond.to_bytes()) == bond
    assert bond.free == bond.amount - bond.locked


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(data):
    for kind in (BatchRecord, BondRecord):
        with pytest.raises(InputError):
            kind.from_bytes(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 1 << 63) | st.text(max_size=5) | st.binary(max_size=33),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_value_is_refused_with_a_code(value):
    for kind in (FinalityProof, BondProof, OptimisticParameters):
        with pytest.raises(InputError):
            kind.from_value(value)


def test_a_batch_that_lost_every_statement_fits():
    record = BatchRecord(
        bytes(32), 4_096, bytes(20), 1, 2, 3, 4, BatchState.OPEN, tuple(range((1 << 64) - 4_096, 1 << 64))
    )
    assert BatchRecord.from_bytes(record.to_bytes()) == record


def test_parameters_come_back():
    rules = OptimisticParameters(watchers=(bytes(20), b"\x01" * 20), bond_floor=7, audit_ppm=1_000_000)
    assert OptimisticParameters.from_value(rules.to_value()) == rules


def test_an_absent_bond_is_none_at_all():
    proof = BondProof(None, SparseProof(()))
    assert BondProof.from_value(proof.to_value()) == proof
    with pytest.raises(RecordMismatch):
        proof.check_membership(bytes(20), bytes(32), bytes(32))
