/** The checks that optimistic adds: what was committed to, who could check it, what was at stake, and what became of it. */
import { AvowError, equal, hex, taggedHash, type Bytes } from "./bytes.js";
import { decode } from "./encoding.js";
import { mapping, octets, version } from "./fields.js";
import { provenBatch, provenBond } from "./finality.js";
import type { Finding } from "./methods.js";
import type { Receipt } from "./receipt.js";
import type { OPTIMISTIC_CHECKS } from "./report.js";
import { TERMS_PAYER_OPENS } from "./statement.js";

const MAX_LEAVES = 1n << 40n;
const FINISH: Record<string, string> = {
  whole: "at its end",
  length: "at the greatest number of tokens",
  end: "by an end token",
  text: "from outside of the program",
};
const PARAMETERS = ["max_tokens", "seed", "temperature_m", "temperature_s"];
const HEADER = ["finish", "inputs", "leaves", "outputs", "parameters", "program", "prompt", "root", "salts", "steps", "version"];

function header(data: Bytes): { steps: bigint; prompt: bigint; leaves: bigint; finish: string; salts: Bytes } {
  const item = mapping(decode(data, 8_192), "header", HEADER);
  version(item.get("version"), "trace", 1n);
  const finish = item.text("finish", 8);
  if (!Object.hasOwn(FINISH, finish)) throw new AvowError("bad_field", "finish is none of the known reasons");
  item.octets("program", 32);
  item.octets("root", 32);
  for (const name of ["inputs", "outputs"]) item.array(name, 64).forEach((digest) => octets(digest, name, 32));
  const given = item.get("parameters");
  if (!(given instanceof Map && !given.size)) {
    const parameters = mapping(given, "parameters", PARAMETERS);
    for (const name of PARAMETERS) parameters.integer(name);
  }
  return { steps: item.integer("steps", MAX_LEAVES), prompt: item.integer("prompt", MAX_LEAVES), leaves: item.integer("leaves", MAX_LEAVES), finish, salts: item.octets("salts", 32) };
}

type Check = (receipt: Receipt, anchored: boolean) => Promise<Finding>;

const trace: Check = async ({ statement, opening }) => {
  const committed = statement.columns.trace;
  const encoded = opening?.header;
  if (!encoded) return ["skipped", `commits to trace ${hex(committed).slice(0, 16)}…; its header is not shown`];
  if (!equal(await taggedHash("avow/trace/1", encoded), committed)) return ["fail", "the header shown is not the one committed", "wrong_trace"];
  const shown = header(encoded);
  const key = await taggedHash("avow/trace-key/1", opening.seed);
  if (!equal(await taggedHash("avow/trace-salts/1", key), shown.salts))
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

const bond: Check = async ({ statement, evidence }, anchored) => {
  const { standing, bond: proof } = evidence;
  if (!standing || !proof) return ["skipped", "no proof of the node's bond is shown"];
  const operator = statement.private.node;
  const found = await provenBond(proof, operator, standing.historyRoot, standing.block.header.hashes.app_hash!);
  if (!found.amount) return ["fail", "the node had no bond", "no_bond"];
  const detail = `0x${hex(operator)} had ${found.amount} wei at stake, ${found.locked} of it for statements then open`;
  return anchored ? ["pass", detail] : ["skipped", `says that ${detail}; the block that shows it is not anchored`];
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

export const OPTIMISTIC: Record<(typeof OPTIMISTIC_CHECKS)[number], Check> = { trace, audience, bond, processing, recomputed, finality };
