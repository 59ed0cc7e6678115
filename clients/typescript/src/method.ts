import type { ErrorClass } from "./errors.js";
import { struct, type Aliases, type Fields, type OptionalField } from "./types/structs.js";
import type { Simplify, Type } from "./types/type.js";

/** The values of arguments. One that may be left out may also be `undefined`. */
export type ArgumentsOf<F extends Fields> = Simplify<{
  [K in keyof F]: F[K] extends OptionalField<infer T>
    ? T | undefined
    : F[K] extends Type<infer T>
      ? T
      : never;
}>;

/**
 * When failed jobs are retried. The delays grow by the same factor each time, from the first to the
 * last. A single retry comes after `minDelayMs`. Each wait is up to a fifth shorter or longer than
 * its delay, and then rounded up to a tenth of a second and to two digits.
 */
export interface Retry {
  readonly times: number;
  readonly minDelayMs: number;
  readonly maxDelayMs: number;
}

/** What generated code says about a method. False and empty entries are omitted. */
export interface MethodSpec {
  /** The name on the wire. */
  readonly name: string;
  /** The arguments, by their names on the wire. */
  readonly args?: Fields;
  /** Other names of arguments that workers accept. */
  readonly aliases?: Aliases;
  /** The type of the result, or of the items of a stream. By default nothing. */
  readonly result?: Type<any>;
  readonly error?: ErrorClass<any>;
  /** The type of the items that the method receives. */
  readonly incoming?: Type<any>;
  /** Whether the method replies with a stream. */
  readonly stream?: true;
  readonly broadcast?: true;
  readonly oneway?: true;
  readonly idempotent?: true;
  /** Whether the method is cancelled with its call, although it is not idempotent. */
  readonly cancel?: true;
  /** Whether requests without a `type` call this method. */
  readonly isDefault?: true;
  readonly timeoutMs?: number;
  readonly retry?: Retry;
  /** The argument that gets the last item of an interrupted stream. */
  readonly resume?: string;
}

/** A method of a service. The type parameters exist only for the compiler. */
export interface Method<A, R, I, Kind extends MethodKind> {
  readonly kind: Kind;
  readonly name: string;
  readonly args: Type<A>;
  readonly argNames: readonly string[];
  readonly argTypes: Readonly<Record<string, Type<any>>>;
  readonly result: Type<R>;
  readonly error: ErrorClass<unknown> | null;
  readonly incoming: Type<I> | null;
  readonly stream: boolean;
  readonly broadcast: boolean;
  readonly oneway: boolean;
  readonly idempotent: boolean;
  readonly cancel: boolean;
  readonly isDefault: boolean;
  readonly timeoutMs: number | null;
  readonly retry: Retry | null;
  readonly resume: string | null;
}

/** How a method is called. */
export type MethodKind =
  "unary" | "oneway" | "stream" | "upload" | "duplex" | "broadcast" | "broadcastOneway";

/** Any method, where its types do not matter. */
export type AnyMethod = Method<any, any, any, MethodKind>;

type ArgsOf<S extends MethodSpec> = S["args"] extends Fields ? ArgumentsOf<S["args"]> : {};
type ResultOf<S extends MethodSpec> = S["result"] extends Type<infer T> ? T : void;
type IncomingOf<S extends MethodSpec> = S["incoming"] extends Type<infer T> ? T : null;
type KindOf<S extends MethodSpec> = S["broadcast"] extends true
  ? S["oneway"] extends true
    ? "broadcastOneway"
    : "broadcast"
  : S["oneway"] extends true
    ? "oneway"
    : S["incoming"] extends Type<any>
      ? S["stream"] extends true
        ? "duplex"
        : "upload"
      : S["stream"] extends true
        ? "stream"
        : "unary";

const nothing: Type<void> = {
  toPlain: () => null,
  fromPlain: () => undefined,
  missing: () => undefined,
};

/** Declares a method. */
export function method<const S extends MethodSpec>(
  spec: S,
): Method<ArgsOf<S>, ResultOf<S>, IncomingOf<S>, KindOf<S>> {
  const args = spec.args ?? {};
  const types = Object.entries(args).map(([name, field]): [string, Type<any>] => [
    name,
    "optional" in field ? field.optional : field,
  ]);
  const declared: AnyMethod = {
    kind: kindOf(spec),
    name: spec.name,
    args: struct(args, spec.aliases),
    argNames: Object.keys(args),
    argTypes: Object.fromEntries(types),
    result: spec.result ?? nothing,
    error: spec.error ?? null,
    incoming: spec.incoming ?? null,
    stream: spec.stream ?? false,
    broadcast: spec.broadcast ?? false,
    oneway: spec.oneway ?? false,
    idempotent: spec.idempotent ?? false,
    cancel: spec.cancel ?? false,
    isDefault: spec.isDefault ?? false,
    timeoutMs: spec.timeoutMs ?? null,
    retry: spec.retry ?? null,
    resume: spec.resume ?? null,
  };
  return declared as Method<ArgsOf<S>, ResultOf<S>, IncomingOf<S>, KindOf<S>>;
}

function kindOf(spec: MethodSpec): MethodKind {
  if (spec.broadcast) return spec.oneway ? "broadcastOneway" : "broadcast";
  if (spec.oneway) return "oneway";
  if (spec.incoming) return spec.stream ? "duplex" : "upload";
  return spec.stream ? "stream" : "unary";
}
