"""A run as who committed to it answers for it (descent.py): header, leaves, and any tensor with its salts.

Nothing of a run need be kept but its seed and header: runs are exact, so tensors are had by running again (`OwnRun`).
"""

from collections.abc import Sequence
from typing import Protocol

from avow.exact import descent
from avow.exact.descent import Demand
from avow.exact.hashing import Salts, chunks


class OwnRun(Protocol):
    """One's own run, or a replay of it."""

    @property
    def leaves(self) -> Sequence[bytes]:
        """The digests of all leaves, ABSENT where an operator does not run."""
        ...

    def tensor(self, slot: int) -> bytes:
        """The bytes of the tensor in a slot: an operator's output at a step, a program input, a program output.

        Raises KeyError for a slot that holds none.
        """
        ...


class CommittedRun:
    """`descent.Committed` of an honest run."""

    def __init__(self, header: bytes, run: OwnRun, salts: Salts | bytes) -> None:
        """`salts`: or the seed that they come from."""
        self._header = header
        self._run = run
        self._salts = Salts.of(salts)

    def header(self) -> bytes:
        return self._header

    def key(self) -> bytes:
        return self._salts.key

    def leaves(self) -> Sequence[bytes]:
        return self._run.leaves

    def tensor(self, slot: int) -> tuple[int, Sequence[bytes]]:
        data = self._run.tensor(slot)
        return len(data), [self._salts.salt(slot, number) + chunk for number, chunk in enumerate(chunks(data))]

    def ask(self, demand: Demand) -> bytes | None:
        """The answer to a demand that `descent.check` has seen."""
        return descent.answer_to(demand, self)
