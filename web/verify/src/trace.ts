/** A trace's header, and the digests of a run's tensors under the salts of a seed (avow/exact/hashing.py). */
import { AvowError, big, concat, sha256, taggedHash, utf8, type Bytes } from "./bytes.js";
import { decode } from "./encoding.js";
import { mapping, octets, version } from "./fields.js";
import { leafHash, rootOfHashes } from "./merkle.js";

const MAX_LEAVES = 1n << 40n;
const CHUNK = 1_024;
export const INPUT_SLOT = 1n << 63n;
export const OUTPUT_SLOT = 1n << 62n;
const FINISHES = ["whole", "length", "end", "text"];
const PARAMETERS = ["max_tokens", "seed", "temperature_m", "temperature_s"];
const MEMBERS = ["finish", "inputs", "leaves", "outputs", "parameters", "program", "prompt", "root", "salts", "steps", "version"];

export interface Header {
  steps: bigint;
  prompt: bigint;
  leaves: bigint;
  finish: string;
  parameters: Map<string, bigint>;
  inputs: Bytes[];
  outputs: Bytes[];
  salts: Bytes;
}

export function readHeader(data: Bytes): Header {
  const item = mapping(decode(data, 8_192), "header", MEMBERS);
  version(item.get("version"), "trace", 1n);
  const finish = item.text("finish", 8);
  if (!FINISHES.includes(finish)) throw new AvowError("bad_field", "finish is none of the known reasons");
  item.octets("program", 32);
  item.octets("root", 32);
  const digests = (name: string): Bytes[] => item.array(name, 64).map((digest) => octets(digest, name, 32));
  const parameters = new Map<string, bigint>();
  const given = item.get("parameters");
  if (!(given instanceof Map && !given.size)) {
    const read = mapping(given, "parameters", PARAMETERS);
    for (const name of PARAMETERS) parameters.set(name, read.integer(name));
  }
  return {
    steps: item.integer("steps", MAX_LEAVES),
    prompt: item.integer("prompt", MAX_LEAVES),
    leaves: item.integer("leaves", MAX_LEAVES),
    finish,
    parameters,
    inputs: digests("inputs"),
    outputs: digests("outputs"),
    salts: item.octets("salts", 32),
  };
}

export const traceOf = (header: Bytes): Promise<Bytes> => taggedHash("avow/trace/1", header);
export const saltsKey = (seed: Bytes): Promise<Bytes> => taggedHash("avow/trace-key/1", seed);
export const saltsOf = (key: Bytes): Promise<Bytes> => taggedHash("avow/trace-salts/1", key);

/** The digest of a run's tensor in a slot: its length, and the root over its salted chunks. */
export async function digest(key: Bytes, slot: bigint, data: Bytes): Promise<Bytes> {
  const hashes: Bytes[] = [];
  for (let start = 0; start < data.length; start += CHUNK) {
    const number = start / CHUNK;
    const block = await sha256(key, big(slot, 8), big(BigInt(number >> 1), 8));
    const salt = block.slice(16 * (number & 1), 16 * (number & 1) + 16);
    hashes.push(await leafHash(concat(salt, data.slice(start, start + CHUNK))));
  }
  const root = await rootOfHashes(hashes);
  return sha256(Uint8Array.of(13), utf8("avow/tensor/1"), big(BigInt(data.length), 8), root);
}
