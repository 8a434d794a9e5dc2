"""ABCI responses to bytes. Field numbers are those of proto/tendermint/abci/types.proto, CometBFT v0.40. Pure."""

from collections.abc import Callable, Sequence
from typing import Any

from avow.chain import abci
from avow.consensus.cometbft.messages import (
    ApplySnapshotChunkResponse,
    Echo,
    ExtendVoteResponse,
    Flush,
    InsertTxResponse,
    ListSnapshotsResponse,
    LoadSnapshotChunkResponse,
    OfferSnapshotResponse,
    ReapTxsResponse,
    Response,
    Snapshot,
    VerifyVoteExtensionResponse,
)
from avow.receipt.protobuf import bytes_field, message_field, varint_field

ACCEPT = 1


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
