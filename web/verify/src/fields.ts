/** Checked access to decoded values: each function gives the typed value or throws an error that names the field. */
import { AvowError, type Bytes } from "./bytes.js";
import type { Value } from "./encoding.js";

export const MAX_TIME_MS = 1n << 48n;
export const MAX_INT64 = (1n << 63n) - 1n;

const bad = (detail: string): AvowError => new AvowError("bad_field", detail);

/** Access to the members of a map that has exactly `names`, and any of `optional`. */
export class Members {
  constructor(
    private readonly map: Map<string, Value>,
    readonly field: string,
  ) {}

  has(name: string): boolean {
    return this.map.has(name);
  }

  get(name: string): Value {
    return this.map.get(name) ?? null;
  }

  octets(name: string, length: number, most = length): Bytes {
    return octets(this.get(name), `${this.field}.${name}`, length, most);
  }

  octetsOrNull(name: string, length: number): Bytes | null {
    return this.get(name) === null ? null : this.octets(name, length);
  }

  integer(name: string, maximum?: bigint): bigint {
    return integer(this.get(name), `${this.field}.${name}`, maximum);
  }

  text(name: string, most: number): string {
    return text(this.get(name), `${this.field}.${name}`, most);
  }

  boolean(name: string): boolean {
    const value = this.get(name);
    if (typeof value !== "boolean") throw bad(`${this.field}.${name} is not a truth value`);
    return value;
  }

  array(name: string, most: number): Value[] {
    return array(this.get(name), `${this.field}.${name}`, most);
  }

  hashes(name: string, most: number): Bytes[] {
    return this.array(name, most).map((item) => octets(item, `${this.field}.${name}`, 32));
  }
}

export function mapping(value: Value, field: string, names: readonly string[], optional: readonly string[] = []): Members {
  if (!(value instanceof Map)) throw bad(`${field} is not a map`);
  for (const name of names) if (!value.has(name)) throw bad(`${field} lacks ${name}`);
  for (const name of value.keys()) {
    if (!names.includes(name) && !optional.includes(name)) throw bad(`${field} has an unknown member ${JSON.stringify(name.slice(0, 64))}`);
  }
  return new Members(value, field);
}

export function array(value: Value, field: string, most: number): Value[] {
  if (!Array.isArray(value)) throw bad(`${field} is not an array`);
  if (value.length > most) throw bad(`${field} has more than ${most} items`);
  return value;
}

export function octets(value: Value, field: string, length: number, most = length): Bytes {
  if (!(value instanceof Uint8Array)) throw bad(`${field} is not a byte string`);
  if (value.length < length || value.length > most) throw bad(`${field} has ${value.length} bytes`);
  return value;
}

export function integer(value: Value, field: string, maximum = (1n << 64n) - 1n): bigint {
  if (typeof value !== "bigint") throw bad(`${field} is not an integer`);
  if (value < 0n || value > maximum) throw bad(`${field} is out of range`);
  return value;
}

export function text(value: Value, field: string, most: number): string {
  if (typeof value !== "string") throw bad(`${field} is not a text`);
  if (value.length > most && [...value].length > most) throw bad(`${field} is longer than ${most}`);
  return value;
}

/** The version, which must be the known one. */
export function version(value: Value, field: string, known: bigint): void {
  const number = integer(value, `${field} version`);
  if (number !== known) throw new AvowError("unknown_version", `${field} version ${number} is not known`, "a newer avow may know it");
}
