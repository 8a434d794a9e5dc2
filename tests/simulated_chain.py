"""A chain in memory: validators, blocks in CometBFT's formats, a sparse map of all state, and the history of batches.

Only formats are shared with the product. The provers here are the plainest there are: recursion over all keys.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avow.receipt import light, merkle
from avow.receipt.light import (
    BlockID,
    BlockIDFlag,
    Commit,
    CommitSig,
    Header,
    SignedBlock,
    TransactionResult,
    Validator,
)
from avow.receipt.merkle import HistoryProof, MountainRange, SparseProof
from avow.receipt.standing import app_hash

BLOCK_MS = 1_000


class SimulatedChain:
    """`secrets` are the validators' private keys (32 bytes each), with power 10 each; the first in their order proposes."""

    def __init__(self, chain_id: str, secrets: Sequence[bytes], start_ms: int) -> None:
        self.chain_id = chain_id
        self.now_ms = start_ms
        self._validators = sorted(
            (Ed25519PrivateKey.from_private_bytes(secret) for secret in secrets),
            key=lambda key: light.validator_address(_raw(key)),
        )
        self.validators = tuple(Validator(_raw(key), 10) for key in self._validators)
        self.state: dict[bytes, bytes] = {b"genesis": b"1"}
        self.history: list[bytes] = []
        self._range = MountainRange()
        self._results: tuple[TransactionResult, ...] = ()
        self.blocks: list[SignedBlock] = []

    @property
    def state_root(self) -> bytes:
        return sparse_root(self.state)

    @property
    def history_root(self) -> bytes:
        return self._range.root()

    @property
    def app_hash(self) -> bytes:
        """What the next header will say."""
        return app_hash(self.state_root, self.history_root)

    def record(self, leaf: bytes) -> int:
        """Append a batch's leaf to the history; its index."""
        self.history.append(leaf)
        self._range = self._range.append(leaf)
        return len(self.history) - 1

    def advance(self, results: Sequence[TransactionResult] = ()) -> SignedBlock:
        """One more block, `BLOCK_MS` later; `results` are those of its transactions."""
        self.now_ms += BLOCK_MS
        previous = self.blocks[-1] if self.blocks else None
        set_hash = light.validators_hash(self.validators)
        header = Header(
            block_version=11,
            app_version=1,
            chain_id=self.chain_id,
            height=len(self.blocks) + 1,
            time_ns=self.now_ms * 1_000_000,
            last_block_id=previous.commit.block_id if previous else BlockID(),
            last_commit_hash=previous.commit.hash if previous else merkle.EMPTY_LIST_ROOT,
            data_hash=light.data_hash([result.data for result in results]),
            validators_hash=set_hash,
            next_validators_hash=set_hash,
            consensus_hash=hashlib.sha256(b"consensus").digest(),
            app_hash=self.app_hash,
            last_results_hash=light.last_results_hash(self._results) if previous else b"",
            evidence_hash=merkle.EMPTY_LIST_ROOT,
            proposer_address=self.validators[0].address,
        )
        self._results = tuple(results)
        block = self.sign_block(header)
        self.blocks.append(block)
        return block

    def sign_block(self, header: Header, *, signers: int | None = None) -> SignedBlock:
        """A commit over `header` by the first `signers` validators (all, if None); the others are absent."""
        block_id = BlockID(header.hash, 1, hashlib.sha256(b"parts" + header.hash).digest())
        unsigned = Commit(header.height, 0, block_id, ())
        votes: list[CommitSig] = []
        for place, key in enumerate(self._validators):
            if signers is not None and place >= signers:
                votes.append(CommitSig(BlockIDFlag.ABSENT))
                continue
            vote = CommitSig(BlockIDFlag.COMMIT, self.validators[place].address, header.time_ns + place, b"")
            signature = key.sign(unsigned.sign_bytes(header.chain_id, vote))
            votes.append(replace(vote, signature=signature))
        return SignedBlock(header, replace(unsigned, signatures=tuple(votes)), self.validators)


def _raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


# --- a sparse tree's prover, by recursion over all keys -----------------------------------------------------------------


def _subtree(items: list[tuple[int, bytes]], depth: int) -> bytes:
    """The root of the leaves (path as integer, leaf hash) that share their first `depth` bits."""
    if not items:
        return merkle.EMPTY_SUBTREE
    if len(items) == 1:
        return items[0][1]
    left = [item for item in items if not item[0] >> (255 - depth) & 1]
    right = [item for item in items if item[0] >> (255 - depth) & 1]
    return merkle.node_hash(_subtree(left, depth + 1), _subtree(right, depth + 1))


def _leaves(state: dict[bytes, bytes]) -> list[tuple[int, bytes]]:
    paths = ((merkle.sparse_path(key), hashlib.sha256(value).digest()) for key, value in state.items())
    return [(int.from_bytes(path), merkle.sparse_leaf(path, digest)) for path, digest in paths]


def sparse_root(state: dict[bytes, bytes]) -> bytes:
    return _subtree(_leaves(state), 0)


def sparse_proof(state: dict[bytes, bytes], key: bytes) -> SparseProof:
    """Membership of `key`, or that it is not there."""
    target = int.from_bytes(merkle.sparse_path(key))
    items, depth, siblings = _leaves(state), 0, []
    while len(items) > 1:
        bit = target >> (255 - depth) & 1
        siblings.append(_subtree([item for item in items if item[0] >> (255 - depth) & 1 != bit], depth + 1))
        items = [item for item in items if item[0] >> (255 - depth) & 1 == bit]
        depth += 1
    if key in state or not items:
        return SparseProof(tuple(siblings))
    other = next(name for name in state if int.from_bytes(merkle.sparse_path(name)) == items[0][0])
    return SparseProof(tuple(siblings), (merkle.sparse_path(other), hashlib.sha256(state[other]).digest()))


def history_proof(leaves: list[bytes], index: int) -> HistoryProof:
    size, start, peaks, path = len(leaves), 0, [], ()
    for height in range(size.bit_length() - 1, -1, -1):
        if not size >> height & 1:
            continue
        mountain = leaves[start : start + (1 << height)]
        if start <= index < start + len(mountain):
            path = tuple(merkle.path(mountain, index - start))
        else:
            peaks.append(merkle.root(mountain))
        start += len(mountain)
    return HistoryProof(size, path, tuple(peaks))
