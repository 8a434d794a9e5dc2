"""The fast machine for programs that generate.

Rules:
1. Its bits are the specification's, however a prompt is split into passes, whatever the number of runs at once, traced or not.
2. A prompt but for its last token runs in passes of many steps; from the last token on, step by step.
3. A machine may run in many threads at once: each run has a lane, its own memory. Lanes are kept for the next run.
4. A run ends as specification/machine.py says; or, when the caller has had enough, with finish "text".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.errors import BadRun
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Finish, Salts, Trace, Tracer
from avow.exact.kernels import dispatch
from avow.exact.kernels.lane import Lane
from avow.exact.kernels.language import PAGE, LanguageLayout
from avow.exact.kernels.language_rows import PAGES, RECORD_STEPS, SEED_HIGH, SEED_LOW, TEMPERATURE_M, TEMPERATURE_S
from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.rows import KEY, RECORD, SAMPLES, STEP
from avow.exact.kernels.tracer import BulkTracer, Leaves
from avow.exact.program import Program
from avow.exact.specification.cells import Parameters
from avow.exact.specification.machine import check_parameters
from avow.exact.tensors import WIDTHS, size_of

MOST_STEPS = 128
"""Steps of a prompt in one pass."""

OnToken = Callable[[int], bool | None]
"""Called with each chosen token; True ends the run."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The chosen tokens, the number of steps, why it ended."""

    tokens: tuple[int, ...]
    steps: int
    finish: Finish


class LanguageMachine:
    """Runs a program of mode `generate`, which specification.bounds has checked."""

    def __init__(self, program: Program, *, most: int = MOST_STEPS) -> None:
        """Lay out the program; kernels that nobody needed before are compiled, or loaded from the cache. `most`: steps in one pass."""
        if program.mode != "generate":
            raise ValueError("this machine is for programs that generate")
        self.program = program
        self._most = max(1, min(most, program.context))
        self._layout = LanguageLayout(program, self._most)
        self._idle: list[Lane] = []
        self._vocabulary = program.inputs[0].high + 1

    def run(
        self,
        prompt: Sequence[int],
        parameters: Parameters,
        *,
        tracer: Tracer | None = None,
        on_token: OnToken | None = None,
        steps: int | None = None,
    ) -> Generated:
        """Tokens after a prompt. With `steps`, exactly so many, whatever was chosen: to follow somebody else's run. Raises BadRun."""
        self._check(prompt, parameters, steps)
        lane = self._take()
        run = _Run(self.program, self._layout, lane, prompt, parameters, tracer)
        try:
            return run.all(self._most, on_token, steps)
        finally:
            self._idle.append(lane)

    def _check(self, prompt: Sequence[int], parameters: Parameters, steps: int | None) -> None:
        check_parameters(parameters)
        if not 1 <= len(prompt) <= self.program.context:
            raise BadRun(
                "the prompt is empty, or longer than the context", tokens=len(prompt), context=self.program.context
            )
        if not all(self.program.inputs[0].low <= token < self._vocabulary for token in prompt):
            raise BadRun("an input has a value outside of its interval", input=0)
        if steps is not None and not len(prompt) <= steps <= self.program.context:
            raise BadRun("so many steps are fewer than the prompt, or more than the context", steps=steps)

    def trace(
        self,
        prompt: Sequence[int],
        parameters: Parameters,
        tracer: Tracer,
        *,
        on_token: OnToken | None = None,
        steps: int | None = None,
        finish: Finish | None = None,
    ) -> tuple[Generated, Trace]:
        """A run and its finished trace; `finish` over the run's own when somebody else's run is followed. Raises BadRun."""
        found = self.run(prompt, parameters, tracer=tracer, on_token=on_token, steps=steps)
        trace = tracer.finish(
            program=self.program.root,
            steps=found.steps,
            prompt=len(prompt),
            parameters={
                "max_tokens": parameters.max_tokens,
                "seed": parameters.seed,
                "temperature_m": parameters.temperature_m,
                "temperature_s": parameters.temperature_s,
            },
            finish=finish or found.finish,
            inputs=[_int32s(prompt)],
            outputs=[_int32s(found.tokens)],
        )
        return found, trace

    def follow(self, prompt: Sequence[int], parameters: Parameters, steps: int, salts: Salts) -> "Followed":
        """A run of exactly so many steps, traced under these salts, whose tensors can be asked for afterwards. Raises BadRun."""
        self._check(prompt, parameters, steps)
        tracer = BulkTracer(salts, len(self.program.operators))
        lane = Lane(self._layout)  # kept by what is returned
        run = _Run(self.program, self._layout, lane, prompt, parameters, tracer)
        found = run.all(self._most, None, steps)
        return Followed(self.program, lane, prompt, found, Leaves(tracer.leaves[: steps * tracer.operators]))

    def values(self, tokens: Sequence[int], operator: int) -> NDArray[Any]:
        """What an operator of phase 0, of a size that does not grow, gives at every position of a text: [positions, *shape].

        Raises BadRun.
        """
        self._check(tokens, Parameters(), None)
        record = self.program.operators[operator]
        if record.phase or record.shape[-1] < 0 or record.kind == "append":
            raise BadRun("the operator does not give a tensor of one size at every step", operator=operator)
        size = size_of(record.shape) * WIDTHS[record.type]
        result: NDArray[np.uint8] = np.empty((len(tokens), size), np.uint8)
        lane = self._take()
        try:
            _Run(self.program, self._layout, lane, tokens, Parameters(), None)
            place, last = self._layout.places[operator], self._layout.first_row[operator + 1]
            for first in range(0, len(tokens), self._most):
                count = min(self._most, len(tokens) - first)
                lane.context[STEP], lane.context[SAMPLES] = first, count
                dispatch.run_rows(lane.rows_address, 0, last, lane.context_address)
                result[first : first + count] = lane.arena[place : place + count * size].reshape(count, size)
        finally:
            self._idle.append(lane)
        return result.view(DTYPES[record.type]).reshape(len(tokens), *record.shape)

    def _take(self) -> Lane:
        try:
            return self._idle.pop()
        except IndexError:
            return Lane(self._layout)


class Followed:
    """A run that is kept: what a watcher compares with, and what demands are answered from. Not for two threads at once.

    Its lane's caches hold all positions, so that any step can be run again by itself.
    """

    def __init__(
        self, program: Program, lane: Lane, prompt: Sequence[int], generated: Generated, leaves: Sequence[bytes]
    ) -> None:
        self.generated = generated
        self.leaves = leaves
        self._program = program
        self._lane = lane
        self._prompt = tuple(prompt)
        lane.context[KEY] = 0
        lane.context[PAGES] = 1

    def tensor(self, slot: int) -> bytes:
        """The bytes of a slot's tensor (exact/hashing.py, rule 4). Raises BadRun for a slot of nothing."""
        if slot == INPUT_SLOT:
            return _int32s(self._prompt)
        if slot == OUTPUT_SLOT:
            return _int32s(self.generated.tokens)
        step, number = divmod(slot, len(self._program.operators))
        absent = (
            step < len(self._prompt) - 1
            and number < len(self._program.operators)
            and self._program.operators[number].phase
        )
        if not 0 <= step < self.generated.steps or absent:
            raise BadRun("there is no tensor in this slot", slot=slot)
        self._lane.step(step, 0, number + 1)
        return self._lane.value(number, step).tobytes()


def _int32s(values: Sequence[int]) -> bytes:
    return np.asarray(values, "<i4").tobytes()


class _Run:
    """One run in a lane."""

    def __init__(
        self,
        program: Program,
        layout: LanguageLayout,
        lane: Lane,
        prompt: Sequence[int],
        parameters: Parameters,
        tracer: Tracer | None,
    ) -> None:
        self._program = program
        self._layout = layout
        self._lane = lane
        self._prompt = len(prompt)
        self._parameters = parameters
        self._bulk = tracer if isinstance(tracer, BulkTracer) else None
        self._shown = None if isinstance(tracer, BulkTracer) else tracer
        lane.begin(prompt=len(prompt))
        place = layout.tokens
        self._tokens: NDArray[np.int32] = lane.arena[place : place + 4 * program.context].view(np.int32)
        self._tokens[: len(prompt)] = prompt
        for slot, value in (
            (PAGES, int(self._shown is not None)), (TEMPERATURE_M, parameters.temperature_m), (TEMPERATURE_S, parameters.temperature_s),
            (SEED_LOW, parameters.seed & 0xFFFFFFFF), (SEED_HIGH, parameters.seed >> 32),
        ):  # fmt: skip
            lane.context[slot] = value

    def all(self, most: int, on_token: OnToken | None, steps: int | None) -> Generated:
        """The whole run."""
        program, lane = self._program, self._lane
        self._reserve(self._prompt if steps is None else steps)
        step = 0
        while step < self._prompt - 1:
            count = 1 if self._shown is not None else min(most, self._prompt - 1 - step)
            self._pass(step, count)
            step += count
        chosen: list[int] = []
        while True:
            self._reserve(step + 1)
            self._pass(step, 1)
            chosen.append(int(lane.value(program.token, step).view(np.int32)[0]))
            step += 1
            finish = self._finish(chosen, step)
            if steps is not None:
                if step == steps:
                    return Generated(tuple(chosen), step, finish or "text")
            elif finish is not None:
                if on_token is not None:
                    on_token(chosen[-1])
                return Generated(tuple(chosen), step, finish)
            if on_token is not None and on_token(chosen[-1]):
                return Generated(tuple(chosen), step, "text")
            self._tokens[step] = chosen[-1]

    def _finish(self, chosen: list[int], step: int) -> Finish | None:
        if chosen[-1] in self._program.end:
            return "end"
        return "length" if len(chosen) >= self._parameters.max_tokens or step == self._program.context else None

    def _reserve(self, steps: int) -> None:
        """Room for the leaves of so many steps."""
        if self._bulk is not None and len(self._bulk.leaves) < steps * self._bulk.operators:
            self._bulk.reserve(min(self._program.context, max(steps, steps + MOST_STEPS)))
            self._lane.trace_into(self._bulk.key, self._bulk.leaves)
            self._lane.context[RECORD] = RECORD_STEPS.address

    def _pass(self, step: int, count: int) -> None:
        """`count` steps from `step` on."""
        lane = self._lane
        if self._shown is not None:
            self._show(step, self._shown)
            return
        lane.context[STEP] = step
        lane.context[SAMPLES] = count
        dispatch.run_rows(lane.rows_address, 0, len(lane.rows), lane.context_address)

    def _show(self, step: int, tracer: Tracer) -> None:
        """One step, each operator's output shown to the tracer, who may change it; a changed page is what its cache holds from then on."""
        lane = self._lane
        for number, operator in enumerate(self._program.operators):
            if operator.phase and step < self._prompt - 1:
                continue
            lane.step(step, number, number + 1)
            value = lane.value(number, step)
            tracer.record(step, number, value.data)
            if operator.kind == "append":
                size = size_of(operator.shape) * WIDTHS[operator.type]
                start = self._layout.caches[number] + step // PAGE * size
                lane.arena[start : start + size] = value
