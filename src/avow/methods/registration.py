"""What a node's key is bound to when it is registered: the same 32 bytes for every method.

A tee node puts them into its attestation's user data; a vanilla node signs them. So neither can be registered on
another chain, by another operator, with another transport key, or long after the named block.

Pure: no clock, no randomness, no input or output.
"""

from avow.errors import InputError
from avow.receipt.encoding import encode, tagged_hash

REGISTRATION_TAG = b"avow/registration/1"
_MAX_CHAIN_ID_CHARACTERS = 64


class BadRegistration(InputError):
    """A part of a registration is not of its size."""

    code = "bad_registration"


def registration_digest(
    chain_id: str, operator: bytes, signing_key: bytes, transport_key: bytes, block_hash: bytes
) -> bytes:
    """H("avow/registration/1", CBOR of the five in this order); 32 bytes.

    operator: address of 20 bytes. Keys: P-256 points, 65 bytes of SEC 1 uncompressed. block_hash: 32 bytes.
    Raises BadRegistration.
    """
    if not 0 < len(chain_id) <= _MAX_CHAIN_ID_CHARACTERS:
        raise BadRegistration(field="chain_id", size=len(chain_id))
    if len(operator) != 20:
        raise BadRegistration(field="operator", size=len(operator))
    for field, key in (("signing_key", signing_key), ("transport_key", transport_key)):
        if len(key) != 65 or key[0] != 4:
            raise BadRegistration(field=field, size=len(key))
    if len(block_hash) != 32:
        raise BadRegistration(field="block_hash", size=len(block_hash))
    return tagged_hash(REGISTRATION_TAG, encode([chain_id, operator, signing_key, transport_key, block_hash]))
