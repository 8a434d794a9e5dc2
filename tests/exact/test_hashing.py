"""The digests of a run: fixed bytes, bound lengths, hidden chunks, and a header with one encoding."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.errors import EncodingError, InputError
from avow.exact import hashing
from avow.exact.hashing import ABSENT, CHUNK, INPUT_SLOT, OUTPUT_SLOT, Header, Recorder, Salts
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode, tagged_hash

SEED = bytes(range(32))


def by_hand(length, leaves):
    """Rule 1, written out: the digest from leaves that are already data of the tree."""
    return tagged_hash(b"avow/tensor/1", length.to_bytes(8), merkle.root(leaves))


def salt(seed, slot, chunk):
    key = tagged_hash(b"avow/trace-key/1", seed)
    block = sha256(key + slot.to_bytes(8) + (chunk // 2).to_bytes(8)).digest()
    return block[16:] if chunk % 2 else block[:16]


def header(**changes):
    values = {
        "program": bytes(32),
        "steps": 2,
        "prompt": 0,
        "parameters": {},
        "finish": "whole",
        "leaves": 6,
        "root": sha256(b"r").digest(),
        "inputs": (sha256(b"i").digest(),),
        "outputs": (sha256(b"o").digest(),),
        "salts": sha256(b"s").digest(),
    }
    return Header(**values | changes)


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 2048, 5000])
def test_a_constant_is_a_tree_of_its_chunks(length):
    data = bytes(i % 251 for i in range(length))
    leaves = [data[at : at + 1024] for at in range(0, length, 1024)]
    assert hashing.constant_digest(data) == by_hand(length, leaves)
    assert hashing.chunk_count(length) == len(leaves)
    assert [hashing.chunk_length(length, n) for n in range(len(leaves))] == [len(leaf) for leaf in leaves]
    assert [hashing.constant_chunk_hash(leaf) for leaf in leaves] == [merkle.leaf_hash(leaf) for leaf in leaves]


@given(st.binary(max_size=4000), st.integers(0, (1 << 64) - 1), st.binary(min_size=32, max_size=32))
def test_a_tensor_of_a_run_is_a_tree_of_salted_chunks(data, slot, seed):
    leaves = [salt(seed, slot, at // 1024) + data[at : at + 1024] for at in range(0, len(data), 1024)]
    salts = Salts(seed)
    assert salts.digest(slot, data) == by_hand(len(data), leaves)
    assert salts.chunk_hashes(slot, memoryview(bytearray(data))) == [merkle.leaf_hash(leaf) for leaf in leaves]
    assert [salts.salt(slot, n) for n in range(len(leaves))] == [leaf[:16] for leaf in leaves]


def test_no_two_chunks_share_a_salt():
    salts = Salts(SEED)
    slots = [0, 1, 2, INPUT_SLOT, INPUT_SLOT + 1, OUTPUT_SLOT, OUTPUT_SLOT + 1]
    found = {salts.salt(slot, chunk) for slot in slots for chunk in range(9)}
    assert len(found) == len(slots) * 9
    assert Salts(bytes(32)).salt(0, 0) not in found


def test_equal_tensors_at_two_steps_look_different():
    salts = Salts(SEED)
    assert salts.digest(0, b"same") != salts.digest(1, b"same")


def test_a_tensor_cannot_be_read_with_another_length():
    data = bytes(CHUNK) * 3
    whole = Salts(SEED).chunk_hashes(0, data)
    root = merkle.root_of_hashes(whole)
    assert hashing.tensor_digest(len(data), root) != hashing.tensor_digest(len(data) - 1, root)
    assert hashing.tensor_digest(4 * CHUNK, merkle.root_of_hashes([*whole, whole[-1]])) != Salts(SEED).digest(0, data)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_and_a_key_have_32_bytes(seed):
    with pytest.raises(ValueError, match="32 bytes"):
        Salts(seed)
    with pytest.raises(ValueError, match="32 bytes"):
        Salts.under(seed)


def test_salts_are_those_of_their_key():
    salts = Salts(SEED)
    again = Salts.under(salts.key)
    assert again.salt(3, 1) == salts.salt(3, 1)
    assert again.commitment == salts.commitment == tagged_hash(b"avow/trace-salts/1", salts.key)
    assert Salts.of(salts) is salts
    assert Salts.of(SEED).key == salts.key != Salts.under(SEED).key


def finished(recorder, **changes):
    values = {
        "program": b"p" * 32,
        "steps": 2,
        "prompt": 0,
        "parameters": {},
        "finish": "whole",
        "inputs": [b"in"],
        "outputs": [b"out", b"put"],
    }
    return recorder.finish(**values | changes)


def test_a_recorded_run():
    recorder = Recorder(SEED, 3)
    recorder.record(0, 0, b"a")
    recorder.record(0, 2, b"b")
    recorder.record(1, 1, memoryview(b"c" * 1025))
    trace = finished(recorder)
    salts = Salts(SEED)
    leaves = [salts.digest(0, b"a"), ABSENT, salts.digest(2, b"b"), ABSENT, salts.digest(4, b"c" * 1025), ABSENT]
    assert list(trace.leaves) == leaves
    assert trace.trace == tagged_hash(b"avow/trace/1", trace.header)
    assert Header.parse(trace.header) == Header(
        program=b"p" * 32,
        steps=2,
        prompt=0,
        parameters={},
        finish="whole",
        leaves=6,
        root=merkle.root(leaves),
        inputs=(salts.digest(1 << 63, b"in"),),
        outputs=(salts.digest(1 << 62, b"out"), salts.digest((1 << 62) + 1, b"put")),
        salts=tagged_hash(b"avow/trace-salts/1", tagged_hash(b"avow/trace-key/1", SEED)),
    )


@pytest.mark.parametrize("again", [(0, 1), (0, 0), (0, 3), (0, -1), (1, -2)])
def test_operators_are_recorded_in_order(again):
    recorder = Recorder(SEED, 3)
    recorder.record(0, 1, b"a")
    with pytest.raises(ValueError, match="in order"):
        recorder.record(*again, b"b")


def test_a_run_has_no_more_than_its_steps():
    recorder = Recorder(SEED, 3)
    recorder.record(2, 0, b"a")
    with pytest.raises(ValueError, match="more was recorded"):
        finished(recorder)


PARAMETERS = {"max_tokens": 8, "seed": (1 << 64) - 1, "temperature_m": 0, "temperature_s": 1}


@pytest.mark.parametrize("changes", [{}, {"prompt": 3, "parameters": PARAMETERS, "finish": "end"}, {"inputs": ()}])
def test_a_header_has_one_encoding(changes):
    one = header(**changes)
    assert Header.parse(one.encoded()) == one


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"finish": "bored"},
        {"finish": 1},
        {"steps": -1},
        {"steps": hashing.MAX_LEAVES + 1},
        {"leaves": hashing.MAX_LEAVES + 1},
        {"prompt": hashing.MAX_LEAVES + 1},
        {"program": bytes(31)},
        {"root": bytes(33)},
        {"inputs": [bytes(31)]},
        {"outputs": [bytes(32)] * 65},
        {"parameters": []},
        {"parameters": {"seed": 1}},
        {"parameters": PARAMETERS | {"seed": -1}},
        {"parameters": PARAMETERS | {"more": 1}},
        {"more": 1},
    ],
)
def test_other_headers_are_refused(change):
    with pytest.raises(InputError):
        Header.parse(encode({**decode(header().encoded()), **change}))


def test_limits_of_a_header():
    most = header(steps=1 << 40, prompt=1 << 40, leaves=1 << 40, inputs=(bytes(32),) * 64, outputs=(bytes(32),) * 64)
    assert Header.parse(most.encoded()) == most
    with pytest.raises(EncodingError):
        Header.parse(header().encoded() + b"\0")
    with pytest.raises(EncodingError):
        Header.parse(b"")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_refused(data):
    try:
        found = Header.parse(data)
    except InputError:
        return
    assert found.encoded() == data
