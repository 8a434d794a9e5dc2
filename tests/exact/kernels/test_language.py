"""The machine for language programs against the specification's: every operator, every step, however it runs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact.compile.language_numpy import Prompt
from avow.exact.errors import BadRun
from avow.exact.hashing import Header, Recorder, Salts, Trace
from avow.exact.kernels.language_machine import KeptTrace, LanguageMachine
from avow.exact.kernels.language_run import Expected, Generated
from avow.exact.kernels.statistics import FastStatistics
from avow.exact.kernels.tracer import BulkTracer, Keeper, Plant, Planter
from avow.exact.program import Program
from avow.exact.specification import bounds, machine
from avow.exact.specification.cells import Parameters
from tests.exact.language_model import program as small

SEED = bytes(range(32))
PROMPT = [261, 5, 70, 116, 104, 289, 0, 12, 33, 33, 264]
SAMPLED = Parameters(temperature_m=20_000, temperature_s=14, seed=(7 << 40) + 3, max_tokens=200)


@pytest.fixture(scope="module")
def program() -> Program:
    found = small()
    bounds.check(found, FastStatistics())
    return found


@pytest.fixture(scope="module")
def fast(program: Program) -> LanguageMachine:
    return LanguageMachine(program)


def keeper(program: Program) -> Keeper:
    """Keeps what has a leaf."""
    return Keeper(Recorder(SEED, program.ranks), program.ranks)


def keeper_of_all(program: Program) -> Keeper:
    """Keeps every output: of operator i at a step in slot step · operators + i."""
    count = len(program.operators)
    return Keeper(Recorder(SEED, count), count)


def test_every_operator_at_every_step_is_the_specification_s(program: Program, fast: LanguageMachine) -> None:
    parameters = Parameters(20_000, 14, 99, 70 - len(PROMPT))
    slow, quick = keeper_of_all(program), keeper_of_all(program)
    expected = machine.run(program, [np.array(PROMPT, "<i4").tobytes()], parameters=parameters, tracer=slow)
    found = fast.run(PROMPT, parameters, tracer=quick, steps=expected.steps)
    assert np.array(found.tokens, "<i4").tobytes() == expected.outputs[0]
    assert expected.steps > 64, "the cache has a second page"
    assert quick.tensors.keys() == slow.tensors.keys()
    for slot, data in slow.tensors.items():
        assert quick.tensors[slot] == data, program.operators[slot % len(program.operators)].kind


@pytest.mark.parametrize("parameters", [Parameters(max_tokens=40), SAMPLED])
@pytest.mark.parametrize("tied", [True, False])
def test_runs_end_as_the_specification_says(parameters: Parameters, tied: bool) -> None:
    program = small(context=72, tied=tied)
    expected = machine.run(program, [np.array(PROMPT, "<i4").tobytes()], parameters=parameters)
    found = LanguageMachine(program, most=5).run(PROMPT, parameters)
    assert (found.steps, found.finish) == (expected.steps, expected.finish)
    assert np.array(found.tokens, "<i4").tobytes() == expected.outputs[0]


def test_a_prompt_may_be_split_in_any_way_and_equals_steps_one_by_one(program: Program, fast: LanguageMachine) -> None:
    whole = fast.run(PROMPT, SAMPLED, steps=80).tokens
    prompt = [*PROMPT, *whole[:-1]][:70]
    traces = []
    for most in (1, 2, 3, 7, 64, 128):
        tracer = BulkTracer(SEED, program.ranks)
        found, trace = LanguageMachine(program, most=most).trace(prompt, SAMPLED, tracer, steps=75)
        traces.append((found, trace.trace))
    assert all(each == traces[0] for each in traces)
    # What was generated step by step is what a prompt of the same tokens gives at the same places.
    assert traces[0][0].tokens == whole[70 - len(PROMPT) : 75 - len(PROMPT) + 1]


def test_bulk_traces_equal_recorded_ones(program: Program, fast: LanguageMachine) -> None:
    bulk, plain = BulkTracer(SEED, program.ranks), Recorder(SEED, program.ranks)
    one = fast.trace(PROMPT, SAMPLED, bulk, steps=66)
    other = fast.trace(PROMPT, SAMPLED, plain, steps=66)
    assert one[0] == other[0]
    assert one[1].header == other[1].header
    assert list(one[1].leaves) == list(other[1].leaves)


def test_numpy_s_whole_prompt_is_the_machine_s(program: Program, fast: LanguageMachine) -> None:
    tokens = [*PROMPT, *fast.run(PROMPT, SAMPLED, steps=78).tokens][:70]
    kept = keeper_of_all(program)
    fast.run(tokens, Parameters(), tracer=kept)
    count = len(program.operators)
    phases = [each.phase for each in program.operators]
    for number, values in Prompt(program, np.array(tokens)).outputs(phases.index(1)):
        operator = program.operators[number]
        if operator.kind == "append":
            continue  # rows here, pages there: `scores` and `mix` read both
        for step in range(len(tokens)):
            value = values[step][..., : step + 1] if operator.shape[-1] < 0 else values[step]
            data = value.astype(np.dtype(operator.type).newbyteorder("<")).tobytes()
            assert data == kept.tensors[step * count + number], (operator.kind, step)


def test_values_at_every_position_are_those_of_the_steps(program: Program, fast: LanguageMachine) -> None:
    tokens = [*PROMPT, *fast.run(PROMPT, SAMPLED, steps=78).tokens][:75]
    kept = keeper_of_all(program)
    fast.run(tokens, Parameters(), tracer=kept)
    count = len(program.operators)
    for number, operator in enumerate(program.operators):
        if operator.phase or operator.shape[-1] < 0 or operator.kind == "append":
            with pytest.raises(BadRun):
                fast.values(tokens, number)
            continue
        found = (
            LanguageMachine(program, most=16).values(tokens, number) if number % 7 == 0 else fast.values(tokens, number)
        )
        assert found.tobytes() == b"".join(kept.tensors[step * count + number] for step in range(len(tokens)))


def test_a_followed_run_gives_every_tensor_again(program: Program, fast: LanguageMachine) -> None:
    kept = keeper(program)
    generated, trace = fast.trace(PROMPT, SAMPLED, kept, steps=70)
    followed = fast.follow(PROMPT, SAMPLED, 70, Salts(SEED))
    assert followed.tokens == generated.tokens
    assert list(followed.leaves) == list(trace.leaves)
    for slot in sorted(kept.tensors, key=lambda slot: slot * 7919 % 10007):
        assert followed.tensor(slot) == kept.tensors[slot], slot
    last = program.slot(0, program.token)
    assert last is not None
    for slot in (70 * program.head.leaves, last, -1):
        with pytest.raises(BadRun):
            followed.tensor(slot)


def knowing(tokens: Sequence[int]) -> Expected:
    """Who knows what is chosen."""
    return lambda chosen: tokens[len(chosen) :]


@pytest.mark.parametrize("most", [1, 2, 5, 17, 64, 128])
def test_known_tokens_run_in_passes_with_the_same_bits(program: Program, fast: LanguageMachine, most: int) -> None:
    def tracer() -> BulkTracer:
        return BulkTracer(SEED, program.ranks)

    one, trace = fast.trace(PROMPT, SAMPLED, tracer(), steps=80)
    batched = LanguageMachine(program, most=most)
    for tokens in (one.tokens, one.tokens[:30], [*one.tokens, 1, 2, 3], ()):
        again, found = batched.trace(PROMPT, SAMPLED, tracer(), steps=80, expected=knowing(tokens))
        assert again == one
        assert found.header == trace.header
        assert list(found.leaves) == list(trace.leaves)
    followed = batched.follow(PROMPT, SAMPLED, 80, Salts(SEED), knowing(one.tokens))
    kept = keeper(program)
    fast.trace(PROMPT, SAMPLED, kept, steps=80)
    for slot in sorted(kept.tensors, key=lambda slot: slot * 7919 % 10007)[:200]:
        assert followed.tensor(slot) == kept.tensors[slot], slot


@given(
    wrong=st.lists(st.integers(0, 80), max_size=12),
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    stop=st.integers(1, 90),
)
@settings(max_examples=40, deadline=None)
def test_wrong_guesses_change_nothing(
    program: Program, fast: LanguageMachine, wrong: list[int], lengths: list[int], seed: int, stop: int
) -> None:
    parameters = Parameters(20_000, 14, seed, 66)
    seen: list[list[int]] = [[], []]

    def run(which: int, expected: Expected | None) -> tuple[Generated, Trace]:
        tracer = BulkTracer(SEED, program.ranks)
        ends = lambda token: seen[which].append(token) or len(seen[which]) == stop  # noqa: E731
        return fast.trace(PROMPT, parameters, tracer, on_token=ends, expected=expected)

    honest, trace = run(0, None)
    told = [(token + 1) % 290 if at in wrong else token for at, token in enumerate(honest.tokens)]
    asked = iter(lengths)
    found, same = run(1, lambda chosen: told[len(chosen) :][: next(asked, 70)])
    assert (found, seen[1]) == (honest, seen[0])
    assert same.header == trace.header
    assert list(same.leaves) == list(trace.leaves)


def test_a_kept_run_is_restored_from_its_parts(program: Program, fast: LanguageMachine) -> None:
    generated, trace = fast.trace(PROMPT, SAMPLED, BulkTracer(SEED, program.ranks), steps=70)
    assert isinstance(trace, KeptTrace)
    data = b"".join(trace.parts)
    assert len(data) <= fast.kept_bytes(70)
    header = Header.parse(trace.header)
    restored = fast.restore(PROMPT, SAMPLED, header, trace.header, memoryview(data))
    assert restored.tokens == generated.tokens
    assert list(restored.leaves) == list(trace.leaves)
    kept = keeper(program)
    fast.trace(PROMPT, SAMPLED, kept, steps=70)
    for slot, tensor in kept.tensors.items():
        if slot % 11 == 0 or slot // program.head.leaves in (0, 63, 64, 69):
            assert restored.tensor(slot) == tensor, slot
    for cut in (b"", data[:-1], data + b"\0"):
        with pytest.raises(BadRun):
            fast.restore(PROMPT, SAMPLED, header, trace.header, memoryview(cut))


def test_runs_beside_each_other_do_not_meet(fast: LanguageMachine) -> None:
    parameters = [Parameters(20_000, 14, seed, 60) for seed in range(8)]
    alone = [fast.run(PROMPT[: 3 + at], each) for at, each in enumerate(parameters)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda pair: fast.run(PROMPT[: 3 + pair[0]], pair[1]), enumerate(parameters)))
    assert together == alone


def test_the_seed_decides(fast: LanguageMachine) -> None:
    one = fast.run(PROMPT, SAMPLED)
    assert one == fast.run(PROMPT, SAMPLED)
    assert one.tokens != fast.run(PROMPT, Parameters(20_000, 14, 4, 200)).tokens


def test_the_caller_may_end_a_run(fast: LanguageMachine) -> None:
    seen: list[int] = []
    found = fast.run(PROMPT, SAMPLED, on_token=lambda token: seen.append(token) or len(seen) == 3)
    assert found.finish == "text"
    assert list(found.tokens) == seen
    assert found.steps == len(PROMPT) + 2


def test_a_planted_page_is_what_the_cache_holds(program: Program, fast: LanguageMachine) -> None:
    append = next(number for number, each in enumerate(program.operators) if each.kind == "append")
    planter = Planter(
        Recorder(SEED, program.ranks),
        [Plant(4, append, at=4 * 12 + 1, change=lambda value: 60 if value != 60 else 61)],
    )
    parameters = Parameters(max_tokens=20)
    honest, lying = (
        fast.trace(PROMPT, parameters, Recorder(SEED, program.ranks))[1],
        fast.trace(PROMPT, parameters, planter)[1],
    )
    count = program.head.leaves * len(PROMPT)
    changed = [program.place(slot) for slot in range(count) if honest.leaves[slot] != lying.leaves[slot]]
    step, number = changed[0]
    assert (step, number) >= (4, append), "a page without a leaf shows in what reads it"
    assert step == 4
    assert any(step > 4 for step, _ in changed), "later steps read the planted row"


@pytest.mark.parametrize(
    ("prompt", "parameters"),
    [
        ([], Parameters()),
        ([0] * 81, Parameters()),
        ([290], Parameters()),
        ([-1], Parameters()),
        ([1], Parameters(seed=1 << 64)),
    ],
)
def test_what_does_not_fit_is_refused(fast: LanguageMachine, prompt: list[int], parameters: Parameters) -> None:
    with pytest.raises(BadRun):
        fast.run(prompt, parameters)
