"""HTTP transports that verify: the unmodified `openai` package, given one of these, returns nothing that does not hold.

    http_client = openai.DefaultHttpxClient(transport=avow.openai_transport(method="tee"))
    client = openai.OpenAI(base_url="http://127.0.0.1:8600/v1", api_key="none", http_client=http_client)

Rules:
1. Chat completions and tensor inferences are verified as `Client` does. The body that comes back is the committed one; its member
   `avow` repeats what the receipt proves (id, method, receipt). A streamed event is passed on after its check, the receipt's event last.
2. Refusals of the gateway (status 4xx and 5xx) pass through: they are openai's to raise.
3. GET passes through: it asks what is there and proves nothing. Any other request is refused, since its answer could not be checked.
4. `avow-method` and `avow-finality` in a request's headers count as the caller's word; the other `avow-` headers are ours.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import httpx2
import msgspec

from avow.client import asynchronous, sync
from avow.client.check import member_of, with_member
from avow.client.exchange import CHAT_ENDPOINT, Sent
from avow.client.live import LiveStream
from avow.client.pins import is_loopback, origin_of
from avow.client.session import OnReceipt, Session, Settings, Trust, wall_clock_ms
from avow.errors import AvowError
from avow.receipt.receipt import Receipt
from avow.receipt.statement import Method

_encode = msgspec.json.Encoder().encode
_TIMEOUT = httpx2.Timeout(600.0, connect=10.0)
_HOP = ("content-length", "content-encoding", "transfer-encoding")


class NotVerifiable(AvowError):
    """This request's answer carries no receipt that could be checked."""

    code = "not_verifiable"
    http_status = 400


class _Chunk(msgspec.Struct):
    id: Any = None
    created: Any = None
    model: Any = None


class _Sessions:
    """One session per gateway that is talked to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._settings.options()
        self._sessions: dict[str, Session] = {}

    def session(self, url: str) -> Session:
        """The session for the gateway at `url`, whatever its path. Raises TrustNotPinned."""
        origin = origin_of(url)
        if origin not in self._sessions:
            self._sessions[origin] = Session(origin, self._settings)
        return self._sessions[origin]

    def prepare(self, request: httpx2.Request, body: bytes) -> tuple[Session, Sent] | None:
        """The exchange for a request, or None for one that passes (rule 3). Raises NotVerifiable or TrustNotPinned."""
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        endpoint = f"{request.method} {unquote(request.url.path)}"
        tensors = endpoint.startswith("POST /v2/models/") and endpoint.endswith("/infer")
        if endpoint != CHAT_ENDPOINT and not tensors:
            raise NotVerifiable(f"the answer to {endpoint} could not be verified")
        session = self.session(str(request.url))
        headers = request.headers
        sent = session.prepare(endpoint, body, method=headers.get("avow-method"), finality=headers.get("avow-finality"))
        for name in [name for name in headers if name.startswith("avow-")]:
            del headers[name]
        headers.update(sent.http_headers())
        return session, sent


def _whole(
    session: Session, sent: Sent, request: httpx2.Request, response: httpx2.Response, body: bytes
) -> httpx2.Response:
    """The verified answer as a response."""
    if response.status_code == 200:
        verified = session.answer(sent, 200, body)
        body = with_member(verified.body, verified.receipt)
    return _respond(request, response, body)


def _respond(
    request: httpx2.Request, response: httpx2.Response, content: "bytes | _Events | _AsyncEvents"
) -> httpx2.Response:
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _HOP]
    if isinstance(content, bytes):
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)
    return httpx2.Response(response.status_code, headers=headers, stream=content, request=request)


class _Events(httpx2.SyncByteStream):
    """Verified events. Closing early closes the gateway's connection, and the node stops."""

    def __init__(self, events: Generator[bytes], response: httpx2.Response) -> None:
        self._events = events
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        self._events.close()
        self._response.close()


class _AsyncEvents(httpx2.AsyncByteStream):
    """The same, asynchronous."""

    def __init__(self, events: AsyncGenerator[bytes], response: httpx2.Response) -> None:
        self._events = events
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()
        await self._response.aclose()


def _receipt_event(first: bytes, receipt: Receipt) -> bytes:
    """The event that carries the receipt, in the shape of a chunk, and the stream's end."""
    head = msgspec.json.decode(first, type=_Chunk)
    shape = {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": [],
        "avow": member_of(receipt),
    }
    return b"data: " + _encode(shape) + b"\n\ndata: [DONE]\n\n"


def _finish(session: Session, sent: Sent, live: LiveStream, first: bytes) -> bytes:
    """The last bytes of a stream that held as a whole."""
    verified = live.finish(session.clock_ms())
    session.keep(verified, sent)
    return _receipt_event(first, verified.receipt)


class VerifyingTransport(httpx2.BaseTransport):
    """Rules 1 to 4 over another transport."""

    def __init__(self, settings: Settings, inner: httpx2.BaseTransport | None = None) -> None:
        self._sessions = _Sessions(settings)
        self._given = inner
        self._inner: dict[bool, httpx2.BaseTransport] = {}

    def check(self, url: str) -> None:
        """Raises TrustNotPinned unless there is a trust policy for the gateway at `url`."""
        self._sessions.session(url)

    def _transport(self, url: httpx2.URL) -> httpx2.BaseTransport:
        if self._given is not None:
            return self._given
        local = is_loopback(str(url))
        if local not in self._inner:
            self._inner[local] = httpx2.HTTPTransport(trust_env=not local)
        return self._inner[local]

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = self._sessions.prepare(request, request.read())
        response = self._transport(request.url).handle_request(request)
        if exchange is None:
            return response
        session, sent = exchange
        if sent.stream and response.status_code == 200:
            return _respond(request, response, _Events(self._events(session, sent, response), response))
        return _whole(session, sent, request, response, sync.read_all(response))

    def _events(self, session: Session, sent: Sent, response: httpx2.Response) -> Generator[bytes]:
        live, first = session.stream(sent), b""
        try:
            for received in response.iter_raw():
                for data in live.feed(received):
                    first = first or data
                    yield b"data: %b\n\n" % data
                if live.done:
                    break
        except httpx2.TransportError as error:
            raise live.cut(f"the connection broke: {error}") from error
        finally:
            response.close()
        yield _finish(session, sent, live, first)

    def close(self) -> None:
        for transport in (self._given, *self._inner.values()):
            if transport is not None:
                transport.close()


class AsyncVerifyingTransport(httpx2.AsyncBaseTransport):
    """Rules 1 to 4 over another transport."""

    def __init__(self, settings: Settings, inner: httpx2.AsyncBaseTransport | None = None) -> None:
        self._sessions = _Sessions(settings)
        self._given = inner
        self._inner: dict[bool, httpx2.AsyncBaseTransport] = {}

    def check(self, url: str) -> None:
        """Raises TrustNotPinned unless there is a trust policy for the gateway at `url`."""
        self._sessions.session(url)

    def _transport(self, url: httpx2.URL) -> httpx2.AsyncBaseTransport:
        if self._given is not None:
            return self._given
        local = is_loopback(str(url))
        if local not in self._inner:
            self._inner[local] = httpx2.AsyncHTTPTransport(trust_env=not local)
        return self._inner[local]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = self._sessions.prepare(request, await request.aread())
        response = await self._transport(request.url).handle_async_request(request)
        if exchange is None:
            return response
        session, sent = exchange
        if sent.stream and response.status_code == 200:
            return _respond(request, response, _AsyncEvents(self._events(session, sent, response), response))
        return _whole(session, sent, request, response, await asynchronous.read_all(response))

    async def _events(self, session: Session, sent: Sent, response: httpx2.Response) -> AsyncGenerator[bytes]:
        live, first = session.stream(sent), b""
        try:
            async for received in response.aiter_raw():
                for data in live.feed(received):
                    first = first or data
                    yield b"data: %b\n\n" % data
                if live.done:
                    break
        except httpx2.TransportError as error:
            raise live.cut(f"the connection broke: {error}") from error
        finally:
            await response.aclose()
        yield _finish(session, sent, live, first)

    async def aclose(self) -> None:
        for transport in (self._given, *self._inner.values()):
            if transport is not None:
                await transport.aclose()


def openai_transport(
    *,
    trust: Trust = None,
    method: str | Method | None = None,
    finality: str = "instant",
    require: Iterable[str] = (),
    programs: Mapping[str, str | bytes] | None = None,
    key: bytes | None = None,
    save: bool = False,
    on_receipt: OnReceipt | None = None,
    home: str | os.PathLike[str] | None = None,
    clock_ms: Callable[[], int] = wall_clock_ms,
    transport: httpx2.BaseTransport | None = None,
) -> VerifyingTransport:
    """A transport for `openai.DefaultHttpxClient` that verifies; the arguments are those of `Client`."""
    settings = Settings(trust, home, method, finality, tuple(require), programs, key, save, on_receipt, clock_ms)
    return VerifyingTransport(settings, transport)


def openai_async_transport(
    *,
    trust: Trust = None,
    method: str | Method | None = None,
    finality: str = "instant",
    require: Iterable[str] = (),
    programs: Mapping[str, str | bytes] | None = None,
    key: bytes | None = None,
    save: bool = False,
    on_receipt: OnReceipt | None = None,
    home: str | os.PathLike[str] | None = None,
    clock_ms: Callable[[], int] = wall_clock_ms,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncVerifyingTransport:
    """A transport for `openai.DefaultAsyncHttpxClient` that verifies; the arguments are those of `AsyncClient`."""
    settings = Settings(trust, home, method, finality, tuple(require), programs, key, save, on_receipt, clock_ms)
    return AsyncVerifyingTransport(settings, transport)


def openai_client(url: str | None = None, **settings: Any) -> httpx2.Client:
    """An HTTP client for `openai.OpenAI(http_client=…)` that verifies.

    With `url` the trust policy of that gateway is looked up now, so that a missing one is an error here. `settings` are those of
    `openai_transport`.
    """
    transport = openai_transport(**settings)
    if url is not None:
        transport.check(url)
    return httpx2.Client(transport=transport, timeout=_TIMEOUT)


def openai_async_client(url: str | None = None, **settings: Any) -> httpx2.AsyncClient:
    """The same for `openai.AsyncOpenAI`."""
    transport = openai_async_transport(**settings)
    if url is not None:
        transport.check(url)
    return httpx2.AsyncClient(transport=transport, timeout=_TIMEOUT)
