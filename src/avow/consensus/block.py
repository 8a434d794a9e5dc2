"""Blocks in CometBFT's format: from transactions to a header, from a header to a signed commit.

Rules (CometBFT v0.40, spec/core/data_structures):
1. A block is header, transactions, evidence (always none here) and the last block's commit. Its encoding is cut into
   parts of 64 KiB; the block id is the header's hash with the parts' count and Merkle root.
2. The header of height H holds the application's hash and the results of height H-1: what H did is proven by H+1.
3. One validator signs, so its precommit alone is the commit.

Pure: time is a parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.abci import ExecTxResult
from avow.receipt import merkle
from avow.receipt.headers import (
    BLOCK_PROTOCOL,
    BlockID,
    BlockIDFlag,
    Commit,
    CommitSig,
    Header,
    SignedBlock,
    Validator,
    data_hash,
    last_results_hash,
    validator_address,
    validators_hash,
)
from avow.receipt.protobuf import message_field, varint_field

PART_SIZE = 65_536
EMPTY_COMMIT = Commit(0, 0, BlockID(), ())
"""What the first block carries as its last commit."""
NO_EVIDENCE_HASH = merkle.EMPTY_LIST_ROOT


@dataclass(frozen=True, slots=True)
class Parameters:
    """What stays the same from block to block. `consensus_hash` binds the limits (types/params.go, HashedParams)."""

    chain_id: str
    app_version: int
    max_bytes: int
    max_gas: int

    @property
    def consensus_hash(self) -> bytes:
        return sha256(varint_field(1, self.max_bytes) + varint_field(2, self.max_gas)).digest()


@dataclass(frozen=True, slots=True)
class Decided:
    """A block that was decided and executed: all that is kept of it. `app_hash` is the application's after it."""

    header: Header
    commit: Commit
    txs: tuple[bytes, ...]
    results: tuple[ExecTxResult, ...]
    app_hash: bytes
    validators: tuple[Validator, ...]

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def signed_block(self) -> SignedBlock:
        return SignedBlock(self.header, self.commit, self.validators)

    @property
    def needs_proof(self) -> bool:
        """Whether it did something that only the next header can prove."""
        return bool(self.txs) or self.app_hash != self.header.app_hash


def next_header(
    parameters: Parameters,
    last: Decided | None,
    *,
    genesis_app_hash: bytes,
    validators: Sequence[Validator],
    txs: Sequence[bytes],
    time_ns: int,
) -> Header:
    """The header after `last` (None before the first block). The proposer is the first validator."""
    validator_set_hash = validators_hash(validators)
    return Header(
        block_version=BLOCK_PROTOCOL,
        app_version=parameters.app_version,
        chain_id=parameters.chain_id,
        height=1 if last is None else last.height + 1,
        time_ns=time_ns,
        last_block_id=BlockID() if last is None else last.commit.block_id,
        last_commit_hash=(EMPTY_COMMIT if last is None else last.commit).hash,
        data_hash=data_hash(txs),
        validators_hash=validator_set_hash,
        next_validators_hash=validator_set_hash,
        consensus_hash=parameters.consensus_hash,
        app_hash=genesis_app_hash if last is None else last.app_hash,
        last_results_hash=last_results_hash(() if last is None else [item.deterministic() for item in last.results]),
        evidence_hash=NO_EVIDENCE_HASH,
        proposer_address=validators[0].address,
    )


def encode_block(header: Header, txs: Sequence[bytes], last_commit: Commit) -> bytes:
    """The protobuf Block (block.proto) without evidence."""
    data = b"".join([message_field(1, tx) for tx in txs])
    return b"".join(
        (
            message_field(1, header.encoded()),
            message_field(2, data),
            message_field(3, b""),
            message_field(4, last_commit.encoded()),
        )
    )


def block_id(header: Header, txs: Sequence[bytes], last_commit: Commit) -> BlockID:
    """Rule 1."""
    encoded = encode_block(header, txs, last_commit)
    parts = [encoded[at : at + PART_SIZE] for at in range(0, len(encoded), PART_SIZE)]
    return BlockID(header.hash, len(parts), merkle.root(parts))


def sign_commit(header: Header, identity: BlockID, key: Ed25519PrivateKey, time_ns: int) -> Commit:
    """The commit of a set of one (rule 3); `time_ns` is the vote's time."""
    address = validator_address(key.public_key().public_bytes_raw())
    commit = Commit(header.height, 0, identity, ())
    vote = CommitSig(BlockIDFlag.COMMIT, address, time_ns)
    signature = key.sign(commit.sign_bytes(header.chain_id, vote))
    return Commit(header.height, 0, identity, (CommitSig(BlockIDFlag.COMMIT, address, time_ns, signature),))
