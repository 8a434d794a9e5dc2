"""The headers that a process of ours relies on, followed by the light client: whatever node of the chain they come from.

Rules:
1. Trust begins where the pin says (pin.py): at the very block of a height and hash, or with a policy's validators, by its own rule
   (receipt/trust.py, rule 2) or, where the set has changed by more since, at its height. Without a pin, which is for a chain's node
   on this machine alone, the first block is taken on its own validators' word. From then on a block counts only when it follows
   from one that counted.
2. A later block follows when more than a third of the trusted power signed it and more than two thirds of its own; where the set
   changed by more, blocks between are fetched and followed one after another, at worst each.
3. An earlier or equal height must be a block of a set that was trusted: its validators are the same, or the very block is known.
4. Trust ends TRUSTING_PERIOD_NS after the trusted block's time. With a pin it begins there again, or not at all; without one the
   newest block is taken anew as in rule 1, and it is said so.
5. The newest trusted block is kept in `file`, under the pin that it follows from: after a restart trust goes on there.

Time is a parameter.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

from avow.errors import AvowError, InputError, TrustNotPinned, VerificationError
from avow.home import write_private
from avow.nodes.pin import BlockPin, Pin, find_pin, is_own
from avow.receipt import fields, light
from avow.receipt.encoding import decode, encode, tagged_hash
from avow.receipt.headers import SignedBlock
from avow.receipt.trust import TrustPolicy

log = logging.getLogger(__name__)

TRUSTING_PERIOD_NS = 14 * 24 * 3600 * 10**9
KEPT = 64
MAX_BETWEEN = 4_096
KEEP_EVERY_NS = 600 * 10**9
MAX_KEPT_BLOCK = 1 << 20
MILLISECOND = 1_000_000

Fetch = Callable[[int], Awaitable[SignedBlock]]
"""The signed block of a height. Raises what asking raises."""


class UnprovenHeader(VerificationError):
    """A block does not follow from those that were trusted."""

    code = "unproven_header"


def header_trust(
    home: Path, chain: str, chain_id: str, *, given: str | None, now_ms: int, name: str = "headers"
) -> "HeaderTrust":
    """What a process in HOME trusts of the chain at these addresses; `given` is --trust, `name` that of its file under HOME.

    Raises TrustNotPinned, InputError, BadPolicy.
    """
    pin = find_pin(home, chain, given, chain_id)
    if isinstance(pin, TrustPolicy) and now_ms > pin.time_ms + pin.trusting_period_ms:
        reason = "the pinned policy is older than its trusting period"
        if given is not None or not is_own(chain):
            raise TrustNotPinned(reason, hint="pin the network again")
        log.warning("%s: it is passed over, since the chain's node is on this machine", reason)
        pin = None
    return HeaderTrust(chain_id, pin, file=home / f"{name}.cbor")


class HeaderTrust:
    """What is trusted now. `follow` each block before relying on it."""

    def __init__(self, chain_id: str, pin: Pin | None = None, *, file: Path | None = None) -> None:
        self._chain_id = chain_id
        self._pin = pin
        self._file = file
        self._trusted: SignedBlock | None = None
        self._sets: OrderedDict[bytes, None] = OrderedDict()
        self._kept: tuple[int, bytes] = (0, b"")
        self._load()

    @property
    def pinned(self) -> bool:
        return self._pin is not None

    @property
    def height(self) -> int:
        """Of the newest block that counted; 0 before the first."""
        return 0 if self._trusted is None else self._trusted.header.height

    async def follow(self, block: SignedBlock, fetch: Fetch, *, now_ns: int) -> None:
        """Returns when the block counts. Raises UnprovenHeader, what `light` raises, and what `fetch` raises."""
        trusted = self._trusted
        if trusted is None or trusted.header.time_ns + TRUSTING_PERIOD_NS <= now_ns:
            await self._begin(block, fetch, now_ns, expired=trusted is not None)
            trusted = self._trusted
            assert trusted is not None
        if block.header.height <= trusted.header.height:
            self._check_known(block)
            return
        await self._reach(block, fetch, now_ns)

    async def _begin(self, block: SignedBlock, fetch: Fetch, now_ns: int, *, expired: bool) -> None:
        """Rules 1 and 4."""
        pin = self._pin
        if isinstance(pin, BlockPin):
            await self._begin_at(pin, fetch, now_ns)
        elif pin is not None:
            await self._begin_with(pin, block, fetch, now_ns)
        else:
            light.verify_commit(self._chain_id, block.validators, block.signed_header)
            if expired:
                log.warning("the trusting period is over: block %d is taken as it is", block.header.height)
            self._trust(block)

    async def _begin_at(self, pin: BlockPin, fetch: Fetch, now_ns: int) -> None:
        first = await fetch(pin.height)
        if first.header.height != pin.height or first.header.hash != pin.hash:
            raise UnprovenHeader("the block at the pinned height is another one", height=pin.height)
        if first.header.time_ns + TRUSTING_PERIOD_NS <= now_ns:
            raise UnprovenHeader("the pinned block is older than the trusting period", hint="pin the network again")
        light.verify_commit(self._chain_id, first.validators, first.signed_header)
        self._trust(first)

    async def _begin_with(self, pin: TrustPolicy, block: SignedBlock, fetch: Fetch, now_ns: int) -> None:
        try:
            pin.check_anchor(block, now_ns // MILLISECOND)
        except light.NotSigned:
            first = await fetch(pin.height)
            if first.header.height != pin.height:
                raise UnprovenHeader("another height than was asked for", expected=pin.height) from None
            pin.check_anchor(first, now_ns // MILLISECOND)
            self._trust(first)
        else:
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
        time_ns, validators = self._kept
        if validators != block.header.validators_hash or block.header.time_ns - time_ns > KEEP_EVERY_NS:
            self._keep(block)

    # --- Rule 5 -----------------------------------------------------------------------------------------------------

    def _under(self) -> bytes:
        """The pin that what is kept follows from."""
        pin = self._pin
        if pin is None:
            named = b""
        elif isinstance(pin, BlockPin):
            named = pin.height.to_bytes(8) + pin.hash
        else:
            named = pin.to_json()
        return tagged_hash(b"avow/pin/1", self._chain_id.encode(), named)

    def _keep(self, block: SignedBlock) -> None:
        self._kept = (block.header.time_ns, block.header.validators_hash)
        if self._file is not None:
            write_private(self._file, encode({"under": self._under(), "block": block.to_value()}))

    def _load(self) -> None:
        if self._file is None or not self._file.exists():
            return
        try:
            item = fields.mapping(
                decode(self._file.read_bytes(), max_bytes=MAX_KEPT_BLOCK), "headers", ("under", "block")
            )
            block = SignedBlock.from_value(item["block"])
            if item["under"] != self._under():
                return
            light.verify_commit(self._chain_id, block.validators, block.signed_header)
        except (InputError, VerificationError, OSError) as error:
            reason = error.code if isinstance(error, AvowError) else type(error).__name__
            log.warning("what was kept of the chain's headers cannot be read (%s): trust begins at the pin", reason)
            return
        self._kept = (block.header.time_ns, block.header.validators_hash)
        self._trust(block)
