"""One value in, one value out: `add`, `mul`, `divide`, `rescale`, `clip`, `table`, `isqrt`, with broadcasting; `rope`.

Rules:
1. Values pass in blocks through int32 buffers: widened, computed, narrowed. So each kind has one loop per step and not one per
   combination of types.
2. Broadcasting is OUTER ≤ DIMENSIONS outer dimensions with strides, in values, and an inner run whose stride is 1 or 0 for each
   input. Samples are one more outer dimension. The lowering merges dimensions, so most operators are one run.
3. Products that may pass 2^31 go through float64, where every step is exact (below 2^53); the rest stays in int32.
   floor(n / d) of integers below 2^53 is the floor of the rounded quotient: between a quotient and the next integer there is
   at least 1/d, and the rounding error is smaller.
"""

import numpy as np

from avow.exact.kernels.compilation import WIDTH, Kernel, helper
from avow.exact.kernels.memory import Array, float64s, int8s, int16s, int32, int32s, int64s, uint32
from avow.exact.kernels.rows import (
    ADDRESS,
    CONTEXT,
    COUNT,
    HIGH,
    LOW,
    OUT,
    OUT_COUNT,
    OUT_SIZE,
    SAMPLES,
    SCRATCH,
    SIZE,
    STEP,
    STRIDE,
    A,
    B,
    C,
    P,
)

BLOCK = 1_024
"""Values of a block."""
SCRATCH_BYTES = 4 * 3 * BLOCK + 64
DIMENSIONS = 7
"""Outer dimensions at most: tensors have 8."""

# Parameters: the kind's numbers, then the walk.
FIRST, SECOND, SHIFT, NARROW = P, P + 1, P + 2, P + 3
HALF_REAL, SCALE_REAL = P + 4, P + 5
RUN, A_STEP, B_STEP = P + 6, P + 7, P + 8
OUTER = P + 9
EXTENTS, A_STRIDES, B_STRIDES = P + 10, P + 10 + DIMENSIONS, P + 10 + 2 * DIMENSIONS


@helper
def load(source: int, size: int, start: int, count: int, into: Array) -> None:
    """Values `start` … of a tensor as int32."""
    if size == 1:
        narrow = int8s(source + start, count)
        for n in range(count):
            into[n] = narrow[n]
    elif size == 2:
        middle = int16s(source + 2 * start, count)
        for n in range(count):
            into[n] = middle[n]
    else:
        wide = int32s(source + 4 * start, count)
        for n in range(count):
            into[n] = wide[n]


@helper
def spread(source: int, size: int, start: int, count: int, into: Array) -> None:
    """One value, `count` times."""
    load(source, size, start, 1, into)
    value = into[0]
    for n in range(count):
        into[n] = value


@helper
def store(values: Array, count: int, target: int, size: int, start: int) -> None:
    """int32 values, known to fit, at `start` of a tensor."""
    if size == 1:
        narrow = int8s(target + start, count)
        for n in range(count):
            narrow[n] = values[n]
    elif size == 2:
        middle = int16s(target + 2 * start, count)
        for n in range(count):
            middle[n] = values[n]
    else:
        wide = int32s(target + 4 * start, count)
        for n in range(count):
            wide[n] = values[n]


@helper
def clamp(values: Array, count: int, low: int, high: int) -> None:
    least, most = int32(low), int32(high)
    for n in range(count):
        values[n] = min(max(values[n], least), most)


@helper
def _add(a: Array, b: Array, count: int, p: Array, real: Array) -> None:
    low, high = p[LOW], p[HIGH]
    if p[NARROW]:
        first, second, shift = int32(p[FIRST]), int32(p[SECOND]), int32(p[SHIFT])
        half = int32(real[HALF_REAL])
        least, most = int32(low), int32(high)
        for n in range(count):
            value = int32(int32(int32(a[n] * first) + int32(b[n] * second)) + half) >> shift
            a[n] = min(max(int32(value), least), most)
    else:
        first_real, second_real, scale = float(p[FIRST]), float(p[SECOND]), real[SCALE_REAL]
        half_real = 0.5 if p[SHIFT] else 0.0
        lowest, highest = float(low), float(high)
        for n in range(count):
            total = np.floor((a[n] * first_real + b[n] * second_real) * scale + half_real)
            a[n] = int32(min(max(total, lowest), highest))


@helper
def _mul(a: Array, b: Array, count: int, p: Array, real: Array) -> None:
    scale, lowest, highest = real[SCALE_REAL], float(p[LOW]), float(p[HIGH])
    for n in range(count):
        product = int32(a[n] * b[n])
        a[n] = int32(min(max(np.floor(product * scale + 0.5), lowest), highest))


@helper
def _divide(a: Array, b: Array, count: int, p: Array) -> None:
    factor = float(p[FIRST])
    lowest, highest = float(p[LOW]), float(p[HIGH])
    for n in range(count):
        quotient = np.floor((a[n] * factor + float(b[n] >> int32(1))) / float(b[n]))
        a[n] = int32(min(max(quotient, lowest), highest))


@helper
def _walk(p: Array, sample: int, number: int) -> tuple[int, int]:
    """Where run `number` of a sample begins in a and b."""
    a = sample * (p[A + STRIDE] // p[A + SIZE])
    b = sample * (p[B + STRIDE] // p[B + SIZE])
    for dimension in range(p[OUTER] - 1, -1, -1):
        extent = p[EXTENTS + dimension]
        at = number % extent
        number //= extent
        a += at * p[A_STRIDES + dimension]
        b += at * p[B_STRIDES + dimension]
    return a, b


@helper
def _blocks(row: int, context: int, kind: int) -> None:
    """Both inputs, block by block. A run shorter than a block is a block by itself."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    a, b = int32s(p[SCRATCH], BLOCK), int32s(p[SCRATCH] + 4 * BLOCK, BLOCK)
    samples = int64s(context, CONTEXT)[SAMPLES]
    run = p[RUN]
    runs = p[OUT_COUNT] // run
    # Two tensors of one layout without constants are one run over all samples.
    if runs == 1 and p[A_STEP] == 1 and p[B_STEP] == 1 and p[A + STRIDE] and p[B + STRIDE]:
        run, samples = run * samples, 1
    for sample in range(samples):
        for number in range(runs):
            a_at, b_at = _walk(p, sample, number)
            out_at = sample * p[OUT_COUNT] + number * run
            for start in range(0, run, BLOCK):
                count = min(BLOCK, run - start)
                if p[A_STEP]:
                    load(p[A + ADDRESS], p[A + SIZE], a_at + start, count, a)
                else:
                    spread(p[A + ADDRESS], p[A + SIZE], a_at, count, a)
                if p[B_STEP]:
                    load(p[B + ADDRESS], p[B + SIZE], b_at + start, count, b)
                else:
                    spread(p[B + ADDRESS], p[B + SIZE], b_at, count, b)
                if kind == 0:
                    _add(a, b, count, p, real)
                elif kind == 1:
                    _mul(a, b, count, p, real)
                else:
                    _divide(a, b, count, p)
                store(a, count, p[OUT], p[OUT_SIZE], out_at + start)


def _add_kernel(row: int, context: int) -> None:
    _blocks(row, context, 0)


def _mul_kernel(row: int, context: int) -> None:
    _blocks(row, context, 1)


def _divide_kernel(row: int, context: int) -> None:
    _blocks(row, context, 2)


def _rescale_kernel(row: int, context: int) -> None:
    """Requantise and clamp; with SCALE 1 (multiplier 1, no half) a clip."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    values = int32s(p[SCRATCH], BLOCK)
    total = p[OUT_COUNT] * int64s(context, CONTEXT)[SAMPLES]
    scale, half, lowest, highest = real[SCALE_REAL], real[HALF_REAL], float(p[LOW]), float(p[HIGH])
    for start in range(0, total, BLOCK):
        count = min(BLOCK, total - start)
        load(p[A + ADDRESS], p[A + SIZE], start, count, values)
        for n in range(count):
            values[n] = int32(min(max(np.floor(values[n] * scale + half), lowest), highest))
        store(values, count, p[OUT], p[OUT_SIZE], start)


def _clip_kernel(row: int, context: int) -> None:
    p = int64s(row, WIDTH)
    values = int32s(p[SCRATCH], BLOCK)
    total = p[OUT_COUNT] * int64s(context, CONTEXT)[SAMPLES]
    for start in range(0, total, BLOCK):
        count = min(BLOCK, total - start)
        load(p[A + ADDRESS], p[A + SIZE], start, count, values)
        clamp(values, count, p[LOW], p[HIGH])
        store(values, count, p[OUT], p[OUT_SIZE], start)


def _table_kernel(row: int, context: int) -> None:
    """Out = table[x − FIRST]; B describes the table, packed in the output's type."""
    p = int64s(row, WIDTH)
    values = int32s(p[SCRATCH], BLOCK)
    total = p[OUT_COUNT] * int64s(context, CONTEXT)[SAMPLES]
    first = int32(p[FIRST])
    where, size, entries = p[B + ADDRESS], p[B + SIZE], p[B + COUNT]
    narrow, middle, wide = int8s(where, entries), int16s(where, entries), int32s(where, entries)
    for start in range(0, total, BLOCK):
        count = min(BLOCK, total - start)
        load(p[A + ADDRESS], p[A + SIZE], start, count, values)
        if size == 1:
            out = int8s(p[OUT] + start, count)
            for n in range(count):
                out[n] = narrow[uint32(values[n] - first)]
        elif size == 2:
            out16 = int16s(p[OUT] + 2 * start, count)
            for n in range(count):
                out16[n] = middle[uint32(values[n] - first)]
        else:
            out32 = int32s(p[OUT] + 4 * start, count)
            for n in range(count):
                out32[n] = wide[uint32(values[n] - first)]


def _isqrt_kernel(row: int, context: int) -> None:
    """The rounded root of an integer below 2^52 never reaches the next integer: its floor is the integer root."""
    p = int64s(row, WIDTH)
    values = int32s(p[SCRATCH], BLOCK)
    total = p[OUT_COUNT] * int64s(context, CONTEXT)[SAMPLES]
    for start in range(0, total, BLOCK):
        count = min(BLOCK, total - start)
        load(p[A + ADDRESS], p[A + SIZE], start, count, values)
        for n in range(count):
            values[n] = int32(np.sqrt(float(values[n])))
        clamp(values, count, p[LOW], p[HIGH])
        store(values, count, p[OUT], p[OUT_SIZE], start)


def _rope_kernel(row: int, context: int) -> None:
    """x[H, D] turned by the angles of the position, which is the step: B cos, C sin, int32[context][D / 2]."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    width = p[RUN]
    half = width // 2
    interleaved = p[FIRST]
    values = int32s(p[SCRATCH], width)
    lines = p[OUT_COUNT] // width
    least, most = int32(p[LOW]), int32(p[HIGH])
    for sample in range(c[SAMPLES]):
        at = 4 * (c[STEP] + sample) * half
        cosine, sine = int32s(p[B + ADDRESS] + at, half), int32s(p[C + ADDRESS] + at, half)
        for number in range(sample * lines, (sample + 1) * lines):
            load(p[A + ADDRESS], p[A + SIZE], number * width, width, values)
            for n in range(half):
                first, second = (2 * n, 2 * n + 1) if interleaved else (n, n + half)
                one, two = values[first], values[second]
                turned = int32(int32(int32(one * cosine[n]) - int32(two * sine[n])) + int32(8192)) >> int32(14)
                other = int32(int32(int32(two * cosine[n]) + int32(one * sine[n])) + int32(8192)) >> int32(14)
                values[first] = min(max(int32(turned), least), most)
                values[second] = min(max(int32(other), least), most)
            store(values, width, p[OUT], p[OUT_SIZE], number * width)


ADD = Kernel(_add_kernel)
ROPE = Kernel(_rope_kernel)
MUL = Kernel(_mul_kernel)
DIVIDE = Kernel(_divide_kernel)
RESCALE = Kernel(_rescale_kernel)
CLIP = Kernel(_clip_kernel)
TABLE = Kernel(_table_kernel)
ISQRT = Kernel(_isqrt_kernel)
