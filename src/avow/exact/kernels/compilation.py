"""How kernels become machine code: compiled at first use, kept on disk, called by address.

Rules:
1. A kernel is a function of two addresses, (row, context), and returns nothing. `row` holds WIDTH integers that describe one operator
   (kernels/rows.py), `context` what is true of the whole step (kernels/layout.py). It holds no state, raises nothing, takes no lock.
2. Every kernel is compiled by itself, when the first program needs it, and called by address. So a program pays for the kinds that it
   has, and a new kind costs the others nothing.
3. The cache on disk is keyed by every source file of this package: a kernel inlines helpers from other files, and a stale one would
   break the promise of equal bits without a sign.
"""

import threading
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numba.core.typing
import numba.extending
from numba.core import caching, types
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target

WIDTH = 64
"""Integers in a row."""

_PARAMETERS = ParamSpec("_PARAMETERS")
_RESULT = TypeVar("_RESULT")
_COMPILING = threading.Lock()
_typing: Any = numba.core.typing
_signature: Any = _typing.signature


@cache
def sources_digest() -> str:
    """A digest of all sources of this package."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


class _Stamp:
    def get_source_stamp(self) -> str:
        return sources_digest()


class _Provided(_Stamp, caching.UserProvidedCacheLocator):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class _InTree(_Stamp, caching.InTreeCacheLocator):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class _UserWide(_Stamp, caching.UserWideCacheLocator):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class _Results(caching.CompileResultCacheImpl):
    _locator_classes = [_Provided, _InTree, _UserWide]  # noqa: RUF012 : as numba declares it


class _Cache(caching.FunctionCache):
    _impl_class = _Results


_cache_of: Any = _Cache


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function whose code is written by hand, instruction by instruction."""
    return numba.extending.intrinsic(function)


def helper(function: Callable[_PARAMETERS, _RESULT]) -> Callable[_PARAMETERS, _RESULT]:
    """A function that kernels call: compiled into each of them."""
    return cast("Callable[_PARAMETERS, _RESULT]", numba.njit(nogil=True, error_model="numpy")(function))


def entry(function: Callable[_PARAMETERS, _RESULT]) -> Callable[_PARAMETERS, _RESULT]:
    """A function that Python calls: compiled for its first arguments' types, kept on disk, runs without the interpreter's lock."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    compiled._cache = _cache_of(function)  # noqa: SLF001 : numba offers no other way to name the stamp
    return cast("Callable[_PARAMETERS, _RESULT]", compiled)


class Kernel:
    """One kernel: `address` compiles it, or loads it from the cache, when first asked for."""

    __slots__ = ("_address", "_arguments", "_function", "_keep")

    def __init__(self, function: Callable[..., None], arguments: int = 2) -> None:
        """`arguments`: how many addresses, or other int64, the function takes."""
        self._function = function
        self._arguments = arguments
        self._address = 0
        self._keep: Any = None

    @property
    def address(self) -> int:
        if not self._address:
            with _COMPILING:
                if not self._address:
                    self._compile()
        return self._address

    def _compile(self) -> None:
        parameters = _signature(types.void, *([types.int64] * self._arguments))
        compiled: Any = CFunc(
            self._function,
            (parameters.args, parameters.return_type),
            locals={},
            options={"error_model": "numpy"},
        )
        compiled._cache = _cache_of(self._function)  # noqa: SLF001
        compiled.compile()
        cpu_target.target_context.refresh()  # pyright: ignore[reportAttributeAccessIssue]
        self._keep = compiled
        self._address = int(compiled.address)
