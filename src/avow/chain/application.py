"""The replicated state machine: ABCI 2.0's methods over a store and a genesis (chain/abci.py has the requests).

Rules:
1. State and results depend on the genesis and the blocks alone. Time is the block's.
2. finalize_block writes nothing: it leaves a candidate, which commit makes durable in one transaction. The newest candidate wins.
3. The app hash changes exactly when state or results did: a block with transactions records its results' root in the state.
4. A proposal holds transactions that decode and pay the fee, in the order of their senders' nonces, within the block's bytes and
   gas, and each within what its sender had before the block less what its earlier ones may cost: a proposer cannot fill blocks
   with what nobody pays for. What fits that but fails on the state (money that a call took away) stays with a code, uncharged.
5. check_tx admits a transaction on top of those of its sender already admitted since the last commit; after a commit the
   driver offers the waiting ones again.
6. Decoding is a pure function of the bytes; its results are kept in a bounded cache, which changes no verdict.

Pure and synchronous: bytes in, results out.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from avow.chain.abci import (
    CheckTxRequest,
    CheckTxResponse,
    CheckTxType,
    CommitResponse,
    Event,
    EventAttribute,
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
    total_bytes,
)
from avow.chain.errors import BadGenesis, Code, TransactionRefused
from avow.chain.execution import CachedState, History, Machine, Outcome
from avow.chain.genesis import Genesis
from avow.chain.host import Block, Log, read_account, write_account
from avow.chain.modules import beacon, measurements, validators, watchers, window
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


@dataclass(slots=True)
class _Admitted:
    """What is left of one sender's account: after what check_tx admitted since the last commit, or after a proposal's."""

    nonce: int
    balance: int


@dataclass(slots=True)
class _Proposal:
    """Rule 4: the room that a block has left, and its senders' accounts."""

    machine: Machine
    bytes_left: int
    gas_left: int
    accounts: dict[bytes, _Admitted] = field(default_factory=dict)

    def take(self, raw: bytes, transaction: Transaction) -> bool:
        """Whether the transaction may come next; if so, it does."""
        account = self.accounts.get(transaction.sender)
        if account is None:
            account = _Admitted(*read_account(self.machine.state, transaction.sender))
        size = total_bytes((raw,))
        if transaction.gas_limit > self.gas_left or size > self.bytes_left:
            return False
        try:
            self.machine.check(transaction)
            self.machine.check_account(transaction, account.nonce, account.balance)
        except TransactionRefused:
            return False
        account.nonce += 1
        account.balance -= transaction.max_cost()
        self.accounts[transaction.sender] = account
        self.bytes_left -= size
        self.gas_left -= transaction.gas_limit
        return True


@dataclass(slots=True)
class _Pending:
    """A finalized block that waits for commit."""

    candidate: Candidate
    height: int


@dataclass(slots=True)
class Application:
    """See the rules above. `store` is committed through this object alone."""

    store: Store
    genesis: Genesis
    _cache: "_Decoded" = field(init=False)
    _state: CachedState = field(init=False)
    _genesis_state: Overlay | None = field(init=False, default=None)
    _pending: _Pending | None = field(init=False, default=None)
    _admitted: dict[bytes, _Admitted] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._cache = _Decoded(self.genesis.eip155)
        self._state = CachedState(self.store)

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
        """Rule 5. `data` of an admitted transaction is its sender's address."""
        try:
            transaction = self._cache.get(request.tx)
            self._admit(transaction, request.type)
        except TransactionRefused as refused:
            return CheckTxResponse(int(refused.status), log=refused.detail)
        return CheckTxResponse(data=transaction.sender, gas_wanted=transaction.gas_limit)

    def _admit(self, transaction: Transaction, kind: CheckTxType) -> None:
        sender = transaction.sender
        admitted = self._admitted.get(sender)
        if admitted is None:
            admitted = _Admitted(*read_account(self._view(), sender))
        elif kind is CheckTxType.NEW and transaction.nonce < admitted.nonce:
            committed, _ = read_account(self._view(), sender)
            if transaction.nonce >= committed:
                raise TransactionRefused(Code.NONCE_TOO_LOW, "already known: a transaction with this nonce waits")
        machine = self._machine(self._view(), Block(self.store.committed.height + 1, self.genesis.time_ms))
        machine.check(transaction)
        machine.check_account(transaction, admitted.nonce, admitted.balance)
        admitted.nonce += 1
        admitted.balance -= transaction.max_cost()
        self._admitted[sender] = admitted

    # --- Blocks -----------------------------------------------------------------------------------------------------

    def prepare_proposal(self, request: PrepareProposalRequest) -> PrepareProposalResponse:
        """Rule 4: in order of arrival, what fits."""
        proposal = self._proposal(min(request.max_tx_bytes, self.genesis.block_max_bytes))
        chosen = [raw for raw, transaction in self._decodable(request.txs) if proposal.take(raw, transaction)]
        return PrepareProposalResponse(tuple(chosen))

    def process_proposal(self, request: ProcessProposalRequest) -> ProcessProposalResponse:
        """Rule 4, checked: from the block and the state before it alone."""
        proposal = self._proposal(self.genesis.block_max_bytes)
        taken = [proposal.take(raw, transaction) for raw, transaction in self._decodable(request.txs)]
        return ProcessProposalResponse(accept=len(taken) == len(request.txs) and all(taken))

    def _proposal(self, max_bytes: int) -> "_Proposal":
        view = self._view()
        machine = self._machine(view, Block(self.store.committed.height + 1, self.genesis.time_ms))
        return _Proposal(machine, max_bytes, self.genesis.block_gas_limit)

    def _decodable(self, txs: Sequence[bytes]) -> Iterator[tuple[bytes, Transaction]]:
        for raw in txs:
            try:
                yield raw, self._cache.get(raw)
            except TransactionRefused:
                continue

    def finalize_block(self, request: FinalizeBlockRequest) -> FinalizeBlockResponse:
        """Rules 2 and 3."""
        first = self.store.committed.height == 0
        state = Overlay(self._state)
        block = Block(request.height, request.time_ns // NANOSECONDS_PER_MS)
        if first:
            (self._genesis_state or self._new_genesis_state()).apply_to(state)
        machine = self._machine(state, block)
        if request.txs:
            window.record(state, self.genesis, block)
        results = [self._result(machine, raw) for raw in request.txs]
        if results:
            root = last_results_hash([result.deterministic() for result in results])
            state.put(_RESULTS, request.height.to_bytes(8) + root)
        beacon.record_block(state, self.genesis, block, request.hash, busy=bool(results))
        updates = validators.updates(state, block)
        candidate = self.store.prepare(state.changes(), machine.history.leaves)
        self._pending = _Pending(candidate, request.height)
        return FinalizeBlockResponse(tuple(results), candidate.app_hash, validator_updates=updates)

    def _result(self, machine: Machine, raw: bytes) -> ExecTxResult:
        try:
            transaction = self._cache.get(raw)
        except TransactionRefused as refused:
            return ExecTxResult(int(refused.status), log=refused.detail)
        outcome = machine.execute(transaction)
        return ExecTxResult(
            code=int(outcome.code),
            data=outcome.data,
            gas_wanted=transaction.gas_limit,
            gas_used=outcome.gas_used,
            log=outcome.detail,
            events=tuple([log_event(log) for log in outcome.logs]),
        )

    def commit(self) -> CommitResponse:
        pending = self._pending
        if pending is None:
            raise RuntimeError("commit without finalize_block")
        self.store.commit(pending.candidate, pending.height)
        self._state.committed(pending.candidate.values)
        self._pending = None
        self._genesis_state = None
        self._admitted.clear()
        retained = self.genesis.retain_blocks
        return CommitResponse(max(0, pending.height - retained) if retained else 0)

    def restored(self) -> None:
        """The store holds another state than before: a snapshot's."""
        self._state = CachedState(self.store)
        self._pending = None
        self._genesis_state = None
        self._admitted.clear()

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
        admitted = self._admitted.get(address) if pending else None
        return (admitted.nonce, admitted.balance) if admitted else read_account(self._view(), address)

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
        block = Block(self.store.committed.height + 1, time_ms)
        return self._machine(self._view(), block).call(sender, to, value, data, gas_limit)

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


LOG_EVENT = "log"


def log_event(log: Log) -> Event:
    """A module's event as the consensus engine carries it: hexadecimal, for indexes; never hashed."""
    topics = [EventAttribute("topic", topic.hex()) for topic in log.topics]
    attributes = (EventAttribute("address", log.address.hex()), *topics, EventAttribute("data", log.data.hex(), False))
    return Event(LOG_EVENT, attributes)


def event_log(event: Event) -> Log | None:
    """The inverse of `log_event`; None for an event of another kind."""
    if event.type != LOG_EVENT:
        return None
    values = [(attribute.key, bytes.fromhex(attribute.value)) for attribute in event.attributes]
    topics = tuple([value for key, value in values if key == "topic"])
    return Log(dict(values)["address"], topics, dict(values)["data"])
