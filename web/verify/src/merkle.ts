/** Merkle trees as docs/receipt.md §5 says: ordered lists (RFC 6962), the sparse map, the append-only history. */
import { AvowError, big, concat, equal, fromBig, sha256, taggedHash, type Bytes } from "./bytes.js";
import { mapping, octets } from "./fields.js";
import type { Value } from "./encoding.js";

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);
const EMPTY_SUBTREE = new Uint8Array(32);
const notIncluded = (detail: string): AvowError => new AvowError("not_included", detail);

export const leafHash = (data: Uint8Array): Promise<Bytes> => sha256(LEAF, data);
export const nodeHash = (left: Uint8Array, right: Uint8Array): Promise<Bytes> => sha256(NODE, left, right);

export async function rootOfHashes(leaves: Bytes[]): Promise<Bytes> {
  if (!leaves.length) return sha256();
  let level = leaves;
  while (level.length > 1) {
    const above: Promise<Bytes>[] = [];
    for (let at = 0; at + 1 < level.length; at += 2) above.push(nodeHash(level[at]!, level[at + 1]!));
    const hashed = await Promise.all(above);
    if (level.length % 2) hashed.push(level[level.length - 1]!);
    level = hashed;
  }
  return level[0]!;
}

export async function root(leaves: Uint8Array[]): Promise<Bytes> {
  return rootOfHashes(await Promise.all(leaves.map(leafHash)));
}

/** The root that the path of leaf data implies. */
export async function rootFromPath(leaf: Uint8Array, index: bigint, total: bigint, siblings: Bytes[]): Promise<Bytes> {
  if (!(index < total && total <= 1n << 63n)) throw notIncluded("the leaf's index is outside the tree");
  let expected = 0;
  for (let at = index, last = total - 1n; last; at >>= 1n, last >>= 1n) expected += at & 1n || at < last ? 1 : 0;
  if (siblings.length !== expected) throw notIncluded("the path has the wrong length");
  let result = await leafHash(leaf);
  let next = 0;
  for (let at = index, last = total - 1n; last; at >>= 1n, last >>= 1n) {
    if (at & 1n) result = await nodeHash(siblings[next++]!, result);
    else if (at < last) result = await nodeHash(result, siblings[next++]!);
  }
  return result;
}

/** Beside a key's way: the siblings from the root down, and the other leaf if one ends it. */
export interface SparseProof {
  siblings: Bytes[];
  other: [Bytes, Bytes] | null;
}

export function sparseProof(value: Value): SparseProof {
  const item = mapping(value, "proof", ["siblings", "other"]);
  const siblings = item.hashes("siblings", 256);
  if (item.get("other") === null) return { siblings, other: null };
  const other = item.hashes("other", 2);
  if (other.length !== 2) throw new AvowError("bad_field", "proof.other is not a path and a value hash");
  return { siblings, other: [other[0]!, other[1]!] };
}

/** The root under which `key` holds `value`, or holds nothing where `value` is null. */
export async function sparseRoot(key: Uint8Array, value: Uint8Array | null, proof: SparseProof): Promise<Bytes> {
  const { siblings, other } = proof;
  const path = await sha256(key);
  const bits = fromBig(path);
  let result: Bytes;
  if (value) {
    if (other) throw notIncluded("a proof of membership names another leaf");
    result = await sha256(LEAF, path, await sha256(value));
  } else if (other) {
    if (equal(other[0], path)) throw notIncluded("the other leaf is the key's own");
    if ((fromBig(other[0]) ^ bits) >> BigInt(256 - siblings.length)) throw notIncluded("the other leaf is not on the key's way");
    result = await sha256(LEAF, other[0], other[1]);
  } else {
    result = EMPTY_SUBTREE;
  }
  if (siblings.length && equal(siblings[siblings.length - 1]!, EMPTY_SUBTREE)) throw notIncluded("the proof goes on below a subtree that has collapsed");
  for (let depth = siblings.length - 1; depth >= 0; depth -= 1) {
    const right = (bits >> BigInt(255 - depth)) & 1n;
    result = right ? await nodeHash(siblings[depth]!, result) : await nodeHash(result, siblings[depth]!);
  }
  return result;
}

export interface HistoryProof {
  size: bigint;
  path: Bytes[];
  peaks: Bytes[];
}

export function historyProof(value: Value): HistoryProof {
  const item = mapping(value, "history", ["size", "path", "peaks"]);
  return { size: item.integer("size", (1n << 63n) - 1n), path: item.hashes("path", 64), peaks: item.hashes("peaks", 64) };
}

/** The history root under which leaf data stands at `index`. */
export async function rootFromHistory(leaf: Uint8Array, index: bigint, proof: HistoryProof): Promise<Bytes> {
  if (index >= proof.size) throw notIncluded("the leaf's index is outside the history");
  const bits = proof.size.toString(2);
  let position = 0;
  let start = 0n;
  let height = -1;
  for (let at = bits.length - 1; at >= 0 && height < 0; at -= 1) {
    if (bits[bits.length - 1 - at] !== "1") continue;
    if (index < start + (1n << BigInt(at))) height = at;
    else {
      start += 1n << BigInt(at);
      position += 1;
    }
  }
  const peaks = [...bits].filter((bit) => bit === "1").length;
  if (proof.path.length !== height || proof.peaks.length !== peaks - 1) throw notIncluded("the history proof has the wrong length");
  let result = await leafHash(leaf);
  let at = index;
  for (const sibling of proof.path) {
    result = at & 1n ? await nodeHash(sibling, result) : await nodeHash(result, sibling);
    at >>= 1n;
  }
  const all = [...proof.peaks.slice(0, position), result, ...proof.peaks.slice(position)];
  return taggedHash("avow/history/1", concat(big(proof.size, 8), ...all));
}

export const hashList = (value: Value[], field: string): Bytes[] => value.map((item) => octets(item, field, 32));
