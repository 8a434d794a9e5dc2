"""Kernels of language models: token, linear over int8 weights in place, rope, append, gumbel. Attention has a module of its own.

Rules:
1. A pass works on SAMPLES steps that follow each other, from STEP on: a prompt's. A tensor of each step lies OUT_STRIDE bytes after the one
   before. What grows with the position is packed: [heads, step + 1].
2. A cache is one stretch of memory, page after page as `append` gives them: keys [64, W], values [W, 64]. `append` writes a row there,
   and its whole page as its output only where somebody wants to see it: PAGES, or a trace.
3. Weights are read where the file has them. One step is eight dot products at a time (dots.py); many steps widen sixteen rows
   at a time into a panel, which all of them use while it is near the core.
"""

import numpy as np

from avow.exact.kernels.compilation import WIDTH, Kernel, helper
from avow.exact.kernels.digests import record_leaf
from avow.exact.kernels.dots import PACKED, eight_dots, pack_square
from avow.exact.kernels.dots import ROWS as DOTS
from avow.exact.kernels.dots import STRIDE as LINE
from avow.exact.kernels.memory import Array, copy_bytes, float64s, int8s, int16s, int32s, int64s, put, value_at
from avow.exact.kernels.products import SPARE, panel_rows, to_int16
from avow.exact.kernels.rows import (
    ADDRESS,
    CONTEXT,
    GROWS,
    HASH_SCRATCH,
    HIGH,
    KEY,
    LAST,
    LEAVES_OF_STEP,
    LOW,
    OUT,
    OUT_COUNT,
    OUT_SIZE,
    OUT_STRIDE,
    OWN,
    SAMPLES,
    SCRATCH,
    SIZE,
    STEP,
    STRIDE,
    A,
    P,
)
from avow.exact.kernels.stage import settle

# In the context.
PAGES, TEMPERATURE_M, TEMPERATURE_S, SEED_LOW, SEED_HIGH = (OWN + n for n in range(5))

# In rows.
TOKENS = P
DEPTH, COLUMNS, ROWS, WEIGHTS, SCALES, ZEROS = (P + n for n in range(6))
LOW_REAL, HIGH_REAL = P + 6, P + 7
WIDE, INTERLEAVED, COSINES, SINES = (P + n for n in range(4))
CACHE, ROW, TRANSPOSED, CACHE_SIZE = (P + n for n in range(4))
TABLE = P

FEW = 3
"""Fewer rows than this are multiplied one by one."""
PAGE = 64
PANEL = 16


def _token(row: int, context: int) -> None:
    """TOKENS: int32[context], the prompt and what was chosen so far."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    tokens = int32s(p[TOKENS], c[STEP] + c[SAMPLES])
    for sample in range(c[SAMPLES]):
        put(p[OUT] + sample * p[OUT_STRIDE], p[OUT_SIZE], 0, tokens[c[STEP] + sample])


# --- Linear --------------------------------------------------------------------------------------------------------


@helper
def dot8(weights: int, x: int, count: int) -> np.int32:
    """int8[count] · int16[count]"""
    w, v = int8s(weights, count), int16s(x, count)
    total = np.int32(0)
    for n in range(count):
        total += np.int32(w[n]) * np.int32(v[n])
    return total


@helper
def dot16(weights: int, x: int, count: int) -> np.int32:
    """int16[count] · int16[count]"""
    w, v = int16s(weights, count), int16s(x, count)
    total = np.int32(0)
    for n in range(count):
        total += np.int32(w[n]) * np.int32(v[n])
    return total


@helper
def dot(first: int, first_size: int, second: int, second_size: int, count: int) -> np.int32:
    """Values of any widths."""
    total = np.int64(0)
    for n in range(count):
        total += value_at(first, first_size, n) * value_at(second, second_size, n)
    return np.int32(total)


@helper
def _one_by_one(x: int, p: Array, real: Array, out: int) -> None:
    """X int16[DEPTH] by all rows of the weights."""
    depth, columns, weights, size = p[DEPTH], p[COLUMNS], p[WEIGHTS], p[OUT_SIZE]
    scales = float64s(p[SCALES], columns)
    low, high = real[LOW_REAL], real[HIGH_REAL]
    whole = depth // LINE * LINE
    done = columns // DOTS * DOTS if whole else 0
    start = p[ZEROS]
    for column in range(0, done, DOTS):
        at = weights + column * depth
        if whole < depth:
            start = p[SCRATCH]
            ends = int32s(start, DOTS)
            for number in range(DOTS):
                ends[number] = dot8(at + number * depth + whole, x + 2 * whole, depth - whole)
        eight_dots(x, at, depth, start, p[SCALES] + 8 * column, low, high, out + column * size, size)
    for column in range(done, columns):
        value = np.floor(dot8(weights + column * depth, x, depth) * scales[column] + 0.5)
        put(out, size, column, int(min(max(value, low), high)))


@helper
def pack_lines(weights: int, stride: int, rows: int, depth: int, panel: int) -> None:
    """int8[rows ≤ 16][depth], rows `stride` bytes apart → int16[⌈depth/2⌉][16][2], zeros where there is nothing."""
    pairs = (depth + 1) // 2
    out = int32s(panel, pairs * PANEL)
    packed = 0
    if rows < PANEL:
        out[:] = 0
    else:
        packed = depth // PACKED * PACKED
        for k in range(0, packed, PACKED):
            pack_square(weights + k, stride, panel + 2 * PANEL * k)
    for row in range(rows):
        w = int8s(weights + row * stride, depth)
        for pair in range(packed // 2, depth // 2):
            out[pair * PANEL + row] = (np.int32(w[2 * pair]) & np.int32(0xFFFF)) | (
                np.int32(w[2 * pair + 1]) << np.int32(16)
            )
        if depth & 1:
            out[(pairs - 1) * PANEL + row] = np.int32(w[depth - 1]) & np.int32(0xFFFF)


def _linear(row: int, context: int) -> None:
    """x[ROWS, DEPTH] of each step by int8 weights [COLUMNS, DEPTH], requantised by SCALES. ZEROS: 128 bytes of zero."""
    p, real, c = int64s(row, WIDTH), float64s(row, WIDTH), int64s(context, CONTEXT)
    rows, depth, columns, size = p[ROWS] * c[SAMPLES], p[DEPTH], p[COLUMNS], p[OUT_SIZE]
    x = p[A + ADDRESS]
    panel = p[SCRATCH] + SPARE
    if p[A + SIZE] == 1:
        wide = panel + (depth + 1) // 2 * 4 * PANEL + PAGE
        to_int16(x, 1, wide, rows * depth)
        x = wide
    if rows < FEW:
        for number in range(rows):
            _one_by_one(x + 2 * number * depth, p, real, p[OUT] + number * columns * size)
        return
    pairs = (depth + 1) // 2
    for first in range(0, columns, PANEL):
        count = min(PANEL, columns - first)
        pack_lines(p[WEIGHTS] + first * depth, depth, count, depth, panel)
        panel_rows(
            x, 2 * depth, rows, 1, p[ZEROS], panel, pairs, count, p[ZEROS], p[SCALES] + 8 * first, real[LOW_REAL], real[HIGH_REAL],
            p[OUT] + first * size, columns * size, size, size, p[SCRATCH],
        )  # fmt: skip


# --- Positions -----------------------------------------------------------------------------------------------------


def _rope(row: int, context: int) -> None:
    """x[…, WIDE] of each step, turned by its position's angles: int16[context][WIDE / 2] cosines and sines."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    wide = p[WIDE]
    half = wide // 2
    lines = p[OUT_COUNT] // wide
    low, high = p[LOW], p[HIGH]
    apart, step = (1, 2) if p[INTERLEAVED] else (half, 1)
    for sample in range(c[SAMPLES]):
        at = 2 * half * (c[STEP] + sample)
        cosines, sines = int16s(p[COSINES] + at, half), int16s(p[SINES] + at, half)
        source, target = p[A + ADDRESS] + sample * p[A + STRIDE], p[OUT] + sample * p[OUT_STRIDE]
        for line in range(lines):
            for pair in range(half):
                first = line * wide + pair * step
                x1, x2 = value_at(source, p[A + SIZE], first), value_at(source, p[A + SIZE], first + apart)
                cosine, sine = np.int64(cosines[pair]), np.int64(sines[pair])
                one = (x1 * cosine - x2 * sine + 8_192) >> 14
                two = (x2 * cosine + x1 * sine + 8_192) >> 14
                put(target, p[OUT_SIZE], first, min(max(one, low), high))
                put(target, p[OUT_SIZE], first + apart, min(max(two, low), high))


def _append(row: int, context: int) -> None:
    """A row of ROW values into CACHE; the page as output where it is wanted (rule 2)."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    count, size = p[ROW], p[OUT_SIZE]
    page_bytes = PAGE * count * size
    shown = c[PAGES] or c[KEY]
    for sample in range(c[SAMPLES]):
        position = c[STEP] + sample
        page, slot = p[CACHE] + position // PAGE * page_bytes, position % PAGE
        source = p[A + ADDRESS] + sample * p[A + STRIDE]
        if p[TRANSPOSED]:
            for column in range(count):
                put(page, size, column * PAGE + slot, value_at(source, size, column))
        else:
            copy_bytes(page + slot * count * size, source, count * size)
        if shown:  # without what later steps may have put there: a step can be run again
            out = p[OUT] + sample * p[OUT_STRIDE]
            copy_bytes(out, page, page_bytes)
            if p[TRANSPOSED]:
                for column in range(count):
                    int8s(out + (column * PAGE + slot + 1) * size, (PAGE - 1 - slot) * size)[:] = 0
            else:
                int8s(out + (slot + 1) * count * size, (PAGE - 1 - slot) * count * size)[:] = 0


# --- Choosing ------------------------------------------------------------------------------------------------------


@helper
def _noisy(p: Array, c: Array, source: int, out: int, step: int) -> None:
    """One step's logits at `source`, plus its noise."""
    count, size = p[OUT_COUNT], p[OUT_SIZE]
    low, high, m, s = p[LOW], p[HIGH], c[TEMPERATURE_M], c[TEMPERATURE_S]
    table = int32s(p[TABLE], 1 << 16)
    half = np.int64(1) << (s - 1)
    mask = np.uint64(0xFFFFFFFF)
    for block in range((count + 7) // 8):
        k0, k1 = np.uint64(c[SEED_LOW]), np.uint64(c[SEED_HIGH])
        c0, c1, c2, c3 = np.uint64(step), np.uint64(block), np.uint64(0), np.uint64(0)
        for _ in range(10):
            first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
            c0, c1, c2, c3 = (
                (second >> np.uint64(32)) ^ c1 ^ k0,
                second & mask,
                (first >> np.uint64(32)) ^ c3 ^ k1,
                first & mask,
            )
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
        low_words, high_words = c0 | (c1 << np.uint64(32)), c2 | (c3 << np.uint64(32))
        for n in range(min(8, count - 8 * block)):
            words = low_words if n < 4 else high_words
            noise = np.int64((words >> np.uint64(16 * (n & 3))) & np.uint64(0xFFFF))
            at = 8 * block + n
            value = ((value_at(source, p[A + SIZE], at) * m + half) >> s) + table[noise]
            put(out, size, at, min(max(value, low), high))


def _gumbel(row: int, context: int) -> None:
    """Logits of each step, plus noise of the step (specification/philox.py) unless TEMPERATURE_M is 0. TABLE: int32[65536]."""
    p, c = int64s(row, WIDTH), int64s(context, CONTEXT)
    low, high = p[LOW], p[HIGH]
    for sample in range(c[SAMPLES]):
        source, out = p[A + ADDRESS] + sample * p[A + STRIDE], p[OUT] + sample * p[OUT_STRIDE]
        if c[TEMPERATURE_M]:
            _noisy(p, c, source, out, c[STEP] + sample)
        else:
            for n in range(p[OUT_COUNT]):
                put(out, p[OUT_SIZE], n, min(max(value_at(source, p[A + SIZE], n), low), high))


def _record(row: int, context: int) -> None:
    """Leaves of a row's output, one for each step of the pass. Row 0: the pass ends."""
    c = int64s(context, CONTEXT)
    if row == 0:
        settle(c[HASH_SCRATCH])
        return
    p = int64s(row, WIDTH)
    for sample in range(c[SAMPLES]):
        step = c[STEP] + sample
        length = p[OUT_COUNT] * p[OUT_SIZE] * (step + 1 if p[GROWS] else 1)
        record_leaf(c, p[OUT] + sample * p[OUT_STRIDE], length, step * c[LEAVES_OF_STEP] + p[LAST] - 1)


TOKEN = Kernel(_token)
LINEAR = Kernel(_linear)
ROPE = Kernel(_rope)
APPEND = Kernel(_append)
GUMBEL = Kernel(_gumbel)
RECORD_STEPS = Kernel(_record)
