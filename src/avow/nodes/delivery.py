"""One job on its way through the node: from whoever runs it, through the outbox, to whoever asked.

What the enclave sends is passed on as it comes; only its beginning (which lacks the key's standing) and its end (which
becomes a durable statement and a receipt) are looked into.
"""

import logging
import time
from dataclasses import dataclass
from typing import Protocol

from avow.errors import AvowError
from avow.nodes import wire
from avow.nodes.assembly import Backing, assemble_receipt, opening_member
from avow.nodes.errors import NotReady, OutboxUnwritable, WireError
from avow.nodes.intake import Intake
from avow.nodes.jobs import Answer, Begin, Chunks, Head, Job, Result
from avow.nodes.outbox import Outbox
from avow.nodes.outbox_rows import Entry, StoredKey
from avow.nodes.service import Handle, Port
from avow.nodes.settler import Settler
from avow.nodes.wire import Kind

log = logging.getLogger(__name__)


@dataclass(slots=True)
class NodeKey:
    """A key of this boot and what stands behind it now. `until_ms`: when its attestation ends, if it does."""

    method: int
    signing_key: bytes
    transport_key: bytes
    stored: StoredKey
    attester: str = ""
    attestation: bytes | None = None
    registration_block: bytes | None = None
    backing: Backing | None = None
    backing_number: int | None = None
    standing_at: float = 0.0
    until_ms: int | None = None
    ready: bool = False
    intake: Intake | None = None


class Acknowledge(Protocol):
    """Told when one more statement of the key is on disk."""

    def __call__(self, key: NodeKey) -> None: ...


class Delivery:
    """A sink for a run in this process, and an event handler for one in the enclave. Its handle is given to the service."""

    def __init__(
        self,
        port: Port,
        job: Job,
        key: NodeKey,
        outbox: Outbox,
        settler: Settler,
        acknowledge: Acknowledge,
        release: "Release",
    ) -> None:
        if key.backing is None:
            raise NotReady("the node's key does not stand on chain yet")
        self._port = port
        self._job = job
        self._key = key
        self._backing = key.backing
        self._backing_number = key.backing_number
        self._outbox = outbox
        self._settler = settler
        self._acknowledge = acknowledge
        self._release = release
        self._handle: Handle | None = None
        self._cancelled = False

    # The handle: what the gateway may do.

    def attach(self, handle: Handle) -> None:
        """What runs the job; it is cancelled at once if that was asked for before."""
        self._handle = handle
        if self._cancelled:
            handle.cancel()

    def cancel(self, cause: AvowError | None = None) -> None:
        self._cancelled = True
        if self._handle is not None:
            self._handle.cancel(cause)

    def pause(self) -> None:
        if self._handle is not None:
            self._handle.pause()

    def resume(self) -> None:
        if self._handle is not None:
            self._handle.resume()

    # The events, from a run here or from the enclave.

    def begin(self, begin: Begin) -> None:
        standing = Begin(begin.seed, begin.effective, begin.signing_key, begin.transport_key, self._backing.standing)
        self._port.send(Kind.BEGIN, wire.encode(standing))

    def chunks(self, chunks: Chunks) -> None:
        self._port.send(Kind.CHUNKS, wire.encode(chunks))

    def head(self, head: Head) -> None:
        self._port.send(Kind.HEAD, wire.encode(head))

    def failed(self, error: AvowError) -> None:
        self._release()
        self._port.fail(error)

    def event(self, kind: Kind, payload: bytes) -> None:
        """An event of the enclave's."""
        if kind in (Kind.CHUNKS, Kind.HEAD):
            self._port.send(kind, payload)
            return
        try:
            if kind is Kind.END:
                self.end(wire.decode(payload, Result))
            elif kind is Kind.BEGIN:
                self.begin(wire.decode(payload, Begin))
            else:
                self.failed(wire.decode_failure(payload))
        except WireError as error:
            log.exception("the enclave sent what is no event")
            self.failed(error)

    def end(self, result: Result) -> None:
        """Make the statement durable; the answer leaves after that."""
        others = self._release()
        job, signed = self._job, result.signed
        entry = Entry(
            key_number=self._key.stored.key_number,
            signed=signed,
            backing=self._backing_number,
            sealed=result.sealed,
            created_ms=time.time_ns() // 1_000_000,
            requester_signature=job.requester_signature,
            authorisation=job.authorisation,
            traced=(result.seed, result.header) if result.header else None,
        )
        receipt: list[bytes] = []

        def done(error: OutboxUnwritable | None) -> None:
            if error is not None:
                self._port.fail(error)
                return
            self._settler.added(entry.key_number, signed.number, signed.columns)
            self._acknowledge(self._key)
            self._port.finish(self._answer(result, receipt[0] if receipt else self._receipt(result)))

        def store() -> None:
            self._outbox.put(entry, done, alone=others == 0)

        intake = self._key.intake
        if intake is None:
            store()
        else:
            intake.accept(signed.number, store)
        if not self._port.over:  # while the disk works
            receipt.append(self._receipt(result))

    def _receipt(self, result: Result) -> bytes:
        job = self._job
        return assemble_receipt(
            result.signed,
            self._backing,
            requester_signature=job.requester_signature,
            opening=opening_member(result.seed, job.endpoint, result.effective, result.header),
        )

    def _answer(self, result: Result, receipt: bytes) -> bytes:
        signed = result.signed
        return wire.encode(
            Answer(
                id=signed.id,
                body=result.body,
                receipt=receipt,
                seed=result.seed,
                number=signed.number,
                method=self._key.method,
                complete=result.complete,
                trust_gap_ms=self._settler.trust_gap_ms(),
                key=self._key.stored.key,
                usage=result.usage,
            )
        )


class Release(Protocol):
    """Gives back what was reserved of the payer's money; to be called once. How many other jobs are under way."""

    def __call__(self) -> int: ...
