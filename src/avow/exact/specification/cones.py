"""What one value of an operator opens and costs where some of the operators that it depends on have no leaf in the trace.

Rules:
1. The **cone** of an operator is the operator and, of what it reads at this step, the operators without a leaf, of these the same, and so
   on. One element of it is computed from the leaves, constants and program inputs at the cone's edge.
2. Every operator that has a leaf, and every program output that has none, is the root of a cone. What it opens, edge and records, is at
   most MAX_OPENING_BYTES; what it reads at the edge at most MAX_VALUES; it has at most MAX_INNER operators without a leaf;
   and all this costs at most MAX_WORK. All cones together have at most MAX_SHARED inner operators for each of the program's, and ask
   at most MAX_SHARED times for each input of these, so that the proof of this ends soon, whatever program a stranger made.
3. An inner element is computed once, however often it is read, and those that are asked for together in runs of a line (lines.py). Work is
   what this takes a referee in Python, in microseconds of a slow core: LINE for each run, ASK for each run that it asks its inputs for,
   ELEMENT for each value, and one for every VALUES values read; and RECORD, TENSOR and CHUNK for what is opened.
4. A choice (argmax, topk) has a leaf: it is refuted, not computed. The row of an `append` without a leaf has one.
All bounds are over all elements: `wants.py` says what any element needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod

from avow.exact.errors import BadProgram
from avow.exact.program import CACHE, CONSTANT, INPUT, NO_LEAF, OPERATOR, Head, Operator, Source
from avow.exact.specification import wants
from avow.exact.specification.checking import Read
from avow.exact.specification.lines import LINES, WHOLE, width_of
from avow.exact.specification.openings import (
    MAX_OPENING_BYTES,
    MAX_VALUES,
    RECORD,
    TENSOR,
    beside_bytes,
    chunk_bytes,
    records_bytes,
    values_read,
)
from avow.exact.specification.wants import Want
from avow.exact.tensors import WIDTHS, size_of

MAX_INNER = 48
"""Operators without a leaf in one cone: a proof holds the record of each."""
MAX_WORK = 5_000
"""By rule 3: about as many microseconds."""
MAX_SHARED = 8
LINE = 5
ASK = 2
ELEMENT = 1
VALUES = 16
RECORD_WORK = 120
TENSOR_WORK = 60
CHUNK_WORK = 3
MOST_WANTS = 8
"""Wants of one operator that are followed by themselves; more are followed as one."""


@dataclass(slots=True)
class Cone:
    """What one element of a root needs, at most. `inner` are the operators without a leaf, by number; `asked` is how many inputs they
    have, each as often as it was looked at in another place: what it takes to find all this out.
    """

    opening: int = 0
    values: int = 0
    work: int = 0
    asked: int = 0
    inner: list[int] = field(default_factory=list)

    def refusal(self) -> str | None:
        """Which bound of rule 2 does not hold, in words; None if all do."""
        if self.opening > MAX_OPENING_BYTES:
            return f"a wrong element needs {self.opening} bytes of openings, more than {MAX_OPENING_BYTES}"
        if self.values > MAX_VALUES:
            return f"an element reads {self.values} values, more than {MAX_VALUES}"
        if self.work > MAX_WORK:
            return f"to judge an element costs {self.work}, more than {MAX_WORK}"
        if len(self.inner) > MAX_INNER:
            return f"an element goes through {len(self.inner)} operators without a leaf, more than {MAX_INNER}"
        return None


class Cones:
    """The cones of one program. `leaf(number)` says whether an operator has a leaf, so that a compiler can try other choices."""

    def __init__(
        self,
        head: Head,
        operators: Sequence[Operator],
        reads: Callable[[Operator, int], list[Read]],
        leaf: Callable[[int], bool] | None = None,
        leaves: int | None = None,
    ) -> None:
        """`reads`: by an operator's kind. `leaves`: of a step, if not the head's."""
        self._head = head
        self._operators = operators
        self._reads = cache(lambda number: reads(operators[number], head.context))
        self._leaf = leaf or (lambda number: operators[number].leaf != NO_LEAF)
        self._leaves = head.leaves if leaves is None else leaves
        self._record = cache(lambda number: len(operators[number].encoded()))

    def roots(self) -> list[int]:
        """Rule 2's roots."""
        outputs = frozenset(self._head.outputs)
        return [number for number in range(len(self._operators)) if self._leaf(number) or number in outputs]

    def of(self, root: int) -> Cone:
        """The cone of a root."""
        edge = _Edge(self._head, self._leaves)
        cone = Cone()
        own = self._operators[root]
        edge.leaf(0, own.source(OPERATOR, root), wants.one(own.shape))
        pending: dict[int, _Asked] = {root: _Asked([wants.one(own.shape)], 1, 1)}
        while pending and len(cone.inner) <= MAX_INNER:
            number = max(pending)
            self._follow(number, pending.pop(number), number == root, cone, edge, pending)
        cone.work += edge.work() + RECORD_WORK * len(cone.inner)
        cone.opening = edge.opening() + records_bytes([self._record(each) for each in cone.inner], self._head.operators)
        return cone

    def _follow(
        self, number: int, asked_for: "_Asked", root: bool, cone: Cone, edge: "_Edge", pending: "dict[int, _Asked]"
    ) -> None:
        operator, reads, context = self._operators[number], self._reads(number), self._head.context
        wanted = asked_for.wants
        if len(wanted) > MOST_WANTS:
            wanted = [wants.merged(wanted, wants.shape_of(operator.source(OPERATOR, number), context))]
        elements = sum(want.count for want in wanted)
        if not root:
            elements = min(elements, size_of(operator.shape, context))
            cone.inner.append(number)
        asks, calls = _asks(operator, reads, root=root)
        width = width_of(operator, context)
        runs = min(elements, asked_for.runs + elements // width)
        batches = min(runs, asked_for.calls) if width == WHOLE else runs
        cone.work += batches * (LINE + ASK * sum(calls)) + elements * ELEMENT + elements * values_read(reads) // VALUES
        cone.values += elements * values_read([read for read in reads if self._at_edge(operator, read)])
        for want in wanted:
            cone.asked += 0 if root else len(operator.inputs)
            for at, asked in wants.asked(operator, want, context, reads):
                source = operator.inputs[at]
                if source.origin == CONSTANT:
                    edge.constant(source, asked)
                elif source.origin == INPUT:
                    edge.input(source, asked)
                elif source.origin == CACHE:
                    self._cached(source, want.count, [read for read in reads if read.number == at], cone, edge)
                elif self._inside(source):
                    below = pending.setdefault(source.id, _Asked([]))
                    below.wants.append(asked)
                    below.runs += runs * asks[at]
                    below.calls += batches * calls[at]
                else:
                    edge.leaf(source.origin, source, asked)

    def _at_edge(self, operator: Operator, read: Read) -> bool:
        """Whether a read may be of what is not computed. The one that stands for those of a concat may be of any input."""
        sources = operator.inputs if operator.kind == "concat" else [operator.inputs[read.number]]
        return not all(self._inside(source) for source in sources)

    def _inside(self, source: Source) -> bool:
        return source.origin == OPERATOR and not self._leaf(source.id)

    def _cached(self, source: Source, count: int, reads: list[Read], cone: Cone, edge: "_Edge") -> None:
        """Rows of a cache: in its pages; or, without them, in what was appended, a tensor for each position."""
        pages = -(-self._head.context // wants.PAGE)
        if self._leaf(source.id):
            for read in reads:
                each = Want(
                    source.shape,
                    read.length * -(-read.runs // read.leaves),
                    (-(-read.runs // read.leaves), read.length, read.aligned),
                )
                edge.leaf(CACHE, source, each, min(pages, count * read.leaves))
            return
        if source.id not in cone.inner:
            cone.inner.append(source.id)
        row = self._operators[source.id].inputs[0]
        for read in reads:
            # Of a page that is not there each position is a tensor of its own.
            positions = min(self._head.context, count * read.runs)
            edge.leaf(CACHE, row, wants.within(row.shape, read.length, (1, read.length, read.aligned)), positions)


@dataclass(slots=True)
class _Asked:
    """What is wanted of an operator's output, in how many runs of consecutive values, and how often it is asked for them, at most."""

    wants: list[Want]
    runs: int = 0
    calls: int = 0


def _asks(operator: Operator, reads: list[Read], *, root: bool) -> tuple[list[int], list[int]]:
    """For how many runs of each input one run asks, or one element of a root, and in how many calls; at most."""
    line = LINES.get(operator.kind)
    if line is not None and not root:
        asks = line.asks(operator)
    else:
        asks = [0] * len(operator.inputs)
        for read in reads:
            asks[read.number] += read.runs
        if operator.kind == "conv":
            asks[0] = asks[1] = prod(operator.inputs[1].shape[1:3])
        elif operator.kind == "pool":
            asks[0] = prod(operator.integers("kernel"))
    together = _ROOTS_ASK_ONCE if root else _LINES_ASK_ONCE
    return asks, [1] * len(asks) if operator.kind in together else asks


_ROOTS_ASK_ONCE = ("matmul", "reduce", "softmax")
_LINES_ASK_ONCE = ("slice", "transpose", "rope")
"""Kinds that ask for all runs of an input together."""


class _Edge:
    """What of leaves, constants and program inputs is opened."""

    def __init__(self, head: Head, leaves: int) -> None:
        self._head = head
        self._total = leaves * head.context
        self._leaves: dict[tuple[int, int], tuple[Source, int, int]] = {}
        self._constants: dict[int, tuple[Source, int]] = {}
        self._inputs: dict[int, tuple[Source, int]] = {}

    def leaf(self, origin: int, source: Source, want: Want, tensors: int = 1) -> None:
        """`tensors`: so many of one shape, each opened alike."""
        chunks = wants.chunks_of(source, want, self._head.context)
        _, opened, times = self._leaves.get((origin, source.id), (source, 0, 0))
        self._leaves[origin, source.id] = source, opened + chunks * tensors, max(tensors, times)

    def constant(self, source: Source, want: Want) -> None:
        _, opened = self._constants.get(source.id, (source, 0))
        self._constants[source.id] = source, opened + wants.chunks_of(source, want, self._head.context)

    def input(self, source: Source, want: Want) -> None:
        _, opened = self._inputs.get(source.id, (source, 0))
        self._inputs[source.id] = source, opened + wants.chunks_of(source, want, self._head.context)

    def work(self) -> int:
        """What opening it costs a referee."""
        tensors = sum(times for _, _, times in self._leaves.values()) + len(self._constants) + len(self._inputs)
        chunks = sum(opened for _, opened, _ in self._leaves.values())
        chunks += sum(opened for _, opened in (*self._constants.values(), *self._inputs.values()))
        return tensors * TENSOR_WORK + chunks * CHUNK_WORK

    def opening(self) -> int:
        """Bytes of all of it, with the hashes beside it."""
        tensors = sum(times for _, _, times in self._leaves.values())
        total = beside_bytes(tensors, self._total) + tensors * TENSOR
        for source, opened, times in self._leaves.values():
            each = -(-opened // times)
            total += times * self._chunks(source, each)
        total += beside_bytes(len(self._constants), self._head.constants) + RECORD * len(self._constants)
        for source, opened in (*self._constants.values(), *self._inputs.values()):
            total += self._chunks(source, opened)
        return total

    def _chunks(self, source: Source, opened: int) -> int:
        size = prod(wants.shape_of(source, self._head.context)) * WIDTHS[source.type]
        return chunk_bytes(source, opened, size)


def check(cones: Cones, operators: Sequence[Operator], chosen: Callable[[Operator], bool]) -> None:
    """Rules 2 and 4, for a whole program. `chosen`: whether an operator is a choice. Raises BadProgram, which names the root."""
    for number, operator in enumerate(operators):
        if operator.leaf == NO_LEAF and chosen(operator):
            raise BadProgram(f"{operator.kind}: a choice has no leaf", operator=number)
        if operator.leaf == NO_LEAF and operator.kind == "append" and operator.inputs[0].leaf == NO_LEAF:
            raise BadProgram("append: neither the page nor the row has a leaf", operator=number)
    room = MAX_SHARED * len(operators) + MAX_INNER
    questions = MAX_SHARED * sum(len(operator.inputs) for operator in operators) + MAX_INNER
    for root in cones.roots():
        cone = cones.of(root)
        refusal = cone.refusal()
        room -= len(cone.inner)
        questions -= cone.asked
        if refusal is None and min(room, questions) < 0:
            refusal = "too many operators without a leaf are computed again and again"
        if refusal is not None:
            raise BadProgram(f"{operators[root].kind}: {refusal}", operator=root)
