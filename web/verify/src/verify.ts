/**
 * Verification of a receipt: the named checks of docs/receipt.md §6, in their order, each owning its rules. Never throws for what
 * is wrong with the receipt: that is what the report says. The reader's time is a parameter; nothing is fetched.
 */
import { AvowError, equal, hex, type Bytes } from "./bytes.js";
import { commit, verifyDisclosure, type Disclosure, type Kind, type Part } from "./commitment.js";
import { checkMembership, provenRecord, VOID_CAUSES, type KeyRecord } from "./evidence.js";
import { fewestToForge } from "./headers.js";
import { METHOD_CHECKS, type Finding } from "./methods.js";
import type { Receipt } from "./receipt.js";
import { OPTIMISTIC } from "./optimistic.js";
import { CHECKS, OPTIMISTIC_CHECKS, verdictOf, type Check, type CheckName, type Report } from "./report.js";
import { verifyRequester } from "./requester.js";
import { keyId, METHODS, nextHead, statementPayload, streamPart, verifySignature, type Method } from "./statement.js";
import { checkAnchor, type TrustPolicy } from "./trust.js";
import { utf8 } from "./bytes.js";

const FUTURE_MS = 60_000n;

/** What the reader asks of a receipt. `require` names checks, methods, or: settled, final, opened, complete, fresh, anchored. */
export interface Question {
  nowMs: number;
  nonce?: Bytes;
  require?: string[];
  /** The answer has only just come, so the key's standing is judged by `nowMs` too. */
  answeredNow?: boolean;
}

const GUARANTEE: Record<Method, string> = {
  vanilla: "the accountable word of a named node",
  optimistic: "one honest watcher within the window",
  tee: "a hardware vendor and measured code",
  zkml: "mathematics",
};
const DEMANDS: Record<string, CheckName[]> = {
  settled: ["settlement"],
  final: ["settlement", "finality"],
  opened: ["request", "effective", "response"],
  complete: ["stream"],
  fresh: ["freshness"],
  anchored: ["anchor"],
};

export async function verify(receipt: Receipt, trust: TrustPolicy | null, question: Question): Promise<Report> {
  const checks: Check[] = [];
  const verification = new Verification(receipt, trust, question);
  const left = receipt.statement.columns.method === "optimistic" ? [] : OPTIMISTIC_CHECKS;
  for (const name of CHECKS.filter((name) => !left.some((other) => other === name))) {
    const finding = name === "required" ? required(receipt, question.require ?? [], checks) : await guarded(() => verification[name]());
    const [outcome, detail, code] = finding;
    checks.push({ name, outcome, detail: visible(detail), code: code ?? "" });
  }
  return { receipt: receipt.id, verdict: verdictOf(checks), checks, notProven: notProven(receipt, checks) };
}

async function guarded(check: () => Promise<Finding>): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    if (error instanceof AvowError) return ["fail", error.message, error.code];
    throw error;
  }
}

/** Receipts are written by strangers: what is no visible character is shown as its escape. */
const visible = (detail: string): string => detail.replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);

class Verification implements Record<Exclude<CheckName, "required">, () => Promise<Finding>> {
  trace = () => OPTIMISTIC.trace(this.receipt, this.anchored, this.trust);
  ends = () => OPTIMISTIC.ends(this.receipt, this.anchored, this.trust);
  audience = () => OPTIMISTIC.audience(this.receipt, this.anchored, this.trust);
  bond = () => OPTIMISTIC.bond(this.receipt, this.anchored, this.trust);
  processing = () => OPTIMISTIC.processing(this.receipt, this.anchored, this.trust);
  recomputed = () => OPTIMISTIC.recomputed(this.receipt, this.anchored, this.trust);
  finality = () => OPTIMISTIC.finality(this.receipt, this.anchored, this.trust);
  private record: KeyRecord | null = null;
  private anchored = false;
  private readonly now: bigint;

  constructor(
    private readonly receipt: Receipt,
    private readonly trust: TrustPolicy | null,
    private readonly question: Question,
  ) {
    this.now = BigInt(question.nowMs);
  }

  private get columns() {
    return this.receipt.statement.columns;
  }

  private get private() {
    return this.receipt.statement.private;
  }

  private get evidence() {
    return this.receipt.evidence;
  }

  async chain(): Promise<Finding> {
    const said = this.private.chainId;
    if (!this.trust) return ["skipped", `says it is for ${said}; no trust policy is pinned`];
    if (said !== this.trust.chainId) return ["fail", `the statement is for ${said}, the pinned chain is ${this.trust.chainId}`, "wrong_chain"];
    return ["pass", `for the pinned chain ${said}`];
  }

  async statement(): Promise<Finding> {
    const { columns, private: claim } = this;
    if (!equal(claim.key, await keyId(this.evidence.signingKey))) return ["fail", "the signing key is not the one that the statement names", "wrong_key"];
    if (this.evidence.method !== columns.method) return ["fail", `a ${columns.method} statement with ${this.evidence.method} evidence`, "wrong_method"];
    if (claim.startedMs > columns.endedMs) return ["fail", "it ends before it starts", "wrong_time"];
    if (columns.endedMs > this.now + FUTURE_MS) return ["fail", "it ends in the future", "wrong_time"];
    return ["pass", `number ${columns.number} of its key, by node 0x${hex(claim.node)}, in ${columns.endedMs - claim.startedMs} ms`];
  }

  async signature(): Promise<Finding> {
    const { hash } = this.receipt.statement;
    const head = await nextHead(this.evidence.previousHead, hash);
    const payload = statementPayload(this.private.chainId, this.private.key, this.columns.number, hash, head);
    await verifySignature(this.evidence.signingKey, payload, this.evidence.signature);
    return ["pass", `signed by key ${hex(this.private.key).slice(0, 16)}… (ES256)`];
  }

  async anchor(): Promise<Finding> {
    if (!this.trust) return ["skipped", "no trust policy is pinned"];
    const { settlement } = this.receipt;
    const blocks = [this.evidence.standing, settlement, settlement?.finality].flatMap((item) => (item ? [item.block] : []));
    if (!blocks.length) return ["skipped", "the receipt shows no block"];
    try {
      for (const block of blocks) await checkAnchor(this.trust, block, this.now);
    } catch (error) {
      if (error instanceof AvowError && error.code === "not_anchored") return ["skipped", `${error.message}: ${error.hint}`, error.code];
      throw error;
    }
    this.anchored = true;
    const fewest = fewestToForge(this.trust.validators);
    if (fewest === 1) return ["warn", "one pinned validator could sign alone: its operator could rewrite the chain"];
    return ["pass", `the blocks shown are signed; it takes ${fewest} of ${this.trust.validators.length} pinned validators to forge one`];
  }

  async standing(): Promise<Finding> {
    const { standing } = this.evidence;
    if (!standing) return ["skipped", "no proof that the key is registered is shown"];
    const record = await provenRecord(standing, this.private.key);
    if (!equal(record.operator, this.private.node)) return ["fail", "the key is registered to another operator", "wrong_operator"];
    if (record.method !== this.columns.method) return ["fail", `the key is registered for ${record.method}`, "wrong_method"];
    if (!equal(record.signingKey, this.evidence.signingKey)) return ["fail", "the record holds another signing key", "wrong_key"];
    this.record = record;
    return this.inForce(record, standing.block.header.timeNs / 1_000_000n);
  }

  /** Whether the key was in force when the statement ended, as far as the record shows it. */
  private inForce(record: KeyRecord, shownMs: bigint): Finding {
    const settled = this.receipt.settlement;
    const ended = this.columns.endedMs;
    if (record.compromisedFrom !== null && (!settled || settled.height >= record.compromisedFrom)) {
      return ["fail", `the key is compromised from height ${record.compromisedFrom}`, "key_compromised"];
    }
    if (record.state !== "active" && !settled) return ["fail", `the key is ${record.state}`, "key_not_active"];
    if (record.untilMs !== null && ended > record.untilMs) return ["fail", "the key's registration had expired", "key_expired"];
    if (ended + FUTURE_MS < record.fromMs) return ["fail", "it ends before the key was registered", "key_not_yet_registered"];
    const age = ended > shownMs ? ended - shownMs : shownMs - ended;
    const limit = this.trust?.maxStandingAgeMs ?? null;
    if (limit !== null && age > limit && (!settled || shownMs < ended)) {
      return ["fail", `the key's standing is shown ${age / 1000n} s away from the statement, more than ${limit / 1000n} s`, "standing_too_old"];
    }
    const since = this.now - shownMs;
    if (this.question.answeredNow && limit !== null && since > limit) {
      return ["fail", `the answer came just now, the key's standing is shown ${since / 1000n} s ago`, "standing_too_old"];
    }
    if (!this.anchored) return ["skipped", `says that the key is registered for ${record.method}; the block that shows it is not anchored`];
    return ["pass", `the key stood registered for ${record.method}, shown ${age / 1000n} s away`];
  }

  async attestation(): Promise<Finding> {
    const check = METHOD_CHECKS[this.columns.method];
    if (!check) return ["fail", `this verifier does not know the method ${this.columns.method}`, "unknown_method"];
    return check(this.receipt, this.record, this.trust);
  }

  async method(): Promise<Finding> {
    const { method } = this.columns;
    if (!this.trust) return ["skipped", `${method}; no trust policy is pinned`];
    if (!this.trust.methods.includes(method)) return ["fail", `you do not accept ${method}`, "method_not_accepted"];
    return ["pass", `${method}: ${GUARANTEE[method]}`];
  }

  async program(): Promise<Finding> {
    const program = hex(this.columns.program);
    if (!this.trust?.programs.length) return ["pass", `program ${program.slice(0, 16)}…; your policy allows any`];
    if (!this.trust.programs.includes(program)) return ["fail", "the program is not among those that you pinned", "wrong_program"];
    return ["pass", `program ${program.slice(0, 16)}…, which you pinned`];
  }

  async engine(): Promise<Finding> {
    const { engine } = this.private;
    const shown = `${engine.name} ${engine.version}`;
    return engine.name === "remote" ? ["warn", `${shown}: a relay; the upstream model is not proven`] : ["pass", shown];
  }

  async request(): Promise<Finding> {
    const { opening } = this.receipt;
    const parts = opening?.request ?? null;
    if (opening && parts && !(parts[0]?.[0] === "endpoint" && equal(parts[0][1], utf8(opening.endpoint)))) {
      return ["fail", "the request shown is for another endpoint than the opening names", "commitment_mismatch"];
    }
    return this.opened("request", this.private.request, parts);
  }

  async effective(): Promise<Finding> {
    const { opening } = this.receipt;
    return this.opened("effective", this.private.effective, opening ? [["effective", opening.effective]] : null);
  }

  async response(): Promise<Finding> {
    return this.opened("response", this.private.response, this.receipt.opening?.response ?? null);
  }

  private async opened(kind: Kind, commitment: Bytes, parts: readonly Part[] | null): Promise<Finding> {
    const { opening } = this.receipt;
    const disclosed = await this.disclosed(kind, commitment);
    if (opening && parts) {
      if (new Set(parts.map(([name]) => name)).size !== parts.length) return ["fail", `the ${kind} shows two parts under one name`, "ambiguous_parts"];
      if (!equal(await commit(kind, opening.seed, parts), commitment)) return ["fail", `the ${kind} shown is not the one committed`, "commitment_mismatch"];
      return ["pass", kind === "effective" ? "the effective parameters shown are those committed" : `the ${kind} shown is the one committed`];
    }
    if (disclosed.length) return ["pass", `disclosed and as committed: ${disclosed.map((item) => item.name).join(", ")}; the rest is not shown`];
    const also = opening && kind === "request" ? "; the endpoint that the opening names is unproven" : "";
    return ["skipped", `the ${kind} is not shown: only its commitment is in the receipt${also}`];
  }

  private async disclosed(kind: Kind, commitment: Bytes): Promise<Disclosure[]> {
    const shown = this.receipt.disclosures.filter((item) => item.kind === kind);
    for (const item of shown) await verifyDisclosure(item, commitment);
    if (new Set(shown.map((item) => item.name)).size !== shown.length) {
      throw new AvowError("commitment_mismatch", `two parts of the ${kind} are disclosed under one name`);
    }
    return shown;
  }

  async stream(): Promise<Finding> {
    const { stream, complete } = this.private;
    const shown = this.receipt.opening?.response;
    if (shown) {
      const part = shown.findLast(([name]) => name === "stream")?.[1];
      if (stream ? !part || !equal(part, streamPart(stream)) : part) return ["fail", "the response shown is not of the stream stated", "wrong_stream"];
    }
    if (!stream) return complete ? ["pass", "an answer in one piece"] : ["warn", "the answer is marked incomplete"];
    if (!complete) return ["warn", `the stream was cut after ${stream.chunks} chunks: it proves those alone`];
    return ["pass", `a stream of ${stream.chunks} chunks, delivered whole`];
  }

  async freshness(): Promise<Finding> {
    const expected = this.question.nonce;
    if (expected && !equal(expected, this.private.nonce)) return ["fail", "the nonce is not the one that was sent: another answer's receipt", "replayed"];
    if (this.private.nonceSource === "gateway") return ["warn", "the gateway chose the nonce: the caller cannot tell the answer from a replay"];
    return ["pass", expected ? "the nonce is the one that was sent" : "the caller chose the nonce, says the node"];
  }

  async requester(): Promise<Finding> {
    const { requester, chainId, request, nonce } = this.private;
    const signature = this.evidence.requesterSignature;
    if (!requester) return signature ? ["fail", "a requester's signature, but no requester", "bad_requester"] : ["skipped", "nobody signed the request"];
    if (!signature) return ["fail", "the requester's signature is not there", "bad_requester"];
    verifyRequester(requester, signature, chainId, request, this.columns.method, nonce);
    return ["pass", `0x${hex(requester)} signed the request`];
  }

  async payment(): Promise<Finding> {
    const { amount, units, payer } = this.columns;
    return ["pass", `${amount} wei for ${units} units, payable by 0x${hex(payer)} on settlement`];
  }

  async settlement(): Promise<Finding> {
    const { settlement, statement } = this.receipt;
    if (!settlement) return ["skipped", "not settled yet: only the node's evidence stands behind it"];
    await checkMembership(settlement, statement.hash, this.private.key, this.columns.number);
    if (settlement.void) return ["fail", `recorded as void at height ${settlement.height}: ${VOID_CAUSES[settlement.void]}`, "void"];
    if (!this.trust) return ["skipped", `says height ${settlement.height}; no trust policy is pinned`];
    const gap = settlement.block.header.timeNs / 1_000_000n - this.columns.endedMs;
    if (gap < -FUTURE_MS) return ["fail", "it ends after the block that settled it", "wrong_time"];
    if (!this.anchored) return ["skipped", `says height ${settlement.height}; the block that shows it is not anchored`];
    return ["pass", `settled at height ${settlement.height}, proven ${gap > 0n ? gap : 0n} ms after the answer`];
  }
}

function required(receipt: Receipt, demands: string[], checks: Check[]): Finding {
  if (!demands.length) return ["pass", "nothing in particular was demanded"];
  const outcomes = new Map<string, string>(checks.map((check) => [check.name, check.outcome]));
  const missing = demands.filter((demand) => !met(demand, receipt, outcomes));
  if (missing.length) return ["fail", `demanded and not there: ${missing.join(", ")}`, "not_met"];
  return ["pass", `demanded and there: ${demands.join(", ")}`];
}

function met(demand: string, receipt: Receipt, outcomes: Map<string, string>): boolean {
  if ((METHODS as readonly string[]).includes(demand)) {
    return receipt.statement.columns.method === demand && (["vanilla", "optimistic"].includes(demand) || outcomes.get("attestation") === "pass");
  }
  const names: string[] = DEMANDS[demand] ?? [demand];
  return names.every((name) => outcomes.get(name) === "pass" || (demand === "anchored" && outcomes.get(name) === "warn"));
}

function notProven(receipt: Receipt, checks: Check[]): string[] {
  const outcome = (name: CheckName) => checks.find((check) => check.name === name)?.outcome;
  const { private: claim, columns } = receipt.statement;
  const said: string[] = [];
  if (claim.engine.name === "remote") said.push("that the upstream model is what it says: the node only relayed its answer");
  if (columns.method === "vanilla") said.push("that the node ran the program honestly: it answers for it with its name");
  if (columns.method === "optimistic") {
    said.push("that anybody has run the program again: those who may can, and prove a fault to the network");
    if (outcome("finality") !== "pass") said.push("that it will stand: it is not shown to be final");
  }
  if (columns.method === "tee" && outcome("attestation") === "warn") said.push("that hardware guarded the run: this enclave is a development process");
  if (outcome("settlement") !== "pass") {
    said.push("that the network has accepted it: it is not shown to be settled");
    said.push("when it was made: until it settles its time is the node's word, and its key may have lost its standing since");
  }
  said.push("that the answer is true or good: a receipt shows how it was made");
  said.push("when it was made to the millisecond: times are the node's claim, the block's time is the network's");
  return said;
}
