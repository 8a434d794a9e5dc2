"""Both machines against the slow one: every kind, every value of every operator, by the trace that binds them all."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avow.exact.compile.leaves import with_leaves
from avow.exact.errors import BadRun
from avow.exact.hashing import Recorder
from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.tracer import BulkTracer, Keeper, Plant, Planter
from avow.exact.specification import machine as slow
from tests.exact.programs import FREE, inputs_of, program_of

SEED = bytes(range(32))
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


def arrays_of(program, inputs):
    return [
        np.frombuffer(data, DTYPES[tensor.type]).reshape(-1, *tensor.shape)
        for data, tensor in zip(inputs, program.inputs, strict=True)
    ]


def reference(program, inputs):
    """(outputs' bytes, trace) of the slow machine."""
    recorder = Recorder(SEED, program.ranks)
    run = slow.run(program, inputs, tracer=recorder)
    trace = recorder.finish(
        program=program.root,
        steps=run.steps,
        prompt=0,
        parameters={},
        finish="whole",
        inputs=inputs,
        outputs=run.outputs,
    )
    return list(run.outputs), trace


def assert_equal(program, inputs, kernels, tracer_of=BulkTracer):
    outputs, trace = reference(program, inputs)
    machine = Machine(program, kernels=kernels)
    found, found_trace = machine.trace(arrays_of(program, inputs), tracer_of(SEED, program.ranks))
    differing = [at for at, (a, b) in enumerate(zip(found_trace.leaves, trace.leaves, strict=True)) if a != b]
    assert not differing, f"{program.place(differing[0])}: {program.operators[program.place(differing[0])[1]]}"
    assert [each.tobytes() for each in found] == outputs
    assert (found_trace.header, found_trace.trace) == (trace.header, trace.trace)


@pytest.mark.parametrize("kernels", ["numba", "numpy"])
@given(seed=st.integers(0, (1 << 32) - 1), mode=st.sampled_from(("once", "sequence")))
@settings(max_examples=40, **QUIET)
def test_every_value_is_the_specifications(kernels, seed, mode):
    program = program_of(seed, mode=mode)
    if seed & 1:
        program = with_leaves(program)
    assert_equal(program, inputs_of(program, seed), kernels)


@pytest.mark.parametrize("kind", sorted(FREE))
def test_each_kind_by_itself(kind):
    seen = False
    for seed in range(40):
        program = program_of(seed, mode="sequence" if kind == "rope" else "once", kinds=[kind])
        if not any(operator.kind == kind for operator in program.operators):
            continue
        for kernels in ("numba", "numpy"):
            assert_equal(program, inputs_of(program, seed, steps=1), kernels)
        if seen:
            return
        seen = True
    assert seen, "no random program has this kind"


class CopyingTracer(Recorder):
    """A tracer that the machine does not know: it is called for each operator."""


@pytest.mark.parametrize("kernels", ["numba", "numpy"])
@pytest.mark.parametrize("mode", ["once", "sequence"])
def test_any_tracer_sees_the_same(kernels, mode):
    for seed in range(5):
        program = program_of(seed, mode=mode)
        assert_equal(program, inputs_of(program, seed), kernels, CopyingTracer)


def toggled(program, operator):
    """A change of the lowest byte that stays within the operator's interval."""
    low, high = program.operators[operator].low, program.operators[operator].high
    return lambda value: low & 255 if value != low & 255 else high & 255


@pytest.mark.parametrize("kernels", ["numba", "numpy"])
def test_a_planted_record_changes_one_leaf(kernels):
    program = program_of(7, mode="sequence")
    arrays = arrays_of(program, inputs_of(program, 7, steps=3))
    count = len(program.operators)
    machine = Machine(program, kernels=kernels)
    expected, honest = machine.trace(arrays, BulkTracer(SEED, count))
    for operator in range(count):
        planter = Planter(BulkTracer(SEED, count), [Plant(1, operator, goes_on=False)])
        outputs, trace = machine.trace(arrays, planter)
        assert all((a == b).all() for a, b in zip(outputs, expected, strict=True))
        differing = [at for at, (a, b) in enumerate(zip(trace.leaves, honest.leaves, strict=True)) if a != b]
        assert differing == [count + operator]


@pytest.mark.parametrize("kernels", ["numba", "numpy"])
def test_a_planted_value_goes_on_and_is_kept(kernels):
    program = program_of(7, mode="once")
    arrays = arrays_of(program, inputs_of(program, 7, steps=2))
    count = len(program.operators)
    machine = Machine(program, kernels=kernels)
    honest = Keeper(BulkTracer(SEED, count), count)
    machine.trace(arrays, honest)
    keeper = Keeper(BulkTracer(SEED, count), count)
    planter = Planter(keeper, [Plant(1, 0, change=toggled(program, 0))])
    machine.trace(arrays, planter)
    differing = [slot for slot, value in honest.tensors.items() if keeper.tensors[slot] != value]
    assert len(planter.planted) == 1
    assert differing[0] == count
    assert all(slot >= count for slot in differing)
    # Whoever reads the first operator sees the change, unless the values meet again.
    assert len(differing) > 1


def test_a_planted_value_does_not_leave_its_interval():
    program = program_of(7, mode="once")
    arrays = arrays_of(program, inputs_of(program, 7))
    operator = next(at for at, each in enumerate(program.operators) if each.type == "int8" and each.low > -128)
    planter = Planter(BulkTracer(SEED, program.ranks), [Plant(0, operator, change=lambda _: 128)])
    with pytest.raises(ValueError, match="outside of its interval"):
        Machine(program).run(arrays, planter)


@pytest.mark.parametrize("kernels", ["numba", "numpy"])
def test_inputs_that_do_not_fit_are_refused(kernels):
    program = next(found for found in map(program_of, range(99)) if found.mode == "once" and len(found.inputs) == 1)
    tensor = program.inputs[0]
    machine = Machine(program, kernels=kernels)
    good = np.zeros((2, *tensor.shape), DTYPES[tensor.type])
    machine.run([good])
    bad = good.copy()
    bad.reshape(-1)[-1] = -128
    wrong = [[], [good, good], [good[:0]], [good.astype(np.int64)], [good[:, :1][..., None]], [bad]]
    wrong.append([np.repeat(good, program.context, axis=0)])
    for inputs in wrong:
        with pytest.raises(BadRun):
            machine.run(inputs)
    machine.run([good])


def test_a_program_that_generates_is_not_for_this_machine():
    with pytest.raises(ValueError, match="machine of their own"):
        Machine(program_of(1, mode="generate"))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mode", ["once", "sequence"])
def test_short_and_long_runs_have_the_recorders_trace(mode, seed):
    program = with_leaves(program_of(seed, mode=mode, context=70))
    machine = Machine(program)
    for steps in (1, 2, 3, 70):
        inputs = inputs_of(program, seed, steps=steps)
        outputs, trace = reference(program, inputs)
        for _ in range(2):
            found, found_trace = machine.trace(arrays_of(program, inputs), BulkTracer(SEED, program.ranks))
            assert [each.tobytes() for each in found] == outputs
            assert found_trace == trace


def test_short_runs_are_traced_in_many_threads():
    program = program_of(5, mode="once")
    machine = Machine(program)
    asked = [arrays_of(program, inputs_of(program, seed, steps=1)) for seed in range(60)]

    def traced(arrays):
        outputs, trace = machine.trace(arrays, BulkTracer(SEED, program.ranks))
        return [each.tobytes() for each in outputs], trace

    expected = [traced(each) for each in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(traced, asked)) == expected


def test_a_tracer_that_saw_a_longer_run_before():
    """Leaves beyond a run's own are none of its trace."""
    program = program_of(6, mode="once")
    short, long = (arrays_of(program, inputs_of(program, 6, steps=steps)) for steps in (1, 3))
    machine, tracer = Machine(program), BulkTracer(SEED, program.ranks)
    machine.trace(long, tracer)
    assert machine.trace(short, tracer)[1] == machine.trace(short, BulkTracer(SEED, program.ranks))[1]


def test_a_bad_input_of_a_traced_run_is_refused_and_the_next_run_is_right():
    program = next(
        each for each in (program_of(seed, mode="once") for seed in range(100))
        if any(item.low > np.iinfo(DTYPES[item.type]).min for item in each.inputs)
    )  # fmt: skip
    at = next(at for at, each in enumerate(program.inputs) if each.low > np.iinfo(DTYPES[each.type]).min)
    good = arrays_of(program, inputs_of(program, 1, steps=1))
    bad = list(good)
    bad[at] = np.full_like(bad[at], program.inputs[at].low - 1)
    machine = Machine(program)
    _, before = machine.trace(good, BulkTracer(SEED, program.ranks))
    with pytest.raises(BadRun):
        machine.trace(bad, BulkTracer(SEED, program.ranks))
    assert machine.trace(good, BulkTracer(SEED, program.ranks))[1] == before
