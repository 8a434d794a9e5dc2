/**
 * The certificate chain of an attestation document: X.509 in DER (RFC 5280), strict, as far as the chain's rules need it.
 * The rules and their codes are those of src/avow/methods/tee/certificates.py.
 */
import { concat, equal, fromHex, type Bytes } from "../bytes.js";
import { refused } from "./document.js";

const ECDSA_WITH_SHA384 = fromHex("300a06082a8648ce3d040303");
const P384_KEY = fromHex("301006072a8648ce3d020106052b81040022");
const BASIC_CONSTRAINTS = "551d13";
const KEY_USAGE = "551d0f";

interface Element {
  tag: number;
  /** Tag, length and content. */
  whole: Bytes;
  content: Bytes;
}

const malformed = (detail = "certificate malformed") => refused("certificate_malformed", detail);

/** One DER reader over a constructed value's content: definite lengths in their shortest form, nothing left over. */
class Der {
  private at = 0;

  constructor(private readonly data: Bytes) {}

  get done(): boolean {
    return this.at === this.data.length;
  }

  next(expected?: number): Element {
    const start = this.at;
    const tag = this.data[start];
    const first = this.data[start + 1];
    if (tag === undefined || first === undefined || (tag & 31) === 31) throw malformed();
    let length = first;
    let body = start + 2;
    if (first & 0x80) {
      const width = first & 0x7f;
      if (width < 1 || width > 3 || body + width > this.data.length) throw malformed();
      length = 0;
      for (let index = 0; index < width; index += 1) length = length * 256 + this.data[body + index]!;
      if (length < 0x80 || (width > 1 && length < 256 ** (width - 1))) throw malformed();
      body += width;
    }
    const end = body + length;
    if (end > this.data.length || (expected !== undefined && tag !== expected)) throw malformed();
    this.at = end;
    return { tag, whole: this.data.slice(start, end), content: this.data.slice(body, end) };
  }

  optional(tag: number): Element | null {
    return this.data[this.at] === tag ? this.next() : null;
  }

  end(): void {
    if (!this.done) throw malformed();
  }
}

interface Certificate {
  toBeSigned: Bytes;
  signature: Bytes;
  issuer: Bytes;
  subject: Bytes;
  point: Bytes;
  notBeforeMs: bigint;
  notAfterMs: bigint;
  constraints: { critical: boolean; authority: boolean; pathLength: number | null } | null;
  unknownCritical: boolean;
  signsCertificates: boolean;
  signsData: boolean;
}

function parse(der: Bytes): Certificate {
  const outer = new Der(der);
  const certificate = new Der(outer.next(0x30).content);
  outer.end();
  const body = certificate.next(0x30);
  const algorithm = certificate.next(0x30);
  const signed = certificate.next(0x03);
  certificate.end();
  const fields = new Der(body.content);
  const version = fields.optional(0xa0);
  const serial = fields.next(0x02).content;
  const innerAlgorithm = fields.next(0x30);
  const issuer = fields.next(0x30).whole;
  const validity = new Der(fields.next(0x30).content);
  const [notBeforeMs, notAfterMs] = [time(validity.next()), time(validity.next())];
  validity.end();
  const subject = fields.next(0x30).whole;
  const keyInfo = new Der(fields.next(0x30).content);
  const [keyAlgorithm, key] = [keyInfo.next(0x30).whole, keyInfo.next(0x03).content];
  keyInfo.end();
  const extensions = fields.optional(0xa3);
  fields.end();
  if (!version || !equal(version.content, fromHex("020102")) || !serial.length || serial[0]! & 0x80 || serial.every((byte) => !byte)) {
    throw malformed("not version 3, or a serial number that is not above 0");
  }
  if (!equal(algorithm.whole, ECDSA_WITH_SHA384) || !equal(innerAlgorithm.whole, ECDSA_WITH_SHA384) || signed.content[0] !== 0) {
    throw refused("certificate_key", "not signed by ECDSA with SHA-384");
  }
  if (!equal(keyAlgorithm, P384_KEY) || key.length !== 98 || key[0] !== 0 || key[1] !== 4) throw refused("certificate_key", "not a key of P-384");
  return {
    toBeSigned: body.whole,
    signature: signed.content.slice(1),
    issuer,
    subject,
    point: key.slice(1),
    notBeforeMs,
    notAfterMs,
    ...readExtensions(extensions),
  };
}

function readExtensions(element: Element | null): Pick<Certificate, "constraints" | "unknownCritical" | "signsCertificates" | "signsData"> {
  const found: ReturnType<typeof readExtensions> = { constraints: null, unknownCritical: false, signsCertificates: false, signsData: false };
  if (!element) return found;
  const wrapper = new Der(element.content);
  const list = new Der(wrapper.next(0x30).content);
  wrapper.end();
  const seen = new Set<string>();
  while (!list.done) {
    const extension = new Der(list.next(0x30).content);
    const id = Array.from(extension.next(0x06).content, (byte) => byte.toString(16).padStart(2, "0")).join("");
    const flag = extension.optional(0x01);
    const critical = flag !== null && flag.content.length === 1 && flag.content[0] === 0xff;
    if (flag && !critical) throw malformed();
    const value = new Der(extension.next(0x04).content);
    extension.end();
    if (seen.has(id)) throw malformed("an extension occurs twice");
    seen.add(id);
    if (id === BASIC_CONSTRAINTS) found.constraints = { critical, ...basicConstraints(value) };
    else if (id === KEY_USAGE) {
      const bits = value.next(0x03).content;
      value.end();
      if (bits.length < 2 || bits[0]! > 7) throw malformed();
      found.signsData = Boolean(bits[1]! & 0x80);
      found.signsCertificates = Boolean(bits[1]! & 0x04);
    } else if (critical) found.unknownCritical = true;
  }
  return found;
}

function basicConstraints(value: Der): { authority: boolean; pathLength: number | null } {
  const item = new Der(value.next(0x30).content);
  value.end();
  const flag = item.optional(0x01);
  if (flag && (flag.content.length !== 1 || flag.content[0] !== 0xff)) throw malformed();
  const length = item.optional(0x02);
  item.end();
  if (length && (!flag || length.content.length !== 1 || length.content[0]! > 127)) throw malformed();
  return { authority: flag !== null, pathLength: length ? length.content[0]! : null };
}

/** UTCTime or GeneralizedTime in the forms of RFC 5280 §4.1.2.5, in milliseconds since the epoch. */
function time(element: Element): bigint {
  const text = String.fromCharCode(...element.content);
  const pattern = element.tag === 0x17 ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : element.tag === 0x18 ? /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : null;
  const parts = pattern?.exec(text)?.slice(1).map(Number);
  if (!parts) throw malformed();
  const [given, month, day, hour, minute, second] = parts as [number, number, number, number, number, number];
  const year = element.tag === 0x17 ? given + (given < 50 ? 2000 : 1900) : given;
  const moment = new Date(0);
  moment.setUTCFullYear(year, month - 1, day);
  moment.setUTCHours(hour, minute, second);
  if (moment.getUTCMonth() !== month - 1 || moment.getUTCDate() !== day || hour > 23 || minute > 59 || second > 59) throw malformed();
  return BigInt(moment.getTime());
}

/** ECDSA of DER's two integers as r ‖ s of 48 bytes each, as WebCrypto takes it; null for what is no signature. */
function rawSignature(der: Bytes): Bytes | null {
  try {
    const outer = new Der(der);
    const pair = new Der(outer.next(0x30).content);
    outer.end();
    const numbers = [pair.next(0x02).content, pair.next(0x02).content].map((number) => {
      if (!number.length || number[0]! & 0x80 || (number.length > 1 && !number[0] && !(number[1]! & 0x80))) throw malformed();
      const digits = number[0] ? number : number.slice(1);
      if (digits.length > 48) throw malformed();
      return concat(new Uint8Array(48 - digits.length), digits);
    });
    pair.end();
    return concat(...numbers);
  } catch {
    return null;
  }
}

export async function importP384(point: Bytes): Promise<CryptoKey> {
  try {
    return await crypto.subtle.importKey("raw", point, { name: "ECDSA", namedCurve: "P-384" }, false, ["verify"]);
  } catch {
    throw malformed("not a point of P-384");
  }
}

export const verifyP384 = (key: CryptoKey, signature: Bytes, data: Bytes): Promise<boolean> =>
  crypto.subtle.verify({ name: "ECDSA", hash: "SHA-384" }, key, signature, data);

/** The key at the end of the chain of `bundle` (the root first) and `target`, under one of `roots`, at `nowMs`. */
export async function verifyChain(bundle: Bytes[], target: Bytes, roots: Bytes[], nowMs: bigint): Promise<CryptoKey> {
  if (!roots.some((root) => equal(root, bundle[0]!))) throw refused("untrusted_root", "the document's root is not one that you pinned");
  let issuer: { certificate: Certificate; key: CryptoKey } | null = null;
  for (const [position, der] of [...bundle, target].entries()) {
    const certificate = parse(der);
    const key = await importP384(certificate.point);
    if (nowMs < certificate.notBeforeMs) throw refused("certificate_not_yet_valid");
    if (nowMs > certificate.notAfterMs) throw refused("certificate_expired");
    if (certificate.unknownCritical) throw refused("certificate_critical_extension");
    if (position < bundle.length) checkAuthority(certificate, bundle.length - 1 - position);
    else {
      if (certificate.constraints?.authority) throw refused("certificate_basic_constraints", "the target is marked as an authority");
      if (!certificate.signsData) throw refused("certificate_key_usage", "the key is not for signing data");
    }
    if (issuer) {
      const signature = rawSignature(certificate.signature);
      const named = equal(issuer.certificate.subject, certificate.issuer);
      if (!named || !signature || !(await verifyP384(issuer.key, signature, certificate.toBeSigned))) throw refused("certificate_chain", "a certificate is not of the one before it");
    }
    issuer = { certificate, key };
  }
  return issuer!.key;
}

function checkAuthority(certificate: Certificate, followers: number): void {
  const { constraints } = certificate;
  if (!constraints?.critical || !constraints.authority) throw refused("certificate_basic_constraints", "not marked as an authority, critically");
  if (constraints.pathLength !== null && followers > constraints.pathLength) throw refused("certificate_path_length");
  if (!certificate.signsCertificates) throw refused("certificate_key_usage", "the key is not for signing certificates");
}
