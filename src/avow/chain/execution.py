"""Executing one transaction on a view of the state.

Rules:
1. A transaction that does not fit the state (nonce, funds, gas, fee) is refused: nothing happens, nothing is charged.
2. Otherwise the nonce rises, gas limit * price is set aside, value moves, and a module runs if one is called. Whatever
   the call raises undoes the call and the value; gas used is paid in any case, what is left of it returns.
3. Fees go to the genesis' treasury. The base fee is fixed; a priority fee is paid as offered (EIP-1559).
4. `data` of a success is the canonical CBOR {"to": address, "output": ABI bytes}, so that only a direct call of a module makes a
   result in its name. `data` of a revert is its ABI bytes. Both are hashed; texts are not.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from avow.chain import gas
from avow.chain.errors import Code, OutOfGas, Refused, TransactionRefused
from avow.chain.genesis import Genesis
from avow.chain.host import (
    Block,
    JournalHost,
    Log,
    Module,
    dispatch,
    move,
    read_account,
    revert_data,
    write_account,
)
from avow.chain.modules import bank, nodes, optimistic, registry, settlement, validators
from avow.chain.state import Overlay, Store
from avow.chain.transaction import Transaction
from avow.receipt.encoding import encode_trusted

MODULES: dict[bytes, Module] = {
    module.address: module
    for module in (
        bank.MODULE,
        registry.MODULE,
        nodes.MODULE,
        settlement.MODULE,
        optimistic.MODULE,
        validators.MODULE,
    )
}


CACHED_KEYS = 65_536
_TRANSFERRED = encode_trusted({"to": bytes(20), "output": b""}).split(bytes(20))
"""Rule 4's data before and after the address, for a transfer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction or a call did. `code`: OK, REVERTED, OUT_OF_GAS, or a refusal of rule 1."""

    code: Code
    data: bytes = b""
    gas_used: int = 0
    logs: tuple[Log, ...] = ()
    detail: str = ""


class History:
    """The leaves that this block appends to the chain's history, after those already there."""

    __slots__ = ("leaves", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.leaves: list[bytes] = []

    def append(self, leaf: bytes) -> int:
        self.leaves.append(leaf)
        return self.size + len(self.leaves) - 1


class CachedState:
    """The committed state behind a bounded cache. Whoever commits calls `committed` with what it wrote.

    A cache changes no verdict: it holds what the store holds.
    """

    __slots__ = ("_cache", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._cache[key]
        except KeyError:
            value = self._store.get(key)
            if len(self._cache) >= CACHED_KEYS:
                self._cache.clear()
            self._cache[key] = value
            return value

    def expect(self, keys: Iterable[bytes]) -> None:
        """Read all of these that are not here, at once: they will be asked for one by one."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._cache]
        if len(self._cache) + len(missing) > CACHED_KEYS:
            self._cache.clear()
        found = self._store.get_many(missing)
        self._cache.update([(key, found.get(key)) for key in missing])

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._store.iterate(prefix)

    def committed(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """These values are the store's now."""
        for key, value in changes:
            if key in self._cache:
                self._cache[key] = value


@dataclass(frozen=True, slots=True)
class Machine:
    """A view of the state in one block, on which transactions run one after another."""

    genesis: Genesis
    block: Block
    state: Overlay
    history: History

    def check(self, transaction: Transaction) -> None:
        """Rule 1, apart from the nonce being too high or low. Raises TransactionRefused."""
        genesis = self.genesis
        if transaction.gas_limit > genesis.block_gas_limit:
            raise TransactionRefused(Code.GAS_LIMIT, "exceeds block gas limit")
        if transaction.max_fee < genesis.base_fee:
            raise TransactionRefused(
                Code.FEE_TOO_LOW,
                f"max fee per gas less than block base fee: address 0x{transaction.sender.hex()}, "
                f"maxFeePerGas: {transaction.max_fee}, baseFee: {genesis.base_fee}",
            )
        needed = transaction.intrinsic_gas()
        if transaction.gas_limit < needed:
            raise TransactionRefused(
                Code.INTRINSIC_GAS, f"intrinsic gas too low: gas {transaction.gas_limit}, minimum needed {needed}"
            )

    def check_account(self, transaction: Transaction, nonce: int, balance: int) -> None:
        """Rule 1, against the sender's account. Raises TransactionRefused."""
        if transaction.nonce != nonce:
            low = transaction.nonce < nonce
            raise TransactionRefused(
                Code.NONCE_TOO_LOW if low else Code.NONCE_TOO_HIGH,
                f"nonce too {'low' if low else 'high'}: address 0x{transaction.sender.hex()}, "
                f"tx: {transaction.nonce} state: {nonce}",
            )
        cost = transaction.max_cost()
        if cost > balance:
            raise TransactionRefused(
                Code.INSUFFICIENT_FUNDS,
                f"insufficient funds for gas * price + value: address 0x{transaction.sender.hex()} "
                f"have {balance} want {cost}",
            )

    def execute(self, transaction: Transaction) -> Outcome:
        """Rules 1 to 4."""
        sender = transaction.sender
        nonce, balance = read_account(self.state, sender)
        try:
            self.check(transaction)
            self.check_account(transaction, nonce, balance)
        except TransactionRefused as refused:
            return Outcome(refused.status, detail=refused.detail)
        price = transaction.effective_gas_price(self.genesis.base_fee)
        if transaction.to not in MODULES:
            return self._transfer(transaction, nonce, balance, price)
        write_account(self.state, sender, nonce + 1, balance - transaction.gas_limit * price)
        intrinsic = transaction.intrinsic_gas()
        outcome = self.call(
            sender, transaction.to, transaction.value, transaction.data, transaction.gas_limit - intrinsic
        )
        gas_used = intrinsic + outcome.gas_used
        self._pay(sender, (transaction.gas_limit - gas_used) * price)
        self._pay(self.genesis.treasury, gas_used * price)
        data = outcome.data
        if outcome.code is Code.OK:
            data = encode_trusted({"to": transaction.to, "output": outcome.data})
        return Outcome(outcome.code, data, gas_used, outcome.logs, outcome.detail)

    def _transfer(self, transaction: Transaction, nonce: int, balance: int, price: int) -> Outcome:
        """Rules 2 to 4 where no module is called: the gas is known beforehand, and what the sender may have to pay is there."""
        gas_used = transaction.intrinsic_gas()
        fee = gas_used * price
        write_account(self.state, transaction.sender, nonce + 1, balance - fee - transaction.value)
        self._pay(transaction.to, transaction.value)
        self._pay(self.genesis.treasury, fee)
        return Outcome(Code.OK, _TRANSFERRED[0] + transaction.to + _TRANSFERRED[1], gas_used)

    def _pay(self, address: bytes, amount: int) -> None:
        if amount:
            nonce, balance = read_account(self.state, address)
            write_account(self.state, address, nonce, balance + amount)

    def call(
        self, sender: bytes, to: bytes, value: int, data: bytes, gas_limit: int, *, read_only: bool = False
    ) -> Outcome:
        """Move value and run the module at `to`, if there is one. Undone unless its code is OK."""
        module = MODULES.get(to)
        mark, leaves = self.state.checkpoint(), len(self.history.leaves)
        host: JournalHost | None = None
        try:
            if value or module is None:
                move(self.state, sender, to, value)
            if module is None:
                return Outcome(Code.OK)
            host = JournalHost(
                genesis=self.genesis,
                block=self.block,
                storage=self.state,
                history=self.history.append,
                module=module,
                caller=sender,
                value=value,
                gas_limit=gas_limit,
                read_only=read_only,
            )
            host.charge(gas.CALL)
            output = dispatch(module, host, data, read_only=read_only)
            return Outcome(Code.OK, output, gas_limit - host.gas_left, tuple(host.logs))
        except (Refused, OutOfGas) as error:
            self.state.revert(mark)
            del self.history.leaves[leaves:]
            if isinstance(error, OutOfGas):
                return Outcome(Code.OUT_OF_GAS, gas_used=gas_limit, detail="out of gas")
            used = 0 if host is None else gas_limit - host.gas_left
            return Outcome(Code.REVERTED, revert_data(error), used, detail=f"execution reverted: {error.detail}")
