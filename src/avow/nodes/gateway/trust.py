"""The network's trust policy as this gateway hands it out, and its own verification of receipts under it.

The policy comes from the chain, is kept for a few seconds, and falls back to HOME/trust.json while the chain is away. It is an
offer: a reader who pins it trusts this gateway for that one moment, and never again.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from avow.errors import AvowError, Unavailable
from avow.methods.checks import verify
from avow.receipt.receipt import Receipt
from avow.receipt.trust import TrustPolicy
from avow.receipt.verify import Question

KEEP_S = 5.0
TIMEOUT_S = 5.0
MAX_ANSWER = 2 * 1024 * 1024

_decode = msgspec.json.Decoder().decode


class NetworkTrust:
    """Asks `chain` (JSON-RPC, may be None) for `avow_trust`, else reads `file`."""

    def __init__(self, chain: str | None, file: Path) -> None:
        self._chain = chain
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
        call = {"jsonrpc": "2.0", "id": 1, "method": "avow_trust", "params": []}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._chain, json=call) as response,
            ):
                answer: Any = _decode(await response.content.read(MAX_ANSWER))
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None
        result = answer.get("result") if isinstance(answer, dict) else None
        text = result if isinstance(result, str) else msgspec.json.encode(result).decode()
        return _parse(text.encode())

    def _from_file(self) -> TrustPolicy | None:
        try:
            return _parse(self._file.read_bytes())
        except OSError:
            return None


def _parse(data: bytes) -> TrustPolicy | None:
    try:
        return TrustPolicy.from_json(data)
    except AvowError:
        return None
