"""The replicated state machine: ABCI 2.0's methods over a store and a genesis (chain/abci.py has the requests).

Rules:
1. State and results depend on the genesis and the blocks alone. Time is the block's.
2. finalize_block writes nothing: it leaves a candidate, which commit makes durable in one transaction. The newest candidate wins.
3. The app hash changes exactly when state or results did: a block with transactions records its results' root in the state.
4. What a block may hold is decided by executing it (proposal.py): a proposal with a transaction that no honest proposer would
   include is refused. The newest run is kept, and finalize_block takes it when the block has the same height, time and
   transactions; a run that is not kept is made again, and gives the same.
5. What may wait for a block is decided by admission.py.
6. Decoding is a pure function of the bytes; its results are kept in a bounded cache, which changes no verdict.

Pure and synchronous: bytes in, results out.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from avow.chain.abci import (
    CheckTxRequest,
    CheckTxResponse,
    CommitResponse,
    ExecTxResult,
    FinalizeBlockRequest,
    FinalizeBlockResponse,
    InfoResponse,
    InitChainRequest,
    InitChainResponse,
    PrepareProposalRequest,
    PrepareProposalResponse,
    ProcessProposalRequest,
    ProcessProposalResponse,
    QueryRequest,
    QueryResponse,
)
from avow.chain.admission import Admission
from avow.chain.errors import BadGenesis, Code, TransactionRefused
from avow.chain.execution import CachedState, History, Machine, Outcome
from avow.chain.genesis import Genesis
from avow.chain.host import ACCOUNT_PREFIX, Block, read_account, write_account
from avow.chain.modules import beacon, measurements, validators, watchers, window
from avow.chain.proposal import Room, Run, accept, prepare
from avow.chain.state import Candidate, Overlay, Store
from avow.chain.transaction import Transaction, decode_transaction
from avow.receipt.encoding import encode
from avow.receipt.light import last_results_hash

APP_VERSION = 1
SOFTWARE_VERSION = "0.1.0"
NANOSECONDS_PER_MS = 1_000_000
CALL_GAS = 20_000_000
"""What a call that is only simulated may use."""

_RESULTS = b"chain/results"
_CACHE_BYTES = 64 * 1024 * 1024
_PATH_STATE = "/state"


@dataclass(frozen=True, slots=True)
class _Kept:
    """Rule 4's run, by what it depends on beside the committed state."""

    height: int
    time_ms: int
    run: Run

    def fits(self, height: int, time_ms: int, txs: tuple[bytes, ...]) -> bool:
        return (self.height, self.time_ms) == (height, time_ms) and tuple(self.run.txs) == txs


@dataclass(slots=True)
class _Pending:
    """A finalized block that waits for commit."""

    candidate: Candidate
    height: int
    time_ms: int


@dataclass(slots=True)
class Application:
    """See the rules above. `store` is committed through this object alone."""

    store: Store
    genesis: Genesis
    _cache: "_Decoded" = field(init=False)
    _state: CachedState = field(init=False)
    _genesis_state: Overlay | None = field(init=False, default=None)
    _pending: _Pending | None = field(init=False, default=None)
    _admission: Admission = field(init=False)
    _kept: _Kept | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._cache = _Decoded(self.genesis.eip155)
        self._state = CachedState(self.store)
        self._admission = Admission(lambda time_ms: self._machine(self._view(), self._next_block(time_ms)))

    # --- Info and genesis -------------------------------------------------------------------------------------------

    def info(self) -> InfoResponse:
        committed = self.store.committed
        app_hash = committed.app_hash if committed.height else b""
        return InfoResponse("avow", SOFTWARE_VERSION, APP_VERSION, committed.height, app_hash)

    def init_chain(self, request: InitChainRequest) -> InitChainResponse:
        """Idempotent: writes nothing until the first commit. Raises BadGenesis for another chain's genesis."""
        if request.chain_id != self.genesis.chain_id or request.app_state_bytes != self.genesis.to_bytes():
            raise BadGenesis("the consensus engine was started with another genesis", chain_id=request.chain_id)
        if self.store.committed.height:
            raise BadGenesis("the chain has begun already")
        state = self._new_genesis_state()
        return InitChainResponse(self.store.prepare(state.changes()).app_hash)

    def _new_genesis_state(self) -> Overlay:
        state = Overlay(self._state)
        for address, balance in self.genesis.accounts:
            write_account(state, address, 0, balance)
        measurements.write_genesis(state, self.genesis)
        validators.write_genesis(state, self.genesis)
        watchers.write_genesis(state, self.genesis)
        self._genesis_state = state
        return state

    def _view(self) -> Overlay:
        """A fresh overlay on the committed state; before the first block, on the genesis."""
        if self.store.committed.height:
            return Overlay(self._state)
        return Overlay(self._genesis_state or self._new_genesis_state())

    # --- The pool ---------------------------------------------------------------------------------------------------

    def check_tx(self, request: CheckTxRequest) -> CheckTxResponse:
        """Rule 5. `data` of an admitted transaction is its sender's address, of a refused call its revert."""
        try:
            transaction = self._cache.get(request.tx)
        except TransactionRefused as refused:
            return CheckTxResponse(int(refused.status), log=refused.detail)
        return self._admission.check(request.tx, transaction, request.type)

    # --- Blocks -----------------------------------------------------------------------------------------------------

    def prepare_proposal(self, request: PrepareProposalRequest) -> PrepareProposalResponse:
        """Rule 4: in order of arrival, what fits and ends in no fault."""
        block = Block(request.height, request.time_ns // NANOSECONDS_PER_MS)
        run = self._run(block)
        room = Room(min(request.max_tx_bytes, self.genesis.block_max_bytes), self.genesis.block_gas_limit)
        self._admission.left_out(prepare(run, room, self._decodable(request.txs)))
        self._kept = _Kept(block.height, block.time_ms, run) if run.txs else None
        return PrepareProposalResponse(tuple(run.txs))

    def process_proposal(self, request: ProcessProposalRequest) -> ProcessProposalResponse:
        """Rule 4, checked: from the block and the state before it alone."""
        block = Block(request.height, request.time_ns // NANOSECONDS_PER_MS)
        if not request.txs:
            return ProcessProposalResponse(accept=True)
        if self._kept is not None and self._kept.fits(block.height, block.time_ms, request.txs):
            return ProcessProposalResponse(accept=True)
        run = self._run(block)
        proposed = self._decodable(request.txs)
        room = Room(self.genesis.block_max_bytes, self.genesis.block_gas_limit)
        if len(proposed) != len(request.txs) or not accept(run, room, proposed):
            return ProcessProposalResponse(accept=False)
        self._kept = _Kept(block.height, block.time_ms, run)
        return ProcessProposalResponse(accept=True)

    def _run(self, block: Block, *, busy: bool = True) -> Run:
        """A block before its first transaction; `busy`: it has one."""
        state = Overlay(self._state)
        if self.store.committed.height == 0:
            (self._genesis_state or self._new_genesis_state()).apply_to(state)
        if busy:
            window.record(state, self.genesis, block)
        return Run(self._machine(state, block))

    def _decodable(self, txs: Sequence[bytes]) -> list[tuple[bytes, Transaction]]:
        found: list[tuple[bytes, Transaction]] = []
        for raw in txs:
            try:
                found.append((raw, self._cache.get(raw)))
            except TransactionRefused:
                continue
        self._state.expect([ACCOUNT_PREFIX + address for _, item in found for address in (item.sender, item.to)])
        return found

    def finalize_block(self, request: FinalizeBlockRequest) -> FinalizeBlockResponse:
        """Rules 2 to 4."""
        block = Block(request.height, request.time_ns // NANOSECONDS_PER_MS)
        machine, results = self._executed(block, request.txs)
        state = machine.state
        if results:
            root = last_results_hash([result.deterministic() for result in results])
            state.put(_RESULTS, request.height.to_bytes(8) + root)
        beacon.record_block(state, self.genesis, block, request.hash, busy=bool(results))
        events = validators.punish(state, block, request.misbehavior)
        updates = validators.updates(state, block)
        candidate = self.store.prepare(state.changes(), machine.history.leaves)
        self._pending = _Pending(candidate, request.height, block.time_ms)
        return FinalizeBlockResponse(tuple(results), candidate.app_hash, events, updates)

    def _executed(self, block: Block, txs: tuple[bytes, ...]) -> tuple[Machine, list[ExecTxResult]]:
        kept, self._kept = self._kept, None
        if kept is not None and kept.fits(block.height, block.time_ms, txs):
            return kept.run.machine, kept.run.results
        run = self._run(block, busy=bool(txs))
        self._decodable(txs)
        for raw in txs:
            try:
                transaction = self._cache.get(raw)
            except TransactionRefused as refused:
                run.refuse(raw, refused.status, refused.detail)
            else:
                run.execute(raw, transaction)
        return run.machine, run.results

    def commit(self) -> CommitResponse:
        pending = self._pending
        if pending is None:
            raise RuntimeError("commit without finalize_block")
        self.store.commit(pending.candidate, pending.height)
        self._state.committed(pending.candidate.values)
        self._pending = self._kept = None
        self._genesis_state = None
        self._admission.committed(pending.time_ms)
        retained = self.genesis.retain_blocks
        return CommitResponse(max(0, pending.height - retained) if retained else 0)

    def restored(self) -> None:
        """The store holds another state than before: a snapshot's."""
        self._state = CachedState(self.store)
        self._pending = self._kept = None
        self._genesis_state = None
        self._admission.committed(None)

    # --- Reading ----------------------------------------------------------------------------------------------------

    def query(self, request: QueryRequest) -> QueryResponse:
        """Path "/state": the committed value at a state key, with its proof under the next header if asked for."""
        height = self.store.committed.height
        if request.path != _PATH_STATE:
            return QueryResponse(code=int(Code.UNKNOWN_FUNCTION), height=height, log="unknown path")
        if request.height not in (0, height):
            return QueryResponse(code=int(Code.OUT_OF_RANGE), height=height, log="only the newest state is kept")
        value = self._view().get(request.data)
        proof = encode(self.store.prove(request.data).to_value()) if request.prove and height else b""
        return QueryResponse(key=request.data, value=value or b"", height=height, proof=proof)

    def decode(self, raw: bytes) -> Transaction:
        """A transaction from its bytes, by rule 6's cache. Raises TransactionRefused."""
        return self._cache.get(raw)

    def account(self, address: bytes, *, pending: bool = False) -> tuple[int, int]:
        """Nonce and balance; `pending` counts what check_tx admitted."""
        left = self._admission.account(address) if pending else None
        return (left.nonce, left.balance) if left else read_account(self._view(), address)

    def simulate(
        self,
        sender: bytes,
        to: bytes,
        data: bytes,
        *,
        time_ms: int,
        value: int = 0,
        gas_limit: int = CALL_GAS,
    ) -> Outcome:
        """What a call would do in a next block with this time, on the committed state; nothing of it stays."""
        machine = self._machine(self._view(), self._next_block(time_ms))
        return machine.call(sender, to, value, data, gas_limit)

    def _next_block(self, time_ms: int) -> Block:
        return Block(self.store.committed.height + 1, time_ms)

    def _machine(self, state: Overlay, block: Block) -> Machine:
        return Machine(self.genesis, block, state, History(self.store.committed.history.size))


class _Decoded:
    """Rule 6: transactions by their bytes, oldest out first."""

    __slots__ = ("_bytes", "_chain_id", "_entries")

    def __init__(self, chain_id: int) -> None:
        self._chain_id = chain_id
        self._entries: OrderedDict[bytes, Transaction] = OrderedDict()
        self._bytes = 0

    def get(self, raw: bytes) -> Transaction:
        """Raises TransactionRefused."""
        found = self._entries.get(raw)
        if found is None:
            found = decode_transaction(raw, self._chain_id)
            self._entries[raw] = found
            self._bytes += len(raw)
            while self._bytes > _CACHE_BYTES:
                oldest, _ = self._entries.popitem(last=False)
                self._bytes -= len(oldest)
        return found
