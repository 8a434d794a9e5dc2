"""Every kind of operator lies, at the first, middle and last position of it: the watcher's check convicts; honest runs never."""

import pytest

from avow.exact.tensors import size_of
from avow.nodes.watcher.states import Event
from tests.exact.programs import FREE
from tests.nodes.liars import Lie, LyingEngine
from tests.nodes.optimistic import body_of, small_program
from tests.soak_optimistic import answered, judged, runnable_of, soak


def test_honest_statements_are_agreed_to_and_lies_convicted():
    tally = soak(60, 40, seed=20, programs=3)
    assert tally["agreed"] == 60
    assert tally["convicted"] >= 30


def lies_in(operator, kind):
    """Whether it is of the kind, and its values can be others."""
    return operator.kind == kind and operator.low < operator.high


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory):
    """A program that has an operator of a kind, ready to run; several kinds share one."""
    made = []

    def find(kind):
        for runnable in made:
            if any(lies_in(operator, kind) for operator in runnable.exact.operators):
                return runnable
        for seed in range(400):
            program = small_program(seed, "sequence" if kind == "rope" else "once")
            if any(lies_in(operator, kind) for operator in program.operators):
                made.append(runnable_of(tmp_path_factory.mktemp(kind), program))
                return made[-1]
        raise AssertionError(kind)

    return find


@pytest.mark.parametrize("kind", [*FREE, "input"])
def test_a_lie_of_each_kind_is_convicted_at_its_first_middle_and_last_value(of_kind, kind):
    runnable = of_kind(kind)
    steps = min(3, runnable.exact.context)
    number = next(at for at, operator in enumerate(runnable.exact.operators) if lies_in(operator, kind))
    length = size_of(runnable.exact.operators[number].shape)
    told = 0
    for step in sorted({0, steps // 2, steps - 1}):
        for at in sorted({0, length // 2, length - 1}):
            for goes_on in (True, False):
                liar = LyingEngine(runnable.engine, [Lie(step, number, at, goes_on)])
                statement = answered(runnable.loaded, liar, body_of(runnable.exact, 7, steps))
                if not liar.told:  # a value that can be no other
                    continue
                told += 1
                found = judged(runnable, statement)
                assert found.event is Event.FAULT_SHOWN, (kind, step, at, goes_on, found)
                assert f"slot {step * len(runnable.exact.operators) + number}," in found.detail

    assert told
