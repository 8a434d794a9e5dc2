"""Blanks: filled in, they are the header's one encoding and the hashes of exact/hashing.py."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact.hashing import FINISHES, MAX_ENDS, MAX_LEAVES, PARAMETERS, Header, commitment_to, trace_of
from avow.exact.kernels.blanks import BLOCK, ENTRY, HEADER_AT, KEY_AT, ROOT_AT, SALTS_AT, blank_of
from avow.receipt.merkle import EMPTY_LIST_ROOT

digest = st.binary(min_size=32, max_size=32)
number = st.one_of(
    st.integers(0, MAX_LEAVES),
    st.sampled_from([edge + off for edge in (24, 1 << 8, 1 << 16, 1 << 32) for off in (-1, 0, 1)]),
)
wide = st.one_of(number, st.integers(0, (1 << 64) - 1))
headers = st.builds(
    Header,
    program=digest,
    steps=number,
    prompt=number,
    parameters=st.one_of(st.just({}), st.fixed_dictionaries(dict.fromkeys(PARAMETERS, wide))),
    finish=st.sampled_from(FINISHES),
    leaves=number,
    root=digest,
    inputs=st.lists(digest, max_size=MAX_ENDS).map(tuple),
    outputs=st.lists(digest, max_size=MAX_ENDS).map(tuple),
    salts=digest,
)


def message_of(blocks: bytes) -> bytes:
    """What a padded message was before; the padding has to be the right one."""
    length = int.from_bytes(blocks[-8:]) // 8
    assert len(blocks) % BLOCK == 0
    assert len(blocks) - length - 9 in range(BLOCK)
    assert not blocks[length + 1 : -8].strip(b"\0")
    assert blocks[length] == 0x80
    return blocks[:length]


@given(headers, digest)
@settings(max_examples=150, deadline=None)
def test_a_blank_filled_in_is_the_headers_encoding(header, key):
    blank = blank_of(
        header.program, header.steps, header.prompt, header.parameters, header.finish, header.leaves,
        len(header.inputs), len(header.outputs),
    )  # fmt: skip
    work = bytearray(blank.blocks.tobytes())
    assert len(work) == blank.size
    root = header.root
    if not header.leaves:
        root = EMPTY_LIST_ROOT
        assert bytes(work[ROOT_AT : ROOT_AT + 32]) == root
    places = [(KEY_AT, key), (ROOT_AT, root), (SALTS_AT, header.salts)]
    places += [(blank.inputs + ENTRY * at, each) for at, each in enumerate(header.inputs)]
    places += [(blank.outputs + ENTRY * at, each) for at, each in enumerate(header.outputs)]
    for at, value in places:
        work[at : at + 32] = value
    filled = Header(**{name: getattr(header, name) for name in header.__slots__} | {"root": root})
    assert bytes(work[HEADER_AT : blank.end]) == filled.encoded()
    assert hashlib.sha256(message_of(bytes(work[BLOCK:]))).digest() == trace_of(filled.encoded())
    assert hashlib.sha256(message_of(bytes(work[:BLOCK]))).digest() == commitment_to(key)


def test_a_blank_is_kept_and_never_written():
    arguments = (bytes(32), 1, 0, {}, "whole", 1, 1, 1)
    assert blank_of(*arguments) is blank_of(*arguments)
    assert not blank_of(*arguments).blocks.flags.writeable
