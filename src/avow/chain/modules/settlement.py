"""Settlement: what becomes of each signed statement, and what its payer is charged.

Rules:
1. A statement's life is STATEMENT_LIFE. A batch settles or voids the next range of a key's numbers, whole or not at all;
   so a statement settles at most once, and the replay protection of a key is one counter and one head.
2. The batch: sent by the key's operator, next number, the key's one signature under the chain of heads.
3. If any statement settles: the key settles (active, draining or retired, and not past its end), and the first and the last
   statement ended within the settlement window before block time and not after block time + heartbeat + clock slack.
4. Each statement that settles: its program is offered; for tee its measurement is allowed for that program; its price
   version is chargeable and amount ≤ units * price; its payer consented (an allowance, an authorisation, or being the
   operator) and has it.
5. Each statement that is void: VOID_CAUSES, each cause checked. `undelivered` is the node's word: whoever shows a
   statement that it signed under this number proves its fault (`reportFalseVoid`).
6. Payers are charged `amount` to the operator. All is judged in order, at the state before the batch.

Nothing per statement is written, but for authorisations' nonces (a bit each) and undelivered statements.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from avow.chain import gas
from avow.chain.errors import WHOLE_BATCH, Code, Refused
from avow.chain.host import Host, Module, bind
from avow.chain.modules import bank, keys, measurements, prices, registry
from avow.chain.modules.batch import Batch, SignedAuthorisation
from avow.chain.solidity import load_interface
from avow.errors import InputError
from avow.receipt.authorisation import Authorisation, BadAuthorisation
from avow.receipt.encoding import decode
from avow.receipt.evidence import SETTLEMENT_ADDRESS, history_leaf
from avow.receipt.standing import KeyRecord, KeyState
from avow.receipt.statement import (
    BadSignature,
    Method,
    Private,
    private_hash,
    statement_payload,
    verify_signature,
)

ADDRESS = SETTLEMENT_ADDRESS

_VOIDED = b"settlement/undelivered/"
_SETTLING = (KeyState.ACTIVE, KeyState.DRAINING, KeyState.RETIRED)


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


class VoidCause(IntEnum):
    """Why a statement is void; the number is its entry in the batch and in the leaf."""

    KEY_REVOKED = 1
    MEASUREMENT_EXPIRED = 2
    PROGRAM_WITHDRAWN = 3
    PAYER_UNCOVERED = 4
    UNDELIVERED = 5


@dataclass(slots=True)
class _Books:
    """The state that the rules are judged on, by the batch's programs and payers; what payers have left shrinks as statements settle.

    An allowance of None: the operator itself, who needs none.
    """

    record: KeyRecord
    lapsed: bool
    offered: list[bool]
    measured: list[bool]
    prices: list[prices.Prices | None]
    allowance: list[int | None]
    balance: list[int]
    by_allowance: list[int]
    charged: list[int]

    def covers(self, payer: int, amount: int) -> bool:
        """Whether a payer consented by allowance and has the money."""
        allowance = self.allowance[payer]
        return (allowance is None or amount <= allowance) and amount <= self.balance[payer]

    def charge(self, payer: int, amount: int, *, by_allowance: bool) -> None:
        self.balance[payer] -= amount
        self.charged[payer] += amount
        allowance = self.allowance[payer]
        if by_allowance and allowance is not None:
            self.allowance[payer] = allowance - amount
            self.by_allowance[payer] += amount


VOID_CAUSES: dict[VoidCause, Callable[[_Books, Batch, int], bool]] = {
    VoidCause.KEY_REVOKED: lambda books, _batch, _index: books.record.state is KeyState.REVOKED,
    VoidCause.MEASUREMENT_EXPIRED: lambda books, batch, index: (
        books.record.method is Method.TEE and (books.lapsed or not books.measured[batch.program[index]])
    ),
    VoidCause.PROGRAM_WITHDRAWN: lambda books, batch, index: not books.offered[batch.program[index]],
    VoidCause.PAYER_UNCOVERED: lambda books, batch, index: not books.covers(batch.payer[index], batch.amounts[index]),
    VoidCause.UNDELIVERED: lambda _books, _batch, _index: True,
}
"""Rule 5: when a cause holds, in the block that voids."""


def settle(host: Host, data: bytes) -> tuple[bytes, bytes, int, int]:
    """Root, key, first number and count of the settled batch."""
    return _settle(host, _parse(host, data))


def void(host: Host, data: bytes) -> tuple[bytes, bytes, int, int]:
    """As `settle`, for a batch whose every statement is void."""
    batch = _parse(host, data)
    if not all(batch.void):
        raise Refused(Code.VOID_CAUSE_UNKNOWN, WHOLE_BATCH)
    return _settle(host, batch)


def _settle(host: Host, batch: Batch) -> tuple[bytes, bytes, int, int]:
    record = _check_sender(host, batch)
    statements, head = _check_signature(host, batch, record)
    if not all(batch.void):
        _check_key(host, record)
        _check_bounds(host, batch, record)
    elif batch.bounds:
        raise Refused(Code.BATCH_BOUNDS, WHOLE_BATCH)
    books = _open_books(host, batch, record)
    authorised = {authorisation.index: authorisation for authorisation in batch.authorisations}
    if any(batch.void) or authorised:
        _judge_each(host, batch, books, statements, authorised)
    else:
        _judge_plain(host, batch, books)
    return _close(host, batch, books, batch.root(statements), head)


# --- The batch ------------------------------------------------------------------------------------------------------


def _parse(host: Host, data: bytes) -> Batch:
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


def _check_signature(host: Host, batch: Batch, record: KeyRecord) -> tuple[list[bytes], bytes]:
    """Rule 2. The statement hashes, and the head after the last."""
    following, head = keys.load_head(host, batch.key)
    if batch.first != following:
        raise Refused(Code.BATCH_NUMBER, WHOLE_BATCH)
    statements, last_head = batch.hash(record.method, head)
    number = batch.first + len(batch) - 1
    payload = statement_payload(host.genesis.chain_id, batch.key, number, statements[-1], last_head)
    try:
        verify_signature(record.signing_key, payload, batch.signature)
    except BadSignature:
        raise Refused(Code.BATCH_SIGNATURE, WHOLE_BATCH) from None
    return statements, last_head


def _lapsed(host: Host, record: KeyRecord) -> bool:
    return record.until_ms is not None and host.block.time_ms > record.until_ms


def _check_key(host: Host, record: KeyRecord) -> None:
    if record.state not in _SETTLING or _lapsed(host, record):
        raise Refused(Code.KEY_NOT_SETTLING, WHOLE_BATCH)


def _check_bounds(host: Host, batch: Batch, record: KeyRecord) -> None:
    """Rule 3's times."""
    if len(batch.bounds) != 2:
        raise Refused(Code.BATCH_BOUNDS, WHOLE_BATCH)
    first, last = (
        _private(host, batch, record, encoded, batch.private[place])
        for encoded, place in zip(batch.bounds, (0, -1), strict=True)
    )
    if first.ended_ms > last.ended_ms:
        raise Refused(Code.BATCH_BOUNDS, WHOLE_BATCH)
    genesis, now_ms = host.genesis, host.block.time_ms
    state = StatementState.SIGNED
    if first.ended_ms < now_ms - genesis.settlement_window_ms:
        state = STATEMENT_LIFE[state, StatementEvent.WINDOW_PASSED]
    if (state, StatementEvent.SETTLE) not in STATEMENT_LIFE:
        raise Refused(Code.BATCH_TIME, WHOLE_BATCH)
    if last.ended_ms > now_ms + genesis.heartbeat_ms + genesis.clock_slack_ms:
        raise Refused(Code.BATCH_TIME, WHOLE_BATCH)


def _private(host: Host, batch: Batch, record: KeyRecord, encoded: bytes, expected: bytes) -> Private:
    """A private part that a batch shows, which must be the one that was hashed, and of this key."""
    host.charge(gas.PARSE)
    if private_hash(encoded) != expected:
        raise Refused(Code.BATCH_BOUNDS, WHOLE_BATCH)
    try:
        private = Private.from_value(decode(encoded))
    except InputError:
        raise Refused(Code.BATCH_BOUNDS, WHOLE_BATCH) from None
    stated = (private.chain_id, private.node, private.key)
    if stated != (host.genesis.chain_id, record.operator, batch.key):
        raise Refused(Code.BATCH_BOUNDS, WHOLE_BATCH)
    return private


# --- The statements -------------------------------------------------------------------------------------------------


def _open_books(host: Host, batch: Batch, record: KeyRecord) -> _Books:
    operator, method = record.operator, record.method
    measured = [
        record.measurement is None or measurements.is_allowed(host, record.measurement, program)
        for program in batch.programs
    ]
    return _Books(
        record=record,
        lapsed=_lapsed(host, record),
        offered=[registry.offers(host, program)[0] > 0 for program in batch.programs],
        measured=measured,
        prices=[prices.read_prices(host, operator, program, method) for program in batch.programs],
        allowance=[None if payer == operator else bank.spendable(host, payer, operator) for payer in batch.payers],
        balance=[host.balance(payer) for payer in batch.payers],
        by_allowance=[0] * len(batch.payers),
        charged=[0] * len(batch.payers),
    )


def _judge_plain(host: Host, batch: Batch, books: _Books) -> None:
    """Rule 4 for a batch in which every statement settles by allowance.

    What payers spend only grows: who covers the sum covers every part of it, in any order. Only when some check fails is
    the first statement to blame looked for.
    """
    limits: dict[tuple[int, int], int] = {}
    for program, version in dict.fromkeys(zip(batch.program, batch.prices, strict=True)):
        limit = _price(host, books, program, version)
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


def _judge_settling(host: Host, batch: Batch, books: _Books, index: int) -> None:
    """Rule 4 for a statement whose payer consented by allowance."""
    payer, amount = batch.payer[index], batch.amounts[index]
    _check_price(host, batch, books, index)
    allowance = books.allowance[payer]
    if allowance is not None and amount > allowance:
        raise Refused(Code.PAYER_NOT_CONSENTING, index)
    if amount > books.balance[payer]:
        raise Refused(Code.PAYER_UNCOVERED, index)
    books.charge(payer, amount, by_allowance=True)


def _check_price(host: Host, batch: Batch, books: _Books, index: int) -> None:
    limit = _price(host, books, batch.program[index], batch.prices[index])
    if isinstance(limit, Code):
        raise Refused(limit, index)
    if batch.amounts[index] > batch.units[index] * limit:
        raise Refused(Code.AMOUNT_EXCEEDS_PRICE, index)


def _price(host: Host, books: _Books, program: int, version: int) -> int | Code:
    """The price per unit that may be charged for a program, or why it may not run or not at this version."""
    if not books.offered[program]:
        return Code.PROGRAM_WITHDRAWN
    if not books.measured[program]:
        return Code.MEASUREMENT_EXPIRED
    return prices.chargeable(host, books.prices[program], version)


def _judge_each(
    host: Host,
    batch: Batch,
    books: _Books,
    statements: Sequence[bytes],
    authorised: dict[int, SignedAuthorisation],
) -> None:
    """Rules 4 and 5 in order, for a batch in which some statements are void or authorised."""
    for index, cause in enumerate(batch.void):
        authorisation = authorised.get(index)
        if cause:
            if authorisation is not None:
                raise Refused(Code.AUTHORISATION_REFUSED, index)
            _judge_void(host, batch, books, statements, index)
        elif authorisation is None:
            _judge_settling(host, batch, books, index)
        else:
            _judge_authorised(host, batch, books, authorisation)


def _judge_void(host: Host, batch: Batch, books: _Books, statements: Sequence[bytes], index: int) -> None:
    """Rule 5."""
    try:
        cause = VoidCause(batch.void[index])
    except ValueError:
        raise Refused(Code.VOID_CAUSE_UNKNOWN, index) from None
    if not VOID_CAUSES[cause](books, batch, index):
        raise Refused(Code.VOID_WITHOUT_CAUSE, index)
    number = batch.first + index
    if cause is VoidCause.UNDELIVERED:
        host.store(_VOIDED + batch.key + number.to_bytes(8), statements[index])
    host.log("Voided", batch.key, number, int(cause), statements[index])


def _judge_authorised(host: Host, batch: Batch, books: _Books, authorisation: SignedAuthorisation) -> None:
    """Rule 4 for a statement whose payer signed for it."""
    index = authorisation.index
    payer, amount = batch.payer[index], batch.amounts[index]
    _check_price(host, batch, books, index)
    _check_authorisation(host, batch, books.record, authorisation)
    if amount > authorisation.max_amount:
        raise Refused(Code.AUTHORISATION_EXCEEDED, index)
    if amount > books.balance[payer]:
        raise Refused(Code.PAYER_UNCOVERED, index)
    books.charge(payer, amount, by_allowance=False)


def _check_authorisation(host: Host, batch: Batch, record: KeyRecord, authorisation: SignedAuthorisation) -> None:
    """The payer is who asked, and signed for this request; the nonce is used up."""
    index, payer = authorisation.index, batch.payers[batch.payer[authorisation.index]]
    host.charge(gas.SECP256K1_RECOVER)
    try:
        private = _private(host, batch, record, authorisation.private, batch.private[index])
    except Refused:
        raise Refused(Code.AUTHORISATION_REFUSED, index) from None
    message = Authorisation(private.request, authorisation.max_amount, authorisation.expiry_ms, authorisation.nonce)
    try:
        signer = message.signer(host.genesis.chain_id, authorisation.signature)
    except BadAuthorisation:
        raise Refused(Code.AUTHORISATION_REFUSED, index) from None
    if signer != payer or private.requester != payer:
        raise Refused(Code.AUTHORISATION_REFUSED, index)
    if host.block.time_ms > authorisation.expiry_ms:
        raise Refused(Code.AUTHORISATION_EXPIRED, index)
    if not bank.use_authorisation(host, payer, authorisation.nonce):
        raise Refused(Code.AUTHORISATION_USED, index)


# --- The result -----------------------------------------------------------------------------------------------------


def _close(host: Host, batch: Batch, books: _Books, root: bytes, head: bytes) -> tuple[bytes, bytes, int, int]:
    """Rule 6, and the record of the batch."""
    operator = books.record.operator
    for payer, charged, by_allowance in zip(batch.payers, books.charged, books.by_allowance, strict=True):
        if by_allowance:
            bank.spend_allowance(host, payer, operator, by_allowance)
        if charged and payer != operator:
            host.transfer(payer, operator, charged)
    first, count = batch.first, len(batch)
    keys.store_head(host, batch.key, first + count, head)
    history_index = host.append_history(history_leaf(host.block.height, batch.key, first, count, root))
    host.log("Settled", batch.key, operator, first, count, root, sum(books.charged), history_index)
    return root, batch.key, first, count


def report_false_void(host: Host, key: bytes, evidence: bytes) -> None:
    record = keys.load_key(host, key)
    number, _, _ = keys.signed_evidence(host, key, record, evidence)
    if host.load(_VOIDED + key + number.to_bytes(8)) is None:
        raise Refused(Code.EVIDENCE_REFUSED)
    keys.revoke_for_fault(host, key, record)
    host.log("FalseVoidProven", key, host.caller, number)


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
