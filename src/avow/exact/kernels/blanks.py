"""Headers of traces with empty places for digests, so that a short run does not encode its header anew.

Rules:
1. A blank is memory of whole SHA-256 blocks, padded: one with the message of exact/hashing.py's hash of the salts' key, whose key is
   missing, then those of the trace's hash, with the header in it. The header is the one encoding of exact/hashing.py's Header, whose
   digests (root, salts, inputs, outputs) are zeros; without leaves the root is that of the empty list.
2. RFC 8949 §4.2.1 puts shorter keys first, and a digest has one length: what is filled in moves nothing, and root and salts are always at
   the same place.
3. A blank is not written to: who fills it in copies it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avow.exact.hashing import SALTS_TAG, TRACE_TAG, Finish, Header
from avow.receipt.encoding import encode_trusted
from avow.receipt.merkle import EMPTY_LIST_ROOT

BLOCK = 64
DIGEST = 32
KEY_AT = 1 + len(SALTS_TAG)
HEADER_AT = BLOCK + 1 + len(TRACE_TAG)
ROOT_AT = HEADER_AT + 8
"""Behind the map's head, the key "root" and the byte string's head."""
SALTS_AT = ROOT_AT + DIGEST + 8
ENTRY = 2 + DIGEST
"""From one digest of a list to the next."""
KEPT = 256

_ZEROS = bytes(DIGEST)


class Blank(NamedTuple):
    """`blocks`: uint8 of whole blocks (rule 1), `size` of them. `end`: where the header ends. `inputs`, `outputs`: where the first digest
    of each is.
    """

    blocks: NDArray[np.uint8]
    size: int
    end: int
    inputs: int
    outputs: int


def blank_of(
    program: bytes, steps: int, prompt: int, parameters: Mapping[str, int], finish: Finish, leaves: int, inputs: int, outputs: int,
) -> Blank:  # fmt: skip
    """The header's members, of inputs and outputs how many there are."""
    if parameters:
        return _blank(program, steps, prompt, parameters, finish, leaves, inputs, outputs)
    return _kept(program, steps, prompt, finish, leaves, inputs, outputs)


@lru_cache(KEPT)
def _kept(program: bytes, steps: int, prompt: int, finish: Finish, leaves: int, inputs: int, outputs: int) -> Blank:
    """Of what has no parameters, which differ from run to run."""
    return _blank(program, steps, prompt, {}, finish, leaves, inputs, outputs)


def _blank(
    program: bytes, steps: int, prompt: int, parameters: Mapping[str, int], finish: Finish, leaves: int, inputs: int, outputs: int,
) -> Blank:  # fmt: skip
    header = Header(
        program=program, steps=steps, prompt=prompt, parameters=parameters, finish=finish, leaves=leaves,
        root=_ZEROS if leaves else EMPTY_LIST_ROOT, inputs=(_ZEROS,) * inputs, outputs=(_ZEROS,) * outputs, salts=_ZEROS,
    )  # fmt: skip
    encoded, places = _encoded(header)
    message = bytes((len(TRACE_TAG),)) + TRACE_TAG + encoded
    first = {"inputs": inputs, "outputs": outputs}
    at = {name: HEADER_AT + places[name] - ENTRY * count + 2 for name, count in first.items()}
    blocks = np.frombuffer(
        _padded(bytes((len(SALTS_TAG),)) + SALTS_TAG + bytes(DIGEST)) + _padded(message), np.uint8
    )  # fmt: skip
    return Blank(blocks, len(blocks), BLOCK + len(message), at["inputs"], at["outputs"])


def _encoded(header: Header) -> tuple[bytes, dict[str, int]]:
    """The header's encoding, and where each of its members ends."""
    value = header.to_value()
    assert isinstance(value, dict)
    parts, places = [bytes((0xA0 | len(value),))], {}
    end = 1
    for name in sorted(value, key=lambda name: (len(name), name)):
        member = encode_trusted(name) + encode_trusted(value[name])
        end += len(member)
        parts.append(member)
        places[name] = end
    return b"".join(parts), places


def _padded(message: bytes) -> bytes:
    """FIPS 180-4 §5.1.1."""
    zeros = -(len(message) + 9) % BLOCK
    return message + b"\x80" + bytes(zeros) + (8 * len(message)).to_bytes(8)
