"""The checks that optimistic adds to a receipt: what was committed to, who could check it, what was at stake, and what became of it.

Rules:
1. trace       The opening's header hashes to the statement's trace, and is a header; its salts are those of the opening's seed.
   ends        What request, answer and statement say fits the header (ends.py).
2. audience    Says who could check. A warning where the caller let the payer alone, or where the payer alone may open on chain.
3. bond        The operator's bond, under the app hash of the block that shows the key's standing, covers the share that the policy's rule
               asks of the statement: beside what is locked for others, or, once the statement is settled, among it, as the chain demands.
               A bond below the share itself fails; one that others' statements hold, and one without a rule to judge it by, warns.
4. recomputed  The header of the reader's own run, with the same seed, is the header shown: byte for byte, so every value is the same.
5. processing  The response of that run is the response shown, in all that the model said.
6. finality    The batch's record, under a signed block's app hash, is of the batch that holds the statement. `final` and not overturned
               passes; open warns, with the time until which it can be challenged; overturned fails.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Mapping, Sequence

from avow.exact.hashing import Header, Salts, trace_of
from avow.methods.optimistic.ends import ends_check
from avow.receipt.audience import AudienceKind
from avow.receipt.commitment import Part
from avow.receipt.finality import BatchRecord, BatchState
from avow.receipt.question import Facts, FurtherCheck
from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName, Outcome
from avow.receipt.standing import KeyRecord
from avow.receipt.statement import TERMS_PAYER_OPENS
from avow.receipt.trust import TrustPolicy

SAID = ("/choices", "/outputs")
"""Where in a response the model's own words and tensors stand; the rest is the node's: ids, times."""


def optimistic_check(receipt: Receipt, record: KeyRecord | None, trust: TrustPolicy | None) -> Check:
    """Optimistic attests nothing: its evidence is a bond and a trace."""
    del record, trust
    name = CheckName.ATTESTATION
    if receipt.evidence.attestation is not None or receipt.evidence.registration_block is not None:
        return Check(name, Outcome.FAIL, "an optimistic receipt carries no attestation", "unexpected_attestation")
    return Check(name, Outcome.SKIPPED, "optimistic has none: the run can be checked, and a bond stands behind it")


def trace_check(receipt: Receipt, facts: Facts) -> Check:
    """Rule 1. Raises EncodingError and its kin for a header that is none."""
    del facts
    name, trace = CheckName.TRACE, receipt.statement.columns.trace
    encoded = None if receipt.opening is None else receipt.opening.header
    if receipt.opening is None or encoded is None:
        return Check(name, Outcome.SKIPPED, f"commits to trace {trace.hex()[:16]}…; its header is not shown")
    if trace_of(encoded) != trace:
        return Check(name, Outcome.FAIL, "the header shown is not the one committed", "wrong_trace")
    header = Header.parse(encoded)
    if header.salts != Salts(receipt.opening.seed).commitment:
        detail = "its values are salted with another seed than the receipt's: who checks it would have to guess"
        return Check(name, Outcome.FAIL, detail, "wrong_salts")
    tokens = f", {header.prompt} tokens asked" if header.prompt else ""
    detail = f"commits to {header.leaves} tensors of {header.steps} steps{tokens}; ended: {_FINISH[header.finish]}"
    return Check(name, Outcome.PASS, detail)


_FINISH = {
    "whole": "at its end",
    "length": "at the greatest number of tokens",
    "end": "by an end token",
    "text": "from outside of the program",
}


def audience_check(receipt: Receipt, facts: Facts) -> Check:
    """Rule 2."""
    del facts
    name, statement = CheckName.AUDIENCE, receipt.statement
    audience = statement.private.audience
    if audience is None:
        return Check(name, Outcome.FAIL, "the statement does not say who may check it", "no_audience")
    if audience.kind is AudienceKind.PUBLIC:
        who = "anybody could run it again"
    elif audience.kind is AudienceKind.PAYER:
        return Check(name, Outcome.WARN, "the payer alone could run it again: no watcher was let")
    else:
        named = f", and {len(audience.keys)} named by the caller" if audience.keys else ""
        who = f"the payer and the network's appointed watchers could run it again{named}"
    if statement.columns.terms & TERMS_PAYER_OPENS:
        return Check(name, Outcome.WARN, f"{who}; the payer alone could prove a fault on chain")
    return Check(name, Outcome.PASS, who)


def bond_check(receipt: Receipt, facts: Facts) -> Check:
    """Rule 3. Raises RecordMismatch."""
    name, standing, proof = CheckName.BOND, receipt.evidence.standing, receipt.evidence.bond
    if standing is None or proof is None:
        return Check(name, Outcome.SKIPPED, "no proof of the node's bond is shown")
    operator = receipt.statement.private.node
    bond = proof.check_membership(operator, standing.history_root, standing.block.header.app_hash)
    if not bond.amount:
        return Check(name, Outcome.FAIL, "the node had no bond", "no_bond")
    detail = f"0x{operator.hex()} had {bond.amount} wei at stake, {bond.locked} of it for statements then open"
    if not facts.anchored:
        return Check(name, Outcome.SKIPPED, f"says that {detail}; the block that shows it is not anchored")
    rule = None if facts.trust is None else facts.trust.stake
    if rule is None:
        return Check(name, Outcome.WARN, f"{detail}; your policy holds no rule for how much it should be")
    columns = receipt.statement.columns
    share = rule.share(columns.amount, columns.terms)
    if bond.amount < share:
        return Check(name, Outcome.FAIL, f"{detail}: less than the {share} wei of this statement", "bond_too_small")
    if receipt.settlement is not None:
        return Check(name, Outcome.PASS, f"{detail}; {share} wei of it for this statement, locked when it settled")
    if bond.amount - bond.locked < share:
        return Check(name, Outcome.WARN, f"{detail}: {share} wei for this statement may not be free when it settles")
    return Check(name, Outcome.PASS, f"{detail}; {share} wei of the rest are for this statement")


def recomputed_check(receipt: Receipt, facts: Facts) -> Check:
    """Rule 4."""
    name, found = CheckName.RECOMPUTED, facts.question.recomputation
    if found is None:
        return Check(
            name, Outcome.SKIPPED, "not run again here: `avow verify --recompute` does, with the program at hand"
        )
    shown = None if receipt.opening is None else receipt.opening.header
    if shown is None:
        return Check(name, Outcome.FAIL, "run again, but the receipt shows no header to compare", "no_opening")
    if found.header != shown:
        return Check(name, Outcome.FAIL, _difference(found.header, shown), "wrong_run")
    return Check(name, Outcome.PASS, "run again here: every value of the run is the same, bit for bit")


def _difference(own: bytes, shown: bytes) -> str:
    """Where two headers differ, in words."""
    mine, theirs = Header.parse(own), Header.parse(shown)
    if mine.inputs != theirs.inputs:
        return "run again, it begins with other inputs: the node did not run this request"
    if (mine.program, mine.parameters) != (theirs.program, theirs.parameters):
        return "run again, the program or its parameters differ"
    if (mine.steps, mine.finish) != (theirs.steps, theirs.finish):
        return "run again, it ends at another place"
    return "run again, its values differ: a fault that can be proven while the window is open"


def processing_check(receipt: Receipt, facts: Facts) -> Check:
    """Rule 5."""
    del receipt
    name, found = CheckName.PROCESSING, facts.question.recomputation
    if found is None:
        return Check(
            name, Outcome.SKIPPED, "not run again here: reading the request and writing the answer are the node's word"
        )
    shown = facts.shown.response
    if shown is None:
        return Check(name, Outcome.SKIPPED, "the response is not shown: nothing to compare")
    if found.response is None:
        return Check(
            name, Outcome.WARN, "the run was cut off: the response is compared up to its end by its values alone"
        )
    if _said(found.response) != _said(shown):
        return Check(name, Outcome.FAIL, "run again, the response reads otherwise", "wrong_response")
    return Check(name, Outcome.PASS, "run again here: the response reads the same, byte for byte")


def _said(parts: Sequence[Part]) -> dict[str, bytes]:
    return {name: data for name, data in parts if name.startswith(SAID)}


def finality_check(receipt: Receipt, facts: Facts) -> Check:
    """Rule 6. Raises RecordMismatch."""
    name, settlement, number = CheckName.FINALITY, receipt.settlement, receipt.statement.columns.number
    if settlement is None or settlement.finality is None:
        return Check(name, Outcome.SKIPPED, "not shown to be final: it may be open to challenge, or overturned")
    proof = settlement.finality
    record = proof.check_membership(receipt.statement.private.key)
    if not proof.first <= number < proof.first + record.count or proof.first != number - settlement.leaf:
        return Check(name, Outcome.FAIL, "the record shown is of another batch", "wrong_batch")
    if record.operator != receipt.statement.private.node:
        return Check(name, Outcome.FAIL, "the record shown is of another operator", "wrong_operator")
    if number in record.overturned:
        return Check(
            name, Outcome.FAIL, "overturned: a fault was proven, or what was committed to was withheld", "overturned"
        )
    if not facts.anchored:
        return Check(
            name, Outcome.SKIPPED, f"says that it is {record.state.value}; the block that shows it is not anchored"
        )
    if record.state is BatchState.FINAL:
        return Check(name, Outcome.PASS, "final: the window has passed, and nobody has proven a fault")
    return Check(name, Outcome.WARN, _still_open(record, proof.block.header.time_ns // 1_000_000))


def _still_open(record: BatchRecord, shown_ms: int) -> str:
    left = record.deadline_clock - shown_ms
    if left > 0:
        return f"open: as of the block shown, it can be challenged for about {-(-left // 1000)} s more"
    return "open: its window has passed, but it is not recorded as final yet"


FURTHER: Mapping[CheckName, FurtherCheck] = {
    CheckName.TRACE: trace_check,
    CheckName.ENDS: ends_check,
    CheckName.AUDIENCE: audience_check,
    CheckName.BOND: bond_check,
    CheckName.PROCESSING: processing_check,
    CheckName.RECOMPUTED: recomputed_check,
    CheckName.FINALITY: finality_check,
}
