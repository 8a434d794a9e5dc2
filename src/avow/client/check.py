"""Is this the answer to what I sent? All of it, before any of it is handed on.

Rules, in order; the first that fails decides, with an error of its own:
1. The answer's last member is `avow`, and the receipt in it is one, in its one encoding.
2. The receipt is of the method asked for, and of the program pinned for the model.
3. The nonce is the one sent, and the statement says that the client chose it.
4. The opening is over the client's own secret and endpoint; request, effective parameters and response, as sent and as about to be
   returned, are the committed ones.
5. The requester is the account that signed, if one did. An optimistic answer may be checked, and opened on chain, by whom the caller chose.
6. The answer is complete.
7. Every check of `avow.verify` holds under the pinned trust, with what the caller demands.
What is handed on is the committed body; of the member `avow`, which nothing commits, only what the receipt proves is repeated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from avow.client.errors import (
    AnswerRefused,
    AudienceMismatch,
    Incomplete,
    MethodMismatch,
    NonceMismatch,
    NoReceipt,
    OpeningMismatch,
    PaymentMismatch,
    ProgramMismatch,
    ReceiptRefused,
    RequesterMismatch,
    RequestMismatch,
    ResponseMismatch,
    StreamMismatch,
)
from avow.client.exchange import Sent
from avow.errors import AvowError
from avow.methods import checks
from avow.receipt.audience import Audience
from avow.receipt.commitment import Part
from avow.receipt.encoding import base64url, from_base64url
from avow.receipt.receipt import MAX_RECEIPT, Receipt
from avow.receipt.report import CheckName, Outcome, Report
from avow.receipt.statement import TERMS_PAYER_OPENS, Method, NonceSource
from avow.receipt.trust import TrustPolicy
from avow.receipt.verify import Question

MAX_ANSWER = 64 * 1024 * 1024

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Member(msgspec.Struct):
    receipt: str


_read_member = msgspec.json.Decoder(_Member).decode


@dataclass(frozen=True, slots=True)
class Verified:
    """An answer that held. `body` is the committed body, `receipt` the receipt with its opening of seed and parameters."""

    body: bytes
    receipt: Receipt
    report: Report
    parts: tuple[Part, ...] | None = None
    """A stream's response parts."""

    def opened(self, request: bytes) -> Receipt:
        """The receipt with request and response in its opening, so that it shows alone what was said."""
        return self.receipt.opened(request, self.body if self.parts is None else self.parts)

    def member(self) -> dict[str, Any]:
        """What may stand in the body's `avow` member: repeated from the receipt, nothing else."""
        return member_of(self.receipt)


def member_of(receipt: Receipt) -> dict[str, Any]:
    """The `avow` member that says of a verified receipt what the receipt itself proves."""
    page = f"/r/{receipt.id}"
    return {
        "id": receipt.id,
        "method": receipt.statement.columns.method.label,
        "finality": "instant" if receipt.settlement is None else "settled",
        "url": f"/receipts/{receipt.id}",
        "page": page if receipt.opening is None else f"{page}#{base64url(receipt.opening.seed)}",
        "receipt": base64url(receipt.to_bytes()),
    }


def with_member(body: bytes, receipt: Receipt) -> bytes:
    """The committed body with its `avow` member, as strict clients keep it."""
    return body[:-1] + b',"avow":' + _encode(member_of(receipt)) + b"}"


def take_apart(answer: bytes) -> tuple[bytes, Receipt]:
    """The committed body and the receipt of an answer (rule 1). Raises NoReceipt."""
    try:
        raw = bytes(_members(answer)["avow"])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NoReceipt("the answer is not a JSON object") from None
    except KeyError:
        raise NoReceipt("the answer carries no receipt", hint="is this address an Avow gateway?") from None
    tail = b',"avow":' + raw + b"}"
    if not answer.endswith(tail):
        raise NoReceipt("the receipt is not the answer's last member")
    body = answer[: -len(tail)] + b"}"
    try:
        twice = "avow" in _members(body)
    except msgspec.DecodeError:
        raise NoReceipt("the answer without its receipt is not a JSON object") from None
    if twice:  # it would be handed on, and is not committed
        raise NoReceipt("the answer carries two receipts")
    return body, read_receipt(raw)


def read_receipt(member: bytes) -> Receipt:
    """The receipt in an `avow` member. Raises NoReceipt."""
    try:
        return Receipt.from_bytes(from_base64url(_read_member(member).receipt, max_bytes=MAX_RECEIPT))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NoReceipt("the member avow holds no receipt") from None
    except AvowError as error:
        raise NoReceipt(f"the receipt cannot be read: {error.detail}") from error


def check_answer(sent: Sent, answer: bytes, trust: TrustPolicy, now_ms: int) -> Verified:
    """Rules 1 to 7 for an answer in one piece. Raises an AnswerRefused, whose class names the rule."""
    body, receipt = take_apart(answer)
    if receipt.statement.private.stream is not None:
        raise StreamMismatch("the receipt is of a stream, the answer came in one piece")
    report = check_receipt(sent, receipt, body, trust, now_ms)
    return Verified(body, receipt, report)


def check_receipt(
    sent: Sent, receipt: Receipt, response: bytes | Sequence[Part], trust: TrustPolicy, now_ms: int
) -> Report:
    """Rules 2 to 7; `response` is the body about to be returned, or a stream's parts."""
    _check_asked(sent, receipt)
    require = sent.options.require
    if sent.options.finality == "settled":
        require = (*require, "settled")
    question = Question(
        now_ms, request=sent.body, response=response, nonce=sent.nonce, require=require, answered_now=True
    )
    report = checks.verify(receipt, trust, question)
    _raise_first_failure(report)
    return report


def _check_asked(sent: Sent, receipt: Receipt) -> None:
    """What only the caller knows: rules 2, 3, 5, 6 and the first half of 4."""
    columns, private, opening = receipt.statement.columns, receipt.statement.private, receipt.opening
    asked = sent.options.method
    if asked is not None and columns.method is not asked:
        raise MethodMismatch(f"{asked.label} was asked for, the answer is backed by {columns.method.label}")
    if sent.program is not None and columns.program != sent.program:
        raise ProgramMismatch(
            f"program {columns.program.hex()} answered, {sent.program.hex()} is pinned for {sent.model!r}"
        )
    if private.nonce != sent.nonce or private.nonce_source is not NonceSource.CLIENT:
        raise NonceMismatch("the receipt repeats another nonce than the one sent: it may be of an older answer")
    if private.request != sent.request:
        raise RequestMismatch("the receipt is of another request than the one sent")
    if opening is None or opening.seed != sent.seed or opening.endpoint != sent.endpoint:
        raise OpeningMismatch("the opening is not over the secret and endpoint that were sent")
    if private.requester != (None if sent.requester is None else sent.requester.address):
        raise RequesterMismatch("the statement names another requester than the account that signed")
    _check_audience(sent, receipt)
    _check_charged(sent, receipt)
    if not private.complete:
        raise Incomplete("the node marks the answer as incomplete")


def _check_audience(sent: Sent, receipt: Receipt) -> None:
    """Rule 5's second half."""
    columns, options = receipt.statement.columns, sent.options
    if columns.method is not Method.OPTIMISTIC:
        return
    if receipt.statement.private.audience != (options.audience or Audience()):
        raise AudienceMismatch("the statement names another audience than the one asked for")
    if bool(columns.terms & TERMS_PAYER_OPENS) is not options.payer_opens:
        raise AudienceMismatch("the statement says otherwise who may open the answer on chain")


def _check_charged(sent: Sent, receipt: Receipt) -> None:
    """Where the account pays by authorisation: it is charged, by the node that it named, and no more than it agreed to."""
    agreed = sent.authorisation
    if agreed is None or sent.requester is None:
        return
    columns, private = receipt.statement.columns, receipt.statement.private
    if columns.payer != sent.requester.address or not private.authorised:
        raise PaymentMismatch("the statement charges another account than the one that authorised it")
    if private.node != agreed.node:
        raise PaymentMismatch("another node answered than the one that was authorised")
    if columns.amount > agreed.max_amount:
        raise PaymentMismatch("the statement charges more than was authorised", amount=str(columns.amount))


_OWNERS: dict[CheckName, Callable[[str], AnswerRefused]] = {
    CheckName.REQUEST: RequestMismatch,
    CheckName.EFFECTIVE: OpeningMismatch,
    CheckName.RESPONSE: ResponseMismatch,
    CheckName.STREAM: StreamMismatch,
    CheckName.FRESHNESS: NonceMismatch,
    CheckName.REQUESTER: RequesterMismatch,
    CheckName.PROGRAM: ProgramMismatch,
}
"""The checks of verify.py whose failure has a class here; of any other the error is ReceiptRefused."""

HINTS = {
    "wrong_chain": "the address is of another network than the pinned one: name that network's home with --home (in Python home=) or its"
    " policy with --trust (trust=), or pin it: `avow trust pin URL`"
}
"""What to do about a failed check, by its code."""


def _raise_first_failure(report: Report) -> None:
    """Raise for the first check that failed; an unanchored receipt is refused as well."""
    failed = next((check for check in report.checks if check.outcome is Outcome.FAIL), None)
    owner = None if failed is None else _OWNERS.get(failed.name)
    if failed is not None and owner is not None:
        raise owner(failed.detail)
    if not report.ok:
        raise refused(report)


def refused(report: Report) -> ReceiptRefused:
    """The error for a receipt that does not hold, or that the pinned trust does not reach: the first check that says so, and what to do."""
    for check in report.checks:
        if check.outcome is Outcome.FAIL:
            hint = HINTS.get(check.code, "")
            detail = f"{check.name}: {check.detail}"
            return ReceiptRefused(detail, report, hint=hint, check=check.name.value, cause=check.code)
    weak = next((item for item in report.checks if item.outcome is Outcome.SKIPPED), None)
    detail = "the receipt is not anchored in the pinned trust" + ("" if weak is None else f": {weak.detail}")
    return ReceiptRefused(detail, report, hint="`avow trust pin` pins the network anew")
