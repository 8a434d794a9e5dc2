"""What a program's integers stand for: its notes, read as the ports by which floats and integers come in and go out.

The notes are part of the program root. "input.0.scale" is a decimal, or one for each value of the last axis; "rounding" is nearest (halves
to even) or floor. A port's shape is that of the float model, with a leading 1 for its batch if it has one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avow.exact.errors import BadProgram, BadRun
from avow.exact.program import Program
from avow.exact.tensors import size_of

Array = NDArray[Any]
MAX_PORTS = 64
_TYPES = {"int8": np.int8, "int16": np.int16, "int32": np.int32}
_FLOATS = ("float32", "float64", "float16")


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output: name, real = integer · scale, shape of one step as the float model has it, the float model's type."""

    name: str
    scale: Array
    shape: tuple[int, ...]
    type: str
    rounding: str
    exact_type: str
    exact_shape: tuple[int, ...]
    low: int
    high: int

    @property
    def steps_shape(self) -> tuple[int | None, ...]:
        """The shape over a run: the batch's axis, or one in front, is free."""
        return (None, *(self.shape[1:] if self.shape[:1] == (1,) else self.shape))

    def to_integers(self, values: Array) -> Array:
        """Values of a run as the program's integers, [steps, …], clamped to the interval. Raises BadRun for a wrong shape."""
        wanted = self.steps_shape
        if values.ndim != len(wanted) or values.shape[1:] != wanted[1:] or not len(values):
            shown = ", ".join("n" if extent is None else str(extent) for extent in wanted)
            raise BadRun(
                "an input has another shape", input=self.name[:96], expected=f"[{shown}]", found=str(values.shape)
            )
        found = np.asarray(values, dtype=np.float64)
        if not np.isfinite(found).all():
            raise BadRun("an input is not a finite number", input=self.name[:96])
        whole = np.floor(found / self.scale) if self.rounding == "floor" else np.rint(found / self.scale)
        whole = np.clip(whole, self.low, self.high).astype(_TYPES[self.exact_type])
        return np.ascontiguousarray(whole.reshape(len(values), *self.exact_shape))

    def to_floats(self, integers: Array) -> Array:
        """A run's outputs, [steps, …], as the float model's type gives them."""
        shape = (len(integers), *(extent for extent in self.steps_shape[1:] if extent is not None))
        found = integers.reshape(shape).astype(np.float64) * self.scale
        return found.astype(self.type if self.type in _FLOATS else np.float32)


def ports(program: Program) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a program by its notes. Raises BadProgram for notes that do not fit it."""
    inputs = [
        _port(program.notes, f"input.{at}", tensor.type, tensor.shape, tensor.low, tensor.high)
        for at, tensor in enumerate(program.inputs)
    ]
    outputs = []
    for at, number in enumerate(program.outputs):
        operator = program.operators[number]
        outputs.append(_port(program.notes, f"output.{at}", operator.type, operator.shape, operator.low, operator.high))
    return inputs, outputs


def _port(notes: Mapping[str, str], key: str, kind: str, exact: tuple[int, ...], low: int, high: int) -> Port:
    try:
        scale = np.array([float(number) for number in notes[f"{key}.scale"].split(",")], dtype=np.float64)
        shape = tuple(int(extent) for extent in notes[f"{key}.shape"].split(","))
        name, rounding, stands_for = notes[f"{key}.name"], notes[f"{key}.rounding"], notes[f"{key}.type"]
    except (KeyError, ValueError) as error:
        raise BadProgram(f"the notes do not say what {key} stands for") from error
    fits = (
        math.prod(shape) == size_of(exact)
        and min(shape) >= 1
        and len(scale) in (1, shape[-1])
        and bool(np.isfinite(scale).all())
        and bool((scale > 0).all())
        and rounding in ("nearest", "floor")
    )
    if not fits:
        raise BadProgram(f"the notes of {key} do not fit the program")
    return Port(name, scale if len(scale) > 1 else scale[:1], shape, stands_for, rounding, kind, exact, low, high)
