"""The check that vanilla adds to a receipt: that it claims no more than it is.

Pure: no clock, no randomness, no input or output.
"""

from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName, Outcome
from avow.receipt.standing import KeyRecord
from avow.receipt.trust import TrustPolicy

_NAME = CheckName.ATTESTATION


def vanilla_check(receipt: Receipt, record: KeyRecord | None, trust: TrustPolicy | None) -> Check:
    """Vanilla attests nothing: its evidence is the signature of a registered key."""
    del record, trust
    if receipt.evidence.attestation is not None or receipt.evidence.registration_block is not None:
        return Check(_NAME, Outcome.FAIL, "a vanilla receipt carries no attestation", "unexpected_attestation")
    return Check(_NAME, Outcome.SKIPPED, "vanilla has none: a registered node answers with its name")
