"""What the synchronous and the asynchronous client share: trust, options, and the reading of answers. No sockets here."""

import base64
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from avow.client.check import Verified, check_answer, refused
from avow.client.errors import AnswerOverturned, NotSettled, RemoteError, Unreachable
from avow.client.exchange import (
    Options,
    Payment,
    Sent,
    audience_of,
    finality_of,
    method_of,
    payer_opens_of,
    prepare,
    program_of,
)
from avow.client.live import LiveStream
from avow.client.pins import Pins, is_loopback, origin_of, read_policy
from avow.client.saved import SavedReceipts
from avow.errors import InputError, NotFound
from avow.home import home_folder
from avow.methods import checks
from avow.receipt.audience import Audience
from avow.receipt.receipt import Receipt
from avow.receipt.report import Outcome, Report
from avow.receipt.statement import Method
from avow.receipt.trust import TrustPolicy
from avow.receipt.verify import DEMANDS, Question

DEFAULT_URL = "http://127.0.0.1:8600"
WAIT_STEP_MS = 10_000
FINAL_POLL_S = 0.5
MAX_ERROR_BODY = 64 * 1024

URL_VARIABLE = "AVOW_URL"

Trust = TrustPolicy | str | os.PathLike[str] | None
Messages = str | Iterable[Mapping[str, Any]]
OnReceipt = Callable[[Receipt], None]


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def gateway_url(home: Path) -> str:
    """The gateway to ask where none is named: $AVOW_URL, the one that was started from this HOME, or the usual port."""
    named = os.environ.get(URL_VARIABLE)
    if named:
        return named
    for file in (home / "network.json", home / "gateway" / "state.json"):
        try:
            url = json.loads(file.read_bytes())["url"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(url, str):
            return url
    return DEFAULT_URL


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client is set up; see `Client` for each."""

    trust: Trust = None
    home: str | os.PathLike[str] | None = None
    method: str | Method | None = None
    finality: str = "instant"
    require: tuple[str, ...] = ()
    programs: Mapping[str, str | bytes] | None = None
    private_key: bytes | None = None
    save: bool = False
    on_receipt: OnReceipt | None = None
    clock_ms: Callable[[], int] = wall_clock_ms
    payment: Payment | None = None
    audience: str | Audience | None = None
    opening: str = "anyone"

    def options(self) -> Options:
        """The settings that concern one request, checked. Raises BadOption or InputError.

        Who demands that an answer has settled has each call wait for it.
        """
        unknown = [demand for demand in self.require if demand not in DEMANDS]
        if unknown:
            raise InputError(f"nothing called {unknown[0]!r} can be demanded", hint=f"one of {', '.join(DEMANDS)}")
        if self.payment is not None and self.private_key is None:
            raise InputError("a payment is signed by an account", hint="pass its key as key=…")
        return Options(
            method=None if self.method is None else method_of(self.method),
            finality=finality_of("settled" if "settled" in self.require else self.finality),
            programs={name: program_of(program) for name, program in (self.programs or {}).items()},
            require=self.require,
            private_key=self.private_key,
            payment=self.payment,
            audience=None if self.audience is None else audience_of(self.audience),
            payer_opens=payer_opens_of(self.opening),
        )


class Session:
    """One gateway, judged by one trust policy. Raises TrustNotPinned when it is made without one."""

    def __init__(self, url: str | None, settings: Settings) -> None:
        self.home = home_folder(settings.home)
        self.url = origin_of(url or gateway_url(self.home))
        self.trust = _policy(self.url, settings.trust, self.home)
        self.options = settings.options()
        self.clock_ms = settings.clock_ms
        self._saved = SavedReceipts(self.home) if settings.save else None
        self._on_receipt = settings.on_receipt

    @property
    def loopback(self) -> bool:
        return is_loopback(self.url)

    def prepare(
        self,
        endpoint: str,
        body: bytes,
        *,
        method: str | Method | None = None,
        finality: str | None = None,
        program: str | bytes | None = None,
        audience: str | Audience | None = None,
        opening: str | None = None,
    ) -> Sent:
        """One request; what is None here is as the session is set up."""
        options = self.options
        if method is not None:
            options = replace(options, method=method_of(method))
        if finality is not None:
            options = replace(options, finality=finality_of(finality))
        if audience is not None:
            options = replace(options, audience=audience_of(audience))
        if opening is not None:
            options = replace(options, payer_opens=payer_opens_of(opening))
        sent = prepare(endpoint, body, options, self.trust, now_ms=self.clock_ms())
        return sent if program is None else replace(sent, program=program_of(program))

    def answer(self, sent: Sent, status: int, body: bytes) -> Verified:
        """A whole answer, verified. Raises RemoteError for a refusal, or an AnswerRefused."""
        if status != 200:
            raise remote_error(status, body)
        verified = check_answer(sent, body, self.trust, self.clock_ms())
        self.keep(verified, sent)
        return verified

    def stream(self, sent: Sent) -> LiveStream:
        return LiveStream(sent, self.trust, self.clock_ms())

    def keep(self, verified: Verified, sent: Sent) -> None:
        """Save the opened receipt and tell who wants to know, where that was asked for."""
        if self._saved is None and self._on_receipt is None:
            return
        opened = verified.opened(sent.body)
        if self._saved is not None:
            self._saved.save(opened)
        if self._on_receipt is not None:
            self._on_receipt(opened)

    def save(self, receipt: Receipt) -> Path:
        return SavedReceipts(self.home).save(receipt)

    def resave(self, receipt: Receipt) -> None:
        """A receipt that has gained its settlement replaces the saved one, if receipts are saved."""
        if self._saved is not None:
            self._saved.save(receipt)

    def settled(self, receipt: Receipt, fetched: bytes) -> tuple[Receipt, Report] | None:
        """`receipt` with the settlement that the gateway shows for it, verified; None while it shows none.

        Raises AnswerOverturned for an answer that was overturned, ReceiptRefused when what is shown does not hold otherwise.
        """
        shown = Receipt.from_bytes(fetched)
        if shown.statement.hash() != receipt.statement.hash():
            raise NotSettled("the gateway shows another receipt under this id")
        if shown.settlement is None:
            return None
        settled = receipt.with_settlement(shown.settlement)
        return settled, self.held(settled, require=("settled",))

    def held(self, receipt: Receipt, *, require: tuple[str, ...] = ()) -> Report:
        """The report of a receipt that holds. Raises AnswerOverturned for an answer that was overturned, else ReceiptRefused."""
        report = self.verify(receipt, require=require)
        if report.ok:
            return report
        failed = {check.code for check in report.checks if check.outcome is Outcome.FAIL}
        raise AnswerOverturned(report, receipt) if failed == {"overturned"} else refused(report)

    def verify(self, receipt: Receipt, *, require: tuple[str, ...] = ()) -> Report:
        return checks.verify(receipt, self.trust, Question(self.clock_ms(), require=(*self.options.require, *require)))


def _policy(url: str, trust: Trust, home: Path) -> TrustPolicy:
    if isinstance(trust, TrustPolicy):
        return trust
    return Pins(home).for_url(url) if trust is None else read_policy(Path(trust))


def chat_body(messages: Messages, model: str, *, stream: bool, parameters: Mapping[str, Any]) -> bytes:
    """The request of a chat. A text alone is the user's one message. Raises InputError for what is no JSON."""
    if "stream" in parameters:
        raise InputError("stream is not a parameter here", hint="call `stream` for a stream, `chat` for an answer")
    listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body: dict[str, Any] = {"model": model, "messages": listed, **parameters}
    if stream:
        body["stream"] = True
        body.setdefault("stream_options", {"include_usage": True})
    return _json(body)


def infer_body(inputs: Mapping[str, Any] | Iterable[Mapping[str, Any]], parameters: Mapping[str, Any]) -> bytes:
    """The request of a tensor program (Open Inference Protocol): tensors as given, or one BYTES tensor per name and text."""
    listed: list[dict[str, Any]]
    if isinstance(inputs, Mapping):
        listed = [bytes_tensor(str(name), value) for name, value in inputs.items()]
    else:
        listed = [dict(tensor) for tensor in inputs]
    return _json({"inputs": listed, **parameters})


def bytes_tensor(name: str, value: bytes | str) -> dict[str, Any]:
    """A file's bytes as one BYTES tensor, base64 as the protocol's JSON form has it."""
    data = value.encode() if isinstance(value, str) else value
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(data).decode()]}


def infer_endpoint(model: str) -> str:
    """Method and path as they are committed. Raises InputError for a name that no path may hold."""
    if not model or len(model) > 256 or any(character in model for character in "/?#%") or not model.isprintable():
        raise InputError(f"not a model's name: {model!r}")
    return f"POST /v2/models/{model}/infer"


def path_of(endpoint: str) -> str:
    return endpoint.removeprefix("POST ")


def receipt_path(receipt_id: str) -> str:
    """Where a gateway has the receipt. Raises InputError."""
    if len(receipt_id) != 64 or set(receipt_id) - set("0123456789abcdef"):
        raise InputError("a receipt's id is 64 hex digits")
    return f"/receipts/{receipt_id}"


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"the request is not JSON: {error}") from error


class _Envelope(msgspec.Struct):
    error: dict[str, Any] = {}


def remote_error(status: int, body: bytes) -> RemoteError:
    """The gateway's refusal, from OpenAI's envelope where there is one."""
    try:
        error = msgspec.json.decode(body[:MAX_ERROR_BODY], type=_Envelope).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = {}
    message = error.get("message")
    code, param = error.get("code"), error.get("param")
    return RemoteError(
        message if isinstance(message, str) and message else f"the gateway answered with status {status}",
        status=status,
        remote_code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )


def unreachable(url: str, error: Exception) -> Unreachable:
    """The error for a connection that failed or broke."""
    hint = "start a network with `avow up`" if is_loopback(url) else "check the address and your connection"
    said = str(error) or type(error).__name__
    return Unreachable(f"{url} does not answer: {said}", hint=hint)


@dataclass(frozen=True, slots=True)
class Model:
    """A program that a gateway offers. `program` is its id in hex; `prices` are wei per unit, by method.

    `nodes` are the operators whose nodes serve it, by method, each an address as text.
    """

    name: str
    program: str
    kind: str
    prices: Mapping[str, int]
    nodes: Mapping[str, tuple[str, ...]]


def models_of(body: bytes) -> list[Model]:
    """The models in a listing. What does not have their form is left out: a listing proves nothing."""
    try:
        data = msgspec.json.decode(body, type=dict[str, Any]).get("data")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteError("the list of models is not JSON", status=200) from error
    models: list[Model] = []
    for item in data if isinstance(data, list) else ():
        try:
            more = item["avow"]
            prices = {name: int(offer["price_wei_per_unit"]) for name, offer in more["methods"].items()}
            nodes = {name: tuple(map(str, offer.get("nodes", ()))) for name, offer in more["methods"].items()}
            models.append(Model(str(item["id"]), str(more["program"]), str(more["kind"]), prices, nodes))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return models


@dataclass(frozen=True, slots=True)
class Overturning:
    """What overturned an answer, as a gateway says: the receipt proves that it was, not by what. `cause`: "fraud" or "trace_withheld"."""

    transaction: str
    height: int
    cause: str


def overturning_of(body: bytes) -> Overturning:
    """Raises RemoteError for what is not understood."""
    try:
        item = msgspec.json.decode(body, type=dict[str, Any])
        return Overturning(str(item["transaction"]), int(item["height"]), str(item["cause"]))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise RemoteError("what overturned the answer is not understood", status=200) from error


def first_chat(models: Iterable[Model]) -> str:
    """The name of the first chat model. Raises NotFound."""
    for model in models:
        if model.kind == "chat":
            return model.name
    raise NotFound("the gateway lists no chat model", hint="name one with model=…")
