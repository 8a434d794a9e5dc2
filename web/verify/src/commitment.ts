/** Salted commitments to the parts of what was asked and answered (docs/receipt.md §4). */
import { AvowError, big, concat, equal, sha256, taggedHash, utf8, type Bytes } from "./bytes.js";
import { mapping } from "./fields.js";
import type { Value } from "./encoding.js";
import { leafHash, rootFromPath, rootOfHashes } from "./merkle.js";

export type Kind = "request" | "effective" | "response";
export type Part = readonly [name: string, data: Bytes];

const KINDS: readonly Kind[] = ["request", "effective", "response"];
const MAX_NAME = 1_024;
const MAX_PART = 16 * 1024 * 1024;
const MAX_PARTS = 16_384;

async function leaf(salt: Bytes, name: string, data: Bytes): Promise<Bytes> {
  const encoded = utf8(name);
  return concat(utf8("avow/part/1"), salt, big(encoded.length, 2), encoded, data);
}

const commitment = (kind: Kind, count: bigint, root: Bytes): Promise<Bytes> =>
  taggedHash("avow/commitment/1", Uint8Array.of(kind.length), utf8(kind), big(count, 4), root);

/** The commitment to `parts` in their order, salted from the 32-byte `seed`. */
export async function commit(kind: Kind, seed: Bytes, parts: readonly Part[]): Promise<Bytes> {
  const salted = concat(Uint8Array.of(11), utf8("avow/salt/1"), seed, utf8(kind), Uint8Array.of(0));
  const hashes = await Promise.all(
    parts.map(async ([name, data]) => leafHash(await leaf((await sha256(salted, utf8(name))).slice(0, 16), name, data))),
  );
  return commitment(kind, BigInt(parts.length), await rootOfHashes(hashes));
}

/** One part, shown alone. */
export interface Disclosure {
  kind: Kind;
  name: string;
  data: Bytes;
  salt: Bytes;
  index: bigint;
  count: bigint;
  path: Bytes[];
}

export function disclosure(value: Value): Disclosure {
  const item = mapping(value, "disclosure", ["kind", "name", "data", "salt", "index", "count", "path"]);
  const label = item.text("kind", 16);
  const kind = KINDS.find((known) => known === label);
  if (!kind) throw new AvowError("bad_field", "unknown kind of commitment");
  return {
    kind,
    path: item.hashes("path", 32),
    name: item.text("name", MAX_NAME),
    data: item.octets("data", 0, MAX_PART),
    salt: item.octets("salt", 16),
    index: item.integer("index", BigInt(MAX_PARTS)),
    count: item.integer("count", BigInt(MAX_PARTS + 8)),
  };
}

export async function verifyDisclosure(shown: Disclosure, expected: Bytes): Promise<void> {
  let root: Bytes;
  try {
    root = await rootFromPath(await leaf(shown.salt, shown.name, shown.data), shown.index, shown.count, shown.path);
  } catch {
    throw new AvowError("commitment_mismatch", `the path of ${shown.name} does not fit its tree`);
  }
  if (!equal(await commitment(shown.kind, shown.count, root), expected)) {
    throw new AvowError("commitment_mismatch", `${shown.name} is not what was committed`);
  }
}
