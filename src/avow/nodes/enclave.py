"""The enclave: it alone holds the key, runs the engine, and signs. The node talks to it over one socket.

Rules:
1. Programs are loaded by digest before the socket opens; what is measured (PCR2) is what is loaded.
2. A key is made for the first chain and operator that a node binds, in memory, for this boot. Another binding is refused.
3. Signed statements are kept until the node says that they are durable; a node that restarts fetches the rest and settles
   them as void. When too many are kept, jobs are refused: the node is not listening.
4. The attester may block for seconds: it runs in a thread.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec

from avow.errors import AvowError, InputError
from avow.methods.registration import registration_digest
from avow.nodes import wire
from avow.nodes.errors import Busy, NotReady
from avow.nodes.jobs import Address, Begin, Chunks, Hash32, Head, Job, Point, Result, Signed, Terms
from avow.nodes.loaded import Loaded
from avow.nodes.run import Run
from avow.nodes.runner import Runner
from avow.nodes.service import Handle, Port, Service
from avow.nodes.signer import Signer
from avow.nodes.wire import Kind
from avow.receipt.statement import Method

log = logging.getLogger(__name__)

MAX_KEPT = 16_384
"""Statements that are signed and not yet acknowledged as durable."""


class Attester(Protocol):
    """What of methods/tee/attesters is needed here."""

    @property
    def name(self) -> str: ...
    @property
    def hardware(self) -> bool: ...
    @property
    def root(self) -> bytes: ...
    def attest(
        self, public_key: bytes | None = None, user_data: bytes | None = None, nonce: bytes | None = None
    ) -> bytes: ...


class Binding(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Whose key this is to be."""

    chain_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    operator: Address


class BoundKey(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The key of this boot."""

    key: Hash32
    signing_key: Point
    transport_key: Point
    next_number: int


class EnclaveProgram(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A program that is loaded here."""

    program: Hash32
    name: str
    kind: str
    engine: str
    engine_version: str
    manifest: bytes
    metadata: bytes = b""


class EnclaveDescription(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What runs here. `root`: the certificate (DER) that attestations chain to."""

    attester: str
    hardware: bool
    root: bytes
    programs: list[EnclaveProgram]


class EnclaveJob(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A job as the node passes it on: its terms, and the gateway's bytes."""

    terms: Terms
    job: bytes


@dataclass(frozen=True, slots=True)
class _Sink:
    """Events of a run, onto the wire."""

    port: Port
    enclave: "Enclave"

    def begin(self, begin: Begin) -> None:
        self.port.send(Kind.BEGIN, wire.encode(begin))

    def chunks(self, chunks: Chunks) -> None:
        self.port.send(Kind.CHUNKS, wire.encode(chunks))

    def head(self, head: Head) -> None:
        self.port.send(Kind.HEAD, wire.encode(head))

    def end(self, result: Result) -> None:
        self.enclave.keep(result.signed)
        self.port.finish(wire.encode(result))

    def failed(self, error: AvowError) -> None:
        self.port.fail(error)


class Enclave:
    """Rules 2 to 4. Made on the loop that serves it."""

    def __init__(self, programs: Mapping[bytes, Loaded], attester: Attester) -> None:
        self._programs = programs
        self._attester = attester
        self._binding: Binding | None = None
        self._runner: Runner | None = None
        self._kept: OrderedDict[int, Signed] = OrderedDict()
        self._service = Service(
            self._start,
            {"describe": self._describe, "bind": self._bind, "attest": self._attest, "kept": self._statements},
            self._acknowledge,
        )

    async def listen(self, address: str) -> None:
        await self._service.listen(address)

    async def close(self) -> None:
        await self._service.close()
        if self._runner is not None:
            self._runner.close()

    def keep(self, signed: Signed) -> None:
        """Rule 3. Called by whoever signed, who holds the signer's lock."""
        self._kept[signed.number] = signed

    def _start(self, port: Port, payload: bytes) -> Handle:
        runner = self._runner
        if runner is None:
            raise NotReady("no node has bound this enclave's key")
        if len(self._kept) >= MAX_KEPT:
            raise Busy("the node does not acknowledge statements", kept=len(self._kept))
        outer = wire.decode(payload, EnclaveJob)
        run: Run = runner.start(wire.decode(outer.job, Job), outer.terms, _Sink(port, self))
        return run

    async def _describe(self, _args: bytes) -> bytes:
        programs = [
            EnclaveProgram(
                program,
                item.name,
                item.kind,
                item.engine.name,
                item.engine.version,
                item.manifest,
                item.metadata,
            )
            for program, item in self._programs.items()
        ]
        attester = self._attester
        return wire.encode(EnclaveDescription(attester.name, attester.hardware, attester.root, programs))

    async def _bind(self, args: bytes) -> bytes:
        binding = wire.decode(args, Binding)
        if self._binding is None:
            self._binding = binding
            self._runner = Runner(
                self._programs, Signer(binding.chain_id, binding.operator, Method.TEE), handing_over=True
            )
            log.info("bound to %s for 0x%s", binding.chain_id, binding.operator.hex())
        if self._binding != binding or self._runner is None:
            raise InputError("this enclave's key is bound to another chain or operator")
        signer = self._runner.signer
        return wire.encode(BoundKey(signer.key, signer.signing_key, signer.transport_key, signer.next_number))

    async def _attest(self, args: bytes) -> bytes:
        block_hash = wire.decode(args, bytes)
        if self._runner is None:
            raise NotReady("no node has bound this enclave's key")
        signer = self._runner.signer
        digest = registration_digest(
            signer.chain_id, signer.operator, signer.signing_key, signer.transport_key, block_hash
        )
        return await asyncio.to_thread(self._attester.attest, signer.signing_key, digest)

    async def _statements(self, args: bytes) -> bytes:
        """At most 4,096 of the statements that are kept, from a number on, in order."""
        first = wire.decode(args, int)
        return wire.encode([signed for number, signed in list(self._kept.items()) if number >= first][:4096])

    def _acknowledge(self, payload: bytes) -> None:
        self._forget(wire.decode(payload, int))

    def _forget(self, durable: int) -> None:
        kept = self._kept
        while kept and next(iter(kept)) < durable:
            kept.popitem(last=False)
