"""One exact program beside the float model it stands for: run, batch, trace, each against onnxruntime on one thread."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avow.exact.compile.leaves import blocks_of
from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.tracer import BulkTracer
from avow.exact.program import Program
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
    ranks = program.ranks

    def run() -> None:
        machine.run(arrays)

    def record() -> None:
        machine.run(arrays, BulkTracer(SEED, ranks))

    def trace() -> None:
        machine.trace(arrays, BulkTracer(SEED, ranks))

    ours, floats, recorded, traced = best_us(run, lambda: session.run(None, feeds), record, trace, seconds=seconds)
    benchmark.add(f"{name}: one run", ours, "us", peer=f"onnxruntime {floats:.4g} us", ratio=ours / floats)
    benchmark.add(f"{name}: exact / float", ours / floats, "x", bar=BAR)
    benchmark.add(
        f"{name}: leaves, {recorded_bytes(program) * steps / 1e6:.3g} MB", 100 * (recorded / ours - 1), "%", bar=TRACE_BAR,
        peer="plain run", ratio=recorded / ours,
    )  # fmt: skip
    benchmark.add(f"{name}: whole trace", 100 * (traced / ours - 1), "%", peer=f"plain run, + {traced - ours:.3g} us")
    least = least_us(program, steps)
    benchmark.add(
        f"{name}: no trace costs less than", 100 * least / ours, "%", peer=f"{least:.3g} us of SHA-256 blocks"
    )
    if program.mode == "once" and program.context >= BATCH:
        batch(benchmark, name, machine, seconds)
    benchmark.add(f"{name}: run and trace / float", traced / floats, "x", peer="onnxruntime")
    benchmark.add(f"{name}: lay out and first run", loaded, "s")
    return ours / floats


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
    ranks, arrays = machine.program.ranks, inputs_of(machine.program, BATCH)
    works = (
        lambda: machine.run(arrays),
        lambda: machine.run(arrays, BulkTracer(SEED, ranks)),
        lambda: machine.trace(arrays, BulkTracer(SEED, ranks)),
    )
    plain, recorded, traced = best_us(*works, seconds=seconds)
    benchmark.add(f"{name}, batch of {BATCH}: a sample", plain / BATCH, "us")
    benchmark.add(f"{name}, batch of {BATCH}: leaves", 100 * (recorded / plain - 1), "%", bar=TRACE_BAR)
    benchmark.add(f"{name}, batch of {BATCH}: whole trace", 100 * (traced / plain - 1), "%", peer="plain run")


def least_us(program: Program, steps: int) -> float:
    """The time of the SHA-256 blocks that any trace of a run has, though it had no leaf: inputs, outputs, key, salts, header."""
    ends = [(each.type, each.shape) for each in program.inputs]
    ends += [(program.operators[number].type, program.operators[number].shape) for number in program.outputs]
    blocks = sum(blocks_of(int(np.prod(shape)) * DTYPES[kind].itemsize * steps) for kind, shape in ends)
    blocks += 2 + 2 + (350 + 32 * len(ends)) // 64 + 1
    data = bytes(1 << 20)
    (whole,) = best_us(lambda: hashlib.sha256(data).digest(), seconds=0.2)
    return blocks * whole / (len(data) // 64)


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
