"""Everything beside inference: what is served here, receipts, the trust policy, health and metrics."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from avow.errors import AvowError, EncodingError, NotFound, TooLarge
from avow.exact.descent import MAX_DEMAND
from avow.nodes.entitlement import Asker
from avow.nodes.errors import NotSettled, ReceiptNotFound
from avow.nodes.gateway.config import VERSION
from avow.nodes.gateway.directory import Directory, Link, Node
from avow.nodes.gateway.errors import BadOption, NoNode, is_away, says
from avow.nodes.gateway.frames import MalformedAnswer
from avow.nodes.gateway.metrics import CONTENT_TYPE, GatewayMetrics
from avow.nodes.gateway.overturned import Logs, overturned_by
from avow.nodes.gateway.pages import ASSETS, RECEIPT_PAGE, Asset
from avow.nodes.jobs import ProgramDescription
from avow.receipt.encoding import from_base64url
from avow.receipt.receipt import Receipt

MAX_WAIT_MS = 30_000
_ID = re.compile(r"[0-9a-f]{64}\Z")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_PRIVATE_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class TrustSource(Protocol):
    """Where the network's trust policy comes from, and what it says of a receipt."""

    async def policy(self) -> bytes:
        """The policy's JSON. Raises Unavailable."""
        ...

    async def report(self, receipt: Receipt) -> dict[str, object]:
        """The verification of a receipt, as JSON-able value. Raises Unavailable."""
        ...


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(value), status, {"cache-control": "no-store"} | (headers or {}), "application/json")


class Control:
    """The handlers of the control plane. `chain`: where transactions are looked up, if there is one."""

    def __init__(
        self, directory: Directory, metrics: GatewayMetrics, trust: TrustSource, chain: Logs | None = None
    ) -> None:
        self._directory = directory
        self._metrics = metrics
        self._trust = trust
        self._chain = chain

    def routes(self) -> list[Path]:
        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self.root,
            "/v1/models": self.models,
            "/v1/models/{model}": self.model,
            "/v2": self.server,
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            "/v2/models/{model}": self.tensor_model,
            "/v2/models/{model}/ready": self.tensor_model_ready,
            "/receipts/{id}": self.receipt,
            "/receipts/{id}/report": self.report,
            "/receipts/{id}/overturned": self.overturned,
            "/receipts/{id}/opening": self.opening,
            "/r/{id}": self.page,
            "/pages/{name}": self.asset,
            "/trust": self.trust,
            "/health": self.health,
            "/metrics": self.metrics,
        }
        paths = [Path(path, handler, methods=["GET"]) for path, handler in handlers.items()]
        return [*paths, Path("/receipts/{id}/demand", self.demand, methods=["POST"])]

    async def root(self, _request: Request) -> Response:
        """What this is and where things are."""
        paths = [
            "/v1/models",
            "/v1/chat/completions",
            "/v2",
            "/receipts/{id}",
            "/r/{id}",
            "/trust",
            "/health",
            "/metrics",
        ]
        return json_response({"name": "avow gateway", "version": VERSION, "paths": paths})

    # models

    async def models(self, _request: Request) -> Response:
        """OpenAI's list; tensor programs are in it too, marked by their kind."""
        return json_response({"object": "list", "data": [self._model(item) for item in self._directory.programs()]})

    async def model(self, request: Request) -> Response:
        return json_response(self._model(self._directory.program(request.path_params["model"])))

    def _model(self, program: ProgramDescription) -> dict[str, Any]:
        prices = self._directory.prices(program)
        return {
            "id": program.name,
            "object": "model",
            "created": 0,
            "owned_by": "avow",
            "avow": {
                "program": program.program.hex(),
                "kind": program.kind,
                "engine": {"name": program.engine, "version": program.engine_version},
                "methods": {
                    method.label: {
                        "price_wei_per_unit": str(price),
                        "nodes": ["0x" + node.hex() for node in self._directory.operators(program, method)],
                    }
                    for method, price in prices.items()
                },
            },
        }

    # Open Inference Protocol v2

    async def server(self, _request: Request) -> Response:
        return json_response({"name": "avow", "version": VERSION, "extensions": []})

    async def live(self, _request: Request) -> Response:
        return json_response({"live": True})

    async def ready(self, _request: Request) -> Response:
        ready = bool(self._directory.programs())
        return json_response({"ready": ready}, 200 if ready else 503)

    async def tensor_model(self, request: Request) -> Response:
        program = self._directory.program(request.path_params["model"])
        if program.kind != "tensor":
            raise NotFound(f"{program.name} is not a tensor program", param="model")
        return json_response(tensor_metadata(program))

    async def tensor_model_ready(self, request: Request) -> Response:
        program = self._directory.program(request.path_params["model"])
        return json_response({"name": program.name, "ready": True})

    # receipts

    async def receipt(self, request: Request) -> Response:
        """The receipt by its id: redacted, or opened for who has the secret; JSON, or CBOR where asked for."""
        data = await self._receipt(request)
        headers = dict(_PRIVATE_HEADERS)
        if "application/cbor" in request.headers.get("accept", ""):
            return Response(data, 200, headers, "application/cbor")
        return Response(await asyncio.to_thread(_as_json, data), 200, headers, "application/json")

    async def report(self, request: Request) -> Response:
        """What this gateway finds when it verifies the receipt. A convenience: who doubts runs `avow verify`."""
        receipt = await asyncio.to_thread(Receipt.from_bytes, await self._receipt(request))
        return json_response(await self._trust.report(receipt), headers=_PRIVATE_HEADERS)

    async def overturned(self, request: Request) -> Response:
        """The transaction that overturned an optimistic answer."""
        receipt = await asyncio.to_thread(Receipt.from_bytes, await self._receipt(request))
        return json_response(await overturned_by(self._chain, receipt), headers=_PRIVATE_HEADERS)

    async def opening(self, request: Request) -> Response:
        """What it takes to check an optimistic answer, for whom its caller let check it (nodes/openings.py)."""
        identity, asker = _identity(request), _asker(request)
        _, data = await self._find(lambda node: node.opening(identity, asker))
        return Response(data, 200, dict(_PRIVATE_HEADERS), "application/msgpack")

    async def demand(self, request: Request) -> Response:
        """The answer to a demand about an optimistic answer's trace, for the same."""
        identity, asker = _identity(request), _asker(request)
        demand = b""
        async for piece in request.stream():
            demand += piece
            if len(demand) > MAX_DEMAND:
                raise TooLarge("a demand is smaller", limit=MAX_DEMAND)
        _, data = await self._find(lambda node: node.demand(identity, asker, demand))
        return Response(data, 200, dict(_PRIVATE_HEADERS), "application/cbor")

    async def _receipt(self, request: Request) -> bytes:
        identity = _identity(request)
        secret = _secret(request)
        wait_ms = _wait_ms(request)
        link, data = await self._find(lambda node: node.receipt(identity, secret))
        if wait_ms and (await asyncio.to_thread(Receipt.from_bytes, data)).settlement is None:
            try:
                await link.node.wait_settled(identity, wait_ms)
                data = await link.node.receipt(identity, secret)
            except AvowError as error:
                if not (says(error, NotSettled) or is_away(error)):
                    raise
        return data

    async def _find(self, ask: Callable[[Node], Awaitable[bytes]]) -> tuple[Link, bytes]:
        """Ask each node. The error of the last that had an answer stands; a node that is away may be the one."""
        refused: AvowError | None = None
        away: AvowError | None = None
        for link in self._directory.links:
            try:
                return link, await ask(link.node)
            except AvowError as error:
                if is_away(error):
                    away = error
                elif refused is None or says(refused, ReceiptNotFound):
                    refused = error
        raise away or refused or NoNode("no inference node is connected")

    async def page(self, request: Request) -> Response:
        """The same page for every receipt: its script asks for the receipt. The secret is never part of a URL that is sent."""
        if not _ID.match(request.path_params["id"]):
            raise NotFound("a receipt's id is 64 hexadecimal digits")
        return _asset(RECEIPT_PAGE)

    async def asset(self, request: Request) -> Response:
        found = ASSETS.get(request.path_params["name"])
        if found is None:
            raise NotFound("there is no such page")
        return _asset(found)

    # the process

    async def trust(self, _request: Request) -> Response:
        return Response(await self._trust.policy(), 200, {"cache-control": "no-store"}, "application/json")

    async def health(self, _request: Request) -> Response:
        nodes = [_link(link) for link in self._directory.links]
        healthy = any(link.connected for link in self._directory.links)
        programs = [program.name for program in self._directory.programs()]
        status = {"status": "ok" if healthy else "unavailable", "version": VERSION, "nodes": nodes, "models": programs}
        return json_response(status, 200 if healthy else 503)

    async def metrics(self, _request: Request) -> Response:
        return Response(self._metrics.exposition(), 200, {"content-type": CONTENT_TYPE.decode()})


def _link(link: Link) -> dict[str, Any]:
    """A node's state; of one that answers by optimistic, what it has at stake too."""
    view: dict[str, Any] = {"address": link.address, "connected": link.connected, "in_flight": link.in_flight}
    status = link.status
    if status is not None and status.bond:
        view["optimistic"] = {
            "bond_wei": status.bond,
            "locked_wei": status.locked,
            "open_statements": status.open_statements,
        }
    return view


def tensor_metadata(program: ProgramDescription) -> dict[str, Any]:
    """The model metadata of the Open Inference Protocol."""
    described = _decode(program.metadata) if program.metadata else {}
    if not isinstance(described, dict):
        raise MalformedAnswer("the node's model metadata is not an object")
    tensors = {"inputs": described.get("inputs", []), "outputs": described.get("outputs", [])}
    platform = described.get("platform", program.engine)
    return {"name": program.name, "versions": [program.program.hex()], "platform": platform, **tensors}


def _as_json(data: bytes) -> bytes:
    """A receipt's JSON form; called in a thread, for an opened receipt may hold megabytes."""
    return Receipt.from_bytes(data).to_json()


def _asset(asset: Asset) -> Response:
    return Response(asset.body, 200, dict(asset.headers), asset.media_type)


def _identity(request: Request) -> bytes:
    name = request.path_params["id"]
    if not _ID.match(name):
        raise NotFound("a receipt's id is 64 hexadecimal digits")
    return bytes.fromhex(name)


def _asker(request: Request) -> bytes | None:
    text = request.headers.get("avow-watcher")
    if text is None:
        return None
    try:
        return Asker.from_header(text).to_bytes()
    except (EncodingError, TooLarge) as error:
        raise BadOption("avow-watcher is base64url of 93 bytes", param="avow-watcher") from error


def _secret(request: Request) -> bytes | None:
    text = request.headers.get("avow-secret")
    if text is None:
        return None
    try:
        secret = from_base64url(text, max_bytes=32)
    except (EncodingError, TooLarge) as error:
        raise BadOption("avow-secret is not base64url", param="avow-secret") from error
    if len(secret) != 32:
        raise BadOption("avow-secret has 32 bytes", param="avow-secret")
    return secret


def _wait_ms(request: Request) -> int:
    text = request.query_params.get("wait_ms", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) > MAX_WAIT_MS:
        raise BadOption(f"wait_ms is a number up to {MAX_WAIT_MS}", param="wait_ms")
    return int(text)
