"""Multiproofs: right ones lead to the root, each set of leaves has exactly one, and everything else is refused or leads elsewhere."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.exact import openings
from avow.receipt import merkle
from avow.receipt.merkle import NotIncluded


def leaf_hashes(total):
    return [merkle.leaf_hash(b"%d" % index) for index in range(total)]


@st.composite
def cases(draw):
    total = draw(st.integers(1, 70))
    indices = draw(st.sets(st.integers(0, total - 1), min_size=1, max_size=12))
    return total, indices


@given(cases())
def test_a_multiproof_leads_to_the_root(case):
    total, indices = case
    hashes = leaf_hashes(total)
    levels = openings.levels_over(hashes)
    assert levels == merkle.tree([b"%d" % index for index in range(total)])
    proof = openings.multiproof(levels, indices)
    assert len(proof) == len(openings.missing(total, indices))
    assert openings.root_of(total, {index: hashes[index] for index in indices}, proof) == merkle.root_of_hashes(hashes)


@given(cases())
def test_one_leaf_is_the_inclusion_path(case):
    total, indices = case
    index = min(indices)
    data = [b"%d" % leaf for leaf in range(total)]
    assert openings.multiproof(merkle.tree(data), [index]) == merkle.path(data, index)


@given(cases(), st.data())
def test_no_hash_more_or_less(case, data):
    total, indices = case
    hashes = leaf_hashes(total)
    proof = openings.multiproof(openings.levels_over(hashes), indices)
    opened = {index: hashes[index] for index in indices}
    with pytest.raises(NotIncluded, match="more hashes"):
        openings.root_of(total, opened, [*proof, bytes(32)])
    if proof:
        with pytest.raises(NotIncluded, match="lacks hashes"):
            openings.root_of(total, opened, proof[:-1])
        at = data.draw(st.integers(0, len(proof) - 1))
        with pytest.raises(NotIncluded, match="32 bytes"):
            openings.root_of(total, opened, [*proof[:at], proof[at] + b"\0", *proof[at + 1 :]])
        changed = [*proof[:at], sha256(proof[at]).digest(), *proof[at + 1 :]]
        assert openings.root_of(total, opened, changed) != merkle.root_of_hashes(hashes)


@given(cases(), st.data())
def test_a_changed_or_moved_leaf_leads_elsewhere(case, data):
    total, indices = case
    hashes = leaf_hashes(total)
    proof = openings.multiproof(openings.levels_over(hashes), indices)
    index = data.draw(st.sampled_from(sorted(indices)))
    opened = {other: hashes[other] for other in indices} | {index: bytes(32)}
    assert openings.root_of(total, opened, proof) != merkle.root_of_hashes(hashes)
    elsewhere = data.draw(st.integers(0, total - 1))
    if elsewhere not in indices:
        moved = {other: hashes[other] for other in indices if other != index} | {elsewhere: hashes[index]}
        try:
            assert openings.root_of(total, moved, proof) != merkle.root_of_hashes(hashes)
        except NotIncluded:
            pass


@pytest.mark.parametrize(
    ("total", "opened"),
    [(4, {}), (4, {4: bytes(32)}), (4, {-1: bytes(32)}), (0, {0: bytes(32)}), (0, {}), ((1 << 63) + 1, {0: bytes(32)})],
)
def test_leaves_outside_of_the_tree(total, opened):
    with pytest.raises(NotIncluded, match="outside"):
        openings.root_of(total, opened, [])


def test_the_greatest_tree():
    proof = [bytes(32)] * 63
    assert len(openings.root_of(1 << 63, {0: bytes(32)}, proof)) == 32


def test_two_counts_have_two_shapes_or_roots():
    """The last leaf of five moves up alone: as leaf 4 of 8 it would need partners."""
    hashes = leaf_hashes(5)
    proof = openings.multiproof(openings.levels_over(hashes), [4])
    assert openings.root_of(5, {4: hashes[4]}, proof) == merkle.root_of_hashes(hashes)
    with pytest.raises(NotIncluded):
        openings.root_of(8, {4: hashes[4]}, proof)


@pytest.mark.parametrize(
    ("indices", "expected"), [([], True), ([3], True), ([1, 2, 9], True), ([1, 1], False), ([2, 1], False)]
)
def test_ascending(indices, expected):
    assert openings.ascending(indices) is expected
