"""The referee: whether a fraud proof shows a fault of a trace. Every full node runs it; one operator at one value is all that it computes.

Rules, in order; the first that fails decides:
1. The bytes are a fraud proof of the one form (fraud.py).
2. The manifest hashes to the program's id. Kind `program`: its engine is not `exact`, or it names no program root. Else it names one.
3. The header hashes to the trace. Kind `header`: it is no header, or breaks a rule of `header_fault`. Else it keeps them all.
4. The head hashes to the program root; the operator's record is under the head's root at the number that the proof says, and has the rank,
   or gives the output, that the slot says. So are the records of operators without a leaf at theirs.
5. Every opened chunk has the size, every digest the length, that the record gives; digests are under the header's root at their slots, or
   the header's own; constants are under the head's root. Nothing is opened that the fault does not need.
6. The fault itself:
   input     the value is outside of the interval of the program input.
   length    the digest is H(length ‖ root) for a length that is not the one that the program gives.
   presence  the leaf is absent though the operator runs at that step, or the other way round.
   element   the committed value is outside of the operator's interval; or not what the operator's element function gives on the opened
             values, each inside of its interval, with those of operators without a leaf computed in the same way; a choice (argmax,
             topk): or refuted by the witness.
   output    the committed value is not the one in the leaf that it comes from; without such a leaf: as for an element.
   end       a token in `end` was chosen and the run went on; or the last token is in `end` and the header says otherwise, or is not in
             it and the header says that it is.
   salt      the key is the one that the header's salts commit to, and a chunk of a run's tensor begins with another salt than it gives
             for the slot and the chunk's number. How many chunks there are follows from the length that the digest binds.
An honest trace breaks none of them, whatever a proof opens: rule 5 ties every value to the one tensor that was committed.

Pure: no clock, no input or output, integers and bytes only.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from avow.errors import EncodingError, TooLarge, UnknownVersion
from avow.exact import hashing
from avow.exact.descent import end_digest
from avow.exact.errors import BadProgram, NotOpened, Undefined
from avow.exact.fraud import FaultKind, FraudProof, MalformedProof, NoFault, NotCommitted, NotShown
from avow.exact.hashing import ABSENT, INPUT_SLOT, OUTPUT_SLOT, Header
from avow.exact.opened import Openings, check_under, opened_root
from avow.exact.program import NO_LEAF, Head, Operator
from avow.exact.reading import Reading
from avow.exact.sites import Layout, Site, input_layout, origin_of_output, output_layout
from avow.exact.specification import Parameters, check_record
from avow.receipt import merkle
from avow.receipt.encoding import decode, tagged_hash

_PROGRAM_TAG = b"avow/program/1"
"""models/manifest.py, rule 2."""
_ROOT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Guilty:
    """A fault that was shown: its kind, and where: the slot (0 for `program` and `header`) and the index in it, for `salt` of the chunk."""

    kind: FaultKind
    slot: int = 0
    index: int = 0


def referee(proof: bytes, program_id: bytes, trace: bytes) -> Guilty:
    """The fault that `proof` shows of the statement with this program and trace. Raises ProofError where it shows none."""
    item = FraudProof.parse(proof)
    root = program_root(item.manifest, program_id)
    if item.kind == "program":
        if root is not None:
            raise NoFault("the program has an exact meaning")
        return Guilty("program")
    if root is None:
        raise NotShown("the program has no exact meaning: that is the fault")
    if hashing.trace_of(item.header) != trace:
        raise NotCommitted("the header is not the trace's")
    if item.kind == "header":
        return _judge_header(item, root)
    try:
        header = Header.parse(item.header)
        head = _head(item.head, root)
        if header_fault(header, head) is not None:
            raise NotShown("the header is not one that the program can have: that is the fault")
        return _JUDGES[item.kind](item, header, head)
    except (EncodingError, TooLarge, UnknownVersion) as error:
        raise MalformedProof(error.detail) from error
    except merkle.NotIncluded as error:
        raise NotCommitted(error.detail) from error
    except (NotOpened, BadProgram, Undefined) as error:
        raise NotShown(error.detail) from error


# --- Program and header (rules 2 to 4) -----------------------------------------------------------------------------


def program_root(manifest: bytes, program_id: bytes) -> bytes | None:
    """The exact program's root that a manifest names; None where it names none. Raises NotCommitted for another program's manifest."""
    if tagged_hash(_PROGRAM_TAG, manifest) != program_id:
        raise NotCommitted("the manifest is not the program's")
    try:
        value = decode(manifest)
    except (EncodingError, TooLarge):
        return None
    options = value.get("options") if isinstance(value, dict) else None
    if not isinstance(value, dict) or value.get("engine") != "exact" or not isinstance(options, dict):
        return None
    root = options.get("root")
    return bytes.fromhex(root) if isinstance(root, str) and _ROOT.fullmatch(root) else None


def header_fault(header: Header, head: Head) -> str | None:
    """What a program with this head cannot have in a header, in a few words; None if nothing."""
    if header.program != head.root():
        return "it is another program's"
    if not 1 <= header.steps <= head.context:
        return "the number of steps"
    if header.leaves != header.steps * head.leaves or (not header.leaves and header.root != merkle.EMPTY_LIST_ROOT):
        return "the number of leaves"
    if len(header.inputs) != len(head.inputs) or len(header.outputs) != len(head.outputs):
        return "the number of inputs or outputs"
    if head.mode != "generate":
        whole = header.prompt == 0 and not header.parameters and header.finish == "whole"
        return None if whole else "a prompt, parameters or an end that the program does not have"
    parameters = header.parameters
    if not parameters or not (
        parameters["temperature_m"] < 1 << 15 and 1 <= parameters["temperature_s"] <= 45 and parameters["max_tokens"]
    ):
        return "the parameters"
    if not 1 <= header.prompt <= header.steps:
        return "the prompt's length"
    chosen = chosen_count(header)
    if chosen > parameters["max_tokens"]:
        return "more tokens than the parameters allow"
    full = chosen == parameters["max_tokens"] or header.steps == head.context
    if header.finish == "whole" or (header.finish == "length" and not full):
        return "the reason for the end"
    return None


def chosen_count(header: Header) -> int:
    """How many tokens a language model's run has chosen: the last step of the prompt chooses the first."""
    return header.steps - header.prompt + 1


def _judge_header(proof: FraudProof, root: bytes) -> Guilty:
    try:
        header = Header.parse(proof.header)
    except (EncodingError, TooLarge, UnknownVersion):
        if proof.head:
            raise NotShown("a header that is none needs no program") from None
        return Guilty("header")
    if header_fault(header, _head(proof.head, root)) is None:
        raise NoFault("the header is one that the program can have")
    return Guilty("header")


def _head(data: bytes, root: bytes) -> Head:
    try:
        head = Head.parse(data)
    except (EncodingError, TooLarge, UnknownVersion) as error:
        raise MalformedProof("the program's head is not one") from error
    if head.root() != root:
        raise NotCommitted("the program's head is another's")
    return head


# --- The fault itself (rule 6) -------------------------------------------------------------------------------------


def _judge_input(proof: FraudProof, header: Header, head: Head) -> Guilty:
    opened = Openings(proof, header, head, None)
    number = proof.slot - INPUT_SLOT
    if not 0 <= number < len(head.inputs):
        raise NotShown("there is no such program input")
    tensor = head.inputs[number]
    layout = input_layout(head, tensor, header.steps, header.prompt)
    value = _value(opened, proof.slot, layout, proof.index)
    opened.check_used()
    if tensor.low <= value <= tensor.high:
        raise NoFault("the value is inside of the input's interval")
    return Guilty("input", proof.slot, proof.index)


def _judge_length(proof: FraudProof, header: Header, head: Head) -> Guilty:
    length, root = proof.content
    digest = hashing.tensor_digest(length, root)
    if proof.slot >= INPUT_SLOT:
        number = proof.slot - INPUT_SLOT
        if number >= len(head.inputs) or proof.operator or proof.record or proof.path:
            raise NotShown("there is no such program input, or a record that it does not need")
        layout = input_layout(head, head.inputs[number], header.steps, header.prompt)
    else:
        site = _site(proof, header, head)
        if proof.slot >= OUTPUT_SLOT:
            layout = output_layout(head, site.operator, header.steps, header.prompt)
        else:
            if not site.runs:
                raise NotShown("the operator has no tensor at this step")
            layout = site.layout
    if proof.slot < OUTPUT_SLOT:
        check_under({proof.slot: merkle.leaf_hash(digest)}, header.leaves, proof.leaves, header.root)
    elif digest != end_digest(header, proof.slot) or proof.leaves:
        raise NotCommitted("length and root are not those of the program's input or output")
    if length == layout.length:
        raise NoFault("the tensor has its length")
    return Guilty("length", proof.slot)


def _judge_presence(proof: FraudProof, header: Header, head: Head) -> Guilty:
    site = _leaf_site(proof, header, head)
    check_under({proof.slot: merkle.leaf_hash(proof.digest)}, header.leaves, proof.leaves, header.root)
    if (proof.digest == ABSENT) != site.runs:
        raise NoFault("the leaf is there when the operator runs, and only then")
    return Guilty("presence", proof.slot)


def _judge_element(proof: FraudProof, header: Header, head: Head) -> Guilty:
    site = _leaf_site(proof, header, head)
    operator, index = site.operator, proof.index
    if not site.runs:
        raise NotShown("the operator does not run at this step")
    opened = Openings(proof, header, head, site)
    claimed = _value(opened, proof.slot, site.layout, index)
    if operator.low <= claimed <= operator.high:
        kind = check_record(head, site.number, operator)
        reading = Reading(opened, Parameters(**header.parameters))
        if proof.witness is not None:
            if kind.refute is None:
                raise NotShown("the operator's kind knows no witnesses")
            if not reading.refutes(site, claimed, index, proof.witness):
                raise NoFault("the witness does not refute the value")
        elif kind.refute is not None:
            raise NotShown("a wrong choice is shown by a witness")
        elif reading.element(site, index) == claimed:
            raise NoFault("the value is what the operator gives")
    elif proof.witness is not None:
        raise NotShown("a value outside of its interval needs no witness")
    opened.check_used()
    return Guilty("element", proof.slot, index)


def _judge_output(proof: FraudProof, header: Header, head: Head) -> Guilty:
    site = _site(proof, header, head)
    if proof.slot < OUTPUT_SLOT:
        raise NotShown("the slot is no program output's")
    opened = Openings(proof, header, head, site)
    whole = output_layout(head, site.operator, header.steps, header.prompt)
    said = _value(opened, proof.slot, whole, proof.index)
    _, flat = origin_of_output(head, site.operator, header.prompt, proof.index)
    if site.operator.leaf != NO_LEAF:
        given = _value(opened, site.slot, site.layout, flat)
    else:
        if check_record(head, site.number, site.operator).refute is not None:
            raise NotShown("a choice has a leaf")
        given = Reading(opened, Parameters(**header.parameters)).element(site, flat)
    opened.check_used()
    if said == given:
        raise NoFault("the output is what its operator gave")
    return Guilty("output", proof.slot, proof.index)


def _judge_end(proof: FraudProof, header: Header, head: Head) -> Guilty:
    site = _leaf_site(proof, header, head)
    if site.number != head.token or not site.runs:
        raise NotShown("no token was chosen there")
    opened = Openings(proof, header, head, site)
    token = _value(opened, proof.slot, site.layout, 0)
    opened.check_used()
    ends, last = token in head.end, site.step == header.steps - 1
    if (ends and not last) or (last and ends != (header.finish == "end")):
        return Guilty("end", proof.slot)
    raise NoFault("the run went on, or ended, as the token says")


def _judge_salt(proof: FraudProof, header: Header, head: Head) -> Guilty:  # noqa: ARG001  # a salt is no program's
    if hashing.commitment_to(proof.key) != header.salts:
        raise NotCommitted("the key is not the one that the header's salts commit to")
    if len(proof.tensors) != 1 or proof.tensors[0].slot != proof.slot or len(proof.tensors[0].chunks) != 1:
        raise NotShown("one chunk shows a wrong salt")
    (tensor,), (length, root) = proof.tensors, proof.content
    if opened_root(tensor, length, hashing.SALT) != root:
        raise NotCommitted("what is opened is not under the tensor's root")
    digest = hashing.tensor_digest(length, root)
    if proof.slot < header.leaves:
        check_under({proof.slot: merkle.leaf_hash(digest)}, header.leaves, proof.leaves, header.root)
    elif digest != end_digest(header, proof.slot) or proof.leaves:
        raise NotCommitted("length and root are not those of the program's input or output")
    ((number, data),) = tensor.chunks
    if data[: hashing.SALT] == hashing.Salts.under(proof.key).salt(proof.slot, number):
        raise NoFault("the chunk is under its own salt")
    return Guilty("salt", proof.slot, number)


def _value(opened: Openings, slot: int, layout: Layout, index: int) -> int:
    if index >= layout.size:
        raise NotShown("there is no such value")
    return opened.run(slot, layout).get(index)


def _leaf_site(proof: FraudProof, header: Header, head: Head) -> Site:
    if proof.slot >= header.leaves:
        raise NotShown("the slot is no operator's")
    return _site(proof, header, head)


def _site(proof: FraudProof, header: Header, head: Head) -> Site:
    """The operator and step that a leaf's slot means, or that the value at `index` of a program output comes from."""
    number = proof.operator
    if proof.slot < header.leaves:
        step, rank = divmod(proof.slot, head.leaves)
        operator = _operator(proof, head)
        if operator.leaf != rank:
            raise NotShown("the operator's leaf is another one")
    else:
        at = proof.slot - OUTPUT_SLOT
        if not 0 <= at < len(head.outputs) or head.outputs[at] != number:
            raise NotShown("there is no such program output, or another operator gives it")
        operator = _operator(proof, head)
        step, _ = origin_of_output(head, operator, header.prompt, proof.index)
        if step >= header.steps:
            raise NotShown("there is no such value")
    return Site(head, operator, number, step, header.steps, header.prompt)


def _operator(proof: FraudProof, head: Head) -> Operator:
    if proof.operator >= head.operators:
        raise NotShown("there is no such operator")
    return head.operator(proof.operator, proof.record, proof.path)


_JUDGES: Mapping[str, Callable[[FraudProof, Header, Head], Guilty]] = {
    "input": _judge_input,
    "length": _judge_length,
    "presence": _judge_presence,
    "element": _judge_element,
    "output": _judge_output,
    "end": _judge_end,
    "salt": _judge_salt,
}
