"""The network's trust policy as this gateway hands it out, and its own verification of receipts under it.

The policy is built from the chain's newest header, which must follow from trusted ones (headers.py), is kept for a few seconds, and falls
back to HOME/trust.json while the chain is away, or lies. It is an
offer: a reader who pins it trusts this gateway for that one moment, and never again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from avow.errors import AvowError, Unavailable
from avow.methods.checks import verify
from avow.nodes.proven import ProvenState
from avow.receipt.receipt import Receipt
from avow.receipt.trust import TrustPolicy
from avow.receipt.verify import Question

log = logging.getLogger("avow.gateway")

KEEP_S = 5.0


class NetworkTrust:
    """Asks what `chain` opens (None where there is none), else reads `file`."""

    def __init__(self, chain: Callable[[], Awaitable[ProvenState]] | None, file: Path) -> None:
        self._chain = chain
        self._state: ProvenState | None = None
        self._file = file
        self._kept: TrustPolicy | None = None
        self._until = 0.0

    async def current(self) -> TrustPolicy:
        """The policy, at most KEEP_S old. Raises Unavailable when neither chain nor file has one."""
        now = time.monotonic()
        if self._kept is None or now > self._until:
            policy = await self._from_chain()
            if policy is None:
                policy = await asyncio.to_thread(self._from_file)
            if policy is None and self._kept is None:
                raise Unavailable("the network's trust policy is not known yet", hint="is the chain running?")
            self._kept = policy or self._kept
            self._until = now + KEEP_S
        if self._kept is None:
            raise Unavailable("the network's trust policy is not known yet")
        return self._kept

    async def policy(self) -> bytes:
        return (await self.current()).to_json()

    async def report(self, receipt: Receipt) -> dict[str, object]:
        """All checks of a receipt at this moment; its opening's parts, where it has them, are checked with it."""
        policy = await self.current()
        question = Question(now_ms=time.time_ns() // 1_000_000)
        report = await asyncio.to_thread(verify, receipt, policy, question)
        return report.as_json()

    async def _from_chain(self) -> TrustPolicy | None:
        if self._chain is None:
            return None
        try:
            if self._state is None:
                self._state = await self._chain()
            return await self._state.policy()
        except AvowError as error:
            log.info("no trust policy from the chain: %s", error.detail)
            return None

    def _from_file(self) -> TrustPolicy | None:
        try:
            return TrustPolicy.from_json(self._file.read_bytes())
        except (OSError, AvowError):
            return None
