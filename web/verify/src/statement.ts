/** The statement: public columns, private part, their hashes, and the signature (docs/receipt.md §3). */
import { AvowError, big, concat, equal, fromBig, fromHex, hex, taggedHash, type Bytes } from "./bytes.js";
import { encode, type Value } from "./encoding.js";
import { mapping, MAX_TIME_MS, octets, text, version } from "./fields.js";

export const METHODS = ["vanilla", "optimistic", "tee", "zkml"] as const;
export type Method = (typeof METHODS)[number];

export function method(value: Value, field: string): Method {
  const label = text(value, field, 16);
  const found = METHODS.find((known) => known === label);
  if (!found) throw new AvowError("bad_field", `unknown method ${JSON.stringify(label)}`);
  return found;
}

export interface Columns {
  number: bigint;
  program: Bytes;
  payer: Bytes;
  method: Method;
  units: bigint;
  amount: bigint;
  priceVersion: bigint;
  endedMs: bigint;
  /** Of optimistic statements only; else empty and 0. */
  trace: Bytes;
  terms: bigint;
}

/** Bit 0 of the terms: on chain nobody but the payer may open anything of the run. */
export const TERMS_PAYER_OPENS = 1n;
const COLUMNS = ["number", "program", "payer", "method", "units", "amount", "price_version", "ended_ms"];

function columns(value: Value): Columns {
  const any = mapping(value, "columns", COLUMNS, ["trace", "terms"]);
  const known = method(any.get("method"), "method");
  const optimistic = known === "optimistic";
  const item = mapping(value, "columns", optimistic ? [...COLUMNS, "trace", "terms"] : COLUMNS);
  return {
    method: known,
    trace: optimistic ? item.octets("trace", 32) : new Uint8Array(),
    terms: optimistic ? item.integer("terms", 1n) : 0n,
    number: item.integer("number"),
    program: item.octets("program", 32),
    payer: item.octets("payer", 20),
    units: item.integer("units"),
    amount: fromBig(item.octets("amount", 16)),
    priceVersion: item.integer("price_version", 0xffffffffn),
    endedMs: item.integer("ended_ms", MAX_TIME_MS),
  };
}

const packed = (columns: Columns): Bytes =>
  concat(
    big(columns.number, 8),
    columns.program,
    columns.payer,
    big(METHODS.indexOf(columns.method), 1),
    big(columns.units, 8),
    big(columns.amount, 16),
    big(columns.priceVersion, 4),
    big(columns.endedMs, 8),
    ...(columns.method === "optimistic" ? [columns.trace, big(columns.terms, 1)] : []),
  );

export interface Private {
  chainId: string;
  node: Bytes;
  key: Bytes;
  engine: { name: string; version: string; runtime: string };
  request: Bytes;
  effective: Bytes;
  response: Bytes;
  nonce: Bytes;
  nonceSource: "client" | "gateway";
  requester: Bytes | null;
  startedMs: bigint;
  usage: [string, bigint][];
  stream: { head: Bytes; chunks: bigint } | null;
  complete: boolean;
  /** Who may check an optimistic statement by running its program again. */
  audience: Audience | null;
}

export interface Audience {
  kind: "public" | "payer" | "watchers";
  keys: Bytes[];
}

function audience(value: Value): Audience {
  const item = mapping(value, "audience", ["kind", "keys"]);
  const kind = item.text("kind", 16);
  if (kind !== "public" && kind !== "payer" && kind !== "watchers") throw new AvowError("bad_field", "unknown audience");
  const keys = item.array("keys", 16).map((key) => octets(key, "audience.keys", 20));
  if (keys.some((key, at) => at > 0 && hex(keys[at - 1]!) >= hex(key))) {
    throw new AvowError("bad_field", "the audience's keys are not in order, or one is there twice");
  }
  if (keys.length && kind !== "watchers") throw new AvowError("bad_field", "only an audience of watchers names keys");
  return { kind, keys };
}

const PRIVATE = [
  "version", "chain_id", "node", "key", "engine", "request", "effective", "response", "nonce", "nonce_source", "requester",
  "authorised", "started_ms", "usage", "stream", "complete",
]; // prettier-ignore

function privatePart(value: Value): Private {
  const item = mapping(value, "private", PRIVATE, ["audience"]);
  version(item.get("version"), "statement", 1n);
  const engine = mapping(item.get("engine"), "engine", ["name", "version", "runtime"]);
  const usage = item.get("usage");
  if (!(usage instanceof Map) || usage.size > 32) throw new AvowError("bad_field", "usage is a map of at most 32 counts");
  const counts = mapping(usage, "usage", [...usage.keys()]);
  const source = item.text("nonce_source", 16);
  if (source !== "client" && source !== "gateway") throw new AvowError("bad_field", "unknown nonce source");
  item.boolean("authorised");
  return {
    chainId: item.text("chain_id", 64),
    node: item.octets("node", 20),
    key: item.octets("key", 32),
    engine: { name: engine.text("name", 256), version: engine.text("version", 256), runtime: engine.text("runtime", 256) },
    request: item.octets("request", 32),
    effective: item.octets("effective", 32),
    response: item.octets("response", 32),
    nonce: item.octets("nonce", 8, 64),
    nonceSource: source,
    requester: item.octetsOrNull("requester", 20),
    startedMs: item.integer("started_ms", MAX_TIME_MS),
    usage: [...usage.keys()].map((name) => [name, counts.integer(name)]),
    stream: streamEnd(item.get("stream")),
    complete: item.boolean("complete"),
    audience: item.has("audience") ? audience(item.get("audience")) : null,
  };
}

function streamEnd(value: Value): Private["stream"] {
  if (value === null) return null;
  const item = mapping(value, "stream", ["head", "chunks"]);
  return { head: item.octets("head", 32), chunks: item.integer("chunks") };
}

export interface Statement {
  columns: Columns;
  private: Private;
  /** The statement's hash, which is the receipt's id. */
  hash: Bytes;
}

export async function statement(value: Value): Promise<Statement> {
  const item = mapping(value, "statement", ["columns", "private"]);
  const shown = { columns: columns(item.get("columns")), private: privatePart(item.get("private")) };
  if ((shown.columns.method === "optimistic") !== (shown.private.audience !== null)) {
    throw new AvowError("bad_field", "optimistic statements, and no others, have an audience");
  }
  const privateHash = await taggedHash("avow/statement-private/1", encode(item.get("private")));
  return { ...shown, hash: await taggedHash("avow/statement/1", packed(shown.columns), privateHash) };
}

export const keyId = (signingKey: Bytes): Promise<Bytes> => taggedHash("avow/key/1", signingKey);
export const nextHead = (head: Bytes, statementHash: Bytes): Promise<Bytes> => taggedHash("avow/head/1", head, statementHash);

export const statementPayload = (chainId: string, key: Bytes, number: bigint, statementHash: Bytes, head: Bytes): Bytes =>
  encode(["avow/signature/1", chainId, key, number, statementHash, head]);

const COSE_PREFIX = fromHex("8443a10126a0f65840");
const P256_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;

/** Checks a COSE_Sign1 (ES256, detached payload, s in the lower half). Throws bad_signature, whatever is wrong. */
export async function verifySignature(signingKey: Bytes, payload: Bytes, signature: Bytes): Promise<void> {
  const bad = (detail: string): AvowError => new AvowError("bad_signature", detail);
  if (signature.length !== COSE_PREFIX.length + 64 || !equal(signature.slice(0, COSE_PREFIX.length), COSE_PREFIX)) {
    throw bad("not a COSE_Sign1 with ES256, detached payload and empty unprotected header");
  }
  const raw = signature.slice(-64);
  const r = fromBig(raw.slice(0, 32));
  const s = fromBig(raw.slice(32));
  if (!(r > 0n && r < P256_ORDER && s > 0n && s <= P256_ORDER / 2n)) throw bad("signature numbers out of range (s must be in the lower half)");
  if (signingKey.length !== 65 || signingKey[0] !== 4) throw bad("the signing key is not an uncompressed P-256 point");
  const input = encode(["Signature1", fromHex("a10126"), new Uint8Array(), payload]);
  let key: CryptoKey;
  try {
    key = await crypto.subtle.importKey("raw", signingKey, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]);
  } catch {
    throw bad("the signing key is not a point of P-256");
  }
  if (!(await crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, raw, input))) throw bad("the signature does not verify under the key");
}

export const streamPart = (stream: NonNullable<Private["stream"]>): Bytes => concat(stream.head, big(stream.chunks, 8));
