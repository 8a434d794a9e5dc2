/**
 * CometBFT's headers, commits and validator sets, their hashes and what validators sign (spec/core/data_structures), and the
 * check that a block is signed (docs/receipt.md §6, check 4).
 */
import { AvowError, concat, equal, hex, sha256, utf8, type Bytes } from "./bytes.js";
import { array, mapping, MAX_INT64, octets, type Members } from "./fields.js";
import type { Value } from "./encoding.js";
import { root } from "./merkle.js";

const ABSENT = 1n;
const COMMIT = 2n;
const MAX_VALIDATORS = 10_000;
const MAX_TOTAL_POWER = MAX_INT64 / 8n;
const HASHES = [
  "last_commit_hash",
  "data_hash",
  "validators_hash",
  "next_validators_hash",
  "consensus_hash",
  "app_hash",
  "last_results_hash",
  "evidence_hash",
  "proposer_address",
] as const;
const EMPTY = new Uint8Array();

// Protobuf, as far as hashes need it: zero values are left out.

function varint(value: bigint): Bytes {
  const out: number[] = [];
  let rest = value < 0n ? value + (1n << 64n) : value;
  while (rest > 0x7fn) {
    out.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  out.push(Number(rest));
  return Uint8Array.from(out);
}

const key = (number: number, wire: number): Bytes => varint(BigInt((number << 3) | wire));
const varintField = (number: number, value: bigint): Bytes => (value ? concat(key(number, 0), varint(value)) : EMPTY);
const messageField = (number: number, data: Uint8Array): Bytes => concat(key(number, 2), varint(BigInt(data.length)), data);
const bytesField = (number: number, data: Uint8Array): Bytes => (data.length ? messageField(number, data) : EMPTY);

function fixed64Field(number: number, value: bigint): Bytes {
  if (!value) return EMPTY;
  const data = new Uint8Array(8);
  new DataView(data.buffer).setBigInt64(0, value, true);
  return concat(key(number, 1), data);
}

/** google.protobuf.Timestamp; null is Go's zero time. */
function timestamp(timeNs: bigint | null): Bytes {
  if (timeNs === null) return varintField(1, -62_135_596_800n);
  return concat(varintField(1, timeNs / 1_000_000_000n), varintField(2, timeNs % 1_000_000_000n));
}

interface BlockID {
  hash: Bytes;
  partsTotal: bigint;
  partsHash: Bytes;
}

function blockId(value: Value, field: string, mayBeEmpty: boolean): BlockID {
  const item = mapping(value, field, ["hash", "parts_total", "parts_hash"]);
  const result = {
    hash: item.octets("hash", 0, 32),
    partsTotal: item.integer("parts_total", (1n << 32n) - 1n),
    partsHash: item.octets("parts_hash", 0, 32),
  };
  if (mayBeEmpty && !result.hash.length && !result.partsTotal && !result.partsHash.length) return result;
  if (result.hash.length !== 32 || result.partsHash.length !== 32 || !result.partsTotal) throw new AvowError("bad_field", `${field} is not a block id`);
  return result;
}

const encodedBlockId = (id: BlockID): Bytes =>
  concat(bytesField(1, id.hash), messageField(2, concat(varintField(1, id.partsTotal), bytesField(2, id.partsHash))));

export interface Header {
  blockVersion: bigint;
  appVersion: bigint;
  chainId: string;
  height: bigint;
  timeNs: bigint;
  lastBlockId: BlockID;
  hashes: Record<(typeof HASHES)[number], Bytes>;
}

function header(value: Value): Header {
  const item = mapping(value, "header", ["block_version", "app_version", "chain_id", "height", "time_ns", "last_block_id", ...HASHES]);
  const height = item.integer("height", MAX_INT64);
  const blockVersion = item.integer("block_version");
  if (!height || blockVersion !== 11n) throw new AvowError("bad_field", "header has height 0 or an unknown block version");
  const chainId = item.text("chain_id", 50);
  const results = item.octets("last_results_hash", 0, 32);
  if (results.length !== 0 && results.length !== 32) throw new AvowError("bad_field", "header.last_results_hash is no hash");
  const sized: Record<string, [number, number]> = { app_hash: [0, 64], last_results_hash: [0, 32], proposer_address: [20, 20] };
  const hashes = Object.fromEntries(HASHES.map((name) => [name, item.octets(name, ...(sized[name] ?? [32, 32]))])) as Header["hashes"];
  return {
    blockVersion,
    appVersion: item.integer("app_version"),
    chainId,
    height,
    timeNs: item.integer("time_ns", MAX_INT64),
    lastBlockId: blockId(item.get("last_block_id"), "header.last_block_id", true),
    hashes,
  };
}

/** The root over the 14 fields, each in its protobuf encoding. */
export function headerHash(header: Header): Promise<Bytes> {
  return root([
    concat(varintField(1, header.blockVersion), varintField(2, header.appVersion)),
    bytesField(1, utf8(header.chainId)),
    varintField(1, header.height),
    timestamp(header.timeNs),
    encodedBlockId(header.lastBlockId),
    ...HASHES.map((name) => bytesField(1, header.hashes[name])),
  ]);
}

interface Vote {
  flag: bigint;
  address: Bytes;
  timeNs: bigint | null;
  signature: Bytes;
}

function vote(value: Value): Vote {
  const item = mapping(value, "signature", ["flag", "address", "time_ns", "signature"]);
  const flag = item.integer("flag", 3n);
  if (!flag) throw new AvowError("bad_field", "signature.flag is unknown");
  if (flag === ABSENT) {
    if (item.get("time_ns") !== null) throw new AvowError("bad_field", "an absent vote says something");
    return { flag, address: item.octets("address", 0), timeNs: null, signature: item.octets("signature", 0) };
  }
  return { flag, address: item.octets("address", 20), timeNs: item.integer("time_ns", MAX_INT64), signature: item.octets("signature", 64) };
}

interface Commit {
  height: bigint;
  round: bigint;
  blockId: BlockID;
  votes: Vote[];
}

function commit(value: Value): Commit {
  const item = mapping(value, "commit", ["height", "round", "block_id", "signatures"]);
  const height = item.integer("height", MAX_INT64);
  return {
    height,
    votes: item.array("signatures", MAX_VALIDATORS).map(vote),
    round: item.integer("round", (1n << 31n) - 1n),
    blockId: blockId(item.get("block_id"), "commit.block_id", height === 0n),
  };
}

/** `publicKey`: 32 bytes, Ed25519. */
export interface Validator {
  publicKey: Bytes;
  power: bigint;
}

export function validators(value: Value): Validator[] {
  return array(value, "validators", MAX_VALIDATORS).map((entry) => {
    const item: Members = mapping(entry, "validator", ["public_key", "power"]);
    const power = item.integer("power", MAX_INT64);
    if (!power) throw new AvowError("bad_field", "a validator has no power");
    return { publicKey: octets(item.get("public_key"), "validator.public_key", 32), power };
  });
}

const encodedValidator = (validator: Validator): Bytes => concat(messageField(1, bytesField(1, validator.publicKey)), varintField(2, validator.power));
const addressOf = async (validator: Validator): Promise<Bytes> => (await sha256(validator.publicKey)).slice(0, 20);

export const sameValidators = (one: Validator[], other: Validator[]): boolean =>
  one.length === other.length && one.every((item, index) => item.power === other[index]!.power && equal(item.publicKey, other[index]!.publicKey));

/** How many of the set, the strongest first, carry more than a third of its power together. */
export function fewestToForge(set: Validator[]): number {
  const total = set.reduce((sum, item) => sum + item.power, 0n);
  let power = 0n;
  const strongest = [...set].sort((one, other) => (one.power < other.power ? 1 : one.power > other.power ? -1 : 0));
  for (const [index, item] of strongest.entries()) {
    power += item.power;
    if (power * 3n > total) return index + 1;
  }
  return 0;
}

export interface SignedBlock {
  header: Header;
  commit: Commit;
  validators: Validator[];
}

export function signedBlock(value: Value): SignedBlock {
  const item = mapping(value, "block", ["header", "commit", "validators"]);
  return { header: header(item.get("header")), commit: commit(item.get("commit")), validators: validators(item.get("validators")) };
}

export interface TransactionResult {
  code: bigint;
  data: Bytes;
  gasWanted: bigint;
  gasUsed: bigint;
}

export function transactionResult(value: Value, maxData: number): TransactionResult {
  const item = mapping(value, "result", ["code", "data", "gas_wanted", "gas_used"]);
  return {
    code: item.integer("code", (1n << 32n) - 1n),
    data: item.octets("data", 0, maxData),
    gasWanted: item.integer("gas_wanted", MAX_INT64),
    gasUsed: item.integer("gas_used", MAX_INT64),
  };
}

/** The leaf data under last_results_hash. */
export const resultLeaf = (result: TransactionResult): Bytes =>
  concat(varintField(1, result.code), bytesField(2, result.data), varintField(5, result.gasWanted), varintField(6, result.gasUsed));

function signBytes(chainId: string, commit: Commit, vote: Vote): Bytes {
  const body = concat(
    varintField(1, 2n),
    fixed64Field(2, commit.height),
    fixed64Field(3, commit.round),
    vote.flag === COMMIT ? messageField(4, encodedBlockId(commit.blockId)) : EMPTY,
    messageField(5, timestamp(vote.timeNs)),
    bytesField(6, utf8(chainId)),
  );
  return concat(varint(BigInt(body.length)), body);
}

function checkedPower(set: Validator[]): bigint {
  if (!set.length || set.length > MAX_VALIDATORS) throw new AvowError("wrong_validators", "the validator set is empty or too large");
  if (new Set(set.map((item) => hex(item.publicKey))).size !== set.length) throw new AvowError("wrong_validators", "a validator stands twice in the set");
  const total = set.reduce((sum, item) => sum + item.power, 0n);
  if (total > MAX_TOTAL_POWER) throw new AvowError("wrong_validators", "the set's power is out of range");
  return total;
}

async function checkVote(chainId: string, commit: Commit, validator: Validator, vote: Vote): Promise<void> {
  if (!equal(vote.address, await addressOf(validator))) throw new AvowError("wrong_validators", "a vote stands at another validator's place");
  let holds = false;
  try {
    const publicKey = await crypto.subtle.importKey("raw", validator.publicKey, "Ed25519", false, ["verify"]);
    holds = await crypto.subtle.verify("Ed25519", publicKey, vote.signature, signBytes(chainId, commit, vote));
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotSupportedError") throw new AvowError("unsupported", "this browser has no Ed25519: use a newer one");
  }
  if (!holds) throw new AvowError("bad_signature", "a vote's signature does not hold");
}

/** More than two thirds of the block's own validators signed this very header. */
export async function verifyCommit(chainId: string, block: SignedBlock): Promise<void> {
  const { header, commit, validators: set } = block;
  const total = checkedPower(set);
  if (!equal(await root(set.map(encodedValidator)), header.hashes.validators_hash)) throw new AvowError("wrong_validators", "another validator set");
  if (header.chainId !== chainId) throw new AvowError("wrong_chain", "the block is of another chain");
  if (commit.height !== header.height) throw new AvowError("wrong_header", "the commit is for another height");
  if (!equal(commit.blockId.hash, await headerHash(header))) throw new AvowError("wrong_header", "the commit is for another header");
  if (commit.votes.length !== set.length) throw new AvowError("wrong_validators", "the commit has not one place per validator");
  let power = 0n;
  for (const [place, validator] of set.entries()) {
    const vote = commit.votes[place]!;
    if (vote.flag === ABSENT) continue;
    await checkVote(chainId, commit, validator, vote);
    if (vote.flag === COMMIT) power += validator.power;
  }
  if (power * 3n <= total * 2n) throw new AvowError("not_signed", "not more than two thirds of the power signed");
}

/** More than a third of the trusted power voted for the block. */
export async function verifyOverlap(chainId: string, trusted: Validator[], block: SignedBlock): Promise<void> {
  const total = checkedPower(trusted);
  const byAddress = new Map<string, Validator>();
  for (const item of trusted) byAddress.set(hex(await addressOf(item)), item);
  let power = 0n;
  for (const vote of block.commit.votes) {
    if (vote.flag !== COMMIT) continue;
    const name = hex(vote.address);
    const validator = byAddress.get(name);
    byAddress.delete(name); // a second vote of one validator counts nothing
    if (!validator) continue;
    await checkVote(chainId, block.commit, validator, vote);
    power += validator.power;
  }
  if (power * 3n <= total) throw new AvowError("not_signed", "not more than a third of the trusted power signed");
}

