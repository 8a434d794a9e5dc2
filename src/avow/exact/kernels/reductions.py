"""Operators that make few values of many: `pool`, `reduce`, `softmax`, `norm`, `argmax`, `topk`, `trees`.

Sums are int32 and proven to stay below 2^30; roots and quotients are taken in float64, where they are exact (kernels/elementwise.py,
rule 3).
"""

import numpy as np

from avow.exact.kernels.compilation import WIDTH, Kernel, helper
from avow.exact.kernels.elementwise import load, store
from avow.exact.kernels.memory import Array, float64s, int32, int32s, int64, int64s, uint32, value_at
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

MODE, RESCALE, SCALE_REAL = P, P + 1, P + 2
# pool
HEIGHT, WIDE, CHANNELS, TOP, LEFT, OUT_HEIGHT, OUT_WIDTH = (P + n for n in range(3, 10))
KERNEL_Y, KERNEL_X, STRIDE_Y, STRIDE_X = (P + n for n in range(10, 14))
# reduce
OUTER, EXTENT, INNER, BLOCK = (P + n for n in range(3, 7))
# softmax
LENGTH, ONE = P + 3, P + 4
# norm
EXPONENT, EPSILON, SHIFT, BETA, FINAL = (P + n for n in range(4, 9))
# topk
CHOICES = P + 4
# trees
TREES, NODES, DEPTH = P + 3, P + 4, P + 5


@helper
def _gather_up(into: Array, values: Array, count: int, largest: bool) -> None:
    if largest:
        for n in range(count):
            into[n] = max(into[n], values[n])
    else:
        for n in range(count):
            into[n] += values[n]


@helper
def _finish(values: Array, count: int, p: Array, real: Array) -> None:
    if p[RESCALE]:
        scale, low, high = real[SCALE_REAL], float(p[LOW]), float(p[HIGH])
        for n in range(count):
            values[n] = int32(min(max(np.floor(values[n] * scale + 0.5), low), high))
    else:
        least, most = int32(p[LOW]), int32(p[HIGH])
        for n in range(count):
            values[n] = min(max(values[n], least), most)


def _pool_kernel(row: int, context: int) -> None:
    """First down the columns, a whole line at a time, then along the lines. What lies outside changes neither a maximum nor a sum."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    channels, width, out_width, largest = p[CHANNELS], p[WIDE], p[OUT_WIDTH], p[MODE] == 0
    line = width * channels
    column = int32s(p[SCRATCH], line)
    values = int32s(p[SCRATCH] + 4 * line, line)
    result = int32s(p[SCRATCH] + 8 * line, out_width * channels)
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        x = p[A + ADDRESS] + sample * p[A + STRIDE]
        for y in range(p[OUT_HEIGHT]):
            top = y * p[STRIDE_Y] - p[TOP]
            first = max(0, top)
            load(x, p[A + SIZE], first * line, line, column)
            for at in range(first + 1, min(p[HEIGHT], top + p[KERNEL_Y])):
                load(x, p[A + SIZE], at * line, line, values)
                _gather_up(column, values, line, largest)
            for to in range(out_width):
                left = to * p[STRIDE_X] - p[LEFT]
                begin, end = max(0, left), min(width, left + p[KERNEL_X])
                base, out = begin * channels, to * channels
                for channel in range(channels):
                    result[out + channel] = column[base + channel]
                for at in range(begin + 1, end):
                    base = at * channels
                    if largest:
                        for channel in range(channels):
                            result[out + channel] = max(result[out + channel], column[base + channel])
                    else:
                        for channel in range(channels):
                            result[out + channel] += column[base + channel]
            _finish(result, out_width * channels, p, real)
            store(result, out_width * channels, p[OUT], p[OUT_SIZE], sample * p[OUT_COUNT] + y * out_width * channels)


def _reduce_kernel(row: int, context: int) -> None:
    """x[OUTER, EXTENT, INNER] → out[OUTER, ⌈EXTENT / BLOCK⌉, INNER], all samples' OUTER together."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    extent, inner, block, largest = p[EXTENT], p[INNER], p[BLOCK], p[MODE] == 0
    outer = p[OUTER] * int64s(context, CONTEXT)[SAMPLES]
    chunk = 1_024
    total, values = int32s(p[SCRATCH], chunk), int32s(p[SCRATCH] + 4 * chunk, chunk)
    out = 0
    for number in range(outer):
        for first in range(0, extent, block):
            last = min(extent, first + block)
            start = (number * extent + first) * inner
            if inner == 1:
                result = int32(-(2**31) if largest else 0)
                for at in range(start, start + last - first, chunk):
                    count = min(chunk, start + last - first - at)
                    load(p[A + ADDRESS], p[A + SIZE], at, count, values)
                    if largest:
                        for n in range(count):
                            result = max(result, values[n])
                    else:
                        for n in range(count):
                            result += values[n]
                total[0] = result
                _finish(total, 1, p, real)
                store(total, 1, p[OUT], p[OUT_SIZE], out)
                out += 1
                continue
            for at in range(0, inner, chunk):
                count = min(chunk, inner - at)
                load(p[A + ADDRESS], p[A + SIZE], start + at, count, total)
                for line in range(1, last - first):
                    load(p[A + ADDRESS], p[A + SIZE], start + line * inner + at, count, values)
                    _gather_up(total, values, count, largest)
                _finish(total, count, p, real)
                store(total, count, p[OUT], p[OUT_SIZE], out + at)
            out += inner


def _softmax_kernel(row: int, context: int) -> None:
    """Rows of LENGTH values, or of as many as there are positions where LENGTH is −1; B is the int32 table."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    length = p[LENGTH]
    rows = p[OUT_COUNT] * c[SAMPLES] // length if length > 0 else p[OUT_COUNT]
    if length < 0:
        length = c[STEP] + 1
    table = int32s(p[B + ADDRESS], p[B + COUNT])
    last, one = int32(p[B + COUNT] - 1), float(p[ONE])
    low, high = float(p[LOW]), float(p[HIGH])
    values = int32s(p[SCRATCH], length)
    for number in range(rows):
        load(p[A + ADDRESS], p[A + SIZE], number * length, length, values)
        largest = values[0]
        for n in range(length):
            largest = max(largest, values[n])
        total = int32(0)
        for n in range(length):
            entry = table[uint32(min(int32(largest - values[n]), last))]
            values[n] = entry
            total += entry
        whole, half = float(total), float(total >> int32(1))
        for n in range(length):
            values[n] = int32(min(max(np.floor((values[n] * one + half) / whole), low), high))
        store(values, length, p[OUT], p[OUT_SIZE], number * length)


def _norm_kernel(row: int, context: int) -> None:
    """Rows of LENGTH; B is gamma, C beta, both int32."""
    p = int64s(row, WIDTH)
    length = p[LENGTH]
    rows = p[OUT_COUNT] * int64s(context, CONTEXT)[SAMPLES] // length
    gamma, beta = int32s(p[B + ADDRESS], length), int32s(p[C + ADDRESS], length)
    values = int32s(p[SCRATCH], length)
    least, shifted = p[EXPONENT], float(1 << p[SHIFT])
    final, final_half = 2.0 ** -float(p[FINAL]), 0.5 if p[FINAL] else 0.0
    low, high = float(p[LOW]), float(p[HIGH])
    for number in range(rows):
        load(p[A + ADDRESS], p[A + SIZE], number * length, length, values)
        if p[MODE]:
            total = int32(0)
            for n in range(length):
                total += values[n]
            times = int32(length)
            for n in range(length):
                values[n] = int32(times * values[n]) - total
        largest = int32(0)
        for n in range(length):
            largest = max(largest, abs(values[n]))
        exponent = least
        while _scaled(int64(largest), exponent) > 32_767:
            exponent += 1
        squares = int64(0)
        for n in range(length):
            value = int32(_scaled(int64(values[n]), exponent))
            values[n] = value
            squares += int64(int32(value * value))
        epsilon = p[EPSILON] >> min(int64(63), 2 * (exponent - least))
        root = np.floor(np.sqrt(float(squares + epsilon)))
        half = np.floor(root * 0.5)
        if p[BETA]:
            for n in range(length):
                product = float(int32(values[n] * gamma[n])) * shifted
                result = np.floor((product + half) / root) + beta[n]
                values[n] = int32(min(max(np.floor(result * final + final_half), low), high))
        else:
            for n in range(length):
                product = float(int32(values[n] * gamma[n])) * shifted
                result = np.floor((product + half) / root)
                values[n] = int32(min(max(np.floor(result * final + final_half), low), high))
        store(values, length, p[OUT], p[OUT_SIZE], number * length)


@helper
def _scaled(value: int, exponent: int) -> int:
    """Value · 2^−exponent, halves up."""
    if exponent <= 0:
        return value << -exponent
    return (value + (1 << (exponent - 1))) >> exponent


def _choose_kernel(row: int, context: int) -> None:
    """Argmax (CHOICES = 1) and topk: each choice is the best of those that come after the one before, in (value down, place up)."""
    p = int64s(row, WIDTH)
    length, choices = p[LENGTH], p[CHOICES]
    rows = p[OUT_COUNT] * int64s(context, CONTEXT)[SAMPLES] // choices
    values, chosen = int32s(p[SCRATCH], length), int32s(p[SCRATCH] + 4 * length, choices)
    for number in range(rows):
        load(p[A + ADDRESS], p[A + SIZE], number * length, length, values)
        largest = values[0]
        for n in range(length):
            largest = max(largest, values[n])
        place = 0
        while values[place] != largest:
            place += 1
        chosen[0] = place
        before = largest
        for choice in range(1, choices):
            best, at = int64(-(2**32)), -1
            for n in range(length):
                value = values[n]
                if value > best and (value < before or (value == before and n > place)):
                    best, at = int64(value), n
            place, before = at, int32(best)
            chosen[choice] = place
        store(chosen, choices, p[OUT], p[OUT_SIZE], number * choices)


def _trees_kernel(row: int, context: int) -> None:
    """B: int32[TREES][NODES][4], as in the specification."""
    p = int64s(row, WIDTH)
    nodes = int32s(p[B + ADDRESS], p[TREES] * p[NODES] * 4)
    result = int32s(p[SCRATCH], 1)
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        x = p[A + ADDRESS] + sample * p[A + STRIDE]
        for tree in range(p[TREES]):
            base = tree * p[NODES] * 4
            node = int64(0)
            for _ in range(p[DEPTH] + 1):
                at = base + 4 * node
                feature = nodes[at]
                if feature < 0:
                    result[0] = nodes[at + 1]
                    break
                left = value_at(x, p[A + SIZE], int64(feature)) <= nodes[at + 1]
                node = int64(nodes[at + 2] if left else nodes[at + 3])
            store(result, 1, p[OUT], p[OUT_SIZE], sample * p[OUT_COUNT] + tree)


POOL = Kernel(_pool_kernel)
REDUCE = Kernel(_reduce_kernel)
SOFTMAX = Kernel(_softmax_kernel)
NORM = Kernel(_norm_kernel)
CHOOSE = Kernel(_choose_kernel)
TREES_KERNEL = Kernel(_trees_kernel)
