"""Language programs as rows: the layout with room for a prompt's steps, and the lowerings of their kinds."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from avow.exact.kernels import language_attention as attention
from avow.exact.kernels import language_rows as kernels
from avow.exact.kernels import movement, packing
from avow.exact.kernels.layout import ROOM, Layout, Row, values_of
from avow.exact.kernels.lowering import LOWERINGS
from avow.exact.kernels.products import SPARE
from avow.exact.kernels.rows import ADDRESS, COUNT, OUT_STRIDE, SIZE, A, B
from avow.exact.program import Operator, Program, Source
from avow.exact.tensors import RANGES, WIDTHS, size_of

PAGE = kernels.PAGE


class LanguageLayout(Layout):
    """Rule 3 of layout.py, for steps of a prompt. `tokens` and `caches` (by the `append`'s number) are offsets of what a run keeps."""

    def __init__(self, program: Program, most: int, late: int = 1) -> None:
        super().__init__(program, most, late)
        self.tokens = self.state(4 * program.context)
        self.caches: dict[int, int] = {}
        pages = -(-program.context // PAGE)
        for index, operator in enumerate(program.operators):
            if operator.kind == "append":
                self.caches[index] = self.state(pages * size_of(operator.shape) * WIDTHS[operator.type])
        for index, operator in enumerate(program.operators):
            self.begin(index)
            (LANGUAGE.get(operator.kind) or LOWERINGS[operator.kind])(self, index, operator)
        self.end()

    def pages(self, steps: int) -> list[tuple[int, int]]:
        """Where the pages that so many steps write begin and end in the arena, of each cache."""
        count = -(-steps // PAGE)
        sizes = ((index, size_of(each.shape) * WIDTHS[each.type]) for index, each in enumerate(self.program.operators))
        return [
            (self.caches[index], self.caches[index] + count * size) for index, size in sizes if index in self.caches
        ]


def _in_place(layout: Layout, row: Row, slot: int, source: Source) -> None:
    """A constant input that is read where the file has it."""
    row.set(slot + ADDRESS, layout.keep_in_place(values_of(layout.program, source)))
    row.set(slot + SIZE, WIDTHS[source.type])
    row.set(slot + COUNT, size_of(source.shape))


def _fits(source: Source) -> bool:
    """Whether all values fit int16."""
    least, most = RANGES["int16"]
    return least <= source.low and source.high <= most


def _grows(layout: Layout, row: Row, operator: Operator) -> None:
    """The output of the context's last position has room for each step."""
    row.set(OUT_STRIDE, size_of(operator.shape, layout.program.context) * WIDTHS[operator.type])


def _token(layout: Layout, index: int, operator: Operator) -> None:
    del operator
    assert isinstance(layout, LanguageLayout)
    layout.row(index, kernels.TOKEN).place(kernels.TOKENS, layout.tokens)


def _gather(layout: Layout, index: int, operator: Operator) -> None:
    w, ids = operator.inputs[:2]
    row = layout.row(index, movement.GATHER)
    _in_place(layout, row, A, w)
    row.input(B, ids)
    row.set(movement.WIDTH_OF_ROW, w.shape[1])
    if operator.integer("rescale"):
        multipliers, shifts = (values_of(layout.program, each) for each in operator.inputs[2:4])
        row.constant(movement.SCALES, packing.scales(multipliers, shifts))


def _linear(layout: Layout, index: int, operator: Operator) -> None:
    x, w = operator.inputs[:2]
    plain = w.type == "int8" and x.type != "int32" and operator.integer("rescale") and not operator.integer("bias")
    if not plain:
        LOWERINGS["linear"](layout, index, operator)
        return
    columns, depth = w.shape
    rows = size_of(x.shape) // depth
    row = layout.row(index, kernels.LINEAR)
    row.input(A, x)
    multipliers, shifts = (values_of(layout.program, each) for each in operator.inputs[2:4])
    scales = np.zeros(-(-columns // kernels.PANEL) * kernels.PANEL, np.float64)
    scales[:columns] = np.broadcast_to(packing.scales(multipliers, shifts), (columns,))
    row.constant(kernels.SCALES, scales)
    row.constant(kernels.ZEROS, np.zeros(128, np.uint8))
    row.set(kernels.WEIGHTS, layout.keep_in_place(values_of(layout.program, w)))
    for slot, value in ((kernels.DEPTH, depth), (kernels.COLUMNS, columns), (kernels.ROWS, rows)):
        row.set(slot, value)
    row.real(kernels.LOW_REAL, operator.low)
    row.real(kernels.HIGH_REAL, operator.high)
    samples = layout.late if operator.phase else layout.most
    row.scratch(SPARE + (depth + 1) // 2 * 4 * kernels.PANEL + 2 * PAGE + 2 * rows * samples * depth + ROOM)


def _rope(layout: Layout, index: int, operator: Operator) -> None:
    x, cosines, sines = operator.inputs
    row = layout.row(index, kernels.ROPE)
    row.input(A, x)
    row.set(kernels.WIDE, x.shape[-1])
    row.set(kernels.INTERLEAVED, operator.integer("interleaved"))
    for slot, source in ((kernels.COSINES, cosines), (kernels.SINES, sines)):
        row.constant(slot, values_of(layout.program, source).astype(np.int16))


def _append(layout: Layout, index: int, operator: Operator) -> None:
    assert isinstance(layout, LanguageLayout)
    x = operator.inputs[0]
    row = layout.row(index, kernels.APPEND)
    row.input(A, x)
    row.place(kernels.CACHE, layout.caches[index])
    row.set(kernels.ROW, size_of(x.shape))
    row.set(kernels.TRANSPOSED, operator.integer("transposed"))


def _over_cache(layout: Layout, index: int, operator: Operator, kernel: Any, heads: int, head: int, width: int) -> Row:
    """A row of `scores` or `mix`. `width`: values in a row of the cache."""
    assert isinstance(layout, LanguageLayout)
    x, cache = operator.inputs
    row = layout.row(index, kernel)
    row.input(A, x)
    if x.shape[-1] < 0:
        row.set(A + 3, size_of(x.shape, layout.program.context) * WIDTHS[x.type])
    row.place(kernels.CACHE, layout.caches[cache.id])
    row.set(kernels.CACHE_SIZE, WIDTHS[cache.type])
    row.set(attention.BEYOND, int(not _fits(x) or cache.type == "int32"))
    share = heads * head // width
    for slot, value in (
        (kernels.ROW, width),
        (attention.HEADS, heads),
        (attention.HEAD, head),
        (attention.SHARE, share),
    ):
        row.set(slot, value)
    row.constant(attention.ZERO_OFFSETS, np.zeros(128, np.uint8))
    row.real(attention.SCALE_REAL, float(operator.integer("m")) * 2.0 ** -operator.integer("s"))
    return row


def _scores(layout: Layout, index: int, operator: Operator) -> None:
    heads, head = operator.inputs[0].shape
    row = _over_cache(layout, index, operator, attention.SCORES, heads, head, operator.inputs[1].shape[1])
    _grows(layout, row, operator)
    row.scratch(2 * heads * head + attention.panel_bytes(head) + ROOM)


def _mix(layout: Layout, index: int, operator: Operator) -> None:
    heads, head = operator.shape
    row = _over_cache(layout, index, operator, attention.MIX, heads, head, operator.inputs[1].shape[0])
    one_by_one = 4 * head + PAGE + 2 * heads * layout.program.context
    pages = -(-layout.program.context // PAGE) * PAGE
    share = heads * head // operator.inputs[1].shape[0]
    row.scratch(max(one_by_one, attention.panel_bytes(pages) + 2 * share * layout.most * pages) + ROOM)


def _softmax(layout: Layout, index: int, operator: Operator) -> None:
    if operator.shape[-1] > 0:
        LOWERINGS["softmax"](layout, index, operator)
        return
    x, table = operator.inputs
    row = layout.row(index, attention.SOFTMAX)
    row.input(A, x)
    row.set(A + 3, size_of(x.shape, layout.program.context) * WIDTHS[x.type])
    row.constant(B + ADDRESS, values_of(layout.program, table).astype(np.int32))
    row.set(B + COUNT, size_of(table.shape))
    row.set(attention.ONE, operator.integer("one"))
    row.set(attention.HEADS, size_of(operator.shape, 1))
    _grows(layout, row, operator)
    row.scratch(4 * layout.program.context + ROOM)


def _gumbel(layout: Layout, index: int, operator: Operator) -> None:
    logits, table = operator.inputs
    row = layout.row(index, kernels.GUMBEL)
    row.input(A, logits)
    row.constant(kernels.TABLE, values_of(layout.program, table).astype(np.int32))


LANGUAGE: Mapping[str, Callable[[Layout, int, Operator], None]] = {
    "token": _token, "gather": _gather, "linear": _linear, "rope": _rope, "append": _append, "scores": _scores,
    "softmax": _softmax, "mix": _mix, "gumbel": _gumbel,
}  # fmt: skip
"""What language programs lower in another way than others do, or alone."""
