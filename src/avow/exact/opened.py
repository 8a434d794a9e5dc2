"""What a fraud proof opens, tied to what was committed to, and read value by value.

Rules:
1. A chunk has the size, and a digest the length, that the program gives the tensor.
2. The digests of operators' outputs are under the header's root at their slots; those of program inputs and outputs are the header's own;
   constants are under the head's root, at their numbers.
3. Only tensors are opened that the operator in question gives or reads; every chunk that is opened is read.

Pure: no clock, no input or output, integers and bytes only.
"""

from collections.abc import Mapping, Sequence

from avow.exact import hashing, openings
from avow.exact.descent import end_digest
from avow.exact.errors import NotOpened
from avow.exact.fraud import FraudProof, NotCommitted, NotShown, Opened
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, SALT, Header
from avow.exact.program import Head
from avow.exact.sites import ChunkedValues, Layout, Site, Values, input_layout, output_layout
from avow.receipt import merkle
from avow.receipt.encoding import encode


class _View:
    """The opened chunks of one tensor, and the values in them."""

    __slots__ = ("chunks", "layout", "values")

    def __init__(self, layout: Layout, chunks: Mapping[int, bytes], skip: int) -> None:
        """`skip`: bytes of salt before each chunk's values."""

        def chunk(number: int) -> bytes:
            data = chunks.get(number)
            if data is None:
                raise NotOpened("a value that is read is not opened")
            return data[skip:]

        self.layout = layout
        self.chunks = chunks
        self.values = ChunkedValues(layout.type, chunk)


class Openings:
    """All that a proof opens, verified against the header and the head: the reader of its element (sites.py)."""

    def __init__(self, proof: FraudProof, header: Header, head: Head, site: Site | None) -> None:
        """`site`: where the layouts of leaves and constants come from; None where only program inputs are opened."""
        self._run: dict[int, _View] = {}
        self._constants: dict[int, _View] = {}
        leaves: dict[int, bytes] = {}
        for tensor in proof.tensors:
            layout = _layout(tensor.slot, proof, header, head, site)
            digest = _digest(tensor, layout, SALT)
            if tensor.slot < header.leaves:
                leaves[tensor.slot] = merkle.leaf_hash(digest)
            elif digest != end_digest(header, tensor.slot):
                raise NotCommitted("what is opened is not the program's input or output")
            self._run[tensor.slot] = _View(layout, dict(tensor.chunks), SALT)
        check_under(leaves, header.leaves, proof.leaves, header.root)
        self._open_constants(proof, head, site)

    def _open_constants(self, proof: FraudProof, head: Head, site: Site | None) -> None:
        records: dict[int, bytes] = {}
        for tensor in proof.constants:
            source = site.constant(tensor.slot) if site is not None else None
            if site is None or source is None:
                raise NotShown("the operator does not read the constant that is opened")
            layout = site.layout_of(source)
            digest = _digest(tensor, layout, 0)
            records[tensor.slot] = merkle.leaf_hash(encode([source.type, list(source.shape), digest]))
            self._constants[tensor.slot] = _View(layout, dict(tensor.chunks), 0)
        check_under(records, head.constants, proof.constant_hashes, head.constants_root)

    def run(self, slot: int, layout: Layout) -> Values:
        return _values(self._run, slot, layout)

    def constant(self, number: int, layout: Layout) -> Values:
        return _values(self._constants, number, layout)

    def check_used(self) -> None:
        """Nothing is opened that was not read."""
        for view in (*self._run.values(), *self._constants.values()):
            if len(view.values.touched) != len(view.chunks):
                raise NotShown("more is opened than the fault needs")


def _values(views: Mapping[int, _View], key: int, layout: Layout) -> Values:
    view = views.get(key)
    if view is None:
        raise NotOpened("a tensor that is read is not opened")
    if view.layout != layout:
        raise NotOpened("one tensor is read as of two types or sizes")
    return view.values


def _layout(slot: int, proof: FraudProof, header: Header, head: Head, site: Site | None) -> Layout:
    """What the tensor in a slot has to be. Raises NotShown for a slot that has no business in the proof."""
    if site is None:
        if slot == proof.slot and 0 <= slot - INPUT_SLOT < len(head.inputs):
            return input_layout(head, head.inputs[slot - INPUT_SLOT], header.steps, header.prompt)
    elif slot == proof.slot and OUTPUT_SLOT <= slot < INPUT_SLOT:
        return output_layout(head, site.operator, header.steps, header.prompt)
    else:
        layout = site.layout_at(slot)
        if layout is not None and (slot < header.leaves or slot >= INPUT_SLOT):
            return layout
    raise NotShown("a tensor is opened that the fault does not need")


def _digest(tensor: Opened, layout: Layout, salt: int) -> bytes:
    """The digest that opened chunks lead to. Raises NotCommitted for chunks that the tensor cannot have."""
    return hashing.tensor_digest(layout.length, opened_root(tensor, layout.length, salt))


def opened_root(tensor: Opened, length: int, salt: int) -> bytes:
    """The root over the chunks of a tensor of `length` bytes, each after `salt` bytes, that opened ones lead to. Raises NotCommitted."""
    total = hashing.chunk_count(length)
    hashes: dict[int, bytes] = {}
    for number, data in tensor.chunks:
        if number >= total or len(data) != salt + hashing.chunk_length(length, number):
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
