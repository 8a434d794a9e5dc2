"""The slow machine: runs a whole program by its element functions alone. Every other machine gives the same bits.

Rules:
1. A step runs all operators in order. Those of phase 1 run from step prompt − 1 on.
2. once and sequence: as many steps as the inputs have. An output is [steps, …]. In `once` no step knows another.
3. generate: the steps after the prompt's read the token chosen by the step before. The run ends, in this order, when an end token was
   chosen ("end"), when max_tokens were chosen or the context is full ("length"). The output is the chosen tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from avow.exact.errors import BadRun, NotOpened, Undefined
from avow.exact.hashing import Buffer, Finish, Tracer
from avow.exact.program import CONSTANT, INPUT, PREVIOUS, Operator, Program
from avow.exact.specification import KINDS
from avow.exact.specification.cells import Parameters, Step
from avow.exact.specification.language import PAGE
from avow.exact.tensors import WIDTHS, pack, size_of, unpack

Values = Sequence[int]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave: the number of steps, the outputs' bytes over all steps, and why it ended."""

    steps: int
    outputs: tuple[bytes, ...]
    finish: Finish


class Memory:
    """What a run keeps: this step's and the previous step's outputs, the last output of each page of an `append`, the inputs."""

    def __init__(self, program: Program, inputs: Sequence[Values]) -> None:
        self.inputs = inputs
        self.constants = [constant.values() for constant in program.constants]
        self.now: list[Values] = []
        self.previous: list[Values] = []
        self.pages: dict[tuple[int, int], Values] = {}

    def next_step(self) -> None:
        self.previous, self.now = self.now, []


class MemoryCells:
    """Cells over a run's memory, for one operator at one step."""

    def __init__(self, memory: Memory, operator: Operator, step: Step) -> None:
        self._memory = memory
        self._operator = operator
        self._step = step

    def _values(self, number: int) -> Values:
        source = self._operator.inputs[number]
        if source.origin == CONSTANT:
            return self._memory.constants[source.id]
        if source.origin == INPUT:
            return self._memory.inputs[source.id]
        if source.origin == PREVIOUS:
            if self._step.step == 0:
                return (0,) * size_of(source.shape)
            return self._memory.previous[source.id]
        return self._memory.now[source.id]

    def row(self, number: int, start: int, count: int) -> Values:
        values = self._values(number)
        if not 0 <= start <= start + count <= len(values):
            raise Undefined("an index is outside of its tensor")
        return values[start : start + count]

    def get(self, number: int, index: int) -> int:
        return self.row(number, index, 1)[0]

    def pick(self, number: int, indices: Values) -> Values:
        return [self.get(number, index) for index in indices]

    def cached(self, number: int, position: int, start: int, count: int) -> Values:
        source = self._operator.inputs[number]
        page, slot = divmod(position, PAGE)
        values = self._memory.pages[source.id, page]
        width = source.shape[1]
        return values[slot * width + start : slot * width + start + count]

    def column(self, number: int, column: int) -> Values:
        source = self._operator.inputs[number]
        pages = (self._memory.pages[source.id, page] for page in range(self._step.step // PAGE + 1))
        found = [value for page in pages for value in page[column * PAGE : (column + 1) * PAGE]]
        return found[: self._step.positions]

    def claimed(self, index: int) -> int:
        raise NotOpened("an honest run claims nothing", index=index)


def run(
    program: Program, inputs: Sequence[Buffer], *, parameters: Parameters | None = None, tracer: Tracer | None = None
) -> Run:
    """Run a program on its inputs' bytes, [steps, …] each; for generate, the prompt's tokens. Raises BadRun."""
    values = _inputs(program, inputs)
    memory = Memory(program, values)
    if program.mode == "generate":
        return _generate(program, memory, len(values[0]), parameters or Parameters(), tracer)
    steps = len(values[0]) // size_of(program.inputs[0].shape)
    outputs: list[list[int]] = [[] for _ in program.outputs]
    for step in range(steps):
        _step(program, memory, Step(step), tracer)
        for output, number in zip(outputs, program.outputs, strict=True):
            output.extend(memory.now[number])
    packed = (
        pack(program.operators[number].type, output) for number, output in zip(program.outputs, outputs, strict=True)
    )
    return Run(steps, tuple(packed), "whole")


def _inputs(program: Program, inputs: Sequence[Buffer]) -> list[Values]:
    """The inputs' values, all of equally many steps within the context, all within their intervals."""
    if len(inputs) != len(program.inputs):
        raise BadRun("the number of inputs is wrong", expected=len(program.inputs), found=len(inputs))
    found: list[Values] = []
    counts = set()
    for wanted, data in zip(program.inputs, inputs, strict=True):
        size = size_of(wanted.shape) * WIDTHS[wanted.type]
        steps, rest = divmod(len(data), size)
        if rest or not 1 <= steps <= program.context:
            raise BadRun("an input has no whole number of steps, or none, or more than the context", input=len(found))
        values = unpack(wanted.type, bytes(data))
        if not wanted.low <= min(values) <= max(values) <= wanted.high:
            raise BadRun("an input has a value outside of its interval", input=len(found))
        found.append(values)
        counts.add(steps)
    if len(counts) != 1:
        raise BadRun("the inputs have different numbers of steps")
    return found


def _step(program: Program, memory: Memory, step: Step, tracer: Tracer | None) -> None:
    memory.next_step()
    for index, operator in enumerate(program.operators):
        if operator.phase and step.step < step.prompt - 1:
            memory.now.append(())
            continue
        element = KINDS[operator.kind].element
        cells = MemoryCells(memory, operator, step)
        values = tuple(element(operator, cells, at, step) for at in range(size_of(operator.shape, step.positions)))
        memory.now.append(values)
        if operator.kind == "append":
            memory.pages[index, step.step // PAGE] = values
        if tracer is not None:
            tracer.record(step.step, index, pack(operator.type, values))


def _generate(program: Program, memory: Memory, prompt: int, parameters: Parameters, tracer: Tracer | None) -> Run:
    check_parameters(parameters)
    chosen: list[int] = []
    finish: Finish | None = None
    step = 0
    while finish is None:
        _step(program, memory, Step(step, prompt, parameters), tracer)
        step += 1
        if step >= prompt:
            chosen.append(memory.now[program.token][0])
            if chosen[-1] in program.end:
                finish = "end"
            elif len(chosen) == parameters.max_tokens or step == program.context:
                finish = "length"
    return Run(step, (pack("int32", chosen),), finish)


def check_parameters(parameters: Parameters) -> None:
    """The parameters are within what `Parameters` says. Raises BadRun."""
    holds = (
        0 <= parameters.temperature_m < 1 << 15
        and 1 <= parameters.temperature_s <= 45
        and 0 <= parameters.seed < 1 << 64
        and parameters.max_tokens >= 1
    )
    if not holds:
        raise BadRun("a sampling parameter is out of range")
