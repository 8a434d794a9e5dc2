r"""Who asks for the opening of an optimistic answer: an account that signs for itself (EIP-191), as wallets do.

Rules:
1. The text signed is "Avow opening\nnetwork: {chain id}\nreceipt: {id}\ntime: {ms}"; the time is the asker's, within a minute of
   the node's. So a signature opens one receipt on one network for a minute, and nobody else's.
2. Over HTTP it travels as base64url of address ‖ r ‖ s ‖ v ‖ u64 time, 93 bytes, in `avow-watcher`.
3. An opening that is public needs no signature.
"""

from dataclasses import dataclass
from typing import Self

from coincurve import PrivateKey, PublicKey

from avow.errors import AvowError, EncodingError
from avow.receipt.encoding import base64url, from_base64url
from avow.receipt.requester import address_of, keccak256

MAX_AGE_MS = 60_000
_LENGTH = 20 + 65 + 8
_HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2  # SEC 2 §2.4.1


class BadAsker(AvowError):
    """The signature of who asks for an opening does not hold."""

    code = "bad_asker"
    http_status = 401


def _digest(chain_id: str, receipt: bytes, time_ms: int) -> bytes:
    """What is signed: keccak256 of EIP-191's version 0x45 message."""
    text = f"Avow opening\nnetwork: {chain_id}\nreceipt: {receipt.hex()}\ntime: {time_ms}".encode()
    return keccak256(b"\x19Ethereum Signed Message:\n%d" % len(text) + text)


@dataclass(frozen=True, slots=True)
class Asker:
    """An account and its signature over one question."""

    address: bytes
    signature: bytes
    time_ms: int

    def to_header(self) -> str:
        return base64url(self.address + self.signature + self.time_ms.to_bytes(8))

    @classmethod
    def from_header(cls, text: str) -> Self:
        """Raises EncodingError for anything but 93 bytes in base64url."""
        return cls.from_bytes(from_base64url(text, max_bytes=_LENGTH))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        if len(data) != _LENGTH:
            raise EncodingError("avow-watcher holds an address, a signature and a time, 93 bytes", field="avow-watcher")
        return cls(data[:20], data[20:85], int.from_bytes(data[85:]))

    def to_bytes(self) -> bytes:
        return self.address + self.signature + self.time_ms.to_bytes(8)

    def verify(self, chain_id: str, receipt: bytes, now_ms: int) -> None:
        """Raises BadAsker unless this account signed this question, just now."""
        if abs(now_ms - self.time_ms) > MAX_AGE_MS:
            raise BadAsker("the signature is not of this minute", hint="is the clock right?")
        signature = self.signature
        if signature[64] not in (27, 28) or not 0 < int.from_bytes(signature[32:64]) <= _HALF_ORDER:
            raise BadAsker("the signature is not in its one form")
        try:
            recoverable = signature[:64] + bytes((signature[64] - 27,))
            public = PublicKey.from_signature_and_message(
                recoverable, _digest(chain_id, receipt, self.time_ms), hasher=None
            )
        except ValueError:
            raise BadAsker("no key can have made this signature") from None
        if address_of(public.format(compressed=False)) != self.address:
            raise BadAsker("the stated address did not sign this question")


def sign_question(private_key: bytes, chain_id: str, receipt: bytes, time_ms: int) -> Asker:
    """Ask as the account of `private_key` (32 bytes) at `time_ms` since the epoch."""
    key = PrivateKey(private_key)
    raw = key.sign_recoverable(_digest(chain_id, receipt, time_ms), hasher=None)
    return Asker(address_of(key.public_key.format(compressed=False)), raw[:64] + bytes((raw[64] + 27,)), time_ms)
