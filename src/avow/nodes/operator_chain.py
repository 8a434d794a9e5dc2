"""One operator's view of the chain over JSON-RPC: chain_port.NodeChain on a ChainClient."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from avow.chain.errors import WHOLE_BATCH, Refused
from avow.chain.modules import bank, nodes, optimistic, registry, settlement
from avow.chain.modules.batch import Batch
from avow.chain.transaction import decode_transaction
from avow.nodes.chain_client import (
    ChainClient,
    ChainRejected,
    ChainUnavailable,
    OptimisticRules,
    TransactionDropped,
    settlement_gas,
)
from avow.nodes.headers import HeaderTrust, header_trust
from avow.nodes.pin import is_own
from avow.nodes.proven import ProvenState
from avow.nodes.settler import Refusal
from avow.nodes.upkeep import Demanded
from avow.receipt.encoding import decode
from avow.receipt.finality import BondProof, FinalityProof
from avow.receipt.headers import SignedBlock
from avow.receipt.standing import KeyRecord, KeyState, Standing

log = logging.getLogger(__name__)

_RESEND_S = 10.0
_DROPPED_S = 1.0
_PROOF_S = 20.0


class OperatorChain:
    """Made by `open`; `close` it. Chain errors come as they are; see chain_client.py, rule 3."""

    def __init__(self, client: ChainClient, eip155: int, headers: HeaderTrust, chain_id: str, *, own: bool) -> None:
        """`own`: the chain's node is this operator's, on this machine; another's is believed nothing that is not proven."""
        self._client = client
        self._eip155 = eip155
        self._proven = ProvenState(client, headers, chain_id)
        self._own = own
        self._refused = b""
        self.chain_id = chain_id
        self.operator = client.address

    @classmethod
    async def open(cls, url: str, private_key: bytes, home: Path, *, trust: str | None = None) -> Self:
        """`trust`: as --trust gives it (pin.py). Raises ChainUnavailable, TrustNotPinned, InputError."""
        client = ChainClient(url, private_key)
        try:
            network = await client.network()
            now_ms = time.time_ns() // 1_000_000
            headers = header_trust(home, url, network.chain_id, given=trust, now_ms=now_ms, name="node/headers")
        except BaseException:
            await client.close()
            raise
        return cls(client, network.eip155, headers, network.chain_id, own=trust is None and is_own(url))

    async def close(self) -> None:
        await self._client.close()

    # Settlement.

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """The account's line: held from signing to sending. What is signed and not sent gives its nonce back."""
        async with self._client.lock:
            try:
                yield
            except BaseException:
                self._client.forget_nonce()
                raise

    async def sign_batch(self, batch: bytes, *, all_void: bool) -> tuple[bytes, bytes]:
        parsed = await asyncio.to_thread(Batch.from_bytes, batch)
        gas_limit = settlement_gas(
            batch,
            statements=len(parsed),
            payers=len(parsed.payers),
            programs=len(parsed.programs),
            authorisations=len(parsed.authorisations),
            voids=len(parsed) - parsed.void.count(0),
        )
        function = "void" if all_void else "settle"
        signed = await self._client.sign(settlement.ADDRESS, function, batch, gas_limit=gas_limit)
        return signed.raw, signed.hash

    async def send(self, transaction: bytes) -> None:
        """What is refused here will stand in no block; `outcome` says so."""
        try:
            await self._client.send(transaction)
        except Refused:
            self._refused = transaction

    async def outcome(self, transaction: bytes, transaction_hash: bytes) -> bool | None:
        nonce = decode_transaction(transaction, self._eip155).nonce
        while transaction != self._refused:
            try:
                if await self._is_included(transaction_hash, _RESEND_S):
                    return True
                if not await self._client.can_be_included(nonce):
                    return True if await self._is_included(transaction_hash, 0.0) else None
            except (Refused, ChainRejected):
                return False
            with contextlib.suppress(ChainRejected):
                await self.send(transaction)
        return False

    async def _is_included(self, transaction_hash: bytes, timeout_s: float) -> bool:
        """Raises Refused or ChainRejected. What one of the chain's nodes dropped may wait at another: it is not over for that."""
        try:
            return await self._client.included(transaction_hash, timeout_s=timeout_s) is not None
        except TransactionDropped as dropped:
            log.warning("a settlement is sent again: %s", dropped.detail)
            await asyncio.sleep(min(timeout_s, _DROPPED_S))
            return False

    async def refusal(self, batch: bytes, *, all_void: bool) -> Refusal | None:
        refused = await self._client.refusal(settlement.ADDRESS, "void" if all_void else "settle", batch)
        if refused is None:
            return None
        return Refusal(WHOLE_BATCH if refused.index is None else refused.index, int(refused.reason))

    async def proof(self, transaction_hash: bytes) -> bytes:
        proof = await self._client.settlement(transaction_hash, timeout_s=_PROOF_S)
        if proof is None:
            raise ChainUnavailable("the settlement's proof is not there yet", hash=transaction_hash.hex())
        item = decode(proof)
        await self._follow(SignedBlock.from_value(item["block"] if isinstance(item, dict) else None))
        return proof

    async def _follow(self, block: SignedBlock) -> None:
        """What a receipt will carry must follow from trusted headers. Raises ChainUnavailable; the next node is asked then."""
        await self._proven.follow(block)

    async def _view(self, module: bytes, function: str, *arguments: Any) -> list[Any]:
        """What this operator gives something for: by proof, unless the chain's node is its own."""
        if self._own:
            return await self._client.view(module, function, *arguments)
        return await self._proven.view(module, function, *arguments, caller=self.operator)

    async def _balance(self, address: bytes) -> int:
        return await (self._client if self._own else self._proven).balance(address)

    async def next_number(self, key: bytes) -> int:
        return await self._client.next_number(key)

    async def key_state(self, key: bytes) -> KeyState:
        record = await self.key_record(key)
        return KeyState.RETIRED if record is None else record.state

    async def revoke(self, key: bytes) -> None:
        await self._client.transact(nodes.ADDRESS, "revoke", key)

    # Keys.

    async def beacon(self) -> bytes:
        block_hash, _, _ = await self._client.beacon()
        return block_hash

    async def key_record(self, key: bytes) -> KeyRecord | None:
        [record] = await self._view(nodes.ADDRESS, "keyRecord", key)
        return KeyRecord.from_bytes(record) if record else None

    async def standing(self, key: bytes) -> Standing | None:
        found = await self._client.standing(key)
        if found is not None:
            await self._follow(found.block)
        return found

    async def backing(self, key: bytes) -> tuple[Standing, BondProof] | None:
        found = await self._client.backing(key)
        if found is not None:
            await self._follow(found[0].block)
        return found

    async def register(
        self, method: int, signing_key: bytes, transport_key: bytes, block_hash: bytes, attestation: bytes
    ) -> None:
        await self._client.transact(
            nodes.ADDRESS, "register", method, signing_key, transport_key, block_hash, attestation
        )

    async def reattest(self, key: bytes, block_hash: bytes, attestation: bytes) -> None:
        await self._client.transact(nodes.ADDRESS, "reattest", key, block_hash, attestation)

    async def activate(self, key: bytes) -> None:
        await self._client.transact(nodes.ADDRESS, "activate", key)

    async def retire(self, key: bytes) -> None:
        await self._client.transact(nodes.ADDRESS, "retire", key)

    # Disputes.

    async def optimistic(self) -> OptimisticRules:
        return await self._client.optimistic()

    async def bond(self) -> tuple[int, int]:
        """Wei of this operator's bond, and of it locked."""
        amount, locked, _ = await self._client.view(optimistic.ADDRESS, "bondOf", self.operator)
        return int(amount), int(locked)

    async def deposit(self, amount: int) -> None:
        await self._client.transact(optimistic.ADDRESS, "deposit", value=amount)

    async def finalise(self, key: bytes, first: int) -> None:
        await self._client.transact(optimistic.ADDRESS, "finalise", key, first)

    async def finality(self, key: bytes, number: int) -> FinalityProof | None:
        found = await self._client.finality(key, number)
        if found is not None:
            await self._follow(found.block)
        return found

    async def demands(self, key: bytes, from_height: int) -> list[Demanded]:
        logs = await self._client.logs(optimistic.ADDRESS, "Demanded", from_height, indexed=(key,))
        return [Demanded(log.indexed[1], log.values[1], log.values[4], log.height) for log in logs]

    async def is_posed(self, demand: bytes) -> bool:
        """Whether the demand still waits for its answer."""
        demander, *_ = await self._client.view(optimistic.ADDRESS, "demandOf", demand)
        return any(demander)

    async def answer(self, demand: bytes, given: bytes) -> None:
        await self._client.transact(optimistic.ADDRESS, "answer", demand, given)

    # Programs and payers.

    async def offered(self, program: bytes) -> bool:
        offers, _ = await self._view(registry.ADDRESS, "program", program)
        return bool(offers)

    async def publish(self, name: str, program: bytes) -> None:
        """Under its own name, or where that is another's, under one that ends in this operator's address."""
        try:
            await self._client.transact(registry.ADDRESS, "publish", name, program)
        except Refused:
            if await self.offered(program):
                return
            own = f"{name[:48]}-{self.operator.hex()[:12]}"
            await self._client.transact(registry.ADDRESS, "publish", own, program)

    async def declared(self, program: bytes) -> bool:
        """Whether the chain knows the exact program behind it, as optimistic statements need."""
        root, _ = await self._client.view(registry.ADDRESS, "declared", program)
        return any(root)

    async def declare(self, manifest: bytes, header: bytes) -> None:
        await self._client.transact(registry.ADDRESS, "declare", manifest, header)

    async def price(self, program: bytes, method: int) -> tuple[int, int]:
        version, per_unit = await self._view(nodes.ADDRESS, "price", self.operator, program, method)
        return version, per_unit

    async def set_price(self, program: bytes, method: int, per_unit: int) -> None:
        await self._client.transact(nodes.ADDRESS, "setPrice", program, method, per_unit)

    async def authorisation(self, payer: bytes, nonce: int) -> tuple[bool, int]:
        (used,), balance = await asyncio.gather(
            self._view(bank.ADDRESS, "authorisationUsed", payer, nonce), self._balance(payer)
        )
        return bool(used), balance

    async def spendable(self, payer: bytes) -> tuple[int, int]:
        (remaining, expiry_ms), balance = await asyncio.gather(
            self._view(bank.ADDRESS, "allowance", payer, self.operator), self._balance(payer)
        )
        return min(remaining, balance), expiry_ms
