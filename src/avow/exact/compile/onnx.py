"""From an ONNX model to an exact program.

`compile_onnx(model, options, …)` is the way in: read, flatten, simplify, calibrate unless ranges are given, lower, and prove the bounds as
a loader would. The same bytes, options and ranges give the same program on every machine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from avow.exact.compile import lower_products, lower_regions, lower_shapes, lower_values, recurrent, trees
from avow.exact.compile.builder import multiplier, type_of
from avow.exact.compile.calibrate import Sample, calibrate
from avow.exact.compile.errors import CannotCompile, UnsupportedOperators
from avow.exact.compile.graph import Graph, flatten, read_model
from avow.exact.compile.lowering import Handler, Lowered, Lowering, Settings
from avow.exact.compile.ranges import Ranges
from avow.exact.compile.runtime import Array
from avow.exact.compile.simplify import simplify
from avow.exact.kernels.statistics import FastStatistics
from avow.exact.program import Program
from avow.exact.specification import bounds

HANDLERS: Mapping[str, Handler] = {
    **lower_products.HANDLERS,
    **lower_values.HANDLERS,
    **lower_shapes.HANDLERS,
    **lower_regions.HANDLERS,
    **recurrent.HANDLERS,
}
MAX_CONTEXT = 1 << 16
IDS = 1 << 15


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller decides.

    `bits`: of what goes into products, 8 to 16. `shapes`: of inputs whose shape the model leaves open (a batch of one). `fixed`: inputs
    that become constants. `states`: input → the output that is its value at the next step. `steps`: how many samples, or steps, a run
    has at most. `integers`: the least and most of inputs that are integers.
    """

    name: str = "program"
    bits: int = 8
    weight_bits: int = 8
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    steps: int = 1024
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Recipe(Protocol):
    """What decides a compilation, as the catalogue writes it (models/exact.py)."""

    @property
    def name(self) -> str: ...
    @property
    def bits(self) -> int: ...
    @property
    def weight_bits(self) -> int: ...
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def fixed(self) -> Mapping[str, int]: ...
    @property
    def states(self) -> Mapping[str, str]: ...
    @property
    def integers(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def steps(self) -> int: ...


def options_of(recipe: Recipe) -> Options:
    """A recipe's options."""
    return Options(
        name=recipe.name,
        bits=recipe.bits,
        weight_bits=recipe.weight_bits,
        shapes=recipe.shapes,
        fixed={name: np.array(value) for name, value in recipe.fixed.items()},
        states=recipe.states,
        steps=recipe.steps,
        integers=recipe.integers,
    )


@dataclass(frozen=True, slots=True)
class Compiled:
    """The program; the ranges that it was made with; the flat float graph that it stands for; each operator's largest accumulator."""

    program: Program
    ranges: Ranges
    flat: Graph
    accumulators: tuple[int, ...]


def compile_onnx(
    data: bytes,
    options: Options,
    *,
    sequences: Iterable[Iterable[Sample]] | None = None,
    ranges: Ranges | None = None,
) -> Compiled:
    """The exact program of a model, calibrated on `sequences` (of one sample each, if the model has no states) unless `ranges` are given.

    Raises UnsafeModel, UnsupportedOperators (before any work), CannotCompile, BadProgram.
    """
    if not 8 <= options.bits <= 16 or not 8 <= options.weight_bits <= 16 or not 1 <= options.steps <= MAX_CONTEXT:
        raise CannotCompile("bits are 8 to 16, steps 1 to 65,536")
    model = read_model(data)
    if trees.is_ensemble(model):
        program = trees.compile_trees(model, options.name, options.steps)
        return Compiled(program, Ranges(), _no_graph(), bounds.check(program, FastStatistics()))
    flat = flat_graph(model, options)
    graph = flat.copy()
    try:
        simplify(graph)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CannotCompile("an operator has a form that is not compiled", cause=repr(error)[:200]) from error
    check_lowered(graph)
    if ranges is None:
        if sequences is None:
            raise CannotCompile("there is nothing to calibrate with", hint="--calibrate DATA")
        ranges = calibrate(flat, measured_values(graph), sequences)
    program = _lower(graph, ranges, options)
    return Compiled(program, ranges, flat, bounds.check(program, FastStatistics()))


def flat_inputs(data: bytes, options: Options) -> list[str]:
    """The names of the inputs that samples have to have. Raises UnsafeModel, UnsupportedOperators, CannotCompile."""
    model = read_model(data)
    given = {tensor.name for tensor in model.graph.initializer}
    skipped = given | set(options.fixed) | set(options.states)
    return [value.name for value in model.graph.input if value.name not in skipped]


def flat_graph(model: object, options: Options) -> Graph:
    """The flat float graph, its states named. Raises CannotCompile."""
    sample = _sample(model, options)
    flat = flatten(model, sample, options.fixed)
    for state, output in options.states.items():
        if state not in flat.inputs or output not in flat.output_names:
            raise CannotCompile("a state is an input and an output of the model", state=f"{state}:{output}"[:96])
        at = flat.output_names.index(output)
        flat.states[state] = flat.outputs[at]
    kept = [at for at, name in enumerate(flat.output_names) if name not in options.states.values()]
    flat.outputs = [flat.outputs[at] for at in kept]
    flat.output_names = [flat.output_names[at] for at in kept]
    if not flat.outputs or any(name in flat.constants for name in flat.outputs):
        raise CannotCompile("the model has no output that depends on its inputs")
    return flat


def _sample(model: object, options: Options) -> dict[str, Array]:
    """One sample of small random numbers, for shapes."""
    from onnx import helper

    generator = np.random.Generator(np.random.PCG64(0))
    given = {tensor.name for tensor in model.graph.initializer}  # type: ignore[attr-defined]
    found: dict[str, Array] = {}
    for value in model.graph.input:  # type: ignore[attr-defined]
        if value.name in given or value.name in options.fixed:
            continue
        shape = options.shapes.get(value.name) or _shape(value, options)
        number = value.type.tensor_type.elem_type
        kind = helper.tensor_dtype_to_np_dtype(number) if number in helper.get_all_tensor_dtypes() else None
        if kind is not None and kind.kind == "f":
            found[value.name] = generator.normal(size=shape).astype(kind)
        elif kind is not None and kind.kind in "iub":
            found[value.name] = np.zeros(shape, dtype=kind)
        else:
            text = "unknown" if kind is None else str(kind)
            raise CannotCompile("an input of a type that is not compiled", input=value.name[:96], type=text)
    return found


def _shape(value: object, options: Options) -> tuple[int, ...]:
    dimensions = value.type.tensor_type.shape.dim  # type: ignore[attr-defined]
    name = value.name  # type: ignore[attr-defined]
    shape = [each.dim_value for each in dimensions]
    if shape and shape[0] <= 0:
        shape[0] = 1
    if any(extent <= 0 for extent in shape):
        texts = [each.dim_param or str(each.dim_value or "?") for each in dimensions]
        hint = f"--shape {name}=…"
        raise CannotCompile(
            "the model leaves the shape of an input open", input=name[:96], shape=",".join(texts)[:96], hint=hint
        )
    del options
    return tuple(shape)


def check_lowered(graph: Graph) -> None:
    """Raises UnsupportedOperators for what is left and has no lowering, before any calibration."""
    strangers = [f"{node.operator} at {node.place}" for node in graph.nodes if node.operator not in HANDLERS]
    if strangers:
        raise UnsupportedOperators(strangers)


def measured_values(graph: Graph) -> list[str]:
    """The float model's values whose ranges are needed."""

    def final(name: str) -> str:
        while name in graph.measured:
            name = graph.measured[name]
        return name

    names = [*graph.inputs, *(name for node in graph.nodes for name in (*node.inputs, *node.outputs))]
    return [final(name) for name in dict.fromkeys(names) if name and name not in graph.constants]


# --- Lowering ------------------------------------------------------------------------------------------------------


def _lower(graph: Graph, ranges: Ranges, options: Options) -> Program:
    lowering = Lowering(graph, ranges, Settings(options.bits, options.weight_bits), dict(HANDLERS))
    notes: dict[str, str] = {}
    at = 0
    for name in graph.inputs:
        if name in graph.states:
            _open_state(lowering, name)
        else:
            lowering.values[name] = _input(lowering, name, options, notes, at)
            at += 1
    lowering.run()
    for name, value in graph.states.items():
        _close_state(lowering, name, value)
    outputs = []
    for index, (name, value) in enumerate(zip(graph.output_names, graph.outputs, strict=True)):
        found = lowering.values[value]
        found = lowering.arrange(found, lowering.natural(found))
        if found.number in outputs:
            found = lowering.add(
                "reshape", [lowering.source(found)], found.shape, found.axes, found.scale, (found.low, found.high)
            )
        outputs.append(found.number)
        notes |= _note(
            "output", index, name, found.scale, graph.shapes[value], str(np.dtype(graph.types[value])), "nearest"
        )
    return lowering.builder.build(
        name=options.name,
        mode="sequence" if graph.states else "once",
        context=options.steps,
        outputs=outputs,
        notes=notes | {"bits": str(options.bits), "weight_bits": str(options.weight_bits)},
    )


def _note(
    side: str, index: int, name: str, scale: float, shape: tuple[int, ...], kind: str, rounding: str
) -> dict[str, str]:
    key = f"{side}.{index}"
    return {
        f"{key}.name": name,
        f"{key}.scale": repr(scale),
        f"{key}.shape": ",".join(map(str, shape)),
        f"{key}.type": kind,
        f"{key}.rounding": rounding,
    }


def _input(lowering: Lowering, name: str, options: Options, notes: dict[str, str], at: int) -> Lowered:
    graph = lowering.graph
    shape = graph.shapes[name]
    kind = np.dtype(graph.types[name])
    if kind.kind == "f":
        scale, most = lowering.scale(name)
        low, high = -most, most
    else:
        scale = 1.0
        found = lowering.ranges.values.get(name)
        low, high = options.integers.get(name) or ((int(found.low), int(found.high)) if found else (0, IDS))
    axes = tuple(axis for axis, extent in enumerate(shape) if extent > 1) or (-1,)
    extents = tuple(extent for extent in shape if extent > 1) or (1,)
    number = lowering.builder.input(type_of(low, high), extents, low, high)
    notes |= _note("input", at, name, scale, shape, str(kind), "nearest")
    return Lowered(number, extents, axes, scale, low, high)


def _open_state(lowering: Lowering, name: str) -> None:
    """A state is read from the previous step: it is what its last operator, closed later, will be."""
    shape = lowering.graph.shapes[name]
    axes = tuple(axis for axis, extent in enumerate(shape) if extent > 1) or (-1,)
    extents = tuple(extent for extent in shape if extent > 1) or (1,)
    scale, most = recurrent.state_scale(lowering, name) or lowering.scale(
        name, lowering.bits(lowering.graph.states[name])
    )
    number = lowering.builder.operator("reshape", [name], extents, -most, most)
    lowering.values[name] = Lowered(number, extents, axes, scale, -most, most)


def _close_state(lowering: Lowering, name: str, value: str) -> None:
    opened, found = lowering.values[name], lowering.values[value]
    # The shapes differ in extents of one at most; axes are those of the same ONNX shape.
    found = lowering.arrange(found, opened.axes)
    interval = (opened.low, opened.high)
    if found.scale != opened.scale:
        m, s = multiplier(found.scale / opened.scale)
        found = lowering.add(
            "rescale", [lowering.source(found)], found.shape, found.axes, opened.scale, interval, {"m": m, "s": s}
        )
    elif (found.low, found.high) != interval:
        found = lowering.add("clip", [lowering.source(found)], found.shape, found.axes, found.scale, interval)
    lowering.builder.states[name] = found.number


def _no_graph() -> Graph:
    return Graph([], {}, {}, {}, [], [], [], 0)
