"""A case's misfortunes are its own: what goes wrong with one is told, kept, and tried again later, while the others go on.

Rules:
1. What a node or a chain does not give (AvowError) is tried again with growing pauses; it is a line in the log.
2. Any other exception is an error of the watcher itself. It is logged with its traceback and its case, and counted in the journal, so that
   `avow watch --status`, `avow status` and the report at the end show it. It is tried again in the same way.
3. A check is noted in the journal before it begins, and the note is taken away when it ends. What ended the whole process in the middle of
   CRASHES checks is not checked again.
"""

import logging
import sqlite3
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from avow.errors import AvowError
from avow.nodes.watcher.journal import Journal

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.3
LONGEST_RETRY_S = 5.0
CRASHES = 5
HOPELESS = 5
"""A run that is to end (`--once`) gives up what failed so often by an error of the watcher's own."""
_MAX_DETAIL = 300


@dataclass(slots=True)
class _Setback:
    """How often something failed in a row, by the watcher's own errors, and when it is tried again (monotonic seconds)."""

    count: int = 0
    own: int = 0
    not_before: float = 0.0


def describe(error: BaseException) -> str:
    """The exception's name, its text and the innermost line of it, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rpartition('avow/')[2]}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:_MAX_DETAIL]
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


class Faults:
    """Rules 1 to 3 for one watcher. `clock`: monotonic seconds."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._setbacks: dict[bytes, _Setback] = {}
        self.own = 0
        """The watcher's own errors since it started."""

    def is_due(self, subject: bytes) -> bool:
        setback = self._setbacks.get(subject)
        return setback is None or self._clock() >= setback.not_before

    def count(self, subject: bytes) -> int:
        """How often it failed in a row."""
        setback = self._setbacks.get(subject)
        return 0 if setback is None else setback.count

    def is_hopeless(self, subject: bytes) -> bool:
        setback = self._setbacks.get(subject)
        return setback is not None and setback.own >= HOPELESS

    def over(self, subject: bytes) -> None:
        """It went well."""
        self._setbacks.pop(subject, None)

    def failed(self, subject: bytes, error: Exception, what: str) -> float:
        """Rules 1 and 2; the pause in seconds. `subject`: a statement, or what else is tried again; `what` says it in the log."""
        setback = self._setbacks.setdefault(subject, _Setback())
        pause_s = float(min(FIRST_RETRY_S * 2 ** min(setback.count, 10), LONGEST_RETRY_S))
        setback.count += 1
        setback.not_before = self._clock() + pause_s
        if isinstance(error, AvowError):
            log.warning("%s is tried again in %.1f s: %s", what, pause_s, error.detail)
            return pause_s
        setback.own += 1
        self.own += 1
        log.error("an error of the watcher itself; %s is tried again in %.1f s", what, pause_s, exc_info=error)
        try:
            self._journal.record_fault(subject, describe(error), time.time_ns() // 1_000_000)
        except sqlite3.Error as refused:  # a full disk: the log has it
            log.error("the journal does not take it: %s", refused)  # noqa: TRY400 - the traceback is above
        return pause_s
