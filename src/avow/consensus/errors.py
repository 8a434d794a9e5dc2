"""What can go wrong while ordering transactions."""

from avow.errors import AvowError, InputError, Unavailable


class ConsensusError(AvowError):
    """The engine cannot go on."""

    code = "consensus_failed"


class StateMismatch(ConsensusError):
    """The blocks and the application's state are not of the same height or hash."""

    code = "state_mismatch"


class WouldSignTwice(ConsensusError):
    """A height was to be signed that was signed before."""

    code = "would_sign_twice"


class NotTheValidator(ConsensusError):
    """The key at hand is not the chain's one validator."""

    code = "not_the_validator"


class AlreadyRunning(ConsensusError):
    """Another process runs this chain."""

    code = "already_running"
    http_status = 409


class EngineStopped(Unavailable):
    """The engine does not run, or stopped on an error of its own."""

    code = "engine_stopped"


class PoolFull(Unavailable):
    """Too many transactions are waiting."""

    code = "pool_full"


class TransactionTooLarge(InputError):
    """A transaction that fits into no block."""

    code = "transaction_too_large"
    http_status = 413


class NoSuchBlock(AvowError):
    """There is no block at this height, or not any more."""

    code = "no_such_block"
    http_status = 404
