"""The node's keys on chain: registered at boot, their standing kept fresh, their attestation renewed before it ends.

Rules:
1. A key answers once the chain has it active and its standing is here. It stops when the chain says otherwise.
2. Standing is renewed every STANDING_S, for optimistic with the proof of the bond; each renewal is a backing of its own for the receipts
   that follow.
3. An attestation is renewed when a third of its time is left. A node that finds its enclave's key registered already (it was
   restarted, the enclave was not) renews at once: the earlier document went with the process.
4. Keys of earlier boots settle what they signed and are then retired.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from avow.errors import AvowError
from avow.nodes.assembly import Backing
from avow.nodes.chain_port import NodeChain
from avow.nodes.delivery import NodeKey
from avow.nodes.outbox import Outbox
from avow.nodes.outbox_rows import StoredKey
from avow.nodes.settler import Settler
from avow.receipt.encoding import encode_trusted
from avow.receipt.standing import KeyState, Standing
from avow.receipt.statement import Method, key_id

log = logging.getLogger(__name__)

STANDING_S = 30.0
_RETRY_S = 1.0
_POLL_S = 0.05
_PROVEN_S = 30.0

Prove = Callable[[bytes], Awaitable[bytes]]
"""From a block hash to what the key registers with: an attestation document, or a proof of possession."""


class Keyring:
    """Rules 1 to 4, for one operator."""

    def __init__(self, chain: NodeChain, outbox: Outbox, settler: Settler) -> None:
        self._chain = chain
        self._outbox = outbox
        self._settler = settler
        self._ended: dict[bytes, StoredKey] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        settler.on_drained = self._drained

    def settle_earlier(self) -> None:
        """Rule 4's first half, for every key on disk."""
        for stored in self._outbox.all_keys():
            if self._outbox.durable(stored.key_number) > stored.settled:
                self._settler.add_key(stored)

    def end_earlier(self, method: int, current: bytes) -> None:
        """Rule 4's second half: of this method there is another key now."""
        for stored in self._outbox.all_keys():
            if stored.method == method and stored.key != current and not stored.retired:
                self._ended[stored.key] = stored
                if self._settler.idle(stored.key_number):
                    self._drained(stored)

    async def register(
        self, method: int, signing_key: bytes, transport_key: bytes, prove: Prove, attester: str = ""
    ) -> NodeKey:
        """Register the key, or take up where the chain has it already; returns once it may answer, or waits to be activated."""
        identity = key_id(signing_key)
        chain = self._chain
        block_hash = await chain.beacon()
        attestation = await prove(block_hash)
        record = await chain.key_record(identity)
        if record is None:
            await chain.register(method, signing_key, transport_key, block_hash, attestation)
        elif attester:
            await chain.reattest(identity, block_hash, attestation)
        stored = await self._outbox.add_key(identity, method)
        key = NodeKey(method, signing_key, transport_key, stored, attester)
        if attester:
            key.attestation, key.registration_block = attestation, block_hash
        self._settler.add_key(stored)
        await self._await_standing(key)
        return key

    async def _await_standing(self, key: NodeKey) -> None:
        """The transaction is in a block; its proof comes with the next."""
        until = time.monotonic() + _PROVEN_S
        while time.monotonic() < until:
            await self.refresh(key)
            if key.backing is not None:
                return
            await asyncio.sleep(_POLL_S)
        log.warning("key %s is not proven on chain yet", key.stored.key.hex())

    async def refresh(self, key: NodeKey) -> None:
        """Rules 1 and 2."""
        found = await self._backing(key)
        if found is None:
            return
        standing, bond = found
        record = standing.check_membership(key.stored.key)
        if record.state is KeyState.REGISTERED:
            await self._chain.activate(key.stored.key)
            return
        backing = Backing.make(
            key.stored.key,
            key.method,
            key.signing_key,
            standing=encode_trusted(standing.to_value()),
            attestation=key.attestation,
            registration_block=key.registration_block,
            bond=bond,
        )
        key.backing_number = await self._outbox.add_backing(backing.digest, backing.stored)
        key.backing = backing
        key.until_ms = record.until_ms
        key.standing_at = time.monotonic()
        ready = record.state is KeyState.ACTIVE
        if key.ready and not ready:
            log.warning("key %s is %s: it answers no more", key.stored.key.hex(), record.state.name.lower())
        key.ready = ready

    async def _backing(self, key: NodeKey) -> tuple[Standing, bytes] | None:
        """The key's standing; of an optimistic one with the proof of the operator's bond, CBOR, under the same header."""
        if key.method != Method.OPTIMISTIC:
            standing = await self._chain.standing(key.stored.key)
            return None if standing is None else (standing, b"")
        backing = await self._chain.backing(key.stored.key)
        return None if backing is None else (backing[0], encode_trusted(backing[1].to_value()))

    async def keep(self, key: NodeKey, prove: Prove) -> None:
        """Rules 2 and 3, until cancelled."""
        started_ms = time.time_ns() // 1_000_000
        pause_s = STANDING_S
        while True:
            await asyncio.sleep(pause_s if key.ready else _RETRY_S)
            pause_s = STANDING_S
            try:
                now_ms = time.time_ns() // 1_000_000
                if key.until_ms is not None and now_ms > key.until_ms - (key.until_ms - started_ms) // 3:
                    block_hash = await self._chain.beacon()
                    attestation = await prove(block_hash)
                    await self._chain.reattest(key.stored.key, block_hash, attestation)
                    key.attestation, key.registration_block = attestation, block_hash
                    started_ms = now_ms
                    await asyncio.sleep(_POLL_S)
                await self.refresh(key)
            except AvowError as error:
                log.warning("standing is not renewed: %s", error.detail)
                pause_s = _RETRY_S

    def _drained(self, stored: StoredKey) -> None:
        if self._ended.pop(stored.key, None) is not None:
            task = asyncio.get_running_loop().create_task(self._retire(stored))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, stored: StoredKey) -> None:
        try:
            record = await self._chain.key_record(stored.key)
            if record is not None and record.state in (KeyState.ACTIVE, KeyState.DRAINING):
                await self._chain.retire(stored.key)
            await self._outbox.set_retired(stored.key_number)
        except AvowError as error:
            log.warning("key %s is not retired: %s", stored.key.hex(), error.detail)

    async def close(self) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
