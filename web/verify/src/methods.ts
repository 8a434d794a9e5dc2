/** What each method adds to a receipt: the check `attestation`. */
import { equal, hex, taggedHash, type Bytes } from "./bytes.js";
import { encode } from "./encoding.js";
import type { KeyRecord } from "./evidence.js";
import { verifyAttestation } from "./nitro/verify.js";
import type { Receipt } from "./receipt.js";
import type { Outcome } from "./report.js";
import type { Method } from "./statement.js";
import { rootOf, type TrustPolicy } from "./trust.js";

export type Finding = readonly [outcome: Outcome, detail: string, code?: string];
type MethodCheck = (receipt: Receipt, record: KeyRecord | null, trust: TrustPolicy | null) => Promise<Finding>;

/** Vanilla attests nothing: its evidence is the signature of a registered key. */
const vanilla: MethodCheck = async ({ evidence }) => {
  if (evidence.attestation || evidence.registrationBlock) return ["fail", "a vanilla receipt carries no attestation", "unexpected_attestation"];
  return ["skipped", "vanilla has none: a registered node answers with its name"];
};

/** Optimistic attests nothing: its evidence is a bond and a trace. */
const optimistic: MethodCheck = async ({ evidence }) => {
  if (evidence.attestation || evidence.registrationBlock) return ["fail", "an optimistic receipt carries no attestation", "unexpected_attestation"];
  return ["skipped", "optimistic has none: the run can be checked, and a bond stands behind it"];
};

const registration = (chainId: string, operator: Bytes, signingKey: Bytes, transportKey: Bytes, block: Bytes): Promise<Bytes> =>
  taggedHash("avow/registration/1", encode([chainId, operator, signingKey, transportKey, block]));

/** The attestation holds at the statement's end, under a pinned root, and is of this key, node and measurement. */
const tee: MethodCheck = async (receipt, record, trust) => {
  const { evidence, statement } = receipt;
  const claim = statement.private;
  if (!evidence.attestation || !evidence.registrationBlock) return ["fail", "a tee receipt carries its attestation", "no_attestation"];
  if (!trust) return ["skipped", "no trust policy is pinned: no attestation root to check it under"];
  const roots = trust.attestationRoots.map((root) => root.certificate);
  if (!roots.length) return ["fail", "you pinned no attestation root", "untrusted_root"];
  const attestation = await verifyAttestation(evidence.attestation, roots, statement.columns.endedMs);
  if (!attestation.publicKey || !equal(attestation.publicKey, evidence.signingKey)) return ["fail", "the enclave attested another key", "wrong_key"];
  if (!record) return ["fail", "no registered key to compare the attestation with", "no_record"];
  const digest = await registration(claim.chainId, claim.node, evidence.signingKey, record.transportKey, evidence.registrationBlock);
  if (!attestation.userData || !equal(attestation.userData, digest)) return ["fail", "the attestation is bound to another registration", "wrong_registration"];
  const registered = record.attestation !== null && equal(record.attestation, attestation.payloadHash);
  if (!registered && !shownLater(receipt)) return ["fail", "the chain registered another attestation", "wrong_registration"];
  if (!record.measurement || !equal(record.measurement, attestation.measurement)) return ["fail", "the chain registered another measurement", "wrong_measurement"];
  const measurement = hex(attestation.measurement);
  if (trust.measurements.length && !trust.measurements.includes(measurement)) return ["fail", "the enclave's measurement is not one that you pinned", "wrong_measurement"];
  const root = await rootOf(trust, attestation.rootFingerprint);
  const shown = `measurement ${measurement.slice(0, 16)}…`;
  if (!root || root.kind === "development") return ["warn", `${shown}: a development enclave, not hardware`];
  return ["pass", `${shown}, attested under ${root.name}`];
};

/** Whether the standing is newer than a settled statement: the key may have been attested again since. */
function shownLater(receipt: Receipt): boolean {
  const { standing } = receipt.evidence;
  if (!standing || !receipt.settlement) return false;
  return standing.block.header.timeNs / 1_000_000n > receipt.statement.columns.endedMs;
}

export const METHOD_CHECKS: Partial<Record<Method, MethodCheck>> = { vanilla, optimistic, tee };
