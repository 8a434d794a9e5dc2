"""What keeps a model from becoming an exact program."""

from collections.abc import Sequence

from avow.errors import InputError


class UnsupportedOperators(InputError):
    """Operators that have no exact meaning here, each with its place in the graph; found before any other work."""

    code = "unsupported_operators"

    def __init__(self, places: Sequence[str]) -> None:
        shown = "; ".join(places[:16]) + (f"; and {len(places) - 16} more" if len(places) > 16 else "")
        super().__init__(f"operators that cannot be compiled: {shown}", count=len(places))
        self.places = tuple(places)


class CannotCompile(InputError):
    """The model, or what was asked for, does not fit into the language: shapes, ranges, bounds or data."""

    code = "cannot_compile"
