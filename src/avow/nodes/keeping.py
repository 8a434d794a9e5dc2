"""Which optimistic runs a node takes on: those about which it can answer every demand in time.

Rules:
1. A payer may demand of sixteen statements at once (chain/modules/demands.py), so an answer may take a sixteenth of the chain's `move_ms`.
2. What an answer takes is measured, when the node starts: where what a run left behind is there, and for the longest run again.
   A program whose answers take longer is not offered by this method at all, a request whose run would be too long is refused.
3. Room for what a run leaves behind is taken before it begins (remains.py).
"""

import logging
from collections.abc import Mapping
from typing import Any

from avow.engines.interface import Cost, KeepingEngine
from avow.nodes.errors import CannotAnswerInTime, RunTooLong
from avow.nodes.remains import Remains, Room

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Demands that one account may have waiting."""


class Keeping:
    """`limit_ms`: what one answer may take, once the chain's rules are known."""

    def __init__(self, remains: Remains) -> None:
        self.remains = remains
        self.limit_ms: float | None = None

    def heed(self, move_ms: int) -> None:
        """The chain's time for an answer."""
        self.limit_ms = move_ms / AT_ONCE

    def check(self, name: str, cost: Cost) -> None:
        """Rule 2, of a program as it was measured. Raises CannotAnswerInTime."""
        limit_ms = self.limit_ms
        if limit_ms is None:
            return
        if cost.answer_ms > limit_ms:
            raise CannotAnswerInTime(
                f"{name} is not offered by optimistic: an answer about a run of it takes {cost.answer_ms:.0f} ms on this machine,"
                f" and the chain leaves {limit_ms:.0f} ms for each of {AT_ONCE} at once",
                hint="a faster machine, a smaller program, or a network with a longer move_ms",
                takes_ms=round(cost.answer_ms),
                limit_ms=round(limit_ms),
            )
        if cost.replay_ms > limit_ms * AT_ONCE / 2:
            log.warning(
                "the longest run of %s takes %.1f s again: where what it left behind is lost, a demand is not answered in time",
                name,
                cost.replay_ms / 1_000,
            )

    def admit(self, engine: KeepingEngine, request: Any, effective: Mapping[str, Any]) -> Room:
        """Room for what the run leaves. Raises RunTooLong, TraceDiskFull, and what the engine says of the request."""
        takes_ms = engine.answer_ms(request)
        if self.limit_ms is not None and takes_ms > self.limit_ms:
            raise RunTooLong(
                "a challenge of so long an answer could not be met in time",
                hint="send it in parts",
                takes_ms=round(takes_ms),
                limit_ms=round(self.limit_ms),
            )
        return self.remains.take(engine.kept_bytes(request, effective))
