"""Engine options out of a manifest: typed, bounded, nothing unknown."""

import re
from collections.abc import Mapping

from avow.engines.errors import InvalidOptions
from avow.receipt.encoding import Value

_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?")


class Options:
    """Takes options out one by one; `end` refuses those that nobody took. Every method raises InvalidOptions."""

    def __init__(self, values: Mapping[str, Value], engine: str) -> None:
        self._left = dict(values)
        self._engine = engine

    def text(self, name: str, default: str | None = None, *, among: tuple[str, ...] = ()) -> str:
        value = self._left.pop(name, default)
        if not isinstance(value, str) or (among and value not in among):
            raise self._bad(name, f"one of {', '.join(among)}" if among else "a text")
        return value

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        value = self._left.pop(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self._bad(name, f"an integer from {least} to {most}")
        return value

    def truth(self, name: str, default: bool) -> bool:
        value = self._left.pop(name, default)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def decimal(self, name: str, default: str, least: float, most: float) -> float:
        """A number given as decimal text or integer."""
        value = self._left.pop(name, default)
        text = str(value) if type(value) is int else value
        if not isinstance(text, str) or not _DECIMAL.fullmatch(text) or not least <= float(text) <= most:
            raise self._bad(name, f"a decimal number from {least} to {most}, as text")
        return float(text)

    def section(self, name: str) -> "Options":
        value = self._left.pop(name, {})
        if not isinstance(value, dict):
            raise self._bad(name, "a map")
        return Options(value, self._engine)

    def end(self) -> None:
        if self._left:
            raise self._bad(min(self._left), "not given: this engine does not know it")

    def _bad(self, name: str, wanted: str) -> InvalidOptions:
        return InvalidOptions(f"option {name[:64]} must be {wanted}", engine=self._engine, option=name[:64])
