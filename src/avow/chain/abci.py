"""The application blockchain interface (ABCI 2.0, CometBFT v0.40) as plain values.

Rules:
1. These are the requests and responses of the consensus, mempool and query connections, without transport. A driver
   (the embedded engine, or the socket server under CometBFT) asks; `Application` answers, synchronously.
2. Call order is ABCI's grammar: info; init_chain once when info says height 0; then per height
   prepare_proposal, process_proposal, finalize_block, commit. check_tx and query come between any two of them.
3. Only `code`, `data`, `gas_wanted` and `gas_used` of a result are hashed (CometBFT, spec/abci, "ExecTxResult").
   `log`, `events` and `info` are not: they may hold text for people.
4. Times are nanoseconds since the Unix epoch; heights start at 1; gas is in the chain's own unit.

Field names are those of proto/tendermint/abci/types.proto, with `_ns` where the unit is a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from avow.receipt.light import TransactionResult

CODE_OK = 0


class CheckTxType(IntEnum):
    """Why a transaction is checked: offered for the first time, or again after a block."""

    NEW = 0
    RECHECK = 1


@dataclass(frozen=True, slots=True)
class EventAttribute:
    key: str
    value: str
    index: bool = True


@dataclass(frozen=True, slots=True)
class Event:
    """Something that an index may search for. Never hashed."""

    type: str
    attributes: tuple[EventAttribute, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidatorUpdate:
    """A validator's new power, in force two heights later; power 0 removes it. `public_key`: 32 bytes, Ed25519."""

    public_key: bytes
    power: int


@dataclass(frozen=True, slots=True)
class ExecTxResult:
    """What executing one transaction gave. Rule 3 says what of it is hashed."""

    code: int = CODE_OK
    data: bytes = b""
    gas_wanted: int = 0
    gas_used: int = 0
    log: str = ""
    events: tuple[Event, ...] = ()
    info: str = ""
    codespace: str = ""

    def deterministic(self) -> TransactionResult:
        """The hashed part; `.leaf()` of it is the leaf under last_results_hash."""
        return TransactionResult(self.code, self.data, self.gas_wanted, self.gas_used)


@dataclass(frozen=True, slots=True)
class InfoResponse:
    """What the application has committed. Height 0 and an empty hash before genesis."""

    data: str
    version: str
    app_version: int
    last_block_height: int
    last_block_app_hash: bytes


@dataclass(frozen=True, slots=True)
class InitChainRequest:
    time_ns: int
    chain_id: str
    validators: tuple[ValidatorUpdate, ...]
    app_state_bytes: bytes
    initial_height: int = 1


@dataclass(frozen=True, slots=True)
class InitChainResponse:
    """`app_hash` is never empty. Empty `validators` keeps those of the request."""

    app_hash: bytes
    validators: tuple[ValidatorUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckTxRequest:
    tx: bytes
    type: CheckTxType = CheckTxType.NEW


@dataclass(frozen=True, slots=True)
class CheckTxResponse:
    """`code` 0 admits the transaction to the pool."""

    code: int = CODE_OK
    data: bytes = b""
    log: str = ""
    gas_wanted: int = 0
    gas_used: int = 0
    codespace: str = ""


@dataclass(frozen=True, slots=True)
class PrepareProposalRequest:
    """`txs` come from the pool in order of arrival; their sum may exceed `max_tx_bytes`, the answer's may not."""

    max_tx_bytes: int
    txs: tuple[bytes, ...]
    height: int
    time_ns: int
    proposer_address: bytes
    next_validators_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class PrepareProposalResponse:
    txs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ProcessProposalRequest:
    txs: tuple[bytes, ...]
    hash: bytes
    height: int
    time_ns: int
    proposer_address: bytes
    next_validators_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class ProcessProposalResponse:
    accept: bool


class MisbehaviorType(IntEnum):
    """What the block's evidence proves of a validator."""

    UNKNOWN = 0
    DUPLICATE_VOTE = 1
    LIGHT_CLIENT_ATTACK = 2


@dataclass(frozen=True, slots=True)
class Misbehavior:
    """Evidence in a block, which the consensus engine has checked. `address`: the validator's, 20 bytes; `height`: of its fault."""

    kind: MisbehaviorType
    address: bytes
    height: int


@dataclass(frozen=True, slots=True)
class FinalizeBlockRequest:
    txs: tuple[bytes, ...]
    hash: bytes
    height: int
    time_ns: int
    proposer_address: bytes
    next_validators_hash: bytes = b""
    misbehavior: tuple[Misbehavior, ...] = ()


@dataclass(frozen=True, slots=True)
class FinalizeBlockResponse:
    """One result per transaction, in order. `app_hash` is never empty; it changes iff state or results did."""

    tx_results: tuple[ExecTxResult, ...]
    app_hash: bytes
    events: tuple[Event, ...] = ()
    validator_updates: tuple[ValidatorUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class CommitResponse:
    """Blocks below `retain_height` may be dropped; 0 keeps all."""

    retain_height: int = 0


@dataclass(frozen=True, slots=True)
class QueryRequest:
    data: bytes
    path: str
    height: int = 0
    prove: bool = False


@dataclass(frozen=True, slots=True)
class QueryResponse:
    """`proof` is a sparse proof in CBOR, empty unless asked for; it holds under header `height` + 1."""

    code: int = CODE_OK
    key: bytes = b""
    value: bytes = b""
    height: int = 0
    proof: bytes = b""
    log: str = ""


class Application(Protocol):
    """The replicated state machine, as a driver sees it. finalize_block persists nothing, commit everything at once."""

    def info(self) -> InfoResponse: ...
    def init_chain(self, request: InitChainRequest) -> InitChainResponse: ...
    def check_tx(self, request: CheckTxRequest) -> CheckTxResponse: ...
    def prepare_proposal(self, request: PrepareProposalRequest) -> PrepareProposalResponse: ...
    def process_proposal(self, request: ProcessProposalRequest) -> ProcessProposalResponse: ...
    def finalize_block(self, request: FinalizeBlockRequest) -> FinalizeBlockResponse: ...
    def commit(self) -> CommitResponse: ...
    def query(self, request: QueryRequest) -> QueryResponse: ...


def total_bytes(txs: Sequence[bytes]) -> int:
    """The size of a list of transactions as blocks count it: each with its field key and length (block.proto, Data)."""
    return sum([1 + _varint_length(len(tx)) + len(tx) for tx in txs])


def _varint_length(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)
