"""What can go wrong between a client and a gateway, one class per check that owns the refusal.

Everything under `AnswerRefused` means that somebody between the node and the caller, or the node, did not do what it says;
nothing of such an answer has been returned. `RemoteError` is the network's own, honest refusal.
"""

from typing import Any, ClassVar

from avow.errors import AvowError, FieldValue, Unavailable, VerificationError


class AnswerRefused(VerificationError):
    """An answer came that does not hold."""

    code = "answer_refused"


class NoReceipt(AnswerRefused):
    """The answer carries no receipt."""

    code = "no_receipt"


class NonceMismatch(AnswerRefused):
    """The receipt repeats another nonce than the one sent: it may be of an older answer."""

    code = "nonce_mismatch"


class MethodMismatch(AnswerRefused):
    """The answer is backed by another method than the one asked for."""

    code = "method_mismatch"


class ProgramMismatch(AnswerRefused):
    """Another program answered than the one pinned for this model."""

    code = "program_mismatch"


class RequestMismatch(AnswerRefused):
    """The receipt is of another request than the one sent."""

    code = "request_mismatch"


class ResponseMismatch(AnswerRefused):
    """The receipt is of another answer than the one that came."""

    code = "response_mismatch"


class OpeningMismatch(AnswerRefused):
    """The opening that came with the answer does not fit the statement."""

    code = "opening_mismatch"


class RequesterMismatch(AnswerRefused):
    """The statement names another requester than the account that signed the request."""

    code = "requester_mismatch"


class PaymentMismatch(AnswerRefused):
    """The statement charges otherwise than the account authorised: another payer, another node, or more."""

    code = "payment_mismatch"


class AudienceMismatch(AnswerRefused):
    """The statement lets others check the answer, or open it on chain, than the caller chose."""

    code = "audience_mismatch"


class Incomplete(AnswerRefused):
    """The statement says that the answer was cut short."""

    code = "incomplete_answer"


class ReceiptRefused(AnswerRefused):
    """The receipt does not verify under the trust policy. `report` has every check."""

    code = "receipt_refused"

    def __init__(self, detail: str, report: Any, *, hint: str = "", **fields: FieldValue) -> None:
        super().__init__(detail, hint=hint, **fields)
        self.report = report


class AnswerOverturned(ReceiptRefused):
    """An optimistic answer was overturned after it was given. `receipt` has the proof of that, and its fee is returned."""

    code = "answer_overturned"

    def __init__(self, report: Any, receipt: Any, *, by: str = "", hint: str = "", **fields: FieldValue) -> None:
        detail = "the answer was overturned: a fault was proven, or what was committed to was withheld"
        super().__init__(f"{detail}; {by}" if by else detail, report, hint=hint, **fields)
        self.receipt = receipt


class MalformedStream(AnswerRefused):
    """The stream is not what a gateway sends."""

    code = "malformed_stream"


class ChunkNotAuthentic(AnswerRefused):
    """A chunk's authentication code is missing or does not fit: it is not what the node sent, or not in this place."""

    code = "chunk_not_authentic"


class HeadNotAuthentic(AnswerRefused):
    """A signed stream head does not fit the chunks that came."""

    code = "head_not_authentic"


class StreamMismatch(AnswerRefused):
    """The final statement's stream is not the one that was delivered."""

    code = "stream_mismatch"


class StreamCut(AnswerRefused):
    """The stream ended before its receipt. `receipt` proves what was delivered, or is None if nothing signed came."""

    code = "stream_cut"

    def __init__(self, detail: str, receipt: Any, *, hint: str = "", **fields: FieldValue) -> None:
        super().__init__(detail, hint=hint, **fields)
        self.receipt = receipt


class Unreachable(Unavailable):
    """Nobody answers at the address, or the connection broke."""

    code = "unreachable"


class NotSettled(Unavailable):
    """The receipt had not settled when the waiting time was over."""

    code = "not_settled"


class RemoteError(AvowError):
    """The network refused the request and says why. `remote_code`, `param` and `status` are the gateway's."""

    code = "remote_error"
    http_status: ClassVar[int] = 502

    def __init__(self, detail: str, *, status: int, remote_code: str | None = None, param: str | None = None) -> None:
        super().__init__(detail, status=status, remote_code=remote_code, param=param)
        self.status = status
        self.remote_code = remote_code
        self.param = param
