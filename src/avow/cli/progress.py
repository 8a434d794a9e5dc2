"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere, nothing with --json."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from avow.cli.frame import say

Progress = Callable[[int, int | None, str], None]
"""Called with bytes done, bytes in all (None: not known), and what is being done."""

_LINE_EVERY_S = 5.0


def _silent(_done: int, _total: int | None, _label: str) -> None:
    return


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """A progress callback for as long as the block runs."""
    if quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _bar() as callback:
            yield callback
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def callback(done: int, total: int | None, label: str) -> None:
            bar.update(task, completed=done, total=total, description=label[:60])

        yield callback


class _Lines:
    """A line when the work changes, and one every few seconds."""

    def __init__(self) -> None:
        self._label = ""
        self._next = 0.0

    def __call__(self, done: int, total: int | None, label: str) -> None:
        now = time.monotonic()
        if label == self._label and now < self._next:
            return
        self._label, self._next = label, now + _LINE_EVERY_S
        if total or done:
            label += f": {100 * done // total} %" if total else f": {done // 1_000_000} MB"
        say(label)
