"""The one place that signs statements: a key for one boot, a counter from 0, and the chain of heads.

Rules:
1. Signing key and transport key are made here, at start, and live in this object alone. Nothing stores them: a restart
   is a new key.
2. Statement n+1 is signed only after statement n; number and head change together, in `sign`. Who signs holds `lock`, and keeps it
   until the statement is on its way: statements leave in the order of their numbers.
3. A number is given once. What is signed but never delivered is settled as void; it is not taken back.
"""

import logging
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avow.nodes.jobs import Signed
from avow.nodes.splice import SignatureInputs
from avow.receipt.statement import (
    Method,
    cose_sign1,
    first_head,
    key_id,
    next_head,
    private_hash,
    signature_input,
    statement_hash,
    stream_payload,
)
from avow.receipt.stream import mac_key, shared_secret

log = logging.getLogger(__name__)

_ES256 = ec.ECDSA(hashes.SHA256())
_TRACE_BYTES = 32
pack_columns = struct.Struct(">Q32s20sBQ16sIQ").pack
"""statement.Columns.pack, rule 2 there; optimistic statements have 33 bytes more."""


@dataclass(frozen=True, slots=True)
class Charge:
    """The columns of a statement but for its number, which the signer gives. `trace` and `terms`: of the method optimistic alone."""

    program: bytes
    payer: bytes
    units: int
    amount: int
    price_version: int
    ended_ms: int
    trace: bytes = b""
    terms: int = 0


class Signer:
    """Rules 1 to 3. `operator` is the node's account, 20 bytes."""

    def __init__(self, chain_id: str, operator: bytes, method: Method) -> None:
        self.chain_id = chain_id
        self.operator = operator
        self.method = method
        self.lock = threading.RLock()
        self.finishing: deque[Callable[[], None]] = deque()
        """What is to be signed by whoever has the lock, each with what follows its signature; see `catch_up`."""
        self._signing = ec.generate_private_key(ec.SECP256R1())
        self._transport = ec.generate_private_key(ec.SECP256R1())
        self.signing_key = _point(self._signing)
        self.transport_key = _point(self._transport)
        self.key = key_id(self.signing_key)
        self.next_number = 0
        self._inputs = SignatureInputs(chain_id, self.key)
        self.head = first_head(chain_id, self.key)

    def catch_up(self) -> None:
        """Do what is in `finishing`, unless another thread is at it. To be called after each addition, and after each hold of the lock."""
        while self.finishing and self.lock.acquire(blocking=False):
            try:
                while self.finishing:
                    self.finishing.popleft()()
            except Exception:  # each is the outermost frame of an answer of its own
                log.exception("an answer could not be handed over")
            finally:
                self.lock.release()

    def sign(self, charge: Charge, private: bytes) -> Signed:
        """Number, chain and sign one statement. `private`: CBOR that names this signer's chain, operator and key."""
        number = self.next_number
        columns = pack_columns(
            number,
            charge.program,
            charge.payer,
            self.method,
            charge.units,
            charge.amount.to_bytes(16),
            charge.price_version,
            charge.ended_ms,
        )
        if self.method is Method.OPTIMISTIC:
            if len(charge.trace) != _TRACE_BYTES:
                raise ValueError("an optimistic statement carries the 32 bytes of its trace")
            columns += charge.trace + charge.terms.to_bytes(1)
        digest = statement_hash(columns, private_hash(private))
        previous = self.head
        head = next_head(previous, digest)
        signature = self._sign(self._inputs.statement(number, digest, head))
        self.next_number = number + 1
        self.head = head
        return Signed(number, digest, columns, private, previous, head, signature)

    def sign_stream_head(self, request: bytes, effective: bytes, chunks: int, head: bytes) -> bytes:
        """The COSE_Sign1 that proves what a stream delivered up to `head`."""
        return self._cose(stream_payload(self.chain_id, self.key, request, effective, chunks, head))

    def prove_possession(self, digest: bytes) -> bytes:
        """A COSE_Sign1 over a registration digest: what a key without attestation registers with."""
        return self._cose(digest)

    def mac_key(self, client_key: bytes, request: bytes, effective: bytes) -> bytes:
        """The key of a stream's MACs, shared with whoever holds the private half of `client_key` (65 bytes)."""
        return mac_key(shared_secret(self._transport, client_key), request, effective)

    def _cose(self, payload: bytes) -> bytes:
        return self._sign(signature_input(payload))

    def _sign(self, data: bytes) -> bytes:
        return cose_sign1(*decode_dss_signature(self._signing.sign(data, _ES256)))


def _point(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
