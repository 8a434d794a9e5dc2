"""The gateway's own account, which pays for answers until callers pay themselves, and its allowances for the nodes it uses.

Rules:
1. The key is made once, in HOME/gateway/key (32 bytes as hex, mode 0600); its address is what a genesis funds.
2. For each connected node there is an allowance on chain (bank.allow); it is opened at once and renewed when less than a quarter
   of it or less than a quarter of its time is left. A chain that is away is tried again.
3. A node that refuses the account as payer is asked again once its allowance was looked after, COVER_S long; a request waits for that.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol, Self, TypeVar

from coincurve import PrivateKey

from avow.chain.modules import bank
from avow.errors import AvowError, EncodingError
from avow.home import write_private
from avow.nodes.chain_client import ChainClient
from avow.nodes.errors import PayerUncovered
from avow.nodes.gateway.directory import Directory
from avow.nodes.gateway.errors import GatewayUncovered, says
from avow.nodes.pin import is_own
from avow.nodes.proven import ProvenState, open_proven
from avow.receipt.requester import address_of

log = logging.getLogger("avow.gateway")

T = TypeVar("T")

ALLOWANCE_WEI = 10**18
ALLOWANCE_MS = 7 * 24 * 3_600_000
POLL_S = 10.0
RETRY_S = 0.5
COVER_S = 5.0
COVER_PAUSE_S = 0.2


class Bank(Protocol):
    """What is needed of the chain; a view that may lag a block behind."""

    async def allowance(self, payer: bytes, node: bytes) -> tuple[int, int]:
        """What is left in wei, and until when, in milliseconds of block time."""
        ...

    async def allow(self, node: bytes, cap: int, expiry_ms: int) -> object:
        """Replace the allowance; returns once it is in a block."""
        ...


def account_key(file: Path) -> bytes:
    """The account's private key, made when the file is not there yet. Raises EncodingError for a file that holds none."""
    if not file.exists():
        write_private(file, secrets.token_bytes(32).hex().encode() + b"\n")
    text = file.read_text().strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise EncodingError("the gateway's key file does not hold 32 bytes as hex", file=file.name)
    return key


def account_address(file: Path) -> bytes:
    """The address of the account in `file`: what a genesis funds."""
    return address_of(PrivateKey(account_key(file)).public_key.format(compressed=False))


class ProvenBank:
    """What is left is read by proof: a node that lies about it cannot make the gateway allow again and again."""

    def __init__(self, client: ChainClient, home: Path, chain: str, trust: str | None) -> None:
        self._client = client
        self._where = (home, chain, trust)
        self._state: ProvenState | None = None

    async def allowance(self, payer: bytes, node: bytes) -> tuple[int, int]:
        if self._state is None:
            self._state = await open_proven(self._client, *self._where, name="gateway/allowances")
        remaining, expiry_ms = await self._state.view(bank.ADDRESS, "allowance", payer, node)
        return remaining, expiry_ms

    async def allow(self, node: bytes, cap: int, expiry_ms: int) -> object:
        return await self._client.allow(node, cap, expiry_ms)


class PayerAccount:
    """The account, and the bank that holds its allowances (None where there is no chain)."""

    def __init__(self, address: bytes, bank: Bank | None) -> None:
        self.address = address
        self._bank = bank
        self._renewing: dict[bytes, asyncio.Task[None]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, file: Path, chain: str | None, *, home: Path | None = None, trust: str | None = None
    ) -> AsyncIterator[Self]:
        """From its key file and the chain's JSON-RPC address.

        With a `home`, another machine's node (with `trust`, any) is believed what it proves (proven.py).
        """
        if chain is None:
            yield cls(account_address(file), None)
            return
        async with ChainClient(chain, account_key(file)) as client:
            checked = home is not None and (trust is not None or not is_own(chain))
            held = ProvenBank(client, home, chain, trust) if home is not None and checked else client
            yield cls(client.address, held)

    async def keep_allowances(self, directory: Directory) -> None:
        """Rule 2, until cancelled."""
        held = self._bank
        if held is None:
            await asyncio.Event().wait()
            return
        checked: dict[bytes, float] = {}
        while True:
            for link in directory.connected():
                operator = link.description.operator if link.description else b""
                if not operator or time.monotonic() - checked.get(operator, -POLL_S) < POLL_S:
                    continue
                try:
                    await self._renewed(held, operator)
                except AvowError as error:
                    log.warning("no allowance for node 0x%s yet: %s", operator.hex(), error.detail)
                else:
                    checked[operator] = time.monotonic()
            await asyncio.sleep(RETRY_S)

    async def cover(self, operator: bytes, ask: Callable[[], Awaitable[T]]) -> T:
        """Rule 3: `ask` a node that refused this account again, until it does not. Raises GatewayUncovered, or what else `ask` raises."""
        held = self._bank
        until = time.monotonic() + COVER_S
        why = "it has no chain to pay on"
        while held is not None:
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await self._renewed(held, operator)
            except TimeoutError:
                raise _uncovered("its allowance for the node is not open yet") from None
            except AvowError as error:
                why = error.detail
            else:
                try:
                    return await ask()
                except AvowError as error:
                    if not says(error, PayerUncovered):
                        raise
                    why = error.detail
            if time.monotonic() + COVER_PAUSE_S > until:
                break
            await asyncio.sleep(COVER_PAUSE_S)
        raise _uncovered(why)

    async def _renewed(self, held: Bank, operator: bytes) -> None:
        """`_renew`, once for all who wait for it."""
        task = self._renewing.get(operator)
        if task is None:
            task = self._renewing[operator] = asyncio.get_running_loop().create_task(self._renew(held, operator))
            task.add_done_callback(partial(self._over, operator))
        await asyncio.shield(task)

    def _over(self, operator: bytes, task: asyncio.Task[None]) -> None:
        del self._renewing[operator]
        if not task.cancelled():
            task.exception()  # seen: perhaps nobody waits for it any more

    async def _renew(self, held: Bank, operator: bytes) -> None:
        now_ms = time.time_ns() // 1_000_000
        remaining, expiry_ms = await held.allowance(self.address, operator)
        if remaining < ALLOWANCE_WEI // 4 or expiry_ms < now_ms + ALLOWANCE_MS // 4:
            await held.allow(operator, ALLOWANCE_WEI, now_ms + ALLOWANCE_MS)


def _uncovered(why: str) -> GatewayUncovered:
    hint = "try again in a few seconds, or pay yourself (avow-authorisation)"
    return GatewayUncovered(f"the gateway's account does not cover the answer now: {why}", hint=hint)
