"""Each method's own check of a receipt, and the verification with all of them.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Mapping

from avow.methods.optimistic.verify import FURTHER, optimistic_check
from avow.methods.tee.receipt import tee_check
from avow.methods.vanilla.verify import vanilla_check
from avow.receipt.question import FurtherChecks, MethodCheck, Question
from avow.receipt.receipt import Receipt
from avow.receipt.report import Report
from avow.receipt.statement import Method
from avow.receipt.trust import TrustPolicy
from avow.receipt.verify import verify_receipt

METHOD_CHECKS: Mapping[Method, MethodCheck] = {
    Method.VANILLA: vanilla_check,
    Method.OPTIMISTIC: optimistic_check,
    Method.TEE: tee_check,
}
FURTHER_CHECKS: FurtherChecks = {Method.OPTIMISTIC: FURTHER}


def verify(receipt: Receipt, trust: TrustPolicy | None, question: Question) -> Report:
    """All checks of a receipt, by every method that this version knows."""
    return verify_receipt(receipt, trust, question, METHOD_CHECKS, FURTHER_CHECKS)
