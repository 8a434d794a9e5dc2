"""The synchronous client: every answer is verified before it is returned, every chunk before it is yielded."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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


class AnswerReceipt(HeldReceipt):
    """The receipt of an answer; `settled` awaits the network's half of it."""

    def __init__(self, client: "Client", verified: Verified, sent: Sent) -> None:
        super().__init__(client.session, verified, sent)
        self._client = client

    def settled(self, timeout: float = 60.0) -> Self:
        """Wait until the network has settled it, at most `timeout` seconds, and verify that. Raises NotSettled."""
        end = time.monotonic() + timeout
        opening = self.value.opening
        while not self.is_settled:
            left_ms = int(1000 * (end - time.monotonic()))
            if left_ms <= 0:
                raise NotSettled(f"not settled within {timeout:g} s", hint="ask again later: `receipt.settled()`")
            secret = None if opening is None else opening.seed
            if not self._took(self._client.fetch(self._path, secret, min(left_ms, WAIT_STEP_MS))):
                time.sleep(min(0.05, left_ms / 1000))
        return self

    def final(self, timeout: float = 180.0) -> Self:
        """Of an optimistic answer: wait until nobody can challenge it any more, at most `timeout` seconds.

        Raises NotSettled when the time is over, AnswerOverturned for an answer that was.
        """
        end = time.monotonic() + timeout
        self.settled(timeout)
        while not self.is_final:
            if time.monotonic() >= end:
                raise NotSettled(f"not final within {timeout:g} s", hint="ask again later: `receipt.final()`")
            time.sleep(FINAL_POLL_S)
            self._took(self._client.fetch(self._path, None, 0))
        return self


class Chat(ChatBody):
    """A chat answer that held."""

    def __init__(self, client: "Client", verified: Verified, sent: Sent) -> None:
        super().__init__(verified.body)
        self.receipt = AnswerReceipt(client, verified, sent)

    def settled(self, timeout: float = 60.0) -> AnswerReceipt:
        """`receipt.settled`: wait for the network's half of the evidence."""
        return self.receipt.settled(timeout)


class Inference(InferBody):
    """A tensor program's answer that held."""

    def __init__(self, client: "Client", verified: Verified, sent: Sent) -> None:
        super().__init__(verified.body)
        self.receipt = AnswerReceipt(client, verified, sent)

    def settled(self, timeout: float = 60.0) -> AnswerReceipt:
        """`receipt.settled`: wait for the network's half of the evidence."""
        return self.receipt.settled(timeout)


class ChatStream:
    """A stream under way: iterate for its verified chunks; after the last, `answer` is the whole.

    Leaving early closes the connection, and the node stops. `partial` is then the receipt of what was delivered.
    """

    def __init__(self, client: "Client", sent: Sent, response: httpx2.Response) -> None:
        self._client = client
        self._sent = sent
        self._response = response
        self._live = client.session.stream(sent)
        self._chunks = self._read()
        self.answer: Chat | None = None

    def __iter__(self) -> Iterator[StreamChunk]:
        return self._chunks

    def _read(self) -> Iterator[StreamChunk]:
        live, session = self._live, self._client.session
        try:
            for received in self._response.iter_raw():
                for data in live.feed(received):
                    yield StreamChunk(data)
                if live.done:
                    break
        except httpx2.TransportError as error:
            raise live.cut(f"the connection broke: {error}") from error
        finally:
            self._response.close()
        verified = live.finish(session.clock_ms())
        session.keep(verified, self._sent)
        self.answer = Chat(self._client, verified, self._sent)

    @property
    def receipt(self) -> AnswerReceipt:
        """The receipt of the whole stream. Raises AnswerRefused before its end."""
        if self.answer is None:
            raise AnswerRefused("the stream is not over: its receipt comes last")
        return self.answer.receipt

    @property
    def partial(self) -> PartialReceipt | None:
        """The receipt of what was delivered so far, if the node has signed any of it."""
        return self._live.partial()

    def close(self) -> None:
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A gateway whose answers are checked.

    url          the gateway's address; None takes $AVOW_URL, the network that runs from `home`, or port 8600 of this machine
    trust        whom to trust: a TrustPolicy or the path of one; None takes what is pinned for the address (see pins.py)
    method       "vanilla", "tee" or "optimistic"; None leaves the choice to the gateway
    finality     "instant", or "settled" to have each call wait for its settlement
    require      demands that an answer must meet, as `avow verify --require` takes them
    programs     program ids pinned by model name: another program's answer is refused
    key          an account's private key (32 bytes): requests are signed, statements name the account as requester
    payment      what that account lets a node charge for each call (a Payment); None: the gateway pays
    save         keep every receipt under HOME/receipts
    on_receipt   called with each verified receipt
    timeout      seconds that the gateway may be silent
    audience     who may check an optimistic answer by running it again: "public", "payer", or "watchers" and addresses after it
    opening      "payer": nobody else may open an optimistic answer on chain; "anyone" lets watchers prove a fault
    home         the folder of pins and receipts; None is $AVOW_HOME or ~/.avow
    """

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
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        settings = Settings(
            trust, home, method, finality, tuple(require), programs, key, save, on_receipt, clock_ms, payment, audience,
            opening,
        )  # fmt: skip
        self.session = Session(url, settings)
        self._first_model: str | None = None
        self._http = httpx2.Client(
            base_url=self.session.url,
            timeout=httpx2.Timeout(timeout, connect=10.0),
            transport=transport,
            trust_env=not self.session.loopback,
        )

    def chat(
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
    ) -> Chat:
        """Ask, and get the verified answer. `messages` is a text or OpenAI's list; `parameters` are OpenAI's.

        `model` None takes the first chat model that the gateway lists.

        Raises RemoteError, Unreachable, or the AnswerRefused whose class names what did not hold.
        """
        body = chat_body(messages, model or self._default_model(), stream=False, parameters=parameters)
        sent = self.session.prepare(
            CHAT_ENDPOINT, body, method=method, finality=finality, program=program, audience=audience, opening=opening
        )
        return Chat(self, self._exchange(sent), sent)

    def stream(
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
    ) -> ChatStream:
        """The same, chunk by chunk. Raises as `chat`; a broken stream raises StreamCut with its receipt."""
        body = chat_body(messages, model or self._default_model(), stream=True, parameters=parameters)
        sent = self.session.prepare(
            CHAT_ENDPOINT, body, method=method, finality=finality, program=program, audience=audience, opening=opening
        )
        request = self._request(sent)
        try:
            response = self._http.send(request, stream=True)
        except httpx2.TransportError as error:
            raise unreachable(self.session.url, error) from error
        if response.status_code != 200:
            raise remote_error(response.status_code, read_all(response))
        return ChatStream(self, sent, response)

    def infer(
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
    ) -> Inference:
        """Run a tensor program. `inputs`: Open Inference Protocol tensors, or {name: bytes} for BYTES tensors of one element."""
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
        return Inference(self, self._exchange(sent), sent)

    def models(self) -> list[Model]:
        """What the gateway says it offers."""
        return models_of(self._get("/v1/models", {}))

    def receipt(self, receipt_id: str, secret: bytes | None = None, wait: float = 0.0) -> Receipt:
        """The receipt of that id as the gateway has it: redacted, or opened with the secret. Not verified.

        `wait` seconds are given to its settlement.
        """
        return Receipt.from_bytes(self.fetch(receipt_path(receipt_id), secret, int(1000 * min(wait, 30.0))))

    def fetch(self, path: str, secret: bytes | None, wait_ms: int) -> bytes:
        """A receipt's CBOR from the gateway."""
        headers = {"accept": "application/cbor"}
        if secret is not None:
            headers["avow-secret"] = base64url(secret)
        return self._get(f"{path}?wait_ms={wait_ms}" if wait_ms else path, headers)

    def overturned_by(self, receipt_id: str) -> Overturning:
        """What the gateway says of the transaction that overturned an optimistic answer. Raises RemoteError where it knows of none."""
        return overturning_of(self._get(f"{receipt_path(receipt_id)}/overturned", {}))

    def _default_model(self) -> str:
        if self._first_model is None:
            self._first_model = first_chat(self.models())
        return self._first_model

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, sent: Sent) -> httpx2.Request:
        return self._http.build_request("POST", path_of(sent.endpoint), content=sent.body, headers=sent.http_headers())

    def _exchange(self, sent: Sent) -> Verified:
        status, body = self._send(self._request(sent))
        return self.session.answer(sent, status, body)

    def _get(self, path: str, headers: Mapping[str, str]) -> bytes:
        status, body = self._send(self._http.build_request("GET", path, headers=dict(headers)))
        if status != 200:
            raise remote_error(status, body)
        return body

    def _send(self, request: httpx2.Request) -> tuple[int, bytes]:
        try:
            response = self._http.send(request, stream=True)
            return response.status_code, read_all(response)
        except httpx2.TransportError as error:
            raise unreachable(self.session.url, error) from error


def read_all(response: httpx2.Response) -> bytes:
    """A response's raw bytes within the limit; closes it. Raises TooLarge."""
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in response.iter_raw():
            size += len(piece)
            if size > MAX_ANSWER:
                raise TooLarge("the answer is too large", limit=MAX_ANSWER)
            pieces.append(piece)
    finally:
        response.close()
    return b"".join(pieces)
