"""The headers that a process of ours relies on, followed by the light client: whatever node of the chain they come from.

Rules:
1. The first block is taken on its own validators' word (they are more than two thirds of the set that its header names); whoever wants
   more gives a policy's validators. From then on a block counts only when it follows from one that counted.
2. A later block follows when more than a third of the trusted power signed it and more than two thirds of its own; where the set changed by
   more, blocks between are fetched and followed one after another, at worst each.
3. An earlier or equal height must be a block of a set that was trusted: its validators are the same, or the very block is known.
4. Trust ends TRUSTING_PERIOD_NS after the trusted block's time: then the newest block is taken anew as in rule 1, and it is said so.

Time is a parameter.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from avow.errors import VerificationError
from avow.receipt import light
from avow.receipt.headers import SignedBlock, Validator, validators_hash

log = logging.getLogger(__name__)

TRUSTING_PERIOD_NS = 14 * 24 * 3600 * 10**9
KEPT = 64
MAX_BETWEEN = 4_096

Fetch = Callable[[int], Awaitable[SignedBlock]]
"""The signed block of a height. Raises what asking raises."""


class UnprovenHeader(VerificationError):
    """A block does not follow from those that were trusted."""

    code = "unproven_header"


class HeaderTrust:
    """What is trusted now. `follow` each block before relying on it."""

    def __init__(self, chain_id: str, validators: Sequence[Validator] | None = None) -> None:
        self._chain_id = chain_id
        self._pinned = None if validators is None else validators_hash(validators)
        self._trusted: SignedBlock | None = None
        self._sets: OrderedDict[bytes, None] = OrderedDict()

    @property
    def height(self) -> int:
        """Of the newest block that counted; 0 before the first."""
        return 0 if self._trusted is None else self._trusted.header.height

    async def follow(self, block: SignedBlock, fetch: Fetch, *, now_ns: int) -> None:
        """Returns when the block counts. Raises UnprovenHeader, what `light` raises, and what `fetch` raises."""
        trusted = self._trusted
        if trusted is None or trusted.header.time_ns + TRUSTING_PERIOD_NS <= now_ns:
            self._begin(block, expired=trusted is not None)
            return
        if block.header.height <= trusted.header.height:
            self._check_known(block)
            return
        await self._reach(block, fetch, now_ns)

    def _begin(self, block: SignedBlock, *, expired: bool) -> None:
        """Rules 1 and 4."""
        light.verify_commit(self._chain_id, block.validators, block.signed_header)
        if self._pinned is not None and not expired and block.header.validators_hash != self._pinned:
            raise UnprovenHeader("the block's validators are not those that are pinned")
        if expired:
            log.warning("the trusting period is over: block %d is taken as it is", block.header.height)
        self._trust(block)

    def _check_known(self, block: SignedBlock) -> None:
        """Rule 3."""
        if block.header.validators_hash not in self._sets:
            raise UnprovenHeader("the block is of validators that were never trusted", height=block.header.height)
        light.verify_commit(self._chain_id, block.validators, block.signed_header)

    async def _reach(self, target: SignedBlock, fetch: Fetch, now_ns: int) -> None:
        """Rule 2, by halves."""
        waiting = [target]
        fetched = 0
        while waiting:
            trusted, block = self._trusted, waiting[-1]
            assert trusted is not None
            try:
                light.verify_skipping(
                    trusted.header,
                    trusted.validators,
                    block.signed_header,
                    block.validators,
                    now_ns=now_ns,
                    trusting_period_ns=TRUSTING_PERIOD_NS,
                )
            except light.NotSigned:
                middle = (trusted.header.height + block.header.height) // 2
                fetched += 1
                if middle == trusted.header.height or fetched > MAX_BETWEEN:
                    raise
                between = await fetch(middle)
                if between.header.height != middle:
                    raise UnprovenHeader("another height than was asked for", expected=middle) from None
                waiting.append(between)
            else:
                self._trust(block)
                waiting.pop()

    def _trust(self, block: SignedBlock) -> None:
        self._trusted = block
        self._sets[block.header.validators_hash] = None
        self._sets.move_to_end(block.header.validators_hash)
        while len(self._sets) > KEPT:
            self._sets.popitem(last=False)
