"""What ABCI 2.0 has on a socket alone, as values: echo, flush, the application mempool, snapshots, vote extensions.

The rest is chain/abci.py's. requests.py reads what CometBFT asks, responses.py writes the answers.
"""

from dataclasses import dataclass
from enum import IntEnum

from avow.chain import abci

CODE_RETRY = 32_000
"""An InsertTx answer from here on: not now, offer it again."""


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
