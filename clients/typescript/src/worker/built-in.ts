import { method } from "../method.js";
import type { Type } from "../types/type.js";
import type { Identity } from "./identity.js";
import type { ServedMethod } from "./request-handler.js";
import { MethodStats } from "./stats.js";

/** A queue with what is served on it. */
export interface ServedQueue {
  readonly queue: string;
  /** The descriptions of its services. */
  readonly services: readonly Readonly<Record<string, unknown>>[];
  readonly methods: readonly ServedMethod[];
}

const NAMES = ["rpc.ping", "rpc.describe", "rpc.stats"] as const;

/** The name of a method that every worker answers. */
export type BuiltIn = (typeof NAMES)[number];

/** Whether a name is that of a built-in method. */
export function isBuiltIn(name: string | undefined): name is BuiltIn {
  return NAMES.some((known) => known === name);
}

/** An answer as a value, and as plain text. */
export interface BuiltInAnswer {
  readonly plain: unknown;
  readonly text: string;
}

/** How answers are encoded. */
export const BuiltInAnswer: Type<BuiltInAnswer> = {
  toPlain: ({ plain }) => plain,
  fromPlain: (plain) => ({ plain, text: "" }),
  text: { parse: (text) => ({ plain: null, text }), format: ({ text }) => text },
};

/** The built-in methods of one queue. `rpc.stats` does not list them. */
export function builtInMethods(identity: Identity, queue: ServedQueue): ServedMethod[] {
  return NAMES.map((name) => ({
    service: "rpc",
    method: method({ name, result: BuiltInAnswer, idempotent: true }),
    run: () => answerBuiltIn(name, identity, [queue]),
    stats: new MethodStats(),
  }));
}

/** Answers a built-in method for some queues. */
export function answerBuiltIn(
  name: BuiltIn,
  identity: Identity,
  queues: readonly ServedQueue[],
): BuiltInAnswer {
  const worker = identity.describe();
  switch (name) {
    case "rpc.ping":
      return { plain: worker, text: identity.line };
    case "rpc.describe":
      return {
        plain: { worker, queues: queues.map(({ queue, services }) => ({ queue, services })) },
        text: [identity.line, ...queues.flatMap(describedLines)].join("\n"),
      };
    case "rpc.stats":
      return {
        plain: { worker, queues: queues.map((served) => countsOf(served)) },
        text: [identity.line, ...queues.flatMap(countedLines)].join("\n"),
      };
  }
}

function describedLines({ queue, services, methods }: ServedQueue): string[] {
  return services.flatMap(({ name }) => [
    `service ${String(name)} on queue ${queue}`,
    ...methods
      .filter(({ service }) => service === name)
      .map(({ method: { name, argNames } }) => `  ${name}(${argNames.join(", ")})`),
  ]);
}

function countsOf({ queue, methods }: ServedQueue): Record<string, unknown> {
  return {
    queue,
    methods: methods.map(({ service, method, stats }) => stats.describe(service, method.name)),
  };
}

function countedLines({ queue, methods }: ServedQueue): string[] {
  const lines = methods.map(({ service, method, stats }) => {
    const { calls, failures } = stats.describe(service, method.name);
    return `  ${method.name}: ${String(calls)} calls, ${String(failures)} failures`;
  });
  return [`queue ${queue}`, ...lines];
}
