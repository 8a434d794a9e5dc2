/** Verifies Avow receipts, offline: `verify(await parseReceipt(bytes), parseTrust(json), { nowMs: Date.now() })`. */
export { AvowError, base64url, fromBase64url, fromHex, hex } from "./bytes.js";
export { commit, type Disclosure, type Kind, type Part } from "./commitment.js";
export { decode, encode, fromJson, toJson, type Value } from "./encoding.js";
export { verifyAttestation, type Attestation } from "./nitro/verify.js";
export { parseReceipt, type Opening, type Receipt } from "./receipt.js";
export { type Check, type CheckName, type Outcome, type Report, type Verdict } from "./report.js";
export { type Columns, type Method, type Private, type Statement } from "./statement.js";
export { parseTrust, type TrustPolicy } from "./trust.js";
export { verify, type Question } from "./verify.js";
