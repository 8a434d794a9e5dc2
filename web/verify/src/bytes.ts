/** Bytes, hashes and errors: what every other module here is made of. Hashing is WebCrypto's. */

export type Bytes = Uint8Array<ArrayBuffer>;

/** An error of a stable code, as in the Python package. `hint` says what to do next. */
export class AvowError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly hint = "",
  ) {
    super(message);
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export const utf8 = (text: string): Bytes => encoder.encode(text) as Bytes;

/** Throws TypeError for what is not UTF-8. */
export const fromUtf8 = (data: Uint8Array): string => decoder.decode(data);

export function concat(...parts: Uint8Array[]): Bytes {
  const result = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

export function equal(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, index) => byte === other[index]);
}

/** Order of bytes, then of length. */
export function compare(one: Uint8Array, other: Uint8Array): number {
  const shared = Math.min(one.length, other.length);
  for (let index = 0; index < shared; index += 1) {
    const difference = one[index]! - other[index]!;
    if (difference) return difference;
  }
  return one.length - other.length;
}

export const hex = (data: Uint8Array): string => Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Throws AvowError unless `text` is lower- or upper-case hexadecimal of whole bytes. */
export function fromHex(text: string): Bytes {
  if (text.length % 2 || /[^0-9a-fA-F]/.test(text)) throw new AvowError("bad_encoding", "not hexadecimal");
  const result = new Uint8Array(text.length / 2);
  for (let index = 0; index < result.length; index += 1) result[index] = Number.parseInt(text.slice(2 * index, 2 * index + 2), 16);
  return result;
}

/** An unsigned big-endian integer of `width` bytes. */
export function big(value: bigint | number, width: number): Bytes {
  const result = new Uint8Array(width);
  let rest = BigInt(value);
  for (let at = width - 1; at >= 0; at -= 1) {
    result[at] = Number(rest & 255n);
    rest >>= 8n;
  }
  return result;
}

export function fromBig(data: Uint8Array): bigint {
  return data.length ? BigInt(`0x${hex(data)}`) : 0n;
}

/** RFC 4648 §5 without padding. */
export function base64url(data: Uint8Array): string {
  let binary = "";
  for (let at = 0; at < data.length; at += 8192) binary += String.fromCharCode(...data.subarray(at, at + 8192));
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** The inverse; refuses padding, other alphabets and non-zero trailing bits. */
export function fromBase64url(text: string): Bytes {
  if (/[^A-Za-z0-9_-]/.test(text) || text.length % 4 === 1) throw new AvowError("bad_encoding", "not base64url");
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const data = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  if (base64url(data) !== text) throw new AvowError("bad_encoding", "not the one base64url encoding");
  return data;
}

export async function sha256(...parts: Uint8Array[]): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
}

/** H(tag, parts) = SHA-256(u8 length of tag ‖ tag ‖ parts). */
export function taggedHash(tag: string, ...parts: Uint8Array[]): Promise<Bytes> {
  const name = utf8(tag);
  return sha256(Uint8Array.of(name.length), name, ...parts);
}
