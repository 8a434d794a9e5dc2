"""Demands and answers rule by rule: what may be asked, and the one right answer to it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import InputError, VerificationError
from avow.exact import descent, openings
from avow.exact.committed import CommittedRun
from avow.exact.descent import Answer, Demand, Node, WrongAnswer, answer_to, below, check, check_answer, height, width
from avow.exact.hashing import ABSENT, INPUT_SLOT, OUTPUT_SLOT, SALT, Header, Salts, tensor_digest, trace_of
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode
from avow.receipt.merkle import NotIncluded
from tests.exact.traces import SEED

LEAVES = 2_500
LONG = 1_300
"""Chunks of the long tensor: more than one answer holds."""


class Run:
    """2,500 leaves, one of them long, one absent; an input and an output. Not a program's: demands do not look at programs."""

    def __init__(self):
        self.tensors = {slot: slot.to_bytes(4) for slot in range(LEAVES)}
        self.tensors[7] = bytes(range(256)) * 4 * (LONG - 1) + b"end"
        del self.tensors[9]
        self.tensors[INPUT_SLOT] = b"input" * 700
        self.tensors[OUTPUT_SLOT] = b"out"
        salts = Salts(SEED)
        self.leaves = [
            salts.digest(slot, self.tensors[slot]) if slot in self.tensors else ABSENT for slot in range(LEAVES)
        ]
        self.header = Header(
            program=bytes(32), steps=1, prompt=0, parameters={}, finish="whole", leaves=LEAVES, root=merkle.root(self.leaves),
            inputs=(salts.digest(INPUT_SLOT, self.tensors[INPUT_SLOT]),), outputs=(salts.digest(OUTPUT_SLOT, self.tensors[OUTPUT_SLOT]),),
            salts=salts.commitment,
        ).encoded()  # fmt: skip
        self.trace = trace_of(self.header)
        self.levels = merkle.tree(self.leaves)

    def tensor(self, slot):
        return self.tensors[slot]


RUN = Run()
COMMITTED = CommittedRun(RUN.header, RUN, SEED)


def node(levels, level, index):
    path = openings.missing(len(levels[level]), [index])
    return Node(level, index, levels[level][index], tuple(levels[level + up][at] for up, at in path))


def leaf_node(level, index):
    return node(RUN.levels, level, index)


def tensor_demand(slot):
    if slot >= OUTPUT_SLOT:
        header = Header.parse(RUN.header)
        return Demand(RUN.header, None, slot, (header.inputs if slot >= INPUT_SLOT else header.outputs)[0])
    return Demand(RUN.header, leaf_node(0, slot), None, RUN.leaves[slot])


def chunk_levels(slot):
    return merkle.tree(COMMITTED.tensor(slot)[1])


def chunk_demand(slot, level, index):
    levels = chunk_levels(slot)
    content = len(RUN.tensors[slot]), levels[-1][0]
    return replace(tensor_demand(slot), content=content, chunk=node(levels, level, index))


DEMANDS = {
    "header": Demand(),
    "key": Demand(RUN.header),
    "root": Demand(RUN.header, leaf_node(12, 0)),
    "inner": Demand(RUN.header, leaf_node(11, 1)),
    "ragged": Demand(RUN.header, leaf_node(2, 624)),
    "low": Demand(RUN.header, leaf_node(1, 3)),
    "level ten": Demand(RUN.header, leaf_node(10, 2)),
    "tensor": tensor_demand(3),
    "long tensor": tensor_demand(7),
    "input": tensor_demand(INPUT_SLOT),
    "output": tensor_demand(OUTPUT_SLOT),
    "chunks": chunk_demand(7, 11, 0),
    "chunks below": chunk_demand(7, 1, 649),
    "chunk": chunk_demand(7, 0, 5),
    "last chunk": chunk_demand(7, 0, LONG - 1),
    "input's chunk": chunk_demand(INPUT_SLOT, 0, 3),
    "only chunk": chunk_demand(OUTPUT_SLOT, 0, 0),
}


def answered(demand):
    check(demand, RUN.trace)
    return check_answer(demand, answer_to(demand, COMMITTED), RUN.trace)


@pytest.mark.parametrize("name", DEMANDS)
def test_a_demand_and_its_answer(name):
    demand = DEMANDS[name]
    assert Demand.parse(demand.encoded()) == demand
    assert len(demand.encoded()) <= descent.MAX_DEMAND
    assert len(answer_to(demand, COMMITTED)) <= descent.MAX_ANSWER
    answered(demand)


def test_what_answers_hold():
    assert answered(DEMANDS["header"]) == Answer(data=RUN.header)
    assert answered(DEMANDS["key"]) == Answer(data=Salts(SEED).key)
    assert answered(DEMANDS["root"]) == Answer(hashes=tuple(RUN.levels[2]))
    assert answered(DEMANDS["inner"]) == Answer(hashes=tuple(RUN.levels[1][1024:]))
    assert answered(DEMANDS["ragged"]) == Answer(hashes=tuple(RUN.leaves[2496:]))
    assert answered(DEMANDS["low"]) == Answer(hashes=tuple(RUN.leaves[6:8]))
    assert answered(DEMANDS["level ten"]) == Answer(hashes=tuple(RUN.leaves[2048:]))
    levels = chunk_levels(7)
    content = (len(RUN.tensors[7]), levels[-1][0])
    assert answered(DEMANDS["long tensor"]) == Answer(hashes=tuple(levels[1]), content=content)
    assert answered(DEMANDS["chunks"]) == Answer(hashes=tuple(levels[1]))
    assert answered(DEMANDS["chunks below"]) == Answer(hashes=tuple(levels[0][1298:1300]))
    salts = Salts(SEED)
    assert answered(DEMANDS["last chunk"]) == Answer(salt=salts.salt(7, LONG - 1), data=b"end")
    assert answered(DEMANDS["input's chunk"]) == Answer(salt=salts.salt(INPUT_SLOT, 3), data=(b"input" * 700)[3072:])


def test_what_is_asked():
    asked = {name: demand.asked for name, demand in DEMANDS.items()}
    assert asked == {
        "header": "header", "key": "key", "root": "nodes", "inner": "nodes", "ragged": "nodes", "low": "nodes", "level ten": "nodes",
        "tensor": "tensor", "long tensor": "tensor", "input": "tensor", "output": "tensor", "chunks": "chunks", "chunks below": "chunks",
        "chunk": "chunk", "last chunk": "chunk", "input's chunk": "chunk", "only chunk": "chunk",
    }  # fmt: skip
    assert [DEMANDS[name].slot for name in ("header", "root", "tensor", "chunk", "input", "only chunk")] == [
        None, None, 3, 7, INPUT_SLOT, OUTPUT_SLOT,
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(DEMANDS)), st.data())
def test_there_is_one_right_answer(name, data):
    demand = DEMANDS[name]
    answer = answer_to(demand, COMMITTED)
    at = data.draw(st.integers(0, len(answer) - 1))
    changed = answer[:at] + bytes([answer[at] ^ data.draw(st.integers(1, 255))]) + answer[at + 1 :]
    for wrong in (changed, answer[:at], answer + b"\0", b""):
        with pytest.raises((InputError, VerificationError)):
            check_answer(demand, wrong, RUN.trace)


def flipped(data, at=0):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def wrong_values(value):
    """What a liar would say in the place of an answer's value: every member another, one more, one less."""
    if isinstance(value, bytes):
        yield from (flipped(value), flipped(value, -1 % len(value)), value[:-1], value + b"\0", bytes(len(value)))
    elif isinstance(value, list):
        yield from ([flipped(value[0]), *value[1:]], [*value[:-1], flipped(value[-1])], value[:-1], [*value, value[-1]])
        if len(value) > 1:
            yield value[::-1]
    else:
        for hashes in wrong_values(value["hashes"]):
            yield {**value, "hashes": hashes}
        for by in (-1, 1, 1_024):
            yield {**value, "length": value["length"] + by}


@pytest.mark.parametrize("name", sorted(set(DEMANDS) - {"header"}))
def test_a_liars_answers(name):
    demand = DEMANDS[name]
    value = decode(answer_to(demand, COMMITTED))
    for wrong in wrong_values(value):
        with pytest.raises((InputError, VerificationError)):
            check_answer(demand, encode(wrong), RUN.trace)
    others = {encode(decode(answer_to(other, COMMITTED))) for other in DEMANDS.values() if other is not demand}
    for wrong in others - {encode(value)}:
        with pytest.raises((InputError, VerificationError)):
            check_answer(demand, wrong, RUN.trace)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_leaves_of_the_smallest_trees_can_be_asked_for(count):
    """A leaf's own digest is asked for where nothing is above it; elsewhere by the node above, and in no second way."""
    leaves = RUN.leaves[:count]
    levels = merkle.tree(leaves)
    header = replace(Header.parse(RUN.header), leaves=count, root=levels[-1][0]).encoded()
    top = Demand(header, node(levels, len(levels) - 1, 0))
    check(top, trace_of(header))
    assert check_answer(top, encode(leaves), trace_of(header)).hashes == tuple(leaves)
    for index in range(count if count > 1 else 0):
        with pytest.raises(NotIncluded):
            check(Demand(header, node(levels, 0, index)), trace_of(header))


@pytest.mark.parametrize("name", ["root", "ragged", "low", "chunks", "long tensor"])
def test_hashes_of_another_level_are_no_answer(name):
    """A level higher leads to the same root, and tells less."""
    demand = DEMANDS[name]
    value = decode(answer_to(demand, COMMITTED))
    hashes = value["hashes"] if isinstance(value, dict) else value
    if name in ("ragged", "low"):
        hashes = [merkle.leaf_hash(item) for item in hashes]
    above = openings.levels_over(hashes)[1]
    with pytest.raises(WrongAnswer):
        check_answer(demand, encode({**value, "hashes": above} if isinstance(value, dict) else above), RUN.trace)


def test_a_chunk_of_another_size_is_no_answer():
    """What is committed under a chunk's leaf has no answer unless it is salt and a whole chunk."""
    chunks = [b"s" * SALT + bytes(1024), b"s" * SALT + bytes(100)]
    for wrong in (
        [chunks[0], chunks[1][:-1]],
        [chunks[0][:-1], chunks[1]],
        [chunks[0] + b"\0", chunks[1]],
        [chunks[0][:SALT], chunks[1]],
    ):
        levels = merkle.tree(wrong)
        digest = tensor_digest(1124, levels[-1][0])
        header = replace(Header.parse(RUN.header), inputs=(digest,)).encoded()
        for at in (0, 1):
            demand = Demand(header, None, INPUT_SLOT, digest, (1124, levels[-1][0]), node(levels, 0, at))
            check(demand, trace_of(header))
            if len(wrong[at]) == len(chunks[at]):
                check_answer(demand, encode(wrong[at]), trace_of(header))
            else:
                with pytest.raises(InputError):
                    check_answer(demand, encode(wrong[at]), trace_of(header))


def test_a_tensor_without_chunks():
    digest = tensor_digest(0, merkle.EMPTY_LIST_ROOT)
    header = replace(Header.parse(RUN.header), outputs=(digest,)).encoded()
    demand = Demand(header, None, OUTPUT_SLOT, digest)
    check(demand, trace_of(header))
    assert check_answer(demand, encode({"length": 0, "hashes": []}), trace_of(header)).content == (
        0,
        merkle.EMPTY_LIST_ROOT,
    )
    chunk = replace(demand, content=(0, merkle.EMPTY_LIST_ROOT), chunk=Node(0, 0, bytes(32), ()))
    with pytest.raises(NotIncluded):
        check(chunk, trace_of(header))


TENSOR, CHUNK = DEMANDS["tensor"], DEMANDS["chunk"]
REFUSED = {
    "nothing but a leaf's tree": Demand(None, leaf_node(12, 0)),
    "an end without a header": Demand(None, None, INPUT_SLOT),
    "a digest without a header": Demand(None, None, None, bytes(32)),
    "a content without a header": Demand(None, content=(1, bytes(32))),
    "a chunk without a header": Demand(None, chunk=leaf_node(1, 0)),
    "another header": replace(DEMANDS["root"], header=RUN.header[:-1] + b"\0"),
    "a key by another header": Demand(RUN.header[:-1] + b"\0"),
    "a key and a content": Demand(RUN.header, content=(1, bytes(32))),
    "a key and a chunk": Demand(RUN.header, chunk=leaf_node(1, 0)),
    "a digest of nothing": Demand(RUN.header, digest=RUN.leaves[0]),
    "leaf and end": replace(TENSOR, end=INPUT_SLOT),
    "below a leaf": Demand(RUN.header, leaf_node(0, 3)),
    "an end without its digest": Demand(RUN.header, None, INPUT_SLOT),
    "an end's other digest": Demand(RUN.header, None, INPUT_SLOT, RUN.leaves[0]),
    "an end that is not there": Demand(RUN.header, None, INPUT_SLOT + 1, RUN.leaves[0]),
    "an end that is not there, without a digest": Demand(RUN.header, None, INPUT_SLOT + 1),
    "an output that is not there, without a digest": Demand(RUN.header, None, OUTPUT_SLOT + 1),
    "a slot that is no end, without a digest": Demand(RUN.header, None, 3),
    "a slot that is no end": Demand(RUN.header, None, 3, RUN.leaves[3]),
    "a digest of another leaf": replace(TENSOR, digest=RUN.leaves[4]),
    "a digest above the leaves": Demand(RUN.header, leaf_node(1, 3), None, RUN.leaves[6]),
    "an absent tensor": Demand(RUN.header, leaf_node(0, 9), None, ABSENT),
    "another node": Demand(RUN.header, replace(leaf_node(2, 5), index=6)),
    "a node of another level": Demand(RUN.header, replace(leaf_node(2, 5), level=3)),
    "a node above the root": Demand(RUN.header, Node(13, 0, RUN.levels[-1][0], ())),
    "a node without its path": Demand(RUN.header, replace(leaf_node(2, 5), path=())),
    "a node beside the tree": Demand(RUN.header, Node(12, 1, RUN.levels[-1][0], ())),
    "a content alone": replace(TENSOR, content=(4, bytes(32))),
    "a chunk alone": replace(CHUNK, content=None),
    "a content without a digest": replace(DEMANDS["root"], content=CHUNK.content, chunk=CHUNK.chunk),
    "another length": replace(CHUNK, content=(CHUNK.content[0] + 1, CHUNK.content[1])),
    "another root": replace(CHUNK, content=(CHUNK.content[0], bytes(32))),
    "a chunk elsewhere": replace(CHUNK, chunk=replace(CHUNK.chunk, index=6)),
    "another chunk": replace(CHUNK, chunk=replace(CHUNK.chunk, hash=bytes(32))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_asked(name):
    with pytest.raises(NotIncluded):
        check(REFUSED[name], RUN.trace)


def test_a_header_that_is_none_answers_nothing_more():
    header = b"\xa0"
    with pytest.raises(InputError):
        check(Demand(header, leaf_node(1, 0)), trace_of(header))
    assert check_answer(Demand(), header, trace_of(header)).data == header
    for wrong in (b"", header + header, bytes(9_000)):
        with pytest.raises(WrongAnswer):
            check_answer(Demand(), wrong, trace_of(header))
    with pytest.raises(WrongAnswer):
        check_answer(Demand(), bytes(8_193), trace_of(bytes(8_193)))
    assert check_answer(Demand(), bytes(8_192), trace_of(bytes(8_192)))


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"header": 1}, {"leaf": []}, {"leaf": [0, 0, b"", []]}, {"leaf": [64, 0, bytes(32), []]}, {"leaf": [0, 0, bytes(32), [b""]]},
     {"leaf": [0, 0, bytes(32), [bytes(32)] * 65]}, {"leaf": [0, (1 << 40) + 1, bytes(32), []]}, {"end": -1}, {"digest": bytes(31)}, {"content": [1]},
     {"content": [1, b""]}, {"content": [(1 << 40) + 1, bytes(32)]}, {"chunk": [1]}, {"more": 1}, {"header": bytes(8_193)}],
)  # fmt: skip
def test_demands_of_another_form(change):
    with pytest.raises(InputError):
        Demand.parse(encode({**decode(DEMANDS["chunk"].encoded()), **change}))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_demand_or_refused(data):
    try:
        demand = Demand.parse(data)
    except InputError:
        return
    assert demand.encoded() == data


def test_limits_of_a_demand():
    path = (bytes(32),) * 64
    most = Demand(
        bytes(8_192),
        Node(63, 1 << 40, bytes(32), path),
        (1 << 64) - 1,
        bytes(32),
        (1 << 40, bytes(32)),
        Node(63, 0, bytes(32), path),
    )
    assert Demand.parse(most.encoded()) == most


@pytest.mark.parametrize(("total", "top"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 10), (1025, 11)])
def test_heights_and_widths(total, top):
    assert height(total) == top
    assert width(total, top) == 1
    assert [width(total, level) for level in range(top + 1)] == [
        len(level) for level in openings.levels_over([bytes(32)] * total)
    ]


def test_below():
    assert below(2_500, 12, 0) == (2, range(625))
    assert below(2_500, 11, 1) == (1, range(1024, 1250))
    assert below(2_500, 10, 2) == (0, range(2048, 2500))
    assert below(2_500, 1, 1249) == (0, range(2498, 2500))


def test_an_own_run_answers():
    assert COMMITTED.ask(Demand()) == RUN.header
    with pytest.raises(KeyError):
        COMMITTED.tensor(9)
