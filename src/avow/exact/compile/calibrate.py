"""The ranges of a model's values, from real data.

Rules:
1. The float model runs on each sample and every value that will be an integer is looked at. What comes out is small and kept as text
   (`Ranges`): with the model's bytes it determines the program, on any machine.
2. A range is the least and the largest value seen, and the bound that is best for eight bits: the one with the least squared error.
3. A model with states runs its samples as the steps of one sequence; between sequences states are zero again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from avow.exact.compile.errors import CannotCompile
from avow.exact.compile.graph import Graph, float_model
from avow.exact.compile.ranges import Range, Ranges
from avow.exact.compile.recurrent import simulate
from avow.exact.compile.runtime import Array, run, session

Sample = Mapping[str, Array]
DIGITS = 6
SAMPLED = 512


class _Seen:
    """What one value was seen to be, so far."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.values: list[Array] = []

    def look(self, array: Array) -> None:
        flat = array.reshape(-1)
        if not flat.size:
            return
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))
        self.values.append(np.abs(flat[:: max(1, flat.size // SAMPLED)]).astype(np.float32))

    def range(self) -> Range:
        magnitude = max(abs(self.low), abs(self.high))
        return Range(_short(self.low), _short(self.high), _short(_best_clip(np.concatenate(self.values), magnitude)))


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _best_clip(values: Array, magnitude: float) -> float:
    """The bound with the least squared error at 127 steps, of 40 from the largest value down to a fifth of it."""
    if magnitude == 0:
        return 0.0
    best, found = np.inf, magnitude
    for share in np.linspace(1.0, 0.2, 41):
        step = magnitude * share / 127
        error = float(((np.minimum(np.rint(values / step), 127) * step - values) ** 2).sum())
        # The largest value was seen, though maybe not sampled.
        error += float((magnitude - magnitude * share) ** 2)
        if error < best:
            best, found = error, magnitude * float(share)
    return found


def calibrate(flat: Graph, wanted: Sequence[str], sequences: Iterable[Iterable[Sample]]) -> Ranges:
    """The ranges of the wanted values over all samples. Raises CannotCompile: no samples, numbers that are not finite."""
    names = [name for name in dict.fromkeys(wanted) if name not in flat.inputs]
    states = list(flat.states.values())
    model = float_model(flat, list(dict.fromkeys([*names, *states])))
    outputs = list(dict.fromkeys([*names, *states]))
    started = session(model, "calibration")
    seen: dict[str, _Seen] = {name: _Seen() for name in dict.fromkeys([*wanted, *flat.inputs])}
    recurrent = [node for node in flat.nodes if node.operator in ("LSTM", "GRU")]
    viewed = list(seen)
    count = 0
    for sequence in sequences:
        memory = {name: np.zeros(flat.shapes[name], dtype=flat.types[name]) for name in flat.states}
        for sample in sequence:
            feeds = {**feed(flat, sample), **memory}
            found = dict(zip(outputs, run(started, feeds, "calibration"), strict=True))
            for name in viewed:
                seen[name].look(feeds[name] if name in feeds else found[name])
            for node in recurrent:
                for name, values in simulate(flat, node, {**found, **feeds}):
                    seen.setdefault(name, _Seen()).look(values)
            memory = {name: found[value] for name, value in flat.states.items()}
            count += 1
    if not count:
        raise CannotCompile("there is nothing to calibrate with", hint="--calibrate DATA")
    for name, look in seen.items():
        if not np.isfinite([look.low, look.high]).all():
            raise CannotCompile("a value of the float model is not finite on the calibration data", name=name[:96])
    return Ranges({name: look.range() for name, look in seen.items()})


def feed(flat: Graph, sample: Sample) -> dict[str, Any]:
    """A sample's arrays for the model's inputs that are no states, of their types and shapes. Raises CannotCompile."""
    feeds = {}
    for name in flat.inputs:
        if name in flat.states:
            continue
        if name not in sample:
            raise CannotCompile("a sample lacks an input", input=name[:96])
        array = np.asarray(sample[name])
        if array.shape != flat.shapes[name]:
            if array.size != int(np.prod(flat.shapes[name])):
                raise CannotCompile(
                    "a sample has another shape than the program", input=name[:96], shape=str(array.shape)
                )
            array = array.reshape(flat.shapes[name])
        feeds[name] = array.astype(flat.types[name])
    return feeds
