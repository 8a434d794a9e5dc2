"""What a receipt does not prove, in plain words.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Sequence

from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName, Outcome
from avow.receipt.statement import Method


def not_proven(receipt: Receipt, checks: Sequence[Check]) -> tuple[str, ...]:
    """In plain words, what a reader might think is proven and is not."""
    outcomes = {check.name: check.outcome for check in checks}
    said: list[str] = []
    if receipt.statement.private.engine.name == "remote":
        said.append("that the upstream model is what it says: the node only relayed its answer")
    if receipt.statement.columns.method is Method.VANILLA:
        said.append("that the node ran the program honestly: it answers for it with its name")
    if receipt.statement.columns.method is Method.OPTIMISTIC:
        if outcomes.get(CheckName.RECOMPUTED) is not Outcome.PASS:
            said.append("that anybody has run the program again: those who may can, and prove a fault to the network")
        if outcomes.get(CheckName.FINALITY) is not Outcome.PASS:
            said.append("that it will stand: it is not shown to be final")
    if receipt.statement.columns.method is Method.TEE and outcomes[CheckName.ATTESTATION] is Outcome.WARN:
        said.append("that hardware guarded the run: this enclave is a development process")
    if outcomes[CheckName.SETTLEMENT] is not Outcome.PASS:
        said.append("that the network has accepted it: it is not shown to be settled")
        said.append(
            "when it was made: until it settles its time is the node's word, and its key may have lost its standing since"
        )
    said.append("that the answer is true or good: a receipt shows how it was made")
    said.append("when it was made to the millisecond: times are the node's claim, the block's time is the network's")
    return tuple(said)
