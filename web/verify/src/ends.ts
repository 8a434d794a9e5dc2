/** The two ends of a run beside request and answer: what the seed's holder can compare without the program (avow/methods/optimistic/ends.py). */
import { AvowError, equal, type Bytes } from "./bytes.js";
import type { Part } from "./commitment.js";
import type { Finding } from "./methods.js";
import { intoProgram, isObject, outOfProgram, readPorts, type Json, type Port } from "./ports.js";
import type { Opening, Receipt } from "./receipt.js";
import { digest, INPUT_SLOT, OUTPUT_SLOT, readHeader, saltsKey, traceOf, type Header } from "./trace.js";

const SEEDS = 1n << 53n;
const COLDEST = 0.01;

export async function ends(receipt: Receipt): Promise<Finding> {
  const { opening, statement } = receipt;
  if (!opening?.header) return ["skipped", "the trace's header is not shown: nothing to compare request and answer with"];
  if (!equal(await traceOf(opening.header), statement.columns.trace)) {
    return ["skipped", "the header shown is not the one committed: nothing to compare with"];
  }
  const shown = readHeader(opening.header);
  const effective = parse(opening.effective);
  if (!isObject(effective)) return ["warn", "the effective parameters do not say how the program was run"];
  return shown.prompt ? generated(shown, effective, receipt, opening) : computed(shown, effective, opening);
}

// --- Programs that generate

function generated(shown: Header, effective: Json, { statement }: Receipt, opening: Opening): Finding {
  const { sampling, stop } = effective;
  if (!isObject(sampling) || !Array.isArray(stop)) return ["warn", "the effective parameters do not say how the answer was sampled"];
  const said: Json = { ...sampling, seed: effective["seed"], max_tokens: effective["max_tokens"] };
  const same = ["max_tokens", "seed", "temperature_m", "temperature_s"].every((name) => whole(said[name]) !== null && whole(said[name]) === shown.parameters.get(name));
  if (!same) return ["fail", "the run was sampled with other parameters than the effective ones", "wrong_parameters"];
  const asked = notAsked(named(opening.request), effective, sampling);
  if (asked) return ["fail", asked, "wrong_parameters"];
  const chosen = shown.steps - shown.prompt + 1n;
  const { complete } = statement.private;
  const usage = new Map(statement.private.usage);
  if (usage.get("prompt_tokens") !== shown.prompt) {
    return ["fail", `the run had ${shown.prompt} tokens of prompt, the statement counts another number`, "wrong_usage"];
  }
  if (usage.get("completion_tokens") !== chosen) return ["fail", `the run chose ${chosen} tokens, the statement counts another number`, "wrong_usage"];
  if (statement.columns.units !== shown.prompt + chosen) {
    return ["fail", `the run had ${shown.prompt + chosen} tokens in all, the statement charges another number`, "wrong_usage"];
  }
  const wrong = complete ? wrongEnd(shown, stop.length > 0, named(opening.response)) : "";
  if (wrong) return ["fail", wrong, "wrong_finish"];
  return ["pass", `${shown.prompt} tokens asked, ${chosen} chosen, sampled as the parameters say; the tokens themselves are not compared`];
}

/** What the effective parameters say otherwise than the request; empty if nothing. */
function notAsked(request: Map<string, unknown>, effective: Json, sampling: Json): string {
  const seed = whole(request.get("/seed"));
  if (seed !== null && ((seed % SEEDS) + SEEDS) % SEEDS !== whole(effective["seed"])) return "the answer was sampled with another seed than the request's";
  const temperature = request.get("/temperature") ?? null;
  if (temperature !== null && temperature !== sampling["temperature"]) return "the answer was sampled at another temperature than the request's";
  const most = whole(request.get("/max_completion_tokens") || request.get("/max_tokens"));
  if (most !== null && whole(effective["max_tokens"])! > most) return "the run may choose more tokens than the request asks for";
  const { temperature: stated, temperature_m: m, temperature_s: s } = sampling;
  return fits(stated, Number(m), Number(s)) ? "" : "the run's temperature is not the one that the parameters say";
}

/** Whether m / 2^s is 1 / temperature, to what 15 bits hold; (0, 1) is for 0. */
function fits(temperature: unknown, m: number, s: number): boolean {
  if (typeof temperature !== "number") return false;
  if (temperature === 0 || m === 0) return temperature === 0 && m === 0 && s === 1;
  return m < 1 << 15 && s <= 45 && Math.abs(m * Math.max(temperature, COLDEST) - 2 ** s) * (1 << 14) <= 2 ** s;
}

/** What the answer says of its end otherwise than the header; empty if nothing. */
function wrongEnd({ finish }: Header, stops: boolean, response: Map<string, unknown>): string {
  if (finish === "text" && !stops) return "the run was broken off, and the request names no stop text";
  if (!response.has("/choices/0/finish_reason")) return "";
  const told = response.get("/choices/0/finish_reason");
  const allowed = told === "length" ? ["length"] : told === "stop" ? ["end", "text"] : [];
  return allowed.includes(finish) || (told === "stop" && stops) ? "" : "the answer says that it ended otherwise than the run did";
}

// --- Other programs

async function computed(shown: Header, effective: Json, opening: Opening): Promise<Finding> {
  const { engine } = effective;
  const processor = isObject(engine) ? engine["processor"] : null;
  if (typeof processor !== "string") return ["warn", "the effective parameters do not say how the request becomes the program's inputs"];
  if (processor !== "none") {
    return ["skipped", `the processor ${processor.slice(0, 32)} makes the program's inputs: only a run of one's own compares them`];
  }
  const recorded = isObject(effective["ports"]) ? effective["ports"] : {};
  const [inputs, outputs] = [readPorts(recorded["inputs"]), readPorts(recorded["outputs"])];
  if (!inputs || !outputs) return ["warn", "the effective parameters do not say what the program's integers stand for"];
  if (inputs.length !== shown.inputs.length || outputs.length !== shown.outputs.length) {
    return ["fail", "the effective parameters record other inputs or outputs than the run has", "wrong_inputs"];
  }
  const key = await saltsKey(opening.seed);
  const compared: string[] = [];
  const [asked, given] = [tensors(opening.request, "/inputs/"), tensors(opening.response, "/outputs/")];
  if (given && foreign(opening.response, given, outputs)) {
    return ["fail", "the answer has a tensor that the run did not give", "wrong_outputs"];
  }
  for (const [at, port] of inputs.entries()) {
    if (!port || !asked) continue;
    const tensor = asked.get(port.name);
    if (!tensor) return ["fail", "the run has an input that the request does not have", "wrong_inputs"];
    const data = intoProgram(port, tensor);
    if (!data) continue;
    if (!equal(await digest(key, INPUT_SLOT + BigInt(at), data), shown.inputs[at]!)) {
      return ["fail", "the run began with other values than the request's", "wrong_inputs"];
    }
    compared.push(port.name.slice(0, 64));
  }
  for (const [at, port] of outputs.entries()) {
    const tensor = port && given?.get(port.name);
    if (!port || !tensor) continue;
    let data: Bytes | null;
    try {
      data = outOfProgram(port, tensor);
    } catch (error) {
      if (error instanceof AvowError) return ["fail", error.message, error.code];
      throw error;
    }
    if (!data) continue;
    if (!equal(await digest(key, OUTPUT_SLOT + BigInt(at), data), shown.outputs[at]!)) {
      return ["fail", "the answer has other values than the run gave", "wrong_outputs"];
    }
    compared.push(port.name.slice(0, 64));
  }
  if (!compared.length) return ["skipped", "neither the request's tensors nor the answer's are shown, or can be compared"];
  return ["pass", `the run has the values shown, of the tensors ${compared.join(", ")}`];
}

// --- JSON

function parse(data: Bytes): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data)) as unknown;
  } catch {
    return undefined;
  }
}

/** An integer of JSON; null for what is none, or was read as a double and is too large for one. */
function whole(value: unknown): bigint | null {
  if (typeof value === "bigint") return value;
  return typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : null;
}

const NAMED = ["/seed", "/temperature", "/max_tokens", "/max_completion_tokens", "/choices/0/finish_reason"];

function named(parts: readonly Part[] | null): Map<string, unknown> {
  const found = new Map<string, unknown>();
  for (const [name, data] of parts ?? []) {
    const value = NAMED.includes(name) ? parse(data) : undefined;
    const text = typeof value === "number" && name !== "/temperature" ? new TextDecoder().decode(data).trim() : "";
    if (value !== undefined) found.set(name, /^-?[0-9]+$/.test(text) ? BigInt(text) : value); // exact, however long
  }
  return found;
}

/** Whether the answer has a tensor that is not one of the run's outputs, or one twice; where all of these are recorded. */
function foreign(parts: readonly Part[] | null, given: Map<string, Json>, ports: readonly (Port | null)[]): boolean {
  if (ports.includes(null)) return false;
  const shown = (parts ?? []).filter(([name]) => name.startsWith("/outputs/")).length;
  return shown !== given.size || ![...given.keys()].every((name) => ports.some((port) => port?.name === name));
}

function tensors(parts: readonly Part[] | null, prefix: string): Map<string, Json> | null {
  if (!parts) return null;
  const found = new Map<string, Json>();
  for (const [name, data] of parts) {
    const tensor = name.startsWith(prefix) ? parse(data) : undefined;
    if (isObject(tensor) && typeof tensor["name"] === "string") found.set(tensor["name"], tensor);
  }
  return found;
}
