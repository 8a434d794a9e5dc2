"""py_ecc, which eth-account imports, raises the recursion limit to 100,000 for the whole process: deep input would then overflow the
C stack where a RecursionError is due. Tests that import such packages do so inside `kept`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept() -> Iterator[None]:
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
