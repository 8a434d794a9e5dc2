/**
 * What the integers of a tensor program stand for, as the effective parameters record it (avow/methods/optimistic/ports.py). One division
 * or multiplication and one rounding in binary64 for each value: the same bits as there. Null where a value is not carried by these rules.
 */
import { AvowError, type Bytes } from "./bytes.js";

const MAX_SCALES = 64;
const MAX_ELEMENTS = 1 << 24;
const MEMBERS = ["high", "low", "name", "rounding", "scale", "stands_for", "type"];
const WIDTHS: Record<string, number> = { int8: 1, int16: 2, int32: 4 };
const INTEGERS = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"];

export interface Port {
  name: string;
  scales: number[];
  rounding: "nearest" | "floor";
  standsFor: string;
  width: number;
  low: number;
  high: number;
}

export type Json = Record<string, unknown>;

export const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);

/** The ports recorded, null in the place of one that is not comparable; null if these are none. */
export function readPorts(value: unknown): (Port | null)[] | null {
  if (!Array.isArray(value) || !value.length || value.length > 64) return null;
  const found: (Port | null)[] = [];
  for (const item of value) {
    const port = item === null ? null : readPort(item);
    if (item !== null && !port) return null;
    found.push(port);
  }
  return found;
}

function readPort(item: unknown): Port | null {
  if (!isObject(item) || Object.keys(item).sort().join() !== MEMBERS.join()) return null;
  const { name, scale, rounding, stands_for: standsFor, type, low, high } = item;
  if (typeof name !== "string" || typeof scale !== "string" || typeof standsFor !== "string" || typeof type !== "string") return null;
  if (typeof low !== "number" || typeof high !== "number" || !Number.isInteger(low) || !Number.isInteger(high)) return null;
  const parts = scale.split(",");
  if (parts.length > MAX_SCALES || !parts.every((part) => /^[0-9.eE+-]{1,40}$/.test(part))) return null;
  const scales = parts.map(Number);
  if (!scales.every((each) => Number.isFinite(each) && each > 0)) return null;
  const width = Object.hasOwn(WIDTHS, type) ? WIDTHS[type]! : 0;
  if (!width || (rounding !== "nearest" && rounding !== "floor")) return null;
  const most = 2 ** (8 * width - 1);
  if (!(-most <= low && low <= high && high < most)) return null;
  return { name, scales, rounding, standsFor, width, low, high };
}

/** A request's tensor as the program's integers. */
export function intoProgram(port: Port, tensor: Json): Bytes | null {
  const values = numbers(tensor);
  const { datatype } = tensor;
  if (!values || typeof datatype !== "string" || ![...INTEGERS, "FP32", "FP64"].includes(datatype)) return null;
  const found: number[] = [];
  for (const [at, given] of values.entries()) {
    const value = datatype === "FP32" ? Math.fround(given) : given;
    if (!Number.isFinite(value)) return null;
    const quotient = value / port.scales[at % port.scales.length]!;
    if (quotient <= port.low) found.push(port.low);
    else if (quotient >= port.high) found.push(port.high);
    else found.push(port.rounding === "floor" ? Math.floor(quotient) : nearest(quotient));
  }
  return pack(port.width, found);
}

/** The program's integers that an answer's tensor stands for. Throws wrong_outputs for values that no integers stand for. */
export function outOfProgram(port: Port, tensor: Json): Bytes | null {
  if (port.standsFor === "float16") return null;
  const values = numbers(tensor);
  if (!values) throw new AvowError("wrong_outputs", "the answer has values that the program cannot give");
  const found: number[] = [];
  for (const [at, value] of values.entries()) {
    const scale = port.scales[at % port.scales.length]!;
    const integer = nearest(value / scale);
    const given = port.standsFor === "float64" ? integer * scale : Math.fround(integer * scale);
    if (given !== value || !(port.low <= integer && integer <= port.high)) {
      throw new AvowError("wrong_outputs", "the answer has values that the program cannot give");
    }
    found.push(integer);
  }
  return pack(port.width, found);
}

/** The nearest integer, halves to even. */
function nearest(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The tensor's numbers, row-major; nested lists are flattened. */
function numbers(tensor: Json): number[] | null {
  let { data } = tensor;
  while (Array.isArray(data) && data.length && Array.isArray(data[0])) {
    if (!data.every(Array.isArray)) return null;
    data = (data as unknown[][]).flat();
  }
  if (!Array.isArray(data) || data.length > MAX_ELEMENTS) return null;
  const found = data.map((value) => (typeof value === "boolean" ? Number(value) : (value as unknown)));
  return found.every((value): value is number => typeof value === "number" && Math.abs(value) <= 2 ** 1023) ? found : null;
}

function pack(width: number, values: readonly number[]): Bytes {
  const bytes = new Uint8Array(width * values.length);
  const view = new DataView(bytes.buffer);
  for (const [at, value] of values.entries()) {
    if (width === 1) view.setInt8(at, value);
    else if (width === 2) view.setInt16(2 * at, value, true);
    else view.setInt32(4 * at, value, true);
  }
  return bytes;
}
