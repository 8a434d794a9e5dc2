"""The enclave's statements in the order of their numbers, whatever connection they were signed for.

A statement that was signed for a connection that is gone was never delivered. It is fetched from the enclave and kept as
void before any later one is stored, so the numbers on disk have no gap.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from avow.errors import AvowError
from avow.nodes.jobs import Signed
from avow.nodes.outbox import UNDELIVERED
from avow.nodes.outbox_rows import Entry

log = logging.getLogger(__name__)

_RETRY_S = 0.2

Store = Callable[[], None]
Fetch = Callable[[int], Awaitable[list[Signed]]]
"""The statements from a number on that the enclave keeps."""


class Intake:
    """One key's. `expected`: the first number that is not stored. `put` stores an entry whose answer nobody awaits."""

    def __init__(self, key_number: int, expected: int, fetch: Fetch, put: Callable[[Entry], None]) -> None:
        self._key_number = key_number
        self.expected = expected
        self._fetch = fetch
        self._put = put
        self._held: dict[int, Store] = {}
        self._task: asyncio.Task[None] | None = None

    def accept(self, number: int, store: Store) -> None:
        """Call `store` now, or after the missing numbers before it."""
        if number == self.expected and not self._held:
            self.expected += 1
            store()
            return
        self._held[number] = store
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._fill())

    async def catch_up(self) -> None:
        """Fetch what was signed and never stored. Raises what `fetch` raises."""
        self._take(await self._fetch(self.expected))

    async def _fill(self) -> None:
        while self._held:
            try:
                self._take(await self._fetch(self.expected))
            except AvowError as error:
                log.warning("missing statements cannot be fetched: %s", error.detail)
                return  # the enclave is gone, and its key with it: what is held can never follow
            if self._held:
                await asyncio.sleep(_RETRY_S)

    def _take(self, signed: list[Signed]) -> None:
        kept = {item.number: item for item in signed}
        while True:
            number = self.expected
            if (store := self._held.pop(number, None)) is not None:
                self.expected += 1
                store()
            elif (item := kept.get(number)) is not None:
                self.expected += 1
                now_ms = time.time_ns() // 1_000_000
                self._put(Entry(self._key_number, item, None, b"", now_ms, void=UNDELIVERED))
            else:
                return

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
