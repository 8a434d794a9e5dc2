/** The receipt: statement, evidence, settlement once there is one, and as much of the opening as its holder shows. */
import { AvowError, hex, type Bytes } from "./bytes.js";
import { disclosure, type Disclosure, type Part } from "./commitment.js";
import { decode, fromJson, type Value } from "./encoding.js";
import { evidence, settlement, type Evidence, type Settlement } from "./evidence.js";
import { array, mapping, octets, text, version } from "./fields.js";
import { statement, type Statement } from "./statement.js";

const MAX_PARTS = 16_392;
const MAX_PART = 16 * 1024 * 1024;

export interface Opening {
  seed: Bytes;
  endpoint: string;
  effective: Bytes;
  request: Part[] | null;
  response: Part[] | null;
  /** The trace's header, of optimistic statements only. */
  header: Bytes | null;
}

export interface Receipt {
  id: string;
  statement: Statement;
  evidence: Evidence;
  settlement: Settlement | null;
  opening: Opening | null;
  disclosures: Disclosure[];
}

function parts(value: Value, field: string): Part[] {
  return array(value, field, MAX_PARTS).map((entry) => {
    const pair = array(entry, field, 2);
    if (pair.length !== 2) throw new AvowError("bad_field", `a part of ${field} is a name and its bytes`);
    return [text(pair[0]!, field, 1_024), octets(pair[1]!, field, 0, MAX_PART)];
  });
}

function opening(value: Value): Opening {
  const item = mapping(value, "opening", ["seed", "endpoint", "effective"], ["request", "response", "header"]);
  return {
    seed: item.octets("seed", 32),
    endpoint: item.text("endpoint", 256),
    effective: item.octets("effective", 0, 1 << 20),
    request: item.has("request") ? parts(item.get("request"), "request") : null,
    response: item.has("response") ? parts(item.get("response"), "response") : null,
    header: item.has("header") ? item.octets("header", 1, 8_192) : null,
  };
}

export async function receiptOf(value: Value): Promise<Receipt> {
  if (!(value instanceof Map) || !value.has("statement") || !value.has("evidence")) {
    throw new AvowError("not_a_receipt", "this is not a receipt: it has no statement and evidence");
  }
  version(value.get("version") ?? null, "receipt", 1n);
  const item = mapping(value, "receipt", ["version", "statement", "evidence"], ["settlement", "opening", "disclosures"]);
  const disclosures = item.has("disclosures") ? item.array("disclosures", 1_024) : [];
  if (item.has("disclosures") && !disclosures.length) throw new AvowError("bad_field", "disclosures are left out when there are none");
  const shown = await statement(item.get("statement"));
  return {
    id: hex(shown.hash),
    statement: shown,
    evidence: evidence(item.get("evidence")),
    settlement: item.has("settlement") ? settlement(item.get("settlement")) : null,
    opening: item.has("opening") ? opening(item.get("opening")) : null,
    disclosures: disclosures.map(disclosure),
  };
}

/** A receipt from a file's bytes, JSON or CBOR by the first byte. Throws AvowError for anything else. */
export async function parseReceipt(data: Bytes): Promise<Receipt> {
  if (!data.length) throw new AvowError("not_a_receipt", "the file is empty");
  let value: Value;
  try {
    value = data[0] === 0x7b ? fromJson(data) : decode(data);
  } catch (error) {
    if (error instanceof AvowError && error.code === "bad_encoding") {
      throw new AvowError("not_a_receipt", `this is not a receipt in its one encoding: ${error.message}`);
    }
    throw error;
  }
  return receiptOf(value);
}

