/**
 * Deterministic CBOR (RFC 8949 §4.2.1, restricted as docs/receipt.md §1 says) and the canonical JSON view of it.
 * There is one encoding of a value; every other is refused. Integers are bigint, maps are Map.
 */
import { AvowError, base64url, big, compare, concat, fromBase64url, fromHex, fromUtf8, hex, utf8, type Bytes } from "./bytes.js";

export type Value = null | boolean | bigint | Bytes | string | Value[] | Map<string, Value>;

export const MAX_BYTES = 16 * 1024 * 1024;
const MAX_DEPTH = 16;
const MAX_ITEMS = 262_144;
const SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const PREFIXES = ["utf8:", "hex:", "b64:", "int:", "text:"];

const refuse = (detail: string): AvowError => new AvowError("bad_encoding", detail);
const tooLarge = (detail: string): AvowError => new AvowError("too_large", detail);

export function decode(data: Bytes, maxBytes = MAX_BYTES): Value {
  if (data.length > maxBytes) throw tooLarge("encoded value is too large");
  const reader = new Reader(data);
  const value = reader.item(0);
  if (reader.at !== data.length) throw refuse("bytes after the end");
  return value;
}

class Reader {
  at = 0;
  private items = 0;

  constructor(private readonly data: Bytes) {}

  private head(): [number, bigint] {
    const first = this.data[this.at];
    if (first === undefined) throw refuse("truncated");
    const major = first >> 5;
    const info = first & 31;
    if (info < 24) {
      this.at += 1;
      return [major, BigInt(info)];
    }
    if (info > 27 || major === 7) throw refuse("an indefinite length, a float or a reserved code");
    const width = 1 << (info - 24);
    if (this.at + 1 + width > this.data.length) throw refuse("truncated");
    let argument = 0n;
    for (let index = 0; index < width; index += 1) argument = (argument << 8n) | BigInt(this.data[this.at + 1 + index]!);
    if (argument < [24n, 1n << 8n, 1n << 16n, 1n << 32n][info - 24]!) throw refuse("a number is not in its shortest form");
    this.at += 1 + width;
    return [major, argument];
  }

  private take(length: bigint): Bytes {
    if (length > BigInt(this.data.length - this.at)) throw refuse("truncated");
    const end = this.at + Number(length);
    const chunk = this.data.slice(this.at, end);
    this.at = end;
    return chunk;
  }

  private text(length: bigint): string {
    try {
      return fromUtf8(this.take(length));
    } catch (error) {
      throw error instanceof AvowError ? error : refuse("a text is not UTF-8");
    }
  }

  item(depth: number): Value {
    if (depth > MAX_DEPTH) throw refuse("nested too deep");
    this.items += 1;
    if (this.items > MAX_ITEMS) throw tooLarge("too many items");
    const [major, argument] = this.head();
    switch (major) {
      case 0:
        return argument;
      case 1:
        if (argument >= 1n << 63n) throw refuse("integer beyond 64 bits");
        return -1n - argument;
      case 2:
        return this.take(argument);
      case 3:
        return this.text(argument);
      case 4: {
        if (argument > BigInt(this.data.length - this.at)) throw refuse("truncated");
        const list: Value[] = [];
        for (let left = Number(argument); left > 0; left -= 1) list.push(this.item(depth + 1));
        return list;
      }
      case 5:
        return this.map(argument, depth);
      default:
        if (major === 7 && argument >= 20n && argument <= 22n) return argument === 22n ? null : argument === 21n;
        throw refuse("a tag, a float or an unknown simple value");
    }
  }

  private map(length: bigint, depth: number): Map<string, Value> {
    if (2n * length > BigInt(this.data.length - this.at)) throw refuse("truncated");
    const result = new Map<string, Value>();
    let previous: Uint8Array = new Uint8Array();
    for (let left = Number(length); left > 0; left -= 1) {
      const start = this.at;
      const [major, argument] = this.head();
      if (major !== 3) throw refuse("map keys are texts");
      const key = this.text(argument);
      const raw = this.data.subarray(start, this.at);
      if (compare(raw, previous) <= 0) throw refuse("map keys out of order or twice");
      previous = raw;
      result.set(key, this.item(depth + 1));
    }
    return result;
  }
}

function headOf(major: number, argument: bigint): Bytes {
  if (argument < 24n) return Uint8Array.of((major << 5) | Number(argument));
  const width = argument < 1n << 8n ? 0 : argument < 1n << 16n ? 1 : argument < 1n << 32n ? 2 : 3;
  return concat(Uint8Array.of((major << 5) | (24 + width)), big(argument, 1 << width));
}

export function encode(value: Value): Bytes {
  if (value === null) return Uint8Array.of(0xf6);
  if (typeof value === "boolean") return Uint8Array.of(value ? 0xf5 : 0xf4);
  if (typeof value === "bigint") return value < 0n ? headOf(1, -1n - value) : headOf(0, value);
  if (typeof value === "string") {
    const data = utf8(value);
    return concat(headOf(3, BigInt(data.length)), data);
  }
  if (value instanceof Uint8Array) return concat(headOf(2, BigInt(value.length)), value);
  if (Array.isArray(value)) return concat(headOf(4, BigInt(value.length)), ...value.map(encode));
  const entries = [...value].map(([key, item]): [Bytes, Bytes] => [encode(key), encode(item)]);
  entries.sort(([one], [other]) => compare(one, other));
  return concat(headOf(5, BigInt(entries.length)), ...entries.flat());
}

/** The value whose canonical JSON view (RFC 8785) `data` is, byte for byte. */
export function fromJson(data: Bytes): Value {
  if (data.length > 2 * MAX_BYTES) throw tooLarge("JSON text is too large");
  let value: Value;
  let text: string;
  try {
    text = fromUtf8(data);
    value = unview(JSON.parse(text), 0, { left: MAX_ITEMS });
  } catch (error) {
    throw error instanceof AvowError ? error : refuse("not JSON that a receipt may hold");
  }
  if (toJson(value) !== text) throw refuse("not the canonical JSON form (RFC 8785)");
  return value;
}

/** The JSON view: members by the order of their names' UTF-16 code units. */
export function toJson(value: Value): string {
  if (value instanceof Uint8Array) return JSON.stringify(viewBytes(value));
  if (typeof value === "string") return JSON.stringify(PREFIXES.some((prefix) => value.startsWith(prefix)) ? `text:${value}` : value);
  if (typeof value === "bigint") return value > SAFE || value < -SAFE ? `"int:${value}"` : String(value);
  if (Array.isArray(value)) return `[${value.map(toJson).join(",")}]`;
  if (value instanceof Map) {
    const members = [...value].sort(([one], [other]) => (one < other ? -1 : 1));
    return `{${members.map(([name, item]) => `${JSON.stringify(name)}:${toJson(item)}`).join(",")}}`;
  }
  return String(value);
}

function viewBytes(data: Bytes): string {
  if (data.length) {
    try {
      const text = fromUtf8(data);
      if (!/[\x00-\x1f\x7f]/.test(text)) return `utf8:${text}`;
    } catch {
      /* not a text */
    }
  }
  return data.length <= 64 ? `hex:${hex(data)}` : `b64:${base64url(data)}`;
}

function unview(value: unknown, depth: number, budget: { left: number }): Value {
  if (depth > MAX_DEPTH) throw refuse("nested too deep");
  budget.left -= 1;
  if (budget.left < 0) throw tooLarge("too many items");
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "number") {
    if (!Number.isSafeInteger(value)) throw refuse("a number that a receipt may not hold");
    return BigInt(value);
  }
  if (typeof value === "string") return unviewText(value);
  if (Array.isArray(value)) return value.map((item) => unview(item, depth + 1, budget));
  const members = Object.entries(value as Record<string, unknown>);
  return new Map(members.map(([name, item]) => [name, unview(item, depth + 1, budget)]));
}

function unviewText(text: string): Value {
  const colon = text.indexOf(":");
  const rest = text.slice(colon + 1);
  switch (text.slice(0, colon + 1)) {
    case "utf8:":
      return utf8(rest);
    case "hex:":
      return fromHex(rest);
    case "b64:":
      return fromBase64url(rest);
    case "int:": {
      if (!/^-?[0-9]{1,20}$/.test(rest)) throw refuse("not an integer");
      const number = BigInt(rest);
      if (number < -(1n << 63n) || number >= 1n << 64n) throw refuse("integer beyond 64 bits");
      return number;
    }
    case "text:":
      return rest;
    default:
      return text;
  }
}
