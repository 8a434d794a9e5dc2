"""Reading a run value by value, as element functions do: out of opened tensors, and computed where an operator has no leaf.

Rules:
1. A value that is read is inside of its source's interval; one that is not is its producer's fault, not the reader's.
2. A value of an operator without a leaf is what its element function gives, read in the same way, once for each index.
3. A row of a cache without pages is what its `append` was given at the row's step.
4. An operator that is computed comes earlier in the program than the one that reads it, and is what the reader's source says: so
   it ends, whatever records a stranger made. How much is read and computed for one element is limited.

Pure: no clock, no input or output, integers and bytes only.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from avow.exact.errors import NotOpened, Undefined
from avow.exact.hashing import CHUNK
from avow.exact.program import CONSTANT, INPUT, NO_LEAF, OPERATOR, Operator, Source
from avow.exact.sites import PAGE, Layout, Site
from avow.exact.specification import KINDS, Parameters, Step
from avow.exact.specification.cones import ELEMENT, MAX_WORK, VALUES
from avow.exact.specification.openings import MAX_VALUES
from avow.exact.tensors import WIDTHS, Buffer, unpack

MAX_READS = MAX_VALUES + 1_024
"""Values that one element may read, not counting those that are computed. What is beyond the specification's bound are a choice's own
earlier values, at most 255."""


class Values(Protocol):
    """One tensor's values by flat index, inside of the tensor. Raises NotOpened for what is not at hand."""

    def get(self, index: int) -> int:
        """One value."""
        ...

    def row(self, start: int, count: int) -> Sequence[int]:
        """`count` values from `start` on."""
        ...


class Reader(Protocol):
    """The tensors of a run, and its program. Raises NotOpened for what is not at hand."""

    def run(self, slot: int, layout: Layout) -> Values:
        """The tensor in a slot."""
        ...

    def constant(self, number: int, layout: Layout) -> Values:
        """A constant."""
        ...

    def operator(self, number: int) -> Operator:
        """The record of an operator without a leaf, of which `check_form` has been run. Raises NotOpened."""
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
    """A value that an operator reads is outside of its source's interval (rule 1)."""

    code = "out_of_interval"


class Reading:
    """All that one element reads and computes: the budget of rule 4, and what was computed already."""

    def __init__(self, reader: Reader, parameters: Parameters) -> None:
        self.reader = reader
        self.parameters = parameters
        self._reads = MAX_READS
        self._work = (MAX_WORK + ELEMENT) * VALUES
        self._computed: dict[tuple[int, int], Computed] = {}

    def element(self, site: Site, index: int) -> int:
        """The value that the site's operator gives at a flat index. Raises NotOpened, Undefined."""
        return KINDS[site.operator.kind].element(site.operator, self.cells(site), index, self.step(site))

    def refutes(self, site: Site, claimed: int, index: int, witness: int) -> bool:
        """Whether a witness shows that the site's operator, a choice, does not give `claimed`. Raises NotOpened, Undefined."""
        refute = KINDS[site.operator.kind].refute
        return refute is not None and refute(site.operator, self.cells(site), claimed, index, witness, self.step(site))

    def cells(self, site: Site) -> "SiteCells":
        """What the element function of a site's operator reads."""
        return SiteCells(site, self, inside=False)

    def step(self, site: Site) -> Step:
        return Step(site.step, site.prompt, self.parameters)

    def computed(self, site: Site, source: Source, step: int) -> "Computed":
        """The values of a source without a leaf, which the site's operator reads (rule 4)."""
        found = self._computed.get((step, source.id))
        if found is None:
            operator = self.reader.operator(source.id)
            found = self._computed[step, source.id] = Computed(self, site.of(source.id, operator, step))
        if source.id >= site.number or found.site.operator.source(source.origin, source.id) != source:
            raise Undefined("the source is not what its operator gives, or comes later")
        return found

    def spend(self, count: int, work: int = 0) -> None:
        """`count` values that are not computed, and work in VALUESths of specification/cones.py's."""
        self._reads -= count
        self._work -= work
        if self._reads < 0 or self._work < 0:
            raise Undefined("more than an element may read or compute")


class Computed:
    """The output of an operator without a leaf, at one step (rule 2)."""

    __slots__ = ("_cells", "_element", "_known", "_reading", "_step", "site")

    def __init__(self, reading: Reading, site: Site) -> None:
        self.site = site
        self._reading = reading
        self._cells = SiteCells(site, reading, inside=True)
        self._element = KINDS[site.operator.kind].element
        self._step = reading.step(site)
        self._known: dict[int, int] = {}

    def get(self, index: int) -> int:
        found = self._known.get(index)
        if found is None:
            self._reading.spend(0, ELEMENT * VALUES)
            found = self._known[index] = self._element(self.site.operator, self._cells, index, self._step)
        return found

    def row(self, start: int, count: int) -> Sequence[int]:
        return [self.get(index) for index in range(start, start + count)]

    def appended(self, start: int, count: int) -> Sequence[int]:
        """Of an `append`: what it was given at its step (rule 3)."""
        return self._cells.row(0, start, count)


class SiteCells:
    """The values of a site's operator as its element function reads them (specification/cells.py)."""

    __slots__ = ("_call", "_inside", "_pages", "_reader", "_reading", "_site", "_tensors")

    def __init__(self, site: Site, reading: Reading, *, inside: bool) -> None:
        """`inside`: the operator has no leaf, so that what it reads is work."""
        self._site = site
        self._reading = reading
        self._reader = reading.reader
        self._inside = inside
        self._call = VALUES + 1 if inside else 0
        self._tensors: dict[int, tuple[Values, int, int, int]] = {}
        self._pages: dict[tuple[int, int], Values] = {}

    def get(self, number: int, index: int) -> int:
        values, size, low, high = self._tensors.get(number) or self._tensor(number)
        if not 0 <= index < size:
            raise Undefined("a value outside of its tensor")
        self._reading.spend(values.__class__ is not Computed, self._call)
        value = values.get(index)
        if not low <= value <= high:
            raise OutOfInterval("a value that the operator reads is outside of its interval")
        return value

    def row(self, number: int, start: int, count: int) -> Sequence[int]:
        values, size, low, high = self._tensors.get(number) or self._tensor(number)
        self._spend(start, count, size, values)
        return _within(values.row(start, count), low, high)

    def cached(self, number: int, position: int, start: int, count: int) -> Sequence[int]:
        source = self._site.operator.inputs[number]
        if not 0 <= position <= self._site.step:
            raise Undefined("a position that is not in the cache")
        width = source.shape[0] if transposed(self._site.operator) else source.shape[1]
        self._spend(start, count, width)
        if source.leaf == NO_LEAF:
            return _within(
                self._reading.computed(self._site, source, position).appended(start, count), source.low, source.high
            )
        page, row = divmod(position, PAGE)
        values = self._pages.get((number, page)) or self._page(number, page)
        if not transposed(self._site.operator):
            return _within(values.row(row * width + start, count), source.low, source.high)
        found = [values.get(at * PAGE + row) for at in range(start, start + count)]
        return _within(found, source.low, source.high)

    def claimed(self, index: int) -> int:
        layout = self._site.layout
        self._spend(index, 1, layout.size)
        return self._reader.run(self._site.slot, layout).get(index)

    def _tensor(self, number: int) -> tuple[Values, int, int, int]:
        source = self._site.operator.inputs[number]
        layout = self._site.layout_of(source)
        found = self._tensors[number] = self._values(source, layout), layout.size, source.low, source.high
        return found

    def _values(self, source: Source, layout: Layout) -> Values:
        if source.origin == CONSTANT:
            return self._reader.constant(source.id, layout)
        if source.leaf == NO_LEAF and source.origin == OPERATOR:
            return self._reading.computed(self._site, source, self._site.step)
        if source.leaf == NO_LEAF and source.origin != INPUT:
            raise Undefined("what the previous step gave has no leaf")
        slot = self._site.slot_of(source)
        return _Zeros() if slot is None else self._reader.run(slot, layout)

    def _page(self, number: int, page: int) -> Values:
        source = self._site.operator.inputs[number]
        slot = self._site.page_slot(source, page * PAGE)
        values = self._pages[number, page] = self._reader.run(slot, self._site.layout_of(source))
        return values

    def _spend(self, start: int, count: int, size: int, values: Values | None = None) -> None:
        if start < 0 or count < 0 or start + count > size:
            raise Undefined("a value outside of its tensor")
        self._reading.spend(0 if isinstance(values, Computed) else count, VALUES + count if self._inside else 0)


def transposed(operator: Operator) -> bool:
    """Whether the pages that an operator reads are transposed: those of `mix` are."""
    return operator.kind == "mix"


def _within(values: Sequence[int], low: int, high: int) -> Sequence[int]:
    if values and (min(values) < low or max(values) > high):
        raise OutOfInterval("a value that the operator reads is outside of its interval")
    return values
