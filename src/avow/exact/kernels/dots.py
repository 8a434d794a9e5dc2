"""Matrices whose rows are int8 where the file has them: one row by such a one, as a language model does for each token; and panels of it.

Rules:
1. Such a product reads each weight once, so it is as quick as memory: rows are read one after the other as one stream, and what comes
   AHEAD bytes later is asked for now. The processor itself looks ahead within a page of 4 KiB only.
2. Eight rows make one vector of sums, which are requantised together (simd.py, rule 3).
3. Nothing is read beyond x or the weights: a row's last values, fewer than STRIDE, are summed by the caller.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from avow.exact.kernels.compilation import intrinsic
from avow.exact.kernels.simd import (
    constant,
    declared,
    finish_tile,
    offset,
    pair_sums,
    read,
    shuffle,
    write,
)

ROWS = 8
STRIDE = 64
"""Values of a row in one round of the loop: a line of memory."""
AHEAD = 2_048

_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_NARROW = ir.VectorType(_I8, 16)
_HALVES = ir.VectorType(_I16, 16)
_SUMS = ir.VectorType(_I32, 8)
_ZERO = ir.Constant(_SUMS, [0] * 8)
_EVEN, _ODD = list(range(0, 16, 2)), list(range(1, 16, 2))

Builder = Any
Value = Any
_NAMES = ("x", "weights", "depth", "start", "scale", "low", "high", "out", "mode")


def _ask(builder: Builder, address: Value) -> None:
    """Have a line read into the caches, wherever it is: nobody waits, and an address of nothing is no fault."""
    pointer = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
    read_only, near, data = (ir.Constant(_I32, each) for each in (0, 3, 1))
    function = declared(builder, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, pointer), read_only, near, data])


def _neighbours(builder: Builder, left: Value, right: Value) -> Value:
    """Sums of neighbours: four of `left`, then four of `right`."""
    return builder.add(shuffle(builder, left, right, _EVEN), shuffle(builder, left, right, _ODD))


def _row(context: Any, builder: Builder, value: dict[str, Value], number: int) -> Value:
    """Row `number` by x, in eight sums whose sum is meant."""
    weights = builder.add(value["weights"], builder.mul(value["depth"], constant(number)))
    entry, loop, after = builder.block, builder.append_basic_block("line"), builder.append_basic_block("row")
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(_I64)
    sums = [builder.phi(_SUMS) for _ in range(4)]
    here, x = builder.add(weights, at), builder.add(value["x"], builder.shl(at, constant(1)))
    _ask(builder, offset(builder, here, AHEAD))
    added = []
    for part, held in enumerate(sums):
        narrow = read(builder, offset(builder, here, 16 * part), _NARROW)
        halves = read(builder, offset(builder, x, 32 * part), _HALVES)
        products = pair_sums(context, builder, builder.sext(narrow, _HALVES), halves)
        added.append(builder.add(held, products))
    following = offset(builder, at, STRIDE)
    at.add_incoming(constant(0), entry)
    at.add_incoming(following, loop)
    for held, new in zip(sums, added, strict=True):
        held.add_incoming(_ZERO, entry)
        held.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<=", offset(builder, following, STRIDE), value["depth"]), loop, after)
    builder.position_at_end(after)
    return builder.add(builder.add(added[0], added[1]), builder.add(added[2], added[3]))


@intrinsic
def eight_dots(
    typing_context: Any,  # noqa: ARG001
    x: Any,  # noqa: ARG001
    weights: Any,  # noqa: ARG001
    depth: Any,  # noqa: ARG001
    start: Any,  # noqa: ARG001
    scale: Any,  # noqa: ARG001
    low: Any,  # noqa: ARG001
    high: Any,  # noqa: ARG001
    out: Any,  # noqa: ARG001
    mode: Any,  # noqa: ARG001
) -> Any:
    """X int16[depth] by int8[8, depth], of which the first depth // 64 · 64 ≥ 64 values of each row are multiplied here.

    start: int32[8], what is added to the sums. scale: float64[16], of which eight are used. out: eight values; mode: as a tile's.
    """

    def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
        value: dict[str, Value] = dict(zip(_NAMES, arguments, strict=True))
        sums = [_row(context, builder, value, number) for number in range(ROWS)]
        while len(sums) > 1:
            sums = [_neighbours(builder, sums[at], sums[at + 1]) for at in range(0, len(sums), 2)]
        total = builder.add(sums[0], read(builder, value["start"], _SUMS))
        finish_tile(builder, [[total]], {**value, "out_stride": constant(0)})
        return context.get_dummy_value()

    real = {"low", "high"}
    kinds = (types.float64 if name in real else types.int64 for name in _NAMES)
    return types.void(*kinds), generate


PACKED = 16
"""Rows, and values of each, that `pack_square` packs at once."""
# Neighbours of two vectors, by one and by two, within their halves; then halves of two vectors.
_ONES = [[0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]]
_TWOS = [[0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]]
_FOURS = [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]


def _transposed(builder: Builder, rows: list[Value]) -> list[Value]:
    """Eight vectors of eight, rows to columns."""
    fours = []
    for at in (0, 4):
        ones = [shuffle(builder, rows[at + n], rows[at + n + 1], order) for n in (0, 2) for order in _ONES]
        fours.append([shuffle(builder, ones[n], ones[n + 2], order) for n in (0, 1) for order in _TWOS])
    return [shuffle(builder, low, high, order) for order in _FOURS for low, high in zip(*fours, strict=True)]


@intrinsic
def pack_square(typing_context: Any, weights: Any, stride: Any, panel: Any) -> Any:  # noqa: ARG001
    """int8[16][16], rows `stride` bytes apart → int16[8][16][2]: pairs of neighbours, those of all rows together."""

    def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
        start, stride, panel = arguments
        for half in (0, 1):
            rows = []
            for number in range(8 * half, 8 * half + 8):
                narrow = read(builder, builder.add(start, builder.mul(stride, constant(number))), _NARROW)
                rows.append(builder.bitcast(builder.sext(narrow, _HALVES), _SUMS))
            for pair, column in enumerate(_transposed(builder, rows)):
                write(builder, column, offset(builder, panel, 64 * pair + 32 * half))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate
