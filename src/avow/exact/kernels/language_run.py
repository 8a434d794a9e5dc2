"""One run of a program that generates, in a lane; `language_machine` has the rules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avow.exact.hashing import Finish, Tracer
from avow.exact.kernels import dispatch
from avow.exact.kernels.lane import Lane
from avow.exact.kernels.language import PAGE, LanguageLayout
from avow.exact.kernels.language_rows import PAGES, RECORD_STEPS, SEED_HIGH, SEED_LOW, TEMPERATURE_M, TEMPERATURE_S
from avow.exact.kernels.rows import RECORD, SAMPLES, STEP
from avow.exact.kernels.tracer import BulkTracer
from avow.exact.program import Program
from avow.exact.specification.cells import Parameters
from avow.exact.tensors import WIDTHS, size_of

MOST_STEPS = 128
"""Steps of a prompt in one pass."""
MOST_EXPECTED = 64
"""Steps in one pass that choose as well: so many rows of logits are held at once."""

OnToken = Callable[[int], bool | None]
"""Called with each chosen token; True ends the run."""
Expected = Callable[[Sequence[int]], Sequence[int]]
"""Which tokens may be chosen after those that were chosen so far; asked at the beginning and after each wrong guess."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The chosen tokens, the number of steps, why it ended."""

    tokens: tuple[int, ...]
    steps: int
    finish: Finish


class Lanes:
    """A layout, and lanes of it that nobody uses now."""

    def __init__(self, layout: LanguageLayout) -> None:
        self.layout = layout
        self._idle: list[Lane] = []

    def take(self) -> Lane:
        try:
            return self._idle.pop()
        except IndexError:
            return Lane(self.layout)

    def give(self, lane: Lane) -> None:
        self._idle.append(lane)


class LanguageRun:
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

    def all(self, on_token: OnToken | None, steps: int | None, expected: Expected | None) -> Generated:
        """The whole run."""
        step, most = 0, self._layout.most
        self._reserve(self._prompt if steps is None else steps)
        while step < self._prompt - 1:
            count = 1 if self._shown is not None else min(most, self._prompt - 1 - step)
            self._pass(step, count)
            step += count
        chosen: list[int] = []
        choices = self._choices(step, steps, chosen, expected)
        while True:
            chosen.append(next(choices))
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

    def _choices(self, step: int, steps: int | None, chosen: Sequence[int], expected: Expected | None) -> Iterator[int]:
        """What is chosen at `step` and each later one, in passes as long as the next tokens are known (rule 3).

        `chosen`: what was taken of it so far.
        """
        most = self._layout.late if expected is not None and self._shown is None else 1
        longest = most
        known: list[int] = [*expected(chosen)] if expected is not None and most > 1 else []
        while True:
            end = self._program.context if steps is None else steps
            count = max(1, min(1 + len(known), longest, end - step))
            self._tokens[step + 1 : step + count] = known[: count - 1]
            self._reserve(step + count)
            self._pass(step, count)
            found = self._chosen(count)
            right = next((at for at in range(count - 1) if found[at] != known[at]), count - 1)
            if right + 1 < count:
                longest = max(1, right)
            for at in range(right + 1):
                step += 1
                if step < self._program.context:
                    self._tokens[step] = found[at]
                yield found[at]
            if known[right : right + 1] == [found[right]]:
                known = known[right + 1 :]
                longest = min(most, 4 * longest)
            elif expected is not None and most > 1:
                known = [*expected(chosen)]

    def _chosen(self, count: int) -> list[int]:
        """What the steps of the last pass chose."""
        place = self._layout.places[self._program.token]
        return [int(each) for each in self._lane.arena[place : place + 4 * count].view(np.int32)]

    def _finish(self, chosen: list[int], step: int) -> Finish | None:
        if chosen[-1] in self._program.end:
            return "end"
        return "length" if len(chosen) >= self._parameters.max_tokens or step == self._program.context else None

    def _reserve(self, steps: int) -> None:
        """Room for the leaves of so many steps."""
        if self._bulk is not None and len(self._bulk.leaves) < steps * self._bulk.width:
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
