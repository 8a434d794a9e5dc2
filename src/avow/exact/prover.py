"""From one's own run to the proof of another's fault: the watcher's side of referee.py.

Rules:
1. One's own run has the claimed header's number of steps and parameters, the inputs that the request gives, and the salts that the header
   commits to: the seed's, or those under the key that has to be asked for (`salts_of`). It goes on past end tokens, so that it can be laid
   beside any header that the program can have. Where the header claims another prompt than the request's, its number of steps may be one
   that the run cannot have: the inputs are compared first.
2. What is claimed is compared in the order in which it was computed: header, inputs, leaves, outputs, ends. The first chunk that differs
   is a fault by itself, in its salt or in a value, since everything before it is as it should be: no rounds, no doubt about who is wrong.
3. So nothing is looked for behind the first difference, whatever differs there: the demands are as many as the trees have tens of levels,
   and one chunk.
4. What a proof opens is what the referee's element reads: both run the same functions over the same sites (reading.py), through operators
   without a leaf to the leaves behind them. A lie in an operator without a leaf shows in the first leaf, or output, that depends on it.
5. Inputs that are not the request's cannot be shown to a referee, who does not know the request: `OtherInputs`. Nor can a run that says
   a stop text ended it. Who was answered sees both (receipts compare them with the request).

No clock; the network is the `Respondent`'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from avow.errors import EncodingError, TooLarge, UnknownVersion, VerificationError
from avow.exact import openings
from avow.exact.claims import ClaimedRun, ClaimedTensor, Claims, Difference, Respondent
from avow.exact.committed import OwnRun
from avow.exact.fraud import MAX_PROOF, FraudProof, Opened
from avow.exact.hashing import (
    ABSENT,
    CHUNK,
    INPUT_SLOT,
    OUTPUT_SLOT,
    SALT,
    Header,
    Salts,
    chunks,
    constant_chunk,
    constant_chunk_hash,
)
from avow.exact.program import NO_LEAF, Operator, Program
from avow.exact.reading import ChunkedValues, Reading
from avow.exact.referee import header_fault
from avow.exact.sites import Layout, Site, input_layout, origin_of_output
from avow.exact.specification import KINDS, Parameters
from avow.exact.tensors import WIDTHS, unpack, value_at
from avow.receipt import merkle

__all__ = ["OtherInputs", "OwnRun", "ProofTooLarge", "Subject", "check_header", "find_fault", "salts_of"]


class OtherInputs(VerificationError):
    """The trace begins with other inputs than one's own run."""

    code = "other_inputs"


class ProofTooLarge(VerificationError):
    """A fault needs more openings than a proof may hold; no program that was loaded has such an operator."""

    code = "proof_too_large"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched: the program, its manifest's encoding, the trace in the statement."""

    program: Program
    manifest: bytes
    trace: bytes


def check_header(subject: Subject, respondent: Respondent) -> Header | FraudProof:
    """The trace's header if the program can have it, else the proof that it cannot. Raises Withheld."""
    encoded = Claims(subject.trace, respondent).header()
    try:
        header = Header.parse(encoded)
    except (EncodingError, TooLarge, UnknownVersion):
        return FraudProof("header", subject.manifest, encoded)
    if header_fault(header, subject.program.head) is not None:
        return FraudProof("header", subject.manifest, encoded, subject.program.head.encoded())
    return header


def salts_of(subject: Subject, header: Header, own: Salts, respondent: Respondent) -> Salts:
    """The salts that the header commits to: one's own, out of the opening's seed, or others, whose key is asked for. Raises Withheld."""
    if header.salts == own.commitment:
        return own
    return Salts.under(Claims(subject.trace, respondent).key(header.encoded()))


def find_fault(
    subject: Subject, header: Header, run: OwnRun, salts: Salts, respondent: Respondent
) -> FraudProof | None:
    """The proof of the first fault; None if there is none. `header` is `check_header`'s; `salts` are `salts_of`'s, and those of `run`.

    Raises Withheld for what has to be demanded, OtherInputs.
    """
    proof = _Search(subject, header, run, salts, respondent).fault()
    if proof is not None and len(proof.encoded()) > MAX_PROOF:
        raise ProofTooLarge("the proof is too large", size=len(proof.encoded()), limit=MAX_PROOF)
    return proof


class _Search:
    """Rule 2, over one trace."""

    def __init__(self, subject: Subject, header: Header, run: OwnRun, salts: Salts, respondent: Respondent) -> None:
        self._program = subject.program
        self._header = header
        self._encoded = header.encoded()
        self._manifest = subject.manifest
        self._run = run
        self._salts = salts
        claims = Claims(subject.trace, respondent)
        self._claimed = ClaimedRun(claims, self._encoded, run.leaves, self._salts, run.tensor)

    def fault(self) -> FraudProof | None:
        found = self._in_inputs()
        if found is None and len(self._run.leaves) != self._header.leaves:
            raise ValueError("one's own run has as many steps as the header")
        return found or self._in_leaves() or self._in_outputs() or self._in_ends()

    # --- Where -----------------------------------------------------------------------------------------------------

    def _in_inputs(self) -> FraudProof | None:
        for slot in self._claimed.inputs():
            if self._claimed.digest(slot) == self._claimed.own_end(slot):
                continue
            tensor = self._claimed.tensor(slot)
            if tensor.tree is None:
                wanted, header = self._program.inputs[slot - INPUT_SLOT], self._header
                if tensor.length == input_layout(self._program.head, wanted, header.steps, header.prompt).length:
                    raise OtherInputs("the trace begins with inputs of another length", input=slot - INPUT_SLOT)
                return self._wrong_length(slot, None, tensor)
            found = tensor.difference()
            return (
                self._wrong_salt(slot, tensor, found) if found.byte is None else self._wrong_input(slot, tensor, found)
            )
        return None

    def _in_leaves(self) -> FraudProof | None:
        for slot in self._claimed.tree.differing():
            site = self._site(slot)
            digest = self._claimed.digest(slot)
            if (digest == ABSENT) == site.runs:
                return self._of_operator("presence", site, slot, digest=digest, leaves=self._claimed.tree.proof([slot]))
            tensor = self._claimed.tensor(slot)
            if tensor.tree is None:
                return self._wrong_length(slot, site, tensor)
            found = tensor.difference()
            if found.byte is None:
                return self._wrong_salt(slot, tensor, found)
            return self._wrong_element(site, found.byte // WIDTHS[site.operator.type])
        return None

    def _in_outputs(self) -> FraudProof | None:
        head = self._program.head
        for slot in self._claimed.outputs():
            if self._claimed.digest(slot) == self._claimed.own_end(slot):
                continue
            number = head.outputs[slot - OUTPUT_SLOT]
            operator = self._program.operators[number]
            tensor = self._claimed.tensor(slot)
            if tensor.tree is None:
                return self._wrong_length(slot, self._site_of(number, 0), tensor)
            found = tensor.difference()
            if found.byte is None:
                return self._wrong_salt(slot, tensor, found)
            return self.wrong_output(slot, number, found.byte // WIDTHS[operator.type])
        return None

    def _in_ends(self) -> FraudProof | None:
        head, header = self._program.head, self._header
        if head.mode != "generate":
            return None
        for step in range(header.prompt - 1, header.steps):
            site = self._site_of(head.token, step)
            ends = value_at("int32", self._run.tensor(site.slot), 0) in head.end
            last = step == header.steps - 1
            if (ends and not last) or (last and ends != (header.finish == "end")):
                return self._opening("end", site, site.slot, 0, {site.slot: {0}})
        return None

    # --- What ------------------------------------------------------------------------------------------------------

    def _wrong_length(self, slot: int, site: Site | None, tensor: ClaimedTensor) -> FraudProof:
        content = tensor.length, tensor.root
        leaves = self._claimed.tree.proof([slot]) if slot < OUTPUT_SLOT else ()
        if site is None:
            return FraudProof(
                "length",
                self._manifest,
                self._encoded,
                self._program.head.encoded(),
                slot,
                content=content,
                leaves=leaves,
            )
        return self._of_operator("length", site, slot, content=content, leaves=leaves)

    def _wrong_salt(self, slot: int, tensor: ClaimedTensor, found: Difference) -> FraudProof:
        return FraudProof(
            "salt", self._manifest, self._encoded, self._program.head.encoded(), slot, key=self._salts.key,
            content=(tensor.length, tensor.root), tensors=(self._open(slot, [found.chunk]),),
            leaves=self._claimed.tree.proof([slot]) if slot < OUTPUT_SLOT else (),
        )  # fmt: skip

    def _wrong_input(self, slot: int, tensor: ClaimedTensor, found: Difference) -> FraudProof:
        """A claimed input that differs: a fault if a value in the first chunk that does is outside of its interval.

        With other inputs, all inside of it, nothing more could be shown: what follows is not searched.
        """
        wanted = self._program.inputs[slot - INPUT_SLOT]
        width = WIDTHS[wanted.type]
        for at, value in enumerate(unpack(wanted.type, tensor.chunk(found.chunk)[SALT:])):
            if not wanted.low <= value <= wanted.high:
                return FraudProof(
                    "input", self._manifest, self._encoded, self._program.head.encoded(), slot,
                    index=found.chunk * CHUNK // width + at, tensors=(self._open(slot, [found.chunk]),),
                )  # fmt: skip
        raise OtherInputs("the trace begins with other inputs", input=slot - INPUT_SLOT)

    def wrong_output(self, slot: int, number: int, index: int) -> FraudProof:
        """That the value at `index` of a program output is not what operator `number` gave."""
        operator = self._program.operators[number]
        step, flat = origin_of_output(self._program.head, operator, self._header.prompt, index)
        site, trail = self._site_of(number, step), _Trail(self)
        if operator.leaf != NO_LEAF:
            trail.run(site.slot, site.layout).get(flat)
        else:
            self._reading(trail).element(site, flat)
        chunk = index * WIDTHS[operator.type] // CHUNK
        run_chunks = {**trail.run_chunks(), slot: {chunk}}
        return self._opening("output", site, slot, index, run_chunks, None, trail.constant_chunks(), trail.operators)

    def _wrong_element(self, site: Site, index: int) -> FraudProof:
        operator = site.operator
        trail = _Trail(self)
        claimed = trail.run(site.slot, site.layout).get(index)
        witness = None
        if operator.low <= claimed <= operator.high:
            reading = self._reading(trail)
            if KINDS[operator.kind].refute is None:
                reading.element(site, index)
            else:
                witness = value_at(operator.type, self._run.tensor(site.slot), index)
                reading.refutes(site, claimed, index, witness)
        chunks = trail.run_chunks(), trail.constant_chunks()
        return self._opening("element", site, site.slot, index, chunks[0], witness, chunks[1], trail.operators)

    def _reading(self, trail: "_Trail") -> Reading:
        return Reading(trail, Parameters(**self._header.parameters))

    def _of_operator(
        self,
        kind: Literal["length", "presence"],
        site: Site,
        slot: int,
        *,
        digest: bytes = b"",
        content: tuple[int, bytes] = (0, b""),
        leaves: tuple[bytes, ...],
    ) -> FraudProof:
        record, path = self._program.operator_opening(site.number)
        return FraudProof(
            kind, self._manifest, self._encoded, self._program.head.encoded(), slot, record, tuple(path), digest=digest,
            content=content, leaves=leaves, operator=site.number,
        )  # fmt: skip

    def _opening(
        self,
        kind: Literal["element", "output", "end"],
        site: Site,
        slot: int,
        index: int,
        run_chunks: Mapping[int, set[int]],
        witness: int | None = None,
        constant_chunks: Mapping[int, set[int]] | None = None,
        inside: Iterable[int] = (),
    ) -> FraudProof:
        """The proof that opens these chunks of the run's tensors and of constants, and the records of operators without a leaf."""
        record, path = self._program.operator_opening(site.number)
        constants, inside = constant_chunks or {}, sorted(inside)
        leaves = [opened for opened in sorted(run_chunks) if opened < OUTPUT_SLOT]
        tree = openings.levels_over([merkle.leaf_hash(item.encoded()) for item in self._program.constants] or [b""])
        return FraudProof(
            kind, self._manifest, self._encoded, self._program.head.encoded(), slot, record, tuple(path), index, witness,
            operator=site.number, inside=tuple((number, self._program.operators[number].encoded()) for number in inside),
            inside_hashes=tuple(self._program.operators_proof(inside)),
            tensors=tuple(self._open(opened, sorted(run_chunks[opened])) for opened in sorted(run_chunks)),
            leaves=self._claimed.tree.proof(leaves),
            constants=tuple(self._open_constant(number, sorted(constants[number])) for number in sorted(constants)),
            constant_hashes=tuple(openings.multiproof(tree, sorted(constants))) if constants else (),
        )  # fmt: skip

    def _open(self, slot: int, numbers: Sequence[int]) -> Opened:
        tensor = self._claimed.tensor(slot)
        assert tensor.tree is not None
        return Opened(slot, tuple((number, tensor.chunk(number)) for number in numbers), tensor.tree.proof(numbers))

    def _open_constant(self, number: int, numbers: Sequence[int]) -> Opened:
        constant = self._program.constants[number]
        data = list(chunks(constant.data, constant_chunk(constant.shape)))
        levels = openings.levels_over([constant_chunk_hash(chunk) for chunk in data])
        return Opened(number, tuple((at, data[at]) for at in numbers), tuple(openings.multiproof(levels, numbers)))

    # --- Values ----------------------------------------------------------------------------------------------------

    def values(self, slot: int, layout: Layout) -> ChunkedValues:
        """The claimed values in a slot; up to the first fault they are one's own."""
        tensor = self._claimed.tensor(slot)
        return ChunkedValues(layout.type, lambda number: tensor.chunk(number)[SALT:])

    def operator(self, number: int) -> Operator:
        return self._program.operators[number]

    def constant(self, number: int) -> ChunkedValues:
        constant = self._program.constants[number]
        view, size = memoryview(constant.data), constant_chunk(constant.shape)
        return ChunkedValues(constant.type, lambda at: view[at * size : (at + 1) * size], size)

    def _site(self, slot: int) -> Site:
        step, number = self._program.place(slot)
        return self._site_of(number, step)

    def _site_of(self, number: int, step: int) -> Site:
        header = self._header
        return Site(self._program.head, self._program.operators[number], number, step, header.steps, header.prompt)


class _Trail:
    """A reader (reading.py) that remembers which chunks and records it was asked for."""

    def __init__(self, search: _Search) -> None:
        self._search = search
        self._run: dict[int, ChunkedValues] = {}
        self._constants: dict[int, ChunkedValues] = {}
        self.operators: set[int] = set()

    def operator(self, number: int) -> Operator:
        self.operators.add(number)
        return self._search.operator(number)

    def run(self, slot: int, layout: Layout) -> ChunkedValues:
        if slot not in self._run:
            self._run[slot] = self._search.values(slot, layout)
        return self._run[slot]

    def constant(self, number: int, layout: Layout) -> ChunkedValues:  # noqa: ARG002
        if number not in self._constants:
            self._constants[number] = self._search.constant(number)
        return self._constants[number]

    def run_chunks(self) -> dict[int, set[int]]:
        """The chunks that were touched, by slot."""
        return {slot: set(values.touched) for slot, values in self._run.items() if values.touched}

    def constant_chunks(self) -> dict[int, set[int]]:
        """The chunks that were touched, by constant."""
        return {number: set(values.touched) for number, values in self._constants.items() if values.touched}
