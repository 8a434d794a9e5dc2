"""How long tests of real processes wait on a machine that others use too.

Where more processes want to run than there are cores, everything takes longer in that proportion, and so does what a test waits for. What the
product promises (a validator is back within 20 s) is no such wait and is not stretched.
"""

import os

MOST = 12.0


def slowness() -> float:
    """Processes that want to run for each core (the last minute's average), from 1 to MOST."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 1.0
    return min(MOST, max(1.0, load / (os.cpu_count() or 1)))


def patient_s(seconds: float) -> float:
    """What `seconds` of an otherwise idle machine are here, now."""
    return seconds * slowness()
