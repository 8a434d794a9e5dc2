"""Which measured code may run which program, and when: the governance account's list.

Rules:
1. An entry is (measurement, program or any, from, until), judged by block time: from ≤ time < until.
2. A key whose measurement has no entry at all stays registered and settles nothing.
3. Withdrawing an entry stops new statements from that block on; what was settled stays settled. A withdrawn entry is kept as
   an empty interval: the chain knows that it was there.
"""

from avow.chain.errors import Code, Refused
from avow.chain.genesis import AllowedMeasurement, Genesis
from avow.chain.host import Host, Storage

NO_END_MS = (1 << 64) - 1
ANY_PROGRAM = bytes(32)

_ENTRY = b"nodes/measurement/"
_COUNT = b"nodes/measurement-entries/"
_WITHDRAWN = bytes(16)


def allow_measurement(host: Host, measurement: bytes, program: bytes, from_ms: int, until_ms: int) -> None:
    _check_governance(host)
    if from_ms >= until_ms:
        raise Refused(Code.OUT_OF_RANGE)
    key = _ENTRY + measurement + program
    if _interval(host, key) is None:
        host.store(_COUNT + measurement, (_entries(host, measurement) + 1).to_bytes(8))
    host.store(key, from_ms.to_bytes(8) + until_ms.to_bytes(8))
    host.log("MeasurementAllowed", measurement, program, from_ms, until_ms)


def withdraw_measurement(host: Host, measurement: bytes, program: bytes) -> None:
    _check_governance(host)
    key = _ENTRY + measurement + program
    if _interval(host, key) is None:
        raise Refused(Code.MEASUREMENT_UNKNOWN)
    left = _entries(host, measurement) - 1
    host.store(_COUNT + measurement, left.to_bytes(8) if left else None)
    host.store(key, _WITHDRAWN)
    host.log("MeasurementWithdrawn", measurement, program)


def is_listed(host: Host, measurement: bytes) -> bool:
    """Rule 2: whether there is any entry."""
    return _entries(host, measurement) > 0


def is_allowed(host: Host, measurement: bytes, program: bytes) -> bool:
    """Rule 1, by an entry for this program or for any."""
    return any(allowed_measurement(host, measurement, entry)[0] for entry in (program, ANY_PROGRAM))


def allowed_measurement(host: Host, measurement: bytes, program: bytes) -> tuple[bool, int, int]:
    """Whether this very entry holds now, and its interval."""
    interval = _interval(host, _ENTRY + measurement + program)
    if interval is None:
        return False, 0, 0
    from_ms, until_ms = interval
    return from_ms <= host.block.time_ms < until_ms, from_ms, until_ms


def was_allowed(host: Host, measurement: bytes, program: bytes) -> bool:
    """Whether an entry for this program or for any holds now, or held before it ended or was withdrawn."""
    records = [host.load(_ENTRY + measurement + entry) for entry in (program, ANY_PROGRAM)]
    return any(record is not None and int.from_bytes(record[:8]) <= host.block.time_ms for record in records)


def write_genesis(storage: Storage, genesis: Genesis) -> None:
    """The entries that a network begins with."""
    counts: dict[bytes, int] = {}
    distinct: dict[tuple[bytes, bytes], AllowedMeasurement] = {
        (item.measurement, item.program or ANY_PROGRAM): item for item in genesis.measurements
    }
    for (measurement, program), item in distinct.items():
        until_ms = NO_END_MS if item.until_ms is None else item.until_ms
        storage.put(_ENTRY + measurement + program, item.from_ms.to_bytes(8) + until_ms.to_bytes(8))
        counts[measurement] = counts.get(measurement, 0) + 1
    for measurement, count in counts.items():
        storage.put(_COUNT + measurement, count.to_bytes(8))


def _interval(host: Host, key: bytes) -> tuple[int, int] | None:
    """From and until of an entry that is not withdrawn."""
    record = host.load(key)
    if record is None or record == _WITHDRAWN:
        return None
    return int.from_bytes(record[:8]), int.from_bytes(record[8:])


def _entries(host: Host, measurement: bytes) -> int:
    return int.from_bytes(host.load(_COUNT + measurement) or b"")


def _check_governance(host: Host) -> None:
    if host.caller != host.genesis.governance:
        raise Refused(Code.NOT_AUTHORISED)
