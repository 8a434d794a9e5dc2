"""What an operator's element function may see: the step, and single values of its inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a program that generates chooses tokens; part of the trace's header.

    A score is requantise(logit; temperature_m, temperature_s) + noise; temperature_m = 0 means the largest logit, without noise.
    0 ≤ temperature_m < 2^15, 1 ≤ temperature_s ≤ 45, 0 ≤ seed < 2^64, 1 ≤ max_tokens.
    """

    temperature_m: int = 0
    temperature_s: int = 1
    seed: int = 0
    max_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """Where in a run: step from 0, the number of the prompt's tokens (0 if the program does not generate), the parameters."""

    step: int
    prompt: int = 0
    parameters: Parameters = Parameters()

    @property
    def positions(self) -> int:
        """What −1 in a shape stands for."""
        return self.step + 1


class Cells(Protocol):
    """One operator's inputs at one step, by input number and flat index. Raises NotOpened for what is not at hand.

    A source at the previous step gives zeros at step 0. A source that is a program input is the whole run's tensor: step s reads the
    flat indices from s · size on. An index is outside of its tensor only where a value that the operator read led there; a Cells
    raises Undefined or NotOpened then.
    """

    def get(self, number: int, index: int) -> int:
        """One value of input `number`."""
        ...

    def row(self, number: int, start: int, count: int) -> Sequence[int]:
        """`count` values from a flat index on."""
        ...

    def pick(self, number: int, indices: Sequence[int]) -> Sequence[int]:
        """Values at these flat indices."""
        ...

    def cached(self, number: int, position: int, start: int, count: int) -> Sequence[int]:
        """Of a cache: `count` values from `start` on in the row of W values that was appended at `position`."""
        ...

    def column(self, number: int, column: int) -> Sequence[int]:
        """Of a cache whose pages are transposed: the value at `column` of the rows of all positions so far."""
        ...

    def claimed(self, index: int) -> int:
        """One value of the operator's own output as it was committed to; refutations alone read it."""
        ...
