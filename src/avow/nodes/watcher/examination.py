"""Where answers are run again: in threads, one computing at a time, while others wait for what their nodes owe them.

Rules:
1. A thread does not keep the process from ending, nor does it end the process.
2. Who waits for a node does not keep the processor from the others.
3. A node has WAIT_S in all to answer one examination's questions over HTTP; what it does not answer by then is demanded on chain.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from avow.exact.descent import Demand

WAIT_S = 15.0

Result = TypeVar("Result")
Ask = Callable[[bytes], Coroutine[Any, Any, bytes | None]]
"""What a gateway answers to an encoded demand."""


async def in_thread(work: Callable[[], Result]) -> Result:
    """What `work` gives, from a thread of its own (rule 1). Cancelled, it leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def deliver(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result, raised = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            raised = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, result, raised)

    threading.Thread(target=run, name="examination", daemon=True).start()
    return await future


class Respondent:
    """Demands of one examination, from its thread: what the chain recorded first, then HTTP.

    `processor`: held by the examination while it computes (rule 2). `answers`: by encoded demand.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Ask,
        answers: Mapping[bytes, bytes],
        processor: threading.Lock,
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._answers = answers
        self._processor = processor
        self._left_s = wait_s

    def ask(self, demand: Demand) -> bytes | None:
        encoded = demand.encoded()
        found = self._answers.get(encoded)
        if found is not None or self._left_s <= 0 or self._loop.is_closed():
            return found
        began = time.monotonic()
        self._processor.release()
        asked = asyncio.run_coroutine_threadsafe(self._ask(encoded), self._loop)
        try:
            return asked.result(self._left_s)
        except TimeoutError:
            asked.cancel()
            return None
        finally:
            self._left_s -= time.monotonic() - began
            self._processor.acquire()
