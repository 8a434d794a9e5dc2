"""The runner over compiled kernels: lanes, batches, tracing in the loop."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from avow.exact.errors import BadRun
from avow.exact.hashing import Trace, Tracer
from avow.exact.kernels.lane import Lane
from avow.exact.kernels.layout import DTYPES, Layout
from avow.exact.kernels.lowering import LOWERINGS
from avow.exact.kernels.machine import spread, view_of
from avow.exact.kernels.tracer import BulkTracer
from avow.exact.program import Program

Integers = NDArray[Any]

MOST_SAMPLES = 64
"""Samples of one pass, at most."""
PASS_BYTES = 256 * 1024
"""Tensors of all samples of a pass stay below this, so that they stay near the core."""


def layout_of(program: Program) -> Layout:
    """The program's rows, for passes of as many samples as are good for it."""
    most = 1
    if program.mode == "once":
        most = max(1, min(MOST_SAMPLES, program.context, PASS_BYTES // max(1, Layout(program, 1).bytes)))
    layout = Layout(program, most)
    for index, operator in enumerate(program.operators):
        layout.begin(index)
        LOWERINGS[operator.kind](layout, index, operator)
    layout.end()
    return layout


def address_of(array: Integers) -> int:
    return int(array.__array_interface__["data"][0])


class CompiledRunner:
    """See machine.py's rules."""

    def __init__(self, program: Program, threads: int) -> None:
        self._program = program
        self._layout = layout_of(program)
        self._outputs = [
            (program.operators[number].shape, DTYPES[program.operators[number].type]) for number in program.outputs
        ]
        self._threads = threads if program.mode == "once" else 1
        self._pool = spread(self._threads)
        self._idle: list[Lane] = []

    def run(self, inputs: Sequence[Integers], steps: int, tracer: Tracer | None) -> list[Integers]:
        if tracer is not None and not isinstance(tracer, BulkTracer):
            return self._step_by_step(inputs, steps, tracer)
        if tracer is not None:
            tracer.reserve(steps)
        lane = self._take()
        if steps <= lane.staged_steps:
            return self._staged(lane, inputs, steps, tracer)
        self._idle.append(lane)
        arrays = [np.ascontiguousarray(each) for each in inputs]
        results = [np.empty((steps, *shape), dtype) for shape, dtype in self._outputs]
        addresses = [address_of(each) for each in arrays], [address_of(each) for each in results]
        if self._pool is None or steps < 2 * self._layout.most:
            self._range(addresses, 0, steps, tracer)
            return results
        share = -(-steps // self._threads)
        parts = [(first, min(steps, first + share)) for first in range(0, steps, share)]
        for done in [self._pool.submit(self._range, addresses, *part, tracer) for part in parts]:
            done.result()
        return results

    def traced(self, inputs: Sequence[Integers], steps: int, tracer: Tracer) -> tuple[list[Integers], Trace] | None:
        """A short run and its trace, in one call of compiled code; None for one that is not short, or another tracer's."""
        if not isinstance(tracer, BulkTracer):
            return None
        lane = self._take()
        if steps > lane.staged_steps:
            self._idle.append(lane)
            return None
        lane.begin()
        for place, array in zip(lane.staged_inputs, inputs, strict=True):
            place[:steps] = array
        fault, trace = lane.sealed(steps, tracer.salts.key)
        results = [place[:steps].copy() for place in lane.staged_results]
        self._idle.append(lane)
        if trace is None:
            self._refuse(fault)
        return results, trace

    def tensor(self, inputs: Sequence[Integers], step: int, operator: int) -> bytes:
        arrays = [np.ascontiguousarray(each) for each in inputs]
        lane = self._take()
        lane.begin()
        lane.read_from([address_of(each) for each in arrays])
        scraps = [np.empty((step + 1, *shape), dtype) for shape, dtype in self._outputs]
        lane.write_to([address_of(each) for each in scraps])
        fault = lane.steps(0, step) if self._program.mode == "sequence" and step else 0
        fault = fault or lane.step(step, 0, operator + 1)
        found = lane.value(operator, step).tobytes()
        lane.use_stage()
        self._idle.append(lane)
        if fault:
            self._refuse(fault)
        return found

    def _take(self) -> Lane:
        try:
            return self._idle.pop()
        except IndexError:
            return Lane(self._layout)

    def _staged(self, lane: Lane, inputs: Sequence[Integers], steps: int, tracer: BulkTracer | None) -> list[Integers]:
        """A short run, by way of the lane's own arrays."""
        lane.begin()
        for place, array in zip(lane.staged_inputs, inputs, strict=True):
            place[:steps] = array
        if tracer is not None:
            lane.trace_into(tracer.key, tracer.leaves)
        fault = lane.steps(0, steps)
        results = [place[:steps].copy() for place in lane.staged_results]
        self._idle.append(lane)
        if fault:
            self._refuse(fault)
        return results

    def _range(self, addresses: tuple[list[int], list[int]], first: int, last: int, tracer: BulkTracer | None) -> None:
        """Steps first … last − 1 of a long run, in place."""
        lane = self._take()
        lane.begin()
        lane.read_from(addresses[0])
        lane.write_to(addresses[1])
        if tracer is not None:
            lane.trace_into(tracer.key, tracer.leaves)
        fault = lane.steps(first, last)
        lane.use_stage()
        self._idle.append(lane)
        if fault:
            self._refuse(fault)

    def _step_by_step(self, inputs: Sequence[Integers], steps: int, tracer: Tracer) -> list[Integers]:
        """One operator at a time, each value shown to the tracer, who may change it."""
        arrays = [np.ascontiguousarray(each) for each in inputs]
        results = [np.empty((steps, *shape), dtype) for shape, dtype in self._outputs]
        lane = self._take()
        lane.begin()
        lane.read_from([address_of(each) for each in arrays])
        for step in range(steps):
            for operator in range(len(self._program.operators)):
                fault = lane.step(step, operator, operator + 1)
                if fault:
                    self._refuse(fault)
                value = lane.value(operator, step)
                tracer.record(step, operator, view_of(value))
                self._check(operator, value)
            for result, number in zip(results, self._program.outputs, strict=True):
                result[step] = lane.value(number, step).view(result.dtype).reshape(result.shape[1:])
            lane.carry()
        lane.use_stage()
        self._idle.append(lane)
        return results

    def _check(self, operator: int, value: Integers) -> None:
        """A tracer may change a value, within its interval: later operators find places in memory by it."""
        record = self._program.operators[operator]
        values = value.view(DTYPES[record.type])
        if int(values.min()) < record.low or int(values.max()) > record.high:
            raise ValueError("a tracer put a value outside of its interval")

    def _refuse(self, fault: int) -> NoReturn:
        raise BadRun(
            "an input has a value outside of its interval", input=self._program.operators[fault - 1].inputs[0].id
        )
