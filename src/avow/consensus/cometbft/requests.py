"""ABCI requests from bytes.

Rules:
1. Field numbers are those of proto/tendermint/abci/types.proto, CometBFT v0.40.
2. A request's fields are read by a literal table (wire.py, rule 2); what the application has no use for (the last commit's votes,
   consensus parameters, all of the evidence but whom it proves what of) is skipped unread.
3. Times are nanoseconds since the epoch. Go's zero time, and any other before the epoch, reads as 0.

Pure.
"""

from collections.abc import Callable
from typing import Any

from avow.chain import abci
from avow.consensus.cometbft.errors import ProtocolFault
from avow.consensus.cometbft.messages import (
    ApplySnapshotChunkRequest,
    CommitRequest,
    Echo,
    ExtendVoteRequest,
    Flush,
    InfoRequest,
    InsertTxRequest,
    ListSnapshotsRequest,
    LoadSnapshotChunkRequest,
    OfferSnapshotRequest,
    ReapTxsRequest,
    Request,
    Snapshot,
    VerifyVoteExtensionRequest,
)
from avow.consensus.cometbft.wire import BYTES, INT, MANY, Table, read_message, signed, text

ADDRESS_BYTES = 20
Found = dict[int, Any]


def _time_ns(found: Found, number: int) -> int:
    data = found.get(number)
    if data is None:
        return 0
    parts = read_message(data, {1: INT, 2: INT})
    seconds, nanoseconds = signed(parts.get(1, 0)), signed(parts.get(2, 0))
    if not 0 <= nanoseconds < 1_000_000_000:
        raise ProtocolFault("a time's nanoseconds are out of range")
    return max(0, seconds * 1_000_000_000 + nanoseconds)


def _bytes(found: Found, number: int) -> bytes:
    value: bytes = found.get(number, b"")
    return value


def _number(found: Found, number: int) -> int:
    """An int64 that may not be negative."""
    value = signed(found.get(number, 0))
    if value < 0:
        raise ProtocolFault("a number is negative", field=number)
    return value


def _text(found: Found, number: int) -> str:
    return text(_bytes(found, number))


def _txs(found: Found, number: int) -> tuple[bytes, ...]:
    return tuple(found.get(number, ()))


def _validator_update(data: bytes) -> abci.ValidatorUpdate:
    found = read_message(data, {1: BYTES, 2: INT})
    key = read_message(_bytes(found, 1), {1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES, 5: BYTES})
    if set(key) != {1} or len(key[1]) != 32:
        raise ProtocolFault("a validator's key is not Ed25519")
    return abci.ValidatorUpdate(key[1], _number(found, 2))


def _snapshot(data: bytes) -> Snapshot:
    found = read_message(data, {1: INT, 2: INT, 3: INT, 4: BYTES, 5: BYTES})
    numbers = (_number(found, 1), _number(found, 2), _number(found, 3))
    return Snapshot(*numbers, _bytes(found, 4), _bytes(found, 5))


def _check_type(found: Found) -> abci.CheckTxType:
    try:
        return abci.CheckTxType(found.get(2, 0))
    except ValueError:
        raise ProtocolFault("an unknown reason to check a transaction") from None


def _prepare(found: Found) -> Request:
    return abci.PrepareProposalRequest(
        _number(found, 1), _txs(found, 2), _number(found, 5), _time_ns(found, 6), _bytes(found, 8), _bytes(found, 7)
    )


def _process(found: Found) -> Request:
    return abci.ProcessProposalRequest(*_block(found))


def _finalize(found: Found) -> Request:
    return abci.FinalizeBlockRequest(*_block(found), tuple([_misbehavior(item) for item in found.get(3, ())]))


def _misbehavior(data: bytes) -> abci.Misbehavior:
    """A kind that is not known proves nothing here: CometBFT's next version may have one."""
    found = read_message(data, {1: INT, 2: BYTES, 3: INT, 4: BYTES, 5: INT})
    validator = read_message(_bytes(found, 2), {1: BYTES, 3: INT})
    address = _bytes(validator, 1)
    if len(address) != ADDRESS_BYTES:
        raise ProtocolFault("the evidence names no validator")
    kind = found.get(1, 0)
    known = kind in abci.MisbehaviorType.__members__.values()
    return abci.Misbehavior(abci.MisbehaviorType(kind if known else 0), address, _number(found, 3))


def _block(found: Found) -> tuple[tuple[bytes, ...], bytes, int, int, bytes, bytes]:
    return (
        _txs(found, 1),
        _bytes(found, 4),
        _number(found, 5),
        _time_ns(found, 6),
        _bytes(found, 8),
        _bytes(found, 7),
    )


def _init_chain(found: Found) -> Request:
    validators = tuple(_validator_update(item) for item in found.get(4, ()))
    return abci.InitChainRequest(_time_ns(found, 1), _text(found, 2), validators, _bytes(found, 5), _number(found, 6))


def _offer(found: Found) -> Request:
    return OfferSnapshotRequest(_snapshot(_bytes(found, 1)), _bytes(found, 2))


def _query(found: Found) -> Request:
    return abci.QueryRequest(_bytes(found, 1), _text(found, 2), _number(found, 3), found.get(4, 0) == 1)


_BLOCK_TABLE: Table = {1: MANY, 2: BYTES, 3: MANY, 4: BYTES, 5: INT, 6: BYTES, 7: BYTES, 8: BYTES}

_REQUESTS: dict[int, tuple[Table, Callable[[Found], Request]]] = {
    1: ({1: BYTES}, lambda found: Echo(_text(found, 1))),
    2: ({}, lambda _: Flush()),
    3: ({1: BYTES, 2: INT, 3: INT, 4: BYTES}, lambda found: InfoRequest(_text(found, 1), _text(found, 4))),
    5: ({1: BYTES, 2: BYTES, 3: BYTES, 4: MANY, 5: BYTES, 6: INT}, _init_chain),
    6: ({1: BYTES, 2: BYTES, 3: INT, 4: INT}, _query),
    8: ({1: BYTES, 2: INT}, lambda found: abci.CheckTxRequest(_bytes(found, 1), _check_type(found))),
    11: ({}, lambda _: CommitRequest()),
    12: ({}, lambda _: ListSnapshotsRequest()),
    13: ({1: BYTES, 2: BYTES}, _offer),
    14: (
        {1: INT, 2: INT, 3: INT},
        lambda found: LoadSnapshotChunkRequest(_number(found, 1), _number(found, 2), _number(found, 3)),
    ),
    15: (
        {1: INT, 2: BYTES, 3: BYTES},
        lambda found: ApplySnapshotChunkRequest(_number(found, 1), _bytes(found, 2), _text(found, 3)),
    ),
    16: ({1: INT, 2: MANY, 3: BYTES, 4: MANY, 5: INT, 6: BYTES, 7: BYTES, 8: BYTES}, _prepare),
    17: (_BLOCK_TABLE, _process),
    18: (
        {1: BYTES, 2: INT, 3: BYTES, 4: MANY, 5: BYTES, 6: MANY, 7: BYTES, 8: BYTES},
        lambda found: ExtendVoteRequest(_number(found, 2)),
    ),
    19: (
        {1: BYTES, 2: BYTES, 3: INT, 4: BYTES},
        lambda found: VerifyVoteExtensionRequest(_number(found, 3), _bytes(found, 4)),
    ),
    20: (_BLOCK_TABLE, _finalize),
    21: ({1: BYTES}, lambda found: InsertTxRequest(_bytes(found, 1))),
    22: ({1: INT, 2: INT}, lambda found: ReapTxsRequest(_number(found, 1), _number(found, 2))),
}
_REQUEST_TABLE: Table = dict.fromkeys(_REQUESTS, BYTES)


def decode_request(data: bytes) -> Request:
    """Raises ProtocolFault."""
    outer = read_message(data, _REQUEST_TABLE)
    if len(outer) != 1:
        raise ProtocolFault("a message is not one request")
    ((number, body),) = outer.items()
    table, make = _REQUESTS[number]
    return make(read_message(body, table))
