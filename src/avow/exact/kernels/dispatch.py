"""The loop over operators: one call from Python runs all steps of a program, without the interpreter.

A fault ends a run at once: nothing that follows could rely on the intervals that were proven.
"""

from avow.exact.kernels.compilation import WIDTH, entry, helper
from avow.exact.kernels.digests import FORM, FORM_RECORD, FORM_SEAL, FORM_STEPS, SEAL_KEY, SEAL_LEAVES
from avow.exact.kernels.memory import Array, call_kernel, copy_bytes, int64s
from avow.exact.kernels.rows import (
    CARRIED,
    CONTEXT,
    COUNT_OF_ROWS,
    FAULT,
    HASH_SCRATCH,
    KERNEL,
    KEY,
    LAST,
    LEAVES,
    MOST,
    PHASE,
    PROMPT,
    RECORD,
    RESULTS,
    ROWS,
    SAMPLES,
    STEP,
)
from avow.exact.kernels.stage import begin_stage


@helper
def run_range(rows: int, first: int, last: int, context: int) -> int:
    """Rows first … last − 1 of one pass; the fault, or 0."""
    c = int64s(context, CONTEXT)
    for number in range(first, last):
        row = rows + 8 * WIDTH * number
        p = int64s(row, WIDTH)
        if p[PHASE] and c[STEP] < c[PROMPT] - 1:
            continue
        if p[KERNEL]:
            call_kernel(p[KERNEL], row, context)
            if c[FAULT]:
                return c[FAULT]
        if c[KEY] and p[LAST]:
            call_kernel(c[RECORD], row, context)
    if c[KEY]:
        call_kernel(c[RECORD], 0, context)
    return 0


@entry
def run_rows(rows: int, first: int, last: int, context: int) -> int:
    """`run_range` for Python."""
    return run_range(rows, first, last, context)


@entry
def trace_into(context: int, record: int, key: Array, leaves: Array) -> None:
    """Let rows be recorded: where the key and the leaves are is quicker to see from here than from Python."""
    c = int64s(context, CONTEXT)
    c[RECORD] = record
    c[LEAVES] = leaves.ctypes.data
    c[KEY] = key.ctypes.data
    begin_stage(c[HASH_SCRATCH])


@helper
def run_all(context: int, first: int, last: int) -> int:
    """Steps first … last − 1 of a program that reads its inputs, up to MOST samples at a time; the fault, or 0."""
    c = int64s(context, CONTEXT)
    outputs, kept = int64s(c[RESULTS], 1)[0], int64s(c[CARRIED], 1)[0]
    results, carried = int64s(c[RESULTS] + 8, 3 * outputs), int64s(c[CARRIED] + 8, 3 * kept)
    step = first
    while step < last:
        samples = min(c[MOST], last - step)
        c[STEP] = step
        c[SAMPLES] = samples
        fault = run_range(c[ROWS], 0, c[COUNT_OF_ROWS], context)
        if fault:
            return fault
        for number in range(outputs):
            size = results[3 * number + 2]
            copy_bytes(results[3 * number + 1] + step * size, results[3 * number], samples * size)
        for number in range(kept):
            copy_bytes(carried[3 * number + 1], carried[3 * number], carried[3 * number + 2])
        step += samples
    return 0


@entry
def run_steps(context: int, first: int, last: int) -> int:
    """`run_all` for Python."""
    return run_all(context, first, last)


@entry
def run_sealed(context: int, form: int) -> int:
    """All steps of a form (digests.py) with their leaves, then its blank filled in, in one call; the fault, or 0."""
    c, f = int64s(context, CONTEXT), int64s(form, FORM)
    c[RECORD] = f[FORM_RECORD]
    c[LEAVES] = f[SEAL_LEAVES]
    c[KEY] = f[SEAL_KEY]
    begin_stage(c[HASH_SCRATCH])
    fault = run_all(context, 0, f[FORM_STEPS])
    if fault == 0:
        call_kernel(f[FORM_SEAL], form, 0)
    return fault
