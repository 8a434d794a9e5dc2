"""Demands: what may be asked of who committed to a trace, from its header down to one chunk, and what an answer has to be.

Rules:
1. Trees are the one over the leaves, and under each leaf's digest, program input's and program output's the one over its chunks
   (hashing.py). A node is (level, index): level 0 holds the leaf hashes, each higher level has half as many nodes, rounded up.
2. A demand shows that what it asks about is committed: the header hashes to the trace, every node has its path to the header's root or
   to a digest under it. It asks for one of
     header  nothing shown: the header;
     key     nothing but the header: the key that the header's salts commit to;
     nodes   a node of the leaves' tree above level 0: the nodes up to ten levels below it, at level 0 the leaves' digests;
            of a tree that is one leaf, that leaf: its digest;
     tensor  a digest: the tensor's byte length and the nodes up to ten levels below the root of its chunks;
     chunks  a node of a chunk tree above level 0: the nodes up to ten levels below it;
     chunk   a leaf of a chunk tree: salt and chunk.
3. So an answer holds at most 1,024 hashes, one chunk, a key or one header, and it has to hash to what was shown: there is one right answer.
4. Demands and answers are deterministic CBOR of one form. The same demands are asked of a node directly, and on chain if it is silent.

Pure: no clock, no input or output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self, runtime_checkable

from avow.errors import VerificationError
from avow.exact import hashing, openings
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, SALT, Header
from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, decode, encode
from avow.receipt.merkle import NotIncluded

REACH = 10
"""Levels that one answer opens: at most 2^10 hashes of 32 bytes."""
MAX_DEMAND = 16_384
MAX_ANSWER = 40_960
MAX_TENSOR = 1 << 40
MAX_LEVEL = 63

Asked = Literal["header", "key", "nodes", "tensor", "chunks", "chunk"]
OPENING: frozenset[Asked] = frozenset(("key", "chunk"))
"""What is answered with data of the run, or with what confirms a guess of it; the rest are hashes alone."""


class WrongAnswer(VerificationError):
    """An answer is not what was demanded."""

    code = "wrong_answer"


def height(total: int) -> int:
    """The level of the root over `total` leaves; 0 for one."""
    return (total - 1).bit_length()


def width(total: int, level: int) -> int:
    """How many nodes a level has."""
    return -(-total >> level)


def below(total: int, level: int, index: int) -> tuple[int, range]:
    """The level that an answer about a node opens, and the nodes of it: those of the node's at most ten levels below."""
    target = max(0, level - REACH)
    spread = level - target
    return target, range(index << spread, min((index + 1) << spread, width(total, target)))


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a tree, and its path to the root, from the node up."""

    level: int
    index: int
    hash: bytes
    path: tuple[bytes, ...]

    def root(self, total: int) -> bytes:
        """The root that the path leads to, in a tree of `total` leaves. Raises NotIncluded."""
        if self.level > height(total):
            raise NotIncluded("the node is above the root")
        return openings.root_of(width(total, self.level), {self.index: self.hash}, self.path)

    def to_value(self) -> Value:
        return [self.level, self.index, self.hash, list(self.path)]

    @classmethod
    def from_value(cls, value: Value, field: str) -> Self:
        items = fields.array(value, field, max_length=4)
        if len(items) != 4:
            raise fields.FieldError(f"{field} has not four members", field=field)
        path = fields.array(items[3], field, max_length=MAX_LEVEL + 1)
        return cls(
            fields.integer(items[0], field, maximum=MAX_LEVEL),
            fields.integer(items[1], field, maximum=MAX_TENSOR),
            fields.octets(items[2], field, 32),
            tuple(fields.octets(item, field, 32) for item in path),
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What is shown, and by that what is asked (rule 2).

    `header`: the encoded header. `leaf`: a node of the leaves' tree, at level 0 for a leaf whose tensor is meant. `end`: the slot of a
    program input or output, in the place of a leaf. `digest`: that tensor's. `content`: the byte length and root that make it up.
    `chunk`: a node of its chunks' tree.
    """

    header: bytes | None = None
    leaf: Node | None = None
    end: int | None = None
    digest: bytes | None = None
    content: tuple[int, bytes] | None = None
    chunk: Node | None = None

    @property
    def asked(self) -> Asked:
        if self.header is None:
            return "header"
        if self.leaf is None and self.end is None:
            return "key"
        if self.digest is None:
            return "nodes"
        if self.chunk is None:
            return "tensor"
        return "chunks" if self.chunk.level else "chunk"

    @property
    def slot(self) -> int | None:
        """The slot of the tensor that is meant (hashing.py, rule 4); None where none is."""
        if self.digest is None:
            return None
        return self.leaf.index if self.leaf is not None else self.end

    def encoded(self) -> bytes:
        return encode({
            "version": 1,
            "header": self.header,
            "leaf": None if self.leaf is None else self.leaf.to_value(),
            "end": self.end,
            "digest": self.digest,
            "content": None if self.content is None else list(self.content),
            "chunk": None if self.chunk is None else self.chunk.to_value(),
        })  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The demand whose one encoding is `data`. Raises EncodingError, TooLarge or UnknownVersion."""
        names = ("version", "header", "leaf", "end", "digest", "content", "chunk")
        item = fields.mapping(decode(data, max_bytes=MAX_DEMAND, max_items=512), "demand", names)
        fields.version(item["version"], "demand", 1)
        header, leaf, end = item["header"], item["leaf"], item["end"]
        digest, content, chunk = item["digest"], item["content"], item["chunk"]
        return cls(
            None if header is None else fields.octets(header, "header", 0, hashing.MAX_HEADER),
            None if leaf is None else Node.from_value(leaf, "leaf"),
            None if end is None else fields.integer(end, "end"),
            None if digest is None else fields.octets(digest, "digest", 32),
            None if content is None else _content(content),
            None if chunk is None else Node.from_value(chunk, "chunk"),
        )


def _content(value: Value) -> tuple[int, bytes]:
    items = fields.array(value, "content", max_length=2)
    if len(items) != 2:
        raise fields.FieldError("content has not two members", field="content")
    return fields.integer(items[0], "content", maximum=MAX_TENSOR), fields.octets(items[1], "content", 32)


# --- Checks --------------------------------------------------------------------------------------------------------


def check(demand: Demand, trace: bytes) -> None:
    """What the demand shows is committed under `trace`. Raises NotIncluded, or EncodingError and its kin for a header that is none."""
    shown = (demand.leaf, demand.end, demand.digest, demand.content, demand.chunk)
    if demand.header is None:
        if any(item is not None for item in shown):
            raise NotIncluded("a demand for the header shows nothing")
        return
    if hashing.trace_of(demand.header) != trace:
        raise NotIncluded("the header is not the trace's")
    header = Header.parse(demand.header)
    if demand.asked == "key":
        if any(item is not None for item in shown):
            raise NotIncluded("a demand for the key shows the header alone")
        return
    if demand.leaf is not None and demand.end is not None:
        raise NotIncluded("a demand is about the leaves' tree, or about an input or output")
    if demand.leaf is not None:
        _check_leaf(demand, demand.leaf, header)
    elif demand.digest is None or demand.digest != end_digest(header, demand.end or 0):
        raise NotIncluded("the digest is not the header's")
    _check_content(demand)


def _check_leaf(demand: Demand, leaf: Node, header: Header) -> None:
    if leaf.root(header.leaves) != header.root:
        raise NotIncluded("the node is not under the leaves' root")
    if demand.digest is None:
        if not leaf.level and header.leaves != 1:
            raise NotIncluded("nothing is below a leaf but its tensor")
    elif leaf.level or merkle.leaf_hash(demand.digest) != leaf.hash:
        raise NotIncluded("the digest is not the leaf's")
    elif demand.digest == hashing.ABSENT:
        raise NotIncluded("an absent leaf has no tensor")


def _check_content(demand: Demand) -> None:
    if (demand.content is None) != (demand.chunk is None):
        raise NotIncluded("length, root and node are shown together")
    if demand.content is None or demand.chunk is None:
        return
    length, root = demand.content
    if hashing.tensor_digest(length, root) != demand.digest:
        raise NotIncluded("length and root do not make up the digest")
    total = hashing.chunk_count(length)
    if not total or demand.chunk.root(total) != root:
        raise NotIncluded("the node is not under the chunks' root")


def end_digest(header: Header, slot: int) -> bytes | None:
    """The digest of a program input or output by its slot; None where there is none."""
    first, digests = (INPUT_SLOT, header.inputs) if slot >= INPUT_SLOT else (OUTPUT_SLOT, header.outputs)
    return digests[slot - first] if 0 <= slot - first < len(digests) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A checked answer: of what was asked, the part that applies.

    `hashes`: of "nodes", at level 0 the leaves' digests; of "tensor" those below the root; of "chunks". `data`: the header, the key, or
    the chunk.
    """

    hashes: tuple[bytes, ...] = ()
    content: tuple[int, bytes] | None = None
    salt: bytes = b""
    data: bytes = b""


def check_answer(demand: Demand, answer: bytes, trace: bytes) -> Answer:
    """The content of the one right answer to a demand that `check` has seen. Raises WrongAnswer, EncodingError or TooLarge."""
    if demand.header is None:
        if len(answer) > hashing.MAX_HEADER or hashing.trace_of(answer) != trace:
            raise WrongAnswer("the answer is not the trace's header")
        return Answer(data=answer)
    value = decode(answer, max_bytes=MAX_ANSWER, max_items=2_048)
    if demand.asked == "key":
        return _check_key(Header.parse(demand.header), value)
    if demand.asked == "chunk":
        return _check_chunk(demand, value)
    if demand.asked == "tensor":
        return _check_tensor(demand, value)
    hashes = _hashes(value)
    if demand.asked == "nodes" and demand.leaf is not None:
        total, node = Header.parse(demand.header).leaves, demand.leaf
        target, expected = below(total, node.level, node.index)
        nodes = [merkle.leaf_hash(item) for item in hashes] if not target else hashes
    else:
        assert demand.content is not None
        assert demand.chunk is not None
        total, node = hashing.chunk_count(demand.content[0]), demand.chunk
        _, expected = below(total, node.level, node.index)
        nodes = hashes
    if len(hashes) != len(expected) or merkle.root_of_hashes(nodes) != node.hash:
        raise WrongAnswer("the hashes are not those below the node")
    return Answer(hashes=tuple(hashes))


def _hashes(value: Value) -> list[bytes]:
    return [fields.octets(item, "hashes", 32) for item in fields.array(value, "hashes", max_length=1 << REACH)]


def _check_tensor(demand: Demand, value: Value) -> Answer:
    item = fields.mapping(value, "tensor", ("length", "hashes"))
    length = fields.integer(item["length"], "length", maximum=MAX_TENSOR)
    hashes = _hashes(item["hashes"])
    total = hashing.chunk_count(length)
    expected = below(total, height(total), 0)[1]
    root = merkle.root_of_hashes(hashes)
    if len(hashes) != len(expected) or hashing.tensor_digest(length, root) != demand.digest:
        raise WrongAnswer("length and hashes do not make up the digest")
    return Answer(hashes=tuple(hashes), content=(length, root))


def _check_key(header: Header, value: Value) -> Answer:
    key = fields.octets(value, "key", hashing.KEY)
    if hashing.commitment_to(key) != header.salts:
        raise WrongAnswer("the key is not the one that the header's salts commit to")
    return Answer(data=key)


def _check_chunk(demand: Demand, value: Value) -> Answer:
    assert demand.content is not None
    assert demand.chunk is not None
    data = fields.octets(value, "chunk", SALT + hashing.chunk_length(demand.content[0], demand.chunk.index))
    if merkle.leaf_hash(data) != demand.chunk.hash:
        raise WrongAnswer("the chunk is not the one asked for")
    return Answer(salt=data[:SALT], data=data[SALT:])


# --- Answering -----------------------------------------------------------------------------------------------------


class Committed(Protocol):
    """What who committed to a trace can tell about it."""

    def header(self) -> bytes:
        """The encoded header."""
        ...

    def key(self) -> bytes:
        """The key of the salts."""
        ...

    def leaves(self) -> Sequence[bytes]:
        """The data of all leaves: digests, in order."""
        ...

    def tensor(self, slot: int) -> tuple[int, Sequence[bytes]]:
        """The tensor in `slot`: its byte length and its chunks, salt and chunk each. Raises KeyError for a slot that holds none."""
        ...


@runtime_checkable
class Bulk(Protocol):
    """Leaves that are hashed faster than one by one."""

    def roots(self, level: int, indices: range) -> Sequence[bytes]:
        """The nodes of a level of their tree, 1 or above."""
        ...


def answer_to(demand: Demand, committed: Committed) -> bytes:
    """The answer to a demand that `check` has seen."""
    if demand.header is None:
        return committed.header()
    if demand.asked == "key":
        return encode(committed.key())
    if demand.asked == "nodes" and demand.leaf is not None:
        return encode(list(_descendants(committed.leaves(), demand.leaf)))
    slot = demand.slot
    assert slot is not None
    length, chunks = committed.tensor(slot)
    if demand.asked == "chunk" and demand.chunk is not None:
        return encode(chunks[demand.chunk.index])
    hashes = [merkle.leaf_hash(chunk) for chunk in chunks]
    if demand.asked == "tensor":
        levels = openings.levels_over(hashes)
        return encode({"length": length, "hashes": [*levels[max(0, len(levels) - 1 - REACH)]]})
    assert demand.chunk is not None
    target, wanted = below(len(hashes), demand.chunk.level, demand.chunk.index)
    return encode(list(openings.levels_over(hashes)[target][wanted.start : wanted.stop]))


def _descendants(leaves: Sequence[bytes], node: Node) -> Sequence[bytes]:
    """What an answer opens below a node of the leaves' tree: digests at level 0, else hashes."""
    target, wanted = below(len(leaves), node.level, node.index)
    if not target:
        return leaves[wanted.start : wanted.stop]
    if isinstance(leaves, Bulk):
        return leaves.roots(target, wanted)
    spread = 1 << target
    return [merkle.root(leaves[index * spread : min((index + 1) * spread, len(leaves))]) for index in wanted]
