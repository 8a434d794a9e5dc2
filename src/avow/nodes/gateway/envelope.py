"""The one place where errors become HTTP: OpenAI's envelope and status codes.

`{"error": {"message", "type", "param", "code"}}`; `type` follows from the status, as OpenAI's own API has it. An error's
`hint` is appended to the message, its other fields stand under `error.avow` where there are any.
"""

from typing import Any

import msgspec

from avow.errors import AvowError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_encode = msgspec.json.Encoder().encode


def error_type(status: int) -> str:
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")


def error_body(error: AvowError) -> bytes:
    """The envelope's JSON."""
    message = f"{error.detail}. {error.hint}" if error.hint else error.detail
    content: dict[str, Any] = {
        "message": message,
        "type": error_type(error.http_status),
        "param": error.fields.get("param"),
        "code": error.code,
    }
    more = {name: value for name, value in error.fields.items() if name != "param"}
    if more:
        content["avow"] = more
    return _encode({"error": content})
