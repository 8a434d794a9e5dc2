"""JSON-RPC 2.0 over HTTP POST, single and batched, as a bare ASGI application.

Rules:
1. One URL. A body of at most MAX_BODY bytes, at most MAX_BATCH calls in it; a larger one is refused before it is parsed.
2. A call's error is its own: the other calls of a batch are answered. Notifications (calls without id) get no answer.
3. Unknown methods are error -32601, so that tools fall back. An unexpected fault is -32603 without details, and is logged.
4. A browser's page on another site gets no answer: the Host header must name an address, localhost or an allowed name,
   and no CORS header is sent unless its origin was allowed.
"""

import asyncio
import functools
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from avow.errors import AvowError
from avow.nodes.rpc import values
from avow.nodes.rpc.ethereum import EthereumMethods, Method
from avow.nodes.rpc.node import ChainNode
from avow.nodes.rpc.proofs import ProofMethods
from avow.nodes.rpc.values import RpcError

log = logging.getLogger("avow.chain.rpc")

MAX_BODY = 8 * 1024 * 1024
MAX_BATCH = 500
AT_ONCE = 50
INTERNAL_ERROR = -32603

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class RpcApplication:
    """The ASGI application of one node."""

    def __init__(self, node: ChainNode, *, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> None:
        self._node = node
        self._methods: dict[str, Method] = EthereumMethods(node).table() | ProofMethods(node).table()
        self._hosts = frozenset(["localhost", *[host.lower() for host in hosts]])
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        extra = self._cors(headers.get("origin"))
        if not self._host_allowed(headers.get("host", "")):
            await _respond(send, 403, b"invalid host specified\n", "text/plain", extra)
        elif scope["method"] == "OPTIONS":
            await _respond(send, 204, b"", "text/plain", extra)
        elif scope["method"] == "GET":
            health = {"status": "ok", "height": self._node.engine.height}
            await _respond(send, 200, _encode(health), "application/json", extra)
        elif scope["method"] != "POST":
            await _respond(send, 405, b"POST a JSON-RPC call\n", "text/plain", extra)
        elif headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            await _respond(
                send, 415, b"invalid content type, only application/json is supported\n", "text/plain", extra
            )
        else:
            body = await _read(receive)
            if body is None:
                await _respond(send, 413, b"the body is too large\n", "text/plain", extra)
            else:
                await _respond(send, 200, await self.answer(body), "application/json", extra)

    def _host_allowed(self, host: str) -> bool:
        """Rule 4."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name.lower() in self._hosts:
            return True
        return _is_address(name.strip("[]"))

    def _cors(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        if origin is None or not (origin in self._origins or "*" in self._origins):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", b"content-type"),
            (b"vary", b"origin"),
        ]

    async def answer(self, body: bytes) -> bytes:
        """The response to one body: an object, a list, or nothing for notifications alone."""
        try:
            request = _decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _encode(_error(None, RpcError(values.PARSE_ERROR, "parse error")))
        if not isinstance(request, list):
            response = await self._one(request)
            return b"" if response is None else _encode(response)
        if not request:
            return _encode(_error(None, RpcError(values.INVALID_REQUEST, "empty batch")))
        if len(request) > MAX_BATCH:
            return _encode(_error(None, RpcError(values.INVALID_REQUEST, "batch too large")))
        responses = []
        for at in range(0, len(request), AT_ONCE):
            # Begun in order, so that transactions of one batch arrive in its order, and share one write to the disk.
            answers = await asyncio.gather(*[self._one(call) for call in request[at : at + AT_ONCE]])
            responses += [answer for answer in answers if answer is not None]
            await asyncio.sleep(0)  # blocks go on between the calls of a batch
        return _encode(responses) if responses else b""

    async def _one(self, call: Any) -> dict[str, Any] | None:
        if not isinstance(call, dict) or call.get("jsonrpc") != "2.0" or not isinstance(call.get("method"), str):
            return _error(None, RpcError(values.INVALID_REQUEST, "invalid request"))
        identity = call.get("id")
        if not (identity is None or isinstance(identity, str | int | float)):
            return _error(None, RpcError(values.INVALID_REQUEST, "invalid request"))
        try:
            response = {"jsonrpc": "2.0", "id": identity, "result": await self._run(call)}
        except RpcError as error:
            response = _error(identity, error)
        except AvowError as error:
            response = _error(identity, RpcError(values.SERVER_ERROR, error.detail))
        except Exception:
            log.exception("a fault in %s", call["method"])
            response = _error(identity, RpcError(INTERNAL_ERROR, "internal error"))
        return response if "id" in call else None

    async def _run(self, call: dict[str, Any]) -> Any:
        method = self._methods.get(call["method"])
        if method is None:
            name = call["method"][:64]
            raise RpcError(values.METHOD_NOT_FOUND, f"the method {name} does not exist/is not available")
        params = call.get("params", [])
        if not isinstance(params, list):
            raise RpcError(values.INVALID_PARAMS, "non-array args")
        return await method(params)


@functools.lru_cache(maxsize=64)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _error(identity: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "error": error.to_json()}


async def _read(receive: Receive) -> bytes | None:
    """The body; None when it is larger than MAX_BODY."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _respond(
    send: Send, status: int, body: bytes, content_type: str, extra: Sequence[tuple[bytes, bytes]]
) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
