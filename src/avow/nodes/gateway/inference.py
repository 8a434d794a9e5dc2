"""The hot paths: a chat completion or tensor inference in one piece, and a chat completion as a stream.

Rules:
1. The caller's bytes go to the node as they came; the node's bytes go to the caller as they came, with the receipt beside them.
2. What fails before the first byte of a stream has its own HTTP status; what fails later is an event in the stream.
3. A caller that hangs up, or a deadline that passes, cancels the node's job; the node then closes the statement as incomplete.
4. With finality `settled` the answer waits for its settlement proof. If that takes too long, a whole answer becomes `not_settled`,
   with id and secret in the headers, and a stream ends with its receipt as it is, marked `instant`: nothing is lost.
"""

import os
import time
from contextlib import aclosing
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from avow.errors import AvowError, TooLarge
from avow.nodes.errors import ConnectionLost, NotSettled, PayerUncovered
from avow.nodes.gateway import frames
from avow.nodes.gateway.account import PayerAccount
from avow.nodes.gateway.config import Limits
from avow.nodes.gateway.directory import Directory, Node, Route
from avow.nodes.gateway.envelope import error_body
from avow.nodes.gateway.errors import BadOption, ClientGone, MalformedRequest, is_away, says
from avow.nodes.gateway.http import (
    JSON_HEADER,
    NO_STORE,
    Watches,
    check_body_headers,
    read_json_body,
    respond_at_once,
    respond_error,
)
from avow.nodes.gateway.metrics import GatewayMetrics
from avow.nodes.gateway.options import MAX_MODEL_NAME, Options, avow_headers, read_head, read_options
from avow.nodes.gateway.protocol import HeaderList
from avow.nodes.gateway.settled import TrustGap
from avow.nodes.jobs import CHAT, Answer, Begin, Chunks, Consent, Head, Job
from avow.receipt.encoding import base64url, encode
from avow.receipt.receipt import Receipt

STREAM_HEADERS: HeaderList = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-store"),
)


@dataclass(slots=True)
class Call:
    """One request under way, and what is counted of it."""

    endpoint: str
    started: float
    method: str = ""
    stream: bool = False
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that nothing is wrong with, and who will answer it."""

    call: Call
    route: Route
    job: Job
    options: Options


class Inference:
    """Answers inference requests; `payer` is the gateway's own account."""

    def __init__(
        self, directory: Directory, metrics: GatewayMetrics, gap: TrustGap, payer: PayerAccount, limits: Limits
    ) -> None:
        self._directory = directory
        self._metrics = metrics
        self._gap = gap
        self._payer = payer
        self._limits = limits
        self._watches = Watches()

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/chat/completions."""
        await self._serve(Call("chat", time.perf_counter()), CHAT, None, scope, receive, send)

    async def tensors(self, model: str, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v2/models/{model}/infer (Open Inference Protocol)."""
        endpoint = f"POST {scope['raw_path'].decode('ascii')}"
        await self._serve(Call("infer", time.perf_counter()), endpoint, model, scope, receive, send)

    async def _serve(
        self, call: Call, endpoint: str, model: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        status = 200
        try:
            await self._answer(call, endpoint, model, scope, receive, send)
        except AvowError as error:
            status = error.http_status
            self.failed(error)
            if call.begun:
                if not isinstance(error, ClientGone):
                    await send({"type": "http.response.body", "body": frames.error_frame(error_body(error))})
            elif not isinstance(error, ClientGone):
                await respond_error(send, error, _secret_headers(error))
        self.count(call, status)

    def failed(self, error: AvowError) -> None:
        """Count an error."""
        self._metrics.errors.add((error.code,))

    def count(self, call: Call, status: int) -> None:
        """Count a request that is over."""
        self._metrics.requests.add((call.endpoint, call.method, str(status)))
        self._metrics.seconds.observe(
            (call.endpoint, "true" if call.stream else "false"), time.perf_counter() - call.started
        )

    async def _answer(
        self, call: Call, endpoint: str, model: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = scope["headers"]
        body = await read_json_body(headers, receive, self._limits.body_bytes)
        accepted = self._accept(call, endpoint, model, headers, body)
        with accepted.route.link as node, self._watches.watch(receive, self._limits.deadline_ms / 1000):
            try:
                await self._ask(node, accepted, send)
            except AvowError as error:
                if not self.is_uncovered(accepted, error):
                    raise
                await self._payer.cover(accepted.route.operator, lambda: self._ask(node, accepted, send))

    async def _ask(self, node: Node, accepted: Accepted, send: Send) -> None:
        if accepted.call.stream:
            await self._stream(accepted.call, node, accepted.job, accepted.options, send)
        else:
            await self._whole(node, accepted, send)

    def is_uncovered(self, accepted: Accepted, error: AvowError) -> bool:
        """Whether the node refused the gateway's own account as payer: nothing that the caller could help (account.py, rule 3)."""
        return accepted.job.payer == self._payer.address and says(error, PayerUncovered)

    async def ask_again(self, accepted: Accepted) -> Answer:
        """A whole answer after such a refusal. Raises GatewayUncovered, or what the node refuses else."""
        node = accepted.route.link.node
        return await self._payer.cover(accepted.route.operator, lambda: node.infer(accepted.job))

    def accept_chat(self, headers: HeaderList, body: bytes) -> Accepted:
        """A chat completion that is here whole. Raises whatever is wrong with it."""
        check_body_headers(headers)
        if len(body) > self._limits.body_bytes:
            raise TooLarge("the body is too large", size=len(body), limit=self._limits.body_bytes)
        return self._accept(Call("chat", time.perf_counter()), CHAT, None, headers, body)

    def _accept(self, call: Call, endpoint: str, model: str | None, headers: HeaderList, body: bytes) -> Accepted:
        """What is asked, of whom."""
        head = read_head(body)
        options = read_options(avow_headers(headers), head.avow, os.urandom)
        if model is None:
            if not head.model or len(head.model) > MAX_MODEL_NAME:
                raise MalformedRequest("model is missing, empty or too long", param="model")
            route = self._directory.route(head.model, options.method, "chat", _authorised_node(options))
            call.stream = head.stream is True
        else:
            route = self._directory.route(model, options.method, "tensor", _authorised_node(options))
        if options.client_key is not None and not call.stream:
            raise BadOption("avow-client-key belongs to a stream", param="avow-client-key")
        call.method = route.method.label
        return Accepted(call, route, self._job(endpoint, body, route, options, stream=call.stream), options)

    def _job(self, endpoint: str, body: bytes, route: Route, options: Options, *, stream: bool) -> Job:
        requester, authorisation = options.requester, options.authorisation
        payer, consent = self._payer.address, None
        if requester is not None and authorisation is not None:
            payer, consent = requester.address, Consent.stated(authorisation).to_bytes()
        return Job(
            endpoint=endpoint,
            body=body,
            program=route.program.program,
            method=route.method,
            nonce=options.nonce,
            nonce_source=options.nonce_source,
            payer=payer,
            seed=options.seed,
            requester=None if requester is None else requester.address,
            requester_signature=None if requester is None else requester.signature,
            authorisation=consent,
            client_key=options.client_key,
            stream=stream,
            deadline_ms=self._limits.deadline_ms,
            audience=None if options.audience is None else encode(options.audience.to_value()),
            payer_opens=options.payer_opens,
        )

    async def _whole(self, node: Node, accepted: Accepted, send: Send) -> None:
        answer = await node.infer(accepted.job)
        self.delivered(answer)
        receipt = answer.receipt
        if accepted.options.finality == "settled":
            receipt = await self._settle(node, answer)
        headers, body = self.whole(accepted, answer, receipt)
        await respond_at_once(send, 200, body, headers)

    def whole(self, accepted: Accepted, answer: Answer, receipt: bytes) -> tuple[HeaderList, bytes]:
        """Headers and body of a whole answer."""
        receipt_id = answer.id.hex()
        member = frames.avow_member(
            receipt_id,
            accepted.call.method,
            accepted.options.finality,
            receipt,
            answer.seed,
            complete=answer.complete,
        )
        body = frames.splice(answer.body, member)
        identity = receipt_id.encode()
        headers = (
            JSON_HEADER,
            NO_STORE,
            (b"avow-receipt-id", identity),
            (b"avow-receipt-url", b"/receipts/" + identity),
            (b"avow-secret", frames.base64url_bytes(answer.seed)),
        )
        return headers, body

    async def _stream(self, call: Call, node: Node, job: Job, options: Options, send: Send) -> None:
        head: frames.ChunkHead | None = None
        seed = b""
        pending = b""
        async with aclosing(node.stream(job)) as groups:
            async for group in groups:
                pieces = [pending]
                for event in group:
                    if type(event) is Chunks:
                        head = head or self._first_chunk(call, event)
                        pieces.append(frames.chunk_frames(event))
                    elif type(event) is Head:
                        pieces.append(frames.head_frame(event))
                    elif type(event) is Begin:
                        seed = event.seed
                        pieces.append(frames.stream_head(event))
                    elif type(event) is Answer:
                        pieces.append(await self._stream_tail(call, node, event, head, options, pieces, send))
                        await send({"type": "http.response.body", "body": b"".join(pieces)})
                        return
                pending = b"".join(pieces)
                if head is not None:  # until then an error can still have a status of its own
                    if not call.begun:
                        await self._begin(call, seed, send)
                    await send({"type": "http.response.body", "body": pending, "more_body": True})
                    pending = b""
        raise ConnectionLost("the stream ended without its receipt")

    def _first_chunk(self, call: Call, chunks: Chunks) -> frames.ChunkHead:
        self._metrics.first_chunk.observe((), time.perf_counter() - call.started)
        return frames.chunk_head(chunks.data[0])

    async def _begin(self, call: Call, seed: bytes, send: Send) -> None:
        secret = (b"avow-secret", frames.base64url_bytes(seed))
        await send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, secret]})
        call.begun = True

    async def _stream_tail(
        self,
        call: Call,
        node: Node,
        answer: Answer,
        head: frames.ChunkHead | None,
        options: Options,
        pieces: list[bytes],
        send: Send,
    ) -> bytes:
        """The last bytes of a stream: the receipt's event and [DONE]. `pieces` are sent first where they must not wait."""
        if head is None:
            raise frames.MalformedAnswer("the stream has no chunk")
        self.delivered(answer)
        if not call.begun:
            await self._begin(call, answer.seed, send)
        receipt, finality = answer.receipt, options.finality
        if finality == "settled":
            await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
            pieces.clear()
            try:
                receipt = await self._settle(node, answer)
            except NotSettled:
                finality = "instant"
        member = frames.avow_member(
            answer.id.hex(), call.method, finality, receipt, answer.seed, complete=answer.complete
        )
        return frames.receipt_frame(head, member)

    async def _settle(self, node: Node, answer: Answer) -> bytes:
        """The answer's receipt with its settlement. Raises NotSettled with what finds the answer again."""
        try:
            settled = Receipt.from_bytes(await node.wait_settled(answer.id, self._limits.settled_timeout_ms))
        except AvowError as error:
            if not (says(error, NotSettled) or is_away(error)):
                raise
            identity, secret = answer.id.hex(), base64url(answer.seed)
            raise NotSettled(
                "the answer is signed and kept, but not yet settled",
                hint=f"GET /receipts/{identity} with the header avow-secret",
                receipt=identity,
                secret=secret,
            ) from error
        if settled.settlement is None:
            raise NotSettled("the node gave a receipt without settlement", receipt=answer.id.hex())
        return Receipt.from_bytes(answer.receipt).with_settlement(settled.settlement).to_bytes()

    def delivered(self, answer: Answer) -> None:
        """Count what the node made."""
        self._gap.delivered(answer.key, answer.number)
        for unit, count in answer.usage.items():
            self._metrics.tokens.add((unit,), count)


def _authorised_node(options: Options) -> bytes | None:
    return None if options.authorisation is None else options.authorisation.node


def _secret_headers(error: AvowError) -> HeaderList:
    """For an answer that was made but not handed out: where it is."""
    if not isinstance(error, NotSettled):
        return ()
    receipt, secret = error.fields.get("receipt"), error.fields.get("secret")
    if not isinstance(receipt, str) or not isinstance(secret, str):
        return ()
    identity = receipt.encode()
    return (
        (b"avow-receipt-id", identity),
        (b"avow-receipt-url", b"/receipts/" + identity),
        (b"avow-secret", secret.encode()),
    )


def model_of_path(path: str) -> str | None:
    """The model's name in /v2/models/{model}/infer, or None for another path."""
    if not path.startswith("/v2/models/") or not path.endswith("/infer"):
        return None
    model = path[len("/v2/models/") : -len("/infer")]
    return model if model and "/" not in model and len(model) <= MAX_MODEL_NAME else None
