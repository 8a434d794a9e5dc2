"""The window clock: how much time there was to challenge, in blocks and block time both.

Rules:
1. The clock began at the genesis' time. From one record to the next it advances by the block time between them, but by no more than two
   heartbeats for each block between them: a halt, which makes no blocks, does not count.
2. It is recorded in each block with transactions, before these run. Such a block changes the state anyway, so the app hash never moves
   because of the clock alone.
"""

from dataclasses import dataclass
from typing import Self

from avow.chain.genesis import Genesis
from avow.chain.host import Block, Host, Storage
from avow.receipt import fields
from avow.receipt.encoding import decode, encode

CLOCK_KEY = b"disputes/clock"
HEARTBEATS_A_BLOCK = 2


@dataclass(frozen=True, slots=True)
class _Reading:
    """The clock at a block, all in milliseconds but the height."""

    clock: int
    time_ms: int
    height: int

    def to_bytes(self) -> bytes:
        return encode({"clock": self.clock, "time_ms": self.time_ms, "height": self.height})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        item = fields.mapping(decode(data), "clock", ("clock", "time_ms", "height"))
        return cls(*[fields.integer(item[name], name) for name in ("clock", "time_ms", "height")])

    def at(self, genesis: Genesis, block: Block) -> int:
        """Rule 1."""
        passed = max(0, block.time_ms - self.time_ms)
        return self.clock + min(passed, (block.height - self.height) * HEARTBEATS_A_BLOCK * genesis.heartbeat_ms)


def _last(genesis: Genesis, record: bytes | None) -> _Reading:
    return _Reading(genesis.time_ms, genesis.time_ms, 0) if record is None else _Reading.from_bytes(record)


def record(storage: Storage, genesis: Genesis, block: Block) -> None:
    """Rule 2, at the begin of a block with transactions."""
    clock = _last(genesis, storage.get(CLOCK_KEY)).at(genesis, block)
    storage.put(CLOCK_KEY, _Reading(clock, block.time_ms, block.height).to_bytes())


def read(record: bytes | None, genesis: Genesis, block: Block) -> int:
    """The clock in a block, in milliseconds, from its last record."""
    return _last(genesis, record).at(genesis, block)


def now(host: Host) -> int:
    """The clock in this block, in milliseconds."""
    return read(host.load(CLOCK_KEY), host.genesis, host.block)
