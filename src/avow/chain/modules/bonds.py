"""What operators of optimistic keys put at stake.

Rules:
1. An operator has one bond for all its keys. It is money of the module's account; this record says whose.
2. Each open statement locks its share (receipt/finality.py, rule 4). What the free part does not cover is refused.
3. Only the free part is paid back, and nothing while a challenge or a demand waits against the operator.
4. A share that is slashed leaves the bond: half goes to who showed the fault, the rest to nobody (BURNT).
"""

from dataclasses import replace

from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.receipt.finality import BondRecord, bond_key

ADDRESS = bytes.fromhex("0000000000000000000000000000000000000a05")
BURNT = bytes(20)
"""The address that no key is known for; what it holds is out of the world."""


def load_bond(host: Host, operator: bytes) -> BondRecord:
    record = host.load(bond_key(operator))
    return BondRecord() if record is None else BondRecord.from_bytes(record)


def _store(host: Host, operator: bytes, bond: BondRecord) -> None:
    host.store(bond_key(operator), bond.to_bytes() if bond != BondRecord() else None)


def deposit(host: Host) -> None:
    if not host.value:
        raise Refused(Code.OUT_OF_RANGE)
    bond = load_bond(host, host.caller)
    bond = replace(bond, amount=bond.amount + host.value)
    _store(host, host.caller, bond)
    host.log("Deposited", host.caller, host.value, bond.amount)


def withdraw(host: Host, amount: int) -> None:
    """Rule 3."""
    bond = load_bond(host, host.caller)
    if not amount:
        raise Refused(Code.OUT_OF_RANGE)
    if bond.disputes:
        raise Refused(Code.DISPUTE_WAITS)
    if amount > bond.free:
        raise Refused(Code.BOND_LOCKED)
    bond = replace(bond, amount=bond.amount - amount)
    _store(host, host.caller, bond)
    host.transfer(ADDRESS, host.caller, amount)
    host.log("Withdrawn", host.caller, amount, bond.amount)


def bond_of(host: Host, operator: bytes) -> tuple[int, int, int]:
    """Amount, locked, and how many disputes wait."""
    bond = load_bond(host, operator)
    return bond.amount, bond.locked, bond.disputes


def lock(host: Host, operator: bytes, amount: int) -> None:
    """Rule 2. The caller has seen that the free part covers it. Raises Refused (BOND_LOCKED)."""
    bond = load_bond(host, operator)
    if amount > bond.free:
        raise Refused(Code.BOND_LOCKED)
    _store(host, operator, replace(bond, locked=bond.locked + amount))


def release(host: Host, operator: bytes, amount: int) -> None:
    """What was locked is free again."""
    bond = load_bond(host, operator)
    _store(host, operator, replace(bond, locked=bond.locked - amount))


def slash(host: Host, operator: bytes, amount: int) -> int:
    """Rule 4: take a locked share out of the bond and burn its half; the winner's half, which stays with the module."""
    bond = load_bond(host, operator)
    _store(host, operator, replace(bond, amount=bond.amount - amount, locked=bond.locked - amount))
    reward = amount // 2
    burn(host, amount - reward)
    return reward


def burn(host: Host, amount: int) -> None:
    """Out of the module's account, into nobody's."""
    host.transfer(ADDRESS, BURNT, amount)


def dispute_opened(host: Host, operator: bytes) -> None:
    bond = load_bond(host, operator)
    _store(host, operator, replace(bond, disputes=bond.disputes + 1))


def dispute_closed(host: Host, operator: bytes) -> None:
    bond = load_bond(host, operator)
    _store(host, operator, replace(bond, disputes=bond.disputes - 1))
