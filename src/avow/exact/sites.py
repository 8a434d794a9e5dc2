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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from avow.exact.errors import NotOpened
from avow.exact.hashing import CHUNK, INPUT_SLOT
from avow.exact.program import CACHE, CONSTANT, INPUT, PREVIOUS, Head, Operator, Source, Tensor
from avow.exact.tensors import WIDTHS, size_of

PAGE = 64
"""Positions in a page of a cache."""
MAX_READS = 1 << 17
"""Values that one element may read: twice what a proof can open at one byte each."""


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


class Reader(Protocol):
    """Values of whole tensors by flat index. Raises NotOpened for what is not at hand."""

    def run(self, slot: int, layout: Layout, start: int, count: int) -> Sequence[int]:
        """Of the tensor in a slot."""

    def constant(self, number: int, layout: Layout, start: int, count: int) -> Sequence[int]:
        """Of a constant."""


class OutOfInterval(NotOpened):
    """A value that an operator reads is outside of its source's interval (rule 4)."""

    code = "out_of_interval"


class SiteCells:
    """The values of a site's operator as its element function reads them (specification/cells.py), out of a reader."""

    def __init__(self, site: Site, reader: Reader) -> None:
        self._site = site
        self._reader = reader
        self._reads = MAX_READS

    def get(self, number: int, index: int) -> int:
        return self.row(number, index, 1)[0]

    def row(self, number: int, start: int, count: int) -> Sequence[int]:
        source = self._site.operator.inputs[number]
        layout = self._site.layout_of(source)
        self._spend(start, count, layout.size)
        if source.origin == CONSTANT:
            return _checked(source, self._reader.constant(source.id, layout, start, count))
        slot = self._site.slot_of(source)
        if slot is None:
            return (0,) * count
        return _checked(source, self._reader.run(slot, layout, start, count))

    def cached(self, number: int, position: int, start: int, count: int) -> Sequence[int]:
        site, source = self._site, self._site.operator.inputs[number]
        if not 0 <= position <= site.step:
            raise NotOpened("a position that is not in the cache")
        layout = site.layout_of(source)
        width, row = layout.size // PAGE, position % PAGE
        self._spend(start, count, width)
        slot = site.page_slot(source, position)
        if not transposed(site.operator, number):
            return _checked(source, self._reader.run(slot, layout, row * width + start, count))
        found = [self._reader.run(slot, layout, at * PAGE + row, 1)[0] for at in range(start, start + count)]
        return _checked(source, found)

    def claimed(self, index: int) -> int:
        layout = self._site.layout
        self._spend(index, 1, layout.size)
        return self._reader.run(self._site.slot, layout, index, 1)[0]

    def _spend(self, start: int, count: int, size: int) -> None:
        if start < 0 or count < 0 or start + count > size:
            raise NotOpened("a value outside of the tensor")
        if count > self._reads:
            raise NotOpened("more values than an element may read")
        self._reads -= count


def transposed(operator: Operator, number: int) -> bool:
    """Whether input `number`, a cache, has transposed pages: those of `mix` have."""
    return operator.kind == "mix" and operator.inputs[number].origin == CACHE


def _checked(source: Source, values: Sequence[int]) -> Sequence[int]:
    if values and (min(values) < source.low or max(values) > source.high):
        raise OutOfInterval("a value that the operator reads is outside of its interval")
    return values
