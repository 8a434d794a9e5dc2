"""What an inference node needs of the chain, in its own words; operator_chain.py has it over JSON-RPC."""

from typing import Protocol

from avow.nodes.settler import SettlementChain
from avow.receipt.finality import BondProof
from avow.receipt.standing import KeyRecord, Standing


class NodeChain(SettlementChain, Protocol):
    """One operator's view of one chain. Every method may raise ChainUnavailable; what sends a transaction awaits its block."""

    chain_id: str
    operator: bytes

    async def beacon(self) -> bytes:
        """A block hash that a registration may bind now."""
        ...

    async def key_record(self, key: bytes) -> KeyRecord | None: ...

    async def standing(self, key: bytes) -> Standing | None:
        """The key's standing under the newest proven block; None while there is none."""
        ...

    async def backing(self, key: bytes) -> tuple[Standing, BondProof] | None:
        """The key's standing and its operator's bond under the same header."""
        ...

    async def register(
        self, method: int, signing_key: bytes, transport_key: bytes, block_hash: bytes, attestation: bytes
    ) -> None: ...

    async def reattest(self, key: bytes, block_hash: bytes, attestation: bytes) -> None: ...
    async def activate(self, key: bytes) -> None: ...
    async def retire(self, key: bytes) -> None: ...

    async def offered(self, program: bytes) -> bool:
        """Whether the registry offers the program under any name."""
        ...

    async def publish(self, name: str, program: bytes) -> None: ...

    async def declared(self, program: bytes) -> bool:
        """Whether the chain knows the exact program behind it."""
        ...

    async def declare(self, manifest: bytes, header: bytes) -> None: ...

    async def price(self, program: bytes, method: int) -> tuple[int, int]:
        """Version and wei per unit of this operator's price; version 0: none is set."""
        ...

    async def set_price(self, program: bytes, method: int, per_unit: int) -> None: ...

    async def authorisation(self, payer: bytes, nonce: int) -> tuple[bool, int]:
        """Whether the payer's nonce is used up, and the payer's balance in wei."""
        ...

    async def spendable(self, payer: bytes) -> tuple[int, int]:
        """Wei that this operator may still charge the payer and the payer has, and until when (block time in ms)."""
        ...
