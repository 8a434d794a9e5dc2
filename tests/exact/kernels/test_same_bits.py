"""No path changes a bit: threads, samples at once, BLAS's kernels, NumPy's instructions, the processor that code is generated for."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avow.exact.kernels.layout import DTYPES
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.tracer import BulkTracer
from tests.exact.kernels.test_machine import SEED, arrays_of
from tests.exact.programs import inputs_of, program_of

ROOT = Path(__file__).parents[3]
SEEDS = (3, 5, 9, 14, 21, 30)
"""Random programs of both modes; together they have most kinds."""


def digest(kernels: str) -> str:
    """Everything that runs of some programs gave and recorded."""
    found = hashlib.sha256()
    for seed in SEEDS:
        program = program_of(seed, mode="once" if seed % 2 else "sequence")
        arrays = arrays_of(program, inputs_of(program, seed, steps=3))
        outputs, trace = Machine(program, kernels=kernels).trace(arrays, BulkTracer(SEED, program.ranks))
        for each in outputs:
            found.update(each.tobytes())
        found.update(trace.trace)
    return found.hexdigest()


ENVIRONMENTS = [
    *({"OPENBLAS_CORETYPE": name} for name in ("Haswell", "SkylakeX", "Nehalem", "Prescott")),
    {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
    {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX X86_V3 X86_V4"},
]
COMPILERS = [
    {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2,+ssse3"},
]
"""Code without the vector and SHA instructions that this machine may have; compiled anew, so kept apart in a cache of its own."""


def digests_under(environment: dict[str, str], *kernels: str) -> list[str]:
    code = f"from tests.exact.kernels.test_same_bits import digest; print(*map(digest, {kernels!r}))"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False, timeout=280,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: ",".join(each.values()))
def test_no_environment_changes_a_bit(environment):
    assert set(digests_under(environment, "numba", "numpy")) == {digest("numpy")}


@pytest.mark.slow
@pytest.mark.parametrize("environment", COMPILERS, ids=lambda each: each["NUMBA_CPU_NAME"])
def test_no_processor_changes_a_bit(environment, tmp_path):
    assert digests_under({**environment, "NUMBA_CACHE_DIR": str(tmp_path)}, "numba") == [digest("numpy")]


def batch_of(program, steps, seed=0):
    random = np.random.default_rng(seed)
    return [
        random.integers(each.low, each.high, (steps, *each.shape), endpoint=True).astype(DTYPES[each.type])
        for each in program.inputs
    ]


@pytest.mark.parametrize("seed", range(1, 16, 2))
def test_a_batch_is_its_samples(seed):
    program = program_of(seed, mode="once", context=70)
    arrays = batch_of(program, 64)
    machine = Machine(program)
    together, trace = machine.trace(arrays, BulkTracer(SEED, program.ranks))
    for at in range(0, 64, 7):
        alone = machine.run([each[at : at + 1] for each in arrays])
        assert all((a[at] == b[0]).all() for a, b in zip(together, alone, strict=True))
    plain, plain_trace = Machine(program, kernels="numpy").trace(arrays, BulkTracer(SEED, program.ranks))
    assert all((a == b).all() for a, b in zip(together, plain, strict=True))
    assert trace == plain_trace


@pytest.mark.parametrize("seed", [3, 7])
def test_threads_change_nothing(seed):
    program = program_of(seed, mode="once", context=1_000)
    arrays = batch_of(program, 1_000)
    count = len(program.operators)
    one, trace = Machine(program).trace(arrays, BulkTracer(SEED, count))
    two, other = Machine(program, threads=2).trace(arrays, BulkTracer(SEED, count))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert trace == other


def test_one_machine_serves_many_threads():
    from concurrent.futures import ThreadPoolExecutor

    program = program_of(8, mode="sequence")
    machine = Machine(program)
    batches = [batch_of(program, 3, seed) for seed in range(40)]
    expected = [machine.run(each) for each in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(machine.run, batches))
    for a, b in zip(found, expected, strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))
