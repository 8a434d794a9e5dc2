"""Where the tensors lie that one operator reads at one step: the wiring of a run, as referee, prover and watcher all see it.

Rules:
1. An operator's own output is in the leaf step · leaves + rank, if it has one. A source from this step is in its producer's leaf of this
   step, one from the previous step in that of the step before; before the first step there is none, and its values are zero. What has no
   leaf is computed (reading.py).
2. A cache's row of position p is in the page that its `append` gave at step min(step, p | 63): the last one that holds the row.
   A page is [64, W], and row p is its row p mod 64; a transposed page is [W, 64], and row p is its column p mod 64.
3. A program input is one tensor over all steps, in its own slot; constants have numbers instead of slots.

Pure: no clock, no input or output, integers and bytes only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from avow.exact.hashing import CHUNK, INPUT_SLOT
from avow.exact.program import CACHE, CONSTANT, INPUT, NO_LEAF, PREVIOUS, Head, Operator, Source, Tensor
from avow.exact.tensors import WIDTHS, size_of

PAGE = 64
"""Positions in a page of a cache."""


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
        """Of the operator's own output, which has a leaf."""
        return self.step * self.head.leaves + self.operator.leaf

    @property
    def layout(self) -> Layout:
        """Of the operator's own output."""
        return Layout(self.operator.type, size_of(self.operator.shape, self.step + 1))

    @property
    def runs(self) -> bool:
        """Whether the operator runs at this step: phase 1 begins with the prompt's last token."""
        return self.operator.phase == 0 or self.step >= self.prompt - 1

    def slot_of(self, source: Source) -> int | None:
        """Where the tensor of a source with a leaf, or of a program input, lies; None for the zeros before the first step."""
        if source.origin == INPUT:
            return INPUT_SLOT + source.id
        if source.origin == PREVIOUS:
            return (self.step - 1) * self.head.leaves + source.leaf if self.step else None
        return self.step * self.head.leaves + source.leaf

    def layout_of(self, source: Source) -> Layout:
        """Of a source's whole tensor; of a cache, of one page."""
        if source.origin == INPUT:
            return input_layout(
                self.head, Tensor(source.type, source.shape, source.low, source.high), self.steps, self.prompt
            )
        return Layout(source.type, size_of(source.shape, self.step + 1))

    def page_slot(self, source: Source, position: int) -> int:
        """Where the row of `position` lies, in the pages of a cache that has leaves; 0 ≤ position ≤ step."""
        return min(self.step, position | (PAGE - 1)) * self.head.leaves + source.leaf

    def pages(self, source: Source) -> Iterator[int]:
        """The slots of all pages that a cache has at this step."""
        return (self.page_slot(source, position) for position in range(0, self.step + 1, PAGE))

    def of(self, number: int, operator: Operator, step: int | None = None) -> "Site":
        """Another operator's, of the same run; at this step, or at another."""
        return replace(self, number=number, operator=operator, step=self.step if step is None else step)

    def layout_at(self, slot: int) -> Layout | None:
        """Of the tensor in a slot, if it is the operator's own or one that it can read; else None."""
        if slot >= INPUT_SLOT:
            for source in self.operator.inputs:
                if source.origin == INPUT and INPUT_SLOT + source.id == slot:
                    return self.layout_of(source)
            return None
        if not self.head.leaves:
            return None
        step, rank = divmod(slot, self.head.leaves)
        if rank == self.operator.leaf and step == self.step:
            return self.layout
        for source in self.operator.inputs:
            if source.leaf == rank and self._reads_at(source, step, slot):
                return Layout(source.type, size_of(source.shape, step + 1))
        return None

    def _reads_at(self, source: Source, step: int, slot: int) -> bool:
        """Whether the operator may read a source with a leaf at a step; an `append` without one is asked for any row so far."""
        if source.origin == CACHE:
            return step <= self.step and self.page_slot(source, step) == slot
        if self.operator.kind == "append" and self.operator.leaf == NO_LEAF:
            return source.origin != PREVIOUS and step <= self.step
        return step == self.step - (source.origin == PREVIOUS)

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
