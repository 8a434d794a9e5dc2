"""The embedded engine without its loop: open a chain, take transactions, make one block. Synchronous.

Rules:
1. It drives the application by ABCI's grammar, as CometBFT does, and makes the same headers and commits.
2. One SQLite transaction holds a block, its commit, the last-signed height, the pool's change and the application's
   state. Nothing of a block leaves this object before that transaction is durable; so a signature that was made before a
   crash has left no trace, and no height is ever signed twice for anyone to see.
3. A block that did something (transactions, or a new app hash) is followed by a block that proves it; so is genesis.
4. Block time is the clock's, and always later than the last block's. A vote's time is later than its block's.
5. After any exception the machine is broken for good: what is in memory may be ahead of what is durable. Open it anew.
   Before it breaks on an error of the application's, it notes the block's transactions as suspects (pool rule 5), so that
   one of them cannot keep the chain from opening again.

`probe` is called by name between every two steps; tests raise from it, as if the process died there.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain import abci
from avow.chain.genesis import Genesis
from avow.chain.state import Store
from avow.consensus.block import EMPTY_COMMIT, Decided, Parameters, block_id, next_header, sign_commit
from avow.consensus.blockstore import BlockStore
from avow.consensus.errors import ConsensusError, EngineStopped, NotTheValidator, StateMismatch, WouldSignTwice
from avow.consensus.pool import Pool, is_suspect, recheck, reopen
from avow.receipt.headers import Header, Validator

MILLISECOND = 1_000_000

Index = Callable[[Decided], Iterable[tuple[bytes, bytes | None]]]
"""Records to write with a block, for whoever searches later."""


def no_probe(_: str) -> None:
    pass


def no_index(_: Decided) -> Iterable[tuple[bytes, bytes | None]]:
    return ()


class Machine:
    """One chain with one validator. `clock_ns`: nanoseconds since the epoch."""

    def __init__(
        self,
        application: abci.Application,
        store: Store,
        genesis: Genesis,
        key: Ed25519PrivateKey,
        clock_ns: Callable[[], int],
        *,
        index: Index = no_index,
        probe: Callable[[str], None] = no_probe,
    ) -> None:
        """Opens the chain where it stands. Raises StateMismatch, NotTheValidator."""
        self._application = application
        self._store = store
        self._genesis = genesis
        self._key = key
        self._clock_ns = clock_ns
        self._index = index
        self._probe = probe
        self._broken = False
        self.blocks = BlockStore(store)
        self.pool = Pool(genesis.block_max_bytes)
        self._validators: tuple[Validator, ...] = (Validator(key.public_key().public_bytes_raw(), 1),)
        self._genesis_app_hash = b""
        self.last: Decided | None = self.blocks.last()
        self._open()

    def _open(self) -> None:
        info = self._application.info()
        self._parameters = Parameters(
            self._genesis.chain_id, info.app_version, self._genesis.block_max_bytes, self._genesis.block_gas_limit
        )
        if info.last_block_height != self.blocks.position.height:
            raise StateMismatch(
                "blocks and state are of different heights",
                blocks=self.blocks.position.height,
                state=info.last_block_height,
            )
        if self.last is None:
            self._init_chain()
        else:
            self._check_last(self.last, info)
            self._set_validators(self.blocks.position.validators)
        self.pool.load(self._store)
        self._store.put_records(reopen(self.pool, self._application))

    def _init_chain(self) -> None:
        genesis = self._genesis
        named = tuple(Validator(public_key, power) for public_key, power in genesis.validators) or self._validators
        response = self._application.init_chain(
            abci.InitChainRequest(
                time_ns=genesis.time_ms * MILLISECOND,
                chain_id=genesis.chain_id,
                validators=tuple(abci.ValidatorUpdate(item.public_key, item.power) for item in named),
                app_state_bytes=genesis.to_bytes(),
            )
        )
        self._genesis_app_hash = response.app_hash
        self._set_validators(tuple(Validator(item.public_key, item.power) for item in response.validators) or named)

    def _check_last(self, last: Decided, info: abci.InfoResponse) -> None:
        if info.last_block_app_hash != last.app_hash:
            raise StateMismatch(
                "blocks and state have different hashes",
                blocks=last.app_hash.hex(),
                state=info.last_block_app_hash.hex(),
            )
        if last.header.chain_id != self._genesis.chain_id:
            raise StateMismatch(
                "the store is of another chain", expected=self._genesis.chain_id, found=last.header.chain_id
            )

    def _set_validators(self, validators: tuple[Validator, ...]) -> None:
        if [item.public_key for item in validators] != [self._key.public_key().public_bytes_raw()]:
            raise NotTheValidator("the key at hand is not the chain's one validator", validators=len(validators))
        self._validators = validators

    # Transactions --------------------------------------------------------------------------------------------------

    def check(self, tx: bytes) -> tuple[bytes, abci.CheckTxResponse]:
        """Take a transaction into the pool if the application admits it; (its digest, the application's answer).

        Not yet acknowledged: see `unacknowledged`. Raises PoolFull, TransactionTooLarge.
        """
        self._alive()
        digest = sha256(tx).digest()
        if digest in self.pool:
            return digest, abci.CheckTxResponse(log="already waiting")
        self.pool.check_room(tx)
        response = self._application.check_tx(abci.CheckTxRequest(tx))
        if response.code == abci.CODE_OK:
            self.pool.add(digest, tx)
        return digest, response

    def store_pool(self) -> None:
        """Make every waiting transaction durable; one transaction for all of them."""
        waiting = [item for _, item in self.pool.unstored()]
        if not waiting:
            return
        with self._breaking():
            self._probe("pool: begin")
            with self._store.transaction():
                self._store.put_records([(item.record_key, item.tx) for item in waiting])
                self._probe("pool: written")
            self._probe("pool: durable")
            for item in waiting:
                item.stored = True

    # Blocks --------------------------------------------------------------------------------------------------------

    @property
    def proof_due(self) -> bool:
        """Rule 3: the last block, or genesis, is not proven yet."""
        return self.last is None or self.last.needs_proof

    def step(self, *, even_empty: bool) -> Decided | None:
        """Make the next block: durable when it is returned.

        None, and nothing done, when the application proposes no transaction, no proof is due and `even_empty` is false.
        """
        self._alive()
        with self._breaking():
            time_ns = self._next_time()
            txs = self._propose(time_ns)
            if not (txs or self.proof_due or even_empty):
                return None
            header = next_header(
                self._parameters,
                self.last,
                genesis_app_hash=self._genesis_app_hash,
                validators=self._validators,
                txs=txs,
                time_ns=time_ns,
            )
            with self._suspecting(txs):
                self._accept(header, txs)
                block = self._execute(header, txs)
            self._persist(block)
            self.last = block
            self._probe("block: published")
            self._recheck()
            return block

    def _next_time(self) -> int:
        earliest = self._genesis.time_ms * MILLISECOND if self.last is None else self.last.header.time_ns
        return max(self._clock_ns(), earliest + MILLISECOND)

    def _propose(self, time_ns: int) -> tuple[bytes, ...]:
        self._probe("block: begin")
        max_bytes = self._genesis.block_max_bytes
        waiting = self.pool.propose()
        if not waiting:
            return ()
        with self._suspecting(waiting):
            response = self._application.prepare_proposal(
                abci.PrepareProposalRequest(max_bytes, waiting, self._next_height, time_ns, self._validators[0].address)
            )
        if abci.total_bytes(response.txs) > max_bytes:
            raise ConsensusError("the application proposed too large a block", limit=max_bytes)
        self._probe("block: prepared")
        return response.txs

    @property
    def _next_height(self) -> int:
        return 1 if self.last is None else self.last.height + 1

    def _accept(self, header: Header, txs: tuple[bytes, ...]) -> None:
        response = self._application.process_proposal(
            abci.ProcessProposalRequest(
                txs, header.hash, header.height, header.time_ns, header.proposer_address, header.next_validators_hash
            )
        )
        if not response.accept:
            raise ConsensusError("the application refuses its own proposal", height=header.height)
        self._probe("block: accepted")

    def _execute(self, header: Header, txs: tuple[bytes, ...]) -> Decided:
        identity = block_id(header, txs, EMPTY_COMMIT if self.last is None else self.last.commit)
        response = self._application.finalize_block(
            abci.FinalizeBlockRequest(
                txs, header.hash, header.height, header.time_ns, header.proposer_address, header.next_validators_hash
            )
        )
        if len(response.tx_results) != len(txs) or not response.app_hash:
            raise ConsensusError("the application's answer to the block is not complete", height=header.height)
        if response.validator_updates:
            raise ConsensusError("a chain with the embedded engine keeps its one validator", height=header.height)
        self._probe("block: executed")
        if self.blocks.position.signed_height >= header.height:
            raise WouldSignTwice("this height was signed before", height=header.height)
        commit = sign_commit(header, identity, self._key, max(self._clock_ns(), header.time_ns + MILLISECOND))
        self._probe("block: signed")
        return Decided(header, commit, txs, response.tx_results, response.app_hash, self._validators)

    def _persist(self, block: Decided) -> None:
        """Rule 2's one transaction."""
        with self._store.transaction():
            retain_height = self._application.commit().retain_height
            self._probe("block: state written")
            self.blocks.append(block, retain_height=retain_height)
            included = [sha256(tx).digest() for tx in block.txs]
            writes = [*self.pool.remove(included), *self.pool.succeeded()]
            waiting = [item for _, item in self.pool.unstored()]
            writes += [(item.record_key, item.tx) for item in waiting]
            self._store.put_records([*writes, *self._index(block)])
            self._probe("block: all written")
        for item in waiting:
            item.stored = True
        self._probe("block: durable")

    def _recheck(self) -> None:
        if len(self.pool):
            self._store.put_records(recheck(self.pool, self._application))
            self._probe("block: rechecked")

    # Being broken --------------------------------------------------------------------------------------------------

    def _alive(self) -> None:
        if self._broken:
            raise EngineStopped("the engine stopped on an error; open it anew")

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Rule 5, around whatever may leave memory and disk apart."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    @contextmanager
    def _suspecting(self, txs: tuple[bytes, ...]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if txs and is_suspect(error):
                self._store.put_records(self.pool.failed([sha256(tx).digest() for tx in txs]))
            raise
