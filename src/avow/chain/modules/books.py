"""The state that a batch is judged on: what its key, programs and payers are worth before it.

Rules:
1. Everything is read once, before the batch; what payers have left shrinks as its statements settle, in order.
2. Programs of optimistic statements are declared: the chain can referee every operator of theirs (declarations.py).
3. Who made a program or a measurement unavailable is read with it: a void statement asks (voids.py).
"""

from dataclasses import dataclass

from avow.chain.errors import Code
from avow.chain.host import Host
from avow.chain.modules import bank, declarations, measurements, prices, registry
from avow.chain.modules.batch import Batch
from avow.receipt.standing import KeyRecord


@dataclass(slots=True)
class Books:
    """Rule 1, by the batch's programs and payers. An allowance of None: the operator itself, who needs none.

    `withdrawn_by`: who withdrew each program that is not offered (None: it never was). `measured_before`: whether an entry
    allowed the key's measurement for each program at some time. `refereed`: rule 2, true for the other methods.
    """

    record: KeyRecord
    lapsed: bool
    offered: list[bool]
    refereed: list[bool]
    withdrawn_by: list[bytes | None]
    measured: list[bool]
    measured_before: list[bool]
    prices: list[prices.Prices | None]
    allowance: list[int | None]
    balance: list[int]
    by_allowance: list[int]
    charged: list[int]

    def covers(self, payer: int, amount: int) -> bool:
        """Whether a payer consented by allowance and has the money."""
        allowance = self.allowance[payer]
        return (allowance is None or amount <= allowance) and amount <= self.balance[payer]

    def charge(self, payer: int, amount: int, *, by_allowance: bool) -> None:
        self.balance[payer] -= amount
        self.charged[payer] += amount
        allowance = self.allowance[payer]
        if by_allowance and allowance is not None:
            self.allowance[payer] = allowance - amount
            self.by_allowance[payer] += amount


def lapsed(host: Host, record: KeyRecord) -> bool:
    """Whether block time is past the key's end."""
    return record.until_ms is not None and host.block.time_ms > record.until_ms


def open_books(host: Host, batch: Batch, record: KeyRecord) -> Books:
    operator, method, measurement = record.operator, record.method, record.measurement
    programs, payers = batch.programs, batch.payers
    offered = [registry.offers(host, program)[0] > 0 for program in programs]
    measured = [measurement is None or measurements.is_allowed(host, measurement, program) for program in programs]
    return Books(
        record=record,
        lapsed=lapsed(host, record),
        offered=offered,
        refereed=[not batch.optimistic or any(declarations.declared(host, program)[0]) for program in programs],
        withdrawn_by=[
            None if offers else registry.withdrawn_by(host, program)
            for program, offers in zip(programs, offered, strict=True)
        ],
        measured=measured,
        measured_before=[
            allowed or (measurement is not None and measurements.was_allowed(host, measurement, program))
            for program, allowed in zip(programs, measured, strict=True)
        ],
        prices=[prices.read_prices(host, operator, program, method) for program in programs],
        allowance=[None if payer == operator else bank.spendable(host, payer, operator) for payer in payers],
        balance=[host.balance(payer) for payer in payers],
        by_allowance=[0] * len(payers),
        charged=[0] * len(payers),
    )


def price_limit(host: Host, books: Books, program: int, version: int) -> int | Code:
    """The price per unit that may be charged for a program, or why it may not run or not at this version."""
    if not books.offered[program]:
        return Code.PROGRAM_WITHDRAWN
    if not books.refereed[program]:
        return Code.PROGRAM_NOT_DECLARED
    if not books.measured[program]:
        return Code.MEASUREMENT_EXPIRED
    return prices.chargeable(host, books.prices[program], version)


def price_fault(host: Host, books: Books, batch: Batch, index: int) -> Code | None:
    """Why a statement's program, price version and amount do not settle; None if they do."""
    limit = price_limit(host, books, batch.program[index], batch.prices[index])
    if isinstance(limit, Code):
        return limit
    return Code.AMOUNT_EXCEEDS_PRICE if batch.amounts[index] > batch.units[index] * limit else None
