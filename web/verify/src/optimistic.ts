/** The checks that optimistic adds: what was committed to, who could check it, what was at stake, and what became of it. */
import { equal, hex } from "./bytes.js";
import { ends } from "./ends.js";
import { provenBatch, provenBond } from "./finality.js";
import type { Finding } from "./methods.js";
import type { Receipt } from "./receipt.js";
import type { OPTIMISTIC_CHECKS } from "./report.js";
import { TERMS_PAYER_OPENS } from "./statement.js";
import { readHeader, saltsKey, saltsOf, traceOf } from "./trace.js";
import { shareOf, type TrustPolicy } from "./trust.js";

const FINISH: Record<string, string> = {
  whole: "at its end",
  length: "at the greatest number of tokens",
  end: "by an end token",
  text: "from outside of the program",
};

type Check = (receipt: Receipt, anchored: boolean, trust: TrustPolicy | null) => Promise<Finding>;

const trace: Check = async ({ statement, opening }) => {
  const committed = statement.columns.trace;
  const encoded = opening?.header;
  if (!encoded) return ["skipped", `commits to trace ${hex(committed).slice(0, 16)}…; its header is not shown`];
  if (!equal(await traceOf(encoded), committed)) return ["fail", "the header shown is not the one committed", "wrong_trace"];
  const shown = readHeader(encoded);
  if (!equal(await saltsOf(await saltsKey(opening.seed)), shown.salts))
    return ["fail", "its values are salted with another seed than the receipt's: who checks it would have to guess", "wrong_salts"];
  const tokens = shown.prompt ? `, ${shown.prompt} tokens asked` : "";
  return ["pass", `commits to ${shown.leaves} tensors of ${shown.steps} steps${tokens}; ended: ${FINISH[shown.finish]}`];
};

const audience: Check = async ({ statement }) => {
  const said = statement.private.audience;
  if (!said) return ["fail", "the statement does not say who may check it", "no_audience"];
  if (said.kind === "payer") return ["warn", "the payer alone could run it again: no watcher was let"];
  const named = said.keys.length ? `, and ${said.keys.length} named by the caller` : "";
  const who =
    said.kind === "public" ? "anybody could run it again" : `the payer and the network's appointed watchers could run it again${named}`;
  if (statement.columns.terms & TERMS_PAYER_OPENS) return ["warn", `${who}; the payer alone could prove a fault on chain`];
  return ["pass", who];
};

const bond: Check = async ({ statement, evidence, settlement }, anchored, trust) => {
  const { standing, bond: proof } = evidence;
  if (!standing || !proof) return ["skipped", "no proof of the node's bond is shown"];
  const operator = statement.private.node;
  const found = await provenBond(proof, operator, standing.historyRoot, standing.block.header.hashes.app_hash!);
  if (!found.amount) return ["fail", "the node had no bond", "no_bond"];
  const detail = `0x${hex(operator)} had ${found.amount} wei at stake, ${found.locked} of it for statements then open`;
  if (!anchored) return ["skipped", `says that ${detail}; the block that shows it is not anchored`];
  if (!trust?.stake) return ["warn", `${detail}; your policy holds no rule for how much it should be`];
  const share = shareOf(trust.stake, statement.columns.amount, statement.columns.terms);
  if (found.amount < share) return ["fail", `${detail}: less than the ${share} wei of this statement`, "bond_too_small"];
  if (settlement) return ["pass", `${detail}; ${share} wei of it for this statement, locked when it settled`];
  if (found.amount - found.locked < share) return ["warn", `${detail}: ${share} wei for this statement may not be free when it settles`];
  return ["pass", `${detail}; ${share} wei of the rest are for this statement`];
};

const processing: Check = async () => ["skipped", "not run again here: reading the request and writing the answer are the node's word"];
const recomputed: Check = async () => ["skipped", "not run again here: `avow verify --recompute` does, with the program at hand"];

const finality: Check = async ({ statement, settlement }, anchored) => {
  const proof = settlement?.finality;
  if (!settlement || !proof) return ["skipped", "not shown to be final: it may be open to challenge, or overturned"];
  const { number } = statement.columns;
  const record = await provenBatch(proof, statement.private.key);
  const inside = proof.first <= number && number < proof.first + record.count;
  if (!inside || proof.first !== number - settlement.leaf) return ["fail", "the record shown is of another batch", "wrong_batch"];
  if (!equal(record.operator, statement.private.node)) return ["fail", "the record shown is of another operator", "wrong_operator"];
  if (record.overturned.includes(number)) return ["fail", "overturned: a fault was proven, or what was committed to was withheld", "overturned"];
  if (!anchored) return ["skipped", `says that it is ${record.state}; the block that shows it is not anchored`];
  if (record.state === "final") return ["pass", "final: the window has passed, and nobody has proven a fault"];
  const left = record.deadlineClock - proof.block.header.timeNs / 1_000_000n;
  if (left > 0n) return ["warn", `open: as of the block shown, it can be challenged for about ${(left + 999n) / 1000n} s more`];
  return ["warn", "open: its window has passed, but it is not recorded as final yet"];
};

export const OPTIMISTIC: Record<(typeof OPTIMISTIC_CHECKS)[number], Check> = { trace, ends, audience, bond, processing, recomputed, finality };
