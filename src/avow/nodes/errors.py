"""What can go wrong between the processes of a node. Codes are stable; the gateway answers with the HTTP statuses."""

import re
from typing import ClassVar, cast

from avow.errors import AvowError, FieldValue, InputError, NotFound, Unavailable


class WireError(AvowError):
    """A peer broke the frame protocol."""

    code = "wire"
    http_status = 502


class ConnectionLost(Unavailable):
    """The other process went away while a call was under way."""

    code = "connection_lost"


class UnknownProgram(NotFound):
    """The node does not serve this program."""

    code = "unknown_program"


class MethodNotServed(InputError):
    """The node does not back answers of this program by this method."""

    code = "method_not_served"


class NotTraced(InputError):
    """The program is not an exact one: nobody could check its answer by running it again."""

    code = "not_exact"


class NotEntitled(AvowError):
    """The caller chose who may check this answer, and it is not who asks."""

    code = "not_entitled"
    http_status = 403


class DemandRefused(InputError):
    """A demand about a trace shows what the trace does not commit to."""

    code = "demand_refused"


class BondExhausted(Unavailable):
    """The node's bond does not cover one more open statement."""

    code = "bond_exhausted"


class TraceDiskFull(Unavailable):
    """There is no room for what a run leaves behind for those who may challenge its answer."""

    code = "trace_disk_full"


class RunTooLong(InputError):
    """Who challenges the answer could not be answered in time about so long a run."""

    code = "run_too_long"


class CannotAnswerInTime(MethodNotServed):
    """This machine is too slow for the program: a demand about a run of it would not be answered within the chain's time."""

    code = "cannot_answer_in_time"


class EndpointMismatch(InputError):
    """The program does not answer at this endpoint."""

    code = "endpoint_mismatch"


class NotReady(Unavailable):
    """The node has no key that stands on chain yet."""

    code = "not_ready"


class Busy(AvowError):
    """Every slot is taken and the queue is full."""

    code = "busy"
    http_status = 429


class DeadlineExceeded(AvowError):
    """The answer was not complete before its deadline."""

    code = "deadline_exceeded"
    http_status = 504


class Cancelled(AvowError):
    """The caller gave up before the answer was complete."""

    code = "cancelled"
    http_status = 499


class EngineFailure(AvowError):
    """The engine broke while it ran the program."""

    code = "engine_failure"


class PayerUncovered(AvowError):
    """The payer's allowance for this node does not cover the answer."""

    code = "payer_uncovered"
    http_status = 402


class AuthorisationUsed(AvowError):
    """The authorisation's nonce was used before: it is good for one answer."""

    code = "authorisation_used"
    http_status = 402


class OutboxUnwritable(AvowError):
    """Statements cannot be made durable, so no answer may leave."""

    code = "outbox_unwritable"
    http_status = 507


class ReceiptNotFound(NotFound):
    """No receipt has this id."""

    code = "receipt_not_found"


class OpeningGone(NotFound):
    """The opening was deleted after its retention time, or the secret is not this receipt's."""

    code = "opening_gone"


class NotSettled(AvowError):
    """The receipt was not settled in the time given."""

    code = "not_settled"
    http_status = 504


class TrustGapExceeded(Unavailable):
    """Settlement lags further behind than the operator allows."""

    code = "trust_gap_exceeded"


class RemoteError(AvowError):
    """An error that another process reported, with that process's code and status."""

    code = "remote"


_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_MAX_KNOWN = 256
_known: dict[tuple[str, int], type[RemoteError]] = {}


def remote_error(code: str, http_status: int, detail: str, hint: str, fields: dict[str, FieldValue]) -> AvowError:
    """The reported error as an exception of ours. A code or status out of bounds is itself a fault of the peer."""
    if not _CODE.match(code) or not 400 <= http_status <= 599:
        return WireError("the peer reported an error without a proper code")
    kind = _known.get((code, http_status))
    if kind is None:
        members: dict[str, ClassVar[object]] = {"code": code, "http_status": http_status}  # type: ignore[valid-type]
        kind = cast("type[RemoteError]", type("RemoteError", (RemoteError,), members))
        if len(_known) < _MAX_KNOWN:
            _known[code, http_status] = kind
    fields.pop("detail", None)
    fields.pop("hint", None)
    return kind(detail, hint=hint, **fields)
