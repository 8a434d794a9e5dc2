"""Every error that crosses a boundary of Avow: one hierarchy, a stable code each.

The code, never the text, is what programs compare, what HTTP and exit codes are chosen from (in one place each)
and what may enter hashed data. `detail` is for a person, `fields` for a program, `hint` says what to do next.
"""

from typing import ClassVar

FieldValue = str | int | bool | None


class AvowError(Exception):
    """Base of all errors that Avow raises on purpose."""

    code: ClassVar[str] = "avow"
    http_status: ClassVar[int] = 500

    def __init__(self, detail: str = "", *, hint: str = "", **fields: FieldValue) -> None:
        super().__init__(detail or self.code)
        self.detail = detail or (self.__doc__ or self.code).strip().splitlines()[0]
        self.hint = hint
        self.fields = fields

    def as_json(self) -> dict[str, object]:
        """The error as programs read it: code, detail, and whichever of hint and fields there are."""
        view: dict[str, object] = {"code": self.code, "detail": self.detail}
        if self.hint:
            view["hint"] = self.hint
        if self.fields:
            view["fields"] = dict(self.fields)
        return view


class InputError(AvowError):
    """The caller's input is not acceptable."""

    code = "bad_input"
    http_status = 400


class TooLarge(InputError):
    """Something is larger than its limit."""

    code = "too_large"
    http_status = 413


class EncodingError(InputError):
    """Bytes are not the one encoding that is accepted."""

    code = "bad_encoding"


class NotAReceipt(InputError):
    """The bytes are not a receipt at all."""

    code = "not_a_receipt"


class UnknownVersion(NotAReceipt):
    """A format version that this verifier does not know."""

    code = "unknown_version"


class NotFound(AvowError):
    """There is no such thing."""

    code = "not_found"
    http_status = 404


class VerificationError(AvowError):
    """Evidence was checked and does not hold."""

    code = "verification_failed"
    http_status = 502


class TrustNotPinned(VerificationError):
    """No trust policy is pinned for this network."""

    code = "trust_not_pinned"


class Unavailable(AvowError):
    """A part of the network does not answer."""

    code = "unavailable"
    http_status = 503
