"""How a caller says by which method and finality to answer: `avow-` headers, or the body's `avow` member.

Rules:
1. Headers: avow-method, avow-finality, avow-nonce (base64url, 8–64 bytes), avow-seed (base64url, 32 bytes), avow-client-key
   (base64url, 65-byte uncompressed P-256 point), avow-requester (receipt/requester.py, rule 4), avow-authorisation
   (receipt/authorisation.py, rule 4), which needs avow-requester and avow-seed: the account that asks is the one that pays.
   For optimistic answers: avow-audience says who may check the answer, "public", "payer", or "watchers" and up to 16 addresses after it
   ("watchers,0x…,0x…"; receipt/audience.py); avow-opening "payer" forbids others to open it on chain ("anyone" is the default).
2. The member `avow` may hold method, finality, nonce, audience and opening. What header and member both say must be the same.
3. Unknown `avow-` headers and members are refused, and headers that occur twice: a typing error must not weaken an answer.
4. A caller without a nonce gets one from the gateway, and the statement says that it is the gateway's.

Pure but for the nonce source, which is handed in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from avow.errors import EncodingError, TooLarge
from avow.nodes.gateway.errors import BadOption, ConflictingOptions, MalformedRequest
from avow.receipt.audience import Audience
from avow.receipt.authorisation import StatedAuthorisation
from avow.receipt.encoding import from_base64url
from avow.receipt.fields import FieldError
from avow.receipt.requester import Requester
from avow.receipt.statement import Method

Finality = Literal["instant", "settled"]

NONCE_LENGTH = 16
MAX_MODEL_NAME = 256

_METHOD_ALONE = frozenset((b"avow-method",))
_METHODS = {method.label: method for method in Method}
_KNOWN_HEADERS = frozenset(
    (
        b"avow-method",
        b"avow-finality",
        b"avow-nonce",
        b"avow-seed",
        b"avow-client-key",
        b"avow-requester",
        b"avow-authorisation",
        b"avow-audience",
        b"avow-opening",
    )
)


class AvowMember(msgspec.Struct, forbid_unknown_fields=True):
    """The body's `avow` member."""

    method: str | None = None
    finality: str | None = None
    nonce: str | None = None
    audience: str | None = None
    opening: str | None = None


class RequestHead(msgspec.Struct):
    """What a gateway reads of a body; the rest is the node's to judge."""

    model: str | None = None
    stream: bool | None = None
    avow: AvowMember | None = None


_decode_head = msgspec.json.Decoder(RequestHead).decode


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked for; `method` is None where nothing was said."""

    method: Method | None
    finality: Finality
    nonce: bytes
    nonce_source: Literal["client", "gateway"]
    seed: bytes | None
    client_key: bytes | None
    requester: Requester | None
    authorisation: StatedAuthorisation | None = None
    audience: Audience | None = None
    payer_opens: bool = False


def read_head(body: bytes) -> RequestHead:
    """The parts of a JSON body that a gateway acts on. Raises MalformedRequest with OpenAI's `param`."""
    try:
        return _decode_head(body)
    except msgspec.ValidationError as error:
        text = str(error)
        path = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else None
        raise MalformedRequest(text.partition(" - at ")[0], param=path) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedRequest("the body is not a JSON object in UTF-8") from None


def avow_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The `avow-` headers of a request. Raises BadOption by rule 3."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.startswith(b"avow-"):
            if name not in _KNOWN_HEADERS:
                raise BadOption(f"unknown header {name[:64].decode('latin-1')}")
            if name in found:
                raise BadOption(f"the header {name.decode()} occurs twice", param=name.decode())
            found[name] = value
    return found


def read_options(found: dict[bytes, bytes], member: AvowMember | None, random: Callable[[int], bytes]) -> Options:
    """Rules 1–4. Raises BadOption or ConflictingOptions."""
    if member is None and not (found.keys() - _METHOD_ALONE):  # as nearly all requests are
        label = found.get(b"avow-method")
        method = None if label is None else _method(label.decode("latin-1"))
        return Options(method, "instant", random(NONCE_LENGTH), "gateway", None, None, None)
    member = member or AvowMember()
    method_label = _either(found, "method", member.method)
    method = None if method_label is None else _method(method_label)
    finality = _either(found, "finality", member.finality) or "instant"
    if finality not in ("instant", "settled"):
        raise BadOption("finality is instant or settled", param="avow.finality")
    nonce_text = _either(found, "nonce", member.nonce)
    nonce = random(NONCE_LENGTH) if nonce_text is None else _octets(nonce_text, "avow-nonce", 8, 64)
    client_key = _header_octets(found, b"avow-client-key", 65)
    if client_key is not None and client_key[0] != 4:
        raise BadOption("avow-client-key is an uncompressed P-256 point", param="avow-client-key")
    requester, authorisation = _requester(found), _authorisation(found)
    opening = _either(found, "opening", member.opening) or "anyone"
    if opening not in ("anyone", "payer"):
        raise BadOption("opening is anyone or payer", param="avow.opening")
    return Options(
        method=method,
        finality="settled" if finality == "settled" else "instant",
        nonce=nonce,
        nonce_source="gateway" if nonce_text is None else "client",
        seed=_header_octets(found, b"avow-seed", 32),
        client_key=client_key,
        requester=requester,
        authorisation=authorisation,
        audience=_audience(_either(found, "audience", member.audience)),
        payer_opens=opening == "payer",
    )


def _method(label: str) -> Method:
    method = _METHODS.get(label)
    if method is None:
        raise BadOption(f"unknown method; there are {', '.join(_METHODS)}", param="avow.method")
    return method


def _audience(text: str | None) -> Audience | None:
    if text is None:
        return None
    try:
        return Audience.from_text(text)
    except FieldError as error:
        raise BadOption(error.detail, param="avow.audience") from error


def _either(found: dict[bytes, bytes], name: str, in_body: str | None) -> str | None:
    raw = found.get(b"avow-" + name.encode())
    if raw is None:
        return in_body
    in_header = raw.decode("latin-1")
    if in_body is not None and in_body != in_header:
        raise ConflictingOptions(f"the header avow-{name} and avow.{name} of the body differ", param=f"avow.{name}")
    return in_header


def _octets(text: str, name: str, least: int, most: int) -> bytes:
    try:
        data = from_base64url(text, max_bytes=most)
    except (EncodingError, TooLarge) as error:
        raise BadOption(f"{name} is not base64url without padding", param=name) from error
    if not least <= len(data) <= most:
        raise BadOption(f"{name} has {len(data)} bytes; {least} to {most} are allowed", param=name)
    return data


def _header_octets(found: dict[bytes, bytes], name: bytes, length: int) -> bytes | None:
    raw = found.get(name)
    return None if raw is None else _octets(raw.decode("latin-1"), name.decode(), length, length)


def _requester(found: dict[bytes, bytes]) -> Requester | None:
    raw = found.get(b"avow-requester")
    if raw is None:
        return None
    try:
        return Requester.from_header(raw.decode("latin-1"))
    except (EncodingError, TooLarge) as error:
        raise BadOption("avow-requester is base64url of address and signature", param="avow-requester") from error


def _authorisation(found: dict[bytes, bytes]) -> StatedAuthorisation | None:
    raw = found.get(b"avow-authorisation")
    if raw is None:
        return None
    if b"avow-requester" not in found or b"avow-seed" not in found:
        raise BadOption("avow-authorisation needs avow-requester and avow-seed", param="avow-authorisation")
    try:
        return StatedAuthorisation.from_header(raw.decode("latin-1"))
    except (EncodingError, TooLarge) as error:
        raise BadOption("avow-authorisation is base64url of 117 bytes", param="avow-authorisation") from error
