"""The life of a signing key on chain: registered, active, draining, retired, revoked (receipt/standing.py, KEY_LIFE).

Rules:
1. A key is registered once, by its operator, with proof that the key agreed: a registration digest (methods/registration.py) that
   binds chain, operator, both keys and a recent block hash, attested for tee, signed by the key for the others.
2. Every change of state is a step of KEY_LIFE; what is not in that table is refused.
3. A tee key is active once its measurement is listed, until its attestation's certificates lapse; it may be attested again
   before or after that, with the same measurement. One attestation serves once.
4. A draining or retired key settles what it signed, for the settlement window.
5. A revoked key settles nothing from that block on. Operator and governance may revoke; proof of a fault does, and its cause is kept
   (RevocationCause). That governance revoked is kept too: only its revocation is a cause that the node did not make (voids.py).
6. `compromised` names the height from which the key is not to be believed. Only governance may name one before the current
   height: an operator could otherwise take back what it settled.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric import ec

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import beacon, measurements, prices
from avow.errors import InputError, VerificationError
from avow.methods.registration import registration_digest
from avow.methods.tee.verify import Attestation, verify_attestation
from avow.receipt import fields
from avow.receipt.encoding import decode, encode
from avow.receipt.standing import KEY_LIFE, KEY_PREFIX, KeyEvent, KeyRecord, KeyState
from avow.receipt.statement import (
    BadSignature,
    Method,
    first_head,
    key_id,
    statement_payload,
    verify_signature,
)

HEAD_PREFIX = b"nodes/head/"
MAX_ATTESTATION = 32_768
MAX_EVIDENCE = 512

_ATTESTED = b"nodes/attested/"
_GOVERNED = b"nodes/governed/"
REVOKED_PREFIX = b"nodes/revoked/"


class RevocationCause(IntEnum):
    """Which fault revoked a key; the number stands in its record."""

    NONE = 0
    EQUIVOCATION = 1
    FALSE_VOID = 2
    FRAUD = 3
    TRACE_WITHHELD = 4


# --- Records --------------------------------------------------------------------------------------------------------


def load_key(host: Host, key: bytes) -> KeyRecord:
    """Raises Refused (KEY_UNKNOWN)."""
    record = host.load(KEY_PREFIX + key)
    if record is None:
        raise Refused(Code.KEY_UNKNOWN)
    return KeyRecord.from_bytes(record)


def store_key(host: Host, key: bytes, record: KeyRecord) -> None:
    host.store(KEY_PREFIX + key, record.to_bytes())


def load_head(host: Host, key: bytes) -> tuple[int, bytes]:
    """The next number to settle, and the head before it."""
    record = host.load(HEAD_PREFIX + key)
    if record is None:
        return 0, first_head(host.genesis.chain_id, key)
    value = fields.mapping(decode(record), "head", ("next", "head"))
    return fields.integer(value["next"], "next"), fields.octets(value["head"], "head", 32)


def store_head(host: Host, key: bytes, following: int, head: bytes) -> None:
    host.store(HEAD_PREFIX + key, encode({"next": following, "head": head}))


def _advance(record: KeyRecord, event: KeyEvent) -> KeyRecord:
    """Rule 2."""
    state = KEY_LIFE.get((record.state, event))
    if state is None:
        raise Refused(Code.KEY_LIFE)
    return replace(record, state=state)


def revoke_for_fault(host: Host, key: bytes, record: KeyRecord, cause: RevocationCause) -> None:
    """Revoke because a fault was proven; the module that saw the proof logs it. Raises Refused (KEY_LIFE)."""
    store_key(host, key, _advance(record, KeyEvent.REVOKE))
    host.store(REVOKED_PREFIX + key, cause.to_bytes(1) + host.block.height.to_bytes(8))


def revocation(host: Host, key: bytes) -> tuple[int, int]:
    """The fault that revoked a key, and the height at which it was proven; zeros when none did."""
    record = host.load(REVOKED_PREFIX + key)
    return (record[0], int.from_bytes(record[1:])) if record else (int(RevocationCause.NONE), 0)


def _change(host: Host, key: bytes, record: KeyRecord) -> None:
    store_key(host, key, record)
    until_ms = measurements.NO_END_MS if record.until_ms is None else record.until_ms
    host.log("KeyChanged", key, int(record.state), until_ms)


def _own(host: Host, key: bytes) -> KeyRecord:
    record = load_key(host, key)
    if record.operator != host.caller:
        raise Refused(Code.NOT_AUTHORISED)
    return record


def _own_or_governed(host: Host, key: bytes) -> KeyRecord:
    record = load_key(host, key)
    if host.caller not in (record.operator, host.genesis.governance):
        raise Refused(Code.NOT_AUTHORISED)
    return record


# --- Registration ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a registration's evidence gave; all None for a method without attestation."""

    measurement: bytes | None = None
    attestation: bytes | None = None
    root: bytes | None = None
    until_ms: int | None = None


def register(
    host: Host, method: int, signing_key: bytes, transport_key: bytes, block_hash: bytes, attestation: bytes
) -> bytes:
    _check_point(host, signing_key)
    _check_point(host, transport_key)
    key = key_id(signing_key)
    if host.load(KEY_PREFIX + key) is not None:
        raise Refused(Code.KEY_EXISTS)
    proof = _prove(host, method, key, (signing_key, transport_key), block_hash, attestation)
    listed = proof.measurement is None or measurements.is_listed(host, proof.measurement)
    record = KeyRecord(
        operator=host.caller,
        method=Method(method),
        signing_key=signing_key,
        transport_key=transport_key,
        measurement=proof.measurement,
        attestation=proof.attestation,
        root=proof.root,
        state=KeyState.REGISTERED,
        from_height=host.block.height,
        from_ms=host.block.time_ms,
        until_ms=proof.until_ms,
        compromised_from=None,
    )
    if listed:
        record = _advance(record, KeyEvent.ACTIVATE)
    store_key(host, key, record)
    host.log("KeyRegistered", key, host.caller, method, proof.measurement or bytes(32), int(record.state))
    return key


def rotate(
    host: Host,
    old_key: bytes,
    method: int,
    signing_key: bytes,
    transport_key: bytes,
    block_hash: bytes,
    attestation: bytes,
) -> bytes:
    key = register(host, method, signing_key, transport_key, block_hash, attestation)
    drain(host, old_key)
    return key


def activate(host: Host, key: bytes) -> None:
    record = _own(host, key)
    if record.measurement is not None and not measurements.is_listed(host, record.measurement):
        raise Refused(Code.MEASUREMENT_NOT_ALLOWED)
    _change(host, key, _advance(record, KeyEvent.ACTIVATE))


def reattest(host: Host, key: bytes, block_hash: bytes, attestation: bytes) -> None:
    record = _own(host, key)
    if record.method is not Method.TEE:
        raise Refused(Code.METHOD_UNSUPPORTED)
    if record.state not in (KeyState.REGISTERED, KeyState.ACTIVE):
        raise Refused(Code.KEY_LIFE)
    proof = _prove(host, record.method, key, (record.signing_key, record.transport_key), block_hash, attestation)
    if proof.measurement != record.measurement:
        raise Refused(Code.MEASUREMENT_CHANGED)
    renewed = replace(record, attestation=proof.attestation, root=proof.root, until_ms=proof.until_ms)
    store_key(host, key, renewed)
    host.log("KeyAttested", key, proof.attestation or b"", proof.until_ms or 0)


def _prove(
    host: Host, method: int, key: bytes, bound_keys: tuple[bytes, bytes], block_hash: bytes, attestation: bytes
) -> _Proof:
    """Rule 1. Raises Refused."""
    if method not in prices.SUPPORTED:
        raise Refused(Code.METHOD_UNSUPPORTED)
    if len(attestation) > MAX_ATTESTATION:
        raise Refused(Code.OUT_OF_RANGE)
    if not beacon.is_recent(host, block_hash):
        raise Refused(Code.BLOCK_NOT_RECENT)
    signing_key, transport_key = bound_keys
    digest = registration_digest(host.genesis.chain_id, host.caller, signing_key, transport_key, block_hash)
    if method != Method.TEE:
        host.charge(gas.P256_VERIFY)
        try:
            verify_signature(signing_key, digest, attestation)
        except BadSignature:
            raise Refused(Code.POSSESSION_UNPROVEN) from None
        return _Proof()
    return _attested(host, key, signing_key, digest, attestation)


def _attested(host: Host, key: bytes, signing_key: bytes, digest: bytes, document: bytes) -> _Proof:
    genesis, now_ms = host.genesis, host.block.time_ms
    host.charge(gas.ATTESTATION)
    try:
        found: Attestation = verify_attestation(document, roots=genesis.attestation_roots, now_ms=now_ms)
    except VerificationError:
        raise Refused(Code.ATTESTATION_REFUSED) from None
    if found.public_key != signing_key or found.user_data != digest:
        raise Refused(Code.ATTESTATION_UNBOUND)
    latest_ms = now_ms + genesis.heartbeat_ms + genesis.clock_slack_ms
    if not now_ms - genesis.registration_window_ms <= found.timestamp_ms <= latest_ms:
        raise Refused(Code.ATTESTATION_STALE)
    if host.load(_ATTESTED + found.payload_hash) is not None:
        raise Refused(Code.ATTESTATION_REPLAYED)
    host.store(_ATTESTED + found.payload_hash, key)
    return _Proof(found.measurement, found.payload_hash, found.root_fingerprint, found.valid_until_ms)


def _check_point(host: Host, point: bytes) -> None:
    """An uncompressed point of P-256. Raises Refused (KEY_INVALID)."""
    host.charge(gas.P256_VERIFY)
    if len(point) != 65 or point[0] != 4:
        raise Refused(Code.KEY_INVALID)
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise Refused(Code.KEY_INVALID) from None


# --- The end of a key -----------------------------------------------------------------------------------------------


def drain(host: Host, key: bytes) -> None:
    _end(host, key, KeyEvent.DRAIN)


def retire(host: Host, key: bytes) -> None:
    _end(host, key, KeyEvent.RETIRE)


def _end(host: Host, key: bytes, event: KeyEvent) -> None:
    """Rule 4."""
    record = _advance(_own(host, key), event)
    last_ms = host.block.time_ms + host.genesis.settlement_window_ms
    until_ms = last_ms if record.until_ms is None else min(record.until_ms, last_ms)
    _change(host, key, replace(record, until_ms=until_ms))


def revoke(host: Host, key: bytes) -> None:
    _change(host, key, _revoked(host, key, _own_or_governed(host, key)))


def _revoked(host: Host, key: bytes, record: KeyRecord) -> KeyRecord:
    revoked = _advance(record, KeyEvent.REVOKE)
    if host.caller == host.genesis.governance != record.operator:
        host.store(_GOVERNED + key, b"\x01")
    return revoked


def revoked_by_governance(host: Host, key: bytes) -> bool:
    """Whether the governance account, and not the operator, revoked the key."""
    return host.load(_GOVERNED + key) is not None


def compromised(host: Host, key: bytes, from_height: int) -> None:
    """Rule 6; the height may be moved back later, never forward."""
    record = _own_or_governed(host, key)
    earliest = 0 if host.caller == host.genesis.governance else host.block.height
    latest = measurements.NO_END_MS - 1 if record.compromised_from is None else record.compromised_from - 1
    if not earliest <= from_height <= latest:
        raise Refused(Code.OUT_OF_RANGE)
    if record.state is not KeyState.REVOKED:
        record = _revoked(host, key, record)
    _change(host, key, replace(record, compromised_from=from_height))
    host.log("KeyCompromised", key, from_height)


def report_equivocation(host: Host, key: bytes, first: bytes, second: bytes) -> None:
    """Rule 5: one number, two statements or two histories, both signed."""
    record = load_key(host, key)
    one, other = signed_evidence(host, key, record, first), signed_evidence(host, key, record, second)
    if one[0] != other[0] or one[1:] == other[1:]:
        raise Refused(Code.EVIDENCE_REFUSED)
    revoke_for_fault(host, key, record, RevocationCause.EQUIVOCATION)
    host.log("EquivocationProven", key, host.caller, one[0])


def signed_evidence(host: Host, key: bytes, record: KeyRecord, evidence: bytes) -> tuple[int, bytes, bytes]:
    """Number, statement hash and head that the key signed: CBOR [number, statement, head, COSE_Sign1]. Raises Refused."""
    host.charge(gas.P256_VERIFY)
    try:
        parts = fields.array(decode(evidence, max_bytes=MAX_EVIDENCE), "evidence", max_length=4)
        if len(parts) != 4:
            raise Refused(Code.EVIDENCE_REFUSED)
        number = fields.integer(parts[0], "number")
        statement = fields.octets(parts[1], "statement", 32)
        head = fields.octets(parts[2], "head", 32)
        signature = fields.octets(parts[3], "signature", 0, 256)
        payload = statement_payload(host.genesis.chain_id, key, number, statement, head)
        verify_signature(record.signing_key, payload, signature)
    except (InputError, BadSignature):
        raise Refused(Code.EVIDENCE_REFUSED) from None
    return number, statement, head


# --- Views ----------------------------------------------------------------------------------------------------------


def key_record(host: Host, key: bytes) -> bytes:
    return host.load(KEY_PREFIX + key) or b""


def key_state(host: Host, key: bytes) -> tuple[int, bytes, int, int, int]:
    """State, operator, method, until (2^64 - 1: no end), compromised from (2^64 - 1: not)."""
    record = load_key(host, key)
    no_end = measurements.NO_END_MS
    return (
        int(record.state),
        record.operator,
        int(record.method),
        no_end if record.until_ms is None else record.until_ms,
        no_end if record.compromised_from is None else record.compromised_from,
    )
