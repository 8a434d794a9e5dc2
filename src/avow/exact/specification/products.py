"""Sums of products, requantised: linear, matmul, conv."""

from operator import mul

from avow.exact.program import Operator
from avow.exact.specification.arithmetic import clamp, join, requantise, split
from avow.exact.specification.cells import Cells, Step
from avow.exact.specification.checking import FLAG, MULTIPLIER, SHIFT, Case, Form, Read
from avow.exact.specification.kind import Kind
from avow.exact.tensors import size_of

EXTENT = (1, 1 << 16)
"""Of a window's stride, dilation and size."""


def _finish(operator: Operator, cells: Cells, accumulator: int, channel: int) -> int:
    """bias, multiplier and shift of one channel: inputs 2 to 4, as far as the attributes say that they are there."""
    number = 2
    if operator.integer("bias"):
        accumulator += cells.get(number, channel)
        number += 1
    if operator.integer("rescale"):
        of_all = operator.inputs[number].shape[0] == 1, operator.inputs[number + 1].shape[0] == 1
        multiplier = cells.get(number, 0 if of_all[0] else channel)
        shift = cells.get(number + 1, 0 if of_all[1] else channel)
        accumulator = requantise(accumulator, multiplier, shift)
    return clamp(accumulator, operator.low, operator.high)


def _form_channels(form: Form, channels: int) -> None:
    """The inputs after x and w are constants, as the attributes bias and rescale say."""
    bias, rescale = form.operator.integer("bias"), form.operator.integer("rescale")
    form.inputs(2 + bias + 2 * rescale, constants=range(1, 2 + bias + 2 * rescale))
    if bias:
        form.channel(2, (channels,), "the bias")
    if rescale:
        form.rescaling(2 + bias, channels)


def _bound_channels(case: Case, channels: int) -> int:
    """The largest |Σ x·w + bias| over all channels and all partial sums, by each channel's true weights."""
    operator = case.operator
    bias, rescale = operator.integer("bias"), operator.integer("rescale")
    x = operator.inputs[0]
    up, down = max(x.high, 0), max(-x.low, 0)
    offsets = case.constant(2).values() if bias else (0,) * channels
    sums = case.statistics.row_sums(case.constant(1), channels)
    largest = 0
    for (positive, negative), offset in zip(sums, offsets, strict=True):
        above = positive * up + negative * down + max(offset, 0)
        below = positive * down + negative * up + max(-offset, 0)
        largest = max(largest, above, below)
    if rescale:
        case.within(2 + bias, MULTIPLIER, "a multiplier")
        case.within(3 + bias, SHIFT, "a shift")
    return case.accumulator(largest)


def _reads_channels(operator: Operator) -> list[Read]:
    return [Read(number, 1, 1) for number in range(2, len(operator.inputs))]


# --- linear --------------------------------------------------------------------------------------------------------
# x of R · K values, w [N, K], bias [N]?, (m, s) [N] or [1]? → any shape of R · N values


def linear(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(Σ_k x[r, k] · w[n, k] + bias[n]; m[n], s[n]))"""
    del step
    channels, length = operator.inputs[1].shape
    row, channel = divmod(index, channels)
    accumulator = sum(map(mul, cells.row(0, row * length, length), cells.row(1, channel * length, length)))
    return _finish(operator, cells, accumulator, channel)


def form_linear(form: Form) -> None:
    form.attributes(bias=FLAG, rescale=FLAG)
    form.require(len(form.operator.inputs) >= 2, "the number of inputs is wrong")
    x, w = form.operator.inputs[:2]
    form.static()
    form.require(len(w.shape) == 2 and size_of(x.shape) % w.shape[1] == 0, "the weights do not fit the input")
    _form_channels(form, w.shape[0])
    form.values(size_of(x.shape) // w.shape[1] * w.shape[0])


def bound_linear(case: Case) -> int:
    return _bound_channels(case, case.operator.inputs[1].shape[0])


def reads_linear(operator: Operator, context: int) -> list[Read]:
    del context
    length = operator.inputs[1].shape[1]
    return [Read(0, 1, length, aligned=True), Read(1, 1, length, aligned=True), *_reads_channels(operator)]


# --- matmul --------------------------------------------------------------------------------------------------------
# a [B..., M, K], b [B..., K, N] (transpose_b: [B..., N, K]) → [B..., M, N]


def matmul(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(Σ_k a[.., i, k] · b[.., k, j]; m, s))"""
    del step
    length, columns = operator.inputs[0].shape[-1], operator.shape[-1]
    row, column = divmod(index, columns)
    batch = row // operator.shape[-2]
    left = cells.row(0, row * length, length)
    if operator.integer("transpose_b"):
        right = cells.row(1, (batch * columns + column) * length, length)
    else:
        first = batch * length * columns + column
        right = cells.pick(1, range(first, first + length * columns, columns))
    accumulator = sum(map(mul, left, right))
    return clamp(requantise(accumulator, operator.integer("m"), operator.integer("s")), operator.low, operator.high)


def form_matmul(form: Form) -> None:
    a, b = form.inputs(2)
    form.attributes(transpose_b=FLAG, m=MULTIPLIER, s=SHIFT)
    form.require(len(a.shape) == len(b.shape) >= 2 and a.shape[:-2] == b.shape[:-2], "the leading dimensions differ")
    length, columns = b.shape[-2:] if not form.operator.integer("transpose_b") else b.shape[:-3:-1]
    form.require(a.shape[-1] == length, "the inner dimensions differ")
    form.shape((*a.shape[:-1], columns))


def bound_matmul(case: Case) -> int:
    return case.accumulator(case.absolute_row_sum(0) * case.operator.inputs[1].magnitude)


def reads_matmul(operator: Operator, context: int) -> list[Read]:
    del context
    length = operator.inputs[0].shape[-1]
    right = Read(1, 1, length, aligned=True) if operator.integer("transpose_b") else Read(1, length, 1)
    return [Read(0, 1, length, aligned=True), right]


# --- conv ----------------------------------------------------------------------------------------------------------
# x [H, W, C], w [O, kh, kw, C / groups], bias [O]?, (m, s) [O] or [1]? → [Ho, Wo, O]


def conv(operator: Operator, cells: Cells, index: int, step: Step) -> int:
    """clamp(requantise(Σ x[y·stride − pad + i·dilation, …, group's channels] · w[o, i, j, :] + bias[o]; m[o], s[o])); zeros outside."""
    del step
    height, width, channels = operator.inputs[0].shape
    outputs, kernel_height, kernel_width, depth = operator.inputs[1].shape
    top, left, _, _ = operator.integers("pad")
    y, x, output = split(index, operator.shape)
    first = output // (outputs // operator.integer("groups")) * depth
    accumulator = 0
    for i in range(kernel_height):
        row = y * operator.integers("stride")[0] - top + i * operator.integers("dilation")[0]
        if not 0 <= row < height:
            continue
        for j in range(kernel_width):
            column = x * operator.integers("stride")[1] - left + j * operator.integers("dilation")[1]
            if 0 <= column < width:
                values = cells.row(0, join((row, column, first), (height, width, channels)), depth)
                weights = cells.row(1, join((output, i, j, 0), operator.inputs[1].shape), depth)
                accumulator += sum(map(mul, values, weights))
    return _finish(operator, cells, accumulator, output)


def window(form: Form, kernel: tuple[int, ...], channels: int) -> None:
    """The output is what a window of this size gives over x [H, W, C], by the attributes stride, pad and dilation (1 without)."""
    height, width, _ = form.operator.inputs[0].shape
    dilation = form.operator.integers("dilation") if "dilation" in form.operator.attributes else (1, 1)
    top, left, bottom, right = form.operator.integers("pad")
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel, dilation, strict=True)]
    form.require(max(top, bottom) < reach[0] and max(left, right) < reach[1], "the padding is as wide as the window")
    space = height + top + bottom - reach[0], width + left + right - reach[1]
    form.require(min(space) >= 0, "the window is larger than the input")
    form.shape(
        (*(room // step + 1 for room, step in zip(space, form.operator.integers("stride"), strict=True)), channels)
    )


def form_conv(form: Form) -> None:
    form.attributes(
        bias=FLAG, rescale=FLAG, groups=(1, 1 << 20),
        stride=(*EXTENT, 2), dilation=(*EXTENT, 2), pad=(0, EXTENT[1], 4),
    )  # fmt: skip
    form.require(len(form.operator.inputs) >= 2, "the number of inputs is wrong")
    x, w = form.operator.inputs[:2]
    form.require(
        len(x.shape) == 3 and len(w.shape) == 4, "the input is not [H, W, C] or the weights not [O, kh, kw, C / groups]"
    )
    groups = form.operator.integer("groups")
    form.require(
        w.shape[0] % groups == 0 and w.shape[3] * groups == x.shape[2], "the groups do not divide the channels"
    )
    form.require(max(w.shape[1:3]) <= EXTENT[1], "the window is too large")
    _form_channels(form, w.shape[0])
    window(form, w.shape[1:3], w.shape[0])


def bound_conv(case: Case) -> int:
    return _bound_channels(case, case.operator.inputs[1].shape[0])


def reads_conv(operator: Operator, context: int) -> list[Read]:
    del context
    _, height, width, depth = operator.inputs[1].shape
    packed = depth == operator.inputs[0].shape[2] and operator.integers("dilation")[1] == 1
    rows = Read(0, height, width * depth) if packed else Read(0, height * width, depth)
    return [rows, Read(1, 1, height * width * depth, aligned=True), *_reads_channels(operator)]


KINDS = {
    "linear": Kind(form_linear, bound_linear, linear, reads_linear),
    "matmul": Kind(form_matmul, bound_matmul, matmul, reads_matmul),
    "conv": Kind(form_conv, bound_conv, conv, reads_conv),
}
