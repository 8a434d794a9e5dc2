"""The receipt of a stream that broke off: what the node had signed of it when it did.

Rules:
1. It is the CBOR map {"version", "stream", "evidence", "opening"?}. `stream` is {"chain_id", "request", "effective", "chunks", "head"}:
   the commitments, and the last signed head with its number of chunks (stream.py, rules 1 and 3). It is never whole.
2. `evidence` is {"method", "signature", "signing_key", "standing"}: the COSE_Sign1 over statement.stream_payload, and the key's standing.
3. The opening is {"seed", "endpoint", "effective", "request"?, "chunks"?}: parts of the request, and the chunks up to the head.
4. It has no number and settles nothing; the node states the same run, marked incomplete, in a statement of its own.

The checks have the names of verify.py's and the same meaning. Pure: the reader's time is a parameter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from avow.errors import AvowError, NotAReceipt, VerificationError
from avow.receipt import fields
from avow.receipt.commitment import MAX_PART, Part, commit, effective_parts, request_parts
from avow.receipt.encoding import Value, encode_trusted, tagged_hash, to_json
from avow.receipt.receipt import Opening, load_value
from avow.receipt.report import Check, CheckName, Outcome, Report
from avow.receipt.standing import KeyRecord, KeyState, Standing
from avow.receipt.statement import Method, key_id, stream_payload, verify_signature
from avow.receipt.stream import MAX_CHUNKS, stream_next, stream_start
from avow.receipt.trust import NotAnchored, TrustPolicy
from avow.receipt.verify import FUTURE_MS

VERSION = 1


@dataclass(frozen=True, slots=True)
class PartialReceipt:
    """Rules 1 to 3. `data` are the chunks up to the head, if they are shown; `opening.response` is never set."""

    chain_id: str
    request: bytes
    effective: bytes
    chunks: int
    head: bytes
    method: Method
    signature: bytes
    signing_key: bytes
    standing: Standing
    opening: Opening | None = None
    data: tuple[bytes, ...] | None = None

    @property
    def id(self) -> str:
        """A name for it, 64 hex digits: H("avow/partial/1", key id ‖ head)."""
        return tagged_hash(b"avow/partial/1", key_id(self.signing_key), self.head).hex()

    def to_value(self) -> dict[str, Value]:
        value: dict[str, Value] = {
            "version": VERSION,
            "stream": {
                "chain_id": self.chain_id,
                "request": self.request,
                "effective": self.effective,
                "chunks": self.chunks,
                "head": self.head,
            },
            "evidence": {
                "method": self.method.label,
                "signature": self.signature,
                "signing_key": self.signing_key,
                "standing": self.standing.to_value(),
            },
        }
        if self.opening is not None:
            opening = self.opening.to_value()
            if self.data is not None:
                opening["chunks"] = list(self.data)
            value["opening"] = opening
        return value

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises NotAReceipt, UnknownVersion or FieldError."""
        if not isinstance(value, dict) or "stream" not in value:
            raise NotAReceipt("this is not the receipt of a stream that broke off")
        fields.version(value.get("version"), "partial receipt", VERSION)
        item = fields.mapping(value, "partial receipt", ("version", "stream", "evidence"), ("opening",))
        stream = fields.mapping(item["stream"], "stream", ("chain_id", "request", "effective", "chunks", "head"))
        evidence = fields.mapping(item["evidence"], "evidence", ("method", "signature", "signing_key", "standing"))
        label = fields.text(evidence["method"], "method", max_length=16)
        method = next((known for known in Method if known.label == label), None)
        if method is None:
            raise fields.FieldError(f"unknown method {label!r}", field="method")
        opening, data = _opening(item["opening"]) if "opening" in item else (None, None)
        return cls(
            chain_id=fields.text(stream["chain_id"], "chain_id", max_length=64),
            request=fields.octets(stream["request"], "request", 32),
            effective=fields.octets(stream["effective"], "effective", 32),
            chunks=fields.integer(stream["chunks"], "chunks", maximum=MAX_CHUNKS),
            head=fields.octets(stream["head"], "head", 32),
            method=method,
            signature=fields.octets(evidence["signature"], "signature", 0, 256),
            signing_key=fields.octets(evidence["signing_key"], "signing_key", 65),
            standing=Standing.from_value(evidence["standing"]),
            opening=opening,
            data=data,
        )

    def to_bytes(self) -> bytes:
        return encode_trusted(self.to_value())

    def to_json(self) -> bytes:
        return to_json(self.to_value())

    @classmethod
    def load(cls, data: bytes) -> Self:
        """From a file's bytes, JSON or CBOR. Raises NotAReceipt and what `from_value` raises."""
        return cls.from_value(load_value(data))


def _opening(value: Value) -> tuple[Opening, tuple[bytes, ...] | None]:
    item = fields.mapping(value, "opening", ("seed", "endpoint", "effective"), ("request", "chunks"))
    rest: dict[str, Value] = {name: inner for name, inner in item.items() if name != "chunks"}
    opening = Opening.from_value(rest)
    if "chunks" not in item:
        return opening, None
    chunks = fields.array(item["chunks"], "chunks", max_length=MAX_CHUNKS)
    return opening, tuple(fields.octets(chunk, "chunks", 0, MAX_PART) for chunk in chunks)


def check_key(
    standing: Standing, signing_key: bytes, trust: TrustPolicy, now_ms: int, method: Method | None = None
) -> KeyRecord:
    """The record of a key that signs a stream now: registered, in force, anchored in the reader's trust.

    Raises StreamKeyRefused, or what the standing's and the anchor's own checks raise.
    """
    trust.check_anchor(standing.block, now_ms)
    return _stands(standing, signing_key, trust, now_ms, method)


def _stands(
    standing: Standing, signing_key: bytes, trust: TrustPolicy, now_ms: int, method: Method | None
) -> KeyRecord:
    """The record under an anchored block, once it is shown to be in force at `now_ms`."""
    record = standing.check_membership(key_id(signing_key))
    if record.signing_key != signing_key:
        raise StreamKeyRefused("the record holds another signing key")
    if method is not None and record.method is not method:
        raise StreamKeyRefused(f"the key is registered for {record.method.label}, {method.label} was asked for")
    if record.method not in trust.methods:
        raise StreamKeyRefused(f"you do not accept {record.method.label}")
    if record.state is not KeyState.ACTIVE or record.compromised_from is not None:
        raise StreamKeyRefused(f"the key is {record.state.name.lower()} or compromised")
    if record.until_ms is not None and now_ms > record.until_ms:
        raise StreamKeyRefused("the key's registration has expired")
    if now_ms + FUTURE_MS < record.from_ms:
        raise StreamKeyRefused("the key was not registered yet")
    age = now_ms - standing.block.header.time_ns // 1_000_000
    if age > trust.max_standing_age_ms:
        raise StreamKeyRefused(
            f"the key's standing is {age // 1000} s old, more than {trust.max_standing_age_ms // 1000} s"
        )
    if record.method is Method.TEE:
        _check_measurement(record, trust)
    return record


def _check_measurement(record: KeyRecord, trust: TrustPolicy) -> None:
    """What the chain's record says of the enclave is acceptable to the reader; the attestation itself comes at the end."""
    if trust.root(record.root) is None:
        raise StreamKeyRefused("the enclave's attestation root is not one that you pinned")
    if trust.measurements and record.measurement not in trust.measurements:
        raise StreamKeyRefused("the enclave's measurement is not one that you pinned")


class StreamKeyRefused(VerificationError):
    """The key that signs a stream does not stand as it should."""

    code = "stream_key_refused"


def verify_partial(
    receipt: PartialReceipt,
    trust: TrustPolicy | None,
    *,
    now_ms: int,
    request: bytes | None = None,
    require: Sequence[str] = (),
) -> Report:
    """The checks of a broken stream's receipt, in order. At best the verdict is `warn`: it is never the whole answer.

    `now_ms` is the reader's time; the standing is judged as of its own block. `request` is the body that was sent.
    """
    anchor = _guarded(CheckName.ANCHOR, lambda: _anchor(receipt, trust, now_ms))
    anchored = anchor.outcome in (Outcome.PASS, Outcome.WARN)
    found = [
        _guarded(CheckName.CHAIN, lambda: _chain(receipt, trust)),
        _guarded(CheckName.SIGNATURE, lambda: _signature(receipt)),
        anchor,
        _guarded(CheckName.STANDING, lambda: _standing(receipt, trust if anchored else None)),
        _guarded(CheckName.REQUEST, lambda: _request(receipt, request)),
        _guarded(CheckName.EFFECTIVE, lambda: _effective(receipt)),
        _guarded(CheckName.RESPONSE, lambda: _response(receipt)),
    ]
    detail = f"the stream broke off: the node signed its first {receipt.chunks} chunks, and no more is proven"
    found.append(Check(CheckName.STREAM, Outcome.WARN, detail))
    found.append(Check(CheckName.SETTLEMENT, Outcome.SKIPPED, "a broken stream's receipt does not settle"))
    found.append(_required(receipt, require, found))
    return Report(receipt.id, tuple(found), ("that this is the whole answer: it is what came before the stream broke",))


def _required(receipt: PartialReceipt, require: Sequence[str], found: Sequence[Check]) -> Check:
    """A demand is met by a check of that name that passed, "vanilla" by the method; nothing shows an attestation here."""
    met = {check.name.value for check in found if check.outcome is Outcome.PASS}
    if receipt.method is Method.VANILLA:
        met.add(receipt.method.label)
    missing = [demand for demand in require if demand not in met]
    if missing:
        return Check(CheckName.REQUIRED, Outcome.FAIL, f"demanded and not there: {', '.join(missing)}", "not_met")
    return Check(CheckName.REQUIRED, Outcome.PASS, "every demand is met" if require else "nothing was demanded")


def _anchor(receipt: PartialReceipt, trust: TrustPolicy | None, now_ms: int) -> Check:
    name = CheckName.ANCHOR
    if trust is None:
        return Check(name, Outcome.SKIPPED, "no trust policy is pinned: `avow trust pin` first")
    try:
        trust.check_anchor(receipt.standing.block, now_ms)
    except NotAnchored as error:
        return Check(name, Outcome.SKIPPED, f"{error.detail}: {error.hint}", error.code)
    if trust.fewest_to_forge == 1:
        return Check(name, Outcome.WARN, "one pinned validator could sign alone: its operator could rewrite the chain")
    return Check(name, Outcome.PASS, "the block shown is signed by validators whom your trust reaches")


def _guarded(name: CheckName, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except AvowError as error:
        return Check(name, Outcome.FAIL, error.detail, error.code)


def _chain(receipt: PartialReceipt, trust: TrustPolicy | None) -> Check:
    if trust is None:
        return Check(CheckName.CHAIN, Outcome.SKIPPED, f"says it is for {receipt.chain_id}; no trust policy is pinned")
    if receipt.chain_id != trust.chain_id:
        detail = f"the stream is of {receipt.chain_id}, the pinned chain is {trust.chain_id}"
        return Check(CheckName.CHAIN, Outcome.FAIL, detail, "wrong_chain")
    return Check(CheckName.CHAIN, Outcome.PASS, f"for the pinned chain {trust.chain_id}")


def _signature(receipt: PartialReceipt) -> Check:
    key = key_id(receipt.signing_key)
    payload = stream_payload(receipt.chain_id, key, receipt.request, receipt.effective, receipt.chunks, receipt.head)
    verify_signature(receipt.signing_key, payload, receipt.signature)
    return Check(CheckName.SIGNATURE, Outcome.PASS, f"key {key.hex()[:16]}… signed the stream's head (ES256)")


def _standing(receipt: PartialReceipt, trust: TrustPolicy | None) -> Check:
    """As of the block shown; `trust` is None where that block is not anchored."""
    name = CheckName.STANDING
    if trust is None:
        return Check(name, Outcome.SKIPPED, "the block that shows the key's standing is not anchored")
    shown_ms = receipt.standing.block.header.time_ns // 1_000_000
    record = _stands(receipt.standing, receipt.signing_key, trust, shown_ms, receipt.method)
    detail = f"the key stood registered for {record.method.label} when the stream began"
    if record.method is Method.TEE:
        return Check(name, Outcome.WARN, detail + "; its attestation is vouched for by the chain alone")
    return Check(name, Outcome.PASS, detail)


def _request(receipt: PartialReceipt, request: bytes | None) -> Check:
    opening = receipt.opening
    parts: Sequence[Part] | None = None if opening is None else opening.request
    if opening is not None and request is not None:
        parts = request_parts(opening.endpoint, request)
    return _compared(receipt, CheckName.REQUEST, parts, receipt.request, given=request is not None)


def _effective(receipt: PartialReceipt) -> Check:
    parts = None if receipt.opening is None else effective_parts(receipt.opening.effective)
    return _compared(receipt, CheckName.EFFECTIVE, parts, receipt.effective, given=False)


def _compared(
    receipt: PartialReceipt, name: CheckName, parts: Sequence[Part] | None, commitment: bytes, *, given: bool
) -> Check:
    opening, kind = receipt.opening, "request" if name is CheckName.REQUEST else "effective"
    if opening is not None and opening.request is not None and opening.request[:1] != (_endpoint(opening),):
        return Check(name, Outcome.FAIL, "the opening names another endpoint than the request", "commitment_mismatch")
    if opening is None or parts is None:
        outcome = Outcome.FAIL if given else Outcome.SKIPPED
        return Check(name, outcome, f"the {kind} is not shown: only its commitment is", "no_opening" if given else "")
    if len({part for part, _ in parts}) != len(parts):
        return Check(name, Outcome.FAIL, f"the {kind} shows two parts under one name", "ambiguous_parts")
    found = commit("request" if name is CheckName.REQUEST else "effective", opening.seed, parts)
    if found != commitment:
        return Check(name, Outcome.FAIL, f"the {kind} shown is not the one committed", "commitment_mismatch")
    return Check(name, Outcome.PASS, f"the {kind} shown is the one committed")


def _endpoint(opening: Opening) -> Part:
    return ("endpoint", opening.endpoint.encode())


def _response(receipt: PartialReceipt) -> Check:
    name = CheckName.RESPONSE
    if receipt.data is None:
        return Check(name, Outcome.SKIPPED, "the chunks are not shown")
    head = stream_start(receipt.request, receipt.effective)
    for chunk in receipt.data:
        head = stream_next(head, chunk)
    if len(receipt.data) != receipt.chunks or head != receipt.head:
        return Check(name, Outcome.FAIL, "the chunks shown do not lead to the signed head", "wrong_stream")
    return Check(name, Outcome.PASS, f"the {receipt.chunks} chunks shown lead to the signed head")
