"""Where everything of a run lies: one stretch of memory, offsets known when the program is loaded.

Rules:
1. A run's memory is one arena: tensors, each at a multiple of 64 with 64 bytes of room behind it, then scratch memory. Tensors whose
   last reader has run give their place to later ones. Outputs, and what the next step reads, keep theirs.
2. A row is made once, with offsets into the arena in the slots that are listed to be moved; a lane adds its arena's address. Constants are
   arrays of their own, shared by all lanes.
3. In mode `once` each tensor has room for `most` samples, one after the other.
4. A `reshape` is its input's memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.kernels.compilation import WIDTH, Kernel
from avow.exact.kernels.rows import (
    ADDRESS,
    COUNT,
    GROWS,
    HIGH,
    KERNEL,
    LAST,
    LOW,
    NUMBER,
    OUT,
    OUT_COUNT,
    OUT_SIZE,
    OUT_STRIDE,
    PHASE,
    SCRATCH,
    SIZE,
    STRIDE,
)
from avow.exact.program import CONSTANT, OPERATOR, PREVIOUS, Operator, Program, Source
from avow.exact.tensors import WIDTHS, size_of

DTYPES: dict[str, Any] = {"int8": np.dtype("<i1"), "int16": np.dtype("<i2"), "int32": np.dtype("<i4")}
ALIGNMENT = 64
ROOM = 64
"""Bytes behind every tensor that may be read, and mean nothing."""

Integers = NDArray[Any]


def values_of(program: Program, source: Source) -> Integers:
    """A constant's values, in its shape, without copying."""
    constant = program.constants[source.id]
    return np.frombuffer(constant.data, DTYPES[constant.type]).reshape(constant.shape)


def is_alias(operator: Operator) -> bool:
    """Rule 4."""
    if operator.kind != "reshape":
        return False
    source = operator.inputs[0]
    return source.origin == OPERATOR and source.type == operator.type


class Arena:
    """Rule 1's places: offsets that grow and are given back."""

    __slots__ = ("_free", "size")

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []

    def take(self, count: int) -> int:
        """A place of at least `count` bytes and its room: the smallest that is free, else a new one."""
        need = -(-(count + ROOM) // ALIGNMENT) * ALIGNMENT
        fitting = [place for place in self._free if place[1] >= need]
        if fitting:
            place = min(fitting, key=lambda each: (each[1], each[0]))
            self._free.remove(place)
            if place[1] > need:
                self._free.append((place[0] + need, place[1] - need))
            return place[0]
        return self.take_new(count)

    def take_new(self, count: int) -> int:
        """A place that no tensor had before."""
        offset = self.size
        self.size += -(-(count + ROOM) // ALIGNMENT) * ALIGNMENT
        return offset

    def give(self, offset: int, count: int) -> None:
        """Give a place back; neighbours become one."""
        need = -(-(count + ROOM) // ALIGNMENT) * ALIGNMENT
        places = sorted([*self._free, (offset, need)])
        merged = [places[0]]
        for start, length in places[1:]:
            if merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged


class Row:
    """One row while it is made."""

    __slots__ = ("_layout", "moved", "values")

    def __init__(self, layout: "Layout", values: Integers) -> None:
        self._layout = layout
        self.values = values
        self.moved: list[int] = []

    def set(self, slot: int, value: int) -> None:
        self.values[slot] = value

    def real(self, slot: int, value: float) -> None:
        """A float64 in a slot."""
        self.values.view(np.float64)[slot] = value

    def place(self, slot: int, offset: int) -> None:
        """An offset into the arena: an address once the row is in a lane."""
        self.values[slot] = offset
        self.moved.append(slot)

    def constant(self, slot: int, array: NDArray[Any]) -> None:
        """The address of an array that stays as long as the layout."""
        self.values[slot] = self._layout.keep(array)

    def scratch(self, count: int) -> None:
        """The kernel needs so many bytes of scratch memory."""
        self._layout.scratch = max(self._layout.scratch, count)

    def input(self, slot: int, source: Source, *, batched: bool = True) -> None:
        """Describe an input. `batched`: the kernel walks over samples as over one tensor, so a constant is laid out once for each."""
        count = size_of(source.shape)
        size = WIDTHS[source.type]
        self.values[slot + SIZE], self.values[slot + COUNT] = size, count
        self.values[slot + STRIDE] = count * size
        if source.origin == CONSTANT:
            values = values_of(self._layout.program, source).reshape(-1)
            if batched:
                values = np.tile(values, self._layout.most)
            else:
                self.values[slot + STRIDE] = 0
            self.constant(slot + ADDRESS, values)
        elif source.origin == PREVIOUS:
            self.place(slot + ADDRESS, self._layout.previous(source.id))
        else:
            self.place(slot + ADDRESS, self._layout.places[source.id])


class Layout:
    """All rows of a program, and the arena's plan. `rows` and `moved` are what lanes are made of."""

    def __init__(self, program: Program, most: int, late: int = 1) -> None:
        """`most`: samples of one pass; `late`: of what runs in phase 1."""
        self.program = program
        self.most = most
        self.late = late
        self.scratch = ALIGNMENT
        self.places: list[int] = []
        self.kept: list[NDArray[Any]] = []
        self.rows: list[Row] = []
        self.first_row: list[int] = []
        """Of each operator, its first row; one more at the end."""
        self.persistent: list[tuple[int, int]] = []
        """Offset and bytes of what is zero when a run begins and keeps its value from step to step."""
        self.carried: list[tuple[int, int, int]] = []
        """After each step: from, to, bytes."""
        self._arena = Arena()
        self._previous: dict[int, int] = {}
        self._plan()

    @property
    def bytes(self) -> int:
        """The arena's size, scratch not counted."""
        return self._arena.size

    def keep(self, array: NDArray[Any]) -> int:
        """The address of an array, with ROOM behind it."""
        flat = np.ascontiguousarray(array)
        room = np.zeros(flat.nbytes + ROOM + ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        room[start : start + flat.nbytes] = flat.reshape(-1).view(np.uint8)
        self.kept.append(room)
        return int(room.ctypes.data) + start

    def keep_in_place(self, array: NDArray[Any]) -> int:
        """The address of an array as it is, e.g. of a mapped constant: no room behind it."""
        self.kept.append(array)
        return int(array.ctypes.data)

    def state(self, count: int) -> int:
        """An offset of `count` bytes that are zero when a run begins and keep their values from step to step."""
        offset = self._arena.take_new(count)
        self.persistent.append((offset, count))
        return offset

    def previous(self, operator: int) -> int:
        """The offset of what an operator gave at the step before."""
        if operator not in self._previous:
            record = self.program.operators[operator]
            count = size_of(record.shape) * WIDTHS[record.type]
            self._previous[operator] = self.state(count)
            self.carried.append((self.places[operator], self._previous[operator], count))
        return self._previous[operator]

    def row(self, index: int, kernel: Kernel | None) -> Row:
        """A new row of operator `index`, with what all rows have."""
        operator = self.program.operators[index]
        values: Integers = np.zeros(WIDTH, np.int64)
        row = Row(self, values)
        count, size = size_of(operator.shape), WIDTHS[operator.type]
        for slot, value in (
            (KERNEL, kernel.address if kernel else 0), (OUT_SIZE, size), (OUT_COUNT, count), (OUT_STRIDE, count * size),
            (LOW, operator.low), (HIGH, operator.high), (PHASE, operator.phase), (NUMBER, index),
            (GROWS, int(operator.shape[-1] < 0)),
        ):  # fmt: skip
            row.set(slot, value)
        row.place(OUT, self.places[index])
        row.place(SCRATCH, 0)  # the place is known in the end
        self.rows.append(row)
        return row

    def begin(self, index: int) -> None:
        """Rows of operator `index` follow."""
        if index != len(self.first_row):
            raise AssertionError("operators are lowered in order")
        self.first_row.append(len(self.rows))

    def end(self) -> None:
        """Close the list: mark the last row of each operator that has a leaf; scratch memory lies behind the arena."""
        self.first_row.append(len(self.rows))
        for operator, first in zip(self.program.operators, self.first_row[1:], strict=True):
            self.rows[first - 1].set(LAST, operator.leaf + 1)
        for row in self.rows:
            row.set(SCRATCH, self._arena.size)

    def _plan(self) -> None:
        """Rules 1, 3 and 4: the place of each operator's output."""
        program = self.program
        owners = list(range(len(program.operators)))
        for index, operator in enumerate(program.operators):
            if is_alias(operator):
                owners[index] = owners[operator.inputs[0].id]
        last = _last_readers(program, owners)
        ending: dict[int, list[int]] = {}
        for owner, reader in last.items():
            ending.setdefault(reader, []).append(owner)
        for index, operator in enumerate(program.operators):
            if owners[index] != index:
                self.places.append(self.places[owners[index]])
            else:
                self.places.append(self._arena.take(self._room(operator)))
            for owner in ending.get(index, ()):
                self._arena.give(self.places[owner], self._room(program.operators[owner]))

    def _room(self, operator: Operator) -> int:
        """The bytes of all samples of a pass."""
        return (self.late if operator.phase else self.most) * _bytes(operator, self.program.context)


def _bytes(operator: Operator, context: int) -> int:
    return size_of(operator.shape, context) * WIDTHS[operator.type]


def _last_readers(program: Program, owners: Sequence[int]) -> dict[int, int]:
    """Of each operator that owns memory: the operator after which nobody reads it (itself, if nobody does); kept ones are left out."""
    last = {owner: owner for owner in owners}
    kept = {owners[number] for number in program.outputs}
    for index, operator in enumerate(program.operators):
        for source in operator.inputs:
            if source.origin == OPERATOR:
                last[owners[source.id]] = index
            elif source.origin == PREVIOUS and source.id != index:  # an `append` keeps its pages itself
                kept.add(owners[source.id])
        last[owners[index]] = max(last[owners[index]], index)
    return {owner: reader for owner, reader in last.items() if owner not in kept}
