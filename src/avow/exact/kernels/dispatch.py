"""The loop over operators: one call from Python runs all steps of a program, without the interpreter.

A fault ends a run at once: nothing that follows could rely on the intervals that were proven.
"""

from avow.exact.kernels.compilation import WIDTH, entry, helper
from avow.exact.kernels.memory import call_kernel, copy_bytes, int64s
from avow.exact.kernels.rows import CONTEXT, FAULT, KERNEL, KEY, LAST, PHASE, PROMPT, RECORD, SAMPLES, STEP


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
    return 0


@entry
def run_rows(rows: int, first: int, last: int, context: int) -> int:
    """`run_range` for Python."""
    return run_range(rows, first, last, context)


@entry
def run_steps(
    rows: int, count: int, context: int, first: int, last: int, most: int, outputs: int, output_count: int, carried: int, carried_count: int
) -> int:  # fmt: skip
    """Steps first … last − 1 of a program that reads its inputs, up to `most` samples at a time; the fault, or 0.

    outputs: int64[output_count][3], the output's address, the result's, bytes per sample. carried: int64[carried_count][3], to be
    copied after each step: from, to, bytes.
    """
    c = int64s(context, CONTEXT)
    out, kept = int64s(outputs, 3 * output_count), int64s(carried, 3 * carried_count)
    step = first
    while step < last:
        samples = min(most, last - step)
        c[STEP] = step
        c[SAMPLES] = samples
        fault = run_range(rows, 0, count, context)
        if fault:
            return fault
        for number in range(output_count):
            size = out[3 * number + 2]
            copy_bytes(out[3 * number + 1] + step * size, out[3 * number], samples * size)
        for number in range(carried_count):
            copy_bytes(kept[3 * number + 1], kept[3 * number], kept[3 * number + 2])
        step += samples
    return 0
