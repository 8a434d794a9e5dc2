"""ABCI 2.0 on the socket: requests from bytes, responses to bytes.

Rules:
1. The values are those of `chain/abci.py`; what only a socket has (echo, flush, the application mempool, snapshots, vote
   extensions) stands here. Field numbers are those of proto/tendermint/abci/types.proto, CometBFT v0.40.
2. A request's fields are read by a literal table (wire.py, rule 2); what the application has no use for (the last commit's
   votes, evidence, consensus parameters) is skipped unread.
3. Times are nanoseconds since the epoch. Go's zero time, and any other before the epoch, reads as 0.

Pure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from avow.chain import abci
from avow.consensus.cometbft.errors import ProtocolFault
from avow.consensus.cometbft.wire import BYTES, INT, MANY, Table, read_message, signed, text
from avow.receipt.protobuf import bytes_field, message_field, varint_field

CODE_RETRY = 32_000
"""An InsertTx answer from here on: not now, offer it again."""
ACCEPT = 1


@dataclass(frozen=True, slots=True)
class Echo:
    message: str


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything asked so far is to be answered now."""


@dataclass(frozen=True, slots=True)
class InfoRequest:
    version: str
    abci_version: str


@dataclass(frozen=True, slots=True)
class CommitRequest:
    pass


@dataclass(frozen=True, slots=True)
class InsertTxRequest:
    """A transaction from a peer, for the application's own pool."""

    tx: bytes


@dataclass(frozen=True, slots=True)
class InsertTxResponse:
    code: int = abci.CODE_OK


@dataclass(frozen=True, slots=True)
class ReapTxsRequest:
    """What of the pool is to be gossiped; 0 means no limit."""

    max_bytes: int
    max_gas: int


@dataclass(frozen=True, slots=True)
class ReapTxsResponse:
    txs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ExtendVoteRequest:
    height: int


@dataclass(frozen=True, slots=True)
class ExtendVoteResponse:
    vote_extension: bytes = b""


@dataclass(frozen=True, slots=True)
class VerifyVoteExtensionRequest:
    height: int
    vote_extension: bytes


@dataclass(frozen=True, slots=True)
class VerifyVoteExtensionResponse:
    accept: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as peers name it. Two are the same when their `hash` is."""

    height: int
    format: int
    chunks: int
    hash: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True)
class ListSnapshotsRequest:
    pass


@dataclass(frozen=True, slots=True)
class ListSnapshotsResponse:
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True, slots=True)
class OfferSnapshotRequest:
    """`app_hash` is verified by the light client; all else comes from a peer."""

    snapshot: Snapshot
    app_hash: bytes


class Offered(IntEnum):
    """ResponseOfferSnapshot.Result"""

    ACCEPT = 1
    ABORT = 2
    REJECT = 3
    REJECT_FORMAT = 4
    REJECT_SENDER = 5


@dataclass(frozen=True, slots=True)
class OfferSnapshotResponse:
    result: Offered


@dataclass(frozen=True, slots=True)
class LoadSnapshotChunkRequest:
    height: int
    format: int
    chunk: int


@dataclass(frozen=True, slots=True)
class LoadSnapshotChunkResponse:
    """Empty: this node does not have it."""

    chunk: bytes


@dataclass(frozen=True, slots=True)
class ApplySnapshotChunkRequest:
    index: int
    chunk: bytes
    sender: str


class Applied(IntEnum):
    """ResponseApplySnapshotChunk.Result"""

    ACCEPT = 1
    ABORT = 2
    RETRY = 3
    RETRY_SNAPSHOT = 4
    REJECT_SNAPSHOT = 5


@dataclass(frozen=True, slots=True)
class ApplySnapshotChunkResponse:
    result: Applied
    refetch_chunks: tuple[int, ...] = ()
    reject_senders: tuple[str, ...] = ()


Request = (
    Echo
    | Flush
    | InfoRequest
    | abci.InitChainRequest
    | abci.QueryRequest
    | abci.CheckTxRequest
    | CommitRequest
    | ListSnapshotsRequest
    | OfferSnapshotRequest
    | LoadSnapshotChunkRequest
    | ApplySnapshotChunkRequest
    | abci.PrepareProposalRequest
    | abci.ProcessProposalRequest
    | ExtendVoteRequest
    | VerifyVoteExtensionRequest
    | abci.FinalizeBlockRequest
    | InsertTxRequest
    | ReapTxsRequest
)
Response = (
    Echo
    | Flush
    | abci.InfoResponse
    | abci.InitChainResponse
    | abci.QueryResponse
    | abci.CheckTxResponse
    | abci.CommitResponse
    | ListSnapshotsResponse
    | OfferSnapshotResponse
    | LoadSnapshotChunkResponse
    | ApplySnapshotChunkResponse
    | abci.PrepareProposalResponse
    | abci.ProcessProposalResponse
    | ExtendVoteResponse
    | VerifyVoteExtensionResponse
    | abci.FinalizeBlockResponse
    | InsertTxResponse
    | ReapTxsResponse
)


# --- Reading ----------------------------------------------------------------------------------------------------------

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
    return abci.FinalizeBlockRequest(*_block(found))


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


# --- Writing ----------------------------------------------------------------------------------------------------------


def _event(event: abci.Event) -> bytes:
    attributes = [
        message_field(
            2,
            bytes_field(1, item.key.encode()) + bytes_field(2, item.value.encode()) + varint_field(3, int(item.index)),
        )
        for item in event.attributes
    ]
    return bytes_field(1, event.type.encode()) + b"".join(attributes)


def encode_result(result: abci.ExecTxResult) -> bytes:
    """ExecTxResult, all of it; `deterministic().leaf()` is what is hashed."""
    return b"".join(
        (
            varint_field(1, result.code),
            bytes_field(2, result.data),
            bytes_field(3, result.log.encode()),
            bytes_field(4, result.info.encode()),
            varint_field(5, result.gas_wanted),
            varint_field(6, result.gas_used),
            *[message_field(7, _event(event)) for event in result.events],
            bytes_field(8, result.codespace.encode()),
        )
    )


def _encode_validator(update: abci.ValidatorUpdate) -> bytes:
    return message_field(1, bytes_field(1, update.public_key)) + varint_field(2, update.power)


def _encode_snapshot(snapshot: Snapshot) -> bytes:
    return b"".join(
        (
            varint_field(1, snapshot.height),
            varint_field(2, snapshot.format),
            varint_field(3, snapshot.chunks),
            bytes_field(4, snapshot.hash),
            bytes_field(5, snapshot.metadata),
        )
    )


def _repeated(number: int, items: Sequence[bytes]) -> bytes:
    return b"".join([message_field(number, item) for item in items])


def _status(accept: bool) -> bytes:
    return varint_field(1, ACCEPT if accept else ACCEPT + 1)


def _encode_info(value: abci.InfoResponse) -> bytes:
    return b"".join(
        (
            bytes_field(1, value.data.encode()),
            bytes_field(2, value.version.encode()),
            varint_field(3, value.app_version),
            varint_field(4, value.last_block_height),
            bytes_field(5, value.last_block_app_hash),
        )
    )


def _encode_query(value: abci.QueryResponse) -> bytes:
    """The sparse proof travels as one proof operation (crypto/proof.proto)."""
    operation = bytes_field(1, b"avow/sparse/1") + bytes_field(2, value.key) + bytes_field(3, value.proof)
    return b"".join(
        (
            varint_field(1, value.code),
            bytes_field(3, value.log.encode()),
            bytes_field(6, value.key),
            bytes_field(7, value.value),
            message_field(8, message_field(1, operation)) if value.proof else b"",
            varint_field(9, value.height),
        )
    )


def _encode_check(value: abci.CheckTxResponse) -> bytes:
    return b"".join(
        (
            varint_field(1, value.code),
            bytes_field(2, value.data),
            bytes_field(3, value.log.encode()),
            varint_field(5, value.gas_wanted),
            varint_field(6, value.gas_used),
            bytes_field(8, value.codespace.encode()),
        )
    )


def _encode_finalize(value: abci.FinalizeBlockResponse) -> bytes:
    return b"".join(
        (
            _repeated(1, [_event(event) for event in value.events]),
            _repeated(2, [encode_result(result) for result in value.tx_results]),
            _repeated(3, [_encode_validator(update) for update in value.validator_updates]),
            bytes_field(5, value.app_hash),
        )
    )


def _encode_applied(value: ApplySnapshotChunkResponse) -> bytes:
    packed = b"".join([_packed(item) for item in value.refetch_chunks])
    senders = [item.encode() for item in value.reject_senders]
    return varint_field(1, value.result) + bytes_field(2, packed) + _repeated(3, senders)


def _packed(number: int) -> bytes:
    return varint_field(1, number)[1:] if number else b"\x00"


_RESPONSES: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    Echo: (2, lambda value: bytes_field(1, value.message.encode())),
    Flush: (3, lambda _: b""),
    abci.InfoResponse: (4, _encode_info),
    abci.InitChainResponse: (
        6,
        lambda value: (
            _repeated(2, [_encode_validator(item) for item in value.validators]) + bytes_field(3, value.app_hash)
        ),
    ),
    abci.QueryResponse: (7, _encode_query),
    abci.CheckTxResponse: (9, _encode_check),
    abci.CommitResponse: (12, lambda value: varint_field(3, value.retain_height)),
    ListSnapshotsResponse: (13, lambda value: _repeated(1, [_encode_snapshot(item) for item in value.snapshots])),
    OfferSnapshotResponse: (14, lambda value: varint_field(1, value.result)),
    LoadSnapshotChunkResponse: (15, lambda value: bytes_field(1, value.chunk)),
    ApplySnapshotChunkResponse: (16, _encode_applied),
    abci.PrepareProposalResponse: (17, lambda value: _repeated(1, value.txs)),
    abci.ProcessProposalResponse: (18, lambda value: _status(value.accept)),
    ExtendVoteResponse: (19, lambda value: bytes_field(1, value.vote_extension)),
    VerifyVoteExtensionResponse: (20, lambda value: _status(value.accept)),
    abci.FinalizeBlockResponse: (21, _encode_finalize),
    InsertTxResponse: (22, lambda value: varint_field(1, value.code)),
    ReapTxsResponse: (23, lambda value: _repeated(1, value.txs)),
}


def encode_response(response: Response) -> bytes:
    number, encode = _RESPONSES[type(response)]
    return message_field(number, encode(response))
