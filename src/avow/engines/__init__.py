"""Running a program: one interface over the engines. `load` is the way in."""

from avow.engines.interface import Engine, load

__all__ = ["Engine", "load"]
