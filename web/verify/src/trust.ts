/** Whom a reader trusts (docs/receipt.md §6, "Trust"). Nothing in a receipt can add to it. */
import { AvowError, fromHex, hex, sha256, type Bytes } from "./bytes.js";
import { sameValidators, verifyCommit, verifyOverlap, type SignedBlock, type Validator } from "./headers.js";
import { METHODS, TERMS_PAYER_OPENS, type Method } from "./statement.js";

export interface AttestationRoot {
  name: string;
  kind: "nitro" | "development";
  certificate: Bytes;
}

export interface TrustPolicy {
  chainId: string;
  height: bigint;
  timeMs: bigint;
  validators: Validator[];
  trustingPeriodMs: bigint;
  maxStandingAgeMs: bigint;
  methods: Method[];
  attestationRoots: AttestationRoot[];
  measurements: string[];
  programs: string[];
  /** The chain's rule for what an optimistic statement has to lock; without it a bond cannot be judged. */
  stake: StakeRule | null;
}

/** The least share in wei, the audit rate in millionths, a cheat's gain over the fee. */
export interface StakeRule {
  bondFloor: bigint;
  auditPpm: bigint;
  gainFactor: bigint;
}

const MILLION = 1_000_000n;

/** What a statement of this amount locks (docs/optimistic.md, "Bonds"). */
export function shareOf(rule: StakeRule, amount: bigint, terms: bigint): bigint {
  const needed = 2n * ((amount * rule.gainFactor * (MILLION - rule.auditPpm)) / rule.auditPpm + 1n);
  const share = needed > rule.bondFloor ? needed : rule.bondFloor;
  return terms & TERMS_PAYER_OPENS ? 4n * share : share;
}

const MEMBERS = [
  "version", "chain_id", "height", "time_ms", "validators", "trusting_period_ms", "max_standing_age_ms", "methods", "attestation_roots",
  "measurements", "programs", "stake",
]; // prettier-ignore

const bad = (detail: string): AvowError => new AvowError("bad_policy", detail);

/** A policy from the JSON that `avow trust pin` writes. Throws bad_policy. */
export function parseTrust(json: string): TrustPolicy {
  if (json.length > 1 << 20) throw new AvowError("too_large", "the trust policy is too large");
  let view: Record<string, unknown>;
  try {
    view = JSON.parse(json) as Record<string, unknown>;
  } catch {
    throw bad("the trust policy is not JSON");
  }
  if (typeof view !== "object" || view === null || Array.isArray(view)) throw bad("the trust policy is malformed");
  if (view["version"] !== 1) throw bad("unknown version of the trust policy");
  for (const name of Object.keys(view)) if (!MEMBERS.includes(name)) throw bad(`the trust policy has an unknown member ${JSON.stringify(name)}`);
  return {
    chainId: string(view["chain_id"]),
    height: whole(view["height"]),
    timeMs: whole(view["time_ms"]),
    validators: list(view["validators"]).map((item) => ({ publicKey: bytes(object(item)["public_key"]), power: whole(object(item)["power"]) })),
    trustingPeriodMs: whole(view["trusting_period_ms"]),
    maxStandingAgeMs: whole(view["max_standing_age_ms"]),
    methods: list(view["methods"]).map(known),
    attestationRoots: list(view["attestation_roots"]).map((item) => ({
      name: string(object(item)["name"]),
      kind: kind(object(item)["kind"]),
      certificate: bytes(object(item)["certificate"]),
    })),
    measurements: list(view["measurements"] ?? []).map((item) => hex(bytes(item))),
    programs: list(view["programs"] ?? []).map((item) => hex(bytes(item))),
    stake: "stake" in view ? stake(object(view["stake"])) : null,
  };
}

function stake(view: Record<string, unknown>): StakeRule {
  if (Object.keys(view).sort().join() !== "audit_ppm,bond_floor,gain_factor") throw bad("the rule for stakes has other members than its own");
  const floor = string(view["bond_floor"]);
  const [auditPpm, gainFactor] = [whole(view["audit_ppm"]), whole(view["gain_factor"])];
  const fits = /^(0|[1-9][0-9]{0,38})$/.test(floor) && auditPpm >= 1n && auditPpm <= MILLION && gainFactor >= 1n && gainFactor <= 1n << 40n;
  if (!fits) throw bad("the rule for stakes is out of range");
  return { bondFloor: BigInt(floor), auditPpm, gainFactor };
}

function string(value: unknown): string {
  if (typeof value !== "string") throw bad("the trust policy is malformed: a text was expected");
  return value;
}

function whole(value: unknown): bigint {
  if (typeof value !== "number" || !Number.isSafeInteger(value)) throw bad("the trust policy is malformed: an integer was expected");
  return BigInt(value);
}

function list(value: unknown): unknown[] {
  if (!Array.isArray(value)) throw bad("the trust policy is malformed: a list was expected");
  return value;
}

function object(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null) throw bad("the trust policy is malformed: an object was expected");
  return value as Record<string, unknown>;
}

function bytes(value: unknown): Bytes {
  try {
    return fromHex(string(value));
  } catch {
    throw bad("the trust policy is malformed: hexadecimal was expected");
  }
}

function known(value: unknown): Method {
  const found = METHODS.find((method) => method === value);
  if (!found) throw bad("the trust policy names a method that is not known");
  return found;
}

function kind(value: unknown): AttestationRoot["kind"] {
  if (value !== "nitro" && value !== "development") throw bad("unknown kind of attestation root");
  return value;
}

/** The block is signed by validators whom the policy reaches. Throws not_anchored outside the trusting period. */
export async function checkAnchor(policy: TrustPolicy, block: SignedBlock, nowMs: bigint): Promise<void> {
  const headerMs = block.header.timeNs / 1_000_000n;
  if (nowMs > policy.timeMs + policy.trustingPeriodMs) {
    throw new AvowError("not_anchored", "the pinned trust is older than its trusting period", "pin the network again");
  }
  const distance = headerMs > policy.timeMs ? headerMs - policy.timeMs : policy.timeMs - headerMs;
  if (distance > policy.trustingPeriodMs) {
    const hint = "`avow receipts refresh` re-anchors an old receipt";
    throw new AvowError("not_anchored", "the block is outside the trusting period of the pinned trust", hint);
  }
  if (block.header.chainId !== policy.chainId) throw new AvowError("wrong_chain", "the block is of another chain");
  if (!sameValidators(block.validators, policy.validators)) await verifyOverlap(policy.chainId, policy.validators, block);
  await verifyCommit(policy.chainId, block);
}

/** The pinned root with this SHA-256 of its certificate. */
export async function rootOf(policy: TrustPolicy, fingerprint: string): Promise<AttestationRoot | null> {
  for (const root of policy.attestationRoots) if (hex(await sha256(root.certificate)) === fingerprint) return root;
  return null;
}
