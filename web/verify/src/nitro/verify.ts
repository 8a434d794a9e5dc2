/** The check of an AWS Nitro attestation document: which code runs in the enclave that holds a key. */
import { encode } from "../encoding.js";
import { hex, sha256, taggedHash, type Bytes } from "../bytes.js";
import { verifyChain, verifyP384 } from "./certificates.js";
import { P384_ORDER, parseFrame, parsePayload, refused, signedBytes } from "./document.js";

const MEASURED = [0, 1, 2];

export interface Attestation {
  measurement: Bytes;
  publicKey: Bytes | null;
  userData: Bytes | null;
  payloadHash: Bytes;
  rootFingerprint: string;
}

/** What `document` attests under one of `roots` (DER) at `nowMs`. Throws an AvowError whose code names the rule. */
export async function verifyAttestation(document: Bytes, roots: Bytes[], nowMs: bigint): Promise<Attestation> {
  const frame = parseFrame(document);
  const payload = parsePayload(frame.payload);
  const key = await verifyChain(payload.cabundle, payload.certificate, roots, nowMs);
  if (!(await verifyP384(key, frame.signature, signedBytes(frame.payload)))) throw refused("signature", "the document's signature does not hold");
  const measured = MEASURED.map((index) => {
    const value = payload.pcrs.get(index);
    if (!value) throw refused("missing_field", "a measured PCR is absent");
    return value;
  });
  const measurement = await taggedHash("avow/measurement/1", encode(["nitro", ...measured]));
  if (measured.every((value) => value.every((byte) => !byte))) throw refused("debug_mode", "the enclave runs in debug mode");
  if (frame.s > P384_ORDER / 2n) throw refused("high_s", "the signature's s is not the low one; nothing else is wrong with it");
  return {
    measurement,
    publicKey: payload.publicKey,
    userData: payload.userData,
    payloadHash: await taggedHash("avow/attestation/1", frame.payload),
    rootFingerprint: hex(await sha256(payload.cabundle[0]!)),
  };
}
