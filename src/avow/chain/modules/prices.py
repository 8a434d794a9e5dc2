"""What operators charge: wei per unit of a program's use, by method.

Rules:
1. Versions of a price count from 1. A statement names the version that it was made under.
2. A replaced version stays chargeable for the genesis' grace period after its replacement, by block time.
3. A price fits 64 bits, so that an amount, price times a 64-bit count of units, fits its column of 128.
"""

import struct
from dataclasses import dataclass
from typing import Self

from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.receipt.statement import Method

MAX_PRICE = (1 << 64) - 1
MAX_REPLACED = 32
SUPPORTED = (Method.VANILLA, Method.OPTIMISTIC, Method.TEE)

_PRICE = b"nodes/price/"
_CURRENT = struct.Struct(">IQ")
_REPLACED = struct.Struct(">IQQ")


@dataclass(frozen=True, slots=True)
class Prices:
    """The newest version and its price, and (version, price, replaced at) of those replaced lately."""

    version: int
    per_unit: int
    replaced: tuple[tuple[int, int, int], ...]

    def to_bytes(self) -> bytes:
        return _CURRENT.pack(self.version, self.per_unit) + b"".join(
            [_REPLACED.pack(*entry) for entry in self.replaced]
        )

    @classmethod
    def from_bytes(cls, record: bytes) -> Self:
        version, per_unit = _CURRENT.unpack_from(record)
        return cls(version, per_unit, tuple(_REPLACED.iter_unpack(record[_CURRENT.size :])))


def read_prices(host: Host, operator: bytes, program: bytes, method: int) -> Prices | None:
    record = host.load(_key(operator, program, method))
    return None if record is None else Prices.from_bytes(record)


def _key(operator: bytes, program: bytes, method: int) -> bytes:
    return _PRICE + operator + program + method.to_bytes(1)


def set_price(host: Host, program: bytes, method: int, per_unit: int) -> int:
    if method not in SUPPORTED:
        raise Refused(Code.METHOD_UNSUPPORTED)
    if per_unit > MAX_PRICE:
        raise Refused(Code.PRICE_TOO_HIGH)
    now_ms = host.block.time_ms
    before = read_prices(host, host.caller, program, method)
    version = 1
    replaced: tuple[tuple[int, int, int], ...] = ()
    if before is not None:
        version = before.version + 1
        oldest_ms = now_ms - host.genesis.price_grace_ms
        kept = [entry for entry in before.replaced if entry[2] >= oldest_ms]
        replaced = (*kept, (before.version, before.per_unit, now_ms))
    if len(replaced) > MAX_REPLACED:
        raise Refused(Code.TOO_MANY_PRICES)
    host.store(_key(host.caller, program, method), Prices(version, per_unit, replaced).to_bytes())
    host.log("PriceSet", host.caller, program, method, version, per_unit)
    return version


def price(host: Host, operator: bytes, program: bytes, method: int) -> tuple[int, int]:
    """The newest version and its price per unit; version 0 when none is set."""
    prices = read_prices(host, operator, program, method)
    return (prices.version, prices.per_unit) if prices else (0, 0)


def chargeable(host: Host, prices: Prices | None, version: int) -> int | Code:
    """The price of a version that may be charged now, or why it may not (rule 2)."""
    if prices is None or not 0 < version <= prices.version:
        return Code.PRICE_UNKNOWN
    if version == prices.version:
        return prices.per_unit
    oldest_ms = host.block.time_ms - host.genesis.price_grace_ms
    for earlier, per_unit, replaced_ms in prices.replaced:
        if earlier == version and replaced_ms >= oldest_ms:
            return per_unit
    return Code.PRICE_REPLACED
