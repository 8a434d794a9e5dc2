"""The check that tee adds to a receipt: the enclave's attestation is of the very key that signed, as the chain registered it.

Pure: no clock, no randomness, no input or output.
"""

from avow.methods.registration import registration_digest
from avow.methods.tee.verify import verify_attestation
from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName, Outcome
from avow.receipt.standing import KeyRecord
from avow.receipt.trust import TrustPolicy

_NAME = CheckName.ATTESTATION


def tee_check(receipt: Receipt, record: KeyRecord | None, trust: TrustPolicy | None) -> Check:
    """The attestation holds at the statement's end, under a pinned root, and is of this key, node and measurement.

    Raises an AttestationError, whose code names the rule.
    """
    private, evidence = receipt.statement.private, receipt.evidence
    if evidence.attestation is None or evidence.registration_block is None:
        return Check(_NAME, Outcome.FAIL, "a tee receipt carries its attestation", "no_attestation")
    if trust is None:
        return Check(_NAME, Outcome.SKIPPED, "no trust policy is pinned: no attestation root to check it under")
    roots = [root.certificate for root in trust.attestation_roots]
    if not roots:
        return Check(_NAME, Outcome.FAIL, "you pinned no attestation root", "untrusted_root")
    attestation = verify_attestation(evidence.attestation, roots=roots, now_ms=receipt.statement.columns.ended_ms)
    if attestation.public_key != evidence.signing_key:
        return Check(_NAME, Outcome.FAIL, "the enclave attested another key", "wrong_key")
    if record is None:
        return Check(_NAME, Outcome.FAIL, "no registered key to compare the attestation with", "no_record")
    digest = registration_digest(
        private.chain_id, private.node, evidence.signing_key, record.transport_key, evidence.registration_block
    )
    if attestation.user_data != digest:
        return Check(_NAME, Outcome.FAIL, "the attestation is bound to another registration", "wrong_registration")
    if record.attestation != attestation.payload_hash and not _shown_later(receipt):
        return Check(_NAME, Outcome.FAIL, "the chain registered another attestation", "wrong_registration")
    if record.measurement != attestation.measurement:
        return Check(_NAME, Outcome.FAIL, "the chain registered another measurement", "wrong_measurement")
    if trust.measurements and attestation.measurement not in trust.measurements:
        return Check(_NAME, Outcome.FAIL, "the enclave's measurement is not one that you pinned", "wrong_measurement")
    root = trust.root(attestation.root_fingerprint)
    shown = f"measurement {attestation.measurement.hex()[:16]}…"
    if root is None or root.kind == "development":
        return Check(_NAME, Outcome.WARN, f"{shown}: a development enclave, not hardware")
    return Check(_NAME, Outcome.PASS, f"{shown}, attested under {root.name}")


def _shown_later(receipt: Receipt) -> bool:
    """Whether the standing is newer than a settled statement: the key may have been attested again since, which replaced the hash."""
    standing = receipt.evidence.standing
    if standing is None or receipt.settlement is None:
        return False
    return standing.block.header.time_ns // 1_000_000 > receipt.statement.columns.ended_ms
