// The published vectors, which the Python package makes and checks too: same checks, same codes, same verdicts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { commit, decode, encode, fromBase64url, fromHex, fromJson, hex, parseReceipt, parseTrust, toJson, verify } from "../dist/avow-verify.js";

const load = (name) => JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}.json`, import.meta.url), "utf8"));
const bytes = (text) => new TextEncoder().encode(text);

for (const vector of load("receipts")) {
  test(vector.name, async () => {
    const data = fromBase64url(vector.receipt);
    const receipt = await parseReceipt(data);
    const trust = vector.trust === null ? null : parseTrust(JSON.stringify(vector.trust));
    const nonce = vector.nonce === null ? {} : { nonce: fromHex(vector.nonce) };
    const report = await verify(receipt, trust, { nowMs: vector.now_ms, ...nonce });
    assert.equal(receipt.id, vector.id);
    assert.deepEqual(Object.fromEntries(report.checks.map((check) => [check.name, check.outcome])), vector.checks);
    assert.deepEqual(Object.fromEntries(report.checks.filter((check) => check.code).map((check) => [check.name, check.code])), vector.codes);
    assert.equal(report.verdict, vector.verdict);
    const json = toJson(decode(data));
    assert.deepEqual(fromJson(bytes(json)), decode(data));
    assert.equal((await parseReceipt(bytes(json))).id, vector.id);
  });
}

test("encodings", () => {
  const vectors = load("encoding");
  for (const vector of vectors.accepted) {
    const value = decode(fromHex(vector.cbor));
    assert.equal(hex(encode(value)), vector.cbor);
    assert.equal(toJson(value), vector.json);
    assert.deepEqual(fromJson(bytes(vector.json)), value);
  }
  for (const refused of vectors.refused_cbor) assert.throws(() => decode(fromHex(refused)), refused);
  for (const refused of vectors.refused_json) assert.throws(() => fromJson(bytes(refused)), refused);
});

test("commitments", async () => {
  for (const vector of load("commitments")) {
    const parts = vector.parts.map(([name, data]) => [name, bytes(data)]);
    assert.equal(hex(await commit(vector.kind, fromHex(vector.seed), parts)), vector.commitment);
  }
});

test("every byte of a receipt that changes is noticed", async () => {
  const vector = load("receipts").find(({ name }) => name === "tee settled and opened");
  const data = fromBase64url(vector.receipt);
  const trust = parseTrust(JSON.stringify(vector.trust));
  let held = 0;
  for (let at = 0; at < data.length; at += 7) {
    const changed = data.slice();
    changed[at] ^= 1 << at % 8;
    try {
      const report = await verify(await parseReceipt(changed), trust, { nowMs: vector.now_ms });
      if (report.verdict !== "fail" && report.verdict !== "unanchored") held += 1;
    } catch (error) {
      assert.ok(typeof error.code === "string", `${at}: ${error.stack}`);
    }
  }
  assert.equal(held, 0);
});
