"""The trust gap: how long delivered answers wait for their settlement, on this process's monotonic clock.

A delivery is remembered by key and number until the node reports that the key's statements are settled up to there. Nodes
are asked often while something waits and seldom while nothing does.
"""

import asyncio
import time
from collections import deque

from avow.errors import AvowError
from avow.nodes.gateway.directory import Directory, Link
from avow.nodes.gateway.metrics import GatewayMetrics
from avow.nodes.jobs import NodeStatus

BUSY_POLL_S = 0.1
IDLE_POLL_S = 1.0
MAX_WAITING = 65_536
"""Deliveries remembered per key; beyond it the youngest are not measured, and the oldest still show how long the gap is."""


class TrustGap:
    """Deliveries that wait for their settlement."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._waiting: dict[bytes, deque[tuple[int, float]]] = {}

    def delivered(self, key: bytes, number: int) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
        if len(waiting) < MAX_WAITING:
            waiting.append((number, time.monotonic()))

    def settled(self, key: bytes, count: int, now: float) -> None:
        """The first `count` statements of `key` are settled: measure those that waited."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return
        late: list[tuple[int, float]] = []
        while waiting:
            number, since = waiting.popleft()
            if number < count:
                self._metrics.trust_gap.observe((), now - since)
            else:
                late.append((number, since))
                # Answers of one key finish in nearly the order of their numbers; look a little further.
                if len(late) > 64:
                    break
        waiting.extendleft(reversed(late))
        if not waiting:
            del self._waiting[key]

    def forget(self, known: set[bytes]) -> None:
        """Drop keys that no node reports any more: their process has restarted with a new key."""
        for key in [key for key in self._waiting if key not in known]:
            del self._waiting[key]

    def waiting(self) -> bool:
        return bool(self._waiting)

    def oldest_s(self, now: float) -> float:
        """The age of the oldest delivery that waits; 0 if none does."""
        return max((now - waiting[0][1] for waiting in self._waiting.values() if waiting), default=0.0)


async def watch_settlements(directory: Directory, gap: TrustGap, metrics: GatewayMetrics) -> None:
    """Ask the nodes how far they are, until cancelled."""
    while True:
        statuses = [await _status(link, gap, metrics) for link in directory.links]
        if statuses and None not in statuses:
            gap.forget({key.key for status in statuses if status is not None for key in status.keys})
        now = time.monotonic()
        metrics.trust_gap_open.set((), gap.oldest_s(now))
        await asyncio.sleep(BUSY_POLL_S if gap.waiting() else IDLE_POLL_S)


async def _status(link: Link, gap: TrustGap, metrics: GatewayMetrics) -> NodeStatus | None:
    label = (link.address,)
    metrics.connected.set(label, int(link.connected))
    metrics.in_flight.set(label, link.in_flight)
    if not link.connected:
        return None
    try:
        status = await link.node.status()
    except AvowError:
        return None
    link.status = status
    metrics.outbox.set(label, status.outbox_depth)
    now = time.monotonic()
    for key in status.keys:
        gap.settled(key.key, key.settled, now)
    return status
