"""The gateway as an ASGI application: the hot paths by a dictionary, everything else by Starlette's router."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from avow.errors import AvowError, NotFound
from avow.nodes.gateway.control import Control
from avow.nodes.gateway.envelope import error_body
from avow.nodes.gateway.errors import HostNotAllowed, MethodNotAllowed
from avow.nodes.gateway.http import error_headers, respond_error
from avow.nodes.gateway.inference import Inference, model_of_path
from avow.nodes.gateway.protocol import HeaderList

LOOPBACK_NAMES = frozenset((b"127.0.0.1", b"localhost", b"[::1]"))


class GatewayApplication:
    """`hosts` are the names that a Host header may hold; empty allows all."""

    def __init__(self, inference: Inference, control: Control, hosts: frozenset[bytes]) -> None:
        self._inference = inference
        self._hosts = hosts
        self._hot: dict[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): inference.chat,
        }
        self._rest = Starlette(
            routes=control.routes(),
            exception_handlers={AvowError: _avow_error, HTTPException: _http_error},
        )
        self._rest.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a gateway does not speak {scope['type']}")
        if not self.host_allowed(scope["headers"]):
            await respond_error(send, HostNotAllowed(hint="start the gateway with --allowed-host to answer for it"))
            return
        path, method = scope["path"], scope["method"]
        hot = self._hot.get((method, path))
        if hot is not None:
            await hot(scope, receive, send)
            return
        model = model_of_path(path) if method == "POST" else None
        if model is not None:
            await self._inference.tensors(model, scope, receive, send)
            return
        await self._rest(scope, receive, send)

    def host_allowed(self, headers: HeaderList) -> bool:
        """Whether the Host header names this gateway."""
        if not self._hosts:
            return True
        for name, value in headers:
            if name == b"host":
                host = value.lower()
                return host in self._hosts or host[: host.rfind(b":")] in self._hosts
        return False


async def _avow_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, AvowError):
        raise error
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.http_status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405, in the envelope."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    known = MethodNotAllowed if status == 405 else NotFound
    return await _avow_error(request, known(f"{request.method} {request.url.path[:128]} is not served here"))
