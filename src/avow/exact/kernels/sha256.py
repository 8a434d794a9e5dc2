"""SHA-256 (FIPS 180-4) for kernels.

Rules:
1. Any message lies in memory with its padding: `blocks` times 64 bytes. `pad` writes the padding.
2. Where the processor has SHA instructions they are used. The messages that are many (chunks, nodes, leaves) come two at a time and are
   not put together in memory: each round waits for the one before, and the second message fills the gap.
3. Elsewhere the rounds are written out, one message at a time.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from avow.exact.kernels.compilation import helper, intrinsic
from avow.exact.kernels.memory import uint8, uint8s, uint32, uint32s
from avow.exact.kernels.simd import constant, declared, offset, read, shuffle, supports, write

INITIAL = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
ROUNDS = (
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
    0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
    0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
    0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
    0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
    0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
    0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
    0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
)  # fmt: skip
_FIRST = np.array(INITIAL, dtype=np.uint32)
_CONSTANTS = np.array(ROUNDS, dtype=np.uint32)

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_WORDS = ir.VectorType(_I32, 4)

_I8 = ir.IntType(8)
_BYTES = ir.VectorType(_I8, 16)

Builder = Any
Value = Any
State = tuple[Any, Any]
"""The eight words of a state, as the instructions hold them."""


def _words(values: tuple[int, ...]) -> Value:
    return ir.Constant(_WORDS, [ir.Constant(_I32, value) for value in values])


def _call(builder: Builder, name: str, *arguments: Value) -> Value:
    kind = ir.FunctionType(_WORDS, [_WORDS] * len(arguments))
    return builder.call(declared(builder, kind, name), arguments)


def _swapped(builder: Builder, value: Value) -> Value:
    return _call(builder, "llvm.bswap.v4i32", value)


# The SHA instructions hold the state as (f, e, b, a) and (h, g, d, c).
_START = (
    tuple(INITIAL[n] for n in (5, 4, 1, 0)),
    tuple(INITIAL[n] for n in (7, 6, 3, 2)),
)


def _rounds(builder: Builder, states: list[State], messages: list[list[Value]]) -> list[State]:
    """One block of each message, round by round in turn; a block is four vectors of four words."""
    now, words = list(states), [list(message) for message in messages]
    for group in range(16):
        round_words = _words(ROUNDS[4 * group : 4 * group + 4])
        for lane, message in enumerate(words):
            if group >= 4:
                mixed = _call(builder, "llvm.x86.sha256msg1", message[0], message[1])
                mixed = builder.add(mixed, shuffle(builder, message[2], message[3], [1, 2, 3, 4]))
                mixed = _call(builder, "llvm.x86.sha256msg2", mixed, message[3])
                message[:] = [*message[1:], mixed]
            keyed = builder.add(message[3 if group >= 4 else group], round_words)
            first, second = now[lane]
            second = _call(builder, "llvm.x86.sha256rnds2", second, first, keyed)
            first = _call(builder, "llvm.x86.sha256rnds2", first, second, shuffle(builder, keyed, keyed, [2, 3, 0, 1]))
            now[lane] = (first, second)
    return [
        (builder.add(first, old[0]), builder.add(second, old[1]))
        for (first, second), old in zip(now, states, strict=True)
    ]


def _start(lanes: int) -> list[State]:
    return [(_words(_START[0]), _words(_START[1])) for _ in range(lanes)]


def _in_memory(builder: Builder, address: Value) -> list[Value]:
    """A block that lies in memory, at any address."""
    return [_swapped(builder, read(builder, offset(builder, address, 16 * n), _WORDS)) for n in range(4)]


def _loop(builder: Builder, states: list[State], addresses: list[Value], blocks: Value) -> list[State]:
    """`blocks` ≥ 1 blocks of each message, one after the other from its address on."""
    entry, loop, after = builder.block, builder.append_basic_block("block"), builder.append_basic_block("hashed")
    builder.branch(loop)
    builder.position_at_end(loop)
    number = builder.phi(_I64)
    number.add_incoming(constant(0), entry)
    held = [(builder.phi(_WORDS), builder.phi(_WORDS)) for _ in states]
    places = [builder.add(address, builder.shl(number, constant(6))) for address in addresses]
    done = _rounds(builder, held, [_in_memory(builder, place) for place in places])
    following = offset(builder, number, 1)
    number.add_incoming(following, loop)
    for halves, starts, results in zip(held, states, done, strict=True):
        for half, start, result in zip(halves, starts, results, strict=True):
            half.add_incoming(start, entry)
            half.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", following, blocks), loop, after)
    builder.position_at_end(after)
    return done


def _two_messages(builder: Builder, messages: list[Value], blocks: list[Value], targets: list[Value]) -> None:
    """Two messages in memory: their common length together, then what the longer one has left."""
    further = builder.icmp_signed(">", blocks[0], blocks[1])
    common = builder.select(further, blocks[1], blocks[0])
    states = _loop(builder, _start(2), messages, common)
    held: State = (
        builder.select(further, states[0][0], states[1][0]),
        builder.select(further, states[0][1], states[1][1]),
    )
    address = builder.add(builder.select(further, messages[0], messages[1]), builder.shl(common, constant(6)))
    rest = builder.sub(builder.select(further, blocks[0], blocks[1]), common)
    before, more, after = builder.block, builder.append_basic_block("longer"), builder.append_basic_block("both")
    builder.cbranch(builder.icmp_signed(">", rest, constant(0)), more, after)
    builder.position_at_end(more)
    alone = _loop(builder, [held], [address], rest)[0]
    end = builder.block
    builder.branch(after)
    builder.position_at_end(after)
    whole = (builder.phi(_WORDS), builder.phi(_WORDS))
    for phi, short, long in zip(whole, held, alone, strict=True):
        phi.add_incoming(short, before)
        phi.add_incoming(long, end)
    first, second = (
        tuple(
            builder.select(further, *((new, old) if own else (old, new))) for new, old in zip(whole, state, strict=True)
        )
        for own, state in zip((True, False), states, strict=True)
    )
    _write_digests(builder, [(first[0], first[1]), (second[0], second[1])], targets)


def _write_digests(builder: Builder, states: list[State], targets: list[Value]) -> None:
    for target, (first, second) in zip(targets, states, strict=True):
        write(builder, _swapped(builder, shuffle(builder, first, second, [3, 2, 7, 6])), target)
        write(builder, _swapped(builder, shuffle(builder, first, second, [1, 0, 5, 4])), offset(builder, target, 16))


# --- Messages put together in registers: what is written to memory in pieces cannot be read back at once ---------------


def _bytes(values: list[int]) -> Value:
    return ir.Constant(_BYTES, [ir.Constant(_I8, value) for value in values])


def _ending(length: int) -> Value:
    """The last vector of a message: its length in bits."""
    return _words((0, 0, 0, 8 * length))


def _pushed(builder: Builder, pieces: list[Value]) -> list[Value]:
    """Vectors of bytes moved on by one byte: each begins with the last byte of the one before; as words."""
    order = list(range(15, 31))
    moved = [shuffle(builder, before, here, order) for before, here in pairwise(pieces)]
    return [_swapped(builder, builder.bitcast(each, _WORDS)) for each in moved]


_MARK = [0x80, *[0] * 15]
"""What follows a message's last byte."""


def _read_bytes(builder: Builder, address: Value, count: int) -> list[Value]:
    return [read(builder, offset(builder, address, 16 * n), _BYTES) for n in range(count)]


def _chunks(builder: Builder, salts: list[Value], chunks: list[Value], targets: list[Value]) -> None:
    """0x00 ‖ salt ‖ 1,024 bytes: the first and the last block in registers, the others as they lie."""
    firsts, lasts = [], []
    for salt, chunk in zip(salts, chunks, strict=True):
        pieces = [_bytes([0] * 16), *_read_bytes(builder, salt, 1), *_read_bytes(builder, chunk, 1)]
        firsts.append(
            [
                *_pushed(builder, pieces),
                *(_swapped(builder, read(builder, offset(builder, chunk, at), _WORDS)) for at in (15, 31)),
            ]
        )
        end = _pushed(builder, [*_read_bytes(builder, offset(builder, chunk, 1_008), 1), _bytes(_MARK)])
        whole = _swapped(builder, read(builder, offset(builder, chunk, 1_007), _WORDS))
        lasts.append([whole, *end, _words((0, 0, 0, 0)), _ending(1_041)])
    states = _rounds(builder, _start(len(chunks)), firsts)
    states = _loop(builder, states, [offset(builder, chunk, 47) for chunk in chunks], constant(15))
    _write_digests(builder, _rounds(builder, states, lasts), targets)


def _nodes(builder: Builder, pairs: list[Value], targets: list[Value]) -> None:
    """0x01 ‖ left ‖ right, which lie one after the other."""
    firsts, lasts = [], []
    for pair in pairs:
        halves = _read_bytes(builder, pair, 4)
        firsts.append(_pushed(builder, [_bytes([*[0] * 15, 1]), *halves]))
        lasts.append([*_pushed(builder, [halves[3], _bytes(_MARK)]), *[_words((0, 0, 0, 0))] * 2, _ending(65)])
    states = _rounds(builder, _start(len(pairs)), firsts)
    _write_digests(builder, _rounds(builder, states, lasts), targets)


def _leaves(builder: Builder, leaves: list[Value], targets: list[Value]) -> None:
    """0x00 ‖ 32 bytes."""
    messages = []
    for leaf in leaves:
        pieces = [_bytes([0] * 16), *_read_bytes(builder, leaf, 2), _bytes(_MARK)]
        messages.append([*_pushed(builder, pieces), _ending(33)])
    _write_digests(builder, _rounds(builder, _start(len(leaves)), messages), targets)


@intrinsic
def has_instructions(typing_context: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
        return ir.Constant(ir.IntType(1), int(supports(context, "sha")))

    return types.boolean(), generate


@intrinsic
def _message(typing_context: Any, message: Any, blocks: Any, target: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
        if supports(context, "sha"):
            states = _loop(builder, _start(1), [arguments[0]], arguments[1])
            _write_digests(builder, states, [arguments[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _pair(make: Any, sources: int) -> Any:
    """An intrinsic of `sources` addresses for each of two messages, then the two targets."""

    def two(typing_context: Any, arguments: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
            if supports(context, "sha"):
                values = [builder.extract_value(arguments[0], at) for at in range(2 * (sources + 1))]
                make(builder, *[values[2 * at : 2 * at + 2] for at in range(sources + 1)])
            return context.get_dummy_value()

        tuple_of: Any = types.UniTuple
        return types.void(tuple_of(types.int64, 2 * (sources + 1))), generate

    return intrinsic(two)


_two_chunks = _pair(_chunks, 2)
_two_nodes = _pair(_nodes, 1)
_two_leaves = _pair(_leaves, 1)


@intrinsic
def _messages(typing_context: Any, arguments: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Builder, sig: Any, arguments: Any) -> Any:  # noqa: ARG001
        if supports(context, "sha"):
            values = [builder.extract_value(arguments[0], at) for at in range(6)]
            _two_messages(builder, values[:2], values[2:4], values[4:])
        return context.get_dummy_value()

    tuple_of: Any = types.UniTuple
    return types.void(tuple_of(types.int64, 6)), generate


@helper
def _turn(word: int, count: int) -> int:
    return uint32((word >> uint32(count)) | (word << uint32(32 - count)))


@helper
def _plain(message: int, blocks: int, target: int) -> None:
    """Without SHA instructions."""
    data = uint8s(message, 64 * blocks)
    state = _FIRST.copy()
    words = np.empty(64, np.uint32)
    for block in range(blocks):
        for n in range(16):
            word = uint32(0)
            for byte in range(4):
                word = uint32((word << uint32(8)) | uint32(data[64 * block + 4 * n + byte]))
            words[n] = word
        for n in range(16, 64):
            early, late = words[n - 15], words[n - 2]
            small = _turn(early, 7) ^ _turn(early, 18) ^ (early >> uint32(3))
            large = _turn(late, 17) ^ _turn(late, 19) ^ (late >> uint32(10))
            words[n] = words[n - 16] + small + words[n - 7] + large
        a, b, c, d, e, f, g, h = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
        for n in range(64):
            first = uint32(
                h + (_turn(e, 6) ^ _turn(e, 11) ^ _turn(e, 25)) + ((e & f) ^ (~e & g)) + _CONSTANTS[n] + words[n]
            )
            second = uint32((_turn(a, 2) ^ _turn(a, 13) ^ _turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c)))
            h, g, f, e, d, c, b, a = g, f, e, uint32(d + first), c, b, a, uint32(first + second)
        for n, word in enumerate((a, b, c, d, e, f, g, h)):
            state[n] = uint32(state[n] + word)
    out = uint8s(target, 32)
    for n in range(8):
        for byte in range(4):
            out[4 * n + byte] = uint8((state[n] >> uint32(24 - 8 * byte)) & uint32(255))


@helper
def digest_message(message: int, blocks: int, target: int) -> None:
    """SHA-256 of a padded message in memory: 32 bytes at `target`."""
    if has_instructions():
        _message(message, blocks, target)
    else:
        _plain(message, blocks, target)


@helper
def digest_two(message: int, other: int, blocks: int, other_blocks: int, target: int, other_target: int) -> None:
    """`digest_message`, twice."""
    if has_instructions():
        _messages((message, other, blocks, other_blocks, target, other_target))
    else:
        _plain(message, blocks, target)
        _plain(other, other_blocks, other_target)


@helper
def digest_two_chunks(salt: int, other_salt: int, chunk: int, other: int, target: int, other_target: int) -> None:
    """0x00 ‖ salt (16 bytes) ‖ chunk (1,024 bytes), twice. Only where `has_instructions`."""
    _two_chunks((salt, other_salt, chunk, other, target, other_target))


@helper
def digest_two_nodes(pair: int, other: int, target: int, other_target: int) -> None:
    """0x01 ‖ 64 bytes, twice. A target may be where a pair is. Only where `has_instructions`."""
    _two_nodes((pair, other, target, other_target))


@helper
def digest_two_leaves(leaf: int, other: int, target: int, other_target: int) -> None:
    """0x00 ‖ 32 bytes, twice. Only where `has_instructions`."""
    _two_leaves((leaf, other, target, other_target))


@helper
def pad(message: int, length: int) -> int:
    """Write the padding behind `length` bytes; the number of blocks."""
    blocks = (length + 9 + 63) // 64
    data = uint8s(message, 64 * blocks)
    data[length] = 0x80
    data[length + 1 :] = 0
    bits = 8 * length
    at = 64 * blocks - 1
    while bits:
        data[at] = bits & 255
        bits >>= 8
        at -= 1
    return blocks


_ = uint32s
