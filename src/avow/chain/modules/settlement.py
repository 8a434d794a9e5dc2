"""Settlement: what becomes of each signed statement, and what its payer is charged.

Rules:
1. A statement's life is STATEMENT_LIFE. A batch settles or voids the next range of a key's numbers, whole or not at all; so a
   statement settles at most once, and the replay protection of a key is one counter and one head.
2. The batch: sent by the key's operator, next number, the key's one signature under the chain of heads.
3. If any statement settles: the key settles (active, draining or retired, and not past its end), and every one that settles ended
   within the settlement window before block time (BATCH_TIME) and not after block time + heartbeat + clock slack (BATCH_EARLY: it
   settles in a later block).
4. Each statement that settles: its program is offered; for tee its measurement is allowed for that program; its price version is
   chargeable and amount ≤ units * price; its payer consented (an allowance, an authorisation, or being the operator) and has it.
5. Each statement that is void: its cause holds, and what may prove to be the node's fault is recorded (voids.py).
6. Payers are charged `amount` to the operator. All is judged in order, at the state before the batch.
7. Optimistic statements: the fees are held by the disputes module and the operator's bond is locked until the batch is final
   (disputes.py).

Nothing per statement is written, but for authorisations' nonces (a bit each) and those void statements.
"""

from collections.abc import Sequence
from enum import Enum

from avow.chain import gas
from avow.chain.errors import WHOLE_BATCH, Code, Refused
from avow.chain.host import Host, Module, bind
from avow.chain.modules import bank, disputes, keys
from avow.chain.modules.batch import Batch, SignedAuthorisation
from avow.chain.modules.books import Books, lapsed, open_books, price_fault, price_limit
from avow.chain.modules.consent import authorisation_fault
from avow.chain.modules.verified import VerifiedBatch, verify_batch
from avow.chain.modules.voids import is_overdue, judge_void, report_false_void
from avow.chain.solidity import load_interface
from avow.errors import InputError
from avow.receipt.evidence import SETTLEMENT_ADDRESS, history_leaf
from avow.receipt.standing import KeyRecord, KeyState
from avow.receipt.statement import BadSignature, Method

ADDRESS = SETTLEMENT_ADDRESS

_SETTLING = (KeyState.ACTIVE, KeyState.DRAINING, KeyState.RETIRED)
_OVERTURNING = (keys.RevocationCause.FRAUD, keys.RevocationCause.TRACE_WITHHELD)


class StatementState(Enum):
    """Where a signed statement is."""

    SIGNED = "signed"
    OVERDUE = "overdue"
    SETTLED = "settled"
    VOID = "void"


class StatementEvent(Enum):
    """What becomes of it."""

    SETTLE = "settle"
    VOID = "void"
    WINDOW_PASSED = "window_passed"


STATEMENT_LIFE: dict[tuple[StatementState, StatementEvent], StatementState] = {
    (StatementState.SIGNED, StatementEvent.SETTLE): StatementState.SETTLED,
    (StatementState.SIGNED, StatementEvent.VOID): StatementState.VOID,
    (StatementState.SIGNED, StatementEvent.WINDOW_PASSED): StatementState.OVERDUE,
    (StatementState.OVERDUE, StatementEvent.VOID): StatementState.VOID,
}
"""What is not in the table cannot happen: an overdue statement settles no more, what is settled or void stays so."""


def settle(host: Host, data: bytes) -> tuple[bytes, bytes, int, int]:
    """Root, key, first number and count of the settled batch."""
    return _settle(host, data, _parse(host, data))


def void(host: Host, data: bytes) -> tuple[bytes, bytes, int, int]:
    """As `settle`, for a batch whose every statement is void."""
    batch = _parse(host, data)
    if not all(batch.void):
        raise Refused(Code.VOID_CAUSE_UNKNOWN, WHOLE_BATCH)
    return _settle(host, data, batch)


def _settle(host: Host, data: bytes, batch: Batch) -> tuple[bytes, bytes, int, int]:
    record = _check_sender(host, batch)
    if batch.optimistic is not (record.method is Method.OPTIMISTIC):
        raise Refused(Code.BATCH_MALFORMED, WHOLE_BATCH)
    verified = _check_signature(host, data, batch, record)
    if not all(batch.void):
        _check_key(host, batch.key, record)
        _check_times(host, batch)
    books = open_books(host, batch, record)
    authorised = {authorisation.index: authorisation for authorisation in batch.authorisations}
    if any(batch.void) or authorised:
        _judge_each(host, batch, books, verified.statements, authorised)
    else:
        _judge_plain(host, batch, books)
    return _close(host, batch, books, verified.root, verified.head)


# --- The batch ------------------------------------------------------------------------------------------------------


def _parse(host: Host, data: bytes) -> Batch:
    host.charge(gas.BATCH_BYTE * len(data))
    try:
        batch = Batch.from_bytes(data)
    except InputError:
        raise Refused(Code.BATCH_MALFORMED, WHOLE_BATCH) from None
    host.charge(gas.STATEMENT * len(batch) + gas.P256_VERIFY)
    return batch


def _check_sender(host: Host, batch: Batch) -> KeyRecord:
    record = keys.load_key(host, batch.key)
    if record.operator != host.caller:
        raise Refused(Code.NOT_AUTHORISED)
    return record


def _check_signature(host: Host, data: bytes, batch: Batch, record: KeyRecord) -> VerifiedBatch:
    """Rule 2."""
    following, head = keys.load_head(host, batch.key)
    if batch.first != following:
        raise Refused(Code.BATCH_NUMBER, WHOLE_BATCH)
    try:
        return verify_batch(host.genesis.chain_id, data, batch, record, head)
    except BadSignature:
        raise Refused(Code.BATCH_SIGNATURE, WHOLE_BATCH) from None


def _check_key(host: Host, key: bytes, record: KeyRecord) -> None:
    if record.state is KeyState.REVOKED and keys.revocation(host, key)[0] in _OVERTURNING:
        raise Refused(Code.KEY_OVERTURNED, WHOLE_BATCH)
    if record.state not in _SETTLING or lapsed(host, record):
        raise Refused(Code.KEY_NOT_SETTLING, WHOLE_BATCH)


def _check_times(host: Host, batch: Batch) -> None:
    """Rule 3's times, of the statements that settle."""
    ended = batch.ended_ms
    if any(batch.void):
        ended = tuple([ended_ms for ended_ms, cause in zip(ended, batch.void, strict=True) if not cause])
    state = StatementState.SIGNED
    if is_overdue(host, min(ended)):
        state = STATEMENT_LIFE[state, StatementEvent.WINDOW_PASSED]
    if (state, StatementEvent.SETTLE) not in STATEMENT_LIFE:
        raise Refused(Code.BATCH_TIME, WHOLE_BATCH)
    genesis = host.genesis
    if max(ended) > host.block.time_ms + genesis.heartbeat_ms + genesis.clock_slack_ms:
        raise Refused(Code.BATCH_EARLY, WHOLE_BATCH)


# --- The statements -------------------------------------------------------------------------------------------------


def _judge_plain(host: Host, batch: Batch, books: Books) -> None:
    """Rule 4 for a batch in which every statement settles by allowance.

    What payers spend only grows: who covers the sum covers every part of it, in any order. Only when some check fails is
    the first statement to blame looked for.
    """
    limits: dict[tuple[int, int], int] = {}
    for program, version in dict.fromkeys(zip(batch.program, batch.prices, strict=True)):
        limit = price_limit(host, books, program, version)
        limits[program, version] = -1 if isinstance(limit, Code) else limit
    charged = [0] * len(batch.payers)
    priced = map(limits.__getitem__, zip(batch.program, batch.prices, strict=True))
    holds = True
    for payer, amount, units, limit in zip(batch.payer, batch.amounts, batch.units, priced, strict=True):
        if limit < 0 or amount > units * limit:
            holds = False
            break
        charged[payer] += amount
    if not holds or not all(books.covers(payer, total) for payer, total in enumerate(charged)):
        for index in range(len(batch)):
            _judge_settling(host, batch, books, index)
        return
    for payer, total in enumerate(charged):
        books.charge(payer, total, by_allowance=True)


def _judge_settling(host: Host, batch: Batch, books: Books, index: int) -> None:
    """Rule 4 for a statement whose payer consented by allowance."""
    payer, amount = batch.payer[index], batch.amounts[index]
    _check_price(host, batch, books, index)
    allowance = books.allowance[payer]
    if allowance is not None and amount > allowance:
        raise Refused(Code.PAYER_NOT_CONSENTING, index)
    if amount > books.balance[payer]:
        raise Refused(Code.PAYER_UNCOVERED, index)
    books.charge(payer, amount, by_allowance=True)


def _check_price(host: Host, batch: Batch, books: Books, index: int) -> None:
    fault = price_fault(host, books, batch, index)
    if fault is not None:
        raise Refused(fault, index)


def _judge_each(
    host: Host,
    batch: Batch,
    books: Books,
    statements: Sequence[bytes],
    authorised: dict[int, SignedAuthorisation],
) -> None:
    """Rules 4 and 5 in order, for a batch in which some statements are void or authorised."""
    for index, cause in enumerate(batch.void):
        authorisation = authorised.get(index)
        if cause:
            judge_void(host, batch, books, index, authorisation, statements[index])
        elif authorisation is None:
            _judge_settling(host, batch, books, index)
        else:
            _judge_authorised(host, batch, books, authorisation)


def _judge_authorised(host: Host, batch: Batch, books: Books, authorisation: SignedAuthorisation) -> None:
    """Rule 4 for a statement whose payer signed for it."""
    index = authorisation.index
    _check_price(host, batch, books, index)
    fault = authorisation_fault(host, batch, books, authorisation)
    if fault is not None:
        raise Refused(fault, index)
    payer = batch.payer[index]
    bank.use_authorisation(host, batch.payers[payer], authorisation.nonce)
    books.charge(payer, batch.amounts[index], by_allowance=False)


# --- The result -----------------------------------------------------------------------------------------------------


def _close(host: Host, batch: Batch, books: Books, root: bytes, head: bytes) -> tuple[bytes, bytes, int, int]:
    """Rule 6, and the record of the batch."""
    operator = books.record.operator
    target = disputes.ADDRESS if batch.optimistic else operator
    for payer, charged, by_allowance in zip(batch.payers, books.charged, books.by_allowance, strict=True):
        if by_allowance:
            bank.spend_allowance(host, payer, operator, by_allowance)
        if charged and payer != target:
            host.transfer(payer, target, charged)
    first, count = batch.first, len(batch)
    keys.store_head(host, batch.key, first + count, head)
    history_index = host.append_history(history_leaf(host.block.height, batch.key, first, count, root))
    if batch.optimistic:
        deadline, locked = disputes.hold(host, batch, operator, root, sum(books.charged))
        host.log("Posted", batch.key, operator, first, count, deadline, locked)
    host.log("Settled", batch.key, operator, first, count, root, sum(books.charged), history_index)
    return root, batch.key, first, count


MODULE: Module = bind(
    ADDRESS,
    load_interface("avow.chain.modules", "settlement.sol"),
    {
        "settle": settle,
        "void": void,
        "reportFalseVoid": report_false_void,
        "next": keys.load_head,
    },
)
