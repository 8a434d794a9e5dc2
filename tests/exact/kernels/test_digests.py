"""Digests in bulk against exact/hashing.py's, one hash at a time."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.exact.hashing import CHUNK, INPUT_SLOT, Recorder, Salts
from avow.exact.kernels import digests, sha256
from avow.exact.kernels.compilation import entry
from avow.exact.kernels.tracer import BulkTracer
from avow.receipt import merkle

KEYS = {"program": bytes(32), "prompt": 0, "parameters": {}, "finish": "whole"}


def digest_of(seed: bytes, slot: int, data: bytes) -> bytes:
    target = np.empty(32, np.uint8)
    scratch = np.full(digests.scratch_bytes(len(data)), 0xA5, np.uint8)
    key = np.frombuffer(Salts(seed).key, np.uint8)
    signed = slot - (1 << 64) if slot >> 63 else slot
    digests.digest(np.frombuffer(data, np.uint8), key, signed, scratch, target)
    return target.tobytes()


EDGES = sorted(
    {
        1,
        5,
        38,
        39,
        46,
        47,
        48,
        110,
        111,
        *(n * CHUNK + d for n in (1, 2, 3, 4, 5, 8, 9) for d in (-18, -17, -1, 0, 1, 40)),
    }
)


@pytest.mark.parametrize("length", EDGES)
def test_every_length_around_a_block_and_a_chunk(length):
    data = np.random.default_rng(length).bytes(length)
    seed = bytes(range(32))
    assert digest_of(seed, length, data) == Salts(seed).digest(length, data)


@given(st.binary(min_size=32, max_size=32), st.integers(0, (1 << 64) - 1), st.binary(max_size=5_000))
@settings(max_examples=60, deadline=None)
def test_any_seed_slot_and_data(seed, slot, data):
    assert digest_of(seed, slot, data) == Salts(seed).digest(slot, data)


@pytest.mark.parametrize("count", [*range(1, 34), 100, 257])
def test_root_over_leaves(count):
    leaves = np.frombuffer(np.random.default_rng(count).bytes(32 * count), np.uint8).reshape(count, 32)
    nodes = np.empty(32 * count + 256, np.uint8)
    digests.leaves_root(leaves, count, nodes)
    assert nodes[:32].tobytes() == merkle.root([row.tobytes() for row in leaves])


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_trace_is_the_recorders(data):
    """Any tensors, some operators absent, program inputs and outputs of any size and number."""
    operators, steps = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    seed = data.draw(st.binary(min_size=32, max_size=32))
    ours, reference = BulkTracer(seed, operators), Recorder(seed, operators)
    for step in range(steps):
        for operator in range(operators):
            if data.draw(st.booleans()):
                tensor = data.draw(st.binary(max_size=2_100))
                ours.record(step, operator, tensor)
                reference.record(step, operator, tensor)
    ends = {name: data.draw(st.lists(st.binary(max_size=1_100), max_size=3)) for name in ("inputs", "outputs")}
    assert ours.finish(steps=steps, **ends, **KEYS) == reference.finish(steps=steps, **ends, **KEYS)


def test_the_slots_of_inputs_have_the_highest_bit():
    assert digest_of(bytes(32), INPUT_SLOT, b"x") == Salts(bytes(32)).digest(INPUT_SLOT, b"x")


@entry
def _without_instructions(message: int, length: int, target: int) -> None:
    sha256._plain(message, sha256.pad(message, length), target)


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 119, 120, 1_000])
def test_the_rounds_written_out_are_sha256(length):
    data = np.random.default_rng(length).bytes(length)
    message, target = np.zeros(length + 128, np.uint8), np.empty(32, np.uint8)
    message[:length] = np.frombuffer(data, np.uint8)
    _without_instructions(message.ctypes.data, length, target.ctypes.data)
    assert target.tobytes() == hashlib.sha256(data).digest()
