"""A gateway over the simulator, on a real socket: the HTTP surface of the product, honest unless told how to lie.

    with SimulatedGateway(network) as gateway:
        avow.Client(gateway.url, trust=network.trust(), clock_ms=lambda: network.now_ms).chat("hello", model="echo")

`answer(body, receipt)` replaces the bytes of a whole answer; `events(streamed)` the parts of a stream: each item is sent as one
piece of the body, None breaks the connection. `job(**call)` changes what the network is asked.
"""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from avow.receipt.encoding import base64url, encode, from_base64url
from avow.receipt.receipt import Receipt
from avow.receipt.requester import Requester
from avow.receipt.statement import Method
from tests.simulator import CHAT, Simulator, Streamed, StreamEvent

DONE = b"data: [DONE]\n\n"
METHODS = {method.label: method for method in Method}
Answer = Callable[[bytes, Receipt], bytes]
Events = Callable[[Streamed], Iterator[bytes | None]]


def splice(body: bytes, receipt: Receipt) -> bytes:
    """The receipt as the body's last member."""
    member = {"id": receipt.id, "method": "?", "receipt": base64url(receipt.to_bytes()), "url": "elsewhere"}
    return body[:-1] + b',"avow":' + json.dumps(member).encode() + b"}"


def begin_part(streamed: Streamed, **changed: Any) -> bytes:
    return b": b " + base64url(encode({**streamed.begin, **changed})).encode() + b"\n"


def event_parts(event: StreamEvent, *, data: bytes | None = None, mac: bytes | None = b"?") -> bytes:
    """One chunk with its MAC, and the signed head that follows it, if one does."""
    mac = event.mac if mac == b"?" else mac
    lines = b"" if mac is None else b": m " + base64url(mac).encode() + b"\n"
    lines += b"data: " + (event.data if data is None else data) + b"\n\n"
    if event.head is not None:
        lines += b": h %d %s\n\n" % (event.count, base64url(event.head).encode())
    return lines


def receipt_part(receipt: Receipt) -> bytes:
    shape = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "echo", "choices": []}
    return b"data: " + splice(json.dumps(shape).encode(), receipt) + b"\n\n"


def honest_events(streamed: Streamed) -> Iterator[bytes | None]:
    yield begin_part(streamed)
    for event in streamed.events:
        yield event_parts(event)
    yield receipt_part(streamed.receipt)
    yield DONE


class SimulatedGateway:
    """Serves until the `with` block ends. `requests` are those that came, as (path, headers, body)."""

    def __init__(
        self,
        network: Simulator,
        *,
        answer: Answer = splice,
        events: Events = honest_events,
        job: Callable[[dict[str, Any]], dict[str, Any]] = lambda call: call,
    ) -> None:
        self.network = network
        self.answer, self.events, self.job = answer, events, job
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.receipts: dict[str, Receipt] = {}
        self.refusal: tuple[int, bytes] | None = None
        self.settles = True
        self.lock = threading.Lock()
        gateway = self

        class Handler(_Handler):
            pass

        Handler.gateway = gateway
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, address: None  # type: ignore[method-assign]  # clients hang up
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    gateway: SimulatedGateway
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        gateway = self.gateway
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        gateway.requests.append((self.path, headers, body))
        if gateway.refusal is not None:
            self._send(*gateway.refusal)
            return
        member = json.loads(body).get("avow") or {}
        chosen: dict[str, Any] = {
            name: headers.get(f"avow-{name}", member.get(name)) for name in ("method", "finality", "nonce")
        }
        call: dict[str, Any] = {
            "method": METHODS[chosen["method"] or "vanilla"],
            "nonce": _octets(chosen["nonce"]),
            "seed": _octets(headers.get("avow-seed")),
            "requester": Requester.from_header(headers["avow-requester"]) if "avow-requester" in headers else None,
        }
        with gateway.lock:
            if self.path == "/v1/chat/completions" and json.loads(body).get("stream"):
                streamed = gateway.network.stream(
                    body, **gateway.job({**call, "client_key": _octets(headers.get("avow-client-key"))})
                )
                gateway.receipts[streamed.receipt.id] = streamed.receipt
                self._stream(streamed)
                return
            response, receipt = gateway.network.answer(f"POST {self.path}", body, **gateway.job(call))
            if chosen["finality"] == "settled" and gateway.settles:
                [receipt] = gateway.network.settle([receipt])
            gateway.receipts[receipt.id] = receipt
        self._send(200, gateway.answer(response, receipt))

    def do_GET(self) -> None:
        gateway = self.gateway
        path, _, query = self.path.partition("?")
        if path == "/trust":
            self._send(200, gateway.network.trust().to_json())
        elif path == "/v1/models":
            self._send(
                200, json.dumps({"object": "list", "data": [self._model(name) for name in ("echo", "length")]}).encode()
            )
        elif path.startswith("/receipts/") and path[10:] in gateway.receipts:
            receipt = gateway.receipts[path[10:]]
            with gateway.lock:
                if gateway.settles and "wait_ms" in query and receipt.settlement is None:
                    [receipt] = gateway.network.settle([receipt])
                    gateway.receipts[receipt.id] = receipt
            opening = receipt.opening
            if opening is None or self.headers.get("avow-secret") != base64url(opening.seed):
                receipt = receipt.redacted()
            self._send(200, receipt.to_bytes())
        elif path == "/health":
            self._send(200, b'{"status":"ok","version":"0","nodes":[],"models":["echo","length"]}')
        else:
            self._send(
                404, b'{"error":{"message":"there is no such thing","type":"x","param":null,"code":"not_found"}}'
            )

    def _model(self, name: str) -> dict[str, Any]:
        methods = {method.label: {"price_wei_per_unit": "10"} for method in self.gateway.network.keys}
        program = self.gateway.network.programs[name].hex()
        kind = "chat" if name == "echo" else "tensor"
        return {"id": name, "object": "model", "avow": {"program": program, "kind": kind, "methods": methods}}

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, streamed: Streamed) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for part in self.gateway.events(streamed):
                if part is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def _octets(text: str | None) -> bytes | None:
    return None if text is None else from_base64url(text)


__all__ = ["CHAT", "DONE", "SimulatedGateway", "begin_part", "event_parts", "honest_events", "receipt_part", "splice"]
