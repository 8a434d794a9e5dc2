"""Noise, and choosing: published vectors, and every wrong choice has its witness while a right one has none."""

from collections import Counter
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.exact.specification import KINDS, Parameters, Step, refute
from avow.exact.specification.philox import noise, philox
from tests.exact.cells import ListCells, constant, operator, source, values

FULL = (1 << 32) - 1


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL, FULL), (FULL, FULL, FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(key, counter, expected):
    """Known answers of the authors' Random123 library, philox4x32-10."""
    assert philox(key, counter) == expected


def test_noise_takes_halves_in_order():
    seed = 0x299F31D0_A4093822
    words = philox((0xA4093822, 0x299F31D0), (5, 2, 0, 0))
    expected = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    assert [noise(seed, 5, index) for index in range(16, 24)] == expected


def test_gumbel_by_hand():
    record = operator("gumbel", [source([2]), constant([65536])], [2], -100, 100000)
    table = list(range(65536))
    step = 3
    assert values(record, [7, -700], table, step=step) == [7, -100]
    found = values(record, [7, -700], table, step=step, parameters=Parameters(3, 1, 42))
    assert found == [11 + noise(42, 3, 0), max(-100, -1050 + noise(42, 3, 1))]


def test_the_largest_noisy_score_is_a_sample():
    """2,000 draws from three tokens of probabilities 0.6, 0.3, 0.1: chi-square of 2 degrees below 13.8 (0.1 %)."""
    scale, share = 4096, (0.6, 0.3, 0.1)
    record = operator("gumbel", [source([3]), constant([65536])], [3])
    table = [round(-scale * log(-log((unit + 0.5) / 65536))) for unit in range(65536)]
    logits = [round(scale * log(part)) for part in share]
    cells = ListCells(logits, table)
    element = KINDS["gumbel"].element
    counts = Counter()
    for step in range(2000):
        at = Step(step, 1, Parameters(1 << 14, 14, 77))
        noisy = [element(record, cells, index, at) for index in range(3)]
        counts[noisy.index(max(noisy))] += 1
    assert sum((counts[token] - 2000 * part) ** 2 / (2000 * part) for token, part in enumerate(share)) < 13.8
    assert exp(0) == 1


rows = st.lists(st.integers(-3, 3), min_size=1, max_size=8)


@given(rows)
def test_argmax_is_the_lowest_of_the_largest(row):
    record = operator("argmax", [source([len(row)])], [1])
    (found,) = values(record, row)
    assert row[found] == max(row)
    assert max(row) not in row[:found]


@given(rows, st.integers(1, 8))
def test_topk_is_a_stable_sort(row, k):
    k = min(k, len(row))
    record = operator("topk", [source([len(row)])], [k], k=k)
    found = values(record, row)
    assert found == [at for _, at in sorted((-value, at) for at, value in enumerate(row))][:k]


@given(rows, st.integers(1, 4), st.data())
def test_every_wrong_choice_has_a_witness_and_no_right_one(row, k, data):
    k = min(k, len(row))
    record = operator("topk", [source([2, len(row)])], [2, k], k=k)
    x = [9] * len(row) + row
    right = values(record, x)
    place = st.integers(-2, len(row) + 1)
    claims = data.draw(
        st.one_of(st.just(right[k:]), st.permutations(right[k:]), st.lists(place, min_size=k, max_size=k))
    )
    cells = ListCells(x, claims=right[:k] + list(claims))
    refuted = {
        (index, witness)
        for index in range(k, 2 * k)
        for witness in range(-1, len(row) + 1)
        if refute(record, cells, cells.claims[index], index, witness, Step(0))
    }
    assert bool(refuted) == (list(claims) != right[k:])
    if refuted:
        first = next(index for index in range(k) if claims[index] != right[k + index])
        assert any(index == k + first for index, _ in refuted)


def test_a_kind_without_refutation_is_never_refuted():
    record = operator("clip", [source([1])], [1])
    assert not refute(record, ListCells([5]), 99, 0, 0, Step(0))
