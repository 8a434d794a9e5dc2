"""How long tests of real processes wait on a machine that others use too.

A bound that is about the product (a validator is back within 20 s) holds where its processes get the processor when they ask for it. Where more
processes want to run than there are cores, everything takes longer in that proportion, and so do the bounds.
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
