"""What a reader asks of a receipt, and what a method's own checks are given to answer with.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from avow.receipt.commitment import Part, request_parts, response_parts
from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName
from avow.receipt.standing import KeyRecord
from avow.receipt.statement import Method
from avow.receipt.trust import TrustPolicy

MethodCheck = Callable[[Receipt, KeyRecord | None, TrustPolicy | None], Check]
"""A method's own check (6): receipt, proven key record if there is one, and the reader's trust."""


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What another run of the program gave: the header of its trace, and the response's parts; None where it was not run to its end."""

    header: bytes
    response: tuple[Part, ...] | None


@dataclass(frozen=True, slots=True)
class Question:
    """What the reader asks of a receipt. Bodies are bytes as on the wire; a streamed response may come as its parts.

    `answered_now`: the answer has only just come, so the key's standing is judged by `now_ms` too. Without it a key that was
    revoked could still sign for the time before, since the statement's time is the node's word. `recomputation`: what a run of the
    reader's own gave, if there was one.
    """

    now_ms: int
    request: bytes | None = None
    response: bytes | Sequence[Part] | None = None
    nonce: bytes | None = None
    require: tuple[str, ...] = ()
    answered_now: bool = False
    recomputation: Recomputation | None = None


class Shown:
    """The bodies that the reader or the opening shows, as parts; whether they are the ones committed, other checks say.

    Each raises MalformedBody for a body that is none.
    """

    def __init__(self, receipt: Receipt, question: Question) -> None:
        self._receipt = receipt
        self._question = question

    @cached_property
    def request(self) -> Sequence[Part] | None:
        opening, body = self._receipt.opening, self._question.request
        if opening is None or body is None:
            return None if opening is None else opening.request
        return request_parts(opening.endpoint, body)

    @cached_property
    def response(self) -> Sequence[Part] | None:
        opening, given, stream = self._receipt.opening, self._question.response, self._receipt.statement.private.stream
        if opening is None:
            return None
        if isinstance(given, bytes):
            parts = response_parts(given)
            return parts if stream is None else [*parts, ("stream", stream.head + stream.chunks.to_bytes(8))]
        return opening.response if given is None else given


@dataclass(frozen=True, slots=True)
class Facts:
    """What a method's further checks may rely on: `anchored` is whether the blocks shown are signed by whom the reader trusts."""

    trust: TrustPolicy | None
    question: Question
    anchored: bool
    shown: Shown


FurtherCheck = Callable[[Receipt, Facts], Check]
FurtherChecks = Mapping[Method, Mapping[CheckName, FurtherCheck]]
"""Checks that only statements of a method have, beside `attestation`; by name, in the order of names."""
