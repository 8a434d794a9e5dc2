"""The fast machine for exact programs of modes `once` and `sequence`.

Rules:
1. Its bits are the specification's, whatever the number of threads and samples, the processor, and the kernels (numba's or NumPy's).
2. A machine may run in many threads at once: each run has a lane, its own memory. Lanes are kept for the next run.
3. In mode `once`, samples that fit the core's cache together are one pass; `threads` splits long batches. In mode
   `sequence` steps follow each other.
4. Inputs are checked against their intervals before anything relies on them.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from avow.exact.errors import BadRun
from avow.exact.hashing import Trace, Tracer
from avow.exact.kernels.layout import DTYPES
from avow.exact.program import Program

Integers = NDArray[Any]
Kernels = Literal["numba", "numpy"]


class Runner(Protocol):
    """Runs steps of a checked program on checked inputs."""

    def run(self, inputs: Sequence[Integers], steps: int, tracer: Tracer | None) -> list[Integers]:
        """Outputs [steps, …]. Raises BadRun."""
        ...

    def traced(self, inputs: Sequence[Integers], steps: int, tracer: Tracer) -> tuple[list[Integers], Trace] | None:
        """As `run`, with the finished trace; None where there is no quicker way than one after the other. Raises BadRun."""
        ...

    def tensor(self, inputs: Sequence[Integers], step: int, operator: int) -> bytes:
        """The bytes of an operator's output at a step. Raises BadRun."""
        ...


class Machine:
    """`run` a program's inputs. The program was checked by specification.bounds."""

    def __init__(self, program: Program, *, threads: int = 1, kernels: Kernels = "numba") -> None:
        """Lay out the program; kernels that it needs and nobody needed before are compiled, or loaded from the cache."""
        if program.mode == "generate":
            raise ValueError("programs that generate have a machine of their own")
        self.program = program
        self._wanted = [(DTYPES[each.type], each.shape) for each in program.inputs]
        self._runner: Runner
        if kernels == "numba":
            from avow.exact.kernels.compiled import CompiledRunner

            self._runner = CompiledRunner(program, threads)
        else:
            from avow.exact.kernels.plain import PlainRunner

            self._runner = PlainRunner(program)

    def run(self, inputs: Sequence[Integers], tracer: Tracer | None = None) -> list[Integers]:
        """Inputs [steps, …] in the program's types → outputs [steps, …]. Raises BadRun."""
        return self._runner.run(inputs, self._steps(inputs), tracer)

    def trace(self, inputs: Sequence[Integers], tracer: Tracer) -> tuple[list[Integers], Trace]:
        """A run and its finished trace. Raises BadRun."""
        steps = self._steps(inputs)
        both = self._runner.traced(inputs, steps, tracer)
        if both is not None:
            return both
        outputs = self._runner.run(inputs, steps, tracer)
        found = tracer.finish(
            program=self.program.root,
            steps=steps,
            prompt=0,
            parameters={},
            finish="whole",
            inputs=[view_of(each) for each in inputs],
            outputs=[view_of(each) for each in outputs],
        )
        return outputs, found

    def tensor(self, inputs: Sequence[Integers], step: int, operator: int) -> bytes:
        """What an operator gives at a step of a run; in mode `once` that step alone is run. Raises BadRun."""
        self._steps(inputs)
        return self._runner.tensor(inputs, step, operator)

    def _steps(self, inputs: Sequence[Integers]) -> int:
        if len(inputs) != len(self._wanted):
            raise BadRun("the number of inputs is wrong", expected=len(self._wanted), found=len(inputs))
        steps = len(inputs[0]) if inputs[0].ndim else -1
        for number, (array, (dtype, shape)) in enumerate(zip(inputs, self._wanted, strict=True)):
            if array.dtype != dtype or not array.ndim or array.shape[1:] != shape or len(array) != steps:
                raise BadRun(
                    "an input has another type or shape than the program's, with the steps in front", input=number,
                    expected=f"{dtype.name} {[-1, *shape]}", found=f"{array.dtype.name} {[*array.shape]}",
                )  # fmt: skip
        if not 1 <= steps <= self.program.context:
            raise BadRun(
                "the inputs have no steps, or more than the context", steps=steps, context=self.program.context
            )
        return steps


def view_of(array: Integers) -> memoryview:
    """The array's bytes, writable if it is, and in place if it is contiguous."""
    flat = np.ascontiguousarray(array)
    return flat.data.cast("B") if flat.size else memoryview(b"")


def spread(threads: int) -> ThreadPoolExecutor | None:
    """A pool for batches, or None for one thread."""
    return ThreadPoolExecutor(threads, thread_name_prefix="exact") if threads > 1 else None
