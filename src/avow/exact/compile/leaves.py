"""Which operators get a leaf in the trace: as few bytes hashed as the bounds of cones allow (specification/cones.py).

Rules:
1. What has to have a leaf has one: choices, `token`, what is read at the previous step, rows and transposed pages of caches.
2. The others lose theirs one after the other, the dearest first, where every cone that grows by it stays within the bounds.
3. A leaf that could not go so goes where others come back in its stead that are cheaper together: what it is computed from, or what
   reads it.
4. The price of a leaf is the SHA-256 blocks that its tensor and its place in the trace's tree take; ties go in the program's order, and
   against it, and the cheaper of the two outcomes is taken.
The choice is a function of the program alone. It changes no value; whoever loads the program proves the bounds again.
"""

from collections.abc import Iterable, Sequence
from functools import cache

from avow.exact.hashing import CHUNK
from avow.exact.program import CACHE, OPERATOR, PREVIOUS, Operator, Program
from avow.exact.specification import KINDS
from avow.exact.specification.cones import Cones
from avow.exact.tensors import WIDTHS, size_of

TYPICAL_POSITIONS = 256
"""What −1 in a shape counts for when a tensor is priced."""
BLOCK = 64
PLACE = 3
"""Blocks of a leaf in the trace's tree: its own, and a node's."""


def price(operator: Operator, context: int) -> int:
    """Rule 4's blocks of one leaf."""
    return blocks_of(size_of(operator.shape, min(context, TYPICAL_POSITIONS)) * WIDTHS[operator.type]) + PLACE


def blocks_of(length: int) -> int:
    """The SHA-256 blocks of a tensor's chunks, salts and tree, and of its digest."""
    whole, rest = divmod(length, CHUNK)
    chunks = whole + bool(rest)
    # Salt and chunk, padded; a salt's block serves two chunks; a tree over n chunks has n − 1 nodes of two blocks.
    hashed = whole * _padded(17 + CHUNK) + (_padded(17 + rest) if rest else 0)
    return hashed + (chunks + 1) // 2 + 2 * (chunks - 1) + 1


def _padded(length: int) -> int:
    return (length + 8) // BLOCK + 1


def choose(program: Program) -> frozenset[int]:
    """The operators that get a leaf."""
    found = [_Choice(program, forward).made() for forward in (True, False)]
    return min(found, key=lambda leaves: (_total(program, leaves), sorted(leaves)))


def with_leaves(program: Program) -> Program:
    """The program with the leaves that `choose` gives it. Raises BadProgram, TooLarge."""
    return Program.build(
        name=program.name, mode=program.mode, context=program.context, inputs=program.inputs, constants=program.constants,
        operators=program.operators, outputs=program.outputs, end=program.end, token=program.token, notes=program.notes,
        leaves=choose(program),
    )  # fmt: skip


def _total(program: Program, leaves: Iterable[int]) -> int:
    return sum(price(program.operators[number], program.context) for number in leaves)


def _needed(program: Program) -> set[int]:
    """Rule 1."""
    needed = {number for number, operator in enumerate(program.operators) if KINDS[operator.kind].refute is not None}
    if program.token >= 0:
        needed |= {program.token}
    for number, operator in enumerate(program.operators):
        for source in operator.inputs:
            if (
                (source.origin == PREVIOUS and source.id != number)
                or (source.origin == CACHE and program.operators[source.id].integer("transposed"))
                or (source.origin == OPERATOR and program.operators[source.id].kind == "append")
            ):
                needed.add(source.id)
        if operator.kind == "append":
            needed.add(operator.inputs[0].id)
    return needed


class _Choice:
    """Rules 2 and 3 over one program."""

    def __init__(self, program: Program, forward: bool) -> None:
        self._operators: Sequence[Operator] = program.operators
        self._context = program.context
        self._forward = forward
        self._needed = _needed(program)
        self._leaves = set(range(len(program.operators)))
        self._outputs = frozenset(program.outputs)
        self._readers: list[list[int]] = [[] for _ in program.operators]
        for number, operator in enumerate(program.operators):
            for source in operator.inputs:
                if source.origin in (OPERATOR, CACHE) and number not in self._readers[source.id]:
                    self._readers[source.id].append(number)
        self._cones = Cones(
            program.head, program.operators, lambda operator, context: KINDS[operator.kind].reads(operator, context),
            lambda number: number in self._leaves, len(program.operators),
        )  # fmt: skip
        self._price = cache(lambda number: price(program.operators[number], program.context))

    def made(self) -> frozenset[int]:
        for number in self._order():
            self._try_without([number], [])
        while self._improve():
            pass
        return frozenset(self._leaves)

    def _order(self) -> list[int]:
        """The leaves that may go, the dearest first."""
        sign = 1 if self._forward else -1
        return sorted(self._leaves - self._needed, key=lambda number: (-self._price(number), sign * number))

    def _improve(self) -> bool:
        """Rule 3: whether a leaf went for cheaper ones."""
        for number in self._order():
            behind = [each.id for each in self._operators[number].inputs if each.origin == OPERATOR]
            for others in (self._missing(behind), self._missing(self._readers[number])):
                if (
                    others
                    and self._price(number) > sum(map(self._price, others))
                    and self._try_without([number], others)
                ):
                    # What came back may let others go.
                    for each in self._order():
                        self._try_without([each], [])
                    return True
        return False

    def _missing(self, numbers: Iterable[int]) -> list[int]:
        return [number for number in numbers if number not in self._leaves]

    def _try_without(self, gone: list[int], back: list[int]) -> bool:
        """Take leaves away, and give others back, if all cones are within the bounds then."""
        before = set(self._leaves)
        self._leaves -= set(gone)
        self._leaves |= set(back)
        roots = {root for number in (*gone, *back) for root in self._roots(number)} | set(back)
        if all(self._cones.of(root).refusal() is None for root in sorted(roots)):
            return True
        self._leaves = before
        return False

    def _roots(self, number: int) -> set[int]:
        """The roots whose cones an operator without a leaf is in."""
        found: set[int] = set()
        pending, seen = [number], {number}
        while pending:
            at = pending.pop()
            if at in self._leaves or at in self._outputs:
                found.add(at)
            if at in self._leaves and at != number:
                continue
            for reader in self._readers[at]:
                if reader not in seen:
                    seen.add(reader)
                    pending.append(reader)
        return found
