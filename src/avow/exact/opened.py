"""What a fraud proof opens, tied to what was committed to, and read value by value.

Rules:
1. A chunk has the size, and a digest the length, that the program gives the tensor.
2. The digests of operators' outputs are under the header's root at their slots; those of program inputs and outputs are the header's own;
   constants are under the head's root, at their numbers.
3. Only tensors are opened that the operator in question, or one without a leaf that it reads, gives or reads; every chunk that is opened is
   read.
4. The records of operators without a leaf are under the head's root at their numbers, of a form that can be computed; each is needed.

Pure: no clock, no input or output, integers and bytes only.
"""

from collections.abc import Mapping, Sequence

from avow.exact import hashing, openings
from avow.exact.descent import end_digest
from avow.exact.errors import NotOpened
from avow.exact.fraud import FraudProof, NotCommitted, NotShown, Opened
from avow.exact.hashing import CHUNK, INPUT_SLOT, OUTPUT_SLOT, SALT, Header
from avow.exact.program import NO_LEAF, Head, Operator, Source
from avow.exact.reading import ChunkedValues, Values
from avow.exact.sites import Layout, Site, input_layout, output_layout
from avow.exact.specification import check_record
from avow.receipt import merkle
from avow.receipt.encoding import encode


class _View:
    """The opened chunks of one tensor, and the values in them."""

    __slots__ = ("chunks", "layout", "values")

    def __init__(self, layout: Layout, chunks: Mapping[int, bytes], skip: int, size: int = CHUNK) -> None:
        """`skip`: bytes of salt before each chunk's values; `size`: of a whole chunk without them."""

        def chunk(number: int) -> bytes:
            data = chunks.get(number)
            if data is None:
                raise NotOpened("a value that is read is not opened")
            return data[skip:]

        self.layout = layout
        self.chunks = chunks
        self.values = ChunkedValues(layout.type, chunk, size)


class Openings:
    """All that a proof opens, verified against the header and the head: the reader of its element (reading.py)."""

    def __init__(self, proof: FraudProof, header: Header, head: Head, site: Site | None) -> None:
        """`site`: where the layouts of leaves and constants come from; None where only program inputs are opened."""
        self._run: dict[int, _View] = {}
        self._constants: dict[int, _View] = {}
        self._inside = _inside(proof, head)
        self._needed: set[int] = set()
        sites = [] if site is None else [site, *(site.of(number, each) for number, each in self._inside.items())]
        leaves: dict[int, bytes] = {}
        for tensor in proof.tensors:
            layout = _layout(tensor.slot, proof, header, head, sites)
            digest = hashing.tensor_digest(layout.length, opened_root(tensor, layout.length, SALT))
            if tensor.slot < header.leaves:
                leaves[tensor.slot] = merkle.leaf_hash(digest)
            elif digest != end_digest(header, tensor.slot):
                raise NotCommitted("what is opened is not the program's input or output")
            self._run[tensor.slot] = _View(layout, dict(tensor.chunks), SALT)
        check_under(leaves, header.leaves, proof.leaves, header.root)
        self._open_constants(proof, head, sites)

    def _open_constants(self, proof: FraudProof, head: Head, sites: Sequence[Site]) -> None:
        records: dict[int, bytes] = {}
        for tensor in proof.constants:
            site, source = _constant(tensor.slot, sites)
            layout = site.layout_of(source)
            size = hashing.constant_chunk(source.shape)
            digest = hashing.tensor_digest(layout.length, opened_root(tensor, layout.length, 0, size))
            records[tensor.slot] = merkle.leaf_hash(encode([source.type, list(source.shape), digest]))
            self._constants[tensor.slot] = _View(layout, dict(tensor.chunks), 0, size)
        check_under(records, head.constants, proof.constant_hashes, head.constants_root)

    def run(self, slot: int, layout: Layout) -> Values:
        return _values(self._run, slot, layout)

    def constant(self, number: int, layout: Layout) -> Values:
        return _values(self._constants, number, layout)

    def operator(self, number: int) -> Operator:
        operator = self._inside.get(number)
        if operator is None:
            raise NotOpened("the record of an operator that is computed is not opened")
        self._needed.add(number)
        return operator

    def check_used(self) -> None:
        """Nothing is opened that was not read."""
        if len(self._needed) != len(self._inside):
            raise NotShown("more records are opened than the fault needs")
        for view in (*self._run.values(), *self._constants.values()):
            if len(view.values.touched) != len(view.chunks):
                raise NotShown("more is opened than the fault needs")


def _inside(proof: FraudProof, head: Head) -> dict[int, Operator]:
    """Rule 4's operators by number."""
    records = dict(proof.inside)
    check_under(
        {number: merkle.leaf_hash(record) for number, record in records.items()},
        head.operators,
        proof.inside_hashes,
        head.operators_root,
    )
    found = {number: Operator.parse(record) for number, record in records.items()}
    for number, operator in found.items():
        if operator.leaf != NO_LEAF:
            raise NotShown("an operator that has a leaf is read there")
        check_record(head, number, operator)
    return found


def _constant(number: int, sites: Sequence[Site]) -> tuple[Site, Source]:
    """Who reads a constant, and as what."""
    for site in sites:
        source = site.constant(number)
        if source is not None:
            return site, source
    raise NotShown("the operator does not read the constant that is opened")


def _values(views: Mapping[int, _View], key: int, layout: Layout) -> Values:
    view = views.get(key)
    if view is None:
        raise NotOpened("a tensor that is read is not opened")
    if view.layout != layout:
        raise NotOpened("one tensor is read as of two types or sizes")
    return view.values


def _layout(slot: int, proof: FraudProof, header: Header, head: Head, sites: Sequence[Site]) -> Layout:
    """What the tensor in a slot has to be. Raises NotShown for a slot that has no business in the proof."""
    if not sites:
        if slot == proof.slot and 0 <= slot - INPUT_SLOT < len(head.inputs):
            return input_layout(head, head.inputs[slot - INPUT_SLOT], header.steps, header.prompt)
    elif slot == proof.slot and OUTPUT_SLOT <= slot < INPUT_SLOT:
        return output_layout(head, sites[0].operator, header.steps, header.prompt)
    elif slot < header.leaves or slot >= INPUT_SLOT:
        for site in sites:
            layout = site.layout_at(slot)
            if layout is not None:
                return layout
    raise NotShown("a tensor is opened that the fault does not need")


def opened_root(tensor: Opened, length: int, salt: int, size: int = CHUNK) -> bytes:
    """The root over a tensor of `length` bytes, in chunks of `size` after `salt` bytes each, that opened ones lead to.

    Raises NotCommitted.
    """
    total = hashing.chunk_count(length, size)
    hashes: dict[int, bytes] = {}
    for number, data in tensor.chunks:
        if number >= total or len(data) != salt + hashing.chunk_length(length, number, size):
            raise NotCommitted("a chunk is not of the tensor's size")
        hashes[number] = merkle.leaf_hash(data)
    return openings.root_of(total, hashes, tensor.hashes)


def check_under(hashes: Mapping[int, bytes], total: int, proof: Sequence[bytes], root: bytes) -> None:
    """The leaf hashes stand in a tree with this root; without any, the proof is empty."""
    if not hashes:
        if proof:
            raise NotShown("hashes prove nothing")
    elif openings.root_of(total, hashes, proof) != root:
        raise NotCommitted("what is opened is not under the root")
