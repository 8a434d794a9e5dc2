"""Programs of the watcher's own store, ready to be run again: loaded when they are needed, a few kept."""

from collections import OrderedDict
from pathlib import Path
from typing import cast

from avow.engines.exact import load_program
from avow.engines.interface import TracedEngine
from avow.errors import InputError
from avow.models.errors import UnknownProgram
from avow.models.store import Store
from avow.nodes.loaded import Traced
from avow.nodes.programs import load_programs
from avow.nodes.watcher.check import Runnable
from avow.nodes.watcher.errors import ProgramMissing

KEPT = 4


class Programs:
    """Blocks while it loads: to be used in a worker."""

    def __init__(self, home: Path, *, threads: int = 1) -> None:
        self._home = home
        self._threads = threads
        self._loaded: OrderedDict[bytes, Runnable] = OrderedDict()

    def get(self, program: bytes) -> Runnable:
        """Raises ProgramMissing, and as the store and the engines do for a program that is damaged."""
        found = self._loaded.get(program)
        if found is None:
            found = self._loaded[program] = self._load(program)
        self._loaded.move_to_end(program)
        while len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)  # not closed: a check may be using it
        return found

    def close(self) -> None:
        while self._loaded:
            self._loaded.popitem()[1].engine.close()

    def _load(self, program: bytes) -> Runnable:
        try:
            stored = Store(self._home).get(program)
        except UnknownProgram:
            raise ProgramMissing(
                "the program is not in this store",
                hint="`avow model add` it: what cannot be run again cannot be checked",
                program=program.hex(),
            ) from None
        try:
            loaded = load_programs(self._home, [program.hex()], threads=self._threads, slots=1)[program]
            if not isinstance(loaded.engine, Traced):
                raise ProgramMissing("the program is not an exact one", program=program.hex())
            return Runnable(loaded, cast("TracedEngine", loaded.engine), load_program(stored))
        except InputError as error:
            raise ProgramMissing(
                f"the program in this store cannot be run: {error.detail}",
                hint="`avow model remove` and `avow model add` it again, if it is damaged",
                program=program.hex(),
            ) from error
