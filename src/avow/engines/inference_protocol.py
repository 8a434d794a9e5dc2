"""The Open Inference Protocol, version 2, JSON form: requests and responses of tensor programs.

Rules:
1. Sizes are checked before parsing; a tensor's data has exactly as many values as its shape says, each in its type's range.
2. BYTES values are base64 texts, unless the tensor's parameters say `"content_type": "str"`: then they are the texts.
3. Numbers come back exactly (a 32-bit float as the 64-bit float of the same value); what JSON cannot hold is an error.
"""

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from avow.engines.errors import InvalidRequest, InvalidTensor
from avow.engines.openai import refusal
from avow.errors import TooLarge

MAX_BODY = 32 * 1024 * 1024
MAX_ELEMENTS = 1 << 24
MAX_RANK = 8

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
_RANGES: Mapping[str, tuple[int, int]] = {
    **{f"UINT{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (8, 16, 32, 64)},
}
_LARGEST = {"FP16": 65504.0, "FP32": 3.4028234663852886e38, "FP64": 1.7976931348623157e308}

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class InputTensor(Struct, forbid_unknown_fields=True):
    name: Name
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=1 << 31)]], Meta(max_length=MAX_RANK)]
    datatype: Datatype
    data: list[Any]
    parameters: dict[str, Any] | None = None


class OutputTensor(Struct, forbid_unknown_fields=True):
    name: Name
    parameters: dict[str, Any] | None = None


class InferBody(Struct, forbid_unknown_fields=True):
    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=256)]
    outputs: Annotated[list[OutputTensor], Meta(max_length=256)] | None = None
    id: Annotated[str, Meta(max_length=256)] | None = None
    parameters: dict[str, Any] | None = None
    avow: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request whose shape was checked. `body` is the whole JSON object, `extension` its `avow` field."""

    body: Mapping[str, Any]
    extension: Mapping[str, Any]


def parse_infer(body: bytes) -> InferRequest:
    """The request in an HTTP body. Raises TooLarge, InvalidRequest or InvalidTensor."""
    if len(body) > MAX_BODY:
        raise TooLarge("the request is too large", size=len(body), limit=MAX_BODY)
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", param=None) from error
    if not isinstance(decoded, dict):
        raise InvalidRequest("the body is a JSON object", param=None)
    return InferRequest(decoded, infer_body(decoded).avow or {})


def infer_body(body: Mapping[str, Any]) -> InferBody:
    """The typed view of a request's JSON object. Raises InvalidRequest."""
    try:
        request = msgspec.convert(body, InferBody)
    except (msgspec.ValidationError, RecursionError) as error:
        raise refusal(str(error)) from error
    names = [tensor.name for tensor in request.inputs]
    if len(set(names)) != len(names):
        raise InvalidTensor("two inputs have one name", param="inputs")
    return request


def values_of(tensor: InputTensor) -> list[Any]:
    """The tensor's values in row-major order, each checked: bool, int, float, or bytes. Raises InvalidTensor."""
    count = math.prod(tensor.shape)
    if count > MAX_ELEMENTS:
        raise InvalidTensor("the tensor is too large", param=f"inputs.{tensor.name}", limit=MAX_ELEMENTS)
    flat = tensor.data
    if flat and isinstance(flat[0], list):
        flat = _flatten(tensor)
    if len(flat) != count:
        detail = f"the shape says {count} values, the data has {len(flat)}"
        raise InvalidTensor(detail, param=f"inputs.{tensor.name}.data")
    if tensor.datatype == "BYTES":
        return [_bytes(value, tensor) for value in flat]
    if tensor.datatype == "BOOL":
        wrong = any(type(value) is not bool for value in flat)
    elif tensor.datatype in _RANGES:
        low, high = _RANGES[tensor.datatype]
        wrong = any(type(value) is not int or not low <= value <= high for value in flat)
    else:
        most = _LARGEST[tensor.datatype]
        wrong = any(type(value) not in (int, float) or not -most <= value <= most for value in flat)
    if wrong:
        raise InvalidTensor(f"a value is no {tensor.datatype}", param=f"inputs.{tensor.name}.data")
    return flat


def _flatten(tensor: InputTensor) -> list[Any]:
    """Nested data, whose nesting must be the shape."""
    level: list[Any] = tensor.data
    for depth, length in enumerate(tensor.shape):
        last = depth == len(tensor.shape) - 1
        if depth == 0:
            if len(level) != length:
                raise _misshapen(tensor)
            continue
        inner: list[Any] = []
        for item in level:
            if not isinstance(item, list) or len(item) != length:
                raise _misshapen(tensor)
            inner.extend(item)
        level = inner
        if last and any(isinstance(item, list) for item in level[:1]):
            raise _misshapen(tensor)
    return level


def _misshapen(tensor: InputTensor) -> InvalidTensor:
    return InvalidTensor("the data's nesting is not the shape", param=f"inputs.{tensor.name}.data")


def _bytes(value: object, tensor: InputTensor) -> bytes:
    where = f"inputs.{tensor.name}.data"
    if not isinstance(value, str):
        raise InvalidTensor("a BYTES value is a text", param=where)
    if (tensor.parameters or {}).get("content_type", "base64") == "str":
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InvalidTensor("a text holds half of a character", param=where) from None
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidTensor("a BYTES value is base64 (RFC 4648, with padding)", param=where) from None
