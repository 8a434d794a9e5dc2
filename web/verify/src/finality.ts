/** The chain's records of an optimistic batch and of its operator's bond, and their proofs (docs/optimistic.md). */
import { AvowError, big, concat, equal, fromBig, utf8, type Bytes } from "./bytes.js";
import { decode, type Value } from "./encoding.js";
import { appHash } from "./evidence.js";
import { integer, mapping } from "./fields.js";
import { signedBlock, type SignedBlock } from "./headers.js";
import { sparseProof, sparseRoot, type SparseProof } from "./merkle.js";

export interface BatchRecord {
  count: bigint;
  operator: Bytes;
  deadlineClock: bigint;
  state: "open" | "final";
  overturned: bigint[];
}

const BATCH = ["root", "count", "operator", "settled_clock", "deadline_clock", "held", "locked", "state", "overturned"];

function batchRecord(data: Bytes): BatchRecord {
  const item = mapping(decode(data, 65_536), "batch record", BATCH);
  const state = item.text("state", 8);
  if (state !== "open" && state !== "final") throw new AvowError("bad_field", "unknown state of a batch");
  const overturned = item.array("overturned", 4_096).map((number) => integer(number, "overturned"));
  if (overturned.some((number, at) => at > 0 && overturned[at - 1]! >= number)) throw new AvowError("bad_field", "overturned numbers do not rise");
  item.octets("root", 32);
  item.integer("settled_clock");
  item.octets("held", 16);
  item.octets("locked", 16);
  return {
    count: item.integer("count", 4_096n),
    operator: item.octets("operator", 20),
    deadlineClock: item.integer("deadline_clock"),
    state,
    overturned,
  };
}

export interface Bond {
  amount: bigint;
  locked: bigint;
}

function bondRecord(data: Bytes): Bond {
  const item = mapping(decode(data, 256), "bond record", ["amount", "locked", "disputes"]);
  const bond = { amount: fromBig(item.octets("amount", 16)), locked: fromBig(item.octets("locked", 16)) };
  item.integer("disputes");
  if (bond.locked > bond.amount) throw new AvowError("bad_field", "more is locked than there is");
  return bond;
}

const mismatch = (detail: string): AvowError => new AvowError("record_mismatch", detail);

export interface FinalityProof {
  first: bigint;
  record: Bytes;
  proof: SparseProof;
  historyRoot: Bytes;
  block: SignedBlock;
}

export function finalityProof(value: Value): FinalityProof {
  const item = mapping(value, "finality", ["first", "record", "proof", "history_root", "block"]);
  return {
    first: item.integer("first"),
    record: item.octets("record", 1, 65_536),
    proof: sparseProof(item.get("proof")),
    historyRoot: item.octets("history_root", 32),
    block: signedBlock(item.get("block")),
  };
}

/** The record of the batch that begins at `first` of `key`, once it is shown to be under the header's app hash. */
export async function provenBatch(shown: FinalityProof, key: Bytes): Promise<BatchRecord> {
  const root = await sparseRoot(concat(utf8("disputes/batch/"), key, big(shown.first, 8)), shown.record, shown.proof);
  if (!equal(await appHash(root, shown.historyRoot), shown.block.header.hashes.app_hash)) throw mismatch("the batch's record is not under the header's app hash");
  return batchRecord(shown.record);
}

/** An operator's bond under the app hash of the block that shows its key's standing. `record` null: it has none. */
export interface BondProof {
  record: Bytes | null;
  proof: SparseProof;
}

export function bondProof(value: Value): BondProof {
  const item = mapping(value, "bond", ["record", "proof"]);
  return { record: item.get("record") === null ? null : item.octets("record", 1, 256), proof: sparseProof(item.get("proof")) };
}

export async function provenBond(shown: BondProof, operator: Bytes, historyRoot: Bytes, expected: Bytes): Promise<Bond> {
  const root = await sparseRoot(concat(utf8("disputes/bond/"), operator), shown.record, shown.proof);
  if (!equal(await appHash(root, historyRoot), expected)) throw mismatch("the operator's bond is not under the header's app hash");
  return shown.record ? bondRecord(shown.record) : { amount: 0n, locked: 0n };
}
