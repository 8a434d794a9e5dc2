"""What became of a model: size, operators, distance from the float model, and how large a proof of one wrong value can be."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from avow.exact.compile.calibrate import Sample, feed
from avow.exact.compile.graph import Graph, float_model
from avow.exact.compile.onnx import Compiled
from avow.exact.compile.runtime import Array, run, session
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.ports import Port, ports
from avow.exact.program import Program
from avow.exact.specification import bounds
from avow.exact.tensors import WIDTHS, size_of


@dataclass(slots=True)
class OutputError:
    """One output against the float model: over all values, and how often each row's largest is at the same place."""

    name: str
    largest: float = 0.0
    squares: float = 0.0
    power: float = 0.0
    count: int = 0
    rows: int = 0
    same: int = 0

    def look(self, exact: Array, real: Array) -> None:
        difference = np.abs(exact.astype(np.float64) - real.astype(np.float64))
        self.largest = max(self.largest, float(difference.max()))
        self.squares += float((difference**2).sum())
        self.power += float((real.astype(np.float64) ** 2).sum())
        self.count += difference.size
        if real.shape[-1] > 1:
            self.rows += real.size // real.shape[-1]
            self.same += int((exact.argmax(-1) == real.argmax(-1)).sum())

    def to_json(self) -> dict[str, Any]:
        relative = (self.squares / self.power) ** 0.5 if self.power else 0.0
        return {
            "name": self.name,
            "largest_error": self.largest,
            "root_mean_square_error": (self.squares / max(1, self.count)) ** 0.5,
            "relative_error": relative,
            "same_largest": self.same / self.rows if self.rows else None,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about a compiled program that a person wants to know before they trust it with their model."""

    program: Program
    accumulators: tuple[int, ...]
    samples: int = 0
    outputs: list[OutputError] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        program = self.program
        return {
            "name": program.name,
            "root": program.root.hex(),
            "mode": program.mode,
            "size": sum(len(part) for part in program.parts()),
            "operators": len(program.operators),
            "kinds": dict(sorted(Counter(operator.kind for operator in program.operators).items())),
            "weights": sum(len(constant.data) for constant in program.constants),
            "largest_accumulator": max(self.accumulators),
            "openings": worst_openings(program),
            "leaves": program.head.leaves,
            "hashed_bytes": hashed_bytes(program),
            "samples": self.samples,
            "outputs": [output.to_json() for output in self.outputs],
        }


def worst_openings(program: Program) -> dict[str, int]:
    """For each kind that has a leaf, or gives an output, the most bytes that the proof of one wrong value may open."""
    worst: dict[str, int] = {}
    cones = bounds.cones_of(program)
    for root in cones.roots():
        kind = program.operators[root].kind
        worst[kind] = max(worst.get(kind, 0), cones.of(root).opening)
    return dict(sorted(worst.items()))


def hashed_bytes(program: Program) -> int:
    """What a trace hashes for the leaves of one step (of a language model: at the end of its context)."""
    leaves = [program.operators[number] for number in program.with_leaf]
    return sum(size_of(operator.shape, program.context) * WIDTHS[operator.type] for operator in leaves)


def compare(compiled: Compiled, sequences: Iterable[Iterable[Sample]]) -> Report:
    """The report with errors on these samples. Raises BadRun, CannotCompile."""
    program, flat = compiled.program, compiled.flat
    errors = [OutputError(name) for name in flat.output_names]
    machine = Machine(program)
    inputs, outputs = ports(program)
    names = list(dict.fromkeys([*flat.outputs, *flat.states.values()]))
    started = session(float_model(flat, names), "report")
    count = 0
    for sequence in sequences:
        feeds = [feed(flat, sample) for sample in sequence]
        if not feeds:
            continue
        arrays = [_stacked(port, feeds) for port in inputs]
        found = machine.run(arrays)
        real = _float_outputs(flat, started, names, feeds)
        for error, port, exact, values in zip(errors, outputs, found, real, strict=True):
            floats = port.to_floats(exact)
            error.look(floats, values.reshape(floats.shape))
        count += len(feeds)
    return Report(program, compiled.accumulators, count, errors)


def _stacked(port: Port, feeds: list[dict[str, Any]]) -> Array:
    """A run's integers of one input."""
    rows = np.stack([each[port.name] for each in feeds])
    return port.to_integers(rows.reshape(len(feeds), *(extent or 1 for extent in port.steps_shape[1:])))


def _float_outputs(flat: Graph, started: Any, names: list[str], feeds: list[dict[str, Any]]) -> list[Array]:
    """Each output over the steps, [steps, …], by the float model."""
    memory = {name: np.zeros(flat.shapes[name], dtype=flat.types[name]) for name in flat.states}
    rows = []
    for each in feeds:
        found = dict(zip(names, run(started, {**each, **memory}, "report"), strict=True))
        memory = {name: found[value] for name, value in flat.states.items()}
        rows.append([found[name] for name in flat.outputs])
    return [np.stack(column) for column in zip(*rows, strict=True)]
