"""Where the tensors lie that one operator reads at one step: the wiring of a run, as referee, prover and watcher all see it.

Rules:
1. An operator's own output is in the leaf step · operators + operator. A source from this step is in its producer's leaf of this step, one
   from the previous step in that of the step before; before the first step there is none, and its values are zero.
2. A cache's row of position p is in the page that its `append` gave at step min(step, p | 63): the last one that holds the row.
   A page is [64, W], and row p is its row p mod 64; a transposed page is [W, 64], and row p is its column p mod 64.
3. A program input is one tensor over all steps, in its own slot; constants have numbers instead of slots.
4. A value that is read is inside of its source's interval; one that is not is its producer's fault, not the reader's.

Pure: no clock, no input or output, integers and bytes only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from avow.exact.errors import NotOpened, Undefined
from avow.exact.hashing import CHUNK, INPUT_SLOT
from avow.exact.program import CACHE, CONSTANT, INPUT, PREVIOUS, Head, Operator, Source, Tensor
from avow.exact.specification.openings import MAX_VALUES
from avow.exact.tensors import WIDTHS, Buffer, size_of, unpack

PAGE = 64
"""Positions in a page of a cache."""
MAX_READS = MAX_VALUES + 1_024
"""Values that one element may read. What is beyond the specification's bound are a choice's own earlier values, at most 255."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor's element type and number of elements."""

    type: str
    size: int

    @property
    def length(self) -> int:
        """In bytes."""
        return self.size * WIDTHS[self.type]

    def chunk_of(self, index: int) -> int:
        """The chunk that holds a value."""
        return index * WIDTHS[self.type] // CHUNK


@dataclass(frozen=True, slots=True)
class Site:
    """One operator at one step of a run; `prompt` is 0 where there is none."""

    head: Head
    operator: Operator
    number: int
    step: int
    steps: int
    prompt: int

    @property
    def slot(self) -> int:
        """Of the operator's own output."""
        return self.step * self.head.operators + self.number

    @property
    def layout(self) -> Layout:
        """Of the operator's own output."""
        return Layout(self.operator.type, size_of(self.operator.shape, self.step + 1))

    @property
    def runs(self) -> bool:
        """Whether the operator runs at this step: phase 1 begins with the prompt's last token."""
        return self.operator.phase == 0 or self.step >= self.prompt - 1

    def slot_of(self, source: Source) -> int | None:
        """Where the tensor of a source other than a constant or cache lies; None for the zeros before the first step."""
        if source.origin == INPUT:
            return INPUT_SLOT + source.id
        if source.origin == PREVIOUS:
            return (self.step - 1) * self.head.operators + source.id if self.step else None
        return self.step * self.head.operators + source.id

    def layout_of(self, source: Source) -> Layout:
        """Of a source's whole tensor; of a cache, of one page."""
        if source.origin == INPUT:
            return input_layout(
                self.head, Tensor(source.type, source.shape, source.low, source.high), self.steps, self.prompt
            )
        return Layout(source.type, size_of(source.shape, self.step + 1))

    def page_slot(self, source: Source, position: int) -> int:
        """Where the row of `position` lies; 0 ≤ position ≤ step."""
        return min(self.step, position | (PAGE - 1)) * self.head.operators + source.id

    def pages(self, source: Source) -> Iterator[int]:
        """The slots of all pages that a cache has at this step."""
        return (self.page_slot(source, position) for position in range(0, self.step + 1, PAGE))

    def layout_at(self, slot: int) -> Layout | None:
        """Of the tensor in a slot, if it is the operator's own or one that it can read; else None."""
        if slot == self.slot:
            return self.layout
        for source in self.operator.inputs:
            if source.origin == CACHE:
                step, number = divmod(slot, self.head.operators)
                if number == source.id and step <= self.step and self.page_slot(source, step) == slot:
                    return self.layout_of(source)
            elif source.origin != CONSTANT and self.slot_of(source) == slot:
                return self.layout_of(source)
        return None

    def constant(self, number: int) -> Source | None:
        """The source that is constant `number`, if the operator reads it."""
        for source in self.operator.inputs:
            if source.origin == CONSTANT and source.id == number:
                return source
        return None


def input_layout(head: Head, tensor: Tensor, steps: int, prompt: int) -> Layout:
    """Of a program input over the whole run: one part for each step, or the prompt's tokens."""
    return Layout(tensor.type, size_of(tensor.shape) * (prompt if head.mode == "generate" else steps))


def output_layout(head: Head, operator: Operator, steps: int, prompt: int) -> Layout:
    """Of a program output over the whole run: one part for each step, or the chosen tokens. `operator` is the one that gives it."""
    parts = steps - prompt + 1 if head.mode == "generate" else steps
    return Layout(operator.type, size_of(operator.shape) * parts)


def origin_of_output(head: Head, operator: Operator, prompt: int, index: int) -> tuple[int, int]:
    """The step and the flat index at which the value at `index` of a program output was given."""
    step, flat = divmod(index, size_of(operator.shape))
    return (step + prompt - 1 if head.mode == "generate" else step), flat


# --- Reading -------------------------------------------------------------------------------------------------------


class Values(Protocol):
    """One tensor's values by flat index, inside of the tensor. Raises NotOpened for what is not at hand."""

    def get(self, index: int) -> int:
        """One value."""
        ...

    def row(self, start: int, count: int) -> Sequence[int]:
        """`count` values from `start` on."""
        ...


class Reader(Protocol):
    """The tensors of a run and of its program. Raises NotOpened for what is not at hand."""

    def run(self, slot: int, layout: Layout) -> Values:
        """The tensor in a slot."""
        ...

    def constant(self, number: int, layout: Layout) -> Values:
        """A constant."""
        ...


class ChunkedValues:
    """A tensor's values out of its chunks, each unpacked when it is first touched. `touched` holds those by number."""

    __slots__ = ("_chunk", "_per_chunk", "_type", "touched")

    def __init__(self, kind: str, chunk: Callable[[int], Buffer]) -> None:
        """`chunk` gives a chunk's bytes, without salt."""
        self._type = kind
        self._per_chunk = CHUNK // WIDTHS[kind]
        self._chunk = chunk
        self.touched: dict[int, Sequence[int]] = {}

    def get(self, index: int) -> int:
        number, offset = divmod(index, self._per_chunk)
        return (self.touched.get(number) or self._touch(number))[offset]

    def row(self, start: int, count: int) -> Sequence[int]:
        number, offset = divmod(start, self._per_chunk)
        if offset + count <= self._per_chunk:
            return (self.touched.get(number) or self._touch(number))[offset : offset + count] if count else ()
        found: list[int] = []
        while count:
            part = (self.touched.get(number) or self._touch(number))[offset : offset + count]
            found.extend(part)
            number, offset, count = number + 1, 0, count - len(part)
        return found

    def _touch(self, number: int) -> Sequence[int]:
        values = self.touched[number] = unpack(self._type, self._chunk(number))
        return values


class _Zeros:
    """A tensor of the step before the first."""

    def get(self, index: int) -> int:  # noqa: ARG002
        return 0

    def row(self, start: int, count: int) -> Sequence[int]:  # noqa: ARG002
        return (0,) * count


class OutOfInterval(NotOpened):
    """A value that an operator reads is outside of its source's interval (rule 4)."""

    code = "out_of_interval"


class SiteCells:
    """The values of a site's operator as its element function reads them (specification/cells.py), out of a reader."""

    def __init__(self, site: Site, reader: Reader) -> None:
        self._site = site
        self._reader = reader
        self._reads = MAX_READS
        self._tensors: dict[int, tuple[Values, int, int, int]] = {}
        self._pages: dict[tuple[int, int], Values] = {}

    def get(self, number: int, index: int) -> int:
        values, size, low, high = self._tensors.get(number) or self._tensor(number)
        self._spend(index, 1, size)
        value = values.get(index)
        if not low <= value <= high:
            raise OutOfInterval("a value that the operator reads is outside of its interval")
        return value

    def row(self, number: int, start: int, count: int) -> Sequence[int]:
        values, size, low, high = self._tensors.get(number) or self._tensor(number)
        self._spend(start, count, size)
        return _inside(values.row(start, count), low, high)

    def cached(self, number: int, position: int, start: int, count: int) -> Sequence[int]:
        source = self._site.operator.inputs[number]
        if not 0 <= position <= self._site.step:
            raise Undefined("a position that is not in the cache")
        page, row = divmod(position, PAGE)
        values = self._pages.get((number, page)) or self._page(number, page)
        width = source.shape[0] if transposed(self._site.operator) else source.shape[1]
        self._spend(start, count, width)
        if not transposed(self._site.operator):
            return _inside(values.row(row * width + start, count), source.low, source.high)
        found = [values.get(at * PAGE + row) for at in range(start, start + count)]
        return _inside(found, source.low, source.high)

    def claimed(self, index: int) -> int:
        layout = self._site.layout
        self._spend(index, 1, layout.size)
        return self._reader.run(self._site.slot, layout).get(index)

    def _tensor(self, number: int) -> tuple[Values, int, int, int]:
        source = self._site.operator.inputs[number]
        layout = self._site.layout_of(source)
        slot = None if source.origin == CONSTANT else self._site.slot_of(source)
        values: Values
        if source.origin == CONSTANT:
            values = self._reader.constant(source.id, layout)
        elif slot is None:
            values = _Zeros()
        else:
            values = self._reader.run(slot, layout)
        found = self._tensors[number] = values, layout.size, source.low, source.high
        return found

    def _page(self, number: int, page: int) -> Values:
        source = self._site.operator.inputs[number]
        slot = self._site.page_slot(source, page * PAGE)
        values = self._pages[number, page] = self._reader.run(slot, self._site.layout_of(source))
        return values

    def _spend(self, start: int, count: int, size: int) -> None:
        if start < 0 or count < 0 or start + count > size:
            raise Undefined("a value outside of its tensor")
        self._reads -= count
        if self._reads < 0:
            raise Undefined("more values than an element may read")


def transposed(operator: Operator) -> bool:
    """Whether the pages that an operator reads are transposed: those of `mix` are."""
    return operator.kind == "mix"


def _inside(values: Sequence[int], low: int, high: int) -> Sequence[int]:
    if values and (min(values) < low or max(values) > high):
        raise OutOfInterval("a value that the operator reads is outside of its interval")
    return values
