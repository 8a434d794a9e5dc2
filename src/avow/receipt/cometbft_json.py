"""CometBFT's RPC JSON (`/commit`, `/validators`, `/block_results`) into the light client's values.

Rules: integers come as decimal strings, hashes as upper-case hex, keys and signatures as base64, times as RFC 3339 with
up to nine fractional digits. An absent vote has an empty address, no signature and Go's zero time. What a light client
does not need (proposer priorities, logs, events) is passed over; what it needs has one accepted form. The caller bounds
the size of the JSON text. Pure.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from avow.errors import EncodingError
from avow.receipt.headers import (
    MAX_INT64,
    MAX_VALIDATORS,
    BlockID,
    BlockIDFlag,
    Commit,
    CommitSig,
    Header,
    SignedHeader,
    TransactionResult,
    Validator,
)

_ZERO_TIME = "0001-01-01T00:00:00Z"
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,18})", re.ASCII)
_HEX = re.compile(r"(?:[0-9A-F]{2}){0,64}", re.ASCII)
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MAX_TEXT = 1 << 20


class RpcFormatError(EncodingError):
    """The JSON is not what CometBFT's RPC gives."""

    code = "bad_rpc_json"


def signed_header_from_rpc(value: object) -> SignedHeader:
    """The `signed_header` of `/commit`."""
    return SignedHeader(header_from_rpc(_member(value, "header")), commit_from_rpc(_member(value, "commit")))


def header_from_rpc(value: object) -> Header:
    version = _member(value, "version")
    time_ns = _time(_member(value, "time"))
    if time_ns is None:
        raise RpcFormatError("a header without a time")
    return Header(
        block_version=_integer(_member(version, "block")),
        app_version=_integer(version["app"]) if isinstance(version, Mapping) and "app" in version else 0,
        chain_id=_text(_member(value, "chain_id"), 50),
        height=_integer(_member(value, "height")),
        time_ns=time_ns,
        last_block_id=_block_id(_member(value, "last_block_id")),
        last_commit_hash=_hex(_member(value, "last_commit_hash"), 32),
        data_hash=_hex(_member(value, "data_hash"), 32),
        validators_hash=_hex(_member(value, "validators_hash"), 32),
        next_validators_hash=_hex(_member(value, "next_validators_hash"), 32),
        consensus_hash=_hex(_member(value, "consensus_hash"), 32),
        app_hash=_hex(_member(value, "app_hash")),
        last_results_hash=_hex(_member(value, "last_results_hash"), 0, 32),
        evidence_hash=_hex(_member(value, "evidence_hash"), 32),
        proposer_address=_hex(_member(value, "proposer_address"), 20),
    )


def commit_from_rpc(value: object) -> Commit:
    return Commit(
        _integer(_member(value, "height")),
        _small_integer(_member(value, "round"), (1 << 31) - 1),
        _block_id(_member(value, "block_id")),
        tuple(_vote(item) for item in _list(_member(value, "signatures"), MAX_VALIDATORS)),
    )


def validators_from_rpc(value: object) -> tuple[Validator, ...]:
    """The `validators` array of `/validators` (ask with per_page=100; longer sets are the caller's to join)."""
    return tuple(_validator(item) for item in _list(value, MAX_VALIDATORS))


def results_from_rpc(value: object) -> tuple[TransactionResult, ...]:
    """The `txs_results` of `/block_results`: an array or null."""
    return tuple(
        TransactionResult(
            _small_integer(_member(item, "code"), (1 << 32) - 1),
            _base64(_optional(item, "data")),
            _integer(_member(item, "gas_wanted")),
            _integer(_member(item, "gas_used")),
        )
        for item in _list(value, 1 << 20)
    )


def _validator(value: object) -> Validator:
    key = _member(value, "pub_key")
    if _member(key, "type") != "tendermint/PubKeyEd25519":
        raise RpcFormatError("a validator's key is not Ed25519")
    public_key = _base64(_member(key, "value"))
    if len(public_key) != 32:
        raise RpcFormatError("a validator's key is not of 32 bytes")
    return Validator(public_key, _integer(_member(value, "voting_power")))


def _vote(value: object) -> CommitSig:
    number = _small_integer(_member(value, "block_id_flag"), 3)
    address = _hex(_member(value, "validator_address"), 0, 20)
    time_ns = _time(_member(value, "timestamp"))
    signature = _base64(_member(value, "signature"))
    if number == BlockIDFlag.ABSENT:
        if address or time_ns is not None or signature:
            raise RpcFormatError("an absent vote says something")
    elif number == 0 or len(address) != 20 or time_ns is None or len(signature) != 64:
        raise RpcFormatError("a vote is not complete")
    return CommitSig(BlockIDFlag(number), address, time_ns, signature)


def _block_id(value: object) -> BlockID:
    parts = _member(value, "parts")
    return BlockID(
        _hex(_member(value, "hash"), 0, 32),
        _small_integer(_member(parts, "total"), (1 << 32) - 1),
        _hex(_member(parts, "hash"), 0, 32),
    )


def _member(value: object, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise RpcFormatError(f"there is no {name}", field=name)
    return value[name]


def _optional(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _list(value: object, most: int) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise RpcFormatError("not an array, or too long")
    return value


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise RpcFormatError("not a text, or too long")
    return value


def _integer(value: object) -> int:
    """An int64 as a decimal string, not negative."""
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise RpcFormatError("not an integer in decimal")
    number = int(value)
    if not 0 <= number <= MAX_INT64:
        raise RpcFormatError("an integer is out of range")
    return number


def _small_integer(value: object, most: int) -> int:
    """An integer that the RPC writes as a JSON number."""
    if type(value) is not int or not 0 <= value <= most:
        raise RpcFormatError("not an integer in range")
    return value


def _hex(value: object, *lengths: int) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise RpcFormatError("not upper-case hex of at most 64 bytes")
    data = bytes.fromhex(value)
    if lengths and len(data) not in lengths:
        raise RpcFormatError("a hash has the wrong length", found=len(data))
    return data


def _base64(value: object) -> bytes:
    """Standard base64 with padding; null is empty."""
    if value is None:
        return b""
    try:
        data = base64.b64decode(_text(value, _MAX_TEXT), validate=True)
    except (binascii.Error, ValueError):
        raise RpcFormatError("not base64") from None
    if base64.b64encode(data).decode("ascii") != value:
        raise RpcFormatError("not the one base64 form")
    return data


def _time(value: object) -> int | None:
    """Nanoseconds since the epoch; None for Go's zero time. Years 1970 to 2261."""
    if value == _ZERO_TIME:
        return None
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise RpcFormatError("not a time as RFC 3339 writes it")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (1970 <= year <= 2261 and 1 <= month <= 12 and 1 <= day <= _DAYS_IN_MONTH[month - 1]):
        raise RpcFormatError("a date that is none, or out of range")
    if month == 2 and day == 29 and (year % 4 or (year % 100 == 0 and year % 400)):
        raise RpcFormatError("a date that is none")
    if hour > 23 or minute > 59 or second > 59:
        raise RpcFormatError("a time of day that is none")
    seconds = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    return seconds * 1_000_000_000 + int((match.group(7) or "0").ljust(9, "0"))


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar; the year begins in March so that leap days come last."""
    shifted = year - (month <= 2)
    months = (month + 9) % 12
    return 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + (153 * months + 2) // 5 + day - 1 - 719_468
