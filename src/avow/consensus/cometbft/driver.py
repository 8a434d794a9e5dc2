"""The application under CometBFT, without sockets: each ABCI request has one synchronous answer.

Rules:
1. Everything that is hashed comes from `chain.Application`; this file adds custody of transactions, what is written beside the
   state, and snapshots.
2. The pool is ours: a transaction is taken into custody by `accept` (handed in here) or check_tx (a peer's), and leaves it in a
   block or when the application refuses it after one. CometBFT's own mempool holds copies: a recheck answers whether we still
   have it, so nothing that waits here can keep making empty blocks there. What we hand to that mempool are bundles.
3. Proposals come from our pool, whatever CometBFT's mempool holds.
4. Commit writes state, what the block did, and the pool's change in one SQLite transaction, durable before it is answered; the block
   with its own commit too, when that is here by then. Nothing else writes the state.
5. A block that CometBFT prunes is one whose header we have, and no snapshot that is offered needs it.
6. After any exception this object is broken for good, as memory may be ahead of the disk: end the process and open it anew.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Protocol

from avow.chain import abci
from avow.chain.errors import BadGenesis
from avow.chain.genesis import Genesis
from avow.chain.state import Store
from avow.consensus.block import Decided
from avow.consensus.blockstore import BlockStore, Executed
from avow.consensus.cometbft import messages
from avow.consensus.cometbft.bundle import decode_bundle, is_bundle
from avow.consensus.cometbft.errors import ProtocolFault
from avow.consensus.cometbft.messages import Applied, Offered, Request, Response
from avow.consensus.errors import ConsensusError, EngineStopped, PoolFull, StateMismatch, TransactionTooLarge
from avow.consensus.machine import Index, no_index
from avow.consensus.pool import Pool, recheck, reopen
from avow.errors import EncodingError
from avow.receipt.encoding import from_base64url

CODE_NOT_WAITING = 1
"""check_tx's answer for a transaction that is no longer in our pool."""
CODE_MALFORMED = 2
REMEMBERED_BLOCKS = 8
"""Of so many blocks we know at once that a transaction stands in one: copies of it come late, and for a while."""
MILLISECOND = 1_000_000
_MAX_APP_STATE = 8 * 1024 * 1024


class Snapshots(Protocol):
    """State sync's side of the application (cometbft/snapshots.py)."""

    def list(self) -> Sequence[messages.Snapshot]: ...
    def load(self, height: int, kind: int, chunk: int, /) -> bytes: ...
    def offer(self, snapshot: messages.Snapshot, app_hash: bytes, /) -> Offered: ...
    def apply(self, index: int, chunk: bytes, sender: str, /) -> messages.ApplySnapshotChunkResponse: ...
    def committed(self, height: int, /) -> None: ...
    def oldest_needed(self) -> int | None: ...


class NoSnapshots:
    """A node that neither makes nor takes any."""

    def list(self) -> Sequence[messages.Snapshot]:
        return ()

    def load(self, _height: int, _kind: int, _chunk: int) -> bytes:
        return b""

    def offer(self, _snapshot: messages.Snapshot, _app_hash: bytes) -> Offered:
        return Offered.ABORT

    def apply(self, _index: int, _chunk: bytes, _sender: str) -> messages.ApplySnapshotChunkResponse:
        return messages.ApplySnapshotChunkResponse(Applied.ABORT)

    def committed(self, _height: int) -> None:
        pass

    def oldest_needed(self) -> int | None:
        return None


class Driver:
    """One application on one store. `on_accepted` is called for each proposal that we vote for, `on_finalized` with each height once its
    block is decided and executed, `on_commit` once it is durable. `decided` gives the block with its commit, if that is here; `index`
    what is written with it.
    """

    def __init__(
        self,
        application: abci.Application,
        store: Store,
        genesis: Genesis,
        *,
        snapshots: Snapshots | None = None,
        on_accepted: Callable[[], None] = lambda: None,
        on_finalized: Callable[[int], None] = lambda _: None,
        on_commit: Callable[[int], None] = lambda _: None,
        decided: Callable[[Executed], Decided | None] = lambda _: None,
        index: Index = no_index,
    ) -> None:
        """Opens the chain where it stands. Raises StateMismatch."""
        self._application = application
        self._store = store
        self._genesis = genesis
        self._snapshots: Snapshots = NoSnapshots() if snapshots is None else snapshots
        self._on_accepted = on_accepted
        self._on_finalized = on_finalized
        self._on_commit = on_commit
        self._decided = decided
        self._index = index
        self._included: deque[frozenset[bytes]] = deque(maxlen=REMEMBERED_BLOCKS)
        self._executed: Executed | None = None
        self._broken = False
        self.blocks = BlockStore(store)
        self.pool = Pool(genesis.block_max_bytes)
        if self.blocks.position.height > store.committed.height:
            raise StateMismatch(
                "there are blocks beyond the state",
                blocks=self.blocks.position.height,
                state=store.committed.height,
            )
        self.pool.load(store)
        store.put_records(reopen(self.pool, application))
        self._answers: dict[type, Callable[[Any], Response]] = {
            messages.Echo: lambda request: request,
            messages.Flush: lambda request: request,
            messages.InfoRequest: lambda _: application.info(),
            abci.InitChainRequest: self._init_chain,
            abci.QueryRequest: application.query,
            abci.CheckTxRequest: self._check_tx,
            messages.InsertTxRequest: self._insert_tx,
            messages.ReapTxsRequest: self._reap_txs,
            abci.PrepareProposalRequest: self._prepare_proposal,
            abci.ProcessProposalRequest: self._process_proposal,
            messages.ExtendVoteRequest: lambda _: messages.ExtendVoteResponse(),
            messages.VerifyVoteExtensionRequest: lambda request: messages.VerifyVoteExtensionResponse(
                accept=not request.vote_extension
            ),
            abci.FinalizeBlockRequest: self._finalize_block,
            messages.CommitRequest: lambda _: self._commit(),
            messages.ListSnapshotsRequest: lambda _: messages.ListSnapshotsResponse(tuple(self._snapshots.list())),
            messages.OfferSnapshotRequest: self._offer_snapshot,
            messages.LoadSnapshotChunkRequest: self._load_chunk,
            messages.ApplySnapshotChunkRequest: self._apply_chunk,
        }
        self._to_reap: dict[bytes, None] = {}

    def answer(self, request: Request) -> Response:
        """Raises what the application raises; see rule 6."""
        if self._broken:
            raise EngineStopped("the application stopped on an error; open it anew")
        try:
            return self._answers[type(request)](request)
        except BaseException:
            self._broken = True
            raise

    # --- Genesis ----------------------------------------------------------------------------------------------------

    def _init_chain(self, request: abci.InitChainRequest) -> abci.InitChainResponse:
        """CometBFT's genesis must be the one that follows from ours. Raises BadGenesis."""
        try:
            text = json.loads(request.app_state_bytes[:_MAX_APP_STATE])
            genesis = from_base64url(text, max_bytes=_MAX_APP_STATE) if isinstance(text, str) else b""
        except (ValueError, EncodingError) as error:
            raise BadGenesis("CometBFT's genesis holds no genesis of ours") from error
        named = {(item.public_key, item.power) for item in request.validators}
        if named != set(self._genesis.validators) or request.initial_height not in (0, 1):
            raise BadGenesis("CometBFT's genesis names other validators or another first height than ours")
        if request.time_ns != self._genesis.time_ms * MILLISECOND:
            raise BadGenesis("CometBFT's genesis has another time than ours")
        return self._application.init_chain(replace(request, app_state_bytes=genesis))

    # --- Transactions -----------------------------------------------------------------------------------------------

    def accept(self, tx: bytes) -> tuple[bytes, abci.CheckTxResponse]:
        """Take a transaction into custody if the application admits it; (its digest, the application's answer).

        Raises PoolFull, TransactionTooLarge.
        """
        digest = sha256(tx).digest()
        if digest in self.pool:
            return digest, abci.CheckTxResponse(log="already waiting")
        self.pool.check_room(tx)
        response = self._application.check_tx(abci.CheckTxRequest(tx))
        if response.code == abci.CODE_OK:
            self.pool.add(digest, tx)
            self._to_reap[digest] = None
        return digest, response

    def _check_tx(self, request: abci.CheckTxRequest) -> abci.CheckTxResponse:
        """Rule 2. A bundle is admitted, and stays, for as long as one of its transactions is and does.

        What could not be taken when it came (its sender's transaction before it was still on the way) gets another chance.
        """
        try:
            txs = decode_bundle(request.tx) if is_bundle(request.tx) else [request.tx]
        except ProtocolFault as fault:
            return abci.CheckTxResponse(CODE_MALFORMED, log=fault.detail)
        if request.type is abci.CheckTxType.RECHECK:
            waits = any(sha256(tx).digest() in self.pool for tx in txs)
            if len(txs) > 1 and not waits:
                codes = [self._take(tx).code for tx in txs]  # all of them, in order
                waits = abci.CODE_OK in codes
            return abci.CheckTxResponse(abci.CODE_OK if waits else CODE_NOT_WAITING)
        responses = [self._take(tx) for tx in txs]
        return min(responses, key=lambda response: response.code)

    def _take(self, tx: bytes) -> abci.CheckTxResponse:
        digest = sha256(tx).digest()
        if any(digest in block for block in self._included):
            return abci.CheckTxResponse(CODE_NOT_WAITING, log="in a block")
        try:
            return self.accept(tx)[1]
        except (PoolFull, TransactionTooLarge) as error:
            return abci.CheckTxResponse(messages.CODE_RETRY, log=error.code)

    def _insert_tx(self, request: messages.InsertTxRequest) -> messages.InsertTxResponse:
        return messages.InsertTxResponse(self._check_tx(abci.CheckTxRequest(request.tx)).code)

    def _reap_txs(self, request: messages.ReapTxsRequest) -> messages.ReapTxsResponse:
        """What was not gossiped yet, in order of arrival."""
        chosen: list[bytes] = []
        size = 0
        for digest in list(self._to_reap):
            tx = self.pool.get(digest)
            if tx is not None:
                size += len(tx)
                if chosen and request.max_bytes and size > request.max_bytes:
                    break
                chosen.append(tx)
            del self._to_reap[digest]
        return messages.ReapTxsResponse(tuple(chosen))

    def reap_again(self) -> None:
        """Gossip all that waits once more: each was offered once, to the peers connected then."""
        self._to_reap = dict.fromkeys([digest for digest, _ in self.pool])

    def store_waiting(self, digests: Iterable[bytes]) -> None:
        """Write these transactions, as far as they wait and are not written; durable once the store is flushed."""
        waiting = [item for _, item in self.pool.unstored(digests)]
        self._store.put_records_unflushed([(item.record_key, item.tx) for item in waiting])
        for item in waiting:
            item.stored = True

    # --- Blocks -----------------------------------------------------------------------------------------------------

    def _prepare_proposal(self, request: abci.PrepareProposalRequest) -> abci.PrepareProposalResponse:
        """Rule 3."""
        return self._application.prepare_proposal(replace(request, txs=self.pool.propose()))

    def _process_proposal(self, request: abci.ProcessProposalRequest) -> abci.ProcessProposalResponse:
        response = self._application.process_proposal(request)
        if response.accept:
            self._on_accepted()
        return response

    def _finalize_block(self, request: abci.FinalizeBlockRequest) -> abci.FinalizeBlockResponse:
        response = self._application.finalize_block(request)
        if len(response.tx_results) != len(request.txs) or not response.app_hash:
            raise ConsensusError("the application's answer to the block is not complete", height=request.height)
        self._executed = Executed(request.height, request.hash, request.txs, response.tx_results, response.app_hash)
        self._on_finalized(request.height)
        return response

    def _commit(self) -> abci.CommitResponse:
        """Rule 4."""
        executed = self._executed
        if executed is None:
            raise ConsensusError("commit without finalize_block")
        with self._store.transaction():
            retain_height = self._application.commit().retain_height
            block = self._decided(executed)
            if block is None:
                self.blocks.put_executed(executed)
            else:
                self.blocks.append(block, retain_height=retain_height)
            digests = [sha256(tx).digest() for tx in executed.txs]
            included = self.pool.remove(digests)
            indexed = () if block is None else self._index(block)
            self._store.put_records([*included, *recheck(self.pool, self._application), *indexed])
        self._included.append(frozenset(digests))
        self._executed = None
        self._to_reap = dict.fromkeys([digest for digest in self._to_reap if digest in self.pool])
        self._snapshots.committed(executed.height)
        self._on_commit(executed.height)
        return abci.CommitResponse(self._retained(retain_height))

    def _retained(self, height: int) -> int:
        """Rule 5."""
        needed = self._snapshots.oldest_needed()
        limits = [height, self.blocks.position.height] + ([] if needed is None else [needed])
        return max(0, min(limits)) if height else 0

    # --- Snapshots --------------------------------------------------------------------------------------------------

    def _offer_snapshot(self, request: messages.OfferSnapshotRequest) -> messages.OfferSnapshotResponse:
        return messages.OfferSnapshotResponse(self._snapshots.offer(request.snapshot, request.app_hash))

    def _load_chunk(self, request: messages.LoadSnapshotChunkRequest) -> messages.LoadSnapshotChunkResponse:
        return messages.LoadSnapshotChunkResponse(self._snapshots.load(request.height, request.format, request.chunk))

    def _apply_chunk(self, request: messages.ApplySnapshotChunkRequest) -> messages.ApplySnapshotChunkResponse:
        """The last chunk makes the state, durable; blocks begin after it."""
        before = self._store.committed.height
        with self._store.transaction():
            response = self._snapshots.apply(request.index, request.chunk, request.sender)
            if self._store.committed.height != before:
                self.blocks.start_after(self._store.committed.height)
        return response
