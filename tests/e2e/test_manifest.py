"""Manifests follow from their seeds, and perturb as often as they say."""

import itertools

from tests.e2e.manifest import Kind, P, generate


def test_a_seed_gives_one_manifest_and_one_course():
    for seed in range(20):
        manifest = generate(seed)
        assert manifest == generate(seed)
        assert 1 <= manifest.validators <= 4
        first, second = (list(itertools.islice(manifest.steps(), 30)) for _ in range(2))
        assert first == second
        assert all(what.validator < manifest.validators for step in first for what in step)
    assert {generate(seed).validators for seed in range(40)} == {1, 2, 3, 4}
    assert 7 in {generate(seed, long=True).validators for seed in range(40)}


def test_each_kind_comes_at_the_stated_rate():
    manifest = next(made for seed in range(100) if (made := generate(seed)).validators == 4)
    steps = list(itertools.islice(manifest.steps(), 2_000))
    for kind in Kind:
        rate = sum(what.kind is kind for step in steps for what in step) / (len(steps) * 4)
        assert abs(rate - P) < 0.02
    alone = next(made for seed in range(100) if (made := generate(seed)).validators == 1)
    parted = [what for step in itertools.islice(alone.steps(), 200) for what in step if what.kind is Kind.DISCONNECT]
    assert not parted
