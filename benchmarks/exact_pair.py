"""One exact program beside the float model it stands for: run, batch, trace, each against onnxruntime on one thread."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from avow.engines.exact import load_exact
from avow.exact.compile.leaves import blocks_of, price
from avow.exact.kernels import digests
from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.tracer import BulkTracer
from avow.exact.program import Program
from avow.models.exact import add_exact
from avow.models.store import Store
from benchmarks.report import Benchmark

SEED = bytes(range(32))
BAR = 2.0
"""Times onnxruntime's time."""
TRACE_BAR = 30.0
"""Percent."""
BATCH = 64


def best_us(*works: Callable[[], object], seconds: float = 1.0) -> list[float]:
    """The least CPU microseconds of one call of each, measured in turns, so that a busy neighbour disturbs all alike.

    All work is the calling thread's, so that on an idle machine this is the wall time; on a shared one it is what is left of it.
    """
    counts = []
    for work in works:
        work()
        start = time.perf_counter()
        work()
        counts.append(max(1, int(0.02 / max(time.perf_counter() - start, 1e-7))))
    best = [float("inf")] * len(works)
    until = time.perf_counter() + seconds * len(works)
    while time.perf_counter() < until:
        for at, (work, count) in enumerate(zip(works, counts, strict=True)):
            start_ns = time.thread_time_ns()
            for _ in range(count):
                work()
            best[at] = min(best[at], (time.thread_time_ns() - start_ns) / count / 1000)
    return best


def session_of(model: Path | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def compare(
    benchmark: Benchmark, name: str, program: Program, model: Path | bytes, feeds: Mapping[str, Any], *, steps: int = 1,
    seconds: float = 1.0,
) -> float:  # fmt: skip
    """Add a model's figures; the ratio of exact to float time. `feeds`: the float model's inputs; its run is `steps` of ours."""
    session = session_of(model)
    arrays = inputs_of(program, steps)
    start = time.perf_counter()
    machine = Machine(program)
    machine.run(arrays)
    loaded = time.perf_counter() - start
    run, trace = run_and_trace(machine, arrays)
    ours, floats, traced = best_us(run, lambda: session.run(None, feeds), trace, seconds=seconds)
    benchmark.add(f"{name}: one run", ours, "us", peer=f"onnxruntime {floats:.4g} us", ratio=ours / floats)
    benchmark.add(f"{name}: exact / float", ours / floats, "x", bar=BAR)
    costs(benchmark, name, program, ours, traced, steps, seconds)
    if program.mode == "once" and program.context >= BATCH:
        batch(benchmark, name, machine, seconds)
    benchmark.add(f"{name}: run and trace / float", traced / floats, "x", peer="onnxruntime")
    benchmark.add(f"{name}: lay out and first run", loaded, "s")
    return ours / floats


def traced(benchmark: Benchmark, program: Program, steps: int, *, seconds: float = 1.0) -> None:
    """What a trace of so many steps adds, of a program alone."""
    name = program.name if steps == 1 else f"{program.name}, {steps} steps"
    ours, with_trace = best_us(*run_and_trace(Machine(program), inputs_of(program, steps)), seconds=seconds)
    benchmark.add(f"{name}: one run", ours, "us")
    costs(benchmark, name, program, ours, with_trace, steps, seconds)


def run_and_trace(machine: Machine, arrays: list[Any]) -> tuple[Callable[[], object], Callable[[], object]]:
    ranks = machine.program.ranks
    return lambda: machine.run(arrays), lambda: machine.trace(arrays, BulkTracer(SEED, ranks))


def costs(
    benchmark: Benchmark, name: str, program: Program, ours: float, traced: float, steps: int, seconds: float
) -> None:
    """A trace's cost beside the plain run, its SHA-256 blocks alone, and a node's whole call; times in microseconds."""
    benchmark.add(
        f"{name}: a trace, {recorded_bytes(program) * steps / 1e6:.3g} MB in leaves", 100 * (traced / ours - 1), "%", bar=TRACE_BAR,
        peer=f"plain run, + {traced - ours:.3g} us",
    )  # fmt: skip
    least, floor = blocks_us(program, steps)
    benchmark.add(
        f"{name}: its SHA-256 blocks alone",
        100 * floor / ours,
        "%",
        peer=f"{floor:.3g} us; {least:.3g} us without leaves",
    )
    call(benchmark, name, program, steps, seconds)


def call(benchmark: Benchmark, name: str, program: Program, steps: int, seconds: float) -> None:
    """What a trace adds to what a node pays for an answer: the request read from JSON and checked, the run, the answer written as JSON."""
    with TemporaryDirectory() as home:
        file, store = Path(home) / "made.exact", Store(Path(home), directory=Path(home) / "models")
        file.write_bytes(b"".join(bytes(part) for part in program.parts()))
        stored = store.get(add_exact(store, file, name="made", root=program.root))
        engine = load_exact(stored, threads=1, slots=1)
        infos = zip(engine.inputs, inputs_of(program, steps), strict=True)
        tensors = [
            {
                "name": info.name,
                "datatype": info.datatype,
                "shape": [steps if length is None else length for length in info.shape],
                "data": array.reshape(-1).tolist(),
            }
            for info, array in infos
        ]
        request = json.dumps({"inputs": tensors})
        plain, traced = best_us(
            lambda: json.dumps(engine.infer(json.loads(request))),
            lambda: json.dumps(engine.traced_infer(json.loads(request), SEED)[0]),
            seconds=seconds,
        )
    benchmark.add(f"{name}: an engine's call, JSON to JSON", plain, "us")
    benchmark.add(
        f"{name}: what a trace adds to it",
        100 * (traced / plain - 1),
        "%",
        bar=TRACE_BAR,
        peer=f"+ {traced - plain:.3g} us",
    )


def inputs_of(program: Program, steps: int) -> list[Any]:
    """Random inputs of so many steps."""
    random = np.random.default_rng(0)
    return [
        random.integers(each.low, each.high, (steps, *each.shape), dtype=np.int64, endpoint=True).astype(
            DTYPES[each.type]
        )
        for each in program.inputs
    ]


def batch(benchmark: Benchmark, name: str, machine: Machine, seconds: float) -> None:
    """What a trace adds to a batch: the costs of every run, however short, are shared."""
    plain, traced = best_us(*run_and_trace(machine, inputs_of(machine.program, BATCH)), seconds=seconds)
    benchmark.add(f"{name}, batch of {BATCH}: a sample", plain / BATCH, "us")
    benchmark.add(
        f"{name}, batch of {BATCH}: a trace",
        100 * (traced / plain - 1),
        "%",
        bar=TRACE_BAR,
        peer=f"plain run, + {traced - plain:.3g} us",
    )


def blocks_us(program: Program, steps: int) -> tuple[float, float]:
    """The time of the SHA-256 blocks of a run's trace, as quick as long messages are hashed two at a time: those that any trace has, though
    it had no leaf (inputs, outputs, key, salts, header), and all.
    """
    ends = [(each.type, each.shape) for each in program.inputs]
    ends += [(program.operators[number].type, program.operators[number].shape) for number in program.outputs]
    blocks = sum(blocks_of(int(np.prod(shape)) * DTYPES[kind].itemsize * steps) for kind, shape in ends)
    blocks += 2 + 2 + (350 + 32 * len(ends)) // 64 + 1
    leaves = [program.operators[number] for number in program.with_leaf]
    own = sum(price(each, program.context) for each in leaves) * steps
    data: Any = np.zeros(1 << 20, np.uint8)
    key, target = np.zeros(digests.DIGEST_BYTES, np.uint8), np.zeros(digests.DIGEST_BYTES, np.uint8)
    scratch = np.zeros(digests.scratch_bytes(len(data)), np.uint8)
    (whole,) = best_us(lambda: digests.digest(data, key, 0, scratch, target), seconds=0.2)
    each = whole / blocks_of(len(data))
    return blocks * each, (blocks + own) * each


def recorded_bytes(program: Program) -> int:
    """Of the tensors that have leaves, in one step."""
    leaves = [program.operators[number] for number in program.with_leaf]
    return sum(int(np.prod(each.shape)) * DTYPES[each.type].itemsize for each in leaves)


def operators_us(program: Program, *, rounds: int = 30) -> Sequence[tuple[str, float]]:
    """Wall microseconds of each operator alone (about one for the call from Python is in each), for finding what is slow."""
    from avow.exact.kernels.compiled import layout_of
    from avow.exact.kernels.lane import Lane

    lane = Lane(layout_of(program))
    lane.begin()
    arrays = [np.zeros((64, *each.shape), DTYPES[each.type]) for each in program.inputs]
    lane.read_from([each.ctypes.data for each in arrays])
    found = [float("inf")] * len(program.operators)
    for _ in range(rounds):
        for number in range(len(program.operators)):
            start = time.perf_counter()
            lane.step(0, number, number + 1)
            found[number] = min(found[number], 1e6 * (time.perf_counter() - start))
    return [(operator.kind, each) for operator, each in zip(program.operators, found, strict=True)]
