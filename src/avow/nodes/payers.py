"""Whether a payer covers a job: allowances on chain, what is owed already, and what is under way.

Rules:
1. A payer is charged only with consent: an allowance for this node's operator, an authorisation for the very request, or
   being the operator.
2. What a job may cost is estimated high and reserved until its statement is signed; from then on it is owed until settled.
3. What the chain says of a payer is remembered for a few seconds, and asked again before anyone is refused.
4. An authorisation is looked at before the engine runs: its signature, this node, its expiry and amount here, its nonce and the
   payer's balance on chain. A nonce counts as used from then on, whatever becomes of the job.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol

import msgspec

from avow.errors import InputError
from avow.nodes.errors import AuthorisationUsed, PayerUncovered
from avow.nodes.jobs import Consent, Job
from avow.receipt.authorisation import Authorisation, BadAuthorisation
from avow.receipt.commitment import commit, request_parts

KEEP_S = 2.0
MAX_KNOWN = 10_000
MAX_NONCES = 100_000
"""Nonces remembered until their authorisations expire. Beyond it the oldest are forgotten: by then the chain knows them."""
DEFAULT_TOKENS = 2_048
_CLOCK_SLACK_MS = 30_000
"""An allowance that ends this soon may end before its statement settles."""


class Bank(Protocol):
    """What is asked of the chain."""

    async def spendable(self, payer: bytes) -> tuple[int, int]:
        """Wei that this operator may still charge the payer and the payer has, and until when (block time in ms)."""
        ...

    async def authorisation(self, payer: bytes, nonce: int) -> tuple[bool, int]:
        """Whether the payer's nonce is used up, and the payer's balance in wei."""
        ...


class _Budget(msgspec.Struct):
    """What of a chat request bounds its cost."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_budget = msgspec.json.Decoder(_Budget).decode


def units_bound(kind: str, body: bytes) -> int:
    """About the most units that a job can come to: a token has at least a byte or so of prompt."""
    if kind != "chat":
        return 1
    try:
        asked = _budget(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0  # the runner refuses it and nothing is charged
    tokens = asked.max_completion_tokens or asked.max_tokens or DEFAULT_TOKENS
    return len(body) + max(0, min(tokens, 1 << 20)) * max(1, min(asked.n or 1, 16))


@dataclass(slots=True)
class _Known:
    spendable: int
    expiry_ms: int
    at: float


class Owed(Protocol):
    def __call__(self, payer: bytes) -> int: ...


class Payers:
    """`owed` gives what a payer's unsettled statements come to."""

    def __init__(self, chain_id: str, operator: bytes, bank: Bank, owed: Owed) -> None:
        self._chain_id = chain_id
        self._operator = operator
        self._bank = bank
        self._owed = owed
        self._known: dict[bytes, _Known] = {}
        self._reserved: dict[bytes, int] = {}
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        self._nonces: dict[tuple[bytes, int], int] = {}

    def reserve(self, payer: bytes, amount: int) -> bool:
        """Set `amount` aside if what is known of the payer covers it. False: ask `refresh`, then `require`."""
        if payer == self._operator:
            return True
        known = self._known.get(payer)
        if known is None or time.monotonic() - known.at > KEEP_S or not self._covers(payer, known, amount):
            return False
        self._reserved[payer] = self._reserved.get(payer, 0) + amount
        return True

    def require(self, payer: bytes, amount: int) -> None:
        """As `reserve`, after `refresh`. Raises PayerUncovered."""
        known = self._known.get(payer)
        if known is None or not self._covers(payer, known, amount):
            raise PayerUncovered(
                "the payer has no allowance for this node that covers the answer",
                hint="bank.allow opens one",
                payer="0x" + payer.hex(),
                node="0x" + self._operator.hex(),
                amount=str(amount),
            )
        self._reserved[payer] = self._reserved.get(payer, 0) + amount

    async def require_asked(self, payer: bytes, amount: int) -> None:
        """`refresh`, then `require`."""
        await self.refresh(payer)
        self.require(payer, amount)

    def _covers(self, payer: bytes, known: _Known, amount: int) -> bool:
        left = known.spendable - self._owed(payer) - self._reserved.get(payer, 0)
        return amount <= left and time.time_ns() // 1_000_000 + _CLOCK_SLACK_MS < known.expiry_ms

    def release(self, payer: bytes, amount: int) -> None:
        left = self._reserved.get(payer, 0) - amount
        if left > 0:
            self._reserved[payer] = left
        else:
            self._reserved.pop(payer, None)

    async def refresh(self, payer: bytes) -> None:
        """Ask the chain; those who ask about one payer together ask once. Raises ChainUnavailable."""
        task = self._asking.get(payer)
        if task is None:
            task = self._asking[payer] = asyncio.get_running_loop().create_task(self._ask(payer))
            task.add_done_callback(lambda _: self._asking.pop(payer, None))
        await asyncio.shield(task)

    async def _ask(self, payer: bytes) -> None:
        spendable, expiry_ms = await self._bank.spendable(payer)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[payer] = _Known(spendable, expiry_ms, time.monotonic())

    def check_authorisation(self, job: Job, amount: int) -> int:
        """The payer signed for this very request, this node and at least `amount`; the nonce, which is used up by this.

        Raises BadAuthorisation, InputError, PayerUncovered or AuthorisationUsed.
        """
        consent = Consent.of(job)
        if consent is None or job.seed is None or job.requester != job.payer:
            raise InputError(
                "an authorisation needs the caller's seed, and the payer's own request signature",
                param="avow-authorisation",
            )
        request = commit("request", job.seed, request_parts(job.endpoint, job.body))
        message = Authorisation(self._operator, request, consent.most, consent.expiry_ms, consent.nonce)
        if message.signer(self._chain_id, consent.signature) != job.payer:
            raise BadAuthorisation("the payer did not sign this authorisation")
        if amount > consent.most or consent.expiry_ms < time.time_ns() // 1_000_000 + _CLOCK_SLACK_MS:
            raise PayerUncovered("the authorisation does not cover the answer", amount=str(amount))
        self._use(job.payer, consent.nonce, consent.expiry_ms)
        return consent.nonce

    def _use(self, payer: bytes, nonce: int, expiry_ms: int) -> None:
        if (payer, nonce) in self._nonces:
            raise AuthorisationUsed("the authorisation's nonce was used before", nonce=str(nonce))
        if len(self._nonces) >= MAX_NONCES:
            now_ms = time.time_ns() // 1_000_000
            current = [item for item in self._nonces.items() if item[1] >= now_ms]
            self._nonces = dict(current[len(current) // 2 :] if len(current) > MAX_NONCES // 2 else current)
        self._nonces[payer, nonce] = expiry_ms

    async def require_authorised(self, payer: bytes, nonce: int, amount: int) -> None:
        """Set `amount` aside of the payer's balance, as the chain has it. Raises AuthorisationUsed or PayerUncovered."""
        used, balance = await self._bank.authorisation(payer, nonce)
        if used:
            raise AuthorisationUsed("the authorisation's nonce is used up on chain", nonce=str(nonce))
        left = balance - self._owed(payer) - self._reserved.get(payer, 0)
        if amount > left:
            raise PayerUncovered(
                f"the payer's account does not hold what the answer may cost, {amount} wei",
                hint="send it that much, or ask for fewer tokens",
                payer="0x" + payer.hex(),
                amount=str(amount),
            )
        self._reserved[payer] = self._reserved.get(payer, 0) + amount
