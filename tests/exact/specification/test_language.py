"""Operators of language models: by hand, and against a history kept as plain lists."""

from fractions import Fraction
from math import floor
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from avow.exact.program import INPUT, PREVIOUS, Source
from tests.exact.cells import cache, constant, operator, source, values


def test_token_reads_the_prompt_then_what_was_chosen():
    record = operator("token", [source([1], origin=INPUT), source([1], origin=PREVIOUS)], [1])
    found = [values(record, [7, 8], [9], step=step, prompt=2)[0] for step in range(4)]
    assert found == [7, 8, 9, 9]


def test_rope_turns_pairs():
    unit = 1 << 14
    halves = operator("rope", [source([1, 4]), constant([3, 2]), constant([3, 2])], [1, 4], interleaved=0)
    mixed = operator("rope", [source([1, 4]), constant([3, 2]), constant([3, 2])], [1, 4], interleaved=1)
    # At step 2, pair 0 turns by a quarter, pair 1 stays.
    cosine, sine = [9, 9, 9, 9, 0, unit], [9, 9, 9, 9, unit, 0]
    assert values(halves, [10, 20, 30, 40], cosine, sine, step=2, context=3) == [-30, 20, 10, 40]
    assert values(mixed, [10, 20, 30, 40], cosine, sine, step=2, context=3) == [-20, 10, 30, 40]


@given(st.integers(0, 1 << 32), st.integers(0, 1))
def test_rope_is_a_rounded_rotation(seed, interleaved):
    random = Random(seed)
    heads, half = random.randint(1, 3), random.randint(1, 4)
    x = [random.randint(-2000, 2000) for _ in range(heads * 2 * half)]
    cosine, sine = ([random.randint(-16384, 16384) for _ in range(half)] for _ in range(2))
    record = operator(
        "rope",
        [source([heads, 2 * half]), constant([1, half]), constant([1, half])],
        [heads, 2 * half],
        interleaved=interleaved,
    )
    found = values(record, x, cosine, sine, context=1)
    for head in range(heads):
        for pair in range(half):
            first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
            a, b = x[head * 2 * half + first], x[head * 2 * half + second]
            turned = a * cosine[pair] - b * sine[pair], a * sine[pair] + b * cosine[pair]
            expected = [floor(Fraction(value, 16384) + Fraction(1, 2)) for value in turned]
            assert [found[head * 2 * half + first], found[head * 2 * half + second]] == expected


def test_append_keeps_earlier_rows_of_its_page():
    for transposed in (0, 1):
        shape = (2, 64) if transposed else (64, 2)
        record = operator(
            "append",
            [source([1, 2]), Source(PREVIOUS, 0, "int32", shape, -(1 << 31), (1 << 31) - 1)],
            shape,
            transposed=transposed,
        )
        page = [0] * 128
        for step in range(70):
            page = values(record, [step + 1, -step - 1], page, step=step, prompt=1)
            first = step // 64 * 64
            rows = [[at + 1, -at - 1] if at <= step else [0, 0] for at in range(first, first + 64)]
            if transposed:
                rows = zip(*rows, strict=True)
            assert page == [value for row in rows for value in row]


@given(st.integers(0, 1 << 32))
def test_scores_and_mix_go_over_the_history_by_groups(seed):
    random = Random(seed)
    groups, share, width, step = random.randint(1, 3), random.randint(1, 3), random.randint(1, 4), random.randint(0, 5)
    heads = groups * share
    rows = [[random.randint(-127, 127) for _ in range(groups * width)] for _ in range(step + 1)]
    q = [random.randint(-127, 127) for _ in range(heads * width)]
    p = [random.randint(0, 255) for _ in range(heads * (step + 1))]
    found = values(
        operator("scores", [source([heads, width]), cache([64, groups * width])], [heads, -1], m=1, s=1),
        q,
        rows,
        step=step,
    )
    mixed = values(
        operator("mix", [source([heads, -1]), cache([groups * width, 64])], [heads, width], m=1, s=1),
        p,
        rows,
        step=step,
    )
    for head in range(heads):
        own = [row[head // share * width :][:width] for row in rows]
        query, weights = q[head * width :][:width], p[head * (step + 1) :][: step + 1]
        sums = [sum(a * b for a, b in zip(query, key, strict=True)) for key in own]
        assert found[head * (step + 1) :][: step + 1] == [(total + 1) // 2 for total in sums]
        sums = [sum(weight * value[d] for weight, value in zip(weights, own, strict=True)) for d in range(width)]
        assert mixed[head * width :][:width] == [(total + 1) // 2 for total in sums]
