"""Ethereum's methods (eth_, net_, web3_), as wallets and libraries call them.

Rules:
1. Every block is final: latest, safe, finalized and pending name the last block; earliest the lowest one kept.
2. State is there for the last block alone; asking for an older one is an error, never an answer about another block.
3. A revert is error 3 with the ABI bytes in `data`; texts of refusals are those of Ethereum's clients.
4. There is no EVM yet: accounts have no code, modules show the one byte 0xfe, creating a contract is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from avow.chain import views
from avow.chain.application import CALL_GAS, SOFTWARE_VERSION
from avow.chain.errors import Code, TransactionRefused
from avow.chain.execution import MODULES, Outcome
from avow.chain.host import refusal
from avow.chain.transaction import intrinsic_gas, transaction_hash
from avow.consensus.block import Decided
from avow.nodes.rpc import values
from avow.nodes.rpc.node import ChainNode
from avow.nodes.rpc.values import RpcError, invalid
from avow.receipt.requester import keccak256

Method = Callable[[list[Any]], Awaitable[Any]]

CLIENT_VERSION = f"avow/v{SOFTWARE_VERSION}/no-evm"
MAX_LOGS = 10_000
MAX_LOG_BLOCKS = 100_000
MAX_FEE_BLOCKS = 1_024
YIELD_EVERY = 64
MODULE_CODE = "0xfe"  # EIP-141's INVALID: there is something, and nothing runs it
LATEST = ("latest", "pending", "safe", "finalized")


class EthereumMethods:
    """The method table over one node."""

    def __init__(self, node: ChainNode) -> None:
        self._node = node

    def table(self) -> dict[str, Method]:
        return {
            "web3_clientVersion": self._constant(CLIENT_VERSION),
            "web3_sha3": self._sha3,
            "net_version": self._constant(str(self._node.genesis.eip155)),
            "net_listening": self._constant(value=True),
            "net_peerCount": self._constant("0x0"),
            "eth_chainId": self._constant(hex(self._node.genesis.eip155)),
            "eth_syncing": self._constant(value=False),
            "eth_accounts": self._constant([]),
            "eth_gasPrice": self._constant(hex(self._node.genesis.base_fee)),
            "eth_maxPriorityFeePerGas": self._constant("0x0"),
            "eth_feeHistory": self._fee_history,
            "eth_blockNumber": self._block_number,
            "eth_getBalance": self._balance,
            "eth_getTransactionCount": self._transaction_count,
            "eth_getCode": self._code,
            "eth_getStorageAt": self._storage_at,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate_gas,
            "eth_sendRawTransaction": self._send_raw_transaction,
            "eth_getTransactionByHash": self._transaction_by_hash,
            "eth_getTransactionReceipt": self._transaction_receipt,
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getBlockReceipts": self._block_receipts,
            "eth_getBlockTransactionCountByNumber": self._count_by_number,
            "eth_getBlockTransactionCountByHash": self._count_by_hash,
            "eth_getTransactionByBlockNumberAndIndex": self._transaction_by_number,
            "eth_getTransactionByBlockHashAndIndex": self._transaction_by_block_hash,
            "eth_getUncleCountByBlockNumber": self._constant("0x0"),
            "eth_getUncleCountByBlockHash": self._constant("0x0"),
            "eth_getLogs": self._logs,
        }

    def _constant(self, value: Any) -> Method:
        async def method(_: list[Any]) -> Any:
            return value

        return method

    async def _sha3(self, params: list[Any]) -> str:
        return views.data(keccak256(values.data(values.parameter(params, 0, "data"), "data")))

    # --- State ------------------------------------------------------------------------------------------------------

    async def _block_number(self, _: list[Any]) -> str:
        return hex(self._node.engine.height)

    async def _balance(self, params: list[Any]) -> str:
        address = self._address(params)
        self._check_newest(values.optional(params, 1, "latest"))
        return hex(self._node.application.account(address)[1])

    async def _transaction_count(self, params: list[Any]) -> str:
        address = self._address(params)
        tag = values.optional(params, 1, "latest")
        self._check_newest(tag)
        return hex(self._node.application.account(address, pending=tag == "pending")[0])

    async def _code(self, params: list[Any]) -> str:
        address = self._address(params)
        self._check_newest(values.optional(params, 1, "latest"))
        return MODULE_CODE if address in MODULES else "0x"

    async def _storage_at(self, params: list[Any]) -> str:
        """Modules keep no slots; their state is proven by avow_prove."""
        self._address(params)
        values.quantity(values.parameter(params, 1, "position"), "position")
        self._check_newest(values.optional(params, 2, "latest"))
        return views.data(bytes(32))

    def _address(self, params: list[Any]) -> bytes:
        return values.octets(values.parameter(params, 0, "address"), "address", 20)

    def _check_newest(self, tag: Any) -> None:
        """Rule 2. Raises RpcError for a block other than the last."""
        newest = self._node.engine.height
        if isinstance(tag, dict):  # EIP-1898
            if "blockHash" in tag:
                found = self._node.index.block(values.octets(tag["blockHash"], "blockHash", 32))
                height = newest + 1 if found is None else found
            else:
                height = values.quantity(tag.get("blockNumber"), "blockNumber")
        elif isinstance(tag, str) and tag in LATEST:
            return
        elif tag == "earliest":
            height = self._node.engine.base
        else:
            height = values.quantity(tag, "block")
        if height > newest:
            raise RpcError(values.SERVER_ERROR, "header not found")
        if height < newest:
            message = f"state of block {height} is not available: this node keeps the newest state only"
            raise RpcError(values.SERVER_ERROR, message)

    # --- Calls ------------------------------------------------------------------------------------------------------

    async def _call(self, params: list[Any]) -> str:
        request = _CallRequest(values.mapping(values.parameter(params, 0, "transaction"), "transaction"))
        self._check_newest(values.optional(params, 1, "latest"))
        if values.optional(params, 2, {}):
            raise invalid("overrides", "state overrides are not supported")
        return views.data(self._simulate(request, min(request.gas or CALL_GAS, CALL_GAS)).data)

    async def _estimate_gas(self, params: list[Any]) -> str:
        request = _CallRequest(values.mapping(values.parameter(params, 0, "transaction"), "transaction"))
        self._check_newest(values.optional(params, 1, "latest"))
        intrinsic = intrinsic_gas(request.data)
        limit = min(request.gas or CALL_GAS, CALL_GAS)
        if limit < intrinsic:
            raise RpcError(values.SERVER_ERROR, f"gas required exceeds allowance ({limit})")
        return hex(intrinsic + self._simulate(request, limit - intrinsic).gas_used)

    def _simulate(self, request: "_CallRequest", gas_limit: int) -> Outcome:
        """Rule 3."""
        outcome = self._node.application.simulate(
            request.sender,
            request.to,
            request.data,
            value=request.value,
            gas_limit=gas_limit,
            time_ms=self._node.next_block_ms(),
        )
        if outcome.code is Code.OK:
            return outcome
        if outcome.code is Code.OUT_OF_GAS:
            raise RpcError(values.SERVER_ERROR, "out of gas")
        reason = refusal(outcome.data)
        if reason is not None and reason.reason is Code.BALANCE_TOO_LOW and request.value:
            raise RpcError(
                values.SERVER_ERROR, f"insufficient funds for transfer: address {views.address(request.sender)}"
            )
        raise RpcError(values.REVERTED, outcome.detail, views.data(outcome.data))

    # --- Transactions -----------------------------------------------------------------------------------------------

    async def _send_raw_transaction(self, params: list[Any]) -> str:
        raw = values.data(values.parameter(params, 0, "transaction"), "transaction")
        digest = transaction_hash(raw)
        try:
            self._node.application.decode(raw)
        except TransactionRefused as refused:
            raise RpcError(values.SERVER_ERROR, refused.detail) from None
        response = await self._node.engine.submit(raw)
        if response.code != Code.OK and self._node.found(digest) is not None:
            raise RpcError(values.SERVER_ERROR, "already known")
        if response.code == Code.REVERTED and response.data:
            raise RpcError(values.REVERTED, response.log, views.data(response.data))
        if response.code != Code.OK:
            raise RpcError(values.SERVER_ERROR, response.log)
        self._node.remember(digest, raw)
        return views.data(digest)

    async def _transaction_by_hash(self, params: list[Any]) -> Any:
        digest = values.octets(values.parameter(params, 0, "hash"), "hash", 32)
        place = self._node.found(digest)
        if place is not None:
            return self._view(place[0]).transaction(place[1])
        waiting = self._node.waiting(digest)
        return waiting and views.transaction_view(digest, waiting, self._node.genesis.base_fee)

    async def _transaction_receipt(self, params: list[Any]) -> Any:
        place = self._node.found(values.octets(values.parameter(params, 0, "hash"), "hash", 32))
        return None if place is None else self._view(place[0]).receipt(place[1])

    # --- Blocks -----------------------------------------------------------------------------------------------------

    def _view(self, height: int) -> views.BlockView:
        return self._node.view(self._node.engine.block(height))

    def _height(self, tag: Any) -> int | None:
        """The height that a tag names; None when there is no such block."""
        engine = self._node.engine
        if isinstance(tag, str) and tag in LATEST:
            return engine.height
        height = engine.base if tag == "earliest" else values.quantity(tag, "block")
        return height if engine.base <= height <= engine.height else None

    def _numbered(self, params: list[Any]) -> Decided | None:
        height = self._height(values.parameter(params, 0, "block"))
        return None if height is None else self._node.engine.block(height)

    def _hashed(self, params: list[Any]) -> Decided | None:
        height = self._node.index.block(values.octets(values.parameter(params, 0, "hash"), "hash", 32))
        return None if height is None or height < self._node.engine.base else self._node.engine.block(height)

    async def _block_by_number(self, params: list[Any]) -> Any:
        return self._shown(self._numbered(params), values.optional(params, 1, default=False))

    async def _block_by_hash(self, params: list[Any]) -> Any:
        return self._shown(self._hashed(params), values.optional(params, 1, default=False))

    def _shown(self, block: Decided | None, full: Any) -> Any:
        if not isinstance(full, bool):
            raise invalid("full", "a truth value is expected")
        return None if block is None else self._node.view(block).block(full=full)

    async def _block_receipts(self, params: list[Any]) -> Any:
        tag = values.parameter(params, 0, "block")
        hashed = isinstance(tag, str) and len(tag) == 66
        block = self._hashed(params) if hashed else self._numbered(params)
        if block is None:
            return None
        view = self._node.view(block)
        return [view.receipt(index) for index in range(len(view.transactions))]

    async def _count_by_number(self, params: list[Any]) -> Any:
        block = self._numbered(params)
        return None if block is None else hex(len(block.txs))

    async def _count_by_hash(self, params: list[Any]) -> Any:
        block = self._hashed(params)
        return None if block is None else hex(len(block.txs))

    async def _transaction_by_number(self, params: list[Any]) -> Any:
        return self._placed(self._numbered(params), params)

    async def _transaction_by_block_hash(self, params: list[Any]) -> Any:
        return self._placed(self._hashed(params), params)

    def _placed(self, block: Decided | None, params: list[Any]) -> Any:
        index = values.quantity(values.parameter(params, 1, "index"), "index")
        if block is None or index >= len(block.txs):
            return None
        return self._node.view(block).transaction(index)

    async def _fee_history(self, params: list[Any]) -> dict[str, Any]:
        """The base fee never moves and no tip is needed, so rewards are zero."""
        count = values.quantity(values.parameter(params, 0, "blockCount"), "blockCount", maximum=1 << 32)
        newest = self._height(values.optional(params, 1, "latest"))
        percentiles = values.optional(params, 2, [])
        if newest is None:
            raise RpcError(values.SERVER_ERROR, "request beyond head block")
        if not isinstance(percentiles, list) or len(percentiles) > 100:
            raise invalid("rewardPercentiles", "a list of at most 100 numbers is expected")
        count = min(count, MAX_FEE_BLOCKS, newest - self._node.engine.base + 1)
        oldest = newest - count + 1
        limit = self._node.genesis.block_gas_limit
        used = []
        for height in range(oldest, newest + 1):
            used.append(sum([result.gas_used for result in self._node.engine.results(height)]) / limit)
            if height % YIELD_EVERY == 0:
                await asyncio.sleep(0)  # blocks go on meanwhile
        history: dict[str, Any] = {
            "oldestBlock": hex(oldest),
            "baseFeePerGas": [hex(self._node.genesis.base_fee)] * (count + 1),
            "gasUsedRatio": used,
        }
        return history | {"reward": [["0x0"] * len(percentiles)] * count} if percentiles else history

    # --- Logs -------------------------------------------------------------------------------------------------------

    async def _logs(self, params: list[Any]) -> list[dict[str, Any]]:
        wanted = values.mapping(values.parameter(params, 0, "filter"), "filter")
        first, last = self._range(wanted)
        addresses = _addresses(wanted.get("address"))
        topics = _topics(wanted.get("topics"))
        result: list[dict[str, Any]] = []
        hashes: dict[int, bytes] = {}
        for count, found in enumerate(self._node.index.logs(first, last)):
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)  # blocks go on meanwhile; what is below `last` does not change
            if not views.matches(found.log, addresses, topics):
                continue
            if len(result) >= MAX_LOGS:
                raise RpcError(values.LIMIT_EXCEEDED, f"query returned more than {MAX_LOGS} results")
            if found.height not in hashes:
                hashes[found.height] = self._node.engine.block(found.height).header.hash
            result.append(
                views.log_view(
                    found.log,
                    block_hash=hashes[found.height],
                    height=found.height,
                    transaction_hash=found.transaction_hash,
                    index=found.index,
                    log_index=found.log_index,
                )
            )
        return result

    def _range(self, wanted: dict[str, Any]) -> tuple[int, int]:
        """First and last height of a filter."""
        engine = self._node.engine
        if "blockHash" in wanted:
            if "fromBlock" in wanted or "toBlock" in wanted:
                raise invalid("filter", "cannot specify both blockHash and fromBlock/toBlock")
            found = self._node.index.block(values.octets(wanted["blockHash"], "blockHash", 32))
            if found is None:
                raise RpcError(values.SERVER_ERROR, "unknown block")
            return found, found
        bounds = []
        for name in ("fromBlock", "toBlock"):
            tag = wanted.get(name)
            if tag is None or (isinstance(tag, str) and tag in LATEST):
                bounds.append(engine.height)
            else:
                bounds.append(engine.base if tag == "earliest" else values.quantity(tag, name))
        first, last = max(bounds[0], engine.base), min(bounds[1], engine.height)
        if bounds[0] > bounds[1]:
            raise invalid("filter", "invalid block range params")
        if last - first > MAX_LOG_BLOCKS:
            raise RpcError(values.LIMIT_EXCEEDED, f"query exceeds max block range {MAX_LOG_BLOCKS}")
        return first, last


class _CallRequest:
    """The transaction object of eth_call and eth_estimateGas."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.sender = values.octets(request["from"], "from", 20) if request.get("from") else bytes(20)
        if request.get("to") is None:
            raise RpcError(values.SERVER_ERROR, "contract creation is not supported by this chain")
        self.to = values.octets(request["to"], "to", 20)
        given = [request[name] for name in ("input", "data") if request.get(name) is not None]
        if len(given) == 2 and given[0] != given[1]:
            raise invalid("data", 'both "data" and "input" are set and not equal')
        self.data = values.data(given[0], "data") if given else b""
        self.value = values.quantity(request.get("value") or 0, "value")
        self.gas = values.quantity(request.get("gas") or 0, "gas")


def _addresses(value: Any) -> frozenset[bytes] | None:
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    if len(items) > 1000:
        raise invalid("address", "at most 1000 addresses")
    return frozenset([values.octets(item, "address", 20) for item in items]) or None


def _topics(value: Any) -> views.Topics:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > 4:
        raise invalid("topics", "exceed max topics")
    result: list[frozenset[bytes] | None] = []
    for entry in value:
        if entry is None or entry == []:
            result.append(None)
            continue
        items = entry if isinstance(entry, list) else [entry]
        if len(items) > 1000:
            raise invalid("topics", "exceed max topics")
        result.append(frozenset([values.octets(item, "topics", 32) for item in items]))
    return result
