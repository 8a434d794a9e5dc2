/** What stands behind a statement: evidence, the key's standing, and the proof of settlement (docs/receipt.md §5). */
import { AvowError, big, concat, equal, fromBig, fromHex, taggedHash, utf8, type Bytes } from "./bytes.js";
import { decode, type Value } from "./encoding.js";
import { mapping, MAX_TIME_MS } from "./fields.js";
import { resultLeaf, signedBlock, transactionResult, type SignedBlock, type TransactionResult } from "./headers.js";
import { historyProof, rootFromHistory, rootFromPath, sparseProof, sparseRoot, type HistoryProof, type SparseProof } from "./merkle.js";
import { bondProof, finalityProof, type BondProof, type FinalityProof } from "./finality.js";
import { method, METHODS, type Method } from "./statement.js";

const SETTLEMENT_ADDRESS = fromHex("0000000000000000000000000000000000000a04");
export const KEY_STATES = ["registered", "active", "draining", "retired", "revoked"] as const;
export const VOID_CAUSES = [
  "settled",
  "the key was revoked",
  "the measurement had expired",
  "the program was withdrawn",
  "the payer did not cover it",
  "the answer was never delivered, says the node",
];

export const appHash = (stateRoot: Bytes, historyRoot: Bytes): Promise<Bytes> => taggedHash("avow/app/1", stateRoot, historyRoot);

/** A node's key as the chain has it. */
export interface KeyRecord {
  operator: Bytes;
  method: Method;
  signingKey: Bytes;
  transportKey: Bytes;
  measurement: Bytes | null;
  attestation: Bytes | null;
  state: (typeof KEY_STATES)[number];
  fromMs: bigint;
  untilMs: bigint | null;
  compromisedFrom: bigint | null;
}

const RECORD = [
  "operator", "method", "signing_key", "transport_key", "measurement", "attestation", "root", "state", "from_height", "from_ms",
  "until_ms", "compromised_from",
]; // prettier-ignore

function keyRecord(data: Bytes): KeyRecord {
  const item = mapping(decode(data, 2_048), "key record", RECORD);
  item.octetsOrNull("root", 32);
  item.integer("from_height");
  return {
    operator: item.octets("operator", 20),
    method: METHODS[Number(item.integer("method", 3n))]!,
    signingKey: item.octets("signing_key", 65),
    transportKey: item.octets("transport_key", 65),
    measurement: item.octetsOrNull("measurement", 32),
    attestation: item.octetsOrNull("attestation", 32),
    state: KEY_STATES[Number(item.integer("state", 4n))]!,
    fromMs: item.integer("from_ms", MAX_TIME_MS),
    untilMs: item.get("until_ms") === null ? null : item.integer("until_ms", MAX_TIME_MS),
    compromisedFrom: item.get("compromised_from") === null ? null : item.integer("compromised_from"),
  };
}

export interface Standing {
  record: Bytes;
  proof: SparseProof;
  historyRoot: Bytes;
  block: SignedBlock;
}

function standing(value: Value): Standing {
  const item = mapping(value, "standing", ["record", "proof", "history_root", "block"]);
  return {
    record: item.octets("record", 1, 2_048),
    proof: sparseProof(item.get("proof")),
    historyRoot: item.octets("history_root", 32),
    block: signedBlock(item.get("block")),
  };
}

/** The record of `key`, once it is shown to be under the header's app hash. */
export async function provenRecord(shown: Standing, key: Bytes): Promise<KeyRecord> {
  const root = await sparseRoot(concat(utf8("nodes/key/"), key), shown.record, shown.proof);
  if (!equal(await appHash(root, shown.historyRoot), shown.block.header.hashes.app_hash)) {
    throw new AvowError("standing_mismatch", "the key's record is not under the header's app hash");
  }
  return keyRecord(shown.record);
}

export interface Evidence {
  method: Method;
  signature: Bytes;
  previousHead: Bytes;
  signingKey: Bytes;
  standing: Standing | null;
  attestation: Bytes | null;
  registrationBlock: Bytes | null;
  requesterSignature: Bytes | null;
  bond: BondProof | null;
}

export function evidence(value: Value): Evidence {
  const optional = ["standing", "attestation", "registration_block", "requester_signature", "bond"];
  const item = mapping(value, "evidence", ["method", "signature", "previous_head", "signing_key"], optional);
  return {
    method: method(item.get("method"), "evidence.method"),
    signature: item.octets("signature", 0, 256),
    previousHead: item.octets("previous_head", 32),
    signingKey: item.octets("signing_key", 65),
    standing: item.has("standing") ? standing(item.get("standing")) : null,
    attestation: item.has("attestation") ? item.octets("attestation", 1, 32_768) : null,
    registrationBlock: item.has("registration_block") ? item.octets("registration_block", 32) : null,
    requesterSignature: item.has("requester_signature") ? item.octets("requester_signature", 65) : null,
    bond: item.has("bond") ? bondProof(item.get("bond")) : null,
  };
}

type Anchor =
  | { kind: "result"; index: bigint; total: bigint; result: TransactionResult; path: Bytes[] }
  | { kind: "history"; index: bigint; first: bigint; root: Bytes; proof: HistoryProof; stateRoot: Bytes };

export interface Settlement {
  height: bigint;
  leaf: bigint;
  leaves: bigint;
  leafPath: Bytes[];
  void: number;
  anchor: Anchor;
  block: SignedBlock;
  finality: FinalityProof | null;
}

export function settlement(value: Value): Settlement {
  const item = mapping(value, "settlement", ["height", "leaf", "leaves", "leaf_path", "void", "anchor", "block"], ["finality"]);
  return {
    height: item.integer("height", (1n << 63n) - 2n),
    leaf: item.integer("leaf", 65_536n),
    leaves: item.integer("leaves", 65_536n),
    leafPath: item.hashes("leaf_path", 64),
    void: Number(item.integer("void", 5n)),
    anchor: anchor(item.get("anchor")),
    block: signedBlock(item.get("block")),
    finality: item.has("finality") ? finalityProof(item.get("finality")) : null,
  };
}

function anchor(value: Value): Anchor {
  if (value instanceof Map && value.has("history")) {
    const item = mapping(value, "anchor", ["index", "first", "root", "history", "state_root"]);
    return {
      kind: "history",
      index: item.integer("index"),
      first: item.integer("first"),
      root: item.octets("root", 32),
      proof: historyProof(item.get("history")),
      stateRoot: item.octets("state_root", 32),
    };
  }
  const item = mapping(value, "anchor", ["index", "total", "result", "path"]);
  return {
    kind: "result",
    index: item.integer("index", 1n << 31n),
    total: item.integer("total", 1n << 31n),
    result: transactionResult(item.get("result"), 4096),
    path: item.hashes("path", 64),
  };
}

const notSettled = (detail: string): AvowError => new AvowError("not_settled", detail);

/** Statement `number` of `key` is where the proof says. The block's signatures are checked elsewhere. */
export async function checkMembership(shown: Settlement, statement: Bytes, key: Bytes, number: bigint): Promise<void> {
  const root = await rootFromPath(concat(statement, big(shown.void, 1)), shown.leaf, shown.leaves, shown.leafPath);
  const { anchor } = shown;
  const { header } = shown.block;
  if (anchor.kind === "history") {
    if (!equal(anchor.root, root) || anchor.first + shown.leaf !== number) throw notSettled("the statement is not in the batch that the history shows");
    const leaf = await taggedHash("avow/history-leaf/1", big(shown.height, 8), key, big(anchor.first, 8), big(shown.leaves, 8), root);
    const history = await rootFromHistory(leaf, anchor.index, anchor.proof);
    if (!equal(await appHash(anchor.stateRoot, history), header.hashes.app_hash)) throw notSettled("the batch is not in the history under the header's app hash");
    if (header.height <= shown.height) throw notSettled("the header is not later than the settlement");
    return;
  }
  if (header.height !== shown.height + 1n) throw notSettled("results stand in the header of the next height");
  const found = await rootFromPath(resultLeaf(anchor.result), anchor.index, anchor.total, anchor.path);
  if (!equal(found, header.hashes.last_results_hash)) throw notSettled("the result is not under the header's last_results_hash");
  if (anchor.result.code) throw notSettled("the settlement transaction failed");
  const item = mapping(decode(anchor.result.data), "result", ["to", "output"]);
  const to = item.get("to");
  if (!(to instanceof Uint8Array) || !equal(to, SETTLEMENT_ADDRESS)) throw notSettled("the result is not one of the settlement module");
  const output = item.octets("output", 128);
  const settled =
    equal(output.slice(0, 32), root) &&
    equal(output.slice(32, 64), key) &&
    fromBig(output.slice(64, 96)) === number - shown.leaf &&
    fromBig(output.slice(96)) === shown.leaves;
  if (!settled) throw notSettled("the batch in the block is not the one that holds this statement");
}
