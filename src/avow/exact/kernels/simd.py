"""The inner loops of products and convolutions, as vector instructions.

Rules:
1. All products are int16 × int16 in pairs: one instruction multiplies sixteen pairs' halves and adds neighbours, eight int32 sums a time
   (x86: vpmaddwd; elsewhere the same from widening multiplications). int8 operands are widened before. Sums are int32 and never
   overflow: bounds were proven when the program was loaded. So the order of additions does not matter.
2. A tile is 1 to 6 rows by 16 columns, held in registers. Weights come as panels: 16 columns, for each pair of k 16 × 2 int16.
3. requantise(a, m, s) is floor(a · m·2⁻ˢ + 1/2) in float64. Every step is exact: a·m has at most 45 bits, the half adds none beyond,
   so no rounding happens and no machine, order or fusing can change a bit.
4. x may be read up to 64 bytes beyond its end: the layout keeps room after every buffer.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from avow.exact.kernels.compilation import intrinsic

COLUMNS = 16
"""Columns of a panel and of a tile."""
PANEL_PAIR_BYTES = 64
"""Bytes of a panel for one pair of k: 16 columns × 2 × int16."""
RAW = 0
"""Mode of a tile that keeps the int32 accumulators; else the mode is the output's bytes per value: 1, 2 or 4."""

_I8, _I16, _I32, _I64, _F64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.DoubleType()
_SUMS = ir.VectorType(_I32, 8)
_HALVES = ir.VectorType(_I16, 16)
_REALS = ir.VectorType(_F64, 8)

Builder = Any
Value = Any


def supports(context: Any, feature: str) -> bool:
    """Whether code is generated for a processor with `feature` (LLVM's name)."""
    return f"+{feature}," in f"{context.codegen()._tm_features},"  # noqa: SLF001 : honours NUMBA_CPU_NAME and NUMBA_CPU_FEATURES


def declared(builder: Builder, kind: Any, name: str) -> Value:
    """A function of the processor, or of LLVM, by its name."""
    find: Any = cgutils.get_or_insert_function
    return find(builder.module, kind, name)


def constant(number: int) -> Value:
    return ir.Constant(_I64, number)


def read(builder: Builder, address: Value, kind: Any, align: int = 1) -> Value:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def write(builder: Builder, value: Value, address: Value, align: int = 1) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def offset(builder: Builder, address: Value, count: int) -> Value:
    return builder.add(address, constant(count))


def splat(builder: Builder, value: Value, kind: Any) -> Value:
    """A vector whose lanes all are `value`."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


def shuffle(builder: Builder, left: Value, right: Value, order: list[int]) -> Value:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(_I32, len(order)), order))


def pair_sums(context: Any, builder: Builder, left: Value, right: Value) -> Value:
    """Rule 1: left, right int16[16] → left[2i]·right[2i] + left[2i+1]·right[2i+1], int32[8]."""
    if supports(context, "avx2"):
        kind = ir.FunctionType(_SUMS, [_HALVES, _HALVES])
        function = declared(builder, kind, "llvm.x86.avx2.pmadd.wd")
        return builder.call(function, [left, right])
    wide = ir.VectorType(_I32, 16)
    product = builder.mul(builder.sext(left, wide), builder.sext(right, wide))
    return builder.add(
        shuffle(builder, product, product, list(range(0, 16, 2))),
        shuffle(builder, product, product, list(range(1, 16, 2))),
    )


def _floor(builder: Builder, value: Value) -> Value:
    kind = ir.FunctionType(_REALS, [_REALS])
    return builder.call(declared(builder, kind, "llvm.floor.v8f64"), [value])


def requantised(builder: Builder, sums: Value, scale: Value, low: Value, high: Value) -> Value:
    """Rule 3, then the clamp to [low, high]: int32[8]; scale, low, high are float64[8]."""
    half = ir.Constant(_REALS, [0.5] * 8)
    value = _floor(builder, builder.fadd(builder.fmul(builder.sitofp(sums, _REALS), scale), half))
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    value = builder.select(builder.fcmp_ordered(">", value, high), high, value)
    return builder.fptosi(value, _SUMS)


def _store_tile(builder: Builder, tile: list[list[Value]], mode: int, into: dict[str, Value]) -> None:
    """Write rows of two vectors: raw sums, or requantised ones narrowed to `mode` bytes."""
    size = 4 if mode == RAW else mode
    lanes = ir.VectorType(ir.IntType(8 * size), 8)
    low, high = splat(builder, into["low"], _REALS), splat(builder, into["high"], _REALS)
    scales = (
        [] if mode == RAW else [read(builder, offset(builder, into["scale"], 64 * half), _REALS) for half in (0, 1)]
    )
    for number, row in enumerate(tile):
        start = builder.add(into["out"], builder.mul(into["out_stride"], constant(number)))
        for half, sums in enumerate(row):
            value = sums if mode == RAW else requantised(builder, sums, scales[half], low, high)
            write(builder, value if size == 4 else builder.trunc(value, lanes), offset(builder, start, 8 * size * half))


def finish_tile(builder: Builder, tile: list[list[Value]], into: dict[str, Value]) -> None:
    """Store a tile in the mode that `into` names at run time."""
    after = builder.append_basic_block("stored")
    switch = builder.switch(into["mode"], after)
    for mode in (RAW, 1, 2, 4):
        block = builder.append_basic_block(f"store{mode}")
        switch.add_case(constant(mode), block)
        builder.position_at_end(block)
        _store_tile(builder, tile, mode, into)
        builder.branch(after)
    builder.position_at_end(after)


_STORE = ("scale", "low", "high", "out", "out_stride", "mode")
_PRODUCT = ("x", "x_stride", "segments", "offsets", "panel", "pairs", "bias", *_STORE)


def _kinds(names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(types.float64 if name in {"low", "high"} else types.int64 for name in names)


def _product_loops(context: Any, builder: Builder, rows: int, value: dict[str, Value]) -> list[list[Value]]:
    """The sums of one tile: for each segment of x, for each pair of k."""
    entry, outer, inner, latch, after = (
        builder.block,
        *(builder.append_basic_block(name) for name in ("segment", "pair", "next_segment", "summed")),
    )
    start = [[read(builder, offset(builder, value["bias"], 32 * half), _SUMS) for half in (0, 1)] for _ in range(rows)]
    bases = [builder.add(value["x"], builder.mul(value["x_stride"], constant(row))) for row in range(rows)]
    builder.branch(outer)

    builder.position_at_end(outer)
    segment, panel = builder.phi(_I64), builder.phi(_I64)
    held = [[builder.phi(_SUMS) for _ in (0, 1)] for _ in range(rows)]
    shift = read(builder, builder.add(value["offsets"], builder.shl(segment, constant(3))), _I64)
    places = [builder.add(base, shift) for base in bases]
    builder.branch(inner)

    builder.position_at_end(inner)
    pair = builder.phi(_I64)
    sums = [[builder.phi(_SUMS) for _ in (0, 1)] for _ in range(rows)]
    at = builder.add(panel, builder.shl(pair, constant(6)))
    weights = [read(builder, offset(builder, at, 32 * half), _HALVES) for half in (0, 1)]
    added: list[list[Value]] = []
    for row in range(rows):
        both = read(builder, builder.add(places[row], builder.shl(pair, constant(2))), _I32)
        spread = builder.bitcast(splat(builder, both, _SUMS), _HALVES)
        added.append(
            [builder.add(sums[row][half], pair_sums(context, builder, spread, weights[half])) for half in (0, 1)]
        )
    following = offset(builder, pair, 1)
    builder.cbranch(builder.icmp_signed("<", following, value["pairs"]), inner, latch)

    builder.position_at_end(latch)
    next_segment = offset(builder, segment, 1)
    next_panel = builder.add(panel, builder.shl(value["pairs"], constant(6)))
    builder.cbranch(builder.icmp_signed("<", next_segment, value["segments"]), outer, after)

    for phi, first, again in ((segment, constant(0), next_segment), (panel, value["panel"], next_panel)):
        phi.add_incoming(first, entry)
        phi.add_incoming(again, latch)
    pair.add_incoming(constant(0), outer)
    pair.add_incoming(following, inner)
    for row in range(rows):
        for half in (0, 1):
            held[row][half].add_incoming(start[row][half], entry)
            held[row][half].add_incoming(added[row][half], latch)
            sums[row][half].add_incoming(held[row][half], outer)
            sums[row][half].add_incoming(added[row][half], inner)
    builder.position_at_end(after)
    return added


def _product_tile(rows: int) -> Any:
    def product_tile(
        typing_context: Any,  # noqa: ARG001
        x: Any,  # noqa: ARG001
        x_stride: Any,  # noqa: ARG001
        segments: Any,  # noqa: ARG001
        offsets: Any,  # noqa: ARG001
        panel: Any,  # noqa: ARG001
        pairs: Any,  # noqa: ARG001
        bias: Any,  # noqa: ARG001
        scale: Any,  # noqa: ARG001
        low: Any,  # noqa: ARG001
        high: Any,  # noqa: ARG001
        out: Any,  # noqa: ARG001
        out_stride: Any,  # noqa: ARG001
        mode: Any,  # noqa: ARG001
    ) -> Any:
        """`rows` rows of x by one panel: Σ over segments and pairs, plus bias.

        x: address of the first row's int16 values, rows `x_stride` bytes apart; segment s of a row begins offsets[s] bytes
        (int64[segments]) further and has `pairs` pairs. panel: int16[segments · pairs][16][2]. bias: int32[16]. scale: float64[16], m·2⁻ˢ.
        out: address, rows `out_stride` bytes apart; mode: RAW or the bytes per value.
        """

        def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
            value: dict[str, Value] = dict(zip(_PRODUCT, arguments, strict=True))
            finish_tile(builder, _product_loops(context, builder, rows, value), value)
            return context.get_dummy_value()

        return types.void(*_kinds(_PRODUCT)), generate

    product_tile.__name__ = f"product_tile_{rows}"
    return intrinsic(product_tile)


product_tile_1 = _product_tile(1)
product_tile_2 = _product_tile(2)
product_tile_4 = _product_tile(4)
product_tile_6 = _product_tile(6)

_DEPTHWISE = ("x", "x_stride", "pairs", "offsets", "weights", "bias", *_STORE)
# What interleaving the low and the high halves of both 128-bit lanes gives, and how the sums are put back in order.
_LOW_HALVES = [0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27]
_HIGH_HALVES = [4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31]
_FIRST_EIGHT = [0, 1, 2, 3, 8, 9, 10, 11]
_LAST_EIGHT = [4, 5, 6, 7, 12, 13, 14, 15]
DEPTHWISE_ORDER = (_LOW_HALVES, _HIGH_HALVES)
"""Where each of a vector's sixteen int16 comes from: n < 16 is channel n of the pair's first tap, n ≥ 16 channel n − 16 of the second."""


def _depthwise_tile(pixels: int) -> Any:
    def depthwise_tile(
        typing_context: Any,  # noqa: ARG001
        x: Any,  # noqa: ARG001
        x_stride: Any,  # noqa: ARG001
        pairs: Any,  # noqa: ARG001
        offsets: Any,  # noqa: ARG001
        weights: Any,  # noqa: ARG001
        bias: Any,  # noqa: ARG001
        scale: Any,  # noqa: ARG001
        low: Any,  # noqa: ARG001
        high: Any,  # noqa: ARG001
        out: Any,  # noqa: ARG001
        out_stride: Any,  # noqa: ARG001
        mode: Any,  # noqa: ARG001
    ) -> Any:
        """`pixels` neighbouring outputs of 16 channels: Σ over pairs of taps, plus bias.

        x: address of the first pixel's int16 channels, pixels `x_stride` bytes apart. offsets: int64[pairs][2], bytes from there
        to each tap. weights: int16[pairs][2][16], in DEPTHWISE_ORDER. The rest as in product_tile.
        """

        def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
            value: dict[str, Value] = dict(zip(_DEPTHWISE, arguments, strict=True))
            entry, loop, after = builder.block, builder.append_basic_block("pair"), builder.append_basic_block("summed")
            biases = [read(builder, offset(builder, value["bias"], 32 * half), _SUMS) for half in (0, 1)]
            bases = [
                builder.add(value["x"], builder.mul(value["x_stride"], constant(pixel))) for pixel in range(pixels)
            ]
            zero = ir.Constant(_SUMS, [0] * 8)
            builder.branch(loop)
            builder.position_at_end(loop)
            pair = builder.phi(_I64)
            sums = [[builder.phi(_SUMS) for _ in (0, 1)] for _ in range(pixels)]
            at = builder.add(value["weights"], builder.shl(pair, constant(6)))
            taps = [read(builder, offset(builder, at, 32 * half), _HALVES) for half in (0, 1)]
            where = builder.add(value["offsets"], builder.shl(pair, constant(4)))
            shifts = [read(builder, offset(builder, where, 8 * tap), _I64) for tap in (0, 1)]
            added: list[list[Value]] = []
            for pixel in range(pixels):
                first, second = (read(builder, builder.add(bases[pixel], shift), _HALVES) for shift in shifts)
                mixed = [shuffle(builder, first, second, order) for order in DEPTHWISE_ORDER]
                added.append(
                    [
                        builder.add(sums[pixel][half], pair_sums(context, builder, mixed[half], taps[half]))
                        for half in (0, 1)
                    ]
                )
            following = offset(builder, pair, 1)
            builder.cbranch(builder.icmp_signed("<", following, value["pairs"]), loop, after)
            pair.add_incoming(constant(0), entry)
            pair.add_incoming(following, loop)
            for pixel in range(pixels):
                for half in (0, 1):
                    sums[pixel][half].add_incoming(zero, entry)
                    sums[pixel][half].add_incoming(added[pixel][half], loop)
            builder.position_at_end(after)
            tile = [
                [
                    builder.add(biases[half], shuffle(builder, row[0], row[1], order))
                    for half, order in enumerate((_FIRST_EIGHT, _LAST_EIGHT))
                ]
                for row in added
            ]
            finish_tile(builder, tile, value)
            return context.get_dummy_value()

        return types.void(*_kinds(_DEPTHWISE)), generate

    depthwise_tile.__name__ = f"depthwise_tile_{pixels}"
    return intrinsic(depthwise_tile)


depthwise_tile_1 = _depthwise_tile(1)
depthwise_tile_4 = _depthwise_tile(4)
