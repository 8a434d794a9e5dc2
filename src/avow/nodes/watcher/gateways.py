"""Openings and demands over HTTP: what a watcher asks gateways for, signed by its account.

Rules:
1. Several gateways are asked one after the other; the first answer that is one counts. None of them is believed: openings are compared
   with the statement, answers to demands with the trace.
2. Who answers "not entitled" shows the statement's private part with it, which names the audience; without that it is no answer.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from avow.errors import EncodingError, TooLarge
from avow.exact.descent import MAX_ANSWER
from avow.nodes.entitlement import sign_question
from avow.nodes.openings import MAX_SHOWN, Shown, decode_shown
from avow.nodes.watcher.errors import OtherNetwork
from avow.receipt.encoding import from_base64url

TIMEOUT_S = 20.0
MAX_PRIVATE = 4_096
MAX_POLICY = 1024 * 1024
_MAX_ERROR = 64 * 1024


@dataclass(frozen=True, slots=True)
class ShutOut:
    """A node says that the audience does not include the watcher. `private`: CBOR of the private part that is to say so."""

    private: bytes


class Gateways:
    """Make it in a running loop. `key`: the watcher's private key, 32 bytes; it signs questions and nothing else here."""

    def __init__(self, urls: Sequence[str], key: bytes, chain_id: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._key = key
        self._chain_id = chain_id
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def check(self) -> list[str]:
        """The gateways that do not answer now. Raises OtherNetwork for one that serves another network: there nothing can be shown."""
        silent = []
        for url in self._urls:
            status, body = await self._ask("GET", f"{url}/trust", bytes(32), MAX_POLICY)
            found = _chain_of(body) if status == 200 else None
            if found is None:
                silent.append(url)
            elif found != self._chain_id:
                raise OtherNetwork(
                    f"the gateway {url} serves another network than the chain",
                    hint="name the gateway and the chain of one network with --gateway and --chain",
                    expected=self._chain_id,
                    found=found[:64],
                )
        return silent

    async def opening(self, statement: bytes) -> Shown | ShutOut | None:
        """What is shown of a statement, unchecked; None where nobody shows anything."""
        shut_out: ShutOut | None = None
        for url in self._urls:
            status, body = await self._ask("GET", f"{url}/receipts/{statement.hex()}/opening", statement, MAX_SHOWN)
            if status == 200:
                try:
                    return decode_shown(body)
                except (msgspec.DecodeError, msgspec.ValidationError):
                    continue
            shut_out = shut_out or _shut_out(body)
        return shut_out

    async def demand(self, statement: bytes, demand: bytes) -> bytes | None:
        """The answer to a demand, unchecked."""
        for url in self._urls:
            address = f"{url}/receipts/{statement.hex()}/demand"
            status, body = await self._ask("POST", address, statement, MAX_ANSWER, demand)
            if status == 200:
                return body
        return None

    async def _ask(
        self, method: str, url: str, statement: bytes, limit: int, data: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body; status 0 where there is no answer, or one that is too large."""
        asker = sign_question(self._key, self._chain_id, statement, time.time_ns() // 1_000_000)
        headers = {"avow-watcher": asker.to_header()}
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > (limit if response.status == 200 else _MAX_ERROR):
                        return 0, b""
                return response.status, bytes(body)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return 0, b""


def _chain_of(body: bytes) -> str | None:
    """The network that a trust policy names."""
    try:
        found = msgspec.json.decode(body, type=dict[str, object]).get("chain_id")
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _shut_out(body: bytes) -> ShutOut | None:
    """Rule 2."""
    try:
        error = json.loads(body)["error"]
        if error["code"] == "not_entitled":
            return ShutOut(from_base64url(error["avow"]["private"], max_bytes=MAX_PRIVATE))
    except (ValueError, KeyError, TypeError, EncodingError, TooLarge):
        pass
    return None
