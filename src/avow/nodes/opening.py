"""The whole opening of one inference, sealed under the secret that only the caller keeps.

Rules:
1. What is stored is AES-256-GCM over the opening's MessagePack, under H("avow/opening-key/1", seed), its random nonce in
   front. The seed is not stored: without the caller's secret the stored bytes are noise, also to the node's operator. Optimistic
   answers are the exception: those whom the caller let check them get the opening, so its seed is kept until they are final.
2. The request commitment is the associated data: an opening unseals for its own receipt alone.
"""

import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from avow.nodes.errors import OpeningGone
from avow.receipt.commitment import Part, request_parts, response_parts
from avow.receipt.encoding import tagged_hash

_NONCE_LENGTH = 12


class Opening(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Everything under the three commitments. `stream` is the last part of a streamed response, else empty; `header` that of a trace."""

    endpoint: str
    request: bytes
    effective: bytes
    response: bytes
    stream: bytes = b""
    header: bytes = b""

    def request_parts(self) -> list[Part]:
        return request_parts(self.endpoint, self.request)

    def response_parts(self) -> list[Part]:
        parts = response_parts(self.response)
        return [*parts, ("stream", self.stream)] if self.stream else parts


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Opening).decode


def seal(opening: Opening, seed: bytes, request: bytes) -> bytes:
    """The stored form. `request` is the request commitment."""
    nonce = os.urandom(_NONCE_LENGTH)
    return nonce + AESGCM(_key(seed)).encrypt(nonce, _encode(opening), request)


def unseal(sealed: bytes, seed: bytes, request: bytes) -> Opening:
    """The opening again. Raises OpeningGone when `seed` is not the secret it was sealed under."""
    try:
        return _decode(AESGCM(_key(seed)).decrypt(sealed[:_NONCE_LENGTH], sealed[_NONCE_LENGTH:], request))
    except (InvalidTag, ValueError):
        raise OpeningGone("the secret does not open this receipt") from None


def _key(seed: bytes) -> bytes:
    return tagged_hash(b"avow/opening-key/1", seed)
