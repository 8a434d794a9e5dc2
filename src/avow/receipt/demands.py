"""What a reader may demand of a receipt beyond its checks: check names, method labels, and a few words for several of them.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Mapping, Sequence

from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName, Outcome
from avow.receipt.statement import Method


def required(receipt: Receipt, require: Sequence[str], checks: Sequence[Check]) -> Check:
    """The demands: check names, method labels, and "settled", "final", "opened", "complete", "fresh"."""
    if not require:
        return Check(CheckName.REQUIRED, Outcome.PASS, "nothing in particular was demanded")
    outcomes = {check.name.value: check.outcome for check in checks}
    missing = [demand for demand in require if not _met(demand, receipt, outcomes)]
    if missing:
        return Check(CheckName.REQUIRED, Outcome.FAIL, f"demanded and not there: {', '.join(missing)}", "not_met")
    return Check(CheckName.REQUIRED, Outcome.PASS, f"demanded and there: {', '.join(require)}")


_DEMANDS = {
    "settled": ("settlement",),
    "final": ("settlement", "finality"),
    "opened": ("request", "effective", "response"),
    "complete": ("stream",),
    "fresh": ("freshness",),
    "anchored": ("anchor",),
}

DEMANDS = tuple(sorted({*_DEMANDS, *(method.label for method in Method), *(name.value for name in CheckName)}))
"""What may be demanded."""


def _met(demand: str, receipt: Receipt, outcomes: Mapping[str, Outcome]) -> bool:
    method = next((known for known in Method if known.label == demand), None)
    if method is not None:
        if receipt.statement.columns.method is not method:
            return False
        return method in (Method.VANILLA, Method.OPTIMISTIC) or outcomes["attestation"] is Outcome.PASS
    names = _DEMANDS.get(demand, (demand,))
    accepted = (Outcome.PASS, Outcome.WARN) if demand == "anchored" else (Outcome.PASS,)
    return all(outcomes.get(name) in accepted for name in names)
