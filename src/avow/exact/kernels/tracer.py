"""Tracers for machines: leaves in bulk, values kept or planted.

Rules:
1. `BulkTracer` gives the leaves, header and trace of exact/hashing.py's Recorder. The numba machine fills its leaves itself, operator by
   operator while the output is still near the core; any other machine calls `record`.
2. Every other tracer is called by the machine for each operator, also for those without a leaf, with a writable view of the output itself:
   what a tracer changes there, later operators read. `Planter` lives of that; honest tracers only read.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.hashing import (
    INPUT_SLOT,
    OUTPUT_SLOT,
    Buffer,
    Finish,
    Salts,
    Trace,
    Tracer,
    leaves_of,
    ranks_of,
)
from avow.exact.kernels import digests
from avow.exact.kernels.blanks import HEADER_AT, blank_of

_DIGEST = digests.DIGEST_BYTES
_NO_LEAVES: NDArray[np.uint8] = np.zeros((0, _DIGEST), np.uint8)
_NO_SCRATCH: NDArray[np.uint8] = np.empty(0, np.uint8)
_NO_BYTES: NDArray[np.uint8] = np.frombuffer(b"\0", np.uint8)[:0]


def _bytes_of(data: Buffer) -> NDArray[np.uint8]:
    """The bytes in place, never writable: kernels are compiled for that one type."""
    return np.frombuffer(memoryview(data).toreadonly(), np.uint8) if len(data) else _NO_BYTES


class BulkTracer:
    """Rule 1. One for each run."""

    def __init__(self, salts: Salts | bytes, operators: int | Sequence[int]) -> None:
        """As `Recorder`'s: `operators` are the program's `ranks`, or how many there are, of which all have a leaf."""
        self._ranks = ranks_of(operators)
        self.salts = Salts.of(salts)
        self.leaves: NDArray[np.uint8] = _NO_LEAVES
        self._scratch: NDArray[np.uint8] = _NO_SCRATCH

    @cached_property
    def width(self) -> int:
        """Leaves of a step."""
        return leaves_of(self._ranks)

    @cached_property
    def key(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.salts.key, np.uint8)

    def reserve(self, steps: int) -> None:
        """Room for the leaves of so many steps; absent ones are zeros."""
        wanted = steps * self.width
        if len(self.leaves) < wanted:
            grown = np.zeros((max(wanted, 2 * len(self.leaves)), _DIGEST), np.uint8)
            if len(self.leaves):
                grown[: len(self.leaves)] = self.leaves
            self.leaves = grown

    def record(self, step: int, operator: int, data: Buffer) -> None:
        if self._ranks[operator] < 0:
            return
        self.reserve(step + 1)
        slot = step * self.width + self._ranks[operator]
        self._digest(slot, _bytes_of(data), self.leaves[slot])

    def _digest(self, slot: int, data: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        need = digests.scratch_bytes(len(data))
        if len(self._scratch) < need:
            self._scratch = np.empty(need, np.uint8)
        digests.digest(data, self.key, slot - (1 << 64) if slot >> 63 else slot, self._scratch, target)

    def finish(
        self,
        *,
        program: bytes,
        steps: int,
        prompt: int,
        parameters: Mapping[str, int],
        finish: Finish,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
    ) -> Trace:
        """One call of compiled code fills in a blank (blanks.py), so that the trace of a short run costs little more than its hashes."""
        self.reserve(steps)
        count = steps * self.width
        blank = blank_of(program, steps, prompt, parameters, finish, count, len(inputs), len(outputs))
        ends = [_bytes_of(data) for data in (*inputs, *outputs)]
        form = np.zeros(digests.FORM + digests.END * len(ends), np.int64)
        for at, data in enumerate(ends):
            digests.put_end(form, at, data)
        work: NDArray[np.uint8] = np.empty(
            digests.seal_bytes(blank.size, count, max(map(len, ends), default=0)), np.uint8
        )
        digests.seal(
            digests.SEAL_KERNEL.address, form, blank.blocks, work, self.key, self.leaves, count, len(inputs), blank.inputs, blank.outputs,
        )  # fmt: skip
        sealed = work[: blank.size + _DIGEST].tobytes()
        leaves = self.leaves if len(self.leaves) == count else self.leaves[:count]
        return Trace(sealed[HEADER_AT : blank.end], sealed[blank.size :], Leaves(leaves))


class Leaves(Sequence[bytes]):
    """Digests in one array, as a sequence of 32 bytes each."""

    __slots__ = ("_array",)

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array

    @property
    def data(self) -> memoryview:
        """All of them, one after the other."""
        return self._array.reshape(-1).data

    def roots(self, level: int, indices: range) -> list[bytes]:
        """The nodes of a level of their tree (descent.Bulk)."""
        spread = 1 << level
        nodes = np.empty(_DIGEST * spread + 256, np.uint8)
        found = []
        for index in indices:
            rows = self._array[index * spread : (index + 1) * spread].copy()  # of the one type that is compiled for
            digests.leaves_root(rows, len(rows), nodes)
            found.append(nodes[:_DIGEST].tobytes())
        return found

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [row.tobytes() for row in self._array[index]]
        return self._array[index].tobytes()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    def __hash__(self) -> int:
        return hash(self._array.tobytes())


class Keeper:
    """Keeps values, all or those of some slots, and hands on to another tracer. `tensors[slot]` are bytes."""

    def __init__(self, inner: Tracer, operators: int | Sequence[int], slots: Collection[int] | None = None) -> None:
        """`operators`: as `Recorder`'s. `slots`: of leaves; by default all."""
        self.tensors: dict[int, bytes] = {}
        self._inner = inner
        self._ranks = ranks_of(operators)
        self._width = leaves_of(self._ranks)
        self._slots = slots

    def record(self, step: int, operator: int, data: Buffer) -> None:
        rank = self._ranks[operator]
        slot = step * self._width + rank
        if rank >= 0 and (self._slots is None or slot in self._slots):
            self.tensors[slot] = bytes(data)
        self._inner.record(step, operator, data)

    def finish(self, **ends: Any) -> Trace:
        for first, tensors in ((INPUT_SLOT, ends["inputs"]), (OUTPUT_SLOT, ends["outputs"])):
            self.tensors.update({first + at: bytes(data) for at, data in enumerate(tensors)})
        return self._inner.finish(**ends)


@dataclass(frozen=True, slots=True)
class Plant:
    """A changed byte: at a step and an operator, `change` of the byte at `at` (from the end, if negative).

    `goes_on`: later operators read the changed value; else only the record is changed.
    """

    step: int
    operator: int
    at: int = 0
    goes_on: bool = True
    change: Callable[[int], int] = lambda value: value ^ 1


class Planter:
    """A lying node's tracer, for tests: changes what is recorded (rule 2).

    A lie in an operator without a leaf is nobody's claim unless it goes on: then it shows in the first leaf, or output, that depends on it.
    """

    def __init__(self, inner: Tracer, plants: Sequence[Plant]) -> None:
        self._inner = inner
        self._plants = {(plant.step, plant.operator): plant for plant in plants}
        self.planted: list[Plant] = []

    def record(self, step: int, operator: int, data: Buffer) -> None:
        plant = self._plants.get((step, operator))
        if plant is None:
            self._inner.record(step, operator, data)
            return
        view = memoryview(data)
        before = view[plant.at]
        view[plant.at] = plant.change(before)
        self.planted.append(plant)
        self._inner.record(step, operator, data)
        if not plant.goes_on:
            view[plant.at] = before

    def finish(self, **ends: Any) -> Trace:
        return self._inner.finish(**ends)
