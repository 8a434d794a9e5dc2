"""Which statements are checked: a draw that neither node nor watcher can foresee when the statement is posted.

Rules:
1. beacon = the hash of the block after the one that settled the statement: it is made when the statement is fixed.
2. A statement is chosen if the first 64 bits of H("avow/audit-draw/1", beacon ‖ statement hash) are below rate · 2^64, the rate in
   millionths. So every watcher of one rate draws alike, and a higher rate draws all that a lower one does.

Pure: no clock, no network.
"""

from avow.receipt.encoding import tagged_hash

MILLION = 1_000_000
_TAG = b"avow/audit-draw/1"


def is_chosen(beacon: bytes, statement: bytes, rate_ppm: int) -> bool:
    """Rule 2. `beacon` and `statement`: 32 bytes."""
    drawn = int.from_bytes(tagged_hash(_TAG, beacon, statement)[:8])
    return drawn * MILLION < rate_ppm << 64
