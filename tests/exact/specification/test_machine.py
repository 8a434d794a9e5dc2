"""The slow machine: modes, phases, ends; what it reads is what the openings say; hostile records stop by type."""

import dataclasses
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import AvowError
from avow.exact.errors import BadProgram, BadRun, NotOpened, Undefined
from avow.exact.hashing import ABSENT, CHUNK, Header, Recorder
from avow.exact.program import CACHE, INPUT, OPERATOR, PREVIOUS, Operator, Program, Source, Tensor
from avow.exact.specification import KINDS, Parameters, Step, check_form, machine, openings
from avow.exact.specification.checking import Form
from avow.exact.specification.lines import LINES, WHOLE
from avow.exact.tensors import RANGES, WIDTHS, pack, size_of, unpack
from tests.exact.programs import inputs_of, parameters_of, program_of, runs

SEED = bytes(range(32))


class Keeper(Recorder):
    """A recorder that keeps the values, too."""

    def __init__(self, program):
        super().__init__(SEED, len(program.operators))
        self.kept = {}

    def record(self, step, operator, data):
        super().record(step, operator, data)
        self.kept[step, operator] = bytes(data)


def traced(program, inputs, parameters=None):
    keeper = Keeper(program)
    return machine.run(program, inputs, parameters=parameters, tracer=keeper), keeper


# --- Modes ---------------------------------------------------------------------------------------------------------


def counting(mode):
    """x + the result of the step before, and its clip."""
    x = Operator("input", (Source(INPUT, 0, "int8", (1,), -9, 9),), "int8", (1,), -9, 9)
    other = Source(PREVIOUS, 1, "int16", (1,), -100, 100) if mode == "sequence" else x.source(OPERATOR, 0)
    total = Operator("add", (x.source(OPERATOR, 0), other), "int16", (1,), -100, 100, 0, {"ma": 1, "mb": 1, "s": 0})
    clip = Operator("clip", (total.source(OPERATOR, 1),), "int8", (1,), -5, 12)
    return Program.build(
        name="",
        mode=mode,
        context=5,
        inputs=[Tensor("int8", (1,), -9, 9)],
        constants=[],
        operators=[x, total, clip],
        outputs=[2, 1],
    )


def test_once_runs_each_sample_alone():
    found = machine.run(counting("once"), [pack("int8", [1, -4, 7])])
    assert (found.steps, found.finish) == (3, "whole")
    assert [unpack("int8", found.outputs[0]), unpack("int16", found.outputs[1])] == [(2, -5, 12), (2, -8, 14)]


def test_a_sequence_carries_what_the_step_before_gave():
    found = machine.run(counting("sequence"), [pack("int8", [1, -4, 7, 9])])
    assert [unpack("int8", found.outputs[0]), unpack("int16", found.outputs[1])] == [(1, -3, 4, 12), (1, -3, 4, 13)]


@given(st.integers(0, 1 << 32))
@settings(max_examples=40)
def test_a_batch_is_its_samples(seed):
    program = program_of(seed, mode="once")
    inputs = inputs_of(program, seed, steps=3)
    whole, alone = machine.run(program, inputs), []
    for step in range(3):
        sizes = [len(data) // 3 for data in inputs]
        alone.append(
            machine.run(
                program, [data[step * size : (step + 1) * size] for data, size in zip(inputs, sizes, strict=True)]
            )
        )
    assert whole.outputs == tuple(b"".join(parts) for parts in zip(*(run.outputs for run in alone), strict=True))


def test_inputs_that_do_not_fit_are_refused():
    program = counting("once")
    for inputs in ([], [b"\0", b"\0"], [b""], [bytes(6)], [pack("int8", [10])]):
        with pytest.raises(BadRun):
            machine.run(program, inputs)
    wider = program_of(3, mode="once", kinds=["clip"])
    if len(wider.inputs) > 1:
        inputs = inputs_of(wider, 0, steps=2)
        with pytest.raises(BadRun):
            machine.run(wider, [inputs[0], inputs[1][: len(inputs[1]) // 2]])


# --- Generating ----------------------------------------------------------------------------------------------------


def generator(**changes):
    program = program_of(11, mode="generate", context=8, kinds=["clip"])
    names = ("name", "mode", "context", "inputs", "constants", "operators", "outputs", "end", "token", "notes")
    return Program.build(**{**{name: getattr(program, name) for name in names}, "end": [], **changes})


def test_a_run_ends_by_length_context_or_end_token():
    program = generator()
    prompt = pack("int32", [1, 0])
    four = machine.run(program, [prompt], parameters=Parameters(0, 1, 0, 4))
    chosen = unpack("int32", four.outputs[0])
    assert (len(chosen), four.steps, four.finish) == (4, 5, "length")
    full = machine.run(program, [prompt], parameters=Parameters(0, 1, 0, 99))
    assert (len(full.outputs[0]) // 4, full.steps, full.finish) == (7, 8, "length")
    assert full.outputs[0].startswith(four.outputs[0])
    ended = machine.run(generator(end=[chosen[0]]), [prompt], parameters=Parameters(0, 1, 0, 4))
    assert (unpack("int32", ended.outputs[0]), ended.steps, ended.finish) == (chosen[:1], 2, "end")
    one = machine.run(generator(end=[chosen[0]]), [prompt], parameters=Parameters(0, 1, 0, 1))
    assert one.finish == "end"
    whole = machine.run(program, [pack("int32", [1] * 8)], parameters=Parameters(0, 1, 0, 4))
    assert (len(whole.outputs[0]) // 4, whole.steps, whole.finish) == (1, 8, "length")


def test_decoding_is_reading_what_was_chosen():
    """The tokens that a run chose, read as a prompt, lead to the same outputs at every step that both have."""
    program = generator()
    prompt = pack("int32", [1, 0])
    first, decoded = traced(program, [prompt], Parameters(9000, 12, 5, 4))
    again, read = traced(program, [prompt + first.outputs[0][:-4]], Parameters(9000, 12, 5, 1))
    assert again.outputs[0] == first.outputs[0][-4:]
    assert read.kept.items() <= decoded.kept.items()


def test_phase_one_runs_from_the_last_token_of_the_prompt_on():
    program = generator()
    run, keeper = traced(program, [pack("int32", [1, 0, 1])], Parameters(0, 1, 0, 2))
    trace = keeper.finish(
        program=program.root,
        steps=run.steps,
        prompt=3,
        parameters={},
        finish=run.finish,
        inputs=[],
        outputs=run.outputs,
    )
    assert Header.parse(trace.header).leaves == run.steps * len(program.operators) == len(trace.leaves)
    for at, leaf in enumerate(trace.leaves):
        step, operator = divmod(at, len(program.operators))
        assert (leaf == ABSENT) == (program.operators[operator].phase == 1 and step < 2)


def test_seed_and_temperature_choose():
    program = generator()
    prompt = pack("int32", [1])
    runs = {machine.run(program, [prompt], parameters=Parameters(1, 12, seed, 7)).outputs[0] for seed in range(4)}
    assert len(runs) > 1
    assert (
        len({machine.run(program, [prompt], parameters=Parameters(0, 1, seed, 7)).outputs[0] for seed in range(3)}) == 1
    )


@pytest.mark.parametrize(
    "parameters",
    [(-1, 1, 0, 1), (1 << 15, 1, 0, 1), (0, 0, 0, 1), (0, 46, 0, 1), (0, 1, -1, 1), (0, 1, 1 << 64, 1), (0, 1, 0, 0)],
)
def test_parameters_out_of_range_are_refused(parameters):
    with pytest.raises(BadRun):
        machine.run(generator(), [pack("int32", [1])], parameters=Parameters(*parameters))


@pytest.mark.slow
def test_a_cache_goes_on_beyond_a_page():
    """Page 1 of a cache begins at position 64; what scores and mix read there is what was appended."""
    program = program_of(2, mode="generate", context=70, kinds=["clip"])
    _, keeper = traced(program, inputs_of(program, 2, steps=67), Parameters(0, 1, 0, 1))
    for index, operator in enumerate(program.operators):
        if operator.kind != "append":
            continue
        page = unpack(operator.type, keeper.kept[66, index])
        rows = [unpack(operator.inputs[0].type, keeper.kept[step, operator.inputs[0].id]) for step in (64, 65, 66)]
        rows += [(0,) * len(rows[0])] * 61
        expected = zip(*rows, strict=True) if operator.integer("transposed") else rows
        assert page == tuple(value for row in expected for value in row)


# --- What is read --------------------------------------------------------------------------------------------------


class CountingCells(machine.MemoryCells):
    """Notes the chunks that are read."""

    def __init__(self, memory, operator, step):
        super().__init__(memory, operator, step)
        self.operator, self.chunks = operator, set()

    def _note(self, number, index, page=-1):
        source = self.operator.inputs[number]
        self.chunks.add((number, page, index * WIDTHS[source.type] // CHUNK))

    def row(self, number, start, count):
        for at in range(start, start + count):
            self._note(number, at)
        return super().row(number, start, count)

    def cached(self, number, position, start, count):
        page, slot = divmod(position, 64)
        width = self.operator.inputs[number].shape[1]
        for at in range(start, start + count):
            self._note(number, slot * width + at, page)
        return super().cached(number, position, start, count)

    def column(self, number, column):
        found = super().column(number, column)
        for position in range(len(found)):
            self._note(number, column * 64 + position % 64, position // 64)
        return found


class ReadCells(machine.MemoryCells):
    """Which values were read."""

    def __init__(self, memory, operator, step):
        super().__init__(memory, operator, step)
        self.read = set()

    def row(self, number, start, count):
        self.read |= {(number, at) for at in range(start, start + count)}
        return super().row(number, start, count)

    def cached(self, number, position, start, count):
        self.read |= {(number, position, at) for at in range(start, start + count)}
        return super().cached(number, position, start, count)


@given(runs())
@settings(max_examples=60)
def test_elements_read_no_more_than_the_openings_say_and_stay_in_their_interval(run):
    program, inputs, parameters = run
    memory = machine.Memory(
        program, [unpack(tensor.type, data) for tensor, data in zip(program.inputs, inputs, strict=True)]
    )
    prompt = len(inputs[0]) // 4 if program.mode == "generate" else 0
    for number in range(max(prompt, 1)):
        step = Step(number, prompt, parameters or Parameters())
        machine._step(program, memory, step, None)
        for operator, values in zip(program.operators, memory.now, strict=True):
            assert all(operator.low <= value <= operator.high for value in values)
            assert len(values) in (0, size_of(operator.shape, number + 1))
            most = openings(program.head, operator)
            if KINDS[operator.kind].refute:
                continue
            for index in range(0, len(values), max(1, len(values) // 7)):
                cells = CountingCells(memory, operator, step)
                assert KINDS[operator.kind].element(operator, cells, index, step) == values[index]
                assert len(cells.chunks) <= most


@given(runs(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_lines_are_the_element_functions_values_and_read_what_these_read(run, random):
    program, inputs, parameters = run
    memory = machine.Memory(
        program, [unpack(tensor.type, data) for tensor, data in zip(program.inputs, inputs, strict=True)]
    )
    prompt = len(inputs[0]) // 4 if program.mode == "generate" else 0
    for number in range(max(prompt, 1)):
        step = Step(number, prompt, parameters or Parameters())
        machine._step(program, memory, step, None)
        for operator, values in zip(program.operators, memory.now, strict=True):
            line = LINES.get(operator.kind)
            if line is None or not values:
                continue
            width = line.width(operator, step.positions)
            for _ in range(3):
                start = random.randrange(len(values))
                run = range(start, start + random.randint(1, min(width - start % width, len(values) - start)))
                if width == WHOLE:
                    run = sorted(random.sample(range(len(values)), min(len(values), 5)))
                cells, singly = ReadCells(memory, operator, step), ReadCells(memory, operator, step)
                shared = line.shared(operator, cells, start // width, step)
                found = line.values(operator, cells, run, step, shared)
                assert list(found) == [values[index] for index in run]
                for index in run:
                    KINDS[operator.kind].element(operator, singly, index, step)
                assert cells.read == singly.read


MOVING = ("input", "gather", "concat", "slice", "transpose", "reshape", "pad", "expand", "table")


# --- Hostile records -----------------------------------------------------------------------------------------------


class HostileCells:
    """Any value of the type at any index within the tensor; few reads."""

    def __init__(self, operator, draw):
        self.operator, self.draw, self.left = operator, draw, 100_000

    def row(self, number, start, count):
        source = self.operator.inputs[number]
        self.left -= count
        if (
            not 0 <= start <= start + count <= size_of(source.shape, 8) * (8 if source.origin == INPUT else 1)
            or self.left < 0
        ):
            raise NotOpened("outside")
        low, high = RANGES[source.type]
        return [self.draw.choice((low, high, 0, 1, self.draw.randint(low, high))) for _ in range(count)]

    def get(self, number, index):
        return self.row(number, index, 1)[0]

    def cached(self, number, position, start, count):
        assert 0 <= position < 8
        assert 0 <= start <= start + count <= prod(self.operator.inputs[number].shape) // 64
        return self.row(number, 0, count)

    def pick(self, number, indices):
        return [self.get(number, index) for index in indices]

    def column(self, number, column):
        assert 0 <= column < self.operator.inputs[number].shape[0]
        return self.row(number, 0, 8)

    def claimed(self, index):
        assert 0 <= index < size_of(self.operator.shape, 8)
        return self.draw.randint(-2, 9)


def mutated(operator, random):
    """The record with one thing or two changed, as a stranger may have written it."""
    for _ in range(random.randint(0, 2)):
        number = random.choice((0, 1, -1, 2, 7, 45, 1 << 15, 1 << 31, -(1 << 40), 1 << 60))
        match random.randint(0, 4):
            case 0 if operator.attributes:
                name = random.choice(sorted(operator.attributes))
                old = operator.attributes[name]
                value = tuple(random.choice((number, each)) for each in old) if isinstance(old, tuple) else number
                operator = dataclasses.replace(operator, attributes={**operator.attributes, name: value})
            case 1:
                operator = dataclasses.replace(
                    operator, shape=(*operator.shape[:-1], max(1, operator.shape[-1] + random.randint(-2, 2)))
                )
            case 2:
                operator = dataclasses.replace(operator, kind=random.choice(sorted(KINDS)))
            case 3:
                sources = list(operator.inputs)
                at = random.randrange(len(sources))
                sources[at] = dataclasses.replace(
                    sources[at], origin=random.randint(0, 4), low=-(1 << 31), high=(1 << 31) - 1
                )
                if sources[at].origin == CACHE:
                    sources[at] = dataclasses.replace(sources[at], shape=(64, 2))
                operator = dataclasses.replace(operator, inputs=tuple(sources))
            case _:
                operator = dataclasses.replace(
                    operator, inputs=operator.inputs[: random.randint(0, len(operator.inputs))] or operator.inputs
                )
    return operator


@given(st.integers(0, 1 << 32), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_a_record_that_passes_its_form_only_fails_by_type(seed, random):
    """What a referee runs on a stranger's record with a stranger's values: a number, or one of two errors."""
    program = program_of(seed, context=8)
    head = program.head
    for index, original in enumerate(program.operators):
        operator = mutated(original, random)
        try:
            kind = check_form(head, index, operator)
        except BadProgram as error:
            assert error.fields["operator"] == index
            continue
        step = Step(random.randrange(8), random.randint(0, 8), parameters_of(program, seed) or Parameters())
        size = size_of(operator.shape, step.positions)
        for at in (0, size - 1, random.randrange(size)):
            cells = HostileCells(operator, random)
            try:
                assert isinstance(kind.element(operator, cells, at, step), int)
                line = LINES.get(operator.kind)
                if line is not None:
                    shared = line.shared(operator, cells, at // line.width(operator, step.positions), step)
                    (value,) = line.values(operator, cells, [at], step, shared)
                    assert operator.low <= value <= operator.high or operator.kind in MOVING
                if kind.refute is not None:
                    assert kind.refute(operator, cells, random.randint(-1, 9), at, random.randint(-1, 9), step) in (
                        True,
                        False,
                    )
            except (Undefined, NotOpened) as error:
                assert isinstance(error, AvowError)


def test_a_form_is_checked_under_its_head():
    program = counting("once")
    assert Form.under(program.head, 1, program.operators[1]).context == 5
    with pytest.raises(BadProgram):
        check_form(program.head, 1, dataclasses.replace(program.operators[1], kind="nothing"))
