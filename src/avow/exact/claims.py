"""What another party committed to, found out by demands, where it differs from one's own run and nowhere else.

Rules:
1. A tree of which the root is known is asked about from the top, ten levels at a time (descent.py). What lies below a node that equals
   one's own needs no question: it is one's own.
2. Every answer is checked before it is used. Where there is none, or a wrong one, `Withheld` names the demand: it can be made on chain,
   and the search taken up again once it is answered there.

No clock; the network is the `Respondent`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from avow.errors import AvowError, InputError, VerificationError
from avow.exact import descent, hashing, openings
from avow.exact.descent import Answer, Demand, Node
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Header, Salts
from avow.receipt import merkle


class Respondent(Protocol):
    """Who answers demands: a node over the network, the chain's record of answers, or both, one after the other."""

    def ask(self, demand: Demand) -> bytes | None:
        """The answer, unchecked; None where there is none."""


class Withheld(AvowError):
    """What a trace commits to is not shown. `demand` asks for it."""

    code = "withheld"
    http_status = 502

    def __init__(self, demand: Demand) -> None:
        super().__init__(f"no right answer to a demand for the trace's {demand.asked}", asked=demand.asked)
        self.demand = demand


class Claims:
    """One trace's answers."""

    def __init__(self, trace: bytes, respondent: Respondent) -> None:
        self._trace = trace
        self._respondent = respondent

    def header(self) -> bytes:
        """The header's bytes, which may be no header."""
        return self.ask(Demand()).data

    def key(self, header: bytes) -> bytes:
        """The key that the header's salts commit to. Raises Withheld."""
        return self.ask(Demand(header)).data

    def ask(self, demand: Demand) -> Answer:
        """The right answer. Raises Withheld."""
        answer = self._respondent.ask(demand)
        if answer is not None:
            try:
                return descent.check_answer(demand, answer, self._trace)
            except (InputError, VerificationError):
                pass  # a wrong answer is none
        raise Withheld(demand)


class ClaimedTree:
    """One tree: the claimed root and, as far as one's own differs, the claimed nodes.

    `own`: the levels of one's own tree over as many leaves. `ask` gives the hashes at the level that an answer about a node opens.
    """

    def __init__(self, root: bytes, own: Sequence[Sequence[bytes]], ask: Callable[[Node], Sequence[bytes]]) -> None:
        self._own = own
        self._total = len(own[0])
        self._ask = ask
        self._top = len(own) - 1
        self._known = {(self._top, 0): root}

    def node(self, level: int, index: int) -> bytes:
        """The claimed hash of a node."""
        while (level, index) not in self._known:
            up = next(up for up in range(level, self._top + 1) if (up, index >> (up - level)) in self._known)
            above = (up, index >> (up - level))
            if self._known[above] == self._own[above[0]][above[1]]:
                return self._own[level][index]
            self._expand(*above)
        return self._known[level, index]

    def own_leaf(self, index: int) -> bytes:
        """One's own leaf hash."""
        return self._own[0][index]

    def differing(self) -> Iterator[int]:
        """The leaves that differ from one's own, in order. A tree without leaves has one root: there is nothing to differ."""
        pending = [(self._top, 0)] if self._total else []
        while pending:
            level, index = pending.pop()
            if self.node(level, index) == self._own[level][index]:
                continue
            if level == 0:
                yield index
                continue
            children = range(2 * index, min(2 * index + 2, len(self._own[level - 1])))
            pending.extend((level - 1, child) for child in reversed(children))

    def proof(self, indices: Sequence[int]) -> tuple[bytes, ...]:
        """The multiproof for leaves."""
        return tuple(self.node(*place) for place in openings.missing(self._total, indices))

    def shown(self, level: int, index: int) -> Node:
        """A node with its path, as demands show it."""
        path = openings.missing(descent.width(self._total, level), [index])
        return Node(level, index, self.node(level, index), tuple(self.node(level + up, at) for up, at in path))

    def _expand(self, level: int, index: int) -> None:
        target, places = descent.below(self._total, level, index)
        found = list(self._ask(self.shown(level, index)))
        start = places.start
        while target < level:
            self._known |= {(target, start + at): value for at, value in enumerate(found)}
            found = openings.levels_over(found)[1] if len(found) > 1 else found
            start >>= 1
            target += 1


class ClaimedTensor:
    """The tensor in one slot: what is claimed of it, beside one's own bytes and salts.

    Raises Withheld. `length` and `root` are those of the claimed digest; `data` is None while the two lengths differ.
    """

    def __init__(self, claims: Claims, base: Demand, salts: Salts, own: bytes) -> None:
        """`base`: the demand that shows the claimed digest."""
        self._claims = claims
        self._base = base
        self._salts = salts
        self._own = own
        self._found: dict[int, bytes] = {}
        self._below_root: Sequence[bytes] = ()
        slot = base.slot
        assert slot is not None
        self._slot = slot
        own_hashes = salts.chunk_hashes(slot, own)
        levels = openings.levels_over(own_hashes)
        if hashing.tensor_digest(len(own), levels[-1][0]) == base.digest:
            self.length, self.root = len(own), levels[-1][0]
        else:
            answer = claims.ask(base)
            assert answer.content is not None
            self.length, self.root = answer.content
            self._below_root = answer.hashes
        self.tree = ClaimedTree(self.root, levels, self._descend) if self.length == len(own) else None

    def chunk(self, number: int) -> bytes:
        """Salt and chunk, as claimed."""
        assert self.tree is not None
        if self.tree.node(0, number) == self.tree.own_leaf(number):
            start = number * hashing.CHUNK
            return self._salts.salt(self._slot, number) + self._own[start : start + hashing.CHUNK]
        if number not in self._found:
            answer = self._claims.ask(self._at(self.tree.shown(0, number)))
            self._found[number] = answer.salt + answer.data
        return self._found[number]

    def difference(self) -> "Difference":
        """The first chunk that differs from one's own, and in what. Of a tensor that differs, and has one's own length."""
        assert self.tree is not None
        number = next(self.tree.differing())
        start = number * hashing.CHUNK
        claimed = self.chunk(number)
        if claimed[: hashing.SALT] != self._salts.salt(self._slot, number):
            return Difference(number, None)
        theirs, ours = claimed[hashing.SALT :], self._own[start : start + hashing.CHUNK]
        at = next(at for at, (their, our) in enumerate(zip(theirs, ours, strict=True)) if their != our)
        return Difference(number, start + at)

    def _at(self, node: Node) -> Demand:
        base = self._base
        return Demand(base.header, base.leaf, base.end, base.digest, (self.length, self.root), node)

    def _descend(self, node: Node) -> Sequence[bytes]:
        root = descent.height(hashing.chunk_count(self.length))
        return self._below_root if node.level == root else self._claims.ask(self._at(node)).hashes


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a claimed tensor first differs: in which chunk, and at which of the tensor's bytes; None where the chunk's salt differs."""

    chunk: int
    byte: int | None


class ClaimedRun:
    """A whole trace beside one's own run of as many steps."""

    def __init__(
        self, claims: Claims, header: bytes, leaves: Sequence[bytes], salts: Salts, tensor: Callable[[int], bytes]
    ) -> None:
        """`leaves`: one's own, digests. `tensor`: the bytes of one's own tensor in a slot."""
        self._claims = claims
        self._encoded = header
        self._header = Header.parse(header)
        self._own = leaves
        self._salts = salts
        self._tensor = tensor
        self._digests: dict[int, bytes] = {}
        self._tensors: dict[int, ClaimedTensor] = {}
        levels = openings.levels_over([merkle.leaf_hash(leaf) for leaf in leaves])
        self.tree = ClaimedTree(self._header.root, levels, self._descend)

    def digest(self, slot: int) -> bytes:
        """The claimed digest in a slot: a leaf's data, or the header's."""
        if slot < OUTPUT_SLOT:
            if self.tree.node(0, slot) == self.tree.own_leaf(slot):
                return self._own[slot]
            if slot not in self._digests:
                self.tree.node(0, slot)
            if slot not in self._digests:  # the only leaf: its hash is the root, and nobody had to ask
                self._descend(self.tree.shown(0, slot))
            return self._digests[slot]
        found = descent.end_digest(self._header, slot)
        assert found is not None
        return found

    def tensor(self, slot: int) -> ClaimedTensor:
        """What is claimed of the tensor in a slot."""
        if slot not in self._tensors:
            leaf = self.tree.shown(0, slot) if slot < OUTPUT_SLOT else None
            end = slot if slot >= OUTPUT_SLOT else None
            base = Demand(self._encoded, leaf, end, self.digest(slot))
            self._tensors[slot] = ClaimedTensor(self._claims, base, self._salts, self._tensor(slot))
        return self._tensors[slot]

    def own_end(self, slot: int) -> bytes:
        """One's own digest of a program input or output."""
        return self._salts.digest(slot, self._tensor(slot))

    def inputs(self) -> Iterator[int]:
        """The slots of the program inputs."""
        return iter(range(INPUT_SLOT, INPUT_SLOT + len(self._header.inputs)))

    def outputs(self) -> Iterator[int]:
        """The slots of the program outputs."""
        return iter(range(OUTPUT_SLOT, OUTPUT_SLOT + len(self._header.outputs)))

    def _descend(self, node: Node) -> Sequence[bytes]:
        hashes = self._claims.ask(Demand(self._encoded, node)).hashes
        target, places = descent.below(len(self._own), node.level, node.index)
        if target:
            return hashes
        self._digests |= dict(zip(places, hashes, strict=True))
        return [merkle.leaf_hash(digest) for digest in hashes]
