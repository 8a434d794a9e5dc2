"""Who validates: the set that the consensus engine is told of, changed by the governance account.

Rules:
1. The state holds the set that will be in force two blocks on (CometBFT: a block's updates apply at height + 2). It begins as the
   genesis' set.
2. A block's updates are the difference between the set before and after it, whatever happened in between: the engine refuses the
   removal of a validator that it does not know, and any validator named twice.
3. No power exceeds MAX_POWER, no set has more than MAX_VALIDATORS or none at all: so the total stays far below CometBFT's
   limit of 2^63 / 8.

State: "validators/set" → (key, u64 power)…, sorted by key; "validators/before" → u64 height ‖ the set before that block.
"""

from avow.chain.abci import ValidatorUpdate
from avow.chain.errors import Code, Refused
from avow.chain.genesis import Genesis
from avow.chain.host import Block, Host, Module, Storage, bind
from avow.chain.solidity import load_interface

ADDRESS = bytes.fromhex("0000000000000000000000000000000000000a06")
MAX_POWER = 1 << 40
MAX_VALIDATORS = 256

_SET = b"validators/set"
_BEFORE = b"validators/before"
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
    if power > MAX_POWER:
        raise Refused(Code.OUT_OF_RANGE)
    record = host.load(_SET) or b""
    powers = _decode(record)
    if power == 0 and key not in powers:
        raise Refused(Code.VALIDATOR_UNKNOWN)
    powers[key] = power
    left = {found: value for found, value in powers.items() if value}
    if not left:
        raise Refused(Code.LAST_VALIDATOR)
    if len(left) > MAX_VALIDATORS:
        raise Refused(Code.TOO_MANY_VALIDATORS)
    height = host.block.height.to_bytes(8)
    before = host.load(_BEFORE)
    if before is None or before[:8] != height:
        host.store(_BEFORE, height + record)
    host.store(_SET, _encode(left))
    host.log("PowerSet", key, power)


def power_of(host: Host, key: bytes) -> int:
    return _decode(host.load(_SET)).get(key, 0)


def all_validators(host: Host) -> tuple[list[bytes], list[int]]:
    powers = _decode(host.load(_SET))
    return list(powers), list(powers.values())


def write_genesis(storage: Storage, genesis: Genesis) -> None:
    """Rule 1. A genesis without validators leaves them to the engine, and they cannot change."""
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
    {"setPower": set_power, "power": power_of, "validators": all_validators},
)
