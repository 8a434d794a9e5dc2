"""Recent block hashes, so that a registration can show that it is fresh.

Rules:
1. The state holds the hashes of blocks of the last registration window, at least BEACON_SPACING_MS apart.
2. A block with transactions records its hash when the newest is that old; a block without, only when the newest is half a
   window old. So the application's hash does not change with the height alone.
3. The hash is the header's own, which is known once the block is decided: it counts from the next block on.
"""

from avow.chain.genesis import Genesis
from avow.chain.host import Block, Host, Storage

BEACON_SPACING_MS = 30_000

_BEACONS = b"chain/beacons"
_ENTRY = 48


def _entries(record: bytes | None) -> list[bytes]:
    data = record or b""
    return [data[at : at + _ENTRY] for at in range(0, len(data), _ENTRY)]


def _parse(entry: bytes) -> tuple[bytes, int, int]:
    return entry[:32], int.from_bytes(entry[32:40]), int.from_bytes(entry[40:])


def record_block(storage: Storage, genesis: Genesis, block: Block, block_hash: bytes, *, busy: bool) -> None:
    """Rules 1 and 2, at the end of a block."""
    entries = _entries(storage.get(_BEACONS))
    newest_ms = _parse(entries[-1])[2] if entries else None
    spacing = BEACON_SPACING_MS if busy else genesis.registration_window_ms // 2
    if newest_ms is not None and block.time_ms - newest_ms < spacing:
        return
    oldest_ms = block.time_ms - genesis.registration_window_ms
    kept = [entry for entry in entries if _parse(entry)[2] >= oldest_ms]
    kept.append(block_hash + block.height.to_bytes(8) + block.time_ms.to_bytes(8))
    storage.put(_BEACONS, b"".join(kept))


def is_recent(host: Host, block_hash: bytes) -> bool:
    """Whether this is the recorded hash of a block in the registration window."""
    oldest_ms = host.block.time_ms - host.genesis.registration_window_ms
    for entry in _entries(host.load(_BEACONS)):
        found, _, time_ms = _parse(entry)
        if found == block_hash:
            return time_ms >= oldest_ms
    return False


def beacon(host: Host) -> tuple[bytes, int, int]:
    """The newest recorded hash, its height and its block's time in milliseconds; zeros when there is none yet."""
    entries = _entries(host.load(_BEACONS))
    return _parse(entries[-1]) if entries else (bytes(32), 0, 0)
