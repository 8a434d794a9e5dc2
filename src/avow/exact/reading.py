"""Reading a run value by value, as element functions do: out of opened tensors, and computed where an operator has no leaf.

Rules:
1. A value that is read is inside of its source's interval; one that is not is its producer's fault, not the reader's.
2. A value of an operator without a leaf is what its element function gives, read in the same way, once for each index, and a run of
   them at a time where the kind knows how (specification/lines.py). It is inside of its operator's interval.
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
from avow.exact.specification.cones import ELEMENT, LINE, MAX_WORK
from avow.exact.specification.lines import LINES, WHOLE, width_of
from avow.exact.specification.openings import MAX_VALUES
from avow.exact.tensors import WIDTHS, Buffer, unpack

MOST_RUNS = 4
"""Runs that are partly known already are computed in parts: at most so many times as many as specification/cones.py counts."""
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

    def pick(self, indices: Sequence[int]) -> Sequence[int]:
        """The values at these indices."""
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

    def __init__(self, kind: str, chunk: Callable[[int], Buffer], size: int = CHUNK) -> None:
        """`chunk` gives a chunk's bytes, without salt; `size`: of a whole one."""
        self._type = kind
        self._per_chunk = size // WIDTHS[kind]
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

    def pick(self, indices: Sequence[int]) -> Sequence[int]:
        per_chunk, touched = self._per_chunk, self.touched
        return [
            (touched.get(index // per_chunk) or self._touch(index // per_chunk))[index % per_chunk] for index in indices
        ]

    def _touch(self, number: int) -> Sequence[int]:
        values = self.touched[number] = unpack(self._type, self._chunk(number))
        return values


class _Zeros:
    """A tensor of the step before the first."""

    def get(self, index: int) -> int:  # noqa: ARG002
        return 0

    def row(self, start: int, count: int) -> Sequence[int]:  # noqa: ARG002
        return (0,) * count

    def pick(self, indices: Sequence[int]) -> Sequence[int]:
        return (0,) * len(indices)


class OutOfInterval(NotOpened):
    """A value that an operator reads is outside of its source's interval (rule 1)."""

    code = "out_of_interval"


class Reading:
    """All that one element reads and computes: the budget of rule 4, and what was computed already."""

    def __init__(self, reader: Reader, parameters: Parameters) -> None:
        self.reader = reader
        self.parameters = parameters
        self._reads = MAX_READS
        self._work = MOST_RUNS * MAX_WORK
        self._computed: dict[tuple[int, int], Computed] = {}
        self._appended: dict[tuple[int, int], Values] = {}

    def element(self, site: Site, index: int) -> int:
        """The value that the site's operator gives at a flat index. Raises NotOpened, Undefined."""
        return KINDS[site.operator.kind].element(site.operator, self.cells(site), index, self.step(site))

    def refutes(self, site: Site, claimed: int, index: int, witness: int) -> bool:
        """Whether a witness shows that the site's operator, a choice, does not give `claimed`. Raises NotOpened, Undefined."""
        refute = KINDS[site.operator.kind].refute
        return refute is not None and refute(site.operator, self.cells(site), claimed, index, witness, self.step(site))

    def cells(self, site: Site) -> "SiteCells":
        """What the element function of a site's operator reads."""
        return SiteCells(site, self)

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

    def appended(self, append: Site, position: int) -> Values:
        """The row that an `append` without a leaf was given at a position (rule 3)."""
        found = self._appended.get((append.number, position))
        if found is None:
            row = append.operator.inputs[0]
            if row.leaf == NO_LEAF or append.operator.kind != "append":
                raise Undefined("a row of a cache has no leaf")
            slot = position * append.head.leaves + row.leaf
            found = self._appended[append.number, position] = self.reader.run(slot, append.layout_of(row))
        return found

    def spend(self, count: int, work: int = 0) -> None:
        """`count` values that are not computed, and work as specification/cones.py has it."""
        self._reads -= count
        self._work -= work
        if self._reads < 0 or self._work < 0:
            raise Undefined("more than an element may read or compute")


class Computed:
    """The output of an operator without a leaf, at one step (rule 2)."""

    __slots__ = ("_cells", "_interval", "_known", "_line", "_reading", "_shared", "_step", "_width", "site")

    def __init__(self, reading: Reading, site: Site) -> None:
        self.site = site
        operator = site.operator
        self._reading = reading
        self._cells = SiteCells(site, reading)
        self._step = reading.step(site)
        self._line = LINES.get(operator.kind)
        self._width = width_of(operator, self._step.positions)
        self._interval = operator.low, operator.high
        self._known: dict[int, int] = {}
        self._shared: dict[int, object] = {}

    def get(self, index: int) -> int:
        found = self._known.get(index)
        return self.row(index, 1)[0] if found is None else found

    def row(self, start: int, count: int) -> Sequence[int]:
        return self.pick(range(start, start + count))

    def pick(self, indices: Sequence[int]) -> Sequence[int]:
        known = self._known
        missing = [index for index in indices if index not in known]
        if missing:
            for run in self._runs(missing):
                known.update(zip(run, self._run(run), strict=True))
        return [known[index] for index in indices]

    def _runs(self, missing: Sequence[int]) -> list[Sequence[int]]:
        """Indices as runs that each lie in one line."""
        if len(missing) > 1:
            missing = sorted(set(missing))
        if self._width == WHOLE or len(missing) == 1:
            return [missing]
        found: list[Sequence[int]] = []
        start, end, line = missing[0], missing[0], missing[0] // self._width
        for index in missing:
            if index != end or index // self._width != line:
                found.append(range(start, end))
                start, line = index, index // self._width
            end = index + 1
        found.append(range(start, end))
        return found

    def _run(self, run: Sequence[int]) -> Sequence[int]:
        """Values of one line."""
        start = run[0]
        self._reading.spend(0, LINE + len(run) * ELEMENT)
        operator, line = self.site.operator, self._line
        if line is None:
            element = KINDS[operator.kind].element
            return _within([element(operator, self._cells, index, self._step) for index in run], *self._interval)
        number = start // self._width
        if number in self._shared:
            shared = self._shared[number]
        else:
            shared = self._shared[number] = line.shared(operator, self._cells, number, self._step)
        return _within(line.values(operator, self._cells, run, self._step, shared), *self._interval)


class SiteCells:
    """The values of a site's operator as its element function reads them (specification/cells.py)."""

    __slots__ = ("_pages", "_reader", "_reading", "_site", "_tensors")

    def __init__(self, site: Site, reading: Reading) -> None:
        self._site = site
        self._reading = reading
        self._reader = reading.reader
        self._tensors: dict[int, _Tensor] = {}
        self._pages: dict[tuple[int, int], Values] = {}

    def get(self, number: int, index: int) -> int:
        values, size, low, high = self._tensors.get(number) or self._tensor(number)
        if not 0 <= index < size:
            raise Undefined("a value outside of its tensor")
        if isinstance(values, Computed):
            return values.get(index)
        self._reading.spend(1)
        value = values.get(index)
        if not low <= value <= high:
            raise OutOfInterval("a value that the operator reads is outside of its interval")
        return value

    def row(self, number: int, start: int, count: int) -> Sequence[int]:
        values, size, low, high = self._tensors.get(number) or self._tensor(number)
        if start < 0 or count < 0 or start + count > size:
            raise Undefined("a value outside of its tensor")
        if isinstance(values, Computed):
            return values.row(start, count)
        self._reading.spend(count)
        return _within(values.row(start, count), low, high)

    def pick(self, number: int, indices: Sequence[int]) -> Sequence[int]:
        values, size, low, high = self._tensors.get(number) or self._tensor(number)
        if indices and (min(indices) < 0 or max(indices) >= size):
            raise Undefined("a value outside of its tensor")
        if isinstance(values, Computed):
            return values.pick(indices)
        self._reading.spend(len(indices))
        return _within(values.pick(indices), low, high)

    def cached(self, number: int, position: int, start: int, count: int) -> Sequence[int]:
        source = self._site.operator.inputs[number]
        width = source.shape[1]
        if not 0 <= position <= self._site.step or start < 0 or count < 0 or start + count > width:
            raise Undefined("a position that is not in the cache, or a value outside of its row")
        self._reading.spend(count)
        if source.leaf == NO_LEAF:
            append = self._reading.computed(self._site, source, self._site.step).site
            return _within(self._reading.appended(append, position).row(start, count), source.low, source.high)
        page, row = divmod(position, PAGE)
        values = self._pages.get((number, page)) or self._page(number, page)
        return _within(values.row(row * width + start, count), source.low, source.high)

    def column(self, number: int, column: int) -> Sequence[int]:
        source, positions = self._site.operator.inputs[number], self._site.step + 1
        if not 0 <= column < source.shape[0] or source.leaf == NO_LEAF:
            raise Undefined("a value outside of its row")
        self._reading.spend(positions)
        found: list[int] = []
        for page in range(0, positions, PAGE):
            values = self._pages.get((number, page // PAGE)) or self._page(number, page // PAGE)
            found += values.row(column * PAGE, min(PAGE, positions - page))
        return _within(found, source.low, source.high)

    def claimed(self, index: int) -> int:
        layout = self._site.layout
        if not 0 <= index < layout.size:
            raise Undefined("a value outside of its tensor")
        self._reading.spend(1)
        return self._reader.run(self._site.slot, layout).get(index)

    def _tensor(self, number: int) -> "_Tensor":
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


_Tensor = tuple[Values, int, int, int]
"""Values, how many, and the interval of the source."""


def _within(values: Sequence[int], low: int, high: int) -> Sequence[int]:
    if values and (min(values) < low or max(values) > high):
        raise OutOfInterval("a value that the operator reads is outside of its interval")
    return values
