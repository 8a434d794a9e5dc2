"""A lane: memory of one run at a time, with rows that point into it. A machine has as many as runs at once."""

import numpy as np
from numpy.typing import NDArray

from avow.exact.kernels import digests, dispatch
from avow.exact.kernels.compilation import WIDTH
from avow.exact.kernels.layout import ALIGNMENT, ROOM, Layout
from avow.exact.kernels.rows import (
    CONTEXT,
    FAULT,
    HASH_SCRATCH,
    INPUTS,
    KEY,
    LEAVES,
    OPERATORS,
    OUT,
    PROMPT,
    RECORD,
    SAMPLES,
    STEP,
)
from avow.exact.tensors import WIDTHS, shape_at, size_of

ROW_BYTES = 8 * WIDTH


class Lane:
    """Arena, rows and context. Not for two threads at once."""

    def __init__(self, layout: Layout) -> None:
        program = layout.program
        self._layout = layout
        largest = max(size_of(each.shape, program.context) * WIDTHS[each.type] for each in program.operators)
        hashing = layout.bytes + layout.scratch + ALIGNMENT
        self._memory: NDArray[np.uint8] = np.zeros(
            hashing + digests.scratch_bytes(largest) + 2 * ALIGNMENT + ROOM, np.uint8
        )
        start = -self._memory.ctypes.data % ALIGNMENT
        self.arena: NDArray[np.uint8] = self._memory[start:]
        base = int(self.arena.ctypes.data)
        self.rows: NDArray[np.int64] = np.array([row.values for row in layout.rows], np.int64)
        for row, values in zip(layout.rows, self.rows, strict=True):
            values[row.moved] += base
        self.rows_address = int(self.rows.ctypes.data)
        self.context: NDArray[np.int64] = np.zeros(CONTEXT, np.int64)
        self.context_address = int(self.context.ctypes.data)
        self.context[OPERATORS] = len(program.operators)
        self.context[HASH_SCRATCH] = base + hashing
        self.context[SAMPLES] = 1
        outs = [self.rows[layout.first_row[number + 1] - 1, OUT] for number in program.outputs]
        sizes = [
            size_of(program.operators[number].shape) * WIDTHS[program.operators[number].type]
            for number in program.outputs
        ]
        self._outputs: NDArray[np.int64] = np.array(
            [[out, 0, size] for out, size in zip(outs, sizes, strict=True)], np.int64
        )
        self._carried: NDArray[np.int64] = np.array(
            [[base + source, base + target, count] for source, target, count in layout.carried], np.int64
        ).reshape(-1, 3)
        self._addresses = int(self._outputs.ctypes.data), int(self._carried.ctypes.data)
        self._views: dict[int, NDArray[np.uint8]] = {}

    def begin(self, *, prompt: int = 0) -> None:
        """A new run: what is kept from step to step becomes zero."""
        for offset, count in self._layout.persistent:
            self.arena[offset : offset + count] = 0
        self.context[PROMPT] = prompt
        self.context[FAULT] = 0
        self.context[KEY] = 0

    def read_from(self, addresses: list[int]) -> None:
        """Where the program's inputs are."""
        for number, address in enumerate(addresses):
            self.context[INPUTS + number] = address

    def trace_into(self, key: NDArray[np.uint8], leaves: NDArray[np.uint8]) -> None:
        """From now on each operator's output is digested. Both arrays are the caller's, and stay where they are."""
        self.context[RECORD] = digests.RECORD_KERNEL.address
        self.context[LEAVES] = leaves.ctypes.data
        self.context[KEY] = key.ctypes.data

    def step(self, step: int, first: int = 0, last: int | None = None) -> int:
        """One step's operators first … last − 1, of one sample; the fault, or 0."""
        self.context[STEP] = step
        self.context[SAMPLES] = 1
        rows = self._layout.first_row
        end = len(rows) - 1 if last is None else last
        return dispatch.run_rows(self.rows_address, rows[first], rows[end], self.context_address)

    def carry(self) -> None:
        """After a step: keep what the next one reads."""
        for source, target, count in self._layout.carried:
            self.arena[target : target + count] = self.arena[source : source + count]

    def steps(self, first: int, last: int, results: list[int]) -> int:
        """Steps first … last − 1, outputs to the results' addresses; the fault, or 0."""
        for number, address in enumerate(results):
            self._outputs[number, 1] = address
        outputs, carried = self._addresses
        return dispatch.run_steps(
            self.rows_address, len(self.rows), self.context_address, first, last, self._layout.most,
            outputs, len(self._outputs), carried, len(self._carried),
        )  # fmt: skip

    def value(self, operator: int, step: int) -> NDArray[np.uint8]:
        """The bytes of an operator's output, in place: writable, and good until the next step."""
        record = self._layout.program.operators[operator]
        if record.shape[-1] < 0:
            return self._view(operator, size_of(shape_at(record.shape, step + 1)) * WIDTHS[record.type])
        if operator not in self._views:
            self._views[operator] = self._view(operator, size_of(record.shape) * WIDTHS[record.type])
        return self._views[operator]

    def _view(self, operator: int, count: int) -> NDArray[np.uint8]:
        offset = self._layout.places[operator]
        return self.arena[offset : offset + count]
