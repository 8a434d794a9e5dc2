"""Blocks, transactions, receipts and logs as Ethereum's clients read them (Ethereum JSON-RPC specification).

Rules:
1. Quantities are minimal hexadecimal, data is hexadecimal of whole bytes, both with 0x.
2. A block's hash is its header's hash (CometBFT's). Its roots are the header's own: data_hash, the application's hash
   after the block, the root of its results. They are no Patricia tries, and `eth_getProof` does not exist.
3. Every block is final, so there are no uncles and no difficulty.

Pure: values in, JSON values out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from avow.chain.abci import ExecTxResult
from avow.chain.errors import Code
from avow.chain.genesis import Genesis
from avow.chain.host import Log
from avow.chain.proposal import event_log
from avow.chain.transaction import Transaction
from avow.receipt.headers import Header, last_results_hash
from avow.receipt.requester import keccak256

BLOOM_BYTES = 256
EMPTY_UNCLES = "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"  # keccak-256 of RLP([])
NANOSECONDS = 1_000_000_000


def quantity(number: int) -> str:
    return hex(number)


def data(value: bytes) -> str:
    return "0x" + value.hex()


def address(value: bytes) -> str:
    """With the checksum of EIP-55."""
    text = value.hex()
    digest = keccak256(text.encode()).hex()
    return "0x" + "".join(
        [char.upper() if int(mark, 16) > 7 else char for char, mark in zip(text, digest, strict=False)]
    )


def bloom(logs: Iterable[Log]) -> bytes:
    """The bloom filter over addresses and topics (Yellow Paper, section 4.3.1); 256 bytes."""
    bits = 0
    for log in logs:
        for item in (log.address, *log.topics):
            digest = keccak256(item)
            for at in (0, 2, 4):
                bits |= 1 << (int.from_bytes(digest[at : at + 2]) & 0x7FF)
    return bits.to_bytes(BLOOM_BYTES)


@dataclass(frozen=True, slots=True)
class Executed:
    """A transaction in its block. `raw` are its bytes, `decoded` None when they are none that this chain takes."""

    hash: bytes
    raw: bytes
    decoded: Transaction | None
    result: ExecTxResult

    @property
    def logs(self) -> list[Log]:
        return [log for log in map(event_log, self.result.events) if log is not None]


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block with its results: what all views are drawn from."""

    genesis: Genesis
    header: Header
    app_hash: bytes
    transactions: tuple[Executed, ...]

    def block(self, *, full: bool) -> dict[str, Any]:
        """`full`: transactions as objects, else their hashes."""
        header = self.header
        results = [item.result.deterministic() for item in self.transactions]
        shown: list[Any] = [
            self.transaction(index) if full else data(item.hash) for index, item in enumerate(self.transactions)
        ]
        return {
            "number": quantity(header.height),
            "hash": data(header.hash),
            "parentHash": data(header.last_block_id.hash or bytes(32)),
            "nonce": data(bytes(8)),
            "sha3Uncles": EMPTY_UNCLES,
            "logsBloom": data(bloom([log for item in self.transactions for log in item.logs])),
            "transactionsRoot": data(header.data_hash),
            "stateRoot": data(self.app_hash),
            "receiptsRoot": data(last_results_hash(results)),
            "miner": address(self.genesis.treasury),
            "difficulty": "0x0",
            "totalDifficulty": "0x0",
            "extraData": "0x",
            "mixHash": data(bytes(32)),
            "size": quantity(sum([len(item.raw) for item in self.transactions])),
            "gasLimit": quantity(self.genesis.block_gas_limit),
            "gasUsed": quantity(sum([item.result.gas_used for item in self.transactions])),
            "baseFeePerGas": quantity(self.genesis.base_fee),
            "timestamp": quantity(header.time_ns // NANOSECONDS),
            "transactions": shown,
            "uncles": [],
        }

    def transaction(self, index: int) -> dict[str, Any]:
        item = self.transactions[index]
        place = {
            "blockHash": data(self.header.hash),
            "blockNumber": quantity(self.header.height),
            "transactionIndex": quantity(index),
        }
        return transaction_view(item.hash, item.decoded, self.genesis.base_fee) | place

    def receipt(self, index: int) -> dict[str, Any]:
        item = self.transactions[index]
        decoded = item.decoded
        before = sum([len(earlier.logs) for earlier in self.transactions[:index]])
        return {
            "transactionHash": data(item.hash),
            "transactionIndex": quantity(index),
            "blockHash": data(self.header.hash),
            "blockNumber": quantity(self.header.height),
            "from": address(decoded.sender if decoded else bytes(20)),
            "to": address(decoded.to if decoded else bytes(20)),
            "cumulativeGasUsed": quantity(sum([item.result.gas_used for item in self.transactions[: index + 1]])),
            "gasUsed": quantity(item.result.gas_used),
            "contractAddress": None,
            "logs": [self.log(index, log, before + at) for at, log in enumerate(item.logs)],
            "logsBloom": data(bloom(item.logs)),
            "type": quantity(decoded.kind if decoded else 0),
            "effectiveGasPrice": quantity(decoded.effective_gas_price(self.genesis.base_fee) if decoded else 0),
            "status": quantity(int(item.result.code == Code.OK)),
        }

    def log(self, index: int, log: Log, log_index: int) -> dict[str, Any]:
        """One log; `log_index` counts over the block."""
        return log_view(
            log,
            block_hash=self.header.hash,
            height=self.header.height,
            transaction_hash=self.transactions[index].hash,
            index=index,
            log_index=log_index,
        )

    def logs(self) -> list[dict[str, Any]]:
        """All logs of the block, in order."""
        places = [(index, log) for index, item in enumerate(self.transactions) for log in item.logs]
        return [self.log(index, log, log_index) for log_index, (index, log) in enumerate(places)]


def log_view(
    log: Log, *, block_hash: bytes, height: int, transaction_hash: bytes, index: int, log_index: int
) -> dict[str, Any]:
    return {
        "address": address(log.address),
        "topics": [data(topic) for topic in log.topics],
        "data": data(log.data),
        "blockNumber": quantity(height),
        "blockHash": data(block_hash),
        "transactionHash": data(transaction_hash),
        "transactionIndex": quantity(index),
        "logIndex": quantity(log_index),
        "removed": False,
    }


def transaction_view(transaction_hash: bytes, decoded: Transaction | None, base_fee: int) -> dict[str, Any]:
    """A transaction that waits; in a block, its place is added."""
    nowhere: dict[str, Any] = {"blockHash": None, "blockNumber": None, "transactionIndex": None}
    if decoded is None:
        return nowhere | {"hash": data(transaction_hash)}
    view: dict[str, Any] = nowhere | {
        "hash": data(transaction_hash),
        "type": quantity(decoded.kind),
        "chainId": quantity(decoded.chain_id),
        "nonce": quantity(decoded.nonce),
        "from": address(decoded.sender),
        "to": address(decoded.to),
        "value": quantity(decoded.value),
        "gas": quantity(decoded.gas_limit),
        "gasPrice": quantity(decoded.effective_gas_price(base_fee)),
        "input": data(decoded.data),
        "v": quantity(decoded.v),
        "r": quantity(decoded.r),
        "s": quantity(decoded.s),
    }
    if decoded.kind:
        view |= {
            "maxFeePerGas": quantity(decoded.max_fee),
            "maxPriorityFeePerGas": quantity(decoded.max_priority_fee),
            "accessList": [
                {"address": address(entry), "storageKeys": [data(key) for key in keys]}
                for entry, keys in decoded.access_list
            ],
            "yParity": quantity(decoded.y_parity),
        }
    return view


Topics = Sequence[frozenset[bytes] | None]


def matches(log: Log, addresses: frozenset[bytes] | None, topics: Topics) -> bool:
    """Whether a log passes a filter: any of the addresses, and for each place any of its topics (None: anything)."""
    if addresses is not None and log.address not in addresses:
        return False
    if len(topics) > len(log.topics):
        return False
    return all(wanted is None or topic in wanted for wanted, topic in zip(topics, log.topics, strict=False))
