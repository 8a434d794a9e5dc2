// The page in a real Chromium, from a file, as a reader has it: drop a receipt, see the checks; nothing is requested.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";
import { decode, fromBase64url, toJson } from "../dist/avow-verify.js";

const which = (name) => {
  try {
    return execFileSync("which", [name], { encoding: "utf8" }).trim();
  } catch {
    return "";
  }
};
const browserPath = ["chromium", "chromium-browser", "google-chrome"].map(which).find(Boolean);
const skip = browserPath ? false : "no Chromium on PATH";
const vectors = JSON.parse(readFileSync(new URL("../../../tests/vectors/receipts.json", import.meta.url), "utf8"));
const pageUrl = pathToFileURL(fileURLToPath(new URL("../dist/verify.html", import.meta.url))).href;
let browser;
let folder;

before(async () => {
  if (skip) return;
  folder = mkdtempSync(join(tmpdir(), "avow-page-"));
  browser = await puppeteer.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic"], userDataDir: join(folder, "browser") });
});
after(async () => {
  await browser?.close();
  if (folder) rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
});

async function open() {
  const page = await browser.newPage();
  const requests = [];
  const complaints = [];
  page.on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(pageUrl);
  return { page, requests, complaints };
}

async function shown(page, vector, { json }) {
  const data = fromBase64url(vector.receipt);
  const file = join(folder, json ? "receipt.json" : "receipt.cbor");
  writeFileSync(file, json ? toJson(decode(data)) : data);
  await page.evaluate(() => { document.getElementById("verdict-title").textContent = ""; });
  const input = await page.$("#file");
  await input.uploadFile(file);
  await page.waitForFunction(() => document.getElementById("verdict-title").textContent !== "", { timeout: 10_000 }).catch((error) => { throw new Error(`${vector.name}: ${error.message}`); });
  return page.evaluate(() => ({
    verdict: document.getElementById("verdict").dataset.outcome,
    title: document.getElementById("verdict-title").textContent,
    outcomes: [...document.querySelectorAll("#checks .outcome")].map((item) => item.textContent),
    words: document.getElementById("conversation").textContent,
  }));
}

test("every vector has the verdict here that it has everywhere", { skip }, async () => {
  const { page, requests, complaints } = await open();
  const now = vectors[0].now_ms;
  for (const [index, vector] of vectors.entries()) {
    if (vector.nonce !== null || vector.now_ms !== now) continue; // the page asks no nonce and has one clock
    await page.evaluate((ms, trust) => {
      Date.now = () => ms;
      document.getElementById("trust").value = trust;
    }, vector.now_ms, vector.trust === null ? "" : JSON.stringify(vector.trust));
    const found = await shown(page, vector, { json: index % 2 === 0 });
    assert.equal(found.verdict, vector.verdict, vector.name);
    assert.deepEqual(found.outcomes, Object.values(vector.checks), vector.name);
  }
  assert.deepEqual(requests.filter((url) => !url.startsWith("data:")), [pageUrl]);
  assert.deepEqual(complaints, []);
});

test("what is no receipt is said to be none", { skip }, async () => {
  const { page } = await open();
  const file = join(folder, "letter.json");
  writeFileSync(file, '{"dear": "reader"}');
  await (await page.$("#file")).uploadFile(file);
  await page.waitForFunction(() => !document.getElementById("verdict").hidden);
  assert.equal(await page.$eval("#verdict-title", (item) => item.textContent), "This is not a receipt");
});

test("the page cannot send anything", { skip }, async () => {
  const { page } = await open();
  const blocked = await page.evaluate(async () => {
    try {
      await fetch("http://127.0.0.1:9/");
      return "sent";
    } catch {
      return "refused";
    }
  });
  assert.equal(blocked, "refused");
});
