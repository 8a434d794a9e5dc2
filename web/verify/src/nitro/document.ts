/**
 * The bytes of an AWS Nitro attestation document: one accepted spelling of the frame, and a parser of the signed payload as wide
 * as the documents that exist. The rules and their codes are those of src/avow/methods/tee/document.py.
 */
import { AvowError, concat, equal, fromBig, fromHex, utf8, type Bytes } from "../bytes.js";

export const P384_ORDER = 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n;
const PROTECTED = fromHex("a1013822");
const FRAME_BYTES = 1 + 1 + 4 + 1 + 3 + 2 + 96;
const MAX_PAYLOAD = 16_384;
const MIN_PAYLOAD = 256;
const INDEFINITE = -1;

export const refused = (code: string, detail = code.replaceAll("_", " ")): AvowError => new AvowError(`attestation_${code}`, detail);

export interface Frame {
  payload: Bytes;
  signature: Bytes;
  s: bigint;
}

export function parseFrame(document: Bytes): Frame {
  if (document.length > FRAME_BYTES + MAX_PAYLOAD) throw refused("too_large");
  const first = document[0];
  if (first === undefined) throw refused("truncated");
  if (first !== 0x84) {
    if (first >> 5 === 6) throw refused("tagged");
    if (first === 0x9f) throw refused("indefinite_array");
    if (first >= 0x98 && first <= 0x9b) throw refused("long_form_length");
    throw refused("malformed");
  }
  const at = byteString(document, 1, 4, "algorithm");
  if (!equal(document.slice(at - 4, at), PROTECTED)) throw refused("algorithm");
  if (at >= document.length) throw refused("truncated");
  if (document[at] !== 0xa0) throw refused("unprotected_header");
  const payloadEnd = byteString(document, at + 1, null, "malformed");
  const end = byteString(document, payloadEnd, 96, "malformed");
  if (end !== document.length) throw refused("trailing_bytes");
  const signature = document.slice(end - 96, end);
  return { payload: document.slice(at + 4, payloadEnd), signature, s: fromBig(signature.slice(48)) };
}

/** Where the byte string at `at` ends. `length` null stands for the payload. */
function byteString(document: Bytes, at: number, length: number | null, otherSize: string): number {
  const first = document[at];
  if (first === undefined) throw refused("truncated");
  if (first >> 5 !== 2 || (first & 31) > 27) throw refused("malformed");
  const width = (first & 31) < 24 ? 0 : 1 << ((first & 31) - 24);
  const start = at + 1 + width;
  if (start > document.length) throw refused("truncated");
  const size = width ? fromBig(document.slice(at + 1, start)) : BigInt(first & 31);
  if (width && size < { 1: 24n, 2: 1n << 8n, 4: 1n << 16n, 8: 1n << 32n }[width]!) throw refused("long_form_length");
  if (length === null) {
    if (size > BigInt(MAX_PAYLOAD)) throw refused("too_large");
    if (size < BigInt(MIN_PAYLOAD)) throw refused("malformed");
  } else if (size !== BigInt(length)) throw refused(otherSize);
  if (BigInt(start) + size > BigInt(document.length)) throw refused("truncated");
  return start + Number(size);
}

/** The Sig_structure that ES384 signs (RFC 9052 §4.4). */
export const signedBytes = (payload: Bytes): Bytes =>
  concat(fromHex("846a"), utf8("Signature1"), Uint8Array.of(0x44), PROTECTED, Uint8Array.of(0x40, 0x59, payload.length >> 8, payload.length & 255), payload);

export interface Payload {
  pcrs: Map<number, Bytes>;
  certificate: Bytes;
  cabundle: Bytes[];
  publicKey: Bytes | null;
  userData: Bytes | null;
}

class Reader {
  private at = 0;

  constructor(private readonly data: Bytes) {}

  private head(): [number, number] {
    const first = this.data[this.at];
    if (first === undefined) throw refused("payload_encoding", "truncated");
    const major = first >> 5;
    const info = first & 31;
    if (major > 5) throw refused("payload_encoding", "a tag, a float, a simple value or a break");
    if (info < 24) {
      this.at += 1;
      return [major, info];
    }
    if (info === 31 && (major === 4 || major === 5)) {
      this.at += 1;
      return [major, INDEFINITE];
    }
    if (info > 27) throw refused("payload_encoding", "a string of indefinite length, or a reserved length");
    const width = 1 << (info - 24);
    const end = this.at + 1 + width;
    if (end > this.data.length) throw refused("payload_encoding", "truncated");
    const argument = fromBig(this.data.slice(this.at + 1, end));
    if (argument < [24n, 1n << 8n, 1n << 16n, 1n << 32n][info - 24]!) throw refused("payload_encoding", "not in its shortest form");
    this.at = end;
    return [major, argument > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(argument)];
  }

  expect(expected: number, field: string): number {
    const [major, argument] = this.head();
    if (major !== expected) throw refused("bad_field", `${field} is not of the right type`);
    return argument;
  }

  another(entries: number, read: number): boolean {
    if (entries !== INDEFINITE) return read < entries;
    if (this.data[this.at] !== 0xff) return true;
    this.at += 1;
    return false;
  }

  string(major: number, field: string): Bytes {
    const length = this.expect(major, field);
    if (length > this.data.length - this.at) throw refused("payload_encoding", "truncated");
    this.at += length;
    return this.data.slice(this.at - length, this.at);
  }

  text(field: string): string {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.string(3, field));
    } catch (error) {
      throw error instanceof AvowError ? error : refused("payload_encoding", "a text is not UTF-8");
    }
  }

  null(): boolean {
    if (this.data[this.at] !== 0xf6) return false;
    this.at += 1;
    return true;
  }

  end(): void {
    if (this.at !== this.data.length) throw refused("payload_encoding", "bytes after the end");
  }
}

const sized =
  (minimum: number, maximum: number) =>
  (reader: Reader, field: string): Bytes => {
    const content = reader.string(2, field);
    if (content.length < minimum || content.length > maximum) throw refused("bad_field", `${field} is out of its size`);
    return content;
  };
const certificate = sized(1, 1_024);

const FIELDS: Record<string, (reader: Reader, field: string) => unknown> = {
  module_id(reader, field) {
    const text = reader.text(field);
    if (!text) throw refused("bad_field", "module_id is empty");
    return text;
  },
  digest(reader, field) {
    if (reader.text(field) !== "SHA384") throw refused("bad_field", "digest is not SHA384");
    return true;
  },
  timestamp(reader, field) {
    if (!reader.expect(0, field)) throw refused("bad_field", "timestamp is not above 0");
    return true;
  },
  pcrs(reader, field) {
    const entries = reader.expect(5, field);
    const pcrs = new Map<number, Bytes>();
    while (reader.another(entries, pcrs.size)) {
      const index = reader.expect(0, field);
      if (index >= 32) throw refused("bad_field", "a PCR index is above 31");
      if (pcrs.has(index)) throw refused("duplicate_key");
      const value = reader.string(2, field);
      if (![32, 48, 64].includes(value.length)) throw refused("bad_field", "a PCR has no size of a digest");
      pcrs.set(index, value);
    }
    if (!pcrs.size) throw refused("bad_field", "there are no PCRs");
    return pcrs;
  },
  certificate,
  cabundle(reader, field) {
    const entries = reader.expect(4, field);
    const bundle: Bytes[] = [];
    while (reader.another(entries, bundle.length)) {
      if (bundle.length === 8) throw refused("bad_field", "cabundle has too many certificates");
      bundle.push(certificate(reader, field));
    }
    if (!bundle.length) throw refused("bad_field", "cabundle is empty");
    return bundle;
  },
  public_key: sized(1, 1_024),
  user_data: sized(0, 512),
  nonce: sized(0, 512),
};
const MANDATORY = ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"];

export function parsePayload(payload: Bytes): Payload {
  const reader = new Reader(payload);
  const found = new Map<string, unknown>();
  const entries = reader.expect(5, "payload");
  while (reader.another(entries, found.size)) {
    const name = new TextDecoder().decode(reader.string(3, "payload"));
    const read = Object.hasOwn(FIELDS, name) ? FIELDS[name] : undefined;
    if (!read) throw refused("unknown_field");
    if (found.has(name)) throw refused("duplicate_key");
    found.set(name, reader.null() ? null : read(reader, name));
  }
  reader.end();
  for (const name of MANDATORY) if ((found.get(name) ?? null) === null) throw refused("missing_field", `${name} is absent`);
  return {
    pcrs: found.get("pcrs") as Map<number, Bytes>,
    certificate: found.get("certificate") as Bytes,
    cabundle: found.get("cabundle") as Bytes[],
    publicKey: (found.get("public_key") as Bytes | undefined) ?? null,
    userData: (found.get("user_data") as Bytes | undefined) ?? null,
  };
}
