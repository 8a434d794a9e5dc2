"""`avow.verify`: the check of a receipt, with the reader's clock and files where none are given."""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from avow.errors import InputError
from avow.methods import checks
from avow.receipt.commitment import Part
from avow.receipt.partial import PartialReceipt, verify_partial
from avow.receipt.receipt import Receipt, load_value
from avow.receipt.report import Report
from avow.receipt.trust import MAX_POLICY, TrustPolicy
from avow.receipt.verify import DEMANDS, Question, Recomputation

AnyReceipt = Receipt | PartialReceipt


def load_receipt(data: bytes) -> AnyReceipt:
    """The receipt in a file's bytes, JSON or CBOR; that of a stream that broke off is a PartialReceipt.

    Raises NotAReceipt, or the error of the field that is wrong.
    """
    value = load_value(data)
    if isinstance(value, dict) and "stream" in value and "statement" not in value:
        return PartialReceipt.from_value(value)
    return Receipt.from_value(value)


def verify(
    receipt: AnyReceipt | bytes,
    trust: TrustPolicy | str | os.PathLike[str] | None,
    *,
    now_ms: int | None = None,
    request: bytes | None = None,
    response: bytes | Sequence[Part] | None = None,
    nonce: bytes | None = None,
    require: Iterable[str] = (),
    recomputation: Recomputation | None = None,
) -> Report:
    """All checks of a receipt under the reader's trust. What is wrong with the receipt is in the report, never raised.

    receipt   a Receipt, or a file's bytes (raises NotAReceipt when they are none)
    trust     a policy, or the path of one; None leaves the receipt unanchored
    now_ms    the reader's time in milliseconds since the epoch; None takes the clock
    request   the request's body as it was sent, compared with its commitment
    response  the response's body without its member `avow`, or a stream's parts
    nonce     the nonce that was sent
    require   demands that turn into failures when they are not met: "settled", "tee", "opened", any check's name, …
    recomputation  what another run of the program gave (avow.recomputation), for an optimistic receipt
    """
    if isinstance(receipt, bytes):
        receipt = load_receipt(receipt)
    policy = trust if trust is None or isinstance(trust, TrustPolicy) else _read(Path(trust))
    demands = tuple(require)
    unknown = [demand for demand in demands if demand not in DEMANDS]
    if unknown:
        raise InputError(f"nothing called {unknown[0]!r} can be demanded", hint=f"one of {', '.join(DEMANDS)}")
    moment = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    if isinstance(receipt, PartialReceipt):
        return verify_partial(receipt, policy, now_ms=moment, request=request, require=demands)
    question = Question(
        moment, request=request, response=response, nonce=nonce, require=demands, recomputation=recomputation
    )
    return checks.verify(receipt, policy, question)


def _read(path: Path) -> TrustPolicy:
    try:
        with path.open("rb") as file:
            return TrustPolicy.from_json(file.read(MAX_POLICY + 1))
    except OSError as error:
        raise InputError(f"cannot read the trust policy {path}: {error.strerror}") from error
