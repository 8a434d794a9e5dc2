"""Size of a fraud proof, and the referee's time, for each kind of operator of real programs.

    python -m benchmarks.fraud_proofs [--models small,mlp,lenet,risk,magika,cls,rec,silero,smollm2 | all] [FILE.exact …]

Faults are planted at the last step of the context (of a language model; else of two samples), in the last value, of the first, middle and
last operator of each kind and of the one that the specification says is dearest to judge, found and proven as a watcher does, and refereed
as a full node does. Times are of the processor. By default a small random language model; the catalogue's programs have to be installed
in the tests' cache, others are compiled here.
"""

import gc
import time
from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from avow.exact.committed import CommittedRun
from avow.exact.fraud import FraudProof, gas
from avow.exact.hashing import OUTPUT_SLOT, Header, Salts, trace_of
from avow.exact.kernels.language_machine import LanguageMachine
from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.tracer import BulkTracer, Keeper
from avow.exact.program import NO_LEAF, Program
from avow.exact.prover import Subject, check_header, find_fault
from avow.exact.referee import referee
from avow.exact.sites import PAGE
from avow.exact.specification import Parameters
from avow.exact.specification.bounds import cones_of
from avow.exact.tensors import pack, unpack
from avow.receipt import merkle
from avow.receipt.encoding import encode, tagged_hash
from benchmarks.report import Benchmark, main, percentile
from benchmarks.support.exact_models import programs

SEED = bytes(range(32))
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
    """The same run with the last value of a leaf, or of a program output, changed, and committed to."""
    end = slot - OUTPUT_SLOT
    operator = program.operators[program.outputs[end] if end >= 0 else program.place(slot)[1]]
    values = list(unpack(operator.type, run.tensors[slot]))
    values[-1] += 1 if values[-1] < operator.high else -1
    data = pack(operator.type, values)
    leaves, header = list(run.leaves), Header.parse(run.header)
    changed = {name: getattr(header, name) for name in Header.__slots__}
    if end >= 0:
        changed["outputs"] = tuple(
            Salts(SEED).digest(slot, data) if at == end else digest for at, digest in enumerate(header.outputs)
        )
    else:
        leaves[slot] = Salts(SEED).digest(slot, data)
        changed["root"] = merkle.root(leaves)
    return Run(Header(**changed).encoded(), leaves, {**run.tensors, slot: data})


def chosen(program: Program) -> dict[str, list[int]]:
    """First, middle, last and dearest of each kind's operators that have a leaf, or give an output, and room for a lie."""
    kinds: dict[str, list[tuple[int, int]]] = defaultdict(list)
    cones = cones_of(program)
    for number in cones.roots():
        operator = program.operators[number]
        if operator.low < operator.high:
            kinds[operator.kind].append((number, cones.of(number).work))
    found: dict[str, list[int]] = {}
    for kind, priced in kinds.items():
        numbers = [number for number, _ in priced]
        dearest = max(priced, key=lambda each: each[1])[0]
        found[kind] = sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1], dearest})
    return found


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
            if slot is None:
                slot = OUTPUT_SLOT + program.outputs.index(number)
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
            # A full node does not hold the run: what this process keeps is not the referee's to collect.
            gc.collect()
            gc.freeze()
            found = referee(encoded, identity, subject.trace)
            for _ in range(30):
                start = time.thread_time_ns()
                referee(encoded, identity, subject.trace)
                times.append((time.thread_time_ns() - start) / 1e6)
            assert (found.kind, found.slot) == ("output" if slot >= OUTPUT_SLOT else "element", slot)
            sizes.append(len(encoded))
        every += times
        name = f"{program.name}, {kind}"
        benchmark.add(f"{name}: proof", max(sizes), "bytes", bar=SIZE_BAR)
        benchmark.add(f"{name}: referee, median", percentile(times, 0.5), "ms", peer=f"gas {gas(bytes(max(sizes)))}")
        benchmark.add(f"{name}: referee, p99", percentile(times, 0.99), "ms", bar=TIME_BAR_MS)
        benchmark.add(f"{name}: search", 1e3 * max(searches), "ms")
    benchmark.add(f"{program.name}: referee, p99", percentile(every, 0.99), "ms", bar=TIME_BAR_MS)


def run() -> Benchmark:
    benchmark = Benchmark("fraud_proofs", "Fraud proofs: size, and the referee's time")
    for program in programs(["small"]):
        measure(benchmark, program)
    return benchmark


if __name__ == "__main__":
    main(run)
