"""The fast machine for programs that generate.

Rules:
1. Its bits are the specification's, however a prompt is split into passes, whatever the number of runs at once, traced or not.
2. A prompt but for its last token runs in passes of many steps; from the last token on, step by step.
3. Who knows, or guesses, what a run chooses (`expected`) has it run in passes of many steps too, choices included. What is chosen decides:
   behind the first token that is another than expected, steps run again. Passes shorten with each wrong guess, so that wrong ones
   cost at most about as much as the run itself.
4. A machine may run in many threads at once: each run has a lane, its own memory. Lanes are kept for the next run.
5. A run ends as specification/machine.py says; or, when the caller has had enough, with finish "text".
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.errors import BadRun
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Finish, Header, Salts, Trace, Tracer, trace_of
from avow.exact.kernels import dispatch
from avow.exact.kernels.language import LanguageLayout
from avow.exact.kernels.language_rows import PAGES
from avow.exact.kernels.language_run import (
    MOST_EXPECTED,
    MOST_STEPS,
    Expected,
    Generated,
    Lanes,
    LanguageRun,
    OnToken,
)
from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.rows import SAMPLES, STEP
from avow.exact.kernels.tracer import BulkTracer, Leaves
from avow.exact.program import Program
from avow.exact.specification.cells import Parameters
from avow.exact.specification.machine import check_parameters
from avow.exact.tensors import WIDTHS, size_of


class LanguageMachine:
    """Runs a program of mode `generate`, which specification.bounds has checked."""

    def __init__(self, program: Program, *, most: int = MOST_STEPS) -> None:
        """Lay out the program; kernels that nobody needed before are compiled, or loaded from the cache. `most`: steps in one pass."""
        if program.mode != "generate":
            raise ValueError("this machine is for programs that generate")
        self.program = program
        self._most = max(1, min(most, program.context))
        self._lanes = Lanes(LanguageLayout(program, self._most))
        self._ahead: Lanes | None = None
        self._making = threading.Lock()
        self._vocabulary = program.inputs[0].high + 1

    def run(
        self,
        prompt: Sequence[int],
        parameters: Parameters,
        *,
        tracer: Tracer | None = None,
        on_token: OnToken | None = None,
        steps: int | None = None,
        expected: Expected | None = None,
    ) -> Generated:
        """Tokens after a prompt. With `steps`, exactly so many, whatever was chosen: to follow somebody else's run. Raises BadRun."""
        return self._run(prompt, parameters, tracer, on_token, steps, expected, keep=False)[0]

    def _run(
        self,
        prompt: Sequence[int],
        parameters: Parameters,
        tracer: Tracer | None,
        on_token: OnToken | None,
        steps: int | None,
        expected: Expected | None,
        *,
        keep: bool,
    ) -> tuple[Generated, NDArray[np.uint8]]:
        """A run, and with `keep` the caches' pages that it wrote, of one `append` after the other."""
        self._check(prompt, parameters, steps)
        lanes = self._lanes_for(expected)
        lane = lanes.take()
        try:
            found = LanguageRun(self.program, lanes.layout, lane, prompt, parameters, tracer).all(
                on_token, steps, expected
            )
            kept = [lane.arena[first:last] for first, last in lanes.layout.pages(found.steps)] if keep else []
            return found, np.concatenate(kept) if kept else np.empty(0, np.uint8)
        finally:
            lanes.give(lane)

    def _lanes_for(self, expected: Expected | None) -> "Lanes":
        """Those for passes that choose have room for many logits; nobody who only answers needs them."""
        if expected is None:
            return self._lanes
        with self._making:
            if self._ahead is None:
                most = min(self._most, MOST_EXPECTED)
                self._ahead = Lanes(LanguageLayout(self.program, most, most))
            return self._ahead

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
        expected: Expected | None = None,
    ) -> tuple[Generated, Trace]:
        """A run and its finished trace, a KeptTrace where the tracer is a BulkTracer.

        `finish` over the run's own when somebody else's run is followed. Raises BadRun.
        """
        bulk = isinstance(tracer, BulkTracer)
        found, caches = self._run(prompt, parameters, tracer, on_token, steps, expected, keep=bulk)
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
        if bulk:
            assert isinstance(trace.leaves, Leaves)
            trace = KeptTrace(trace.header, trace.trace, trace.leaves, _int32s(found.tokens), caches)
        return found, trace

    def follow(
        self,
        prompt: Sequence[int],
        parameters: Parameters,
        steps: int,
        salts: Salts,
        expected: Expected | None = None,
    ) -> "Followed":
        """A run of exactly so many steps, traced under these salts, whose tensors can be asked for afterwards. Raises BadRun."""
        tracer = BulkTracer(salts, self.program.ranks)
        found, trace = self.trace(prompt, parameters, tracer, steps=steps, expected=expected)
        assert isinstance(trace, KeptTrace)
        return Followed(self, prompt, parameters, found.tokens, trace)

    def kept_bytes(self, steps: int) -> int:
        """How long the parts of a KeptTrace of so many steps are, at most."""
        caches = sum(last - first for first, last in self._lanes.layout.pages(steps))
        return 4 * steps + 32 * steps * self.program.head.leaves + caches

    def restore(
        self, prompt: Sequence[int], parameters: Parameters, header: Header, encoded: bytes, data: memoryview
    ) -> "Followed":
        """A run again out of the parts of its KeptTrace, joined; `encoded` is the header's encoding.

        Raises BadRun for data of another length than such a run's. The data is believed: whoever has the header checks answers.
        """
        self._check(prompt, parameters, header.steps)
        tokens, leaves = 4 * (header.steps - len(prompt) + 1), 32 * header.leaves
        caches = sum(last - first for first, last in self._lanes.layout.pages(header.steps))
        if header.prompt != len(prompt) or len(data) != tokens + leaves + caches:
            raise BadRun("what was kept is not of this run", expected=tokens + leaves + caches, found=len(data))
        whole = np.frombuffer(data, np.uint8)
        trace = KeptTrace(
            encoded,
            trace_of(encoded),
            Leaves(whole[tokens : tokens + leaves].reshape(-1, 32)),
            bytes(data[:tokens]),
            whole[tokens + leaves :],
        )
        return Followed(self, prompt, parameters, tuple(whole[:tokens].view("<i4").tolist()), trace)

    def longest_ms(self) -> tuple[float, float]:
        """How long one step on kept caches takes at the end of the context, and about how long a whole run with known tokens does.

        What values are makes no difference. The least of three measurements of each.
        """
        Leaves(np.zeros((2, 32), np.uint8)).roots(1, range(1))  # what answers need is compiled from here on
        context = self.program.context
        prompt, steps = [self.program.inputs[0].low], context
        zeros = np.zeros(4 * (steps - len(prompt) + 1), np.uint8)
        caches = np.zeros(sum(last - first for first, last in self._lanes.layout.pages(steps)), np.uint8)
        trace = KeptTrace(b"", b"", [], zeros.tobytes(), caches)
        run = Followed(self, prompt, Parameters(), [0] * steps, trace)
        one = min(_ms(lambda: self.tensor_of(run, steps - 1, len(self.program.operators) - 1)) for _ in range(3))
        lanes = self._lanes_for(lambda _chosen: ())
        lane, many = lanes.take(), lanes.layout.most
        LanguageRun(self.program, lanes.layout, lane, prompt, Parameters(), None)
        lane.context[STEP], lane.context[SAMPLES] = max(0, context - many), min(many, context)
        rows = (lane.rows_address, 0, len(lane.rows), lane.context_address)
        block = min(_ms(lambda: dispatch.run_rows(*rows)) for _ in range(3))
        lanes.give(lane)
        return one, block * -(-context // many)

    def tensor_of(self, run: "Followed", step: int, operator: int) -> bytes:
        """What an operator of a kept run gives at a step: that step is run again, on the caches that were kept."""
        lane = self._lanes.take()
        try:
            layout = self._lanes.layout
            LanguageRun(self.program, layout, lane, run.prompt, run.parameters, None)
            tokens = layout.tokens + 4 * len(run.prompt)
            chosen = np.frombuffer(run.trace.tokens, np.uint8)[: 4 * (self.program.context - len(run.prompt))]
            lane.arena[tokens : tokens + len(chosen)] = chosen
            at = 0
            pages = zip(layout.pages(step + 1), layout.pages(run.steps), strict=True)
            for (first, last), (_, end) in pages:
                lane.arena[first:last] = run.trace.caches[at : at + last - first]
                at += end - first
            lane.context[PAGES] = 1
            lane.step(step, 0, operator + 1)
            return lane.value(operator, step).tobytes()
        finally:
            self._lanes.give(lane)

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
        lane, layout = self._lanes.take(), self._lanes.layout
        try:
            LanguageRun(self.program, layout, lane, tokens, Parameters(), None)
            place, last = layout.places[operator], layout.first_row[operator + 1]
            for first in range(0, len(tokens), self._most):
                count = min(self._most, len(tokens) - first)
                lane.context[STEP], lane.context[SAMPLES] = first, count
                dispatch.run_rows(lane.rows_address, 0, last, lane.context_address)
                result[first : first + count] = lane.arena[place : place + count * size].reshape(count, size)
        finally:
            self._lanes.give(lane)
        return result.view(DTYPES[record.type]).reshape(len(tokens), *record.shape)


@dataclass(frozen=True, slots=True)
class KeptTrace(Trace):
    """A trace with what makes any one step of its run quick to have again: the chosen tokens (int32), and the caches' pages."""

    tokens: bytes
    caches: NDArray[np.uint8]

    @property
    def parts(self) -> tuple[memoryview, ...]:
        """What is worth keeping until nobody asks any more, for `restore`."""
        assert isinstance(self.leaves, Leaves)
        return memoryview(self.tokens), self.leaves.data, self.caches.data


class Followed:
    """A run that is kept: what a watcher compares with, and what demands are answered from. Several threads may ask at once.

    Its caches hold all positions, so that any step can be run again by itself.
    """

    def __init__(
        self,
        machine: LanguageMachine,
        prompt: Sequence[int],
        parameters: Parameters,
        tokens: Sequence[int],
        trace: KeptTrace,
    ) -> None:
        self.prompt = tuple(prompt)
        self.parameters = parameters
        self.tokens = tuple(tokens)
        self.steps = len(prompt) + len(tokens) - 1
        self.trace = trace
        self.leaves = trace.leaves
        self._machine = machine

    def tensor(self, slot: int) -> bytes:
        """The bytes of a slot's tensor (exact/hashing.py, rule 4). Raises BadRun for a slot of nothing."""
        if slot == INPUT_SLOT:
            return _int32s(self.prompt)
        if slot == OUTPUT_SLOT:
            return _int32s(self.tokens)
        step, number = self._machine.program.place(slot)
        absent = step < len(self.prompt) - 1 and self._machine.program.operators[number].phase
        if not 0 <= step < self.steps or absent:
            raise BadRun("there is no tensor in this slot", slot=slot)
        return self._machine.tensor_of(self, step, number)


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1_000 * (time.perf_counter() - start)


def _int32s(values: Sequence[int]) -> bytes:
    return np.asarray(values, "<i4").tobytes()
