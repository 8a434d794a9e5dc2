"""Size of a fraud proof, and the referee's time, for each kind of operator of real programs.

    python -m benchmarks.fraud_proofs [FILE.exact …]

Faults are planted at the last step of the context (of a language model; else of two samples), in the last value, of the first, middle and
last operator of each kind, found and proven as a watcher does, and refereed as a full node does. Times are of the processor. Without
files: every compiled program under build/exact, and a small random language model.
"""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from avow.exact import files
from avow.exact.committed import CommittedRun
from avow.exact.fraud import FraudProof, gas
from avow.exact.hashing import Header, Salts, trace_of
from avow.exact.kernels.language_machine import LanguageMachine
from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.tracer import BulkTracer, Keeper
from avow.exact.program import NO_LEAF, Program
from avow.exact.prover import Subject, check_header, find_fault
from avow.exact.referee import referee
from avow.exact.sites import PAGE
from avow.exact.specification import Parameters
from avow.exact.tensors import pack, unpack
from avow.receipt import merkle
from avow.receipt.encoding import encode, tagged_hash
from benchmarks.report import Benchmark, main, percentile
from tests.exact import language_model

SEED = bytes(range(32))
COMPILED = Path(__file__).resolve().parent.parent / "build" / "exact"
SIZE_BAR = 65_536
TIME_BAR_MS = 10.0


@dataclass
class Run:
    """An honest run with all its tensors."""

    header: bytes
    leaves: list[bytes]
    tensors: dict[int, bytes]

    def tensor(self, slot: int) -> bytes:
        return self.tensors[slot]


def honest(program: Program) -> Run:
    random = Random(0)
    ranks = program.ranks
    if program.mode == "generate":
        prompt = [random.randrange(program.inputs[0].high + 1) for _ in range(program.context)]
        keeper = Keeper(BulkTracer(SEED, ranks), ranks, _needed(program))
        found = _generated(program, prompt, keeper)
    else:
        keeper = Keeper(BulkTracer(SEED, ranks), ranks)
        arrays = [
            np.random.default_rng(0)
            .integers(each.low, each.high, (2, *each.shape), endpoint=True)
            .astype(DTYPES[each.type])
            for each in program.inputs
        ]
        found = Machine(program).trace(arrays, keeper)[1]
    return Run(found.header, list(found.leaves), keeper.tensors)


def _needed(program: Program) -> set[int]:
    """The slots that an operator at the context's last step can read: its own step, the one before, and every page of a cache."""
    width, last = program.head.leaves, program.context - 1
    appends = [operator for operator in program.operators if operator.kind == "append"]
    pages = [operator.leaf for operator in appends if operator.leaf != NO_LEAF]
    rows = [operator.inputs[0].leaf for operator in appends if operator.leaf == NO_LEAF]
    kept = {step * width + rank for step in range(PAGE - 1, last, PAGE) for rank in pages}
    kept |= {step * width + rank for step in range(last) for rank in rows}
    return kept | set(range((last - 1) * width, (last + 1) * width))


def _generated(program: Program, prompt: list[int], keeper: Keeper) -> Any:
    parameters = Parameters(temperature_m=9000, temperature_s=14, seed=7, max_tokens=1)
    made = LanguageMachine(program).run(prompt, parameters, tracer=keeper)
    return keeper.finish(
        program=program.root, steps=made.steps, prompt=len(prompt), finish=made.finish,
        parameters={"max_tokens": 1, "seed": 7, "temperature_m": 9000, "temperature_s": 14},
        inputs=[pack("int32", prompt)], outputs=[pack("int32", made.tokens)],
    )  # fmt: skip


def lied(program: Program, run: Run, slot: int) -> Run:
    """The same run with the last value of a tensor changed, and committed to."""
    operator = program.operators[program.place(slot)[1]]
    values = list(unpack(operator.type, run.tensors[slot]))
    values[-1] += 1 if values[-1] < operator.high else -1
    data = pack(operator.type, values)
    leaves = list(run.leaves)
    leaves[slot] = Salts(SEED).digest(slot, data)
    header = Header.parse(run.header)
    changed = {name: getattr(header, name) for name in Header.__slots__} | {"root": merkle.root(leaves)}
    return Run(Header(**changed).encoded(), leaves, {**run.tensors, slot: data})


def chosen(program: Program) -> dict[str, list[int]]:
    """First, middle and last operator of each kind that has a leaf, and an interval that leaves room for a lie."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for number, operator in enumerate(program.operators):
        if operator.low < operator.high and operator.leaf != NO_LEAF:
            kinds[operator.kind].append(number)
    return {kind: sorted({all_[0], all_[len(all_) // 2], all_[-1]}) for kind, all_ in kinds.items()}


def measure(benchmark: Benchmark, program: Program) -> None:
    run = honest(program)
    manifest = encode({"engine": "exact", "options": {"root": program.root.hex()}})
    identity = tagged_hash(b"avow/program/1", manifest)
    last = Header.parse(run.header).steps - 1
    every: list[float] = []
    for kind, numbers in sorted(chosen(program).items()):
        sizes, times, searches = [], [], []
        for number in numbers:
            slot = program.slot(last, number)
            assert slot is not None
            liar = lied(program, run, slot)
            claim = CommittedRun(liar.header, liar, SEED)
            subject = Subject(program, manifest, trace_of(liar.header))
            start = time.perf_counter()
            header = check_header(subject, claim)
            assert isinstance(header, Header)
            proof = find_fault(subject, header, run, Salts(SEED), claim)
            searches.append(time.perf_counter() - start)
            assert isinstance(proof, FraudProof)
            encoded = proof.encoded()
            for _ in range(30):
                start = time.thread_time_ns()
                found = referee(encoded, identity, subject.trace)
                times.append((time.thread_time_ns() - start) / 1e6)
            assert (found.kind, found.slot) == ("element", slot)
            sizes.append(len(encoded))
        every += times
        name = f"{program.name}, {kind}"
        benchmark.add(f"{name}: proof", max(sizes), "bytes", bar=SIZE_BAR)
        benchmark.add(f"{name}: referee, median", percentile(times, 0.5), "ms", peer=f"gas {gas(bytes(max(sizes)))}")
        benchmark.add(f"{name}: search", 1e3 * max(searches), "ms")
    benchmark.add(f"{program.name}: referee, p99", percentile(every, 0.99), "ms", bar=TIME_BAR_MS)


def programs() -> list[Program]:
    paths = [Path(each) for each in sys.argv[1:] if not each.startswith("--")]
    found = [files.load(path) for path in paths or sorted(COMPILED.glob("*.exact"))]
    return found if paths else [*found, language_model.program()]


def run() -> Benchmark:
    benchmark = Benchmark("fraud_proofs", "Fraud proofs: size, and the referee's time")
    for program in programs():
        measure(benchmark, program)
    return benchmark


if __name__ == "__main__":
    main(run)
