/** The page on which a receipt is dropped and its checks are seen. It makes no request: its own policy forbids any. */
import { AvowError, type Bytes } from "./bytes.js";
import type { Part } from "./commitment.js";
import { parseReceipt, type Receipt } from "./receipt.js";
import type { CheckName, Report, Verdict } from "./report.js";
import { parseTrust, type TrustPolicy } from "./trust.js";
import { verify } from "./verify.js";

const TITLES: Record<Verdict, [string, string]> = {
  pass: ["This receipt holds", "Every check that applies was passed."],
  warn: ["This receipt holds, with warnings", "What it says is true; the lines marked “warn” say where it is weaker than it could be."],
  unanchored: ["Not anchored", "The receipt is consistent, but nothing that you trust reaches it. Give your trust policy above."],
  fail: ["This receipt does not hold", "At least one check failed. Do not rely on it."],
};
const NAMES: Record<CheckName, string> = {
  chain: "Network", statement: "Statement", signature: "Signature", anchor: "Blocks", standing: "Node’s key", attestation: "Enclave",
  method: "Method", program: "Program", engine: "Engine", request: "Question", effective: "Parameters", response: "Answer",
  stream: "Stream", freshness: "Freshness", requester: "Requester", payment: "Payment", settlement: "Settlement", required: "Demanded",
  trace: "Trace", ends: "Beginning and end", audience: "Who could check", bond: "Bond", processing: "Processing", recomputed: "Run again", finality: "Finality",
}; // prettier-ignore

const find = (id: string): HTMLElement => document.getElementById(id)!;
const trustBox = find("trust") as HTMLTextAreaElement;
const picker = find("file") as HTMLInputElement;
let current: { data: Bytes; name: string } | null = null;
let run = 0;

function element(tag: string, className: string, text: string): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function say(outcome: Verdict | "none", title: string, text: string): void {
  const box = find("verdict");
  box.hidden = false;
  box.dataset["outcome"] = outcome;
  find("verdict-title").textContent = title;
  find("verdict-text").textContent = text;
}

function trust(): TrustPolicy | null {
  const text = trustBox.value.trim();
  if (!text) return null;
  const policy = parseTrust(text);
  find("trust-title").textContent = `Whom you trust: ${policy.chainId}, ${policy.validators.length} validator(s)`;
  return policy;
}

async function show(): Promise<void> {
  const shown = current;
  if (!shown) return;
  const mine = ++run;
  for (const id of ["words", "checks-section", "limits-section"]) find(id).hidden = true;
  try {
    const receipt = await parseReceipt(shown.data);
    const report = await verify(receipt, trust(), { nowMs: Date.now() });
    if (mine !== run) return; // a later drop has overtaken this one
    showReport(report);
    showWords(receipt);
  } catch (error) {
    if (mine !== run) return;
    if (!(error instanceof AvowError)) throw error;
    const isTrust = error.code === "bad_policy";
    say("fail", isTrust ? "The trust policy cannot be read" : "This is not a receipt", error.message);
  }
}

function showReport(report: Report): void {
  say(report.verdict, ...TITLES[report.verdict]);
  find("checks").replaceChildren(
    ...report.checks.map((check) => {
      const line = document.createElement("li");
      line.append(element("span", `outcome ${check.outcome}`, check.outcome), element("span", "name", NAMES[check.name]), element("span", "detail", check.detail));
      return line;
    }),
  );
  find("limits").replaceChildren(...report.notProven.map((limit) => element("li", "", limit)));
  find("checks-section").hidden = find("limits-section").hidden = false;
}

/** What the opening or single disclosures show, as text; only when what is shown is what was committed. */
function showWords(receipt: Receipt): void {
  const disclosed = receipt.disclosures.map((item): [string, Part] => [item.kind, [item.name, item.data]]);
  const opened = [...(receipt.opening?.request ?? []).map((part): [string, Part] => ["request", part]), ...(receipt.opening?.response ?? []).map((part): [string, Part] => ["response", part])];
  const turns = [...opened, ...disclosed].flatMap(([kind, [name, data]]) => {
    if (!/^\/(messages|inputs|outputs)\/\d+$|\/message\/(content|tool_calls\/\d+)$/.test(name) && !disclosed.length) return [];
    const turn = element("div", "turn", "");
    turn.append(element("p", "role", `${kind} ${name}`), element("p", "text", readable(data)));
    return [turn];
  });
  find("conversation").replaceChildren(...turns);
  find("words").hidden = !turns.length;
}

function readable(data: Bytes): string {
  const text = new TextDecoder().decode(data);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "string") return value;
    const content = (value as { content?: unknown } | null)?.content;
    return typeof content === "string" ? content : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}

async function take(files: File[]): Promise<void> {
  for (const file of files) {
    const data = new Uint8Array(await file.arrayBuffer());
    const text = data[0] === 0x7b && data.length < 1 << 20 ? new TextDecoder().decode(data) : "";
    if (text.includes('"trusting_period_ms"') && !text.includes('"statement"')) trustBox.value = text;
    else current = { data, name: file.name };
  }
  if (current) find("drop-text").textContent = current.name;
  await show();
}

picker.addEventListener("change", () => {
  const files = [...(picker.files ?? [])];
  picker.value = ""; // the same file may be chosen again once it has changed
  void take(files);
});
trustBox.addEventListener("input", () => void show());
addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", () => find("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  void take([...(event.dataTransfer?.files ?? [])]);
});
