/**
 * How values of one type become plain values, and back.
 *
 * A plain value is what a codec reads and writes: `null`, booleans, numbers, bigints, strings,
 * `Uint8Array`, arrays, and maps as objects or `Map`s. It also writes `Wide`.
 */
export interface Type<T> {
  /** Checks a value and converts it. Throws a {@link ValueError}. */
  readonly toPlain: (value: T) => unknown;
  /** Checks a plain value and converts it. Throws a {@link ValueError}. */
  readonly fromPlain: (plain: unknown) => T;
  /** The value of a missing field, if it may be missing. */
  readonly missing?: () => T;
  /** The form of the value as text, as in keys of JSON objects and in `text/plain`. */
  readonly text?: TextForm<T>;
}

/** A value as text, without quotes. */
export interface TextForm<T> {
  readonly parse: (text: string) => T;
  readonly format: (value: T) => string;
}

/** The TypeScript type of the values of a {@link Type}. */
export type TypeOf<D> = D extends Type<infer T> ? T : never;

/** Shows a computed object type as one object. */
export type Simplify<T> = { [K in keyof T]: T[K] } & {};

/** A value that its type or codec does not allow. The message begins with the path, if any. */
export class ValueError extends Error {
  override readonly name = "ValueError";
  /** The way to the value, such as `users[3].age`. Empty for the whole value. */
  readonly path: string;
  /** What is wrong with the value. */
  readonly problem: string;

  constructor(problem: string, path = "") {
    super(path === "" ? problem : `${path}: ${problem}`);
    this.problem = problem;
    this.path = path;
  }

  /** The same error, seen from a value that contains this one. */
  within(segment: string): ValueError {
    const separator = this.path === "" || this.path.startsWith("[") ? "" : ".";
    return new ValueError(this.problem, segment + separator + this.path);
  }
}

/** Adds a segment to the path of a {@link ValueError}. */
export function within(error: unknown, segment: string): unknown {
  return error instanceof ValueError ? error.within(segment) : error;
}

/** Names what a plain value is, without its content. */
export function kindOf(plain: unknown): string {
  if (plain === null || plain === undefined) return "nothing";
  if (plain instanceof Uint8Array) return "bytes";
  if (Array.isArray(plain)) return "an array";
  switch (typeof plain) {
    case "boolean":
      return "a boolean";
    case "bigint":
      return "an integer";
    case "number":
      return Number.isInteger(plain) ? "an integer" : "a number";
    case "string":
      return "a string";
    default:
      return "a map";
  }
}

/** The error for a value of the wrong kind. */
export function mismatch(expected: string, plain: unknown): ValueError {
  return new ValueError(`expected ${expected}, not ${kindOf(plain)}`);
}
