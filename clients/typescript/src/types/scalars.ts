import { mismatch, ValueError, type Type } from "./type.js";
import { Wide } from "./wide.js";

function checkBoolean(value: unknown): boolean {
  if (typeof value !== "boolean") throw mismatch("a boolean", value);
  return value;
}

/** Lets a parser of numbers or booleans ignore white space around the text, as Rust does. */
function trimmed<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => parse(text.trim());
}

/** `bool` */
export const bool: Type<boolean> = {
  toPlain: checkBoolean,
  fromPlain: checkBoolean,
  text: {
    parse: trimmed((text) => {
      if (text === "true" || text === "false") return text === "true";
      throw new ValueError("expected `true` or `false`");
    }),
    format: String,
  },
};

function checkString(value: unknown): string {
  if (typeof value !== "string") throw mismatch("a string", value);
  if (!value.isWellFormed()) throw new ValueError("the text has lone surrogates");
  return value;
}

/** `String`, and types that serde writes as text. */
export const string: Type<string> = {
  toPlain: checkString,
  fromPlain: checkString,
  text: { parse: (text) => text, format: checkString },
};

function checkChar(value: unknown): string {
  const text = checkString(value);
  if ([...text].length !== 1) throw new ValueError("expected a single character");
  return text;
}

/** `char` */
export const char: Type<string> = {
  toPlain: checkChar,
  fromPlain: checkChar,
  text: { parse: checkChar, format: checkChar },
};

function checkFloat(value: unknown): number {
  if (typeof value === "bigint") return Number(value);
  if (typeof value !== "number") throw mismatch("a number", value);
  return value;
}

const FINITE = /^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$/;

/** Reads a float as Rust does. */
function parseFloating(text: string): number {
  if (FINITE.test(text)) return Number(text);
  const [, sign, name] = /^([+-]?)(inf|infinity|nan)$/i.exec(text) ?? [];
  if (name === undefined) throw new ValueError("expected a number");
  if (name.toLowerCase() === "nan") return NaN;
  return sign === "-" ? -Infinity : Infinity;
}

/** Writes a float as Rust does: the shortest number that is read as this value. No exponent. */
function formatFloating(value: number, shortest: (value: number) => string): string {
  if (Object.is(value, -0)) return "-0";
  if (!Number.isFinite(value)) return String(value).replace("Infinity", "inf");
  return inFull(shortest(value));
}

/**
 * A number, perhaps with an exponent, whose nearest value in 32 bits is this one. It is the
 * shortest, except for a few powers of two, of which Rust writes one digit less.
 */
function shortestOf32Bits(value: number): string {
  for (let digits = 1; digits < 9; digits++) {
    const shorter = Number(value.toPrecision(digits));
    if (Math.fround(shorter) === value) return String(shorter);
  }
  // This many digits are always enough.
  return String(Number(value.toPrecision(9)));
}

/** Rewrites a decimal number without its exponent. */
function inFull(text: string): string {
  const [, sign, whole, fraction = "", exponent] =
    /^(-?)(\d+)(?:\.(\d+))?e([+-]\d+)$/.exec(text) ?? [];
  if (whole === undefined) return text;
  const digits = whole + fraction;
  const point = whole.length + Number(exponent);
  if (point <= 0) return `${sign}0.${"0".repeat(-point)}${digits}`;
  if (point >= digits.length) return sign + digits.padEnd(point, "0");
  return `${sign}${digits.slice(0, point)}.${digits.slice(point)}`;
}

/**
 * A type of floats. `round` returns the nearest value of the type, and `shortest` the shortest
 * number that is rounded to a given one.
 */
function float(
  round: (value: number) => number,
  shortest: (value: number) => string,
): Type<number> {
  return {
    toPlain: checkFloat,
    fromPlain: (plain) => round(checkFloat(plain)),
    text: {
      parse: trimmed((text) => round(parseFloating(text))),
      format: (value) => formatFloating(round(value), shortest),
    },
  };
}

/**
 * `f32`. In JSON and plain text, peers write the shortest decimal number that is nearest to the
 * value in 32 bits. Read with 64 bits, that number is not the value, so it is rounded.
 */
export const f32: Type<number> = float(Math.fround, shortestOf32Bits);
/** `f64` */
export const f64: Type<number> = float((value) => value, String);

/** A type of integers that are numbers in TypeScript. */
function small(min: number, max: number): Type<number> {
  const expected = `an integer from ${min} to ${max}`;
  const check = (value: unknown): number => {
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number !== "number") throw mismatch(expected, value);
    if (!Number.isInteger(number) || number < min || number > max) {
      throw new ValueError(`expected ${expected}`);
    }
    // Not -0, which would be written as a float.
    return number === 0 ? 0 : number;
  };
  const parse = (text: string): number => {
    if (!/^[+-]?\d+$/.test(text)) throw new ValueError(`expected ${expected}`);
    return check(Number(text));
  };
  return { toPlain: check, fromPlain: check, text: { parse: trimmed(parse), format: String } };
}

/** `i8` */
export const i8: Type<number> = small(-(2 ** 7), 2 ** 7 - 1);
/** `i16` */
export const i16: Type<number> = small(-(2 ** 15), 2 ** 15 - 1);
/** `i32` */
export const i32: Type<number> = small(-(2 ** 31), 2 ** 31 - 1);
/** `u8` */
export const u8: Type<number> = small(0, 2 ** 8 - 1);
/** `u16` */
export const u16: Type<number> = small(0, 2 ** 16 - 1);
/** `u32` */
export const u32: Type<number> = small(0, 2 ** 32 - 1);

const INTEGER = /^[+-]?\d{1,40}$/;

/** A type of integers that are bigints in TypeScript. */
function large(min: bigint, max: bigint): Type<bigint> {
  const expected = `an integer from ${min} to ${max}`;
  const checkRange = (value: bigint): bigint => {
    if (value < min || value > max) throw new ValueError(`expected ${expected}`);
    return value;
  };
  const toPlain = (value: bigint): unknown => {
    if (typeof value !== "bigint") throw mismatch(`a bigint: ${expected}`, value);
    return checkRange(value);
  };
  const fromPlain = (plain: unknown): bigint => {
    if (typeof plain === "bigint") return checkRange(plain);
    if (typeof plain !== "number") throw mismatch(expected, plain);
    if (!Number.isInteger(plain)) throw new ValueError(`expected ${expected}`);
    return checkRange(BigInt(plain));
  };
  const parse = (text: string): bigint => {
    if (!INTEGER.test(text)) throw new ValueError(`expected ${expected}`);
    return checkRange(BigInt(text.replace("+", "")));
  };
  return { toPlain, fromPlain, text: { parse: trimmed(parse), format: String } };
}

/** Integers of 128 bits are decimal text in MessagePack. 16 big-endian bytes are accepted too. */
function wide(min: bigint, max: bigint): Type<bigint> {
  const inner = large(min, max);
  const fromPlain = (plain: unknown): bigint => {
    if (typeof plain === "string") return inner.text!.parse(plain);
    if (plain instanceof Uint8Array && plain.length === 16) {
      const unsigned = BigInt(`0x${Buffer.from(plain).toString("hex")}`);
      return min < 0n ? BigInt.asIntN(128, unsigned) : unsigned;
    }
    return inner.fromPlain(plain);
  };
  const toPlain = (value: bigint): unknown => new Wide(inner.toPlain(value) as bigint);
  return { toPlain, fromPlain, text: inner.text! };
}

/** `i64` and `isize` */
export const i64: Type<bigint> = large(-(2n ** 63n), 2n ** 63n - 1n);
/** `u64` and `usize` */
export const u64: Type<bigint> = large(0n, 2n ** 64n - 1n);
/** `i128` */
export const i128: Type<bigint> = wide(-(2n ** 127n), 2n ** 127n - 1n);
/** `u128` */
export const u128: Type<bigint> = wide(0n, 2n ** 128n - 1n);

/** `Vec<u8>` and `&[u8]`: MessagePack's `bin`, an array of numbers in JSON. */
export const bytes: Type<Uint8Array> = {
  toPlain: (value) => {
    if (!(value instanceof Uint8Array)) throw mismatch("bytes", value);
    return value;
  },
  fromPlain: (plain) => {
    if (plain instanceof Uint8Array) return plain;
    if (!Array.isArray(plain)) throw mismatch("bytes", plain);
    const isByte = (value: unknown) =>
      typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 255;
    const bad = plain.findIndex((value) => !isByte(value));
    if (bad >= 0) throw new ValueError("expected an integer from 0 to 255", `[${bad}]`);
    return Uint8Array.from(plain as number[]);
  },
};

/** `()`, and `struct Name;`. */
export const unit: Type<null> = {
  toPlain: (value) => {
    if (value !== null) throw mismatch("nothing", value);
    return null;
  },
  fromPlain: (plain) => {
    const isEmpty = plain === null || (Array.isArray(plain) && plain.length === 0);
    if (!isEmpty) throw mismatch("nothing", plain);
    return null;
  },
};

/** A type that the service's description does not explain. Values pass unchecked. */
export const any: Type<unknown> = {
  toPlain: (value) => value,
  fromPlain: (plain) => plain,
  missing: () => undefined,
};
