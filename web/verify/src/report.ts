/** What a verification says: named checks in a fixed order, and the verdict that they add up to (docs/receipt.md §6). */

export type Outcome = "pass" | "warn" | "fail" | "skipped";
export type Verdict = "pass" | "warn" | "unanchored" | "fail";

const P = "pass", W = "warn", U = "unanchored", F = "fail"; // prettier-ignore

/** Check × outcome → verdict; the columns are pass, warn, fail, skipped. */
const VERDICT = {
  chain: [P, W, F, U],
  statement: [P, W, F, F],
  signature: [P, W, F, F],
  anchor: [P, W, F, U],
  standing: [P, W, F, U],
  attestation: [P, W, F, P],
  method: [P, W, F, U],
  trace: [P, W, F, P],
  ends: [P, W, F, P],
  audience: [P, W, F, P],
  bond: [P, W, F, W],
  processing: [P, W, F, P],
  recomputed: [P, W, F, P],
  program: [P, W, F, P],
  engine: [P, W, F, P],
  request: [P, W, F, P],
  effective: [P, W, F, P],
  response: [P, W, F, P],
  stream: [P, W, F, P],
  freshness: [P, W, F, P],
  requester: [P, W, F, P],
  payment: [P, W, F, P],
  settlement: [P, W, F, W],
  finality: [P, W, F, W],
  required: [P, W, F, P],
} as const satisfies Record<string, readonly [Verdict, Verdict, Verdict, Verdict]>;

export type CheckName = keyof typeof VERDICT;
/** Of statements of the method optimistic only. */
export const OPTIMISTIC_CHECKS = ["trace", "ends", "audience", "bond", "processing", "recomputed", "finality"] as const satisfies readonly CheckName[];
export const CHECKS = Object.keys(VERDICT) as CheckName[];

export interface Check {
  name: CheckName;
  outcome: Outcome;
  /** A sentence for people. */
  detail: string;
  /** The stable code of a failure's cause. */
  code: string;
}

export interface Report {
  receipt: string;
  verdict: Verdict;
  checks: Check[];
  /** In plain words, what a reader might think is proven and is not. */
  notProven: string[];
}

const COLUMN: Record<Outcome, 0 | 1 | 2 | 3> = { pass: 0, warn: 1, fail: 2, skipped: 3 };
const WORST: readonly Verdict[] = ["fail", "unanchored", "warn", "pass"];

export function verdictOf(checks: readonly Check[]): Verdict {
  const found = new Set<Verdict>(checks.map((check) => VERDICT[check.name][COLUMN[check.outcome]]));
  return WORST.find((verdict) => found.has(verdict)) ?? "fail";
}
