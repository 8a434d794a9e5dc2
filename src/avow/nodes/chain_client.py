"""A node's own client of the chain: signed module transactions from one account, views, proofs, waiting.

Rules:
1. One account, one line of nonces. `lock` is held from choosing a nonce until the chain has the transaction; whoever signs
   first and sends later holds it meanwhile.
2. A transaction can be sent again: "already known" is no error. `outcome` says whether it is in a block, or never can be.
3. Errors: ChainUnavailable when the chain does not answer, Refused when a module refuses (with its code and index),
   ChainRejected for everything else that the chain says no to.
4. Nothing that the chain says is trusted here beyond the node's own operation: proofs are passed on to who checks them.
5. `url` may name several nodes of the chain, separated by commas (endpoints.py): a call that one does not answer goes to the next.
   What was sent to one that is gone is sent again by whoever waits for it.
"""

import asyncio
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.execution import MODULES
from avow.chain.host import refusal
from avow.chain.modules import bank, nodes, settlement
from avow.chain.solidity import Function
from avow.chain.transaction import address_of_private_key, intrinsic_gas, sign_transaction, transaction_hash
from avow.errors import AvowError, Unavailable
from avow.nodes.endpoints import Endpoints
from avow.receipt.encoding import decode, from_base64url
from avow.receipt.fields import mapping
from avow.receipt.finality import BondProof, FinalityProof, OptimisticParameters
from avow.receipt.headers import SignedBlock
from avow.receipt.standing import KeyRecord, Standing
from avow.receipt.trust import TrustPolicy

TIMEOUT_S = 15.0
MAX_ANSWER = 32 * 1024 * 1024
POLL_MS = 10_000
NONCE_RETRIES = 3

_REVERTED = 3
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class ChainUnavailable(Unavailable):
    """The chain does not answer."""

    code = "chain_unavailable"


class ChainRejected(AvowError):
    """The chain answers with an error."""

    code = "chain_rejected"
    http_status = 502


class TransactionDropped(ChainRejected):
    """The chain's node gave up a transaction that it had taken: it is in no block, and waits for none there."""

    code = "transaction_dropped"


@dataclass(frozen=True, slots=True)
class Network:
    """What a client needs to know of the chain."""

    chain_id: str
    eip155: int
    base_fee: int
    heartbeat_ms: int


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction that can be sent."""

    raw: bytes
    hash: bytes
    nonce: int


@dataclass(frozen=True, slots=True)
class Included:
    """A transaction in a block. `output`: the ABI bytes that the module's function returned (`function_of` decodes)."""

    hash: bytes
    height: int
    index: int
    gas_used: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Log:
    """An event of a module: its indexed parameters as 32-byte topics, the others decoded."""

    indexed: tuple[bytes, ...]
    values: tuple[Any, ...]
    height: int
    transaction: bytes


@dataclass(frozen=True, slots=True)
class OptimisticRules:
    """The parameters of the method optimistic (`watchers` are those appointed now) and the window clock, in milliseconds."""

    parameters: OptimisticParameters
    clock: int


class ChainClient:
    """Make it in a running loop; `close` it. `private_key` (32 bytes) is needed to send."""

    def __init__(self, url: str, private_key: bytes | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._endpoints = Endpoints.parse(url)
        self._private_key = private_key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._network: Network | None = None
        self._next_nonce: int | None = None
        self._calls = 0
        self.lock = asyncio.Lock()
        self.address = b"" if private_key is None else address_of_private_key(private_key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- Calls ------------------------------------------------------------------------------------------------------

    async def rpc(self, method: str, *params: Any, extra_s: float = 0.0) -> Any:
        """One JSON-RPC call; `extra_s` is added to the time-out for calls that wait. Rules 3 and 5."""
        now_s = asyncio.get_running_loop().time()
        if self._endpoints.look_due(now_s):
            await self._look(now_s)
        for _ in self._endpoints.urls[1:]:
            try:
                return await self._rpc(self._endpoints.url, method, params, extra_s)
            except ChainUnavailable:
                continue
        return await self._rpc(self._endpoints.url, method, params, extra_s)

    def leave_node(self) -> None:
        """The node that is asked showed something that does not hold: ask the next."""
        self._endpoints.next(self._endpoints.url)

    async def signed_block(self, height: int) -> SignedBlock:
        """A block's header, commit and validators, as this node says."""
        found = await self.rpc("avow_header", hex(height))
        if found is None:
            raise ChainUnavailable("the chain's node does not have this block", height=height)
        return SignedBlock.from_value(decode(from_base64url(found)))

    async def _look(self, now_s: float) -> None:
        """Whether the node that is asked still makes blocks."""
        with contextlib.suppress(ChainUnavailable, KeyError, TypeError):
            found = await self._rpc(self._endpoints.url, "avow_status", (), 0.0)
            self._endpoints.seen(found["height"], found["heartbeat_ms"], now_s)

    async def _rpc(self, url: str, method: str, params: Sequence[Any], extra_s: float) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        self._calls += 1
        call = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": list(params)}
        total = (self._timeout.total or TIMEOUT_S) + extra_s
        try:
            async with self._session.post(
                url,
                data=io.BytesIO(_encode(call)),  # as a file: a large body given as bytes would be warned about
                headers={"content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=total),
            ) as response:
                body = await response.read()
            answer = _decode(body)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            self._endpoints.next(url)
            raise ChainUnavailable(f"the chain does not answer ({type(error).__name__})", url=url) from error
        if not isinstance(answer, dict):
            self._endpoints.next(url)
            raise ChainUnavailable("the chain's answer is no JSON-RPC response", url=url)
        if "error" in answer:
            raise _error(answer["error"])
        return answer.get("result")

    async def network(self) -> Network:
        """The chain's names and prices; asked once."""
        if self._network is None:
            status = await self.status()
            self._network = Network(status["chain_id"], status["eip155"], status["base_fee"], status["heartbeat_ms"])
        return self._network

    async def status(self) -> dict[str, Any]:
        """avow_status: height, time_ms, block_hash and more of the last block."""
        status = await self.rpc("avow_status")
        if not isinstance(status, dict):
            raise ChainUnavailable("the chain's status is not understood", url=self._endpoints.url)
        return status

    async def view(self, module: bytes, function: str, *arguments: Any) -> list[Any]:
        """Call a function without sending; its outputs."""
        entry = function_of(module, function)
        call = {"to": "0x" + module.hex(), "data": "0x" + entry.encode_call(*arguments).hex()}
        if self.address:
            call["from"] = "0x" + self.address.hex()
        output = await self.rpc("eth_call", call, "latest")
        return entry.decode_output(bytes.fromhex(output[2:]))

    async def refusal(self, module: bytes, function: str, *arguments: Any) -> Refused | None:
        """Why the chain would refuse this call now; None if it would not."""
        try:
            await self.view(module, function, *arguments)
        except Refused as refused:
            return refused
        return None

    # --- Sending ----------------------------------------------------------------------------------------------------

    async def sign(
        self, module: bytes, function: str, *arguments: Any, gas_limit: int | None = None, value: int = 0
    ) -> Signed:
        """Sign a call with the account's next nonce. Hold `lock` until it is sent (rule 1).

        Without `gas_limit` the chain estimates, which raises Refused when it would refuse the call now.
        """
        if self._private_key is None:
            raise ChainRejected("this client has no account to send from")
        data = function_of(module, function).encode_call(*arguments)
        network = await self.network()
        limit = await self._estimate(module, data, value) if gas_limit is None else gas_limit
        if self._next_nonce is None:
            self._next_nonce = int(await self.rpc("eth_getTransactionCount", self._hex_address(), "pending"), 16)
        nonce = self._next_nonce
        self._next_nonce = nonce + 1
        raw = sign_transaction(
            self._private_key,
            chain_id=network.eip155,
            nonce=nonce,
            gas_limit=limit,
            to=module,
            max_fee=network.base_fee,
            value=value,
            data=data,
        )
        return Signed(raw, transaction_hash(raw), nonce)

    async def _estimate(self, module: bytes, data: bytes, value: int) -> int:
        call = {"from": self._hex_address(), "to": "0x" + module.hex(), "data": "0x" + data.hex(), "value": hex(value)}
        estimate = int(await self.rpc("eth_estimateGas", call), 16)
        return estimate + estimate // 4 + 50_000

    def _hex_address(self) -> str:
        return "0x" + self.address.hex()

    async def send(self, raw: bytes) -> None:
        """Give the chain a transaction; returns when it is durable there.

        Raises Refused (what it shows does not hold: it stands in no block), ChainRejected, ChainUnavailable.
        """
        try:
            await self.rpc("eth_sendRawTransaction", "0x" + raw.hex())
        except ChainRejected as rejected:
            if "already known" in rejected.detail:
                return
            self._next_nonce = None
            raise
        except (ChainUnavailable, Refused):
            self._next_nonce = None
            raise

    def forget_nonce(self) -> None:
        """What was signed is not sent: the next nonce is asked of the chain again."""
        self._next_nonce = None

    async def included(self, digest: bytes, *, timeout_s: float = 30.0) -> Included | None:
        """What became of a transaction; None if it is in no block when the time is over.

        Raises Refused, ChainRejected; TransactionDropped for one that the chain's node has given up.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            left_ms = int(max(0.0, deadline - asyncio.get_running_loop().time()) * 1000)
            wait_ms = min(left_ms, POLL_MS)
            receipt = await self.rpc(
                "avow_waitForTransaction", "0x" + digest.hex(), hex(wait_ms), extra_s=wait_ms / 1000
            )
            if receipt is not None:
                return _included(digest, receipt)
            await self._check_waits(digest)
            if left_ms == 0:
                return None

    async def _check_waits(self, digest: bytes) -> None:
        """Raises TransactionDropped."""
        found = await self.rpc("avow_dropped", "0x" + digest.hex())
        if found is not None:
            self._next_nonce = None
            why, number = str(found["reason"]), int(found["code"])
            raise TransactionDropped(f"the chain dropped the transaction: {why}", hash=digest.hex(), number=number)

    async def can_be_included(self, nonce: int) -> bool:
        """Whether a transaction of the account with this nonce can still come into a block."""
        return nonce >= int(await self.rpc("eth_getTransactionCount", self._hex_address(), "latest"), 16)

    async def transact(
        self, module: bytes, function: str, *arguments: Any, gas_limit: int | None = None, value: int = 0
    ) -> Included:
        """Sign, send and await a call. Raises Refused, ChainRejected, ChainUnavailable."""
        for attempt in range(NONCE_RETRIES):
            async with self.lock:
                signed = await self.sign(module, function, *arguments, gas_limit=gas_limit, value=value)
                try:
                    await self.send(signed.raw)
                except ChainRejected as rejected:
                    if "nonce too" not in rejected.detail or attempt == NONCE_RETRIES - 1:
                        raise
                    continue
            found = await self.included(signed.hash)
            if found is not None:
                return found
            raise ChainUnavailable("the transaction waits and is in no block yet", hash=signed.hash.hex())
        raise ChainRejected("another process uses this account's nonces")

    # --- Proofs -----------------------------------------------------------------------------------------------------

    async def standing(self, key: bytes) -> Standing | None:
        """A key's standing under a signed header; None when it is not registered."""
        found = await self.rpc("avow_standing", "0x" + key.hex())
        return None if found is None else Standing.from_value(decode(from_base64url(found)))

    async def settlement(self, digest: bytes, *, timeout_s: float = 10.0) -> bytes | None:
        """CBOR {"height", "anchor", "block"} of a settlement transaction; None if it is in no block in time."""
        wait_ms = min(int(timeout_s * 1000), 60_000)
        found = await self.rpc("avow_settlement", "0x" + digest.hex(), hex(wait_ms), extra_s=timeout_s)
        return None if found is None else from_base64url(found)

    async def history(self, key: bytes, number: int) -> bytes | None:
        """CBOR {"height", "leaves", "anchor", "block"} of the batch with a key's statement; None if it is not settled."""
        found = await self.rpc("avow_history", "0x" + key.hex(), hex(number))
        return None if found is None else from_base64url(found)

    async def backing(self, key: bytes) -> tuple[Standing, BondProof] | None:
        """A key's standing and its operator's bond under one signed header; None when it is not registered."""
        found = await self.rpc("avow_backing", "0x" + key.hex())
        if found is None:
            return None
        item = mapping(decode(from_base64url(found)), "backing", ("standing", "bond"))
        return Standing.from_value(item["standing"]), BondProof.from_value(item["bond"])

    async def finality(self, key: bytes, number: int) -> FinalityProof | None:
        """The record of the optimistic batch with a key's statement, under a signed header; None if there is none."""
        found = await self.rpc("avow_finality", "0x" + key.hex(), hex(number))
        return None if found is None else FinalityProof.from_value(decode(from_base64url(found)))

    async def optimistic(self) -> OptimisticRules:
        """The method's rules as they stand now."""
        shown = await self.rpc("avow_optimistic")
        names = ("window_ms", "move_ms", "audit_ppm", "gain_factor", "reveal_blocks")
        money = ("bond_floor", "challenge_bond", "demand_bond")
        parameters = OptimisticParameters(
            **{name: int(shown[name]) for name in (*names, *money)},
            watchers=tuple([bytes.fromhex(address[2:]) for address in shown["watchers"]]),
        )
        return OptimisticRules(parameters, int(shown["clock"]))

    async def logs(
        self, module: bytes, name: str, from_height: int, to_height: int | None = None, *, indexed: Sequence[bytes] = ()
    ) -> list[Log]:
        """The module's events of that name in blocks since `from_height`, in order. `indexed`: leading indexed parameters."""
        event = MODULES[module].interface.events[name]
        wanted = {
            "fromBlock": hex(from_height),
            "toBlock": "latest" if to_height is None else hex(to_height),
            "address": "0x" + module.hex(),
            "topics": ["0x" + topic.hex() for topic in (event.topic, *indexed)],
        }
        return [
            Log(
                tuple([bytes.fromhex(topic[2:]) for topic in found["topics"][1:]]),
                tuple(event.decode_data(bytes.fromhex(found["data"][2:]))),
                int(found["blockNumber"], 16),
                bytes.fromhex(found["transactionHash"][2:]),
            )
            for found in await self.rpc("eth_getLogs", wanted)
        ]

    async def trust(self) -> TrustPolicy:
        """The policy that pins this network at its last block."""
        return TrustPolicy.from_json(_encode(await self.rpc("avow_trust")))

    async def wait_height(self, height: int, *, timeout_s: float = 30.0) -> int:
        """The chain's height, once it is at least `height`. Raises ChainUnavailable when the time is over."""
        wait_ms = min(int(timeout_s * 1000), 60_000)
        found = int(await self.rpc("avow_waitForHeight", hex(height), hex(wait_ms), extra_s=timeout_s))
        if found < height:
            raise ChainUnavailable("the chain does not reach the height", expected=height, found=found)
        return found

    # --- What nodes ask ---------------------------------------------------------------------------------------------

    async def balance(self, address: bytes) -> int:
        return int(await self.rpc("eth_getBalance", "0x" + address.hex(), "latest"), 16)

    async def allowance(self, payer: bytes, node: bytes) -> tuple[int, int]:
        """Wei that `node` may still charge `payer`, and until when (block time in milliseconds)."""
        remaining, expiry_ms = await self.view(bank.ADDRESS, "allowance", payer, node)
        return remaining, expiry_ms

    async def allow(self, node: bytes, cap: int, expiry_ms: int) -> Included:
        return await self.transact(bank.ADDRESS, "allow", node, cap, expiry_ms)

    async def price(self, operator: bytes, program: bytes, method: int) -> tuple[int, int]:
        """Version and wei per unit; version 0 when none is set."""
        version, per_unit = await self.view(nodes.ADDRESS, "price", operator, program, method)
        return version, per_unit

    async def beacon(self) -> tuple[bytes, int, int]:
        """The newest block hash that a registration may bind, its height and its time in milliseconds."""
        block_hash, height, time_ms = await self.view(nodes.ADDRESS, "beacon")
        return block_hash, height, time_ms

    async def key_record(self, key: bytes) -> KeyRecord | None:
        [record] = await self.view(nodes.ADDRESS, "keyRecord", key)
        return KeyRecord.from_bytes(record) if record else None

    async def next_number(self, key: bytes) -> int:
        """The next number of a key to settle."""
        number, _ = await self.view(settlement.ADDRESS, "next", key)
        return int(number)


def function_of(module: bytes, function: str) -> Function:
    """A function of a module's interface."""
    return MODULES[module].interface.functions[function]


def settlement_gas(
    batch: bytes, *, statements: int, payers: int, programs: int, authorisations: int = 0, voids: int = 0
) -> int:
    """A gas limit that a batch of this size does not exceed; what is left of it is not paid."""
    data = function_of(settlement.ADDRESS, "settle").encode_call(batch)
    return (
        intrinsic_gas(data)
        + 300_000
        + gas.BATCH_BYTE * len(batch)
        + 1_000 * statements
        + 60_000 * payers
        + 20_000 * programs
        + 40_000 * authorisations
        + 40_000 * voids
    )


def _included(digest: bytes, receipt: dict[str, Any]) -> Included:
    data = bytes.fromhex(receipt["data"][2:])
    if receipt["code"] != Code.OK:
        refused = refusal(data)
        raise refused if refused is not None else ChainRejected(receipt["log"], status=receipt["code"])
    item = decode(data)
    if not isinstance(item, dict) or not isinstance(item["to"], bytes) or not isinstance(item["output"], bytes):
        raise ChainRejected("the transaction's result is not understood")
    return Included(
        hash=digest,
        height=int(receipt["blockNumber"], 16),
        index=int(receipt["transactionIndex"], 16),
        gas_used=int(receipt["gasUsed"], 16),
        output=item["output"],
    )


def _error(error: Any) -> AvowError:
    """Rule 3."""
    if not isinstance(error, dict):
        return ChainRejected("the chain answers with an error that is not understood")
    message, data = str(error.get("message", "")), error.get("data")
    if error.get("code") == _REVERTED and isinstance(data, str):
        refused = refusal(bytes.fromhex(data[2:]))
        if refused is not None:
            return refused
    return ChainRejected(message, number=error.get("code") if isinstance(error.get("code"), int) else None)
