"""Operators that move values: `input`, `transpose`, `concat`, `slice`, `pad`, `expand`, `gather`.

All but gather are copies between strided views. A copy's table is int64[dimensions][3]: extent, stride in the source, stride in the target,
in values, outermost first; strides of the source may be negative or 0. The innermost dimension is one loop.
"""

import numpy as np

from avow.exact.kernels.compilation import WIDTH, Kernel, helper
from avow.exact.kernels.memory import (
    copy_bytes,
    float64s,
    int8,
    int8s,
    int16,
    int16s,
    int32,
    int32s,
    int64,
    int64s,
    put,
    value_at,
)
from avow.exact.kernels.rows import (
    ADDRESS,
    CONTEXT,
    COUNT,
    FAULT,
    HIGH,
    INPUTS,
    LOW,
    NUMBER,
    OUT,
    OUT_COUNT,
    OUT_SIZE,
    OUT_STRIDE,
    SAMPLES,
    SIZE,
    STEP,
    STRIDE,
    A,
    B,
    P,
)

TABLE, DIMENSIONS, SOURCE_START, TARGET_START = P, P + 1, P + 2, P + 3
VALUE = P
FIRST, WHOLE, SOURCE_LOW, SOURCE_HIGH = P, P + 1, P + 2, P + 3
WIDTH_OF_ROW, SCALES = P, P + 1


@helper
def _line(
    source: int, source_size: int, source_step: int, target: int, size: int, target_step: int, count: int
) -> None:
    """`count` values; addresses of the first, steps in values."""
    if source_size != size or source_step < 0:  # by address: a negative index would count from an array's end
        for n in range(count):
            put(target, size, n * target_step, value_at(source, source_size, n * source_step))
    elif source_step == 1 and target_step == 1:
        copy_bytes(target, source, count * size)
    elif size == 1:
        into8, from8 = int8s(target, 1), int8s(source, 1)
        for n in range(count):
            into8[n * target_step] = from8[n * source_step]
    elif size == 2:
        into16, from16 = int16s(target, 1), int16s(source, 1)
        for n in range(count):
            into16[n * target_step] = from16[n * source_step]
    else:
        into32, from32 = int32s(target, 1), int32s(source, 1)
        for n in range(count):
            into32[n * target_step] = from32[n * source_step]


def _copy_kernel(row: int, context: int) -> None:
    p = int64s(row, WIDTH)
    size, dimensions = p[OUT_SIZE], p[DIMENSIONS]
    table = int64s(p[TABLE], 3 * dimensions)
    inner = 3 * (dimensions - 1)
    count, source_step, target_step = table[inner], table[inner + 1], table[inner + 2]
    lines = 1
    for dimension in range(dimensions - 1):
        lines *= table[3 * dimension]
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        source = p[A + ADDRESS] + sample * p[A + STRIDE] + p[SOURCE_START] * p[A + SIZE]
        target = p[OUT] + sample * p[OUT_STRIDE] + p[TARGET_START] * size
        for line in range(lines):
            rest, from_at, to_at = line, 0, 0
            for dimension in range(dimensions - 2, -1, -1):
                extent = table[3 * dimension]
                at = rest % extent
                rest //= extent
                from_at += at * table[3 * dimension + 1]
                to_at += at * table[3 * dimension + 2]
            _line(
                source + from_at * p[A + SIZE],
                p[A + SIZE],
                source_step,
                target + to_at * size,
                size,
                target_step,
                count,
            )


def _fill_kernel(row: int, context: int) -> None:
    """The whole output is VALUE."""
    p = int64s(row, WIDTH)
    count = p[OUT_COUNT] * int64s(context, CONTEXT)[SAMPLES]
    if p[OUT_SIZE] == 1:
        int8s(p[OUT], count)[:] = int8(p[VALUE])
    elif p[OUT_SIZE] == 2:
        int16s(p[OUT], count)[:] = int16(p[VALUE])
    else:
        int32s(p[OUT], count)[:] = int32(p[VALUE])


@helper
def _outside(address: int, size: int, count: int, low: int, high: int) -> bool:
    least, most = int64(low), int64(high)
    found = int64(0)
    if size == 1:
        narrow = int8s(address, count)
        for n in range(count):
            found |= int64(narrow[n] < least) | int64(narrow[n] > most)
    elif size == 2:
        middle = int16s(address, count)
        for n in range(count):
            found |= int64(middle[n] < least) | int64(middle[n] > most)
    else:
        wide = int32s(address, count)
        for n in range(count):
            found |= int64(wide[n] < least) | int64(wide[n] > most)
    return found != 0


def _input_kernel(row: int, context: int) -> None:
    """The step's part of a program input. A value outside of its interval ends the run: everything else relies on intervals."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    count, size = p[OUT_COUNT] * c[SAMPLES], p[A + SIZE]
    source = c[INPUTS + p[FIRST]] + c[STEP] * p[OUT_COUNT] * size
    if not p[WHOLE] and _outside(source, size, count, p[SOURCE_LOW], p[SOURCE_HIGH]):
        c[FAULT] = 1 + p[NUMBER]
        count = 0
    _line(source, size, 1, p[OUT], p[OUT_SIZE], 1, count)


def _gather_kernel(row: int, context: int) -> None:
    """out[i] = w[ids[i]], rows of WIDTH_OF_ROW values; with SCALES, float64 scales m · 2⁻ˢ of each row, requantised by its row's."""
    p = int64s(row, WIDTH)
    size, width, from_size = p[OUT_SIZE], p[WIDTH_OF_ROW], p[A + SIZE]
    low, high = float(p[LOW]), float(p[HIGH])
    for number in range(p[B + COUNT] * int64s(context, CONTEXT)[SAMPLES]):
        at = value_at(p[B + ADDRESS], p[B + SIZE], number)
        source, target = p[A + ADDRESS] + at * width * from_size, p[OUT] + number * width * size
        if not p[SCALES]:
            _line(source, from_size, 1, target, size, 1, width)
            continue
        scale = float64s(p[SCALES] + 8 * at, 1)[0]
        for n in range(width):
            value = np.floor(float(value_at(source, from_size, n)) * scale + 0.5)
            put(target, size, n, int64(min(max(value, low), high)))


COPY = Kernel(_copy_kernel)
FILL = Kernel(_fill_kernel)
INPUT = Kernel(_input_kernel)
GATHER = Kernel(_gather_kernel)
