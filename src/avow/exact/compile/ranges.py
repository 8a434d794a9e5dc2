"""The ranges of a float model's values, as small text: with the model's bytes they determine the exact program."""

import json
from dataclasses import dataclass, field

import numpy as np

from avow.exact.compile.errors import CannotCompile

MAX_RANGES_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Range:
    """What a value was seen to be; `clip` bounds its absolute value best for eight bits."""

    low: float
    high: float
    clip: float

    @property
    def magnitude(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass(slots=True)
class Ranges:
    """Ranges by the float model's names of its values."""

    values: dict[str, Range] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line a value; numbers of six digits, which is what there is to know of a range."""
        rows = (
            f"{json.dumps(name)}: {json.dumps([each.low, each.high, each.clip])}"
            for name, each in sorted(self.values.items())
        )
        return "{\n" + ",\n".join(rows) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "Ranges":
        """The inverse. Raises CannotCompile."""
        if len(text) > MAX_RANGES_BYTES:
            raise CannotCompile("the ranges are too large", limit=MAX_RANGES_BYTES)
        try:
            rows = json.loads(text)
            values = {
                str(name): Range(*(float(number) for number in row)) for name, row in rows.items() if len(row) == 3
            }
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CannotCompile("these are not ranges: a JSON object of [low, high, clip]") from error
        if len(values) != len(rows) or not all(
            np.isfinite([each.low, each.high, each.clip]).all() and each.low <= each.high for each in values.values()
        ):
            raise CannotCompile("a range is not three numbers in order")
        return cls(values)
