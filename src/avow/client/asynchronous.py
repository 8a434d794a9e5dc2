"""The asynchronous client: `sync.Client` with awaits."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from avow.client.answers import ChatBody, HeldReceipt, InferBody, StreamChunk
from avow.client.check import MAX_ANSWER, Verified
from avow.client.errors import AnswerRefused, NotSettled
from avow.client.exchange import CHAT_ENDPOINT, Payment, Sent
from avow.client.session import (
    FINAL_POLL_S,
    WAIT_STEP_MS,
    Messages,
    Model,
    OnReceipt,
    Overturning,
    Session,
    Settings,
    Trust,
    chat_body,
    first_chat,
    infer_body,
    infer_endpoint,
    models_of,
    overturning_of,
    path_of,
    receipt_path,
    remote_error,
    unreachable,
    wall_clock_ms,
)
from avow.errors import TooLarge
from avow.receipt.audience import Audience
from avow.receipt.encoding import base64url
from avow.receipt.partial import PartialReceipt
from avow.receipt.receipt import Receipt
from avow.receipt.statement import Method


class AsyncAnswerReceipt(HeldReceipt):
    """The receipt of an answer; `settled` awaits the network's half of it."""

    def __init__(self, client: "AsyncClient", verified: Verified, sent: Sent) -> None:
        super().__init__(client.session, verified, sent)
        self._client = client

    async def settled(self, timeout: float = 60.0) -> Self:  # noqa: ASYNC109 (the same argument as the synchronous one)
        """Wait until the network has settled it, at most `timeout` seconds, and verify that. Raises NotSettled."""
        end = time.monotonic() + timeout
        opening = self.value.opening
        while not self.is_settled:
            left_ms = int(1000 * (end - time.monotonic()))
            if left_ms <= 0:
                raise NotSettled(f"not settled within {timeout:g} s", hint="ask again later: `receipt.settled()`")
            secret = None if opening is None else opening.seed
            if not self._took(await self._client.fetch(self._path, secret, min(left_ms, WAIT_STEP_MS))):
                await asyncio.sleep(min(0.05, left_ms / 1000))
        return self

    async def final(self, timeout: float = 180.0) -> Self:  # noqa: ASYNC109
        """Of an optimistic answer: wait until nobody can challenge it any more, at most `timeout` seconds.

        Raises NotSettled when the time is over, AnswerOverturned for an answer that was.
        """
        end = time.monotonic() + timeout
        await self.settled(timeout)
        while not self.is_final:
            if time.monotonic() >= end:
                raise NotSettled(f"not final within {timeout:g} s", hint="ask again later: `receipt.final()`")
            await asyncio.sleep(FINAL_POLL_S)
            self._took(await self._client.fetch(self._path, None, 0))
        return self


class AsyncChat(ChatBody):
    """A chat answer that held."""

    def __init__(self, client: "AsyncClient", verified: Verified, sent: Sent) -> None:
        super().__init__(verified.body)
        self.receipt = AsyncAnswerReceipt(client, verified, sent)

    async def settled(self, timeout: float = 60.0) -> AsyncAnswerReceipt:  # noqa: ASYNC109
        """`receipt.settled`: wait for the network's half of the evidence."""
        return await self.receipt.settled(timeout)


class AsyncInference(InferBody):
    """A tensor program's answer that held."""

    def __init__(self, client: "AsyncClient", verified: Verified, sent: Sent) -> None:
        super().__init__(verified.body)
        self.receipt = AsyncAnswerReceipt(client, verified, sent)

    async def settled(self, timeout: float = 60.0) -> AsyncAnswerReceipt:  # noqa: ASYNC109
        """`receipt.settled`: wait for the network's half of the evidence."""
        return await self.receipt.settled(timeout)


class AsyncChatStream:
    """A stream under way: `async for` its verified chunks; after the last, `answer` is the whole (see sync.ChatStream)."""

    def __init__(self, client: "AsyncClient", sent: Sent, response: httpx2.Response) -> None:
        self._client = client
        self._sent = sent
        self._response = response
        self._live = client.session.stream(sent)
        self._chunks = self._read()
        self.answer: AsyncChat | None = None

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        return self._chunks

    async def _read(self) -> AsyncIterator[StreamChunk]:
        live, session = self._live, self._client.session
        try:
            async for received in self._response.aiter_raw():
                for data in live.feed(received):
                    yield StreamChunk(data)
                if live.done:
                    break
        except httpx2.TransportError as error:
            raise live.cut(f"the connection broke: {error}") from error
        finally:
            await self._response.aclose()
        verified = live.finish(session.clock_ms())
        session.keep(verified, self._sent)
        self.answer = AsyncChat(self._client, verified, self._sent)

    @property
    def receipt(self) -> AsyncAnswerReceipt:
        """The receipt of the whole stream. Raises AnswerRefused before its end."""
        if self.answer is None:
            raise AnswerRefused("the stream is not over: its receipt comes last")
        return self.answer.receipt

    @property
    def partial(self) -> PartialReceipt | None:
        """The receipt of what was delivered so far, if the node has signed any of it."""
        return self._live.partial()

    async def aclose(self) -> None:
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncClient:
    """A gateway whose answers are checked. The arguments are those of `Client`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        trust: Trust = None,
        method: str | Method | None = None,
        finality: str = "instant",
        require: Iterable[str] = (),
        programs: Mapping[str, str | bytes] | None = None,
        key: bytes | None = None,
        payment: Payment | None = None,
        save: bool = False,
        on_receipt: OnReceipt | None = None,
        timeout: float = 600.0,
        home: str | os.PathLike[str] | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
        audience: str | Audience | None = None,
        opening: str = "anyone",
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        settings = Settings(
            trust, home, method, finality, tuple(require), programs, key, save, on_receipt, clock_ms, payment, audience,
            opening,
        )  # fmt: skip
        self.session = Session(url, settings)
        self._first_model: str | None = None
        self._http = httpx2.AsyncClient(
            base_url=self.session.url,
            timeout=httpx2.Timeout(timeout, connect=10.0),
            transport=transport,
            trust_env=not self.session.loopback,
        )

    async def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        method: str | Method | None = None,
        finality: str | None = None,
        program: str | bytes | None = None,
        audience: str | Audience | None = None,
        opening: str | None = None,
        **parameters: Any,
    ) -> AsyncChat:
        """Ask, and get the verified answer; see `Client.chat`."""
        body = chat_body(messages, model or await self._default_model(), stream=False, parameters=parameters)
        sent = self.session.prepare(
            CHAT_ENDPOINT, body, method=method, finality=finality, program=program, audience=audience, opening=opening
        )
        return AsyncChat(self, await self._exchange(sent), sent)

    async def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        method: str | Method | None = None,
        finality: str | None = None,
        program: str | bytes | None = None,
        audience: str | Audience | None = None,
        opening: str | None = None,
        **parameters: Any,
    ) -> AsyncChatStream:
        """The same, chunk by chunk; see `Client.stream`."""
        body = chat_body(messages, model or await self._default_model(), stream=True, parameters=parameters)
        sent = self.session.prepare(
            CHAT_ENDPOINT, body, method=method, finality=finality, program=program, audience=audience, opening=opening
        )
        try:
            response = await self._http.send(self._request(sent), stream=True)
        except httpx2.TransportError as error:
            raise unreachable(self.session.url, error) from error
        if response.status_code != 200:
            raise remote_error(response.status_code, await read_all(response))
        return AsyncChatStream(self, sent, response)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        method: str | Method | None = None,
        finality: str | None = None,
        program: str | bytes | None = None,
        audience: str | Audience | None = None,
        opening: str | None = None,
        **parameters: Any,
    ) -> AsyncInference:
        """Run a tensor program; see `Client.infer`."""
        body = infer_body(inputs, parameters)
        sent = self.session.prepare(
            infer_endpoint(model),
            body,
            method=method,
            finality=finality,
            program=program,
            audience=audience,
            opening=opening,
        )
        return AsyncInference(self, await self._exchange(sent), sent)

    async def models(self) -> list[Model]:
        """What the gateway says it offers."""
        return models_of(await self._get("/v1/models", {}))

    async def receipt(self, receipt_id: str, secret: bytes | None = None, wait: float = 0.0) -> Receipt:
        """The receipt of that id as the gateway has it, not verified; see `Client.receipt`."""
        return Receipt.from_bytes(await self.fetch(receipt_path(receipt_id), secret, int(1000 * min(wait, 30.0))))

    async def overturned_by(self, receipt_id: str) -> Overturning:
        """The transaction that overturned an optimistic answer; see `Client.overturned_by`."""
        return overturning_of(await self._get(f"{receipt_path(receipt_id)}/overturned", {}))

    async def fetch(self, path: str, secret: bytes | None, wait_ms: int) -> bytes:
        """A receipt's CBOR from the gateway."""
        headers = {"accept": "application/cbor"}
        if secret is not None:
            headers["avow-secret"] = base64url(secret)
        return await self._get(f"{path}?wait_ms={wait_ms}" if wait_ms else path, headers)

    async def _default_model(self) -> str:
        if self._first_model is None:
            self._first_model = first_chat(await self.models())
        return self._first_model

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _request(self, sent: Sent) -> httpx2.Request:
        return self._http.build_request("POST", path_of(sent.endpoint), content=sent.body, headers=sent.http_headers())

    async def _exchange(self, sent: Sent) -> Verified:
        status, body = await self._send(self._request(sent))
        return self.session.answer(sent, status, body)

    async def _get(self, path: str, headers: Mapping[str, str]) -> bytes:
        status, body = await self._send(self._http.build_request("GET", path, headers=dict(headers)))
        if status != 200:
            raise remote_error(status, body)
        return body

    async def _send(self, request: httpx2.Request) -> tuple[int, bytes]:
        try:
            response = await self._http.send(request, stream=True)
            return response.status_code, await read_all(response)
        except httpx2.TransportError as error:
            raise unreachable(self.session.url, error) from error


async def read_all(response: httpx2.Response) -> bytes:
    """A response's raw bytes within the limit; closes it. Raises TooLarge."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > MAX_ANSWER:
                raise TooLarge("the answer is too large", limit=MAX_ANSWER)
            pieces.append(piece)
    finally:
        await response.aclose()
    return b"".join(pieces)
