"""A lane: memory of one run at a time, with rows that point into it. A machine has as many as runs at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avow.exact.hashing import KEY as KEY_BYTES
from avow.exact.hashing import Trace
from avow.exact.kernels import digests, dispatch
from avow.exact.kernels.blanks import HEADER_AT, blank_of
from avow.exact.kernels.compilation import WIDTH
from avow.exact.kernels.layout import ALIGNMENT, DTYPES, ROOM, Layout
from avow.exact.kernels.rows import (
    CARRIED,
    CONTEXT,
    COUNT_OF_ROWS,
    FAULT,
    HASH_SCRATCH,
    INPUTS,
    KEY,
    LEAVES_OF_STEP,
    MOST,
    OUT,
    PROMPT,
    RESULTS,
    ROWS,
    SAMPLES,
    STEP,
)
from avow.exact.kernels.tracer import Leaves
from avow.exact.tensors import WIDTHS, shape_at, size_of

ROW_BYTES = 8 * WIDTH
STAGE_BYTES = 32 * 1024
"""Of a staged input or output."""


class Lane:
    """Arena, rows and context. Not for two threads at once."""

    def __init__(self, layout: Layout) -> None:
        program = layout.program
        self._layout = layout
        self._tables: list[NDArray[np.int64]] = []
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
        self.context[LEAVES_OF_STEP] = program.head.leaves
        self.context[HASH_SCRATCH] = base + hashing
        self.context[SAMPLES] = 1
        self.context[ROWS] = self.rows_address
        self.context[COUNT_OF_ROWS] = len(self.rows)
        self.context[MOST] = layout.most
        self._results = self._table(
            RESULTS, [[self.rows[layout.first_row[number + 1] - 1, OUT], 0, 0] for number in program.outputs]
        )
        for number, operator in enumerate(program.outputs):
            record = program.operators[operator]
            self._results[3 * number + 3] = size_of(record.shape) * WIDTHS[record.type]
        self._table(CARRIED, [[base + source, base + target, count] for source, target, count in layout.carried])
        self._stage()
        self._views: dict[int, NDArray[np.uint8]] = {}

    def _table(self, slot: int, entries: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """A table that a slot of the context has the address of."""
        table: NDArray[np.int64] = np.array([len(entries), *(value for each in entries for value in each)], np.int64)
        self._tables.append(table)
        self.context[slot] = table.ctypes.data
        return table

    def _stage(self) -> None:
        """Short runs read and write arrays of the lane's own, whose addresses are known: looking one up costs as much as a small model."""
        program = self._layout.program
        ends = [(each.shape, DTYPES[each.type]) for each in program.inputs]
        records = [program.operators[number] for number in program.outputs]
        ends += [(each.shape, DTYPES[each.type]) for each in records if each.shape[-1] > 0]
        largest = max(size_of(shape) * dtype.itemsize for shape, dtype in ends)
        self.staged_steps = max(1, min(self._layout.most, program.context, STAGE_BYTES // largest))
        arrays = [np.zeros((self.staged_steps, *shape), dtype) for shape, dtype in ends]
        self.staged_inputs, self.staged_results = arrays[: len(program.inputs)], arrays[len(program.inputs) :]
        self._staged = [int(each.ctypes.data) for each in arrays]
        self.longest = max(each.nbytes for each in arrays)
        """Bytes of the longest staged input or output."""
        self._step_bytes = [each.nbytes // self.staged_steps for each in arrays]
        self._seals: dict[int, _Seal] = {}
        self.use_stage()

    def begin(self, *, prompt: int = 0) -> None:
        """A new run: what is kept from step to step becomes zero."""
        for offset, count in self._layout.persistent:
            self.arena[offset : offset + count] = 0
        self.context[PROMPT] = prompt
        self.context[FAULT] = 0
        self.context[KEY] = 0

    def use_stage(self) -> None:
        """The program's inputs and outputs are the staged arrays, of at most `staged_steps` steps."""
        count = len(self.staged_inputs)
        self.read_from(self._staged[:count])
        self.write_to(self._staged[count:])

    def read_from(self, addresses: Sequence[int]) -> None:
        """Where the program's inputs are, [steps, …]."""
        self.context[INPUTS : INPUTS + len(addresses)] = addresses

    def write_to(self, addresses: Sequence[int]) -> None:
        """Where the program's outputs go, [steps, …]."""
        for number, address in enumerate(addresses):
            self._results[3 * number + 2] = address

    def trace_into(self, key: NDArray[np.uint8], leaves: NDArray[np.uint8]) -> None:
        """From now on each operator's output is digested. Both arrays are the caller's, and stay where they are."""
        dispatch.trace_into(self.context_address, digests.RECORD_KERNEL.address, key, leaves)

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

    def steps(self, first: int, last: int) -> int:
        """Steps first … last − 1, from inputs to outputs; the fault, or 0."""
        return dispatch.run_steps(self.context_address, first, last)

    def sealed(self, steps: int, key: bytes) -> tuple[int, Trace | None]:
        """A whole staged run and its trace; or the fault, and none."""
        seal = self._seals.get(steps) or self._new_seal(steps)
        seal.key[:] = key
        fault = dispatch.run_sealed(self.context_address, seal.form_address)
        if fault:
            return fault, None
        return 0, Trace(bytes(seal.header), bytes(seal.trace), Leaves(seal.leaves.copy()))

    def _new_seal(self, steps: int) -> "_Seal":
        """What does not change from one run of so many steps to the next, put together once."""
        program = self._layout.program
        count, inputs = steps * program.head.leaves, len(program.inputs)
        outputs = len(self._staged) - inputs
        blank = blank_of(program.root, steps, 0, {}, "whole", count, inputs, outputs)
        work: NDArray[np.uint8] = np.zeros(digests.seal_bytes(blank.size, count, self.longest), np.uint8)
        leaves: NDArray[np.uint8] = np.zeros((count, digests.DIGEST_BYTES), np.uint8)
        key: NDArray[np.uint8] = np.zeros(KEY_BYTES, np.uint8)
        ends = [*digests.end_places(inputs, outputs, blank)]
        form: NDArray[np.int64] = np.zeros(digests.FORM + digests.END * len(ends), np.int64)
        form[: digests.FORM] = [
            blank.blocks.ctypes.data, blank.size, work.ctypes.data, key.ctypes.data, leaves.ctypes.data, count, len(ends),
            steps, digests.RECORD_KERNEL.address, digests.SEAL_KERNEL.address,
        ]  # fmt: skip
        parts = zip(self._staged, self._step_bytes, ends, strict=True)
        form[digests.FORM :] = [value for address, size, end in parts for value in (address, steps * size, *end)]
        whole = work.data
        seal = _Seal(
            (blank.blocks, work, form), key.data, leaves, whole[HEADER_AT : blank.end],
            whole[blank.size : blank.size + digests.DIGEST_BYTES], int(form.ctypes.data),
        )  # fmt: skip
        self._seals[steps] = seal
        return seal

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


class _Seal(NamedTuple):
    """Memory of a run that is sealed, and what to read there."""

    keep: tuple[NDArray[Any], ...]
    key: memoryview
    leaves: NDArray[np.uint8]
    header: memoryview
    trace: memoryview
    form_address: int
