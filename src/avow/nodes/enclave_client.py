"""The node's side of the enclave's socket."""

from avow.nodes import wire
from avow.nodes.calls import Caller, EventHandler
from avow.nodes.enclave import Binding, BoundKey, EnclaveDescription, EnclaveJob
from avow.nodes.jobs import Signed, Terms
from avow.nodes.service import ask_payload
from avow.nodes.wire import Kind


class EnclaveClient(Caller):
    """One connection to an enclave. Methods raise what the enclave reports, or ConnectionLost."""

    async def describe(self) -> EnclaveDescription:
        return wire.decode(await self.ask(ask_payload("describe")), EnclaveDescription)

    async def bind(self, chain_id: str, operator: bytes) -> BoundKey:
        """The key of the enclave's boot, for this chain and operator."""
        return wire.decode(await self.ask(ask_payload("bind", Binding(chain_id, operator))), BoundKey)

    async def attest(self, block_hash: bytes) -> bytes:
        """An attestation document that binds the key to the block."""
        return await self.ask(ask_payload("attest", block_hash), timeout_s=120.0)

    async def kept(self, first: int) -> list[Signed]:
        """Statements from number `first` on that the enclave signed and that are not acknowledged."""
        return wire.decode(await self.ask(ask_payload("kept", first)), list[Signed])

    def acknowledge(self, durable: int) -> None:
        """Numbers below `durable` are on the node's disk."""
        self.note(wire.encode(durable))

    def run(self, terms: Terms, job: bytes, handler: EventHandler) -> int:
        """Start a job (the gateway's bytes); the call's number, for `control`."""
        return self.open(Kind.JOB, wire.encode(EnclaveJob(terms, job)), handler)
