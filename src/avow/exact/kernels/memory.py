"""Memory by address: what kernels read and write.

Rules:
1. An address is an int64. Views are arrays without owner over it: int8, int16, int32, int64, uint8, uint32 or float64.
2. Nothing here checks a bound. A kernel's bounds come from a program that was checked when it was loaded, and from inputs that were
   checked when the run began.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from avow.exact.kernels.compilation import helper, intrinsic

carray: Any = numba.carray  # type: ignore[attr-defined]

Array = Any
"""An array in compiled code: its type is known to the compiler alone."""

# NumPy's integers, as compiled code uses them: conversions that truncate, known to the compiler alone.
int8: Any = np.int8
int16: Any = np.int16
int32: Any = np.int32
int64: Any = np.int64
uint8: Any = np.uint8
uint32: Any = np.uint32


def _pointer_to(element: Any) -> Any:
    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(sig.return_type))

        pointer_to: Any = types.CPointer
        return pointer_to(element)(types.int64), generate

    return pointer


_int8 = _pointer_to(types.int8)
_int16 = _pointer_to(types.int16)
_int32 = _pointer_to(types.int32)
_int64 = _pointer_to(types.int64)
_uint8 = _pointer_to(types.uint8)
_uint32 = _pointer_to(types.uint32)
_float64 = _pointer_to(types.float64)


@helper
def int8s(address: int, count: int) -> Array:
    return carray(_int8(address), (count,), np.int8)


@helper
def int16s(address: int, count: int) -> Array:
    return carray(_int16(address), (count,), np.int16)


@helper
def int32s(address: int, count: int) -> Array:
    return carray(_int32(address), (count,), np.int32)


@helper
def int64s(address: int, count: int) -> Array:
    return carray(_int64(address), (count,), np.int64)


@helper
def uint8s(address: int, count: int) -> Array:
    return carray(_uint8(address), (count,), np.uint8)


@helper
def uint32s(address: int, count: int) -> Array:
    return carray(_uint32(address), (count,), np.uint32)


@helper
def float64s(address: int, count: int) -> Array:
    return carray(_float64(address), (count,), np.float64)


@helper
def value_at(address: int, size: int, index: int) -> int:
    """One value of a tensor with `size` bytes per value."""
    if size == 1:
        return int64(int8s(address + index, 1)[0])
    if size == 2:
        return int64(int16s(address + 2 * index, 1)[0])
    return int64(int32s(address + 4 * index, 1)[0])


@helper
def put(address: int, size: int, index: int, value: int) -> None:
    """Write one value, known to fit."""
    if size == 1:
        int8s(address + index, 1)[0] = value
    elif size == 2:
        int16s(address + 2 * index, 1)[0] = value
    else:
        int32s(address + 4 * index, 1)[0] = value


def _move(name: str) -> Any:
    @intrinsic
    def move(typing_context: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
            to, start, length = arguments
            byte = cgutils.voidptr_t
            copy: Any = cgutils.raw_memcpy
            copy(builder, builder.inttoptr(to, byte), builder.inttoptr(start, byte), length, 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    move.__name__ = name
    return move


copy_bytes = _move("copy_bytes")
"""copy_bytes(target, source, count): the two do not overlap."""


@intrinsic
def call_kernel(typing_context: Any, address: Any, row: Any, context: Any) -> Any:  # noqa: ARG001
    """Call the kernel at `address`."""

    def generate(target: Any, builder: Any, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
        where, first, second = arguments
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word, word])
        builder.call(builder.inttoptr(where, kind.as_pointer()), [first, second])
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate
