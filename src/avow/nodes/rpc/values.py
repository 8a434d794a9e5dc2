"""JSON-RPC's values: quantities, data, addresses and block tags in; the errors that clients know out.

Rules:
1. A quantity is minimal hexadecimal with 0x, data is whole bytes with 0x (Ethereum JSON-RPC specification).
2. What a parameter may be is checked before it is used; what is wrong is error -32602 with the parameter's name.
"""

from typing import Any

from avow.errors import InputError
from avow.receipt.encoding import from_base64url

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
SERVER_ERROR = -32000
LIMIT_EXCEEDED = -32005
REVERTED = 3

MAX_DATA = 1024 * 1024


class RpcError(InputError):
    """An error as JSON-RPC carries it. `data`: hexadecimal bytes of a revert, or None."""

    code = "rpc"

    def __init__(self, number: int, message: str, data: str | None = None) -> None:
        super().__init__(message, number=number)
        self.number = number
        self.message = message
        self.data = data

    def to_json(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.number, "message": self.message}
        return error if self.data is None else error | {"data": self.data}


def invalid(name: str, what: str) -> RpcError:
    return RpcError(INVALID_PARAMS, f"invalid argument {name}: {what}")


def parameter(params: list[Any], index: int, name: str) -> Any:
    """A parameter that must be there."""
    if index >= len(params):
        raise RpcError(INVALID_PARAMS, f"missing value for required argument {index} ({name})")
    return params[index]


def optional(params: list[Any], index: int, default: Any) -> Any:
    return params[index] if index < len(params) and params[index] is not None else default


def quantity(value: Any, name: str, *, maximum: int = (1 << 256) - 1) -> int:
    if isinstance(value, int) and not isinstance(value, bool):  # some libraries send plain numbers where they may
        number = value
    elif isinstance(value, str) and value.startswith("0x") and 2 < len(value) <= 66:
        try:
            number = int(value, 16)
        except ValueError:
            raise invalid(name, "invalid hex string") from None
    else:
        raise invalid(name, "a hex quantity is expected")
    if not 0 <= number <= maximum:
        raise invalid(name, "out of range")
    return number


def data(value: Any, name: str, *, maximum: int = MAX_DATA) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise invalid(name, "hex data with 0x is expected")
    if len(value) > 2 + 2 * maximum:
        raise invalid(name, f"more than {maximum} bytes")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise invalid(name, "invalid hex string") from None


def octets(value: Any, name: str, length: int) -> bytes:
    """Data of exactly `length` bytes."""
    found = data(value, name, maximum=length)
    if len(found) != length:
        raise invalid(name, f"{length} bytes are expected, {len(found)} given")
    return found


def key(value: Any, name: str) -> bytes:
    """32 bytes, as hexadecimal or base64url."""
    if isinstance(value, str) and not value.startswith("0x"):
        found = from_base64url(value, max_bytes=32)
        if len(found) != 32:
            raise invalid(name, "32 bytes are expected")
        return found
    return octets(value, name, 32)


def timeout_s(value: Any, *, maximum_ms: int = 60_000) -> float:
    return quantity(value, "timeout_ms", maximum=maximum_ms) / 1000


def mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(name, "an object is expected")
    return value
