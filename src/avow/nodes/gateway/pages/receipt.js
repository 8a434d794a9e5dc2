/* The receipt page. It asks its own gateway for the receipt and for the network's trust policy, verifies the receipt in the
   browser, and shows all of it as text.
   The secret is read from the fragment of the address, which browsers do not send, and goes into one request header. */
import { parseReceipt, parseTrust, verify } from "/pages/avow-verify.js";

const ID = location.pathname.split("/")[2];
const SECRET = location.hash.slice(1);
const TITLES = {
  pass: ["This receipt holds", "Every check that applies was passed."],
  warn: ["This receipt holds, with warnings", "What it says is true; the lines marked “warn” say where it is weaker than it could be."],
  unanchored: ["Not anchored", "The receipt is consistent, but nothing that is trusted here reaches it."],
  fail: ["This receipt does not hold", "At least one check failed. Do not rely on it."],
};
const NAMES = {
  chain: "Network", statement: "Statement", signature: "Signature", anchor: "Blocks", standing: "Node’s key",
  attestation: "Enclave", method: "Method", program: "Program", engine: "Engine", request: "Question", effective: "Parameters",
  response: "Answer", stream: "Stream", freshness: "Freshness", requester: "Requester", payment: "Payment",
  settlement: "Settlement", required: "Demanded",
};

const find = (id) => document.getElementById(id);
const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const show = (id) => { find(id).hidden = false; };

/* Byte strings in the JSON form of a receipt: "utf8:…", "hex:…", "b64:…". */
function bytesOf(view) {
  if (typeof view !== "string") return new Uint8Array();
  if (view.startsWith("utf8:")) return new TextEncoder().encode(view.slice(5));
  if (view.startsWith("hex:")) return Uint8Array.from(view.slice(4).match(/../g) || [], (pair) => parseInt(pair, 16));
  if (view.startsWith("b64:")) {
    const text = atob(view.slice(4).replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(text, (character) => character.charCodeAt(0));
  }
  return new Uint8Array();
}
const textOf = (view) => new TextDecoder().decode(bytesOf(view));
const hexOf = (view) => Array.from(bytesOf(view), (byte) => byte.toString(16).padStart(2, "0")).join("");
const numberOf = (view) => BigInt(typeof view === "string" ? view.replace("int:", "") : view ?? 0);

function parsed(text) {
  try { return JSON.parse(text); } catch { return text; }
}

/* Parts are [name, bytes]; names are JSON Pointers and a cut array is followed by its elements. */
function partMap(parts) {
  return new Map((parts || []).map(([name, data]) => [name, textOf(data)]));
}

function contentText(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return content == null ? "" : JSON.stringify(content, null, 2);
  return content.map((item) => (item && typeof item.text === "string" ? item.text : `[${(item && item.type) || "part"}]`)).join("\n");
}

function turn(role, text, isAnswer, code) {
  const box = element("div", isAnswer ? "turn answer" : "turn");
  box.append(element("p", "role", role));
  box.append(code ? element("pre", "", text) : element("p", "text", text));
  find("conversation").append(box);
}

const ROLES = { system: "Instructions", developer: "Instructions", user: "Question", assistant: "Earlier answer", tool: "Tool’s result" };

function showRequest(parts) {
  for (let index = 0; parts.has(`/messages/${index}`); index += 1) {
    const message = parsed(parts.get(`/messages/${index}`));
    turn(ROLES[message.role] || String(message.role), contentText(message.content), false);
  }
  for (let index = 0; parts.has(`/inputs/${index}`); index += 1) {
    const tensor = parsed(parts.get(`/inputs/${index}`));
    turn(`Input ${tensor.name ?? index} · ${tensor.datatype ?? ""} ${JSON.stringify(tensor.shape ?? [])}`, tensorText(tensor), false, true);
  }
}

/* A tensor's values for people: a file as its text where it is one, else its size; a single value bare; numbers as a list. */
function tensorText(tensor) {
  const values = Array.isArray(tensor.data) ? tensor.data.flat(Infinity) : [];
  const isText = tensor.parameters && tensor.parameters.content_type === "str";
  const shown = tensor.datatype === "BYTES" && !isText ? values.map(fileText) : values.map(String);
  return shorten(shown.join(tensor.datatype === "BYTES" ? "\n" : ", "));
}

function fileText(base64) {
  try {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const size = `${bytes.length.toLocaleString()} bytes`;
    try {
      return `${size}\n${new TextDecoder("utf-8", { fatal: true }).decode(bytes)}`;
    } catch { return size; }
  } catch { return String(base64); }
}

function showResponse(parts, complete) {
  for (let index = 0; parts.has(`/choices/${index}`); index += 1) {
    const at = `/choices/${index}/message`;
    const label = parts.has("/choices/1") ? `Answer ${index + 1}` : "Answer";
    const refusal = parsed(parts.get(`${at}/refusal`) ?? "null");
    const text = contentText(parsed(parts.get(`${at}/content`) ?? "null")) || (typeof refusal === "string" ? refusal : "");
    const calls = [];
    for (let call = 0; parts.has(`${at}/tool_calls/${call}`); call += 1) {
      const made = parsed(parts.get(`${at}/tool_calls/${call}`));
      calls.push(`${made.function?.name ?? "?"}(${made.function?.arguments ?? ""})`);
    }
    if (text || !calls.length) turn(complete ? label : `${label} · cut short`, text, true);
    if (calls.length) turn(`${label} · calls`, calls.join("\n"), true, true);
  }
  const outputs = [];
  for (let index = 0; parts.has(`/outputs/${index}`); index += 1) {
    const tensor = parsed(parts.get(`/outputs/${index}`));
    outputs.push(`${tensor.name ?? index}: ${tensorText(tensor)}`);
  }
  if (outputs.length) turn("Output", outputs.join("\n"), true, true);
}

const shorten = (text) => (text && text.length > 2000 ? `${text.slice(0, 2000)}…\n(${text.length.toLocaleString()} characters in all)` : String(text));

function showWords(receipt) {
  find("conversation").replaceChildren();
  show("words");
  const opening = receipt.opening;
  if (!opening || !opening.request) {
    find("words-title").textContent = "The words";
    const reason = SECRET
      ? "The gateway no longer keeps the words of this answer. Whoever kept them can still check them against the receipt."
      : "The question and the answer are private. The address of this page carries no secret, so it shows the receipt without them.";
    find("conversation").append(element("p", "private", reason));
    return;
  }
  showRequest(partMap(opening.request));
  showResponse(partMap(opening.response), receipt.statement.private.complete);
  if (opening.effective) {
    find("effective-text").textContent = JSON.stringify(parsed(textOf(opening.effective)), null, 2);
    show("effective");
  }
}

function showReport(report) {
  const [title, text] = TITLES[report.verdict];
  find("verdict").dataset.outcome = report.verdict;
  find("verdict-title").textContent = title;
  find("verdict-text").textContent = text;
  find("checks").replaceChildren(...report.checks.map((check) => {
    const line = element("li");
    line.append(
      element("span", `outcome ${check.outcome}`, check.outcome),
      element("span", "name", NAMES[check.name] || check.name),
      element("span", "detail", check.detail),
    );
    return line;
  }));
  show("checks-section");
  find("not-proven").replaceChildren(...report.notProven.map((limit) => element("li", "", limit)));
  show("not-proven-section");
}

function showFacts(receipt) {
  const { columns, private: claim } = receipt.statement;
  const time = (ms) => new Date(Number(ms)).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
  const settled = receipt.settlement ? `in block ${receipt.settlement.height}` : "not yet";
  const usage = Object.entries(claim.usage).map(([name, count]) => `${count} ${name.replaceAll("_", " ")}`).join(", ");
  const rows = [
    ["Method", columns.method, false],
    ["Program", hexOf(columns.program), true],
    ["Engine", `${claim.engine.name} ${claim.engine.version}`, false],
    ["Answered", `${time(columns.ended_ms)}, in ${Number(columns.ended_ms) - Number(claim.started_ms)} ms`, false],
    ["Settled", settled, false],
    ["Use", usage, false],
    ["Price", `${numberOf("0x" + (hexOf(columns.amount) || "0")).toLocaleString()} wei, paid by 0x${hexOf(columns.payer)}`, false],
    ["Node", `0x${hexOf(claim.node)}`, true],
    ["Statement", `number ${columns.number} of key ${hexOf(claim.key).slice(0, 16)}…`, false],
    ["Network", claim.chain_id, false],
    ["Receipt", ID, true],
  ];
  find("facts").replaceChildren(...rows.flatMap(([name, value, isHash]) => [
    element("dt", "", name), element("dd", isHash ? "hash" : "", value),
  ]));
  show("facts-section");
}

let objectUrls = [];
function download(label, bytes, name, type) {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  objectUrls.push(url);
  const link = element("a", "", label);
  link.href = url;
  link.download = name;
  return link;
}

function showYourself(json, cbor, redacted, opened) {
  const name = `receipt-${ID.slice(0, 8)}`;
  objectUrls.forEach((url) => URL.revokeObjectURL(url));
  objectUrls = [];
  const links = [
    download("Receipt (JSON)", json, `${name}.json`, "application/json"),
    download("Receipt (CBOR)", cbor, `${name}.cbor`, "application/cbor"),
  ];
  if (opened) links.push(download("Without the words", redacted, `${name}-redacted.json`, "application/json"));
  find("downloads").replaceChildren(...links);
  find("command").textContent = `avow trust pin ${location.origin}   # once; compare what it shows\navow verify ${name}.json`;
  find("private-note").textContent = opened
    ? "The first two files hold the question and the answer. The redacted one verifies as well and shows neither."
    : "This receipt shows neither question nor answer, and verifies all the same.";
  show("yourself");
}

async function ask(path, accept, withSecret) {
  const headers = { accept };
  if (withSecret && SECRET) headers["avow-secret"] = SECRET;
  const answer = await fetch(path, { headers, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
  if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
  let message = `The gateway answered ${answer.status}.`;
  try { message = (await answer.json()).error.message; } catch { /* no envelope: the status must do */ }
  throw Object.assign(new Error(message), { status: answer.status });
}

async function load(query) {
  const path = `/receipts/${ID}`;
  let opened = Boolean(SECRET);
  let json;
  try {
    json = await ask(path + query, "application/json", opened);
  } catch (error) {
    if (!opened || error.status >= 500) throw error;
    opened = false; /* the words are gone, or the secret is another's: the redacted receipt still is there */
    json = await ask(path + query, "application/json", false);
  }
  const receipt = JSON.parse(new TextDecoder().decode(json));
  const [cbor, redacted, trust] = await Promise.all([
    ask(path, "application/cbor", opened),
    opened ? ask(path, "application/json", false) : json,
    ask("/trust", "application/json", false),
  ]);
  const policy = parseTrust(new TextDecoder().decode(trust));
  const report = await verify(await parseReceipt(json), policy, { nowMs: Date.now() });
  showWords(receipt);
  showReport(report);
  showFacts(receipt);
  showYourself(json, cbor, redacted, Boolean(receipt.opening && receipt.opening.request));
  return Boolean(receipt.settlement);
}

function fail(error) {
  find("verdict").dataset.outcome = "fail";
  find("verdict-title").textContent = error.status === 404 ? "There is no such receipt here" : "The receipt cannot be shown";
  find("verdict-text").textContent = error.message;
}

find("copy").addEventListener("click", async () => {
  if (!navigator.clipboard) { /* only secure contexts have it: mark the text instead */
    getSelection().selectAllChildren(find("command"));
    return;
  }
  await navigator.clipboard.writeText(find("command").textContent);
  find("copy").textContent = "Copied";
  setTimeout(() => { find("copy").textContent = "Copy"; }, 1500);
});

(async () => {
  find("short-id").textContent = `${ID.slice(0, 8)}…${ID.slice(-4)}`;
  try {
    let settled = await load("");
    for (let attempt = 0; !settled && attempt < 10; attempt += 1) settled = await load("?wait_ms=20000");
  } catch (error) {
    fail(error);
  }
  find("main").setAttribute("aria-busy", "false");
})();
