"""What a client sends with a request so that it can judge the answer.

Rules:
1. Every inference gets a fresh nonce and a fresh opening secret of the client's own, so that the request commitment is known before
   anything leaves. A nonce in the body's `avow` member is kept: it is the caller's.
2. A stream gets a fresh P-256 key, whose public half lets the node authenticate each chunk for this client alone.
3. With an account's key the request commitment, method and nonce are signed (receipt/requester.py). The method is then always named:
   `vanilla` where the caller names none.
4. With a payment that account also signs what the named node may charge for this one request (receipt/authorisation.py). Nonces
   begin at random and count up from there: those of one client lie side by side, as the chain likes them.
5. An audience (who may check an optimistic answer by running it again), and an opening left to the payer alone, go with the method
   optimistic only.
"""

import itertools
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avow.errors import InputError
from avow.receipt.audience import Audience
from avow.receipt.authorisation import Authorisation, StatedAuthorisation, authorise
from avow.receipt.commitment import MalformedBody, commit, request_parts
from avow.receipt.encoding import base64url, from_base64url
from avow.receipt.fields import FieldError
from avow.receipt.requester import Requester, sign_request
from avow.receipt.statement import Method
from avow.receipt.trust import TrustPolicy

Finality = Literal["instant", "settled"]
CHAT_ENDPOINT = "POST /v1/chat/completions"
NONCE_LENGTH = 16


class BadOption(InputError):
    """A method, finality or key that there is not."""

    code = "bad_option"


def method_of(label: str | Method) -> Method:
    """The method of that name. Raises BadOption."""
    if isinstance(label, Method):
        return label
    for method in Method:
        if method.label == label:
            return method
    known = ", ".join(method.label for method in Method)
    raise BadOption(f"there is no method {label!r}", hint=f"one of {known}")


def audience_of(audience: str | Audience) -> Audience:
    """From "public", "payer", "watchers" or "watchers,0x…,0x…". Raises BadOption."""
    try:
        return Audience.from_text(audience) if isinstance(audience, str) else audience
    except FieldError as error:
        raise BadOption(error.detail, hint="public, payer, or watchers and addresses after it") from error


def payer_opens_of(opening: str) -> bool:
    """Whether the payer alone may open the answer on chain. Raises BadOption."""
    if opening not in ("anyone", "payer"):
        raise BadOption(f"there is no opening {opening!r}", hint="anyone or payer")
    return opening == "payer"


def finality_of(label: str) -> Finality:
    """Raises BadOption."""
    if label == "instant":
        return "instant"
    if label == "settled":
        return "settled"
    raise BadOption(f"there is no finality {label!r}", hint="instant or settled")


def program_of(program: str | bytes) -> bytes:
    """A program id from its 64 hex digits or 32 bytes. Raises BadOption."""
    try:
        data = bytes.fromhex(program.removeprefix("0x")) if isinstance(program, str) else program
    except ValueError:
        data = b""
    if len(data) != 32:
        raise BadOption("a program id is 64 hex digits", hint="`avow model list` shows them")
    return data


def _nonces() -> Iterator[int]:
    """Rule 4: 256 in a row share one word of the chain's state."""
    return itertools.count(secrets.randbits(54) << 8)


@dataclass(frozen=True, slots=True)
class Payment:
    """What an account lets a node charge for each call, without an allowance on chain.

    `node` is the operator's account ("0x…" or 20 bytes; `Model.nodes` lists those that a gateway reaches), `most` in wei per call.
    A call that is not settled `valid_s` seconds after it was made is not charged.
    """

    node: str | bytes
    most: int
    valid_s: int = 600
    nonces: Iterator[int] = field(default_factory=_nonces, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.operator()
        if not 0 < self.most < 1 << 128 or not 0 < self.valid_s <= 31_536_000:
            raise BadOption("a payment is a positive number of wei, for at most a year")

    def operator(self) -> bytes:
        """The node's account, 20 bytes. Raises BadOption."""
        try:
            data = bytes.fromhex(self.node.removeprefix("0x")) if isinstance(self.node, str) else self.node
        except ValueError:
            data = b""
        if len(data) != 20:
            raise BadOption("a node is named by its operator's address", hint="`client.models()` lists them")
        return data

    def authorise(self, private_key: bytes, chain_id: str, request: bytes, now_ms: int) -> StatedAuthorisation:
        """The consent to one charge, signed."""
        expiry_ms = now_ms + 1000 * self.valid_s
        message = Authorisation(self.operator(), request, self.most, expiry_ms, next(self.nonces))
        return authorise(private_key, chain_id, message)


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller demands. `method` None leaves the choice to the gateway; `programs` pins names to program ids.

    `require` are demands of verify.py ("settled", "tee", …); `private_key` is an account's, 32 bytes. `audience` None: the network's
    appointed watchers; `payer_opens`: nobody but the payer may open the answer on chain (rule 5).
    """

    method: Method | None = None
    finality: Finality = "instant"
    programs: Mapping[str, bytes] = field(default_factory=dict)
    require: tuple[str, ...] = ()
    private_key: bytes | None = field(default=None, repr=False)
    payment: Payment | None = None
    audience: Audience | None = None
    payer_opens: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as it left, and all that the check of its answer needs."""

    endpoint: str
    body: bytes
    model: str
    stream: bool
    options: Options
    nonce: bytes
    seed: bytes = field(repr=False)
    request: bytes
    program: bytes | None
    client_key: ec.EllipticCurvePrivateKey | None = field(repr=False)
    requester: Requester | None
    authorisation: StatedAuthorisation | None = None

    def headers(self) -> dict[str, str]:
        """The `avow-` headers that go with the body."""
        headers = {"avow-nonce": base64url(self.nonce), "avow-seed": base64url(self.seed)}
        if self.options.method is not None:
            headers["avow-method"] = self.options.method.label
        if self.options.finality != "instant":
            headers["avow-finality"] = self.options.finality
        if self.options.audience is not None:
            headers["avow-audience"] = self.options.audience.to_text()
        if self.options.payer_opens:
            headers["avow-opening"] = "payer"
        if self.client_key is not None:
            point = self.client_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            headers["avow-client-key"] = base64url(point)
        if self.requester is not None:
            headers["avow-requester"] = self.requester.to_header()
        if self.authorisation is not None:
            headers["avow-authorisation"] = self.authorisation.to_header()
        return headers

    def http_headers(self) -> dict[str, str]:
        """All headers of the request. Encodings are refused: what is checked are the bytes as they were committed."""
        return {"content-type": "application/json", "accept-encoding": "identity"} | self.headers()


class _Member(msgspec.Struct):
    method: str | None = None
    finality: str | None = None
    nonce: str | None = None
    audience: str | None = None
    opening: str | None = None


class _Head(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    avow: _Member | None = None


_read_head = msgspec.json.Decoder(_Head).decode


def prepare(
    endpoint: str,
    body: bytes,
    options: Options,
    trust: TrustPolicy,
    *,
    now_ms: int,
    random: Callable[[int], bytes] = os.urandom,
) -> Sent:
    """Everything that goes with one request. Raises MalformedBody or BadOption before anything is sent."""
    try:
        head = _read_head(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"this is not a request: {error}") from error
    member = head.avow or _Member()
    if member.method is not None:
        options = replace(options, method=method_of(member.method))
    if member.finality is not None:
        options = replace(options, finality=finality_of(member.finality))
    if member.audience is not None:
        options = replace(options, audience=audience_of(member.audience))
    if member.opening is not None:
        options = replace(options, payer_opens=payer_opens_of(member.opening))
    if (options.audience is not None or options.payer_opens) and options.method is not Method.OPTIMISTIC:
        raise BadOption("only an optimistic answer has an audience or an opening", hint="method='optimistic'")
    if options.private_key is not None and options.method is None:
        options = replace(options, method=Method.VANILLA)
    nonce = random(NONCE_LENGTH) if member.nonce is None else from_base64url(member.nonce, max_bytes=64)
    seed = random(32)
    request = commit("request", seed, request_parts(endpoint, body))
    model = head.model or _model_in(endpoint)
    stream = endpoint == CHAT_ENDPOINT and head.stream is True
    requester, authorisation = None, None
    if options.private_key is not None and options.method is not None:
        requester = sign_request(options.private_key, trust.chain_id, request, options.method.label, nonce)
        if options.payment is not None:
            authorisation = options.payment.authorise(options.private_key, trust.chain_id, request, now_ms)
    return Sent(
        endpoint=endpoint,
        body=body,
        model=model,
        stream=stream,
        options=options,
        nonce=nonce,
        seed=seed,
        request=request,
        program=options.programs.get(model),
        client_key=ec.generate_private_key(ec.SECP256R1()) if stream else None,
        requester=requester,
        authorisation=authorisation,
    )


def _model_in(endpoint: str) -> str:
    """The model's name in POST /v2/models/{name}/infer."""
    path = endpoint.removeprefix("POST /v2/models/")
    return path.removesuffix("/infer") if path != endpoint else ""
