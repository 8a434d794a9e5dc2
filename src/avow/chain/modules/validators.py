"""Who validates: the set that the consensus engine is told of, changed by the governance account and by proof of a fault.

Rules:
1. The state holds the set that will be in force two blocks on (CometBFT: a block's updates apply at height + 2). It begins as the
   genesis' set.
2. A block's updates are the difference between the set before and after it, whatever happened in between: the engine refuses the
   removal of a validator that it does not know, and any validator named twice.
3. No power exceeds MAX_POWER, no set has more than MAX_VALIDATORS or none at all: so the total stays far below CometBFT's limit of
   2^63 / 8. A genesis without validators, or one that fixes them, lets nobody change them.
4. Evidence of a fault that stands in a block (two votes at one height, an attack on light clients), which CometBFT has checked, ends
   its validator: power 0 from then on, and its key never validates again. Only the last one stays, since no set is empty. Evidence
   comes after the block's transactions; the first fault of a validator is the one that is recorded.

State: "validators/set" → (key, u64 power)…, sorted by key; "validators/before" → u64 height ‖ the set before that block;
"validators/fault/" ‖ address (20 bytes) → u64 height of the fault ‖ u8 kind.
"""

from collections.abc import Sequence

from avow.chain.abci import Event, EventAttribute, Misbehavior, MisbehaviorType, ValidatorUpdate
from avow.chain.errors import Code, Refused
from avow.chain.genesis import Genesis
from avow.chain.host import Block, Host, Module, Storage, bind
from avow.chain.solidity import load_interface
from avow.receipt.headers import validator_address

ADDRESS = bytes.fromhex("0000000000000000000000000000000000000a06")
MAX_POWER = 1 << 40
MAX_VALIDATORS = 256

_SET = b"validators/set"
_BEFORE = b"validators/before"
_FAULT = b"validators/fault/"
_ENTRY = 40


def _decode(record: bytes | None) -> dict[bytes, int]:
    data = record or b""
    entries = [data[at : at + _ENTRY] for at in range(0, len(data), _ENTRY)]
    return {entry[:32]: int.from_bytes(entry[32:]) for entry in entries}


def _encode(powers: dict[bytes, int]) -> bytes:
    return b"".join([key + power.to_bytes(8) for key, power in sorted(powers.items())])


def set_power(host: Host, key: bytes, power: int) -> None:
    if host.caller != host.genesis.governance:
        raise Refused(Code.NOT_AUTHORISED)
    if host.genesis.validators_fixed or not host.genesis.validators:
        raise Refused(Code.VALIDATORS_FIXED)
    if power > MAX_POWER:
        raise Refused(Code.OUT_OF_RANGE)
    record = host.load(_SET) or b""
    powers = _decode(record)
    if power == 0 and key not in powers:
        raise Refused(Code.VALIDATOR_UNKNOWN)
    if power and host.load(_FAULT + validator_address(key)) is not None:
        raise Refused(Code.VALIDATOR_AT_FAULT)
    powers[key] = power
    left = {found: value for found, value in powers.items() if value}
    if not left:
        raise Refused(Code.LAST_VALIDATOR)
    if len(left) > MAX_VALIDATORS:
        raise Refused(Code.TOO_MANY_VALIDATORS)
    before = host.load(_BEFORE)
    if before is None or before[:8] != host.block.height.to_bytes(8):
        host.store(_BEFORE, host.block.height.to_bytes(8) + record)
    host.store(_SET, _encode(left))
    host.log("PowerSet", key, power)


def punish(storage: Storage, block: Block, proven: Sequence[Misbehavior]) -> tuple[Event, ...]:
    """Rule 4, after a block's transactions; what happened, for whoever searches."""
    events: list[Event] = []
    for fault in proven:
        place = _FAULT + fault.address
        if fault.kind is MisbehaviorType.UNKNOWN or storage.get(place) is not None:
            continue
        storage.put(place, fault.height.to_bytes(8) + fault.kind.to_bytes(1))
        removed = _remove(storage, block, fault.address)
        given = (("address", fault.address.hex()), ("kind", fault.kind.name.lower()), ("height", str(fault.height)))
        attributes = [EventAttribute(name, value) for name, value in (*given, ("removed", str(removed).lower()))]
        events.append(Event("misbehavior", tuple(attributes)))
    return tuple(events)


def _remove(storage: Storage, block: Block, address: bytes) -> bool:
    """Whether the validator with this address was one, and is none any more."""
    record = storage.get(_SET) or b""
    left = {key: power for key, power in _decode(record).items() if validator_address(key) != address}
    if not left or len(left) == len(record) // _ENTRY:
        return False
    before = storage.get(_BEFORE)
    if before is None or before[:8] != block.height.to_bytes(8):
        storage.put(_BEFORE, block.height.to_bytes(8) + record)
    storage.put(_SET, _encode(left))
    return True


def fault_of(host: Host, key: bytes) -> tuple[int, int]:
    """The height and kind of the fault that was proven of a validator; zeros when none was."""
    record = host.load(_FAULT + validator_address(key))
    return (0, 0) if record is None else (int.from_bytes(record[:8]), record[8])


def power_of(host: Host, key: bytes) -> int:
    return _decode(host.load(_SET)).get(key, 0)


def all_validators(host: Host) -> tuple[list[bytes], list[int]]:
    powers = _decode(host.load(_SET))
    return list(powers), list(powers.values())


def write_genesis(storage: Storage, genesis: Genesis) -> None:
    """Rule 1. A genesis without validators leaves them to the engine."""
    if genesis.validators:
        storage.put(_SET, _encode(dict(genesis.validators)))


def updates(storage: Storage, block: Block) -> tuple[ValidatorUpdate, ...]:
    """Rule 2, at the end of a block; sorted by key."""
    record = storage.get(_BEFORE)
    if record is None or int.from_bytes(record[:8]) != block.height:
        return ()
    before, after = _decode(record[8:]), _decode(storage.get(_SET))
    return tuple(
        [
            ValidatorUpdate(key, after.get(key, 0))
            for key in sorted({*before, *after})
            if before.get(key, 0) != after.get(key, 0)
        ]
    )


MODULE: Module = bind(
    ADDRESS,
    load_interface("avow.chain.modules", "validators.sol"),
    {"setPower": set_power, "power": power_of, "validators": all_validators, "fault": fault_of},
)
