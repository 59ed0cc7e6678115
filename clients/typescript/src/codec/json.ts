import { isInteger, isSafeNumber, parse as parseLossless } from "lossless-json";

import { entriesOf, isMap } from "../types/maps.js";
import { ValueError } from "../types/type.js";
import { Wide } from "../types/wide.js";
import { MAX_LEVELS } from "./message-pack.js";

/** Writes a plain value as JSON. Throws a {@link ValueError}. */
export function encode(plain: unknown): string {
  return write(plain, 0);
}

function write(plain: unknown, depth: number): string {
  switch (typeof plain) {
    case "number":
      if (!Number.isFinite(plain)) throw new ValueError("JSON has no NaN and no infinity");
      return Object.is(plain, -0) ? "-0.0" : String(plain);
    case "bigint":
    case "boolean":
      return String(plain);
    case "string":
      return JSON.stringify(plain);
    case "undefined":
      return "null";
    case "object":
      return writeObject(plain, depth);
    default:
      throw new ValueError(`a ${typeof plain} cannot be sent`);
  }
}

function writeObject(plain: object | null, depth: number): string {
  if (plain === null) return "null";
  if (plain instanceof Wide) return String(plain.value);
  if (depth >= MAX_LEVELS) throw new ValueError("is nested too deeply");
  if (plain instanceof Uint8Array) return `[${plain.join(",")}]`;
  if (Array.isArray(plain)) return `[${plain.map((item) => write(item, depth + 1)).join(",")}]`;
  if (!isMap(plain)) throw new ValueError("the value cannot be sent");
  const entries = entriesOf(plain).map(
    ([key, item]) => `${JSON.stringify(writeKey(key))}:${write(item, depth + 1)}`,
  );
  return `{${entries.join(",")}}`;
}

function writeKey(key: unknown): string {
  if (key instanceof Wide) return String(key.value);
  if (["string", "number", "bigint", "boolean"].includes(typeof key)) return String(key);
  throw new ValueError("JSON cannot have such a key in a map");
}

/** Text that may contain an integer that a number cannot hold. */
const LONG_NUMBER = /\d{16}/;

/**
 * Reads a plain value, or throws a {@link ValueError}. Integers that a number cannot hold are
 * bigints.
 */
export function decode(text: string): unknown {
  checkDepth(text);
  try {
    if (!LONG_NUMBER.test(text)) return JSON.parse(text);
    return parseLossless(text, undefined, { parseNumber: readNumber, onDuplicateKey: takeLast });
  } catch {
    // The messages of parsers repeat parts of the text.
    throw new ValueError("the text is no valid JSON");
  }
}

function readNumber(text: string): number | bigint {
  return isInteger(text) && !isSafeNumber(text) ? BigInt(text) : Number(text);
}

/** As in `JSON.parse`, the last of several values of a key counts. */
function takeLast({ newValue }: { readonly newValue: unknown }): unknown {
  return newValue;
}

/** Checks the nesting, because the parsers would overflow the stack. */
function checkDepth(text: string): void {
  let depth = 0;
  let isString = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (isString) {
      if (code === BACKSLASH) i++;
      else if (code === QUOTE) isString = false;
    } else if (code === QUOTE) isString = true;
    else if (code === OPENING_BRACKET || code === OPENING_BRACE) {
      if (++depth > MAX_LEVELS) throw new ValueError("is nested too deeply");
    } else if (code === CLOSING_BRACKET || code === CLOSING_BRACE) depth--;
  }
}

const [QUOTE, BACKSLASH] = [0x22, 0x5c];
const [OPENING_BRACKET, CLOSING_BRACKET, OPENING_BRACE, CLOSING_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];
