"""The light client: is this block one that the validators whom I trust agreed on?

Rules, in order; the first that fails decides:
1. The set given hashes to the header's validators_hash, has no validator twice, and its power stays below 2^63 / 8.
2. The commit is for this chain, this height and this header's hash, with one place per validator.
3. Every vote that is not absent carries its validator's address and signature, nil votes included.
4. More than two thirds of the power voted for the block. Exactly two thirds is not enough.
5. From a trusted header to the next one: its validators are the trusted header's next_validators.
   From a trusted header to any later one: more than a third of the trusted power signed it too (by address: places
   move). In both: the trusted header is younger than the trusting period, the new one is later in height and time, and
   not from beyond the allowed clock drift.

Sources: CometBFT spec/light-client/verification, types/validation.go. Signatures are checked as RFC 8032 says, which
refuses some that ZIP 215 accepts: never the other way round. Pure: time is a parameter.
"""

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from avow.errors import VerificationError
from avow.receipt import merkle
from avow.receipt.headers import (
    MAX_INT64,
    MAX_VALIDATORS,
    BlockID,
    BlockIDFlag,
    Commit,
    CommitSig,
    Header,
    SignedBlock,
    SignedHeader,
    TransactionResult,
    Validator,
    app_hash,
    data_hash,
    last_results_hash,
    sorted_validators,
    validator_address,
    validators_from_value,
    validators_hash,
    vote_sign_bytes,
)

__all__ = [
    "BadSignature",
    "BlockID",
    "BlockIDFlag",
    "Commit",
    "CommitSig",
    "Header",
    "NotAdjacent",
    "NotSigned",
    "SignedBlock",
    "SignedHeader",
    "TransactionResult",
    "TrustExpired",
    "Validator",
    "WrongChain",
    "WrongHeader",
    "WrongTime",
    "WrongValidators",
    "app_hash",
    "data_hash",
    "last_results_hash",
    "sorted_validators",
    "validator_address",
    "validators_from_value",
    "validators_hash",
    "verify_adjacent",
    "verify_commit",
    "verify_overlap",
    "verify_result",
    "verify_skipping",
    "vote_sign_bytes",
]

MAX_TOTAL_POWER = MAX_INT64 // 8
DEFAULT_CLOCK_DRIFT_NS = 10_000_000_000


class WrongChain(VerificationError):
    """The block is of another chain."""

    code = "wrong_chain"


class WrongHeader(VerificationError):
    """The commit is for another block or height than the header."""

    code = "wrong_header"


class WrongValidators(VerificationError):
    """The validator set is not the one that the header names, or no set at all."""

    code = "wrong_validators"


class BadSignature(VerificationError):
    """A vote's signature does not hold."""

    code = "bad_signature"


class NotSigned(VerificationError):
    """Too little voting power signed the block."""

    code = "not_signed"


class TrustExpired(VerificationError):
    """The trusted header is older than the trusting period."""

    code = "trust_expired"


class WrongTime(VerificationError):
    """The block's time is not after the trusted one, or lies in the future."""

    code = "wrong_time"


class NotAdjacent(VerificationError):
    """The block's height does not follow the trusted one."""

    code = "not_adjacent"


def verify_commit(chain_id: str, validators: Sequence[Validator], signed: SignedHeader) -> None:
    """Rules 1 to 4: these validators, all of them the header's, decided this header.

    Raises WrongChain, WrongValidators, WrongHeader, BadSignature, NotSigned.
    """
    header, commit = signed.header, signed.commit
    if header.chain_id != chain_id:
        raise WrongChain("the block is of another chain", expected=chain_id, found=header.chain_id)
    total = _checked_power(validators)
    _check_set(validators, header.validators_hash)
    if commit.height != header.height:
        raise WrongHeader("the commit is for another height", expected=header.height, found=commit.height)
    if commit.block_id.hash != header.hash:
        raise WrongHeader(
            "the commit is for another header", expected=header.hash.hex(), found=commit.block_id.hash.hex()
        )
    if len(commit.signatures) != len(validators):
        raise WrongValidators(
            "the commit has not one place per validator", expected=len(validators), found=len(commit.signatures)
        )
    signed_power = 0
    for place, (validator, vote) in enumerate(zip(validators, commit.signatures, strict=True)):
        if vote.flag is BlockIDFlag.ABSENT:
            continue
        _check_vote(chain_id, commit, place, validator, vote)
        if vote.flag is BlockIDFlag.COMMIT:
            signed_power += validator.power
    if signed_power * 3 <= total * 2:
        raise NotSigned("not more than two thirds of the power signed", total=total, found=signed_power)


def verify_adjacent(
    trusted: Header,
    signed: SignedHeader,
    validators: Sequence[Validator],
    *,
    now_ns: int,
    trusting_period_ns: int,
    clock_drift_ns: int = DEFAULT_CLOCK_DRIFT_NS,
) -> None:
    """The block right after a trusted one (rule 5).

    Raises as verify_commit, and NotAdjacent, TrustExpired, WrongTime.
    """
    header = signed.header
    if header.height != trusted.height + 1:
        raise NotAdjacent("the block is not the next one", expected=trusted.height + 1, found=header.height)
    _check_times(trusted, header, now_ns, trusting_period_ns, clock_drift_ns)
    if header.validators_hash != trusted.next_validators_hash:
        raise WrongValidators(
            "the block's validators are not those that the trusted one announced",
            expected=trusted.next_validators_hash.hex(),
            found=header.validators_hash.hex(),
        )
    verify_commit(trusted.chain_id, validators, signed)


def verify_skipping(
    trusted: Header,
    trusted_validators: Sequence[Validator],
    signed: SignedHeader,
    validators: Sequence[Validator],
    *,
    now_ns: int,
    trusting_period_ns: int,
    clock_drift_ns: int = DEFAULT_CLOCK_DRIFT_NS,
) -> None:
    """Any block after a trusted one (rule 5); `trusted_validators` are the trusted header's own or its next ones.

    Raises as verify_commit, and NotAdjacent (not later), TrustExpired, WrongTime.
    """
    header = signed.header
    if header.height <= trusted.height:
        raise NotAdjacent(
            "the block is not later than the trusted one", expected=trusted.height + 1, found=header.height
        )
    if header.height == trusted.height + 1:
        verify_adjacent(
            trusted,
            signed,
            validators,
            now_ns=now_ns,
            trusting_period_ns=trusting_period_ns,
            clock_drift_ns=clock_drift_ns,
        )
        return
    if header.chain_id != trusted.chain_id:
        raise WrongChain("the block is of another chain", expected=trusted.chain_id, found=header.chain_id)
    _check_times(trusted, header, now_ns, trusting_period_ns, clock_drift_ns)
    _check_overlap(trusted, trusted_validators, signed)
    verify_commit(trusted.chain_id, validators, signed)


def verify_result(result: TransactionResult, index: int, total: int, path: Sequence[bytes], following: Header) -> None:
    """The result is the one of transaction `index` of the block before `following`. Raises NotIncluded."""
    found = merkle.root_from_path(result.leaf(), index, total, path)
    if found != following.last_results_hash:
        raise merkle.NotIncluded(
            "the result is not under the next header", expected=following.last_results_hash.hex(), found=found.hex()
        )


def _checked_power(validators: Sequence[Validator]) -> int:
    if not 0 < len(validators) <= MAX_VALIDATORS:
        raise WrongValidators("the validator set is empty or too large", found=len(validators))
    if len({item.public_key for item in validators}) != len(validators):
        raise WrongValidators("a validator stands twice in the set")
    if any(item.power <= 0 for item in validators):
        raise WrongValidators("a validator has no power")
    total = sum(item.power for item in validators)
    if total > MAX_TOTAL_POWER:
        raise WrongValidators("the set's power is out of range", limit=MAX_TOTAL_POWER, found=total)
    return total


def _check_set(validators: Sequence[Validator], expected: bytes) -> None:
    found = validators_hash(validators)
    if found != expected:
        raise WrongValidators("another validator set", expected=expected.hex(), found=found.hex())


def _check_vote(chain_id: str, commit: Commit, place: int, validator: Validator, vote: CommitSig) -> None:
    if vote.address != validator.address:
        raise WrongValidators(
            "a vote stands at another validator's place",
            place=place,
            expected=validator.address.hex(),
            found=vote.address.hex(),
        )
    try:
        key = Ed25519PublicKey.from_public_bytes(validator.public_key)
        key.verify(vote.signature, commit.sign_bytes(chain_id, vote))
    except (InvalidSignature, ValueError):
        raise BadSignature("a vote's signature does not hold", place=place, validator=vote.address.hex()) from None


def _check_times(trusted: Header, header: Header, now_ns: int, trusting_period_ns: int, clock_drift_ns: int) -> None:
    if trusted.time_ns + trusting_period_ns <= now_ns:
        raise TrustExpired("the trusted header is too old", expected=now_ns - trusting_period_ns, found=trusted.time_ns)
    if header.time_ns <= trusted.time_ns:
        raise WrongTime("the block is not after the trusted one", expected=trusted.time_ns, found=header.time_ns)
    if header.time_ns >= now_ns + clock_drift_ns:
        raise WrongTime("the block is from the future", expected=now_ns + clock_drift_ns, found=header.time_ns)


def _check_overlap(trusted: Header, trusted_validators: Sequence[Validator], signed: SignedHeader) -> None:
    if validators_hash(trusted_validators) not in (trusted.validators_hash, trusted.next_validators_hash):
        raise WrongValidators("the trusted set is not the trusted header's")
    verify_overlap(trusted.chain_id, trusted_validators, signed)


def verify_overlap(chain_id: str, trusted_validators: Sequence[Validator], signed: SignedHeader) -> None:
    """More than a third of the trusted power voted for the block. Raises NotSigned, WrongValidators, BadSignature."""
    total = _checked_power(trusted_validators)
    by_address = {item.address: item for item in trusted_validators}
    power = 0
    for place, vote in enumerate(signed.commit.signatures):
        if vote.flag is not BlockIDFlag.COMMIT:
            continue
        validator = by_address.pop(vote.address, None)  # popped: a second vote of one validator counts nothing
        if validator is not None:
            _check_vote(chain_id, signed.commit, place, validator, vote)
            power += validator.power
    if power * 3 <= total:
        raise NotSigned("not more than a third of the trusted power signed", total=total, found=power)
