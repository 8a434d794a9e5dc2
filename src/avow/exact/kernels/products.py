"""Matrix products and convolutions: `linear`, `matmul`, `conv`.

Rules:
1. Weights are packed once, when the program is loaded (kernels/packing.py), into panels of 16 columns of int16.
2. Inputs of other types become int16 first; a convolution's input is copied into a padded int16 image unless it can be read in
   place. A patch is then `segments` runs of consecutive values: nothing is gathered.
3. Columns beyond the last one have weight, bias and scale zero; they go to a spare tile of which only the true columns are copied.
"""

import numpy as np

from avow.exact.kernels.compilation import WIDTH, Kernel, helper
from avow.exact.kernels.memory import Array, copy_bytes, float64s, int8s, int16s, int32s, int64, int64s, put, value_at
from avow.exact.kernels.rows import (
    ADDRESS,
    CONTEXT,
    COUNT,
    OUT,
    OUT_SIZE,
    OUT_STRIDE,
    SAMPLES,
    SCRATCH,
    SIZE,
    STRIDE,
    A,
    B,
    P,
)
from avow.exact.kernels.simd import (
    depthwise_tile_1,
    depthwise_tile_4,
    product_tile_1,
    product_tile_2,
    product_tile_4,
    product_tile_6,
)

# Parameters of every product.
PANELS, COLUMNS, PAIRS, SEGMENTS, OFFSETS, BIAS, SCALE, MODE = (P + n for n in range(8))
LOW_REAL, HIGH_REAL = P + 8, P + 9
# linear
ROWS, BLOCK = P + 10, P + 11
# conv
HEIGHT, WIDE, CHANNELS, TOP, LEFT, PADDED_HEIGHT, PADDED_WIDTH, OUT_HEIGHT, OUT_WIDTH = (P + n for n in range(10, 19))
STRIDE_Y, STRIDE_X, GROUPS, BLOCK_Y, BLOCK_X, DILATION_Y, DILATION_X = (P + n for n in range(19, 26))
# matmul
BATCHES, A_ROWS, DEPTH, TRANSPOSED = (P + n for n in range(10, 14))

SPARE = 512
"""Bytes at the start of the scratch memory for one tile: 6 rows × 16 columns × 4 bytes, rounded up."""


@helper
def to_int16(source: int, size: int, target: int, count: int) -> None:
    """`count` values of `size` bytes, known to fit → int16."""
    into = int16s(target, count)
    if size == 1:
        narrow = int8s(source, count)
        for n in range(count):
            into[n] = narrow[n]
    elif size == 2:
        copy_bytes(target, source, 2 * count)
    else:
        wide = int32s(source, count)
        for n in range(count):
            into[n] = wide[n]


@helper
def widen(source: int, target: int, count: int) -> None:
    """int8[count] → int16[count]"""
    to_int16(source, 1, target, count)


@helper
def panel_rows(
    x: int,
    x_stride: int,
    rows: int,
    segments: int,
    offsets: int,
    panel: int,
    pairs: int,
    columns: int,
    bias: int,
    scale: int,
    low: float,
    high: float,
    out: int,
    out_stride: int,
    size: int,
    mode: int,
    spare: int,
) -> None:
    """`rows` rows by one panel, of which `columns` ≤ 16 columns are true."""
    at = 0
    whole = columns == 16
    stride = out_stride if whole else 16 * size
    while at < rows:
        left = rows - at
        where = x + at * x_stride
        target = out + at * out_stride if whole else spare
        if left >= 6:
            done = 6
            product_tile_6(
                where, x_stride, segments, offsets, panel, pairs, bias, scale, low, high, target, stride, mode
            )
        elif left >= 4:
            done = 4
            product_tile_4(
                where, x_stride, segments, offsets, panel, pairs, bias, scale, low, high, target, stride, mode
            )
        elif left >= 2:
            done = 2
            product_tile_2(
                where, x_stride, segments, offsets, panel, pairs, bias, scale, low, high, target, stride, mode
            )
        else:
            done = 1
            product_tile_1(
                where, x_stride, segments, offsets, panel, pairs, bias, scale, low, high, target, stride, mode
            )
        if not whole:
            for row in range(done):
                copy_bytes(out + (at + row) * out_stride, spare + row * stride, columns * size)
        at += done


@helper
def multiply(
    x: int,
    x_stride: int,
    rows: int,
    panels: int,
    columns: int,
    pairs: int,
    offsets: int,
    bias: int,
    scale: int,
    low: float,
    high: float,
    out: int,
    size: int,
    mode: int,
    spare: int,
) -> None:
    """All panels: out[rows, columns]."""
    for panel in range((columns + 15) // 16):
        panel_rows(
            x, x_stride, rows, 1, offsets, panels + panel * pairs * 64, pairs, min(16, columns - 16 * panel), bias + 64 * panel,
            scale + 128 * panel, low, high, out + 16 * panel * size, columns * size, size, mode, spare,
        )  # fmt: skip


def _linear(row: int, context: int) -> None:
    """x[rows, K] · panels → out[rows, columns]; rows of all samples together."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    rows = p[ROWS] * int64s(context, CONTEXT)[SAMPLES]
    depth = p[A + COUNT] // p[ROWS]
    columns, size, pairs = p[COLUMNS], p[OUT_SIZE], p[PAIRS]
    low, high = real[LOW_REAL], real[HIGH_REAL]
    x, out, spare = p[A + ADDRESS], p[OUT], p[SCRATCH]
    if p[A + SIZE] == 2:
        multiply(
            x, 2 * depth, rows, p[PANELS], columns, pairs, p[OFFSETS], p[BIAS], p[SCALE], low, high, out, size, p[MODE], spare
        )  # fmt: skip
        return
    wide = p[SCRATCH] + SPARE
    block = p[BLOCK]
    for start in range(0, rows, block):
        count = min(block, rows - start)
        to_int16(x + start * depth * p[A + SIZE], p[A + SIZE], wide, count * depth)
        multiply(
            wide, 2 * depth, count, p[PANELS], columns, pairs, p[OFFSETS], p[BIAS], p[SCALE], low, high,
            out + start * columns * size, size, p[MODE], spare,
        )  # fmt: skip


@helper
def image(source: int, size: int, target: int, p: Array) -> int:
    """The padded int16 image of one sample: its address, or the source's where nothing needs to be copied."""
    height, width, channels = p[HEIGHT], p[WIDE], p[CHANNELS]
    padded_height, padded_width = p[PADDED_HEIGHT], p[PADDED_WIDTH]
    if size == 2 and padded_height == height and padded_width == width:
        return source
    line = padded_width * channels
    before, inside = p[LEFT] * channels, width * channels
    for y in range(padded_height):
        out = int16s(target + 2 * y * line, line)
        at = y - p[TOP]
        if at < 0 or at >= height:
            out[:] = 0
            continue
        out[:before] = 0
        to_int16(source + at * inside * size, size, target + 2 * (y * line + before), inside)
        out[before + inside :] = 0
    return target


def _conv(row: int, context: int) -> None:
    """x[H, W, C] with panels per group → out[H', W', O], sample by sample."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    low, high, size, groups = real[LOW_REAL], real[HIGH_REAL], p[OUT_SIZE], p[GROUPS]
    columns = p[COLUMNS] // groups
    panels = (columns + 15) // 16
    pixel = 2 * p[CHANNELS]
    line = p[PADDED_WIDTH] * pixel
    group_bytes = pixel // groups
    out_pixel = p[COLUMNS] * size
    panel_bytes = p[SEGMENTS] * p[PAIRS] * 64
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        x = image(p[A + ADDRESS] + sample * p[A + STRIDE], p[A + SIZE], p[SCRATCH] + SPARE, p)
        out = p[OUT] + sample * p[OUT_STRIDE]
        for top in range(0, p[OUT_HEIGHT], p[BLOCK_Y]):
            bottom = min(p[OUT_HEIGHT], top + p[BLOCK_Y])
            for left in range(0, p[OUT_WIDTH], p[BLOCK_X]):
                count = min(p[BLOCK_X], p[OUT_WIDTH] - left)
                for number in range(groups * panels):
                    group, panel = number // panels, number % panels
                    channel = group * columns + 16 * panel
                    for y in range(top, bottom):
                        panel_rows(
                            x + y * p[STRIDE_Y] * line + left * p[STRIDE_X] * pixel + group * group_bytes, p[STRIDE_X] * pixel, count,
                            p[SEGMENTS], p[OFFSETS], p[PANELS] + number * panel_bytes, p[PAIRS], min(16, columns - 16 * panel),
                            p[BIAS] + 64 * number, p[SCALE] + 128 * number, low, high,
                            out + (y * p[OUT_WIDTH] + left) * out_pixel + channel * size, out_pixel, size, p[MODE], p[SCRATCH],
                        )  # fmt: skip


def _depthwise(row: int, context: int) -> None:
    """x[H, W, C], one filter per channel → out[H', W', C], sample by sample. PAIRS: pairs of taps; OFFSETS: int64[pairs][2]."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    low, high, size, channels = real[LOW_REAL], real[HIGH_REAL], p[OUT_SIZE], p[CHANNELS]
    line = p[PADDED_WIDTH] * 2 * channels
    step = p[STRIDE_X] * 2 * channels
    out_pixel, spare, mode, width = channels * size, p[SCRATCH], p[MODE], p[OUT_WIDTH]
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        x = image(p[A + ADDRESS] + sample * p[A + STRIDE], p[A + SIZE], p[SCRATCH] + SPARE, p)
        out = p[OUT] + sample * p[OUT_STRIDE]
        for y in range(p[OUT_HEIGHT]):
            for block in range((channels + 15) // 16):
                true = min(16, channels - 16 * block)
                whole = true == 16
                stride = out_pixel if whole else 16 * size
                weights, bias, scale = p[PANELS] + block * p[PAIRS] * 64, p[BIAS] + 64 * block, p[SCALE] + 128 * block
                at = 0
                while at < width:
                    where = x + y * p[STRIDE_Y] * line + at * step + 32 * block
                    home = out + (y * width + at) * out_pixel + 16 * block * size
                    target = home if whole else spare
                    if width - at >= 4:
                        done = 4
                        depthwise_tile_4(
                            where, step, p[PAIRS], p[OFFSETS], weights, bias, scale, low, high, target, stride, mode
                        )  # fmt: skip
                    else:
                        done = 1
                        depthwise_tile_1(
                            where, step, p[PAIRS], p[OFFSETS], weights, bias, scale, low, high, target, stride, mode
                        )  # fmt: skip
                    if not whole:
                        for pixel in range(done):
                            copy_bytes(home + pixel * out_pixel, spare + pixel * stride, true * size)
                    at += done


@helper
def pack_panels(source: int, size: int, depth: int, columns: int, transposed: int, target: int) -> None:
    """b[K, N], or b[N, K] when transposed, as panels: int16[⌈N/16⌉][⌈K/2⌉][16][2], zeros where there is no value."""
    pairs = (depth + 1) // 2
    panels = (columns + 15) // 16
    out = int16s(target, panels * pairs * 32)
    narrow, middle, wide = int8s(source, 1), int16s(source, 1), int32s(source, 1)
    if depth & 1 or columns & 15:
        out[:] = 0
    along = 1 if transposed else columns
    across = depth if transposed else 1
    for panel in range(panels):
        count = min(16, columns - 16 * panel)
        for k in range(depth):
            start = ((panel * pairs + (k >> 1)) * 16) * 2 + (k & 1)
            first = k * along + 16 * panel * across
            if size == 1:
                for column in range(count):
                    out[start + 2 * column] = narrow[first + column * across]
            elif size == 2:
                for column in range(count):
                    out[start + 2 * column] = middle[first + column * across]
            else:
                for column in range(count):
                    out[start + 2 * column] = wide[first + column * across]


def _matmul(row: int, context: int) -> None:
    """a[batches, M, K] · b[batches, K, N] → out[batches, M, N], each batch of each sample for itself."""
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    low, high, size, rows, depth, columns = (
        real[LOW_REAL],
        real[HIGH_REAL],
        p[OUT_SIZE],
        p[A_ROWS],
        p[DEPTH],
        p[COLUMNS],
    )
    panels = p[SCRATCH] + SPARE
    wide = panels + ((columns + 15) // 16) * p[PAIRS] * 64
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        for batch in range(p[BATCHES]):
            a = p[A + ADDRESS] + sample * p[A + STRIDE] + batch * rows * depth * p[A + SIZE]
            b = p[B + ADDRESS] + sample * p[B + STRIDE] + batch * columns * depth * p[B + SIZE]
            pack_panels(b, p[B + SIZE], depth, columns, p[TRANSPOSED], panels)
            if p[A + SIZE] != 2:
                to_int16(a, p[A + SIZE], wide, rows * depth)
                a = wide
            multiply(
                a, 2 * depth, rows, panels, columns, p[PAIRS], p[OFFSETS], p[BIAS], p[SCALE], low, high,
                p[OUT] + sample * p[OUT_STRIDE] + batch * rows * columns * size, size, p[MODE], p[SCRATCH],
            )  # fmt: skip


# --- Values wider than int16 ---------------------------------------------------------------------------------------


@helper
def _finished(total: int, channel: int, p: Array, real: Array) -> int:
    """Bias (int32) and scale (float64) of a channel; a sum below 2^30 has an exact place in float64."""
    total += int64(int32s(p[BIAS] + 4 * channel, 1)[0])
    if p[MODE] == 0:
        return total
    value = np.floor(float(total) * float64s(p[SCALE] + 8 * channel, 1)[0] + 0.5)
    return int64(min(max(value, real[LOW_REAL]), real[HIGH_REAL]))


def _wide_conv(row: int, context: int) -> None:
    """Any integers, one product after the other. PANELS: int32[O][kh][kw][C / groups] as in the program; BIAS, SCALE: one per channel.

    A `linear` is a convolution of an image of one column, with one tap.
    """
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    channels, outputs = p[CHANNELS], p[COLUMNS]
    depth, taps_y, taps_x = channels // p[GROUPS], p[SEGMENTS], p[PAIRS]
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        x, out = p[A + ADDRESS] + sample * p[A + STRIDE], p[OUT] + sample * p[OUT_STRIDE]
        for place in range(p[OUT_HEIGHT] * p[OUT_WIDTH]):
            top = place // p[OUT_WIDTH] * p[STRIDE_Y] - p[TOP]
            left = place % p[OUT_WIDTH] * p[STRIDE_X] - p[LEFT]
            for output in range(outputs):
                first = output // (outputs // p[GROUPS]) * depth
                total = int64(0)
                for i in range(taps_y):
                    y = top + i * p[DILATION_Y]
                    for j in range(taps_x):
                        at = left + j * p[DILATION_X]
                        if 0 <= y < p[HEIGHT] and 0 <= at < p[WIDE]:
                            start = (y * p[WIDE] + at) * channels + first
                            weights = int32s(p[PANELS] + 4 * ((output * taps_y + i) * taps_x + j) * depth, depth)
                            for k in range(depth):
                                total += int64(weights[k]) * value_at(x, p[A + SIZE], start + k)
                put(out, p[OUT_SIZE], place * outputs + output, _finished(total, output, p, real))


def _wide_matmul(row: int, context: int) -> None:
    p, real = int64s(row, WIDTH), float64s(row, WIDTH)
    size, rows, depth, columns = p[OUT_SIZE], p[A_ROWS], p[DEPTH], p[COLUMNS]
    along = 1 if p[TRANSPOSED] else columns
    across = depth if p[TRANSPOSED] else 1
    for sample in range(int64s(context, CONTEXT)[SAMPLES]):
        a, b = p[A + ADDRESS] + sample * p[A + STRIDE], p[B + ADDRESS] + sample * p[B + STRIDE]
        out = p[OUT] + sample * p[OUT_STRIDE]
        for line in range(p[BATCHES] * rows):
            base = line // rows * depth * columns
            for column in range(columns):
                total = int64(0)
                for k in range(depth):
                    left = value_at(a, p[A + SIZE], line * depth + k)
                    total += left * value_at(b, p[B + SIZE], base + k * along + column * across)
                put(out, size, line * columns + column, _finished(total, column, p, real))


LINEAR = Kernel(_linear)
WIDE_CONV = Kernel(_wide_conv)
WIDE_MATMUL = Kernel(_wide_matmul)
CONV = Kernel(_conv)
DEPTHWISE = Kernel(_depthwise)
MATMUL = Kernel(_matmul)
