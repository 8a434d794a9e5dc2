"""Void statements: why, who made it so, and when a void statement is its node's fault.

Rules:
1. A statement is void for a cause that holds in the block that voids it (`_maker`).
2. FAULTS says, by cause and by who made it, whether the node is at fault once somebody shows that the answer was delivered. What the
   node made itself, or could have prevented, is its fault. A statement that is overdue is always the node's: it had a day to settle.
3. A statement whose void may prove to be a fault is recorded: its hash, and on what condition. Others are logged only.
4. Proof of delivery (`reportFalseVoid`): the whole statement, private part included, with the key's signature under its number.
   Only who received the answer has the private part; signatures alone are public, batches carry them. It revokes the key.
5. A payer that did not cover is the payer's doing, within the price. If the payer had signed an authorisation, the batch shows it and
   the chain sees it fail; if it is not shown, the statement must not say that it was authorised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import keys
from avow.chain.modules.batch import Batch, SignedAuthorisation
from avow.chain.modules.books import Books, price_fault
from avow.chain.modules.consent import authorisation_fault
from avow.errors import InputError
from avow.receipt import fields
from avow.receipt.encoding import decode
from avow.receipt.standing import KeyState
from avow.receipt.statement import BadSignature, Method, Statement, statement_payload, verify_signature

MAX_EVIDENCE = 8_192

_VOIDED = b"settlement/void/"


class VoidCause(IntEnum):
    """Why a statement is void; the number is its entry in the batch and in the leaf."""

    KEY_REVOKED = 1
    MEASUREMENT_EXPIRED = 2
    PROGRAM_WITHDRAWN = 3
    PAYER_UNCOVERED = 4
    UNDELIVERED = 5


class Maker(Enum):
    """Who made a cause."""

    NODE = "node"
    GOVERNANCE = "governance"
    PUBLISHER = "publisher"
    PAYER = "payer"
    AUTHORISER = "authoriser"


class Fault(IntEnum):
    """Whether a void statement is the node's fault; the number stands in the record."""

    NEVER = 0
    DELIVERED = 1
    AUTHORISED = 2


FAULTS: dict[tuple[VoidCause, Maker], Fault] = {
    (VoidCause.KEY_REVOKED, Maker.GOVERNANCE): Fault.NEVER,
    (VoidCause.KEY_REVOKED, Maker.NODE): Fault.DELIVERED,
    (VoidCause.MEASUREMENT_EXPIRED, Maker.GOVERNANCE): Fault.NEVER,
    (VoidCause.MEASUREMENT_EXPIRED, Maker.NODE): Fault.DELIVERED,
    (VoidCause.PROGRAM_WITHDRAWN, Maker.PUBLISHER): Fault.NEVER,
    (VoidCause.PROGRAM_WITHDRAWN, Maker.NODE): Fault.DELIVERED,
    (VoidCause.PAYER_UNCOVERED, Maker.AUTHORISER): Fault.NEVER,
    (VoidCause.PAYER_UNCOVERED, Maker.PAYER): Fault.AUTHORISED,
    (VoidCause.PAYER_UNCOVERED, Maker.NODE): Fault.DELIVERED,
    (VoidCause.UNDELIVERED, Maker.NODE): Fault.DELIVERED,
}
"""Rule 2. DELIVERED: if it was delivered. AUTHORISED: if it was delivered and says that its payer authorised it."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One void statement before the chain."""

    host: Host
    batch: Batch
    books: Books
    index: int
    authorisation: SignedAuthorisation | None


def _key_revoked(case: _Case) -> Maker | None:
    if case.books.record.state is not KeyState.REVOKED:
        return None
    governed = keys.revoked_by_governance(case.host, case.batch.key)
    return Maker.GOVERNANCE if governed else Maker.NODE


def _measurement_expired(case: _Case) -> Maker | None:
    """An attestation that lapsed is the node's: it could have attested again."""
    books, program = case.books, case.batch.program[case.index]
    if books.record.method is not Method.TEE:
        return None
    if not books.measured[program]:
        return Maker.GOVERNANCE if books.measured_before[program] else Maker.NODE
    return Maker.NODE if books.lapsed else None


def _program_withdrawn(case: _Case) -> Maker | None:
    """Nobody withdrew a program that was never offered: the node ran it regardless."""
    program = case.batch.program[case.index]
    if case.books.offered[program]:
        return None
    return Maker.NODE if case.books.withdrawn_by[program] in (None, case.books.record.operator) else Maker.PUBLISHER


def _payer_uncovered(case: _Case) -> Maker | None:
    """Rule 5."""
    batch, books, index = case.batch, case.books, case.index
    if price_fault(case.host, books, batch, index) is not None:
        return None
    if case.authorisation is None:
        return None if books.covers(batch.payer[index], batch.amounts[index]) else Maker.PAYER
    fault = authorisation_fault(case.host, batch, books, case.authorisation)
    if fault is None:
        return None
    return Maker.NODE if fault is Code.AUTHORISATION_EXCEEDED else Maker.AUTHORISER


_MAKERS: dict[VoidCause, Callable[[_Case], Maker | None]] = {
    VoidCause.KEY_REVOKED: _key_revoked,
    VoidCause.MEASUREMENT_EXPIRED: _measurement_expired,
    VoidCause.PROGRAM_WITHDRAWN: _program_withdrawn,
    VoidCause.PAYER_UNCOVERED: _payer_uncovered,
    VoidCause.UNDELIVERED: lambda _case: Maker.NODE,
}
"""Rule 1: who made a cause, None when it does not hold."""


def judge_void(
    host: Host,
    batch: Batch,
    books: Books,
    index: int,
    authorisation: SignedAuthorisation | None,
    statement: bytes,
) -> None:
    """Rules 1 to 3 for one statement. `statement` is its hash."""
    try:
        cause = VoidCause(batch.void[index])
    except ValueError:
        raise Refused(Code.VOID_CAUSE_UNKNOWN, index) from None
    if authorisation is not None and cause is not VoidCause.PAYER_UNCOVERED:
        raise Refused(Code.AUTHORISATION_REFUSED, index)
    maker = _MAKERS[cause](_Case(host, batch, books, index, authorisation))
    if maker is None:
        raise Refused(Code.VOID_WITHOUT_CAUSE, index)
    if is_overdue(host, batch.ended_ms[index]):
        maker = Maker.NODE
    fault = FAULTS[cause, maker]
    number = batch.first + index
    if fault is not Fault.NEVER:
        host.store(_place(batch.key, number), statement + fault.to_bytes(1))
    host.log("Voided", batch.key, number, int(cause), statement)


def is_overdue(host: Host, ended_ms: int) -> bool:
    """Whether a statement ended too long ago to settle."""
    return ended_ms < host.block.time_ms - host.genesis.settlement_window_ms


def _place(key: bytes, number: int) -> bytes:
    return _VOIDED + key + number.to_bytes(8)


def report_false_void(host: Host, key: bytes, evidence: bytes) -> None:
    """Rule 4. Another statement under a recorded number is a fault whatever it says: the node signed two."""
    record = keys.load_key(host, key)
    statement = _delivered(host, key, record.signing_key, evidence)
    number = statement.columns.number
    recorded = host.load(_place(key, number))
    if recorded is None:
        raise Refused(Code.EVIDENCE_REFUSED)
    voided, fault = recorded[:32], Fault(recorded[32])
    if fault is Fault.AUTHORISED and statement.hash() == voided and not statement.private.authorised:
        raise Refused(Code.EVIDENCE_REFUSED)
    host.store(_place(key, number), None)
    if record.state is not KeyState.REVOKED:
        keys.revoke_for_fault(host, key, record, keys.RevocationCause.FALSE_VOID)
    host.log("FalseVoidProven", key, host.caller, number)


def _delivered(host: Host, key: bytes, signing_key: bytes, evidence: bytes) -> Statement:
    """The statement that evidence shows: CBOR [statement as a receipt has it, head, COSE_Sign1]. Raises Refused (EVIDENCE_REFUSED)."""
    host.charge(gas.P256_VERIFY + gas.PARSE + gas.BATCH_BYTE * len(evidence))
    try:
        parts = fields.array(decode(evidence, max_bytes=MAX_EVIDENCE, max_items=256), "evidence", max_length=3)
        if len(parts) != 3:
            raise Refused(Code.EVIDENCE_REFUSED)
        statement = Statement.from_value(parts[0])
        head = fields.octets(parts[1], "head", 32)
        signature = fields.octets(parts[2], "signature", 0, 256)
        payload = statement_payload(host.genesis.chain_id, key, statement.columns.number, statement.hash(), head)
        verify_signature(signing_key, payload, signature)
    except (InputError, BadSignature):
        raise Refused(Code.EVIDENCE_REFUSED) from None
    return statement
