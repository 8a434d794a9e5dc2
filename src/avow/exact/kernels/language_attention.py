"""Kernels of attention over caches: scores, softmax over positions, mix. `language_rows` has the rules.

A pass of many steps is a matrix product: sixteen positions, or sixteen columns, make a panel that all steps use.
"""

import numpy as np

from avow.exact.kernels.compilation import WIDTH, Kernel, helper
from avow.exact.kernels.elementwise import load, store
from avow.exact.kernels.language_rows import CACHE, CACHE_SIZE, PAGE, PANEL, ROW, dot, dot8, dot16, pack_lines
from avow.exact.kernels.memory import Array, copy_bytes, float64s, int8s, int32s, int64s, put
from avow.exact.kernels.products import SPARE, panel_rows, to_int16
from avow.exact.kernels.rows import (
    ADDRESS,
    CONTEXT,
    COUNT,
    HIGH,
    LOW,
    OUT,
    OUT_SIZE,
    OUT_STRIDE,
    SAMPLES,
    SCRATCH,
    SIZE,
    STEP,
    STRIDE,
    A,
    B,
    P,
)

HEADS, HEAD, SHARE, SCALE_REAL, BEYOND, ZERO_OFFSETS = (P + n for n in range(4, 10))
"""BEYOND: 1 where values may not fit int16. ZERO_OFFSETS: address of 128 bytes of zero."""
ONE = P

MANY = 6
"""From so many steps on, attention is a matrix product."""
_HEAD = SPARE + 4 * PANEL + 8 * PANEL
"""Before a panel of attention: a spare tile, biases, scales."""


def panel_bytes(depth: int) -> int:
    """Scratch memory of a panel of attention, and what stands before it; `depth`: values of one column."""
    return _HEAD + (depth + 1) // 2 * 4 * PANEL + PAGE


@helper
def _narrowed(address: int, size: int, count: int, scratch: int) -> int:
    """The address of int16[count]: the values' own, or copies in scratch memory."""
    if size == 2:
        return address
    to_int16(address, size, scratch, count)
    return scratch


@helper
def _by_panels(p: Array, c: Array) -> bool:
    """Whether a pass of `scores` or `mix` is long enough for matrix products, and of the types that panels are for."""
    return c[SAMPLES] >= MANY and p[BEYOND] == 0 and p[CACHE_SIZE] == 1 and p[A + SIZE] == 2


@helper
def _begin_panels(scratch: int, scale: float) -> int:
    """Biases and scales of all panels; where panels begin."""
    biases, scales = int32s(scratch + SPARE, PANEL), float64s(scratch + SPARE + 4 * PANEL, PANEL)
    for column in range(PANEL):
        biases[column] = 0
        scales[column] = scale
    return scratch + _HEAD


@helper
def _score_panels(p: Array, real: Array, c: Array) -> None:
    """What `_scores` does one by one, sixteen positions at a time, for the steps that see all sixteen.

    Scores of a head lie `number` values further with each step, since each step's heads are longer by one: one distance for all.
    """
    samples, first, head, share, size = c[SAMPLES], c[STEP], p[HEAD], p[SHARE], p[OUT_SIZE]
    scratch = p[SCRATCH]
    panel = _begin_panels(scratch, real[SCALE_REAL])
    biases, scales = scratch + SPARE, scratch + SPARE + 4 * PANEL
    pairs = (head + 1) // 2
    low, high = float(p[LOW]), float(p[HIGH])
    for position in range(0, first + samples - PANEL + 1, PANEL):
        skipped = max(0, position + PANEL - 1 - first)
        for group in range(p[HEADS] // share):
            pack_lines(p[CACHE] + position * p[ROW] + group * head, p[ROW], PANEL, head, panel)
            for number in range(group * share, (group + 1) * share):
                at = skipped * p[OUT_STRIDE] + (number * (first + skipped + 1) + position) * size
                panel_rows(
                    p[A + ADDRESS] + skipped * p[A + STRIDE] + 2 * number * head, p[A + STRIDE], samples - skipped, 1, p[ZERO_OFFSETS],
                    panel, pairs, PANEL, biases, scales, low, high, p[OUT] + at, p[OUT_STRIDE] + number * size, size, size, scratch,
                )  # fmt: skip


def _scores(row: int, context: int) -> None:
    """q[HEADS, HEAD] of each step with CACHE [positions, ROW]: out [HEADS, positions]. q fits int16; the cache is int8 or int16."""
    p, real, c = int64s(row, WIDTH), float64s(row, WIDTH), int64s(context, CONTEXT)
    panels = _by_panels(p, c)
    if panels:
        _score_panels(p, real, c)
    heads, head, share, size = p[HEADS], p[HEAD], p[SHARE], p[OUT_SIZE]
    line = p[ROW] * p[CACHE_SIZE]
    scale, low, high = real[SCALE_REAL], float(p[LOW]), float(p[HIGH])
    for sample in range(c[SAMPLES]):
        positions = c[STEP] + sample + 1
        source = p[A + ADDRESS] + sample * p[A + STRIDE]
        q = source if p[BEYOND] else _narrowed(source, p[A + SIZE], heads * head, p[SCRATCH])
        out = p[OUT] + sample * p[OUT_STRIDE]
        for number in range(heads):
            keys = p[CACHE] + number // share * head * p[CACHE_SIZE]
            own = q + 2 * number * head
            done = positions // PANEL * PANEL if panels else 0
            for position in range(done, positions):
                at = keys + position * line
                if p[BEYOND]:
                    total = dot(at, p[CACHE_SIZE], q + p[A + SIZE] * number * head, p[A + SIZE], head)
                else:
                    total = dot8(at, own, head) if p[CACHE_SIZE] == 1 else dot16(at, own, head)
                value = np.floor(total * scale + 0.5)
                put(out, size, number * positions + position, int(min(max(value, low), high)))


def _softmax(row: int, context: int) -> None:
    """x[HEADS, positions] of each step; B is the int32 table."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    table = int32s(p[B + ADDRESS], p[B + COUNT])
    last, one = np.int32(p[B + COUNT] - 1), float(p[ONE])
    low, high = float(p[LOW]), float(p[HIGH])
    for sample in range(c[SAMPLES]):
        length = c[STEP] + sample + 1
        values = int32s(p[SCRATCH], length)
        source, target = p[A + ADDRESS] + sample * p[A + STRIDE], p[OUT] + sample * p[OUT_STRIDE]
        for number in range(p[HEADS]):
            load(source, p[A + SIZE], number * length, length, values)
            largest = values[0]
            for n in range(length):
                largest = max(largest, values[n])
            total = np.int32(0)
            for n in range(length):
                entry = table[np.uint32(min(np.int32(largest - values[n]), last))]
                values[n] = entry
                total += entry
            whole, half = float(total), float(total >> np.int32(1))
            for n in range(length):
                values[n] = np.int32(min(max(np.floor((values[n] * one + half) / whole), low), high))
            store(values, length, target, p[OUT_SIZE], number * length)


@helper
def _mix_panels(p: Array, real: Array, c: Array) -> None:
    """What `_mix` does one by one: each step's weights, zeros behind them, by sixteen columns of all pages."""
    samples, first, head, share, size = c[SAMPLES], c[STEP], p[HEAD], p[SHARE], p[OUT_SIZE]
    scratch = p[SCRATCH]
    panel = _begin_panels(scratch, real[SCALE_REAL])
    biases, scales = scratch + SPARE, scratch + SPARE + 4 * PANEL
    pages = (first + samples + PAGE - 1) // PAGE
    line = 2 * PAGE * pages
    rows = panel + 2 * PANEL * PAGE * pages + PAGE
    low, high = float(p[LOW]), float(p[HIGH])
    for group in range(p[HEADS] // share):
        for sample in range(samples):
            positions = first + sample + 1
            for own in range(share):
                target = rows + (own * samples + sample) * line
                source = p[A + ADDRESS] + sample * p[A + STRIDE] + 2 * (group * share + own) * positions
                copy_bytes(target, source, 2 * positions)
                int8s(target + 2 * positions, line - 2 * positions)[:] = 0
        for column in range(0, head, PANEL):
            count = min(PANEL, head - column)
            for page in range(pages):
                values = p[CACHE] + (page * p[ROW] + group * head + column) * PAGE
                pack_lines(values, PAGE, count, PAGE, panel + 2 * PANEL * PAGE * page)
            for own in range(share):
                out = p[OUT] + ((group * share + own) * head + column) * size
                panel_rows(
                    rows + own * samples * line, line, samples, 1, p[ZERO_OFFSETS], panel, PAGE // 2 * pages, count, biases, scales,
                    low, high, out, p[OUT_STRIDE], size, size, scratch,
                )  # fmt: skip


def _mix(row: int, context: int) -> None:
    """x[HEADS, positions] of each step with CACHE, pages [ROW, 64]: out [HEADS, HEAD]. x fits int16; the cache is int8 or int16."""
    p, real, c = int64s(row, WIDTH), float64s(row, WIDTH), int64s(context, CONTEXT)
    if _by_panels(p, c):
        _mix_panels(p, real, c)
        return
    heads, head, share, size = p[HEADS], p[HEAD], p[SHARE], p[OUT_SIZE]
    line = PAGE * p[CACHE_SIZE]
    scale, low, high = real[SCALE_REAL], float(p[LOW]), float(p[HIGH])
    sums = int32s(p[SCRATCH], head)
    for sample in range(c[SAMPLES]):
        positions = c[STEP] + sample + 1
        weights = _narrowed(
            p[A + ADDRESS] + sample * p[A + STRIDE], p[A + SIZE], heads * positions, p[SCRATCH] + 4 * head + PAGE
        )
        out = p[OUT] + sample * p[OUT_STRIDE]
        for number in range(heads):
            own = weights + 2 * number * positions
            group = p[CACHE] + number // share * head * line
            sums[:] = 0
            for page in range((positions + PAGE - 1) // PAGE):
                count = min(PAGE, positions - page * PAGE)
                values, mine = group + page * p[ROW] * line, own + 2 * PAGE * page
                if p[BEYOND]:
                    wide = weights + p[A + SIZE] * (number * positions + PAGE * page)
                    for column in range(head):
                        sums[column] += dot(values + column * line, p[CACHE_SIZE], wide, p[A + SIZE], count)
                elif p[CACHE_SIZE] == 1 and count == PAGE:
                    for column in range(head):
                        sums[column] += dot8(values + column * line, mine, PAGE)
                elif p[CACHE_SIZE] == 1:
                    for column in range(head):
                        sums[column] += dot8(values + column * line, mine, count)
                else:
                    for column in range(head):
                        sums[column] += dot16(values + column * line, mine, count)
            for column in range(head):
                value = np.floor(sums[column] * scale + 0.5)
                put(out, size, number * head + column, int(min(max(value, low), high)))


SCORES = Kernel(_scores)
SOFTMAX = Kernel(_softmax)
MIX = Kernel(_mix)
