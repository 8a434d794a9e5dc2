"""What a module sees of the chain: who calls, the block, storage, money and the log; and how a call reaches a module.

Rules:
1. A module is Python functions bound to a Solidity interface. It touches the chain through its `Host` alone, so that another host
   (an EVM that calls modules as contracts) gives the same bytes.
2. A call happens whole or not at all: whatever is raised undoes it. Modules raise `Refused` and `OutOfGas`; an input or
   verification error that a module lets through is a refusal too (BAD_INPUT): it follows from the bytes alone. Anything
   else is a fault of this node, and stops it.
3. Everything is paid before it is done. Loading and storing charge for themselves; a module charges for its own work.
4. A view changes nothing: a host that is read-only refuses to store, transfer and log.

Pure: the block's time is a parameter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from avow.chain import abi, gas
from avow.chain.errors import Code, OutOfGas, Refused
from avow.chain.genesis import Genesis
from avow.chain.solidity import ErrorType, Function, Interface, Parameter
from avow.errors import EncodingError, InputError, VerificationError


@dataclass(frozen=True, slots=True)
class Block:
    """The block that is being executed. `time_ms` is its header's time, rounded down."""

    height: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Log:
    """An event as Ethereum shows it."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


class Storage(Protocol):
    """Reads and writes of one transaction's view of the state."""

    def get(self, key: bytes, /) -> bytes | None: ...
    def put(self, key: bytes, value: bytes, /) -> None: ...
    def delete(self, key: bytes, /) -> None: ...


class Host(Protocol):
    """Rule 1. `caller` and module addresses have 20 bytes; `value` is the wei sent along."""

    genesis: Genesis
    block: Block
    caller: bytes
    value: int

    def charge(self, amount: int) -> None: ...
    def load(self, key: bytes) -> bytes | None: ...
    def store(self, key: bytes, value: bytes | None) -> None: ...
    def balance(self, address: bytes) -> int: ...
    def transfer(self, source: bytes, target: bytes, amount: int) -> None: ...
    def log(self, event: str, *values: Any) -> None: ...
    def append_history(self, leaf: bytes) -> int: ...


ModuleFunction = Callable[..., Any]
"""(host, *arguments) → None for no result, the one result, or a tuple of results."""


@dataclass(frozen=True, slots=True)
class Module:
    """An interface at an address, with a Python function for each of its functions."""

    address: bytes
    interface: Interface
    functions: Mapping[bytes, tuple[Function, ModuleFunction]]


def bind(address: bytes, interface: Interface, functions: Mapping[str, ModuleFunction]) -> Module:
    """Raises EncodingError unless `functions` are exactly those of the interface."""
    if set(functions) != set(interface.functions):
        raise EncodingError(f"{interface.name}: code and interface name different functions")
    table = {function.selector: (function, functions[name]) for name, function in interface.functions.items()}
    return Module(address, interface, table)


def dispatch(module: Module, host: Host, data: bytes, *, read_only: bool) -> bytes:
    """Run the function that call data names and return its ABI output. Raises Refused or OutOfGas."""
    entry = module.functions.get(data[:4])
    if entry is None:
        raise Refused(Code.UNKNOWN_FUNCTION)
    function, code = entry
    if host.value and function.mutability != "payable":
        raise Refused(Code.NOT_PAYABLE)
    if read_only and function.mutability != "view":
        raise Refused(Code.READ_ONLY)
    try:
        arguments = abi.decode([parameter.kind for parameter in function.inputs], data[4:])
    except EncodingError:
        raise Refused(Code.BAD_CALL_DATA) from None
    try:
        result = code(host, *arguments)
    except (Refused, OutOfGas):
        raise
    except (InputError, VerificationError):
        raise Refused(Code.BAD_INPUT) from None
    outputs = function.outputs
    values = () if not outputs else result if len(outputs) > 1 else (result,)
    return abi.encode([parameter.kind for parameter in outputs], values)


_REFUSED = ErrorType("Refused", (Parameter("code", "uint32"),))
_BATCH_REFUSED = ErrorType("BatchRefused", (Parameter("index", "uint32"), Parameter("code", "uint32")))


def revert_data(error: Refused) -> bytes:
    """The ABI bytes of a refusal (errors.py, rule 3)."""
    if error.index is None:
        return _REFUSED.encode(int(error.reason))
    return _BATCH_REFUSED.encode(error.index, int(error.reason))


def refusal(data: bytes) -> Refused | None:
    """The refusal that revert data spells; None for other bytes."""
    for error in (_REFUSED, _BATCH_REFUSED):
        if data[:4] == error.selector:
            try:
                values = abi.decode([parameter.kind for parameter in error.inputs], data[4:])
                return Refused(Code(values[-1]), values[0] if len(values) > 1 else None)
            except (EncodingError, ValueError):
                return None
    return None


ACCOUNT_PREFIX = b"account/"


def read_account(storage: Storage, address: bytes) -> tuple[int, int]:
    """Nonce and balance."""
    record = storage.get(ACCOUNT_PREFIX + address)
    return (int.from_bytes(record[:8]), int.from_bytes(record[8:])) if record else (0, 0)


def write_account(storage: Storage, address: bytes, nonce: int, balance: int) -> None:
    """u64 nonce and u256 balance, 40 bytes; an account with neither has no record."""
    if nonce or balance:
        storage.put(ACCOUNT_PREFIX + address, nonce.to_bytes(8) + balance.to_bytes(32))
    else:
        storage.delete(ACCOUNT_PREFIX + address)


def move(storage: Storage, source: bytes, target: bytes, amount: int) -> None:
    """Move wei. Raises Refused (BALANCE_TOO_LOW)."""
    nonce, balance = read_account(storage, source)
    if balance < amount:
        raise Refused(Code.BALANCE_TOO_LOW)
    write_account(storage, source, nonce, balance - amount)
    nonce, balance = read_account(storage, target)
    write_account(storage, target, nonce, balance + amount)


class JournalHost:
    """The host over a journaled view of the state; the caller opens and closes its checkpoints."""

    __slots__ = (
        "_history",
        "_module",
        "_read_only",
        "_storage",
        "block",
        "caller",
        "gas_left",
        "genesis",
        "logs",
        "value",
    )

    def __init__(
        self,
        *,
        genesis: Genesis,
        block: Block,
        storage: Storage,
        history: Callable[[bytes], int],
        module: Module,
        caller: bytes,
        value: int,
        gas_limit: int,
        read_only: bool,
    ) -> None:
        self.genesis = genesis
        self.block = block
        self.caller = caller
        self.value = value
        self.gas_left = gas_limit
        self.logs: list[Log] = []
        self._storage = storage
        self._history = history
        self._module = module
        self._read_only = read_only

    def charge(self, amount: int) -> None:
        """Raises OutOfGas."""
        if amount > self.gas_left:
            self.gas_left = 0
            raise OutOfGas("out of gas")
        self.gas_left -= amount

    def load(self, key: bytes) -> bytes | None:
        self.charge(gas.LOAD)
        return self._storage.get(key)

    def store(self, key: bytes, value: bytes | None) -> None:
        """None deletes. A new key costs more than a changed one."""
        self._check_writable()
        new = self._storage.get(key) is None and value is not None
        self.charge((gas.STORE_NEW if new else gas.STORE) + gas.STORE_BYTE * max(0, len(value or b"") - 32))
        if value is None:
            self._storage.delete(key)
        else:
            self._storage.put(key, value)

    def balance(self, address: bytes) -> int:
        self.charge(gas.LOAD)
        return read_account(self._storage, address)[1]

    def transfer(self, source: bytes, target: bytes, amount: int) -> None:
        self._check_writable()
        self.charge(gas.TRANSFER)
        move(self._storage, source, target, amount)

    def log(self, event: str, *values: Any) -> None:
        """Log an event of the module's interface."""
        self._check_writable()
        topics, data = self._module.interface.events[event].encode(*values)
        self.charge(gas.LOG + gas.LOG_TOPIC * len(topics) + gas.LOG_BYTE * len(data))
        self.logs.append(Log(self._module.address, topics, data))

    def append_history(self, leaf: bytes) -> int:
        """Append to the chain's history; the leaf's index."""
        self._check_writable()
        self.charge(gas.HISTORY)
        return self._history(leaf)

    def _check_writable(self) -> None:
        if self._read_only:
            raise Refused(Code.READ_ONLY)
