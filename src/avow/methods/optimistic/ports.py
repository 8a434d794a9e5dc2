"""What the integers of a tensor program stand for, as the effective parameters record it; tensors of request and answer as those integers.

Rules:
1. A port is {"name", "scale", "rounding", "stands_for", "type", "low", "high"}: one for each program input, or output, in their order.
   `scale` is one decimal, or several separated by commas for the values of the last axis in turn.
2. Into the program: integer = clamp(round(value / scale)), `rounding` nearest (halves to even) or floor, where the value is first that of
   the tensor's datatype. Out of it: value = integer · scale, in the type that it stands for.
3. Arithmetic is IEEE 754's binary64, one division or multiplication and one rounding for each value: the same bits in every language.
   So this agrees with exact/kernels/ports.py, and with web/verify, bit for bit.
4. What is not carried by these rules (a request's texts and bytes, 16-bit floats, a list of more scales than MAX_SCALES) is not compared:
   None. An answer holds numbers: what stands in their place is nothing that a program can give.

Beside the pure core: this alone of a receipt's checks computes with floats.
"""

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avow.exact.tensors import RANGES, pack

MAX_SCALES = 64
MAX_ELEMENTS = 1 << 24
_SCALE = re.compile(r"[0-9.eE+-]{1,40}")
_INTEGERS = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
_MEMBERS = {"name", "scale", "rounding", "stands_for", "type", "low", "high"}


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output (rule 1). `scales` are above zero."""

    name: str
    scales: tuple[float, ...]
    rounding: str
    stands_for: str
    type: str
    low: int
    high: int


def read_ports(value: object) -> tuple[Port | None, ...] | None:
    """The ports that effective parameters record, None in the place of one that is not comparable; None if these are none."""
    if not isinstance(value, list) or not 1 <= len(value) <= 64:
        return None
    found: list[Port | None] = []
    for item in value:
        port = None if item is None else _port(item)
        if item is not None and port is None:
            return None
        found.append(port)
    return tuple(found)


def _port(item: object) -> Port | None:
    if not isinstance(item, dict) or set(item) != _MEMBERS:
        return None
    texts = [item[name] for name in ("name", "scale", "rounding", "stands_for", "type")]
    numbers = item["low"], item["high"]
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        return None
    parts = item["scale"].split(",")
    if len(parts) > MAX_SCALES or not all(_SCALE.fullmatch(part) for part in parts):
        return None
    try:
        scales = tuple(float(part) for part in parts)
    except ValueError:
        return None
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        return None
    if item["type"] not in RANGES or item["rounding"] not in ("nearest", "floor"):
        return None
    least, most = RANGES[item["type"]]
    if not least <= item["low"] <= item["high"] <= most:
        return None
    return Port(item["name"], scales, item["rounding"], item["stands_for"], item["type"], item["low"], item["high"])


def into_program(port: Port, tensor: Mapping[str, Any]) -> bytes | None:
    """A request's tensor as the program's integers (rule 2); None for one that rule 4 leaves out."""
    values = _values(tensor)
    datatype = tensor.get("datatype")
    if values is None or datatype not in (*_INTEGERS, "FP32", "FP64"):
        return None
    low, high, scales, count = port.low, port.high, port.scales, len(port.scales)
    whole = math.floor if port.rounding == "floor" else round
    exact = [float(value) for value in values]
    if datatype == "FP32":
        try:
            exact = list(struct.unpack(f"<{len(exact)}f", struct.pack(f"<{len(exact)}f", *exact)))
        except OverflowError:  # no engine took such a request
            return None
    if count == 1:
        scale = scales[0]
        found = [_clamped(value / scale, whole, low, high) for value in exact]
    else:
        found = [_clamped(value / scales[at % count], whole, low, high) for at, value in enumerate(exact)]
    return pack(port.type, found)


def _clamped(quotient: float, whole: Any, low: int, high: int) -> int:
    if quotient <= low:  # before it is made whole: it may be infinite
        return low
    return high if quotient >= high else whole(quotient)


def out_of_program(port: Port, tensor: Mapping[str, Any]) -> bytes | None:
    """The program's integers that an answer's tensor stands for; None where rule 4 leaves it out.

    Raises ValueError or OverflowError for values that no integers of the port stand for.
    """
    if port.stands_for == "float16":
        return None
    values = _values(tensor)
    if values is None:
        raise ValueError("an answer's tensor does not hold numbers")
    single = port.stands_for != "float64"
    found: list[int] = []
    for at, value in enumerate(values):
        scale = port.scales[at % len(port.scales)]
        integer = round(value / scale)
        given = integer * scale
        if single:
            (given,) = struct.unpack("<f", struct.pack("<f", given))
        if given != value or not port.low <= integer <= port.high:
            raise ValueError("a value is not one that the program can give")
        found.append(integer)
    return pack(port.type, found)


def _values(tensor: Mapping[str, Any]) -> Sequence[Any] | None:
    """The tensor's numbers, row-major; nested lists are flattened."""
    data = tensor.get("data")
    while isinstance(data, list) and data and isinstance(data[0], list):
        if not all(isinstance(item, list) for item in data):
            return None
        data = [value for item in data for value in item]
    if not isinstance(data, list) or len(data) > MAX_ELEMENTS:
        return None
    if not all(type(value) in (int, float, bool) and abs(value) <= 1 << 1023 for value in data):
        return None
    return data
