"""Who asked: a request signed by the requester's Ethereum account, as wallets sign (EIP-712).

Rules:
1. The typed data has the domain {name "Avow", version "1", chainId} and one struct,
   InferenceRequest(bytes32 request,string method,bytes nonce). `request` is the request commitment, which covers the
   endpoint and every byte of the body; `method` is the label asked for; `nonce` is the one that the statement repeats.
2. chainId is the EIP-155 id that belongs to the chain id, the first 52 of its 64 bits: a signature counts on one chain.
3. A signature is r ‖ s ‖ v, 65 bytes, s ≤ n/2, v 27 or 28 (EIP-2, as eth_signTypedData gives it). No other form counts.
4. Over HTTP it travels as base64url of address ‖ signature, 85 bytes: an address is stated, never merely recovered, so
   a signature over something else is refused instead of naming a stranger.

Pure: no clock, no randomness (signatures are deterministic, RFC 6979), no input or output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Self

from coincurve import PrivateKey, PublicKey

from avow.errors import EncodingError, VerificationError
from avow.receipt.encoding import base64url, from_base64url

_SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # SEC 2 §2.4.1
DOMAIN_NAME = "Avow"
DOMAIN_VERSION = "1"
REQUEST_TYPE = "InferenceRequest(bytes32 request,string method,bytes nonce)"
_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId)"
_CHAIN_ID_PREFIX = "avow-"


class BadRequester(VerificationError):
    """The requester's signature does not hold for this request."""

    code = "bad_requester"
    http_status = 400


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash; 32 bytes."""
    return _keccak()(data)


@cache
def _keccak() -> Callable[[bytes], bytes]:
    """Nodes hash every transaction, and have the faster of two implementations (five times, for a transfer)."""
    try:
        from sha3 import keccak_256
    except ImportError:
        from Crypto.Hash import (
            keccak,
        )  # a tenth of the time that `avow verify` takes to start, and few receipts need it

        return lambda data: keccak.new(digest_bits=256, data=data).digest()
    return lambda data: keccak_256(data).digest()


def eip155_chain_id(chain_id: str) -> int:
    """The EIP-155 id of `chain_id` ("avow-" and 16 hex digits), below 2^52. Raises EncodingError for any other text."""
    digits = chain_id.removeprefix(_CHAIN_ID_PREFIX)
    if len(chain_id) != len(_CHAIN_ID_PREFIX) + 16 or len(digits) != 16 or set(digits) - set("0123456789abcdef"):
        raise EncodingError("not a chain id: avow- and 16 hex digits", field="chain_id")
    return int(digits, 16) >> 12


def typed_data(chain_id: str, request: bytes, method: str, nonce: bytes) -> dict[str, object]:
    """The message as wallets take it (eth_signTypedData_v4): types, primaryType, domain, message; bytes as 0x-hex."""
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
            ],
            "InferenceRequest": [
                {"name": "request", "type": "bytes32"},
                {"name": "method", "type": "string"},
                {"name": "nonce", "type": "bytes"},
            ],
        },
        "primaryType": "InferenceRequest",
        "domain": {"name": DOMAIN_NAME, "version": DOMAIN_VERSION, "chainId": eip155_chain_id(chain_id)},
        "message": {"request": "0x" + request.hex(), "method": method, "nonce": "0x" + nonce.hex()},
    }


def request_digest(chain_id: str, request: bytes, method: str, nonce: bytes) -> bytes:
    """What the requester signs: keccak256(0x1901 ‖ domain separator ‖ struct hash); 32 bytes (EIP-712, "encode")."""
    separator = keccak256(
        keccak256(_DOMAIN_TYPE.encode())
        + keccak256(DOMAIN_NAME.encode())
        + keccak256(DOMAIN_VERSION.encode())
        + eip155_chain_id(chain_id).to_bytes(32)
    )
    struct = keccak256(keccak256(REQUEST_TYPE.encode()) + request + keccak256(method.encode()) + keccak256(nonce))
    return keccak256(b"\x19\x01" + separator + struct)


def address_of(public_key: bytes) -> bytes:
    """The account of a secp256k1 key given as 65-byte uncompressed point; 20 bytes."""
    return keccak256(public_key[1:])[-20:]


@dataclass(frozen=True, slots=True)
class Requester:
    """An address and its signature over one request."""

    address: bytes
    signature: bytes

    def to_header(self) -> str:
        """Rule 4's text, the value of `avow-requester`."""
        return base64url(self.address + self.signature)

    @classmethod
    def from_header(cls, text: str) -> Self:
        """Raises EncodingError for anything but 85 bytes in base64url."""
        data = from_base64url(text, max_bytes=85)
        if len(data) != 85:
            raise EncodingError("avow-requester holds an address and a signature, 85 bytes", field="avow-requester")
        return cls(data[:20], data[20:])

    def verify(self, chain_id: str, request: bytes, method: str, nonce: bytes) -> None:
        """Raises BadRequester unless this address signed this request for this chain, method and nonce."""
        signature = self.signature
        if len(signature) != 65 or signature[64] not in (27, 28):
            raise BadRequester("a requester's signature is 65 bytes and ends in 27 or 28")
        if not 0 < int.from_bytes(signature[32:64]) <= _SECP256K1_ORDER // 2:
            raise BadRequester("the signature's s is not in the lower half")
        digest = request_digest(chain_id, request, method, nonce)
        try:
            recoverable = signature[:64] + bytes((signature[64] - 27,))
            public = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
        except ValueError:
            raise BadRequester("no key can have made this signature") from None
        if address_of(public.format(compressed=False)) != self.address:
            raise BadRequester("the stated address did not sign this request")


def sign_request(private_key: bytes, chain_id: str, request: bytes, method: str, nonce: bytes) -> Requester:
    """Sign as the account of `private_key` (32 bytes)."""
    key = PrivateKey(private_key)
    raw = key.sign_recoverable(request_digest(chain_id, request, method, nonce), hasher=None)
    signature = raw[:64] + bytes((raw[64] + 27,))
    return Requester(address_of(key.public_key.format(compressed=False)), signature)
