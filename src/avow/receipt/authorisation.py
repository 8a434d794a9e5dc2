"""The payer's consent to one call, signed as wallets sign (EIP-712): what a node may charge for one request.

Rules:
1. The typed data has the domain of requester.py ({name "Avow", version "1", chainId}) and one struct,
   Authorisation(address node,bytes32 request,uint256 maxAmount,uint64 expiryMs,uint64 nonce). `node` is the operator that may
   charge, no other; `request` is the request commitment, which covers every byte of the body; `maxAmount` is in wei; after
   `expiryMs` (block time, milliseconds) it is worthless.
2. A nonce is good for one settled statement. Nonces may be used in any order; the chain keeps one bit each.
3. A signature is r ‖ s ‖ v, 65 bytes, s ≤ n/2, v 27 or 28. Its signer is the payer, and the statement's requester.
4. Over HTTP it travels as base64url of node ‖ u128 maxAmount ‖ u64 expiryMs ‖ u64 nonce ‖ signature, 117 bytes: all but the
   request, whose commitment both sides compute.

Pure: no clock, no randomness (signatures are deterministic, RFC 6979), no input or output.
"""

import struct
from dataclasses import dataclass
from typing import Self

from coincurve import PrivateKey, PublicKey

from avow.errors import EncodingError, VerificationError
from avow.receipt.encoding import base64url, from_base64url
from avow.receipt.requester import (
    DOMAIN_NAME,
    DOMAIN_VERSION,
    address_of,
    eip155_chain_id,
    keccak256,
)

_SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # SEC 2 §2.4.1
AUTHORISATION_TYPE = "Authorisation(address node,bytes32 request,uint256 maxAmount,uint64 expiryMs,uint64 nonce)"
_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId)"
_DOMAIN_TYPE_HASH = keccak256(_DOMAIN_TYPE.encode())
_NAME_HASH = keccak256(DOMAIN_NAME.encode())
_VERSION_HASH = keccak256(DOMAIN_VERSION.encode())
_STRUCT_TYPE_HASH = keccak256(AUTHORISATION_TYPE.encode())
_HEADER = struct.Struct(">20s16sQQ65s")
MAX_EXPIRY_MS = (1 << 53) - 1


class BadAuthorisation(VerificationError):
    """The payer's signature does not hold."""

    code = "bad_authorisation"
    http_status = 400


@dataclass(frozen=True, slots=True)
class Authorisation:
    """Rule 1's message, to the operator `node` (20 bytes), for the request with commitment `request` (32 bytes)."""

    node: bytes
    request: bytes
    max_amount: int
    expiry_ms: int
    nonce: int

    def typed_data(self, chain_id: str) -> dict[str, object]:
        """The message as wallets take it (eth_signTypedData_v4)."""
        return {
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                ],
                "Authorisation": [
                    {"name": "node", "type": "address"},
                    {"name": "request", "type": "bytes32"},
                    {"name": "maxAmount", "type": "uint256"},
                    {"name": "expiryMs", "type": "uint64"},
                    {"name": "nonce", "type": "uint64"},
                ],
            },
            "primaryType": "Authorisation",
            "domain": {"name": DOMAIN_NAME, "version": DOMAIN_VERSION, "chainId": eip155_chain_id(chain_id)},
            "message": {
                "node": "0x" + self.node.hex(),
                "request": "0x" + self.request.hex(),
                "maxAmount": self.max_amount,
                "expiryMs": self.expiry_ms,
                "nonce": self.nonce,
            },
        }

    def digest(self, chain_id: str) -> bytes:
        """What the payer signs; 32 bytes (EIP-712, "encode")."""
        domain = _DOMAIN_TYPE_HASH + _NAME_HASH + _VERSION_HASH + eip155_chain_id(chain_id).to_bytes(32)
        content = (
            _STRUCT_TYPE_HASH
            + self.node.rjust(32, b"\0")
            + self.request
            + self.max_amount.to_bytes(32)
            + self.expiry_ms.to_bytes(32)
            + self.nonce.to_bytes(32)
        )
        return keccak256(b"\x19\x01" + keccak256(domain) + keccak256(content))

    def sign(self, private_key: bytes, chain_id: str) -> bytes:
        """Rule 3's signature by the account of `private_key` (32 bytes)."""
        raw = PrivateKey(private_key).sign_recoverable(self.digest(chain_id), hasher=None)
        return raw[:64] + bytes((raw[64] + 27,))

    def signer(self, chain_id: str, signature: bytes) -> bytes:
        """The address that signed. Raises BadAuthorisation for a signature of another form than rule 3's."""
        if len(signature) != 65 or signature[64] not in (27, 28):
            raise BadAuthorisation("a signature is 65 bytes and ends in 27 or 28")
        if not 0 < int.from_bytes(signature[32:64]) <= _SECP256K1_ORDER // 2:
            raise BadAuthorisation("the signature's s is not in the lower half")
        recoverable = signature[:64] + bytes((signature[64] - 27,))
        try:
            public = PublicKey.from_signature_and_message(recoverable, self.digest(chain_id), hasher=None)
        except ValueError:
            raise BadAuthorisation("no key can have made this signature") from None
        return address_of(public.format(compressed=False))


@dataclass(frozen=True, slots=True)
class StatedAuthorisation:
    """What rule 4's header holds; `node` 20 bytes, `signature` 65."""

    node: bytes
    max_amount: int
    expiry_ms: int
    nonce: int
    signature: bytes

    def to_header(self) -> str:
        """Rule 4's text, the value of `avow-authorisation`."""
        amount = self.max_amount.to_bytes(16)
        return base64url(_HEADER.pack(self.node, amount, self.expiry_ms, self.nonce, self.signature))

    @classmethod
    def from_header(cls, text: str) -> Self:
        """Raises EncodingError or TooLarge for anything but 117 bytes in base64url with an expiry that a clock can reach."""
        data = from_base64url(text, max_bytes=_HEADER.size)
        if len(data) != _HEADER.size:
            raise EncodingError(f"avow-authorisation has {_HEADER.size} bytes", field="avow-authorisation")
        node, amount, expiry_ms, nonce, signature = _HEADER.unpack(data)
        if expiry_ms > MAX_EXPIRY_MS:
            raise EncodingError("avow-authorisation has an expiry out of bounds", field="avow-authorisation")
        return cls(node, int.from_bytes(amount), expiry_ms, nonce, signature)


def authorise(private_key: bytes, chain_id: str, message: Authorisation) -> StatedAuthorisation:
    """`message` signed as the account of `private_key` (32 bytes). `max_amount` below 2^128."""
    signature = message.sign(private_key, chain_id)
    return StatedAuthorisation(message.node, message.max_amount, message.expiry_ms, message.nonce, signature)
