"""Why the chain refuses: stable codes, hashed into blocks, and their names for people.

Rules:
1. A code never changes its meaning. The numbers are consensus: they stand in `ExecTxResult.code` (transaction codes,
   below 100) and in the ABI bytes of a revert (module codes, from 100).
2. A transaction code other than REVERTED and OUT_OF_GAS means that nothing happened and nothing was charged.
3. A revert undoes the call and is charged. Its data is the ABI error `Refused(uint32 code)` or
   `BatchRefused(uint32 index, uint32 code)`; the index WHOLE_BATCH stands for a fault of the batch itself.
"""

from enum import IntEnum

from avow.errors import InputError

WHOLE_BATCH = 0xFFFF_FFFF


class Code(IntEnum):
    """Every reason that can enter a block."""

    OK = 0
    # Transactions.
    REVERTED = 1
    OUT_OF_GAS = 2
    MALFORMED = 3
    WRONG_CHAIN = 4
    BAD_SIGNATURE = 5
    NONCE_TOO_LOW = 6
    NONCE_TOO_HIGH = 7
    INSUFFICIENT_FUNDS = 8
    INTRINSIC_GAS = 9
    FEE_TOO_LOW = 10
    GAS_LIMIT = 11
    NO_CREATION = 12
    TOO_LARGE = 13
    # Calls of any module.
    UNKNOWN_FUNCTION = 100
    BAD_CALL_DATA = 101
    NOT_PAYABLE = 102
    READ_ONLY = 103
    NOT_AUTHORISED = 104
    OUT_OF_RANGE = 105
    BALANCE_TOO_LOW = 106
    BAD_INPUT = 107
    # Registry.
    NAME_INVALID = 200
    NAME_TAKEN = 201
    NAME_UNKNOWN = 202
    PROGRAM_PUBLISHED = 203
    PROGRAM_UNKNOWN = 204
    PROGRAM_NOT_EXACT = 205
    # Nodes.
    KEY_INVALID = 300
    KEY_EXISTS = 301
    KEY_UNKNOWN = 302
    KEY_LIFE = 303
    METHOD_UNSUPPORTED = 304
    BLOCK_NOT_RECENT = 305
    POSSESSION_UNPROVEN = 306
    ATTESTATION_REFUSED = 307
    ATTESTATION_UNBOUND = 308
    ATTESTATION_REPLAYED = 309
    ATTESTATION_STALE = 310
    MEASUREMENT_CHANGED = 311
    MEASUREMENT_NOT_ALLOWED = 312
    MEASUREMENT_UNKNOWN = 313
    PRICE_TOO_HIGH = 314
    TOO_MANY_PRICES = 315
    EVIDENCE_REFUSED = 316
    # Settlement, of the batch.
    BATCH_MALFORMED = 400
    BATCH_NUMBER = 401
    BATCH_SIGNATURE = 402
    BATCH_TIME = 403
    KEY_NOT_SETTLING = 405
    KEY_OVERTURNED = 406
    BATCH_EARLY = 407
    # Settlement, of one statement.
    PROGRAM_NOT_REGISTERED = 420
    PROGRAM_WITHDRAWN = 421
    MEASUREMENT_EXPIRED = 422
    PRICE_UNKNOWN = 423
    PRICE_REPLACED = 424
    AMOUNT_EXCEEDS_PRICE = 425
    PAYER_NOT_CONSENTING = 426
    PAYER_UNCOVERED = 427
    AUTHORISATION_REFUSED = 428
    AUTHORISATION_EXPIRED = 429
    AUTHORISATION_USED = 430
    AUTHORISATION_EXCEEDED = 431
    VOID_WITHOUT_CAUSE = 432
    VOID_CAUSE_UNKNOWN = 433
    BOND_INSUFFICIENT = 434
    PROGRAM_NOT_DECLARED = 435
    # Bonds, challenges and demands.
    BOND_LOCKED = 500
    DISPUTE_WAITS = 501
    DISPUTE_RESOLVED = 502
    DEPOSIT_WRONG = 503
    BATCH_UNKNOWN = 504
    BATCH_FINAL = 505
    WINDOW_OPEN = 506
    WINDOW_PASSED = 507
    NOT_ENTITLED = 508
    STATEMENT_UNKNOWN = 509
    CHALLENGE_EXISTS = 510
    CHALLENGE_UNKNOWN = 511
    CHALLENGE_TOO_EARLY = 512
    REVEAL_OPEN = 513
    REVEAL_PASSED = 514
    REWARD_UNKNOWN = 515
    REWARD_WAITS = 516
    DEMAND_EXISTS = 520
    DEMAND_UNKNOWN = 521
    DEMAND_REFUSED = 522
    TOO_MANY_DEMANDS = 523
    ANSWER_OPEN = 524
    ANSWER_LATE = 525
    ANSWER_REFUSED = 526
    WATCHER_APPOINTED = 530
    WATCHER_UNKNOWN = 531
    # Validators.
    VALIDATOR_UNKNOWN = 600
    LAST_VALIDATOR = 601
    TOO_MANY_VALIDATORS = 602
    VALIDATORS_FIXED = 603
    VALIDATOR_AT_FAULT = 604

    @property
    def label(self) -> str:
        return self.name.lower()


class ChainError(InputError):
    """The chain refuses."""

    code = "chain"


class TransactionRefused(ChainError):
    """A transaction is not acceptable. `status` is its result's code; the text is as Ethereum's clients know it."""

    code = "transaction_refused"

    def __init__(self, status: Code, detail: str = "") -> None:
        super().__init__(detail or status.label.replace("_", " "), status=int(status), name=status.label)
        self.status = status


class Refused(ChainError):
    """A module refuses a call: it reverts with `Refused(uint32 code)`."""

    code = "refused"

    def __init__(self, reason: Code, index: int | None = None) -> None:
        where = "" if index is None else (" by the batch" if index == WHOLE_BATCH else f" at statement {index}")
        super().__init__(reason.label.replace("_", " ") + where, reason=int(reason), index=index)
        self.reason = reason
        self.index = index


class OutOfGas(ChainError):
    """A call needs more gas than it was given."""

    code = "out_of_gas"


class BadGenesis(ChainError):
    """The genesis is not acceptable."""

    code = "bad_genesis"
