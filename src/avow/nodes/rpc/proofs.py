"""Avow's own methods (avow_): the network's trust policy, and the proofs that receipts carry.

Rules:
1. Keys and hashes are taken as 0x-hex (or base64url); proofs are given as base64url of their canonical CBOR.
2. What is not there yet is null, after the given time-out; what can never be there is an error.
3. Nothing here is trusted by who asks: every proof is checked against a signed header.
"""

import json
from typing import Any

from avow.chain import views
from avow.chain.application import SOFTWARE_VERSION
from avow.chain.errors import Code
from avow.chain.host import Block
from avow.chain.modules import optimistic, settlement, watchers, window
from avow.nodes.pin import policy_of
from avow.nodes.rpc import values
from avow.nodes.rpc.ethereum import Method
from avow.nodes.rpc.node import ChainNode
from avow.nodes.rpc.values import RpcError
from avow.receipt import merkle
from avow.receipt.encoding import Value, base64url, decode, encode
from avow.receipt.evidence import HistoryAnchor, ResultAnchor
from avow.receipt.finality import BondProof, FinalityProof, batch_key, bond_key
from avow.receipt.standing import KEY_PREFIX, KeyRecord, Standing


class ProofMethods:
    """The method table over one node."""

    def __init__(self, node: ChainNode) -> None:
        self._node = node

    def table(self) -> dict[str, Method]:
        return {
            "avow_status": self._status,
            "avow_genesis": self._genesis,
            "avow_trust": self._trust,
            "avow_header": self._header,
            "avow_standing": self._standing,
            "avow_settlement": self._settlement,
            "avow_history": self._history,
            "avow_prove": self._prove,
            "avow_backing": self._backing,
            "avow_finality": self._finality,
            "avow_optimistic": self._optimistic,
            "avow_waitForHeight": self._wait_for_height,
            "avow_waitForTransaction": self._wait_for_transaction,
            "avow_dropped": self._dropped,
        }

    # --- The network ------------------------------------------------------------------------------------------------

    async def _status(self, _: list[Any]) -> dict[str, Any]:
        node = self._node
        block = node.engine.block(node.engine.height)
        return {
            "version": SOFTWARE_VERSION,
            "chain_id": node.genesis.chain_id,
            "eip155": node.genesis.eip155,
            "height": block.height,
            "base": node.engine.base,
            "time_ms": block.header.time_ns // 1_000_000,
            "block_hash": views.data(block.header.hash),
            "waiting": node.engine.waiting,
            "base_fee": node.genesis.base_fee,
            "heartbeat_ms": node.genesis.heartbeat_ms,
        }

    async def _genesis(self, _: list[Any]) -> str:
        return base64url(self._node.genesis.to_bytes())

    async def _trust(self, _: list[Any]) -> Any:
        """The policy that pins this network at its last block, as JSON."""
        block = self._node.engine.block(self._node.engine.height)
        return json.loads(policy_of(self._node.genesis, block.signed_block).to_json())

    async def _optimistic(self, _: list[Any]) -> dict[str, Any]:
        """The method's parameters, its appointed watchers, and the window clock of a block made now; money in wei, as text."""
        node, rules = self._node, self._node.genesis.optimistic
        prefix = watchers.WATCHER_PREFIX
        return {
            "address": views.data(optimistic.ADDRESS),
            "window_ms": rules.window_ms,
            "move_ms": rules.move_ms,
            "audit_ppm": rules.audit_ppm,
            "gain_factor": rules.gain_factor,
            "reveal_blocks": rules.reveal_blocks,
            "bond_floor": str(rules.bond_floor),
            "challenge_bond": str(rules.challenge_bond),
            "demand_bond": str(rules.demand_bond),
            "watchers": [views.address(key[len(prefix) :]) for key, _ in node.store.iterate(prefix)],
            "clock": window.read(
                node.store.get(window.CLOCK_KEY), node.genesis, Block(node.engine.height + 1, node.next_block_ms())
            ),
        }

    async def _header(self, params: list[Any]) -> str | None:
        """A block's header, commit and validators; null when it is not kept, or not there yet."""
        height = values.quantity(values.parameter(params, 0, "height"), "height", maximum=(1 << 63) - 1)
        if not self._node.engine.base <= height <= self._node.engine.height:
            return None
        return base64url(encode(self._node.engine.signed_block(height).to_value()))

    # --- Proofs -----------------------------------------------------------------------------------------------------

    async def _standing(self, params: list[Any]) -> str | None:
        """A key's record under a signed header; null when the key is not registered."""
        key = values.key(values.parameter(params, 0, "key"), "key")
        store = self._node.store

        def read() -> tuple[bytes, merkle.SparseProof, bytes] | None:
            record = store.get(KEY_PREFIX + key)
            if record is None:
                return None
            return record, store.prove(KEY_PREFIX + key), store.committed.history.root()

        found, block = await self._node.proven(read)
        return None if found is None else base64url(encode(Standing(*found, block).to_value()))

    async def _backing(self, params: list[Any]) -> str | None:
        """{"standing", "bond"}: a key's standing and its operator's bond under one header; null when the key is not registered."""
        key = values.key(values.parameter(params, 0, "key"), "key")
        store = self._node.store

        def read() -> tuple[tuple[bytes, merkle.SparseProof, bytes], BondProof] | None:
            record = store.get(KEY_PREFIX + key)
            if record is None:
                return None
            place = bond_key(KeyRecord.from_bytes(record).operator)
            bond = BondProof(store.get(place), store.prove(place))
            return (record, store.prove(KEY_PREFIX + key), store.committed.history.root()), bond

        found, block = await self._node.proven(read)
        if found is None:
            return None
        return base64url(encode({"standing": Standing(*found[0], block).to_value(), "bond": found[1].to_value()}))

    async def _finality(self, params: list[Any]) -> str | None:
        """The record of the optimistic batch with a key's statement (finality.FinalityProof); null if there is none."""
        key = values.key(values.parameter(params, 0, "key"), "key")
        number = values.quantity(values.parameter(params, 1, "number"), "number", maximum=(1 << 64) - 1)
        store = self._node.store
        batch = self._node.index.batch(key, number)
        if batch is None:
            return None
        place = batch_key(key, batch.first)

        def read() -> tuple[int, bytes, merkle.SparseProof, bytes] | None:
            record = store.get(place)
            if record is None:
                return None
            return batch.first, record, store.prove(place), store.committed.history.root()

        found, block = await self._node.proven(read)
        return None if found is None else base64url(encode(FinalityProof(*found, block).to_value()))

    async def _prove(self, params: list[Any]) -> str:
        """{"value", "proof", "history_root", "block"} of any state key, membership or absence."""
        key = values.data(values.parameter(params, 0, "key"), "key", maximum=1024)
        store = self._node.store

        def read() -> dict[str, Value]:
            return {
                "value": store.get(key),
                "proof": store.prove(key).to_value(),
                "history_root": store.committed.history.root(),
            }

        found, block = await self._node.proven(read)
        return base64url(encode({**found, "block": block.to_value()}))

    async def _settlement(self, params: list[Any]) -> str | None:
        """{"height", "anchor", "block"}: that a settlement's result is under the next header; null until it is."""
        digest = values.octets(values.parameter(params, 0, "hash"), "hash", 32)
        timeout_s = values.timeout_s(values.optional(params, 1, 0))
        place = await self._node.wait_found(digest, timeout_s)
        if place is None:
            return None
        height, index = place
        block = self._node.engine.block(height)
        results = [result.deterministic() for result in block.results]
        result = results[index]
        if result.code != Code.OK:
            raise RpcError(values.REVERTED, block.results[index].log, views.data(result.data))
        item = decode(result.data)
        if not isinstance(item, dict) or item.get("to") != settlement.ADDRESS:
            raise RpcError(values.SERVER_ERROR, "the transaction is not a settlement")
        if not await self._node.wait_height(height + 1, max(timeout_s, 1.0)):
            return None
        path = merkle.path([leaf.leaf() for leaf in results], index)
        anchor = ResultAnchor(index, len(results), result, tuple(path))
        return base64url(
            encode(
                {
                    "height": height,
                    "anchor": {
                        "index": anchor.index,
                        "total": anchor.total,
                        "result": result.to_value(),
                        "path": list(anchor.path),
                    },
                    "block": self._node.engine.signed_block(height + 1).to_value(),
                }
            )
        )

    async def _history(self, params: list[Any]) -> str | None:
        """{"height", "leaves", "anchor", "block"}: that the batch with a key's statement is in the history; null if none is."""
        key = values.key(values.parameter(params, 0, "key"), "key")
        number = values.quantity(values.parameter(params, 1, "number"), "number", maximum=(1 << 64) - 1)
        store = self._node.store
        batch = self._node.index.batch(key, number)
        if batch is None:
            return None

        def read() -> HistoryAnchor:
            proof = store.prove_history(batch.history_index)
            return HistoryAnchor(batch.history_index, batch.first, batch.root, proof, store.committed.state_root)

        anchor, block = await self._node.proven(read)
        return base64url(
            encode(
                {
                    "height": batch.height,
                    "leaves": batch.count,
                    "anchor": {
                        "index": anchor.index,
                        "first": anchor.first,
                        "root": anchor.root,
                        "history": anchor.proof.to_value(),
                        "state_root": anchor.state_root,
                    },
                    "block": block.to_value(),
                }
            )
        )

    # --- Waiting ----------------------------------------------------------------------------------------------------

    async def _wait_for_height(self, params: list[Any]) -> int:
        """The chain's height, once it is at least the one given or the time is over."""
        height = values.quantity(values.parameter(params, 0, "height"), "height")
        await self._node.wait_height(height, values.timeout_s(values.optional(params, 1, 10_000)))
        return self._node.engine.height

    async def _wait_for_transaction(self, params: list[Any]) -> Any:
        """The transaction's receipt as eth_getTransactionReceipt gives it, once it is in a block; with the result's data and text."""
        digest = values.octets(values.parameter(params, 0, "hash"), "hash", 32)
        place = await self._node.wait_found(digest, values.timeout_s(values.optional(params, 1, 10_000)))
        if place is None:
            return None
        block = self._node.engine.block(place[0])
        result = block.results[place[1]]
        receipt = self._node.view(block).receipt(place[1])
        return receipt | {"code": result.code, "data": views.data(result.data), "log": result.log}

    async def _dropped(self, params: list[Any]) -> dict[str, Any] | None:
        """Why a transaction that this node had taken will not come into a block: {"code", "reason"}; null for any other."""
        why = self._node.dropped(values.octets(values.parameter(params, 0, "hash"), "hash", 32))
        return None if why is None else {"code": why.code, "reason": why.detail}
